use std::collections::BTreeMap;
use std::time::Duration;

use lazy_attn_types::{SegmentKey, TokenId};

use super::*;
use crate::documents::PinState;

/// Document number `serial` with `num_tokens` tokens.
fn document(serial: u8, num_tokens: u32) -> StoredDocument {
    let created = UNIX_EPOCH + Duration::from_secs(u64::from(serial));
    StoredDocument {
        key: SegmentKey::from_bytes([serial; 32]),
        tokens: (0..num_tokens).map(TokenId).collect(),
        kv_bytes: 0,
        display_name: format!("document {serial}"),
        labels: BTreeMap::new(),
        pin: PinState::Unpinned,
        expires: None,
        created,
        last_used: None,
        use_count: 0,
        revision: u64::from(serial),
        serial: u64::from(serial),
    }
}

fn serials(query: PageQuery<'_>, documents: &[StoredDocument]) -> Vec<u64> {
    let page = query.page(documents.iter()).unwrap();
    page.documents.into_iter().map(|document| document.serial).collect()
}

fn by(order_by: &str) -> PageQuery<'_> {
    PageQuery { order_by, ..PageQuery::default() }
}

fn filtered(filter: &str) -> PageQuery<'_> {
    PageQuery { filter, ..PageQuery::default() }
}

fn field(query: PageQuery<'_>) -> String {
    match query.page([].into_iter()) {
        Err(DocumentError::Field { field, .. }) => field,
        other => panic!("{query:?}: {other:?}"),
    }
}

#[test]
fn orders_go_both_ways_and_equals_stand_in_the_order_of_their_creation() {
    let mut documents = [(3, 5), (1, 5), (2, 9), (4, 1)].map(|(serial, size)| document(serial, size));
    documents[0].last_used = Some(UNIX_EPOCH + Duration::from_secs(9));
    documents[2].use_count = 7;
    let cases: [(&str, [u64; 4]); 9] = [
        ("", [1, 2, 3, 4]),
        ("create_time", [1, 2, 3, 4]),
        ("create_time  asc", [1, 2, 3, 4]),
        ("create_time desc", [4, 3, 2, 1]),
        ("token_count", [4, 1, 3, 2]),
        ("token_count desc", [2, 1, 3, 4]),
        ("last_use_time", [1, 2, 4, 3]),
        ("last_use_time desc", [3, 1, 2, 4]),
        ("use_count desc", [2, 1, 3, 4]),
    ];
    for (order_by, expected) in cases {
        assert_eq!(serials(by(order_by), &documents), expected, "{order_by:?}");
    }
    for wrong in ["name", "create_time up", "create_time desc desc", "create_time, token_count"] {
        assert_eq!(field(by(wrong)), "order_by", "{wrong:?}");
    }
}

#[test]
fn conditions_are_read_with_their_quotes_and_joined() {
    let mut documents = [1, 2, 3].map(|serial| document(serial, 5));
    documents[0].labels = BTreeMap::from([("site".into(), "north AND south".into())]);
    documents[1].labels =
        BTreeMap::from([("site".into(), r#"a "quoted" \ b"#.into()), ("x=y".into(), "1".into())]);
    documents[1].pin = PinState::Pinning;
    documents[2].display_name = "a = b".into();
    let cases: [(&str, &[u64]); 10] = [
        ("", &[1, 2, 3]),
        ("  ", &[1, 2, 3]),
        (r#"labels.site = "north AND south""#, &[1]),
        (r#"labels.site="north AND south" AND pinned=false"#, &[1]),
        (r#"labels.site = "a \"quoted\" \\ b""#, &[2]),
        ("pinned = true", &[2]),
        (r#"pinned = true AND labels.site = "north AND south""#, &[]),
        (r#"display_name = "a = b""#, &[3]),
        (r#"labels.none = "1""#, &[]),
        (r#"labels.site = """#, &[]),
    ];
    for (filter, expected) in cases {
        assert_eq!(serials(filtered(filter), &documents), expected, "{filter:?}");
    }
    let (most, too_many) = (["pinned = true"; 16].join(" AND "), ["pinned = true"; 17].join(" AND "));
    assert_eq!(serials(filtered(&most), &documents), [2]);
    let wrong = [
        "nonsense",
        "labels. = \"x\"",
        "labels.site = north",
        "labels.site = \"north",
        "labels.site = \"a\"b\"",
        "labels.site = \"a\\b\"",
        "labels.site = \"ends with \\",
        "pinned = maybe",
        "pinned = true AND ",
        "pinned = true OR pinned = false",
        "size = \"1\"",
        "ü",
        &too_many,
    ];
    for filter in wrong {
        assert_eq!(field(filtered(filter)), "filter", "{filter:?}");
    }
}

#[test]
fn pages_go_on_where_the_one_before_ended_whatever_came_or_went() {
    let mut documents: Vec<StoredDocument> =
        (0..10).map(|serial| document(serial, u32::from(serial % 3))).collect();
    for (order_by, expected) in [("", "0123456789"), ("token_count desc", "2581470369")] {
        let (mut seen, mut token) = (String::new(), String::new());
        loop {
            let query = PageQuery { page_size: 3, page_token: &token, ..by(order_by) };
            let page = query.page(documents.iter()).unwrap();
            assert_eq!(page.total, documents.len());
            seen.extend(page.documents.iter().map(|document| document.serial.to_string()));
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, expected);
    }
    let first = PageQuery { page_size: 3, ..PageQuery::default() }.page(documents.iter()).unwrap();
    documents.retain(|document| ![1, 2, 3].contains(&document.serial));
    documents.push(document(10, 1));
    let rest = PageQuery { page_token: &first.next_page_token, ..PageQuery::default() };
    assert_eq!(serials(rest, &documents), [4, 5, 6, 7, 8, 9, 10], "the last of the page before is gone");
}

#[test]
fn a_token_that_no_page_of_this_question_returned_is_refused() {
    let documents: Vec<StoredDocument> = (0..3).map(|serial| document(serial, 1)).collect();
    let page = PageQuery { page_size: 1, ..PageQuery::default() }.page(documents.iter()).unwrap();
    let token = page.next_page_token;
    let with = |page_token| PageQuery { page_token, ..PageQuery::default() };
    assert_eq!(serials(with(&token), &documents), [1, 2]);
    let (signed, wide) = (format!("+{}", &token[1..]), "ü".repeat(24));
    for wrong in ["x", &token[1..], &signed, &wide] {
        assert_eq!(field(with(wrong)), "page_token", "{wrong:?}");
    }
    assert_eq!(field(PageQuery { filter: "pinned = true", ..with(&token) }), "page_token");
    assert_eq!(field(PageQuery { order_by: "use_count", ..with(&token) }), "page_token");
}

#[test]
fn a_page_is_as_large_as_asked_up_to_a_bound() {
    let documents: Vec<StoredDocument> = (0..101).map(|serial| document(serial, 1)).collect();
    let size = |page_size| serials(PageQuery { page_size, ..PageQuery::default() }, &documents).len();
    assert_eq!((size(0), size(1), size(i32::MAX)), (100, 1, 101));
    assert_eq!(field(PageQuery { page_size: -1, ..PageQuery::default() }), "page_size");
    let many: Vec<StoredDocument> =
        (0..1001).map(|serial| StoredDocument { serial, ..document(0, 1) }).collect();
    let largest = PageQuery { page_size: i32::MAX, ..PageQuery::default() };
    assert_eq!(serials(largest, &many).len(), 1000);
}
