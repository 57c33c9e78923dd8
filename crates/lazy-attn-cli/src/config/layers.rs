//! The command line over the environment over a file over defaults.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Error, FromArgMatches};

use super::given::{Given, Origin, of_environment, of_file};
use super::table::{SERVE, Setting, Settings};
use crate::args::Cli;
use crate::exit::Failure;

/// The command line with everything in it, and where that came from.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) cli: Cli,
    /// The settings of the command that runs.
    pub(crate) values: Vec<Value>,
}

/// What a setting is.
#[derive(Debug, Clone)]
pub(crate) struct Value {
    pub(crate) setting: Setting,
    /// `None` if it is absent.
    pub(crate) value: Option<String>,
    pub(crate) origin: Origin,
}

/// Puts `arguments`, which were read once as `matches`, over `variables` and the file that one of both names.
///
/// # Errors
/// Usage, for the first value that is no value of its setting or contradicts another one of the same origin.
pub(crate) fn resolve(
    arguments: Vec<OsString>,
    matches: &ArgMatches,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Resolved, Failure> {
    let settings = Settings::of_serve();
    let environment = of_environment(&settings, variables)?;
    let (command, last) = command(matches);
    let from_flag = last.get_one("config").cloned();
    let file = from_flag.or(environment.file).map(|path| of_file(&settings, &path)).transpose()?;
    let layers = [environment.given, file.unwrap_or_default()];
    for given in layers.iter().flatten() {
        check_value(&settings, given)?;
    }
    // Only these commands have the settings that are not every command's.
    let has_all = [&[SERVE][..], &["config", "print"]].contains(&&command[..]);
    let own: Vec<&Setting> = settings.all.iter().filter(|setting| has_all || setting.is_global).collect();
    let chosen = choose(&own, last, layers);
    let matches = settings.command.clone().try_get_matches_from(with_flags(arguments, &chosen));
    let matches = matches.map_err(|error| Failure::usage(problem(&error)))?;
    let cli = Cli::from_arg_matches(&matches).map_err(|error| Failure::usage(problem(&error)))?;
    let (_, last) = self::command(&matches);
    let values = own.iter().map(|setting| value(setting, last, &chosen)).collect();
    Ok(Resolved { cli, values })
}

/// Checks a file by itself, and returns how many settings it has.
///
/// # Errors
/// As of [`resolve`].
pub(crate) fn check_file(path: &Path) -> Result<usize, Failure> {
    let settings = Settings::of_serve();
    let given = of_file(&settings, path)?;
    for given in &given {
        check_value(&settings, given)?;
    }
    let flags = given.iter().map(Given::flag);
    let all = ["lazyattn".into(), SERVE.into()].into_iter().chain(flags);
    let matches = settings.command.try_get_matches_from(all);
    matches.map_err(|error| Failure::usage(format!("{}: {}", path.display(), problem(&error))))?;
    Ok(given.len())
}

/// The words of the command that runs, and what was read for it.
fn command(matches: &ArgMatches) -> (Vec<&str>, &ArgMatches) {
    let (mut words, mut last) = (Vec::new(), matches);
    while let Some((word, next)) = last.subcommand() {
        words.push(word);
        last = next;
    }
    (words, last)
}

/// A value is wrong wherever it stands, also where another one goes before it.
fn check_value(settings: &Settings, given: &Given) -> Result<(), Failure> {
    let alone = ["lazyattn".into(), SERVE.into(), given.flag()];
    let matches = settings.command.clone().try_get_matches_from(alone);
    matches.map_err(|error| Failure::usage(format!("{}: {}", given.origin, problem(&error))))?;
    Ok(())
}

/// The values of `layers` that hold for `settings`, those of an earlier layer before those of a later one. A setting that
/// an earlier one excludes does not hold either.
fn choose<'a>(
    settings: &[&'a Setting],
    matches: &ArgMatches,
    layers: [Vec<Given>; 2],
) -> Vec<(&'a Setting, Given)> {
    let is_flag = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut chosen: Vec<(&Setting, Given)> = Vec::new();
    for layer in layers {
        let num_earlier = chosen.len();
        for given in layer {
            let Some(&setting) = settings.iter().find(|setting| setting.name == given.name) else { continue };
            let is_set =
                |id: &str| is_flag(id) || chosen[..num_earlier].iter().any(|(earlier, _)| earlier.id == id);
            if !is_set(&setting.id) && !setting.conflicts.iter().any(|id| is_set(id)) {
                chosen.push((setting, given));
            }
        }
    }
    chosen
}

/// Flags of every command can stand in front, the others only behind the command.
fn with_flags(mut arguments: Vec<OsString>, chosen: &[(&Setting, Given)]) -> Vec<OsString> {
    let behind_program = arguments.len().min(1);
    for (setting, given) in chosen {
        let place = if setting.is_global { behind_program } else { arguments.len() };
        arguments.insert(place, given.flag());
    }
    arguments
}

fn value(setting: &Setting, matches: &ArgMatches, chosen: &[(&Setting, Given)]) -> Value {
    let raw = matches.get_raw(&setting.id);
    let value = raw.map(|values| values.map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(","));
    let given = chosen.iter().find(|(other, _)| other.id == setting.id);
    let origin = match (given, matches.value_source(&setting.id)) {
        (Some((_, given)), _) => given.origin.clone(),
        (None, Some(ValueSource::CommandLine)) => Origin::CommandLine,
        (None, _) => Origin::Default,
    };
    Value { setting: setting.clone(), value, origin }
}

/// The parser's first paragraph: what is wrong, without how to get help.
fn problem(error: &Error) -> String {
    let text = error.to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    paragraph.strip_prefix("error: ").unwrap_or(paragraph).to_owned()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::CommandFactory;

    use super::*;

    /// Values of settings with their origins, from arguments, variables and the text of a file.
    fn resolve_all(
        arguments: &str,
        variables: &[(&str, &str)],
        file: &str,
    ) -> Result<Vec<(String, String, String)>, String> {
        let thread = std::thread::current();
        let name = thread.name().unwrap().replace("::", "-");
        let path = std::env::temp_dir().join(format!("lazyattn-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, file).unwrap();
        let arguments: Vec<OsString> = arguments.split(' ').map(OsString::from).collect();
        let matches = Cli::command().get_matches_from(&arguments);
        let variables = variables.iter().map(|&(name, value)| (name.into(), value.into()));
        let variables = variables.chain([("LAZYATTN_CONFIG".into(), path.clone().into())]);
        let resolved = resolve(arguments, &matches, variables);
        std::fs::remove_file(&path).unwrap();
        let short = |text: String| text.replace(&path.display().to_string(), "FILE");
        let values = resolved.map_err(|failure| short(failure.line().unwrap()))?.values;
        let line = |value: Value| {
            (value.setting.name, value.value.unwrap_or_default(), short(value.origin.to_string()))
        };
        Ok(values.into_iter().map(line).collect())
    }

    fn find<'a>(values: &'a [(String, String, String)], wanted: &str) -> (&'a str, &'a str) {
        let (_, value, origin) = values.iter().find(|(name, ..)| name == wanted).unwrap();
        (value, origin)
    }

    #[test]
    fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
        let variables = [("LAZYATTN_GRPC_PORT", "2"), ("LAZYATTN_SEED", "2")];
        let file = "grpc-port = 3\nseed = 3\nmax-num-seqs = 3\n";
        let values = resolve_all("lazyattn serve --grpc-port 1", &variables, file).unwrap();
        assert_eq!(find(&values, "grpc-port"), ("1", "command line"));
        assert_eq!(find(&values, "seed"), ("2", "LAZYATTN_SEED"));
        assert_eq!(find(&values, "max-num-seqs"), ("3", "FILE:3"));
        assert_eq!(find(&values, "max-num-queued-reqs"), ("256", "default"));
        assert_eq!(find(&values, "api-key-file"), ("", "default"));
    }

    #[test]
    fn a_switch_of_the_file_can_be_turned_off_by_a_flag() {
        let file = "insecure-bind = true";
        for (flag, expected) in [
            ("", ("true", "FILE:1")),
            (" --insecure-bind=false", ("false", "command line")),
            (" --insecure-bind", ("true", "command line")),
        ] {
            let values = resolve_all(&format!("lazyattn serve{flag}"), &[], file).unwrap();
            assert_eq!(find(&values, "insecure-bind"), expected);
        }
    }

    #[test]
    fn a_setting_hides_those_of_later_layers_that_it_excludes() {
        let file = "kv-cache-memory = \"1GiB\"";
        let values = resolve_all("lazyattn serve --kv-blocks 7", &[], file).unwrap();
        assert_eq!(find(&values, "kv-blocks"), ("7", "command line"));
        assert_eq!(find(&values, "kv-cache-memory"), ("", "default"));
        let values = resolve_all("lazyattn serve", &[("LAZYATTN_KV_BLOCKS", "7")], file).unwrap();
        assert_eq!(find(&values, "kv-cache-memory"), ("", "default"));
        let error = resolve_all("lazyattn serve", &[], &format!("{file}\nkv-blocks = 7")).unwrap_err();
        assert!(error.contains("cannot be used with"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_origin_even_where_another_goes_before_it() {
        let error = resolve_all("lazyattn serve --grpc-port 1", &[], "\ngrpc-port = 70000").unwrap_err();
        assert!(error.starts_with("FILE:2: invalid value '70000' for '--grpc-port <PORT>'"), "{error}");
        let variables = [("LAZYATTN_KV_DTYPE", "f8")];
        let error = resolve_all("lazyattn serve", &variables, "").unwrap_err();
        assert!(error.starts_with("LAZYATTN_KV_DTYPE: invalid value 'f8'"), "{error}");
        assert!(error.contains("possible values"), "{error}");
    }

    #[test]
    fn other_commands_take_the_settings_they_have() {
        let variables = [("LAZYATTN_SEED", "2"), ("LAZYATTN_THREADS", "2")];
        let values = resolve_all("lazyattn run Q?", &variables, "grpc-port = 3\nblock-size = 32").unwrap();
        assert_eq!(find(&values, "threads"), ("2", "LAZYATTN_THREADS"));
        assert_eq!(find(&values, "block-size"), ("32", "FILE:2"));
        assert!(!values.iter().any(|(name, ..)| ["seed", "grpc-port"].contains(&name.as_str())));
    }

    #[test]
    fn every_setting_can_be_given_in_every_way() {
        let settings = Settings::of_serve();
        assert!(settings.all.iter().any(|setting| setting.is_global));
        for setting in &settings.all {
            let origin = Origin::File { path: PathBuf::from("a.toml"), line: 1 };
            let value = setting.default.clone();
            assert_eq!(settings.of_variable(&setting.variable()).unwrap().id, setting.id);
            assert_eq!(settings.of_key(&setting.name).unwrap().id, setting.id);
            assert!(!setting.help.is_empty() && !setting.values.is_empty(), "{}", setting.name);
            if !value.is_empty() {
                let given = Given { name: setting.name.clone(), value: value.into(), origin };
                check_value(&settings, &given).unwrap();
            }
        }
    }
}
