//! Lengths of files and functions, with ratchets that may only shrink.

use super::Violation;
use super::source::{Comments, blank};
use super::tree::{File, Tree};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 70;

/// `path lines` or `path::function lines` a line: what is over the limit today, and by how much.
const RATCHETS: &str = include_str!("../../ratchets.txt");

/// Extensions of code; documents may be as long as they need.
const CODE: [&str; 4] = ["rs", "cu", "cuh", "h"];

/// A file, or a function of a file, and its length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Measured {
    path: String,
    line: usize,
    /// `path` or `path::function`.
    name: String,
    num_lines: usize,
    max_lines: usize,
}

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let files = tree.files().iter().filter(|file| CODE.iter().any(|code| file.has_extension(code)));
    let measured: Vec<Measured> = files.flat_map(measure).collect();
    compare(&measured, &ratchets(RATCHETS))
}

fn ratchets(text: &str) -> Vec<(String, usize)> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(k, v)| Some((k.into(), v.parse().ok()?)))
        .collect()
}

fn compare(measured: &[Measured], ratchets: &[(String, usize)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut violate = |path: &str, line, message| {
        violations.push(Violation { path: path.to_owned(), line, rule: "size", message });
    };
    for item in measured.iter().filter(|item| item.num_lines > item.max_lines) {
        let limit = ratchets.iter().find(|(name, _)| *name == item.name);
        let limit = limit.map_or(item.max_lines, |(_, limit)| *limit);
        if item.num_lines > limit {
            let message =
                format!("`{}` has {} lines, more than {limit}; split it", item.name, item.num_lines);
            violate(&item.path, item.line, message);
        }
    }
    for (name, limit) in ratchets {
        let found = measured.iter().find(|item| item.name == *name);
        let is_tight = found.is_some_and(|item| item.num_lines >= *limit && *limit > item.max_lines);
        if !is_tight {
            violate("xtask/ratchets.txt", 0, format!("`{name} {limit}` is loose; lower it or take it out"));
        }
    }
    violations
}

fn measure(file: &File) -> Vec<Measured> {
    let mut measured = vec![Measured {
        path: file.path.clone(),
        line: 0,
        name: file.path.clone(),
        num_lines: file.text.lines().count(),
        max_lines: MAX_FILE_LINES,
    }];
    if file.has_extension("rs") {
        let code = blank(&file.text, Comments::Blank);
        let functions = functions(&code).into_iter().map(|(line, name, num_lines)| Measured {
            path: file.path.clone(),
            line,
            name: format!("{}::{name}", file.path),
            num_lines,
            max_lines: MAX_FUNCTION_LINES,
        });
        measured.extend(functions);
    }
    measured
}

/// (first line, name, lines) of every function with a body; relies on rustfmt, which puts the closing brace of a
/// body alone on a line, at the indent of its `fn`.
fn functions(code: &str) -> Vec<(usize, String, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let starts = lines.iter().enumerate().filter_map(|(at, line)| Some((at, function_name(line)?)));
    starts
        .filter_map(|(at, name)| {
            let indent = indent_of(lines[at]);
            let own = |line: &&str| indent_of(line) == indent && !line.trim().is_empty();
            let end = lines[at..].iter().position(|line| {
                own(line) && (line.trim() == "}" || line.trim_end().ends_with(['}', ';']))
            })?;
            let has_body = lines[at + end].trim_end().ends_with('}');
            has_body.then(|| (at + 1, name.to_owned(), end + 1))
        })
        .collect()
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    let qualifiers = ["pub", "const", "async", "unsafe", "extern", "pub(crate)", "pub(super)"];
    words.find(|word| !qualifiers.contains(word)).filter(|word| *word == "fn")?;
    let name = words.next()?;
    Some(&name[..name.find(['(', '<']).unwrap_or(name.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    fn function_of(num_lines: usize) -> String {
        format!(
            "impl A {{\n    pub fn long(\n        &self,\n    ) {{\n{}    }}\n}}\n",
            "        x();\n".repeat(num_lines - 4)
        )
    }

    fn broken(text: &str, ratchets: &[(String, usize)]) -> usize {
        compare(&measure(&file("a.rs", text)), ratchets).len()
    }

    #[test]
    fn files_and_functions_break_the_rule_one_line_past_the_limit() {
        assert_eq!(broken(&"\n".repeat(MAX_FILE_LINES), &[]), 0);
        assert_eq!(broken(&"\n".repeat(MAX_FILE_LINES + 1), &[]), 1);
        assert_eq!(broken(&function_of(MAX_FUNCTION_LINES), &[]), 0);
        assert_eq!(broken(&function_of(MAX_FUNCTION_LINES + 1), &[]), 1);
    }

    #[test]
    fn declarations_and_one_liners_have_no_long_body() {
        let code =
            "trait A {\n    fn a(&self);\n    fn b(\n        x: u32,\n    ) -> u32;\n    fn c() {}\n}\n";
        assert_eq!(functions(code), [(6, "c".to_owned(), 1)]);
    }

    #[test]
    fn a_ratchet_allows_what_it_names_and_may_not_be_loose() {
        let text = function_of(80);
        let ratchet = |limit| [("a.rs::long".to_owned(), limit)];
        assert_eq!(broken(&text, &ratchet(80)), 0);
        assert_eq!(broken(&text, &ratchet(79)), 1, "grown past the ratchet");
        assert_eq!(broken(&text, &ratchet(81)), 1, "shrunk below the ratchet");
        assert_eq!(broken("", &ratchet(80)), 1, "gone");
    }

    #[test]
    fn ratchet_lines_are_a_name_and_a_number() {
        assert_eq!(ratchets("# why\na.rs::f 80\n"), [("a.rs::f".to_owned(), 80)]);
    }
}
