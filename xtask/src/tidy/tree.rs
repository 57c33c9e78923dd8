//! The files that are checked: those git tracks or would track.

use std::path::Path;

use anyhow::Result;

use crate::shell;

/// Extensions of files that people write and read; data files are not checked.
const EXTENSIONS: [&str; 11] = ["rs", "md", "toml", "sh", "py", "cu", "cuh", "h", "proto", "yml", "svg"];

/// A text file of the repository.
#[derive(Debug)]
pub(super) struct File {
    /// Relative to the root, with forward slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn has_extension(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, found)| found == extension)
    }
}

/// All checked files, and the names of all others.
#[derive(Debug, Default)]
pub(super) struct Tree {
    files: Vec<File>,
    paths: Vec<String>,
}

impl Tree {
    pub(super) fn load(root: &Path) -> Result<Tree> {
        let mut git = shell::tool(root, "git");
        git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
        let listed = shell::read(&mut git)?;
        let mut tree = Tree::default();
        for path in listed.split_terminator('\0') {
            // A file deleted in the working tree is still listed.
            if !root.join(path).is_file() {
                continue;
            }
            let is_script = path == ".ci/run";
            let is_checked = path.rsplit_once('.').is_some_and(|(_, e)| EXTENSIONS.contains(&e));
            if is_script || is_checked {
                tree.add(path, &String::from_utf8_lossy(&std::fs::read(root.join(path))?));
            } else {
                tree.paths.push(path.to_owned());
            }
        }
        Ok(tree)
    }

    pub(super) fn add(&mut self, path: &str, text: &str) {
        self.paths.push(path.to_owned());
        self.files.push(File { path: path.to_owned(), text: text.to_owned() });
    }

    pub(super) fn files(&self) -> &[File] {
        &self.files
    }

    pub(super) fn rust_files(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.has_extension("rs"))
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    /// Whether `path` is a file or a folder that holds one.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.paths.iter().any(|known| {
            known.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    pub(super) fn any_path(&self, accept: impl Fn(&str) -> bool) -> bool {
        self.paths.iter().any(|path| accept(path))
    }
}

#[cfg(test)]
pub(super) fn tree_of(files: &[(&str, &str)]) -> Tree {
    let mut tree = Tree::default();
    for (path, text) in files {
        tree.add(path, text);
    }
    tree
}
