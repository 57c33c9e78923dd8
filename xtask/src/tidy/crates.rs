//! Every library crate explains itself (README.md) and demonstrates itself (examples/).

use super::Violation;
use super::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in tree.files() {
        let Some(folder) = crate_folder(&file.path) else { continue };
        let mut violate = |message: &str| {
            violations.push(Violation {
                path: folder.to_owned(),
                line: 0,
                rule: "crate",
                message: message.into(),
            });
        };
        if tree.text(&format!("{folder}/README.md")).is_none_or(|text| text.trim().is_empty()) {
            violate("the crate has no README.md");
        }
        let examples = format!("{folder}/examples/");
        let is_library = tree.contains(&format!("{folder}/src/lib.rs"));
        if is_library && !tree.any_path(|path| path.starts_with(&examples) && path.ends_with(".rs")) {
            violate("the crate has no example");
        }
    }
    violations
}

fn crate_folder(manifest: &str) -> Option<&str> {
    let folder = manifest.strip_suffix("/Cargo.toml")?;
    folder.starts_with("crates/").then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    const LIBRARY: [(&str, &str); 2] = [("crates/a/Cargo.toml", ""), ("crates/a/src/lib.rs", "")];
    const README: (&str, &str) = ("crates/a/README.md", "# a");
    const EXAMPLE: (&str, &str) = ("crates/a/examples/a.rs", "fn main() {}");

    fn messages(extra: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> = LIBRARY.iter().chain(extra).copied().collect();
        check(&tree_of(&files)).into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn a_library_needs_a_readme_and_an_example() {
        assert!(messages(&[README, EXAMPLE]).is_empty());
        assert_eq!(messages(&[EXAMPLE]), ["the crate has no README.md"]);
        assert_eq!(messages(&[README]), ["the crate has no example"]);
        assert_eq!(messages(&[("crates/a/README.md", "\n"), EXAMPLE]).len(), 1, "empty README");
    }
}
