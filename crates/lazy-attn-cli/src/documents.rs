//! Documents from text files.

use std::fs;
use std::path::{Path, PathBuf};

use lazy_attn_server::convert::Limits;

use crate::exit::Failure;

/// A document to answer from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextDocument {
    /// The file's name, made readable.
    pub(crate) title: String,
    /// Its text.
    pub(crate) text: String,
}

/// The files of `dir` that are documents, then `files`.
pub(crate) fn read_all(dir: Option<&Path>, files: &[PathBuf]) -> Result<Vec<TextDocument>, Failure> {
    let mut paths = dir.map(text_files).transpose()?.unwrap_or_default();
    paths.extend(files.iter().cloned());
    let max = Limits::default().max_documents;
    if paths.len() > max {
        return Err(Failure::usage(format!(
            "{} documents were given, at most {max} are allowed",
            paths.len()
        )));
    }
    paths.iter().map(|path| read(path)).collect()
}

/// The files of `paths`; of a folder, those that are documents.
pub(crate) fn text_paths(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            files.extend(text_files(path)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn text_files(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let cannot_list = |error| Failure::usage(format!("cannot list {}: {error}", dir.display()));
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(cannot_list)? {
        let path = entry.map_err(cannot_list)?.path();
        let is_text = path.extension().is_some_and(|extension| extension == "txt" || extension == "md");
        if is_text && path.is_file() {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        return Err(Failure::usage(format!("{} holds no .txt or .md file", dir.display())));
    }
    paths.sort();
    Ok(paths)
}

/// The document of one file.
pub(crate) fn read(path: &Path) -> Result<TextDocument, Failure> {
    let name = path.display();
    let cannot_read = |error| Failure::usage(format!("cannot read {name}: {error}"));
    let max = Limits::default().max_part_bytes as u64;
    let num_bytes = fs::metadata(path).map_err(cannot_read)?.len();
    if num_bytes > max {
        return Err(Failure::usage(format!(
            "{name} has {num_bytes} bytes, at most {max} are allowed; split it"
        )));
    }
    let text = String::from_utf8(fs::read(path).map_err(cannot_read)?).map_err(|error| {
        let byte = error.utf8_error().valid_up_to();
        Failure::usage(format!("{name} is not UTF-8 text (byte {byte} is not); convert it to UTF-8"))
    })?;
    // A byte order mark says nothing once the encoding is known.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
    if text.trim().is_empty() {
        return Err(Failure::usage(format!("{name} is empty: a document needs text")));
    }
    Ok(TextDocument { title: title_of(path), text })
}

/// `pilot-boat_times.txt` is titled `Pilot boat times`.
pub(crate) fn title_of(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().replace(['-', '_'], " ");
    let words = stem.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_becomes_a_title() {
        for (path, title) in
            [("a/pilot-boat_times.txt", "Pilot boat times"), ("x.md", "X"), ("Öl.txt", "Öl"), ("__.txt", "")]
        {
            assert_eq!(title_of(Path::new(path)), title);
        }
    }
}
