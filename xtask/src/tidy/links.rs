//! Relative links of documents lead to files of the repository.

use super::Violation;
use super::tree::{File, Tree};

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let documents = tree.files().iter().filter(|file| file.has_extension("md"));
    documents.flat_map(|file| check_file(tree, file)).collect()
}

fn check_file(tree: &Tree, file: &File) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (at, line) in file.text.lines().enumerate() {
        for target in targets(line).filter(|target| !leads_somewhere(tree, &file.path, target)) {
            violations.push(Violation {
                path: file.path.clone(),
                line: at + 1,
                rule: "links",
                message: format!("`{target}` leads nowhere"),
            });
        }
    }
    violations
}

/// What stands between `](` and the next `)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

fn leads_somewhere(tree: &Tree, from: &str, target: &str) -> bool {
    let path = target.split('#').next().unwrap_or_default();
    path.is_empty() || path.contains("://") || resolve(from, path).is_some_and(|path| tree.contains(&path))
}

/// `path` relative to the folder of `from`; `None` when it leaves the repository.
pub(super) fn resolve(from: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    fn problems(text: &str) -> usize {
        check(&tree_of(&[("docs/a.md", text), ("docs/b/c.md", ""), ("README.md", "")])).len()
    }

    #[test]
    fn links_to_files_folders_anchors_and_hosts_pass() {
        assert_eq!(problems("[a](b/c.md) [b](b) [c](../README.md#top) [d](#here) [e](https://x.org/y)"), 0);
    }

    #[test]
    fn links_to_nothing_and_out_of_the_repository_fail() {
        assert_eq!(problems("[a](c.md)"), 1);
        assert_eq!(problems("[a](../../b/c.md) and [b](gone)"), 2);
    }
}
