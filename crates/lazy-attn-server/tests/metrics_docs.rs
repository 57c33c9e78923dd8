//! The page about metrics and the dashboard name what the server says, no more and no less.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;

/// One line per family: name, kind, labels. What a server really says is compared with it in tests/metrics.rs.
const GOLDEN: &str = include_str!("golden/metrics.txt");

fn repository(path: &str) -> String {
    fs::read_to_string(format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The families with `kind`, or all.
fn families(kind: Option<&str>) -> BTreeSet<&'static str> {
    let words = GOLDEN.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    words.filter(|words| kind.is_none_or(|kind| words[1] == kind)).map(|words| words[0]).collect()
}

#[test]
fn the_page_lists_exactly_the_golden_names_with_their_kinds_and_labels() {
    let page = repository("docs/metrics.md").replace("\\|", "\u{1}");
    let rows = page.lines().filter(|line| line.starts_with("| `lazyattn_"));
    let listed: Vec<String> = rows
        .map(|row| {
            let cells: Vec<String> =
                row.split('|').map(|cell| cell.trim().replace('`', "").replace('\u{1}', "|")).collect();
            assert_eq!(cells.len(), 6, "{row}");
            assert!(!cells[4].is_empty(), "{row}");
            let labels = if cells[3].is_empty() { String::new() } else { format!(", {}", cells[3]) };
            format!("{} {} model{labels}", cells[1], cells[2])
        })
        .collect();
    assert_eq!(listed, GOLDEN.lines().collect::<Vec<_>>());
}

#[test]
fn the_dashboard_uses_exactly_the_golden_names() {
    let dashboard = repository("docs/grafana/lazyattn.json");
    let json: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(json["panels"].as_array().unwrap().len() > 10);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = dashboard.split(|c| !is_name(c)).filter(|word| word.starts_with("lazyattn_"));
    let (all, histograms) = (families(None), families(Some("histogram")));
    let mut used = BTreeSet::new();
    for word in words {
        let suffix = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| word.strip_suffix(suffix));
        match suffix {
            Some(family) if histograms.contains(family) => used.insert(family),
            _ => {
                assert!(all.contains(word) && !histograms.contains(word), "{word} does not exist");
                used.insert(word)
            }
        };
    }
    let unused: Vec<_> = all.difference(&used).collect();
    assert!(unused.is_empty(), "no panel shows {unused:?}");
}

#[test]
fn every_name_has_the_prefix_and_times_and_sizes_are_in_base_units() {
    for family in families(None) {
        assert!(family.starts_with("lazyattn_"), "{family}");
        assert!(
            !["_ms", "_millis", "_micros", "_mb", "_kib"].iter().any(|unit| family.ends_with(unit)),
            "{family}"
        );
    }
    // A pool's size is a gauge that has been called so from the start.
    let counters = families(Some("counter"));
    let totals: BTreeSet<_> = families(None).into_iter().filter(|name| name.ends_with("_total")).collect();
    let odd: Vec<_> = totals.symmetric_difference(&counters).copied().collect();
    assert_eq!(odd, ["lazyattn_kv_blocks_total"]);
}
