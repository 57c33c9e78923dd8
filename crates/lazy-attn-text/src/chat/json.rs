//! `tojson` as templates written for Python expect it: `", "` and `": "` between, nothing escaped for HTML.

use std::io;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{Formatter, PrettyFormatter};

/// Widest indentation.
const MAX_INDENT: usize = 16;

/// The `tojson` filter; `indent` as in Python's `json.dumps`.
pub(super) fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<usize>>("indent")?,
    };
    // Templates also pass options that only matter to Python's encoder.
    for ignored in ["ensure_ascii", "separators", "sort_keys"] {
        let _ = options.get::<Option<Value>>(ignored)?;
    }
    options.assert_all_used()?;
    let bytes = match indent {
        None => serialized(value, Spaced),
        Some(width) => {
            serialized(value, PrettyFormatter::with_indent(" ".repeat(width.min(MAX_INDENT)).as_bytes()))
        }
    }
    .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

fn serialized(value: &Value, formatter: impl Formatter) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    Ok(bytes)
}

/// One line, a space behind commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
