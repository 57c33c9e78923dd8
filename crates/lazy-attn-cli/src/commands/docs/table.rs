//! Documents as a person sees them.

use lazy_attn_proto::v1::{self, KvResidency, document::Expiration};
use serde::Serialize;
use serde_json::Value;

use crate::commands::docs::name;
use crate::exit::{Exit, Failure};
use crate::ui::{Table, bytes};

/// One line per document.
pub(super) fn table(documents: &[v1::Document]) -> Vec<String> {
    if documents.is_empty() {
        return vec!["no documents".to_owned()];
    }
    let mut table = Table::new(&["document", "tokens", "KV size", "KV", "pinned", "uses", "name"]);
    for document in documents {
        table.row([
            name::short(&document.name).to_owned(),
            document.token_count.to_string(),
            bytes(document.kv_bytes),
            residency(document.residency()).to_owned(),
            if document.pinned { "yes" } else { "" }.to_owned(),
            document.use_count.to_string(),
            document.display_name.clone(),
        ]);
    }
    table.lines()
}

/// One line per field of a document.
pub(super) fn fields(document: &v1::Document) -> Result<Vec<String>, Failure> {
    let expires = match &document.expiration {
        Some(Expiration::ExpireTime(time)) => text(time)?,
        Some(Expiration::Ttl(ttl)) => format!("in {}", text(ttl)?),
        None => "never".to_owned(),
    };
    let time = |time: &Option<_>| time.as_ref().map_or_else(|| Ok("never".to_owned()), text);
    let mut labels: Vec<String> =
        document.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.sort();
    let mut table = Table::new(&["document", &document.name]);
    for (field, value) in [
        ("name", document.display_name.clone()),
        ("model", document.model.clone()),
        ("length", format!("{} tokens", document.token_count)),
        ("KV", format!("{}, {}", bytes(document.kv_bytes), residency(document.residency()))),
        ("pinned", if document.pinned { "yes" } else { "no" }.to_owned()),
        ("created", time(&document.create_time)?),
        ("used", format!("{} times, last: {}", document.use_count, time(&document.last_use_time)?)),
        ("expires", expires),
        ("labels", labels.join(" ")),
    ] {
        table.row([field.to_owned(), value]);
    }
    Ok(table.lines())
}

pub(super) fn residency(residency: KvResidency) -> &'static str {
    match residency {
        KvResidency::Device => "resident",
        KvResidency::Pending => "pending",
        KvResidency::Evicted => "not kept",
        KvResidency::Unspecified => "unknown",
    }
}

/// A time as JSON writes it.
fn text<T: Serialize>(time: &T) -> Result<String, Failure> {
    match serde_json::to_value(time) {
        Ok(Value::String(text)) => Ok(text),
        other => Err(Failure::new(Exit::Internal, format!("{other:?} is no time"))),
    }
}

#[cfg(test)]
mod tests {
    use lazy_attn_proto::from_json;

    use super::*;

    fn document() -> v1::Document {
        let json = br#"{"name": "documents/0123456789abcdef", "displayName": "Harbour", "model": "models/m",
            "tokenCount": 40, "kvBytes": "3145728", "residency": "DEVICE", "pinned": true, "useCount": "3",
            "expireTime": "2031-01-01T00:00:00Z", "createTime": "2030-01-01T00:00:00Z", "labels": {"b": "2", "a": "1"}}"#;
        from_json(json).unwrap()
    }

    #[test]
    fn a_list_shows_short_names_and_sizes() {
        assert_eq!(
            table(&[document()]),
            [
                "    document  tokens  KV size  KV        pinned  uses  name",
                "0123456789ab      40  3.0 MiB  resident  yes        3  Harbour",
            ]
        );
        assert_eq!(table(&[]), ["no documents"]);
    }

    #[test]
    fn one_document_shows_its_whole_name_and_its_times() {
        let lines = fields(&document()).unwrap().join("\n");
        for words in [
            "documents/0123456789abcdef",
            "2030-01-01T00:00:00",
            "expires   2031-01-01T00:00:00",
            "3 times, last: never",
            "labels    a=1 b=2",
        ] {
            assert!(lines.contains(words), "{words:?} is missing from\n{lines}");
        }
    }
}
