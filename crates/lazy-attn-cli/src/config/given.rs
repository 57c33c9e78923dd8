//! Values that the environment and a file give.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::table::{Settings, VARIABLE_PREFIX, config_variable};
use crate::exit::Failure;

/// Largest file of settings.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody gave one.
    Default,
    /// A flag.
    CommandLine,
    /// This environment variable.
    Environment(String),
    /// This line of the file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::CommandLine => f.write_str("command line"),
            Origin::Environment(variable) => f.write_str(variable),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// A value for a setting.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// The setting.
    pub(crate) name: String,
    pub(crate) value: OsString,
    pub(crate) origin: Origin,
}

impl Given {
    /// It as a flag.
    pub(super) fn flag(&self) -> OsString {
        let mut flag = OsString::from(format!("--{}=", self.name));
        flag.push(&self.value);
        flag
    }
}

/// What the environment gives: settings, and the name of a file.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) given: Vec<Given>,
    pub(super) file: Option<PathBuf>,
}

/// Reads the variables that are ours.
///
/// # Errors
/// Usage, for a variable with our prefix that names no setting.
pub(super) fn of_environment(
    settings: &Settings,
    variables: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Environment, Failure> {
    let mut environment = Environment::default();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
            continue;
        };
        if variable == config_variable() {
            environment.file = Some(PathBuf::from(value));
            continue;
        }
        let setting = settings.of_variable(variable).map_err(|hint| {
            Failure::usage(format!("the environment variable {variable} is no setting; {hint}"))
        })?;
        let origin = Origin::Environment(variable.to_owned());
        environment.given.push(Given { name: setting.name.clone(), value, origin });
    }
    // The environment has no order of its own, and the first error should be the same one every time.
    environment.given.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(environment)
}

/// Reads a file of settings.
///
/// # Errors
/// Usage, for a file that cannot be read, is no TOML, or has a key that is no setting.
pub(super) fn of_file(settings: &Settings, path: &Path) -> Result<Vec<Given>, Failure> {
    of_text(settings, path, &read(path)?)
}

fn read(path: &Path) -> Result<String, Failure> {
    let refused = |problem: &dyn fmt::Display| {
        Failure::usage(format!("cannot read the settings in {}: {problem}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| refused(&error))?;
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| refused(&error))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(refused(&format!("the file has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

fn of_text(settings: &Settings, path: &Path, text: &str) -> Result<Vec<Given>, Failure> {
    let line_at = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
    let refused =
        |offset, problem: &str| Failure::usage(format!("{}:{}: {problem}", path.display(), line_at(offset)));
    let table = DeTable::parse(text)
        .map_err(|error| refused(error.span().map_or(0, |span| span.start), error.message()))?;
    let mut given = Vec::new();
    for (key, value) in table.get_ref() {
        let offset = key.span().start;
        let setting = settings
            .of_key(key.get_ref())
            .map_err(|hint| refused(offset, &format!("{:?} is no setting; {hint}", key.get_ref())))?;
        let value = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Boolean(is_true) => is_true.to_string(),
            other => {
                let problem =
                    format!("{} is one text, number or boolean, not {}", setting.name, other.type_str());
                return Err(refused(offset, &problem));
            }
        };
        let origin = Origin::File { path: path.to_owned(), line: line_at(offset) };
        given.push((
            offset,
            Given { name: setting.name.clone(), value: OsStr::new(&value).to_owned(), origin },
        ));
    }
    given.sort_by_key(|(offset, _)| *offset);
    Ok(given.into_iter().map(|(_, given)| given).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<(String, OsString, usize)>, String> {
        let given = of_text(&Settings::of_serve(), Path::new("a.toml"), text);
        let given = given.map_err(|failure| failure.line().unwrap())?;
        let line = |origin: &Origin| match origin {
            Origin::File { line, .. } => *line,
            other => panic!("{other}"),
        };
        Ok(given.into_iter().map(|given| (given.name, given.value, line(&given.origin))).collect())
    }

    #[test]
    fn a_file_gives_values_of_every_kind_with_their_lines() {
        let given = read_text("# ours\ngrpc-port = 50_052\ninsecure-bind = true\n\nhost = \"::1\"").unwrap();
        let expected = [("grpc-port", "50052", 2), ("insecure-bind", "true", 3), ("host", "::1", 5)];
        assert_eq!(given, expected.map(|(name, value, line)| (name.to_owned(), value.into(), line)));
    }

    #[test]
    fn whatever_is_wrong_in_a_file_is_told_with_its_line() {
        let cases = [
            ("grpc_port = 1", "a.toml:1: \"grpc_port\" is no setting; did you mean grpc-port?"),
            ("\nkv-memory = 1", "a.toml:2: \"kv-memory\" is no setting; did you mean kv-cache-memory?"),
            ("config = \"b.toml\"", "a.toml:1: \"config\" is no setting"),
            ("[server]\nhost = \"::1\"", "a.toml:1: \"server\" is no setting"),
            ("host = [\"::1\"]", "a.toml:1: host is one text, number or boolean, not array"),
            ("host = \"::1\"\nhost = \"::1\"", "a.toml:2: duplicate key"),
            ("host = ::1", "a.toml:1: "),
        ];
        for (text, expected) in cases {
            let error = read_text(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn only_variables_with_our_prefix_are_read_and_unknown_ones_refused() {
        let read = |variables: &[(&str, &str)]| {
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            of_environment(&Settings::of_serve(), variables).map_err(|failure| failure.line().unwrap())
        };
        let environment =
            read(&[("PATH", "x"), ("LAZYATTN_GRPC_PORT", "7"), ("LAZYATTN_CONFIG", "b.toml")]).unwrap();
        assert_eq!(environment.file, Some(PathBuf::from("b.toml")));
        let [Given { name, value, origin }] = &environment.given[..] else { panic!("{environment:?}") };
        assert_eq!((name.as_str(), value.to_str()), ("grpc-port", Some("7")));
        assert_eq!(*origin, Origin::Environment("LAZYATTN_GRPC_PORT".to_owned()));
        let error = read(&[("LAZYATTN_GRPCPORT", "7")]).unwrap_err();
        assert_eq!(
            error,
            "the environment variable LAZYATTN_GRPCPORT is no setting; did you mean LAZYATTN_GRPC_PORT?"
        );
    }
}
