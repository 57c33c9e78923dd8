//! What is known of each setting, read off the definition of the command line.

use clap::{Arg, Command, CommandFactory};

use super::suggest::closest;
use crate::args::Cli;

/// What the environment variables of settings begin with.
pub(crate) const VARIABLE_PREFIX: &str = "LAZYATTN_";
/// The command that has every setting.
pub(crate) const SERVE: &str = "serve";
/// The option that names the file; no setting of a file.
const CONFIG: &str = "config";

/// One setting of the server.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    /// Its name on the command line (after the dashes) and in a file.
    pub(crate) name: String,
    /// What it may be, in short.
    pub(crate) values: String,
    /// Its value if nobody gives one; empty if it is absent then.
    pub(crate) default: String,
    /// What it does.
    pub(crate) help: String,
    /// Whether every command has it, not only `serve`.
    pub(crate) is_global: bool,
    /// Under which name the parser knows it.
    pub(super) id: String,
    /// Ids of settings that cannot be given together with it.
    pub(super) conflicts: Vec<String>,
    aliases: Vec<String>,
}

impl Setting {
    fn new(arg: &Arg, name: &str, command: &Command) -> Setting {
        let values: Vec<_> =
            arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        let value_names = arg.get_value_names().unwrap_or_default();
        let defaults = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
        let conflicts = command.get_arguments().filter(|other| {
            let names = |arg, other: &Arg| {
                command.get_arg_conflicts_with(arg).iter().any(|found| found.get_id() == other.get_id())
            };
            names(arg, other) || names(other, arg)
        });
        Setting {
            name: name.to_owned(),
            values: if values.is_empty() { value_names.join(" ") } else { values.join(", ") },
            default: defaults.collect::<Vec<_>>().join(","),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
            is_global: arg.is_global_set(),
            id: arg.get_id().to_string(),
            conflicts: conflicts.map(|other| other.get_id().to_string()).collect(),
            aliases: arg.get_all_aliases().unwrap_or_default().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Its environment variable.
    pub(crate) fn variable(&self) -> String {
        variable(&self.name)
    }
}

fn variable(name: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", name.replace('-', "_").to_ascii_uppercase())
}

/// The environment variable that names the file.
pub(crate) fn config_variable() -> String {
    variable(CONFIG)
}

/// All settings, in the order of the help.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) all: Vec<Setting>,
    /// The whole command line.
    pub(super) command: Command,
}

impl Settings {
    pub(crate) fn of_serve() -> Settings {
        let mut command = Cli::command();
        command.build();
        let serve = command.find_subcommand(SERVE).into_iter();
        let all = serve.flat_map(|serve| {
            let named = serve.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
            let settings = named.filter(|(_, name)| !["help", "version", CONFIG].contains(name));
            settings.map(|(arg, name)| Setting::new(arg, name, serve)).collect::<Vec<_>>()
        });
        Settings { all: all.collect(), command: Cli::command() }
    }

    /// The setting of an environment variable, or which one was meant.
    pub(super) fn of_variable(&self, wanted: &str) -> Result<&Setting, String> {
        self.all.iter().find(|setting| setting.variable() == wanted).ok_or_else(|| {
            let names: Vec<_> = self.all.iter().map(Setting::variable).chain([config_variable()]).collect();
            hint(closest(wanted, names.iter().map(String::as_str)))
        })
    }

    /// The setting of a key in a file, or which one was meant.
    pub(super) fn of_key(&self, wanted: &str) -> Result<&Setting, String> {
        self.all.iter().find(|setting| setting.name == wanted).ok_or_else(|| {
            let of_alias = self.all.iter().find(|setting| setting.aliases.iter().any(|name| name == wanted));
            let names = self.all.iter().map(|setting| setting.name.as_str());
            hint(of_alias.map(|setting| setting.name.as_str()).or_else(|| closest(wanted, names)))
        })
    }
}

fn hint(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("did you mean {name}?"),
        None => "`lazyattn config print` lists the settings".to_owned(),
    }
}
