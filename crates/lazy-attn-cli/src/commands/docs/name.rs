//! Which document is meant.

use lazy_attn_proto::{Client, v1};

use crate::commands::docs::all;
use crate::exit::Failure;

/// What the name of every document begins with.
pub(super) const COLLECTION: &str = "documents/";
/// Digits of a key.
const KEY_DIGITS: usize = 64;
/// Digits of a key that a table shows: enough to be alone among millions.
const SHORT_DIGITS: usize = 12;

/// The key of `name`, cut to what a table shows.
pub(super) fn short(name: &str) -> &str {
    let key = name.strip_prefix(COLLECTION).unwrap_or(name);
    key.get(..SHORT_DIGITS).unwrap_or(key)
}

/// The name of the one document whose key starts with the digits of `given`.
///
/// # Errors
/// [`Exit::Usage`](crate::exit::Exit) if there is none, or more than one.
pub(super) async fn full(client: &mut Client, given: &str) -> Result<String, Failure> {
    let digits = digits(given)?;
    if digits.len() == KEY_DIGITS {
        return Ok(format!("{COLLECTION}{digits}"));
    }
    only(given, digits, &all(client, "", "").await?)
}

/// The same for several, with one look at the list.
pub(super) async fn all_full(client: &mut Client, given: &[String]) -> Result<Vec<String>, Failure> {
    let digits: Vec<&str> = given.iter().map(|given| digits(given)).collect::<Result<_, _>>()?;
    let is_complete = digits.iter().all(|digits| digits.len() == KEY_DIGITS);
    if is_complete {
        return Ok(digits.iter().map(|digits| format!("{COLLECTION}{digits}")).collect());
    }
    let documents = all(client, "", "").await?;
    given.iter().zip(digits).map(|(given, digits)| only(given, digits, &documents)).collect()
}

fn digits(given: &str) -> Result<&str, Failure> {
    let digits = given.strip_prefix(COLLECTION).unwrap_or(given);
    let is_key = (1..=KEY_DIGITS).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_key.then_some(digits).ok_or_else(|| {
        Failure::usage(format!(
            "{given:?} is no document: write `documents/KEY`, or the first digits of the key; `docs ls` lists them"
        ))
    })
}

fn only(given: &str, digits: &str, documents: &[v1::Document]) -> Result<String, Failure> {
    let name = format!("{COLLECTION}{digits}");
    let mut found = documents.iter().filter(|document| document.name.starts_with(&name));
    match (found.next(), found.count()) {
        (Some(document), 0) => Ok(document.name.clone()),
        (Some(_), more) => {
            Err(Failure::usage(format!("{given:?} is the start of {} documents; give more digits", more + 1)))
        }
        (None, _) => Err(Failure::usage(format!("no document starts with {given:?}; `docs ls` lists them"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(keys: &[&str]) -> Vec<v1::Document> {
        let name = |key: &&str| v1::Document { name: format!("documents/{key}"), ..v1::Document::default() };
        keys.iter().map(name).collect()
    }

    fn problem(result: Result<impl std::fmt::Debug, Failure>) -> String {
        result.unwrap_err().line().unwrap()
    }

    #[test]
    fn the_first_digits_name_a_document_if_no_other_starts_with_them() {
        let documents = documents(&["abc1", "abd2"]);
        assert_eq!(only("abc", digits("abc").unwrap(), &documents).unwrap(), "documents/abc1");
        assert_eq!(only("x", digits("documents/abd").unwrap(), &documents).unwrap(), "documents/abd2");
        assert!(problem(only("ab", "ab", &documents)).contains("2 documents"));
        assert!(problem(only("ff", "ff", &documents)).contains("docs ls"));
    }

    #[test]
    fn what_cannot_be_a_key_is_refused_before_anybody_is_asked() {
        for given in ["", "documents/", "harbour", "ABC", "12-3", &"a".repeat(65)] {
            assert!(problem(digits(given)).contains("documents/KEY"), "{given}");
        }
        assert_eq!(short("documents/0123456789abcdef"), "0123456789ab");
        assert_eq!(short("documents/01"), "01");
    }
}
