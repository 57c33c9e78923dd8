//! Where `unsafe` may be, and what a `lib.rs` may hold.

use super::Violation;
use super::source::{Comments, blank};
use super::tree::{File, Tree};

/// Words that make something: a `lib.rs` only says what there is.
const LOGIC: [&str; 9] = ["fn", "struct", "enum", "union", "trait", "impl", "const", "static", "macro_rules"];

pub(super) fn check(tree: &Tree, unsafe_paths: &[String]) -> Vec<Violation> {
    let mut violations: Vec<Violation> =
        tree.rust_files().flat_map(|file| check_file(file, unsafe_paths)).collect();
    for path in unsafe_paths.iter().filter(|path| !tree.contains(path)) {
        violations.push(Violation {
            path: "ARCHITECTURE.md".to_owned(),
            line: 0,
            rule: "unsafe",
            message: format!("the table of unsafe code names `{path}`, which does not exist"),
        });
    }
    violations
}

fn check_file(file: &File, unsafe_paths: &[String]) -> Vec<Violation> {
    let code = blank(&file.text, Comments::Blank);
    let mut violations = Vec::new();
    let mut violate = |line, rule, message: String| {
        violations.push(Violation { path: file.path.clone(), line, rule, message });
    };
    let may_be_unsafe = unsafe_paths.iter().any(|path| is_inside(&file.path, path));
    if !may_be_unsafe && let Some(line) = first_line_with(&code, &["unsafe", "unsafe_code"]) {
        violate(line, "unsafe", "`unsafe` outside the modules listed in ARCHITECTURE.md".into());
    }
    if file.path.ends_with("/src/lib.rs") {
        if let Some(line) = first_line_with(&without_doctests(&code), &LOGIC) {
            violate(line, "lib", "a lib.rs holds docs, `mod` and `pub use`; move this to a module".into());
        }
        if !file.text.starts_with("//! ") {
            violate(1, "lib", "a lib.rs begins with the purpose of its crate (`//! ...`)".into());
        }
    }
    violations
}

/// The usual way to test the examples of a README needs an item that exists in doc tests only.
fn without_doctests(code: &str) -> String {
    let mut parts = code.split("#[cfg(doctest)]");
    let mut kept = parts.next().unwrap_or_default().to_owned();
    kept.extend(parts.filter_map(|part| part.split_once(';')).map(|(_, rest)| rest));
    kept
}

fn is_inside(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn first_line_with(code: &str, words: &[&str]) -> Option<usize> {
    let is_separator = |c: char| !(c.is_alphanumeric() || c == '_');
    let has_word = |line: &str| line.split(is_separator).any(|word| words.contains(&word));
    code.lines().position(has_word).map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let tree = tree_of(&[(path, text), ("a/simd/mod.rs", "")]);
        check(&tree, &["a/simd".to_owned()]).into_iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn unsafe_code_outside_the_table_fails() {
        assert_eq!(rules("a/b.rs", "let x = unsafe { *p };"), ["unsafe"]);
        assert_eq!(rules("a/simd_like.rs", "#![allow(unsafe_code)]"), ["unsafe"]);
    }

    #[test]
    fn unsafe_code_inside_the_table_and_the_word_in_prose_pass() {
        assert!(rules("a/simd/avx.rs", "unsafe fn f() {}").is_empty());
        assert!(rules("a/b.rs", "// unsafe\nlet x = \"unsafe\";").is_empty());
    }

    #[test]
    fn a_row_for_a_path_that_is_gone_fails() {
        let tree = tree_of(&[("a.rs", "")]);
        assert_eq!(check(&tree, &["gone".to_owned()]).len(), 1);
    }

    #[test]
    fn a_lib_file_with_logic_fails() {
        assert!(rules("c/src/lib.rs", "//! What.\nmod a;\npub use a::B;\n").is_empty());
        let readme = "//! What.\n#[cfg(doctest)]\n#[doc = include_str!(\"../README.md\")]\nstruct Readme;\n";
        assert!(rules("c/src/lib.rs", readme).is_empty());
        assert_eq!(rules("c/src/lib.rs", &format!("{readme}fn f() {{}}")), ["lib"]);
        for logic in LOGIC {
            assert_eq!(rules("c/src/lib.rs", &format!("//! What.\n{logic} a\n")), ["lib"], "{logic}");
        }
        assert_eq!(rules("c/src/lib.rs", "mod a;\n"), ["lib"], "no purpose");
    }
}
