//! Every library crate explains itself (README.md), demonstrates itself (examples/), and needs no file outside itself.

use super::Violation;
use super::links::resolve;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut violations = check_folders(tree);
    violations.extend(tree.rust_files().flat_map(check_includes));
    violations
}

/// A published package holds its own folder only, so what its sources include must lie there. Tests are not built
/// from a package.
fn check_includes(file: &File) -> Vec<Violation> {
    let Some((folder, _)) = file.path.split_once("/src/").filter(|(folder, _)| folder.starts_with("crates/"))
    else {
        return Vec::new();
    };
    let lines = file.text.lines().enumerate().filter_map(|(at, line)| Some((at + 1, included(line)?)));
    let outside = lines.filter(|(_, path)| {
        resolve(&file.path, path).is_none_or(|path| !path.starts_with(&format!("{folder}/")))
    });
    outside
        .map(|(line, path)| Violation {
            path: file.path.clone(),
            line,
            rule: "crate",
            message: format!("`{path}` lies outside the crate, so its package would not build"),
        })
        .collect()
}

/// The literal path inside `include_str!("..")` or `include_bytes!("..")`.
fn included(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("include_str!(\"").or_else(|| line.split_once("include_bytes!(\""))?;
    Some(rest.split_once('"')?.0)
}

fn check_folders(tree: &Tree) -> Vec<Violation> {
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

    #[test]
    fn including_a_file_from_outside_the_crate_fails() {
        let includes = |path: &str| {
            let text = format!("const X: &str = include_str!(\"{path}\");");
            messages(&[README, EXAMPLE, ("crates/a/src/b/c.rs", text.as_str())]).len()
        };
        assert_eq!(includes("../../assets/x.txt"), 0);
        assert_eq!(includes("../../../b/x.txt"), 1);
        assert_eq!(includes("../../../../../x.txt"), 1);
    }
}
