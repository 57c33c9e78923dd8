//! The exposition format, read back.

use std::collections::{BTreeMap, BTreeSet};

/// One sample: name with suffix, labels but for `model`, value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// A whole page, in its order.
#[derive(Debug, Default)]
pub(crate) struct Scrape {
    /// Family and kind.
    pub(crate) families: Vec<(String, String)>,
    pub(crate) samples: Vec<Sample>,
}

impl Scrape {
    pub(crate) fn parse(text: &str) -> Scrape {
        let mut scrape = Scrape::default();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                let (name, kind) = head.split_once(' ').unwrap();
                scrape.families.push((name.to_owned(), kind.to_owned()));
            } else if !line.starts_with("# HELP ") {
                scrape.samples.push(sample(line));
            }
        }
        scrape
    }

    /// The sum of the samples called `name` whose labels include `labels`; at least one must be there.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let has = |sample: &&Sample| {
            let is_labelled =
                |&(label, word): &(&str, &str)| sample.labels.get(label).is_some_and(|w| w == word);
            sample.name == format!("lazyattn_{name}") && labels.iter().all(is_labelled)
        };
        let found: Vec<f64> = self.samples.iter().filter(has).map(|sample| sample.value).collect();
        assert!(!found.is_empty(), "{name} {labels:?} is not there");
        found.iter().sum::<f64>() as u64
    }

    /// The samples of a family, those of a histogram's buckets included.
    pub(crate) fn of<'a>(&'a self, family: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            let suffix = sample.name.strip_prefix(family);
            suffix.is_some_and(|suffix| matches!(suffix, "" | "_bucket" | "_sum" | "_count"))
        })
    }

    /// One line per family: name, kind, and every label with its words; numbers are left out.
    pub(crate) fn names(&self) -> String {
        let mut lines = String::new();
        for (family, kind) in &self.families {
            let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
            for sample in self.of(family) {
                for (label, word) in sample.labels.iter().filter(|(label, _)| *label != "le") {
                    labels.entry(label).or_default().insert(word);
                }
            }
            let shown = labels.iter().map(|(label, words)| {
                let is_free = words.iter().any(|word| word.starts_with(|c: char| c.is_ascii_digit()));
                let words: Vec<&str> = words.iter().copied().collect();
                if is_free { (*label).to_owned() } else { format!("{label}={}", words.join("|")) }
            });
            let shown = ["model".to_owned()].into_iter().chain(shown).collect::<Vec<_>>().join(", ");
            lines += &format!("{family} {kind} {shown}\n");
        }
        lines
    }
}

fn sample(line: &str) -> Sample {
    let (name, rest) = line.split_once('{').unwrap();
    let (labels, value) = rest.rsplit_once("} ").unwrap();
    let labels = labels.split(',').map(|label| {
        let (label, word) = label.split_once('=').unwrap();
        (label.to_owned(), word.trim_matches('"').to_owned())
    });
    let mut labels: BTreeMap<String, String> = labels.collect();
    assert_eq!(labels.remove("model").as_deref(), Some("fake"), "{line}");
    Sample { name: name.to_owned(), labels, value: value.parse().unwrap() }
}
