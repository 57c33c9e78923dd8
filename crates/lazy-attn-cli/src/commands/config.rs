//! `config`: what the settings are and whence, and whether a file is right.

use std::path::Path;

use serde::Serialize;

use crate::args::{ConfigArgs, ConfigCommand, JsonArg};
use crate::config::{Value, check_file};
use crate::exit::{Exit, Failure};
use crate::ui::{Out, Table, print_json};

pub(crate) fn config(args: &ConfigArgs, values: &[Value]) -> Result<Exit, Failure> {
    match &args.command {
        ConfigCommand::Print(args) => print(values, args.output),
        ConfigCommand::Check { file } => check(file),
    }
}

/// A setting for programs.
#[derive(Debug, Serialize)]
struct Printed<'a> {
    name: &'a str,
    value: Option<&'a str>,
    origin: String,
    variable: String,
    values: &'a str,
    default: &'a str,
    help: &'a str,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    settings: Vec<Printed<'a>>,
}

fn print(values: &[Value], output: JsonArg) -> Result<Exit, Failure> {
    if output.json {
        let settings = values.iter().map(|Value { setting, value, origin }| Printed {
            name: &setting.name,
            value: value.as_deref(),
            origin: origin.to_string(),
            variable: setting.variable(),
            values: &setting.values,
            default: &setting.default,
            help: &setting.help,
        });
        print_json(&Report { settings: settings.collect() })?;
        return Ok(Exit::Success);
    }
    let mut table = Table::new(&["setting", "value", "origin"]);
    for Value { setting, value, origin } in values {
        // Not empty, which would be read as a value.
        let value = value.clone().unwrap_or_else(|| "-".to_owned());
        table.row([setting.name.clone(), value, origin.to_string()]);
    }
    let mut out = Out::new();
    for line in table.lines() {
        out.line(&line)?;
    }
    Ok(Exit::Success)
}

fn check(file: &Path) -> Result<Exit, Failure> {
    let num_settings = check_file(file)?;
    Out::new().line(&format!("{}: {num_settings} settings, all right", file.display()))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::{env, fs};

    use crate::config::Settings;

    const BEGIN: &str = "<!-- settings: made from the command line; UPDATE_EXPECT=1 writes it anew -->\n";
    const END: &str = "<!-- end of settings -->\n";

    fn documented() -> String {
        let mut text = String::from("| setting | values | default | what it does |\n|---|---|---|---|\n");
        for setting in Settings::of_serve().all {
            let values = setting.values.replace('|', "\\|");
            writeln!(text, "| `{}` | {values} | {} | {} |", setting.name, setting.default, setting.help)
                .unwrap();
        }
        text
    }

    #[test]
    fn the_documentation_lists_every_setting_as_it_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/serving.md");
        let page = fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (found, after) = rest.split_once(END).unwrap();
        let expected = documented();
        if env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(path, [before, BEGIN, &expected, END, after].concat()).unwrap();
        } else {
            assert_eq!(found, expected, "docs/serving.md is old; run this test with UPDATE_EXPECT=1");
        }
    }
}
