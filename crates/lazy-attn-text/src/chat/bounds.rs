//! What a template could otherwise do to the process that its fuel does not count.
//!
//! Fuel counts instructions, not what one of them takes: a single padding of some gigabytes would end the process, and a
//! long chain of operators would exhaust the stack of whoever compiles it. What remains uncounted is work over the
//! values a template makes itself, such as a text doubled again and again; templates come with a model, never from a
//! client.

use std::thread;

use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters};
use minijinja_contrib::pycompat;

/// Most digits of a width: 9999 columns.
const MAX_WIDTH_DIGITS: u32 = 4;
const MAX_WIDTH: i64 = 9999;
/// Names no template can write, under which the filters that are bounded here go on.
const INDENT: &str = "indent, unbounded";
const FORMAT: &str = "format, unbounded";
/// Stack of the compiler: an operator may nest with every byte, and a level takes less than this.
const STACK_BYTES_PER_LEVEL: usize = 2 << 10;
const MIN_STACK_BYTES: usize = 1 << 20;

/// How a format text is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// `%5d`.
    Percent,
    /// `{:5}`.
    Braces,
}

/// Bounds filters and methods of `environment`.
pub(super) fn apply(environment: &mut Environment<'static>) {
    environment.add_filter(INDENT, filters::indent);
    environment.add_filter(FORMAT, filters::format);
    environment.add_filter("indent", |state: &State<'_, '_>, args: Rest<Value>| {
        let is_wide = |value: &Value| value.as_i64().is_some_and(|width| width > MAX_WIDTH);
        let has_wide = |arg: &Value| {
            is_wide(arg)
                || (arg.kind() == ValueKind::Map
                    && arg
                        .try_iter()
                        .is_ok_and(|mut keys| keys.any(|key| arg.get_item(&key).is_ok_and(|v| is_wide(&v)))))
        };
        if args.iter().skip(1).any(has_wide) { Err(too_wide()) } else { state.apply_filter(INDENT, &args) }
    });
    environment.add_filter("format", |state: &State<'_, '_>, args: Rest<Value>| {
        check_widths(args.first(), Syntax::Percent)?;
        state.apply_filter(FORMAT, &args)
    });
    environment.set_unknown_method_callback(|state, value, method, args| {
        if method == "format" {
            check_widths(Some(value), Syntax::Braces)?;
        }
        pycompat::unknown_method_callback(state, value, method, args)
    });
}

/// Compiles `source` under `name` on a stack that its deepest nesting fits.
pub(super) fn compile(
    environment: &mut Environment<'static>,
    name: &'static str,
    source: String,
) -> Result<(), Error> {
    let stack_size = MIN_STACK_BYTES + STACK_BYTES_PER_LEVEL * source.len();
    let failed = |problem: String| Error::new(ErrorKind::InvalidOperation, problem);
    thread::scope(|scope| {
        let compiler = thread::Builder::new().name("template-compiler".into()).stack_size(stack_size);
        let compiler = compiler.spawn_scoped(scope, || environment.add_template_owned(name, source));
        let compiler = compiler.map_err(|error| failed(format!("no thread to compile it: {error}")))?;
        compiler.join().unwrap_or_else(|_| Err(failed("its compiler panicked".to_owned())))
    })
}

fn too_wide() -> Error {
    let problem = format!("a width is given by its arguments or is above {MAX_WIDTH}");
    Error::new(ErrorKind::InvalidOperation, problem)
}

fn check_widths(format: Option<&Value>, syntax: Syntax) -> Result<(), Error> {
    let is_bounded = format.and_then(Value::as_str).is_none_or(|text| has_bounded_widths(text, syntax));
    if is_bounded { Ok(()) } else { Err(too_wide()) }
}

/// Where in a format text a character stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    /// Right behind the sign that opens a field.
    Opened,
    Field,
    /// Inside `(name)` of a percent field.
    Name,
}

/// Whether every width is written out and short.
fn has_bounded_widths(format: &str, syntax: Syntax) -> bool {
    let (open, nested) = if syntax == Syntax::Percent { ('%', '*') } else { ('{', '{') };
    let (mut place, mut num_digits) = (Place::Text, 0);
    for c in format.chars() {
        num_digits = if c.is_ascii_digit() { num_digits + 1 } else { 0 };
        place = match (place, syntax, c) {
            (Place::Text, _, c) if c == open => Place::Opened,
            (Place::Text, ..) => Place::Text,
            // A doubled sign stands for itself.
            (Place::Opened, _, c) if c == open => Place::Text,
            (Place::Name, _, ')') => Place::Field,
            (Place::Name, ..) | (Place::Opened | Place::Field, Syntax::Percent, '(') => Place::Name,
            (Place::Opened | Place::Field, _, c) if c == nested => return false,
            (_, Syntax::Percent, c) if c.is_alphabetic() || c == '%' => Place::Text,
            (_, Syntax::Braces, '}') => Place::Text,
            _ => Place::Field,
        };
        if place == Place::Field && num_digits > MAX_WIDTH_DIGITS {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_widths_and_widths_from_arguments_are_found_and_other_numbers_are_not() {
        let bounded =
            |text| (has_bounded_widths(text, Syntax::Percent), has_bounded_widths(text, Syntax::Braces));
        for text in
            ["", "100000 %5d 100000", "{:9999} {{ 123456 {0}", "%% 123456", "%(name12345)s {a}", "é%.3f"]
        {
            assert_eq!(bounded(text), (true, true), "{text}");
        }
        for text in ["%10000d", "%-010000d", "%.99999f", "%*d", "%(a)12345d"] {
            assert!(!bounded(text).0, "{text}");
        }
        for text in ["{:10000}", "{a:>10000}", "{:{}}", "{0:.12345}"] {
            assert!(!bounded(text).1, "{text}");
        }
        assert!(bounded(r#"{"a": {"b": %s}}"#).0);
    }
}
