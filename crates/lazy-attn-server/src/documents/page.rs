//! Filters, orders and pages.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{DocumentError, StoredDocument};

/// Documents of a page that asks for no number.
const DEFAULT_PAGE_SIZE: usize = 100;
/// Most documents of a page.
const MAX_PAGE_SIZE: usize = 1000;
/// Most conditions of a filter.
const MAX_CONDITIONS: usize = 16;

/// What a page is asked with, in the words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageQuery<'a> {
    /// Most documents; 0 takes the default.
    pub page_size: i32,
    /// Where the page before ended; empty for the first.
    pub page_token: &'a str,
    /// Conditions.
    pub filter: &'a str,
    /// Order.
    pub order_by: &'a str,
}

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub documents: Vec<StoredDocument>,
    /// Empty after the last page.
    pub next_page_token: String,
    /// Documents that match, over all pages.
    pub total: usize,
}

/// What documents are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Created,
    LastUsed,
    NumTokens,
    UseCount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    field: Field,
    is_descending: bool,
}

/// Place of a document in an order; unequal for unequal documents.
type Place = (u64, u64);

impl Order {
    fn parse(order_by: &str) -> Result<Order, DocumentError> {
        let words: Vec<&str> = order_by.split_whitespace().collect();
        let (field, is_descending) = match words[..] {
            [] => ("create_time", false),
            [field] | [field, "asc"] => (field, false),
            [field, "desc"] => (field, true),
            _ => (order_by, false),
        };
        let field = match field {
            "create_time" => Field::Created,
            "last_use_time" => Field::LastUsed,
            "token_count" => Field::NumTokens,
            "use_count" => Field::UseCount,
            _ => {
                let allowed =
                    "create_time, last_use_time, token_count or use_count, each with ` desc` or without";
                return Err(DocumentError::field(
                    "order_by",
                    format!("is {order_by:?}, but must be {allowed}"),
                ));
            }
        };
        Ok(Order { field, is_descending })
    }

    fn place(self, document: &StoredDocument) -> Place {
        let value = match self.field {
            Field::Created => document.serial,
            Field::LastUsed => document.last_used.map_or(0, micros),
            Field::NumTokens => document.num_tokens(),
            Field::UseCount => document.use_count,
        };
        if self.is_descending { (u64::MAX - value, document.serial) } else { (value, document.serial) }
    }
}

enum Condition {
    Label(String, String),
    DisplayName(String),
    Pinned(bool),
}

impl Condition {
    fn parse(condition: &str) -> Result<Condition, DocumentError> {
        let problem = || {
            let allowed =
                "labels.KEY = \"VALUE\", display_name = \"NAME\" or pinned = true|false, joined by AND";
            DocumentError::field("filter", format!("has the condition {condition:?}, but takes {allowed}"))
        };
        let (field, value) = condition.split_once('=').ok_or_else(problem)?;
        let (field, value) = (field.trim(), value.trim());
        let text = || unquoted(value).ok_or_else(problem);
        match field.strip_prefix("labels.") {
            Some(key) if !key.is_empty() => Ok(Condition::Label(key.to_owned(), text()?)),
            Some(_) => Err(problem()),
            None if field == "display_name" => Ok(Condition::DisplayName(text()?)),
            None if field == "pinned" => value.parse().map(Condition::Pinned).map_err(|_| problem()),
            None => Err(problem()),
        }
    }

    fn holds(&self, document: &StoredDocument) -> bool {
        match self {
            Condition::Label(key, value) => document.labels.get(key) == Some(value),
            Condition::DisplayName(name) => document.display_name == *name,
            Condition::Pinned(is_pinned) => (document.pin != super::PinState::Unpinned) == *is_pinned,
        }
    }
}

/// The text between quotes; `\"` and `\\` stand for themselves.
fn unquoted(quoted: &str) -> Option<String> {
    let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(next) = chars.next() {
        match next {
            '\\' => text.push(chars.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            '"' => return None,
            other => text.push(other),
        }
    }
    Some(text)
}

/// Splits at ` AND ` outside quotes.
fn conditions(filter: &str) -> Result<Vec<Condition>, DocumentError> {
    if filter.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (mut parts, mut start, mut is_quoted, mut is_escaped) = (Vec::new(), 0, false, false);
    for (index, byte) in filter.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_quoted,
            b'"' => is_quoted = !is_quoted,
            b' ' if !is_quoted && filter[index..].starts_with(" AND ") => {
                parts.push(&filter[start..index]);
                start = index + " AND ".len();
            }
            _ => {}
        }
    }
    parts.push(filter.get(start..).unwrap_or_default());
    if parts.len() > MAX_CONDITIONS {
        let problem = format!("has {} conditions, at most {MAX_CONDITIONS} are allowed", parts.len());
        return Err(DocumentError::field("filter", problem));
    }
    parts.into_iter().map(Condition::parse).collect()
}

impl PageQuery<'_> {
    pub(super) fn page<'d>(
        &self,
        documents: impl Iterator<Item = &'d StoredDocument>,
    ) -> Result<Page, DocumentError> {
        let (order, conditions) = (Order::parse(self.order_by)?, conditions(self.filter)?);
        let (page_size, after) = (self.page_size()?, self.after()?);
        let matching =
            documents.filter(|document| conditions.iter().all(|condition| condition.holds(document)));
        let mut placed: Vec<(Place, &StoredDocument)> =
            matching.map(|document| (order.place(document), document)).collect();
        let total = placed.len();
        placed.retain(|(place, _)| after.is_none_or(|after| *place > after));
        placed.sort_unstable_by_key(|(place, _)| *place);
        let has_more = placed.len() > page_size;
        placed.truncate(page_size);
        let last = placed.last().filter(|_| has_more);
        let next_page_token =
            last.map(|((value, serial), _)| self.token(*value, *serial)).unwrap_or_default();
        let documents = placed.into_iter().map(|(_, document)| document.clone()).collect();
        Ok(Page { documents, next_page_token, total })
    }

    fn page_size(&self) -> Result<usize, DocumentError> {
        match usize::try_from(self.page_size) {
            Ok(0) => Ok(DEFAULT_PAGE_SIZE),
            Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
            Err(_) => Err(DocumentError::field(
                "page_size",
                format!("is {}, but must not be negative", self.page_size),
            )),
        }
    }

    fn token(&self, value: u64, serial: u64) -> String {
        format!("{:016x}{value:016x}{serial:016x}", self.checksum())
    }

    /// Where the page before ended.
    fn after(&self) -> Result<Option<Place>, DocumentError> {
        let problem = |problem| DocumentError::field("page_token", problem);
        if self.page_token.is_empty() {
            return Ok(None);
        }
        let digits = self.page_token.as_bytes();
        if digits.len() != 48 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(problem("is not one that a page returned; take next_page_token as it is"));
        }
        let number =
            |range: std::ops::Range<usize>| u64::from_str_radix(&self.page_token[range], 16).unwrap_or(0);
        if number(0..16) != self.checksum() {
            return Err(problem("belongs to another filter or order; start again without it"));
        }
        Ok(Some((number(16..32), number(32..48))))
    }

    fn checksum(&self) -> u64 {
        let hash = blake3::hash(format!("{}\n{}", self.filter, self.order_by).as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(first)
    }
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
