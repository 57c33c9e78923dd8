//! The glossary's banned words, and text that must not be published.

use super::Violation;
use super::source::{Comments, blank};
use super::tree::{File, Tree};

/// This file has to name what it bans.
const OWN_PATH: &str = "xtask/src/tidy/words.rs";

/// Sequences of neighbouring words, and the glossary's word for them. Words of other senses (a slice's chunks, a
/// page of an operating system, an offset into a file) stay free: only these sequences are banned.
const BANNED: [(&[&str], &str); 24] = [
    (&["passage"], "document"),
    (&["passages"], "document"),
    (&["doc", "chunk"], "document"),
    (&["document", "chunk"], "document"),
    (&["chunk", "key"], "document key"),
    (&["chunk", "cache"], "document cache"),
    (&["cached", "chunk"], "resident document"),
    (&["kv", "page"], "block"),
    (&["kv", "pages"], "block"),
    (&["cache", "page"], "block"),
    (&["page", "table"], "block list"),
    (&["page", "pool"], "block pool"),
    (&["page", "id"], "block id"),
    (&["page", "ids"], "block id"),
    (&["page", "list"], "block list"),
    (&["free", "pages"], "free blocks"),
    (&["num", "pages"], "num_blocks"),
    (&["document", "offset"], "start"),
    (&["doc", "offset"], "start"),
    (&["segment", "offset"], "start"),
    (&["position", "offset"], "start"),
    (&["rope", "offset"], "start"),
    (&["query", "id"], "request id"),
    (&["user", "query"], "request"),
];

/// Never in Rust code.
const FORBIDDEN_CODE: [(&str, &str); 3] = [
    ("todo!(", "write it, or leave it out and say so in an issue"),
    ("unimplemented!(", "write it, or leave it out and say so in an issue"),
    ("#[ignore", "a test that does not run proves nothing"),
];

/// Never in any file: folders of somebody's machine, and hosts of package registries. Put together from pieces, so that
/// this list is not itself what it looks for.
const FORBIDDEN_TEXT: [&str; 8] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/Us", "ers/"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let files = tree.files().iter().filter(|file| file.path != OWN_PATH);
    files.flat_map(check_file).collect()
}

fn check_file(file: &File) -> Vec<Violation> {
    let mut found = lines_with(&file.text, forbidden_text);
    if file.has_extension("rs") {
        found.extend(lines_with(&blank(&file.text, Comments::Keep), banned_word));
        found.extend(lines_with(&blank(&file.text, Comments::Blank), forbidden_code));
    }
    let violation = |(line, message)| Violation { path: file.path.clone(), line, rule: "words", message };
    found.into_iter().map(violation).collect()
}

fn lines_with(text: &str, problem: fn(&str) -> Option<String>) -> Vec<(usize, String)> {
    let numbered = text.lines().enumerate();
    numbered.filter_map(|(at, line)| Some((at + 1, problem(line)?))).collect()
}

fn forbidden_text(line: &str) -> Option<String> {
    let found = FORBIDDEN_TEXT.iter().find(|text| line.contains(**text))?;
    Some(format!("`{found}` does not belong in a published file"))
}

fn forbidden_code(line: &str) -> Option<String> {
    let (found, remedy) = FORBIDDEN_CODE.iter().find(|(text, _)| line.contains(text))?;
    Some(format!("`{found}`: {remedy}"))
}

fn banned_word(line: &str) -> Option<String> {
    let phrases = phrases(line);
    let contains =
        |banned: &[&str]| phrases.iter().any(|words| words.windows(banned.len()).any(|w| w == banned));
    let (banned, instead) = BANNED.iter().find(|(banned, _)| contains(banned))?;
    Some(format!("`{}` is `{instead}` in this project's glossary", banned.join(" ")))
}

/// Lower-case words, grouped so that only words of one identifier, or parted by one space or hyphen, are neighbours.
fn phrases(line: &str) -> Vec<Vec<String>> {
    let pieces = line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | ' ' | '-')));
    pieces.map(|piece| piece.split([' ', '-', '_']).flat_map(split_camel).collect()).collect()
}

fn split_camel(word: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous_is_lower = false;
    for c in word.chars() {
        if c.is_uppercase() && previous_is_lower {
            words.push(String::new());
        }
        previous_is_lower = c.is_lowercase();
        if let Some(last) = words.last_mut() {
            last.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::super::tree::tree_of;
    use super::*;

    fn problems(path: &str, text: &str) -> usize {
        check(&tree_of(&[(path, text)])).len()
    }

    #[test]
    fn every_banned_word_is_found_in_names_and_comments() {
        for (words, _) in BANNED {
            assert_eq!(problems("a.rs", &format!("let {} = 1;", words.join("_"))), 1, "{words:?}");
            assert_eq!(problems("a.rs", &format!("/// The {}.", words.join(" "))), 1, "{words:?}");
        }
        assert_eq!(problems("a.rs", "struct PageTable;"), 1);
    }

    #[test]
    fn other_senses_of_the_words_are_free() {
        let text = "for chunk in rows.chunks_exact(4) { offset += chunk.len(); } // chunked prefill\n\
            fn f(position: Position, offset: usize) {}\nlet page = mmap.page();";
        assert_eq!(problems("a.rs", text), 0);
        assert_eq!(problems("a.rs", "let name = \"passage\";"), 0, "strings are data");
    }

    #[test]
    fn forbidden_code_is_found_outside_comments_and_strings() {
        for (code, _) in FORBIDDEN_CODE {
            assert_eq!(problems("a.rs", &format!("    {code}")), 1, "{code}");
            assert_eq!(problems("a.rs", &format!("// {code}\nlet x = \"{code}\";")), 0, "{code}");
        }
    }

    #[test]
    fn machine_paths_and_registry_hosts_are_found_in_every_file() {
        for text in FORBIDDEN_TEXT {
            assert_eq!(problems("a.md", &format!("see {text}x")), 1, "{text}");
            assert_eq!(problems("a.rs", &format!("let x = \"{text}x\";")), 1, "{text}");
        }
    }
}
