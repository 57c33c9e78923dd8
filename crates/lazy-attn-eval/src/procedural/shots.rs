//! Classification by examples (in-context learning): made words stand for the classes, so that only the examples tell what
//! they mean.

use super::words::some;
use crate::random::Random;
use crate::{Question, SourceDocument};

/// Examples of one class, one document each.
const NUM_EXAMPLES: usize = 4;

/// Words of what a class is about.
const TOPICS: [&[&str]; 4] = [
    &["bread", "cheese", "apple", "soup", "rice", "cake", "milk", "fish"],
    &["hammer", "saw", "nail", "drill", "rope", "ladder", "spade", "axe"],
    &["horse", "cow", "sheep", "goat", "duck", "pig", "rabbit", "hen"],
    &["train", "bus", "ship", "car", "plane", "bicycle", "truck", "boat"],
];

/// What the classes are called.
const LABELS: [&str; 8] = ["alpha", "delta", "gamma", "omega", "sigma", "kappa", "zeta", "theta"];

const FRAMES: [&str; 4] = [
    "They talked about the {}.",
    "She looked at the {}.",
    "We saw a picture of the {}.",
    "He asked for the {}.",
];

/// A sentence whose class is to be told by the examples in the documents.
pub(super) fn many_shot(random: &mut Random) -> Question {
    let labels = some(random, &LABELS, TOPICS.len());
    let mut examples: Vec<(usize, String)> = Vec::new();
    let mut held_out = Vec::new();
    for (class, topic) in TOPICS.iter().enumerate() {
        let words = some(random, topic, NUM_EXAMPLES + 1);
        examples.extend(words[1..].iter().map(|word| (class, said(random, word))));
        held_out.push(words[0]);
    }
    random.shuffle(&mut examples);
    let asked = random.below(TOPICS.len());
    let gold = examples.iter().enumerate().filter(|(_, (class, _))| *class == asked);
    Question {
        gold: gold.map(|(index, _)| index).collect(),
        documents: examples.iter().map(|(class, text)| example(text, labels[*class])).collect(),
        text: format!("What is the label of this sentence: {}", said(random, held_out[asked])),
        answers: vec![labels[asked].to_owned()],
        classes: labels.iter().map(|&label| label.to_owned()).collect(),
        group: "many-shot".to_owned(),
    }
}

fn example(text: &str, label: &str) -> SourceDocument {
    SourceDocument { title: String::new(), text: format!("Sentence: {text} Label: {label}.") }
}

fn said(random: &mut Random, word: &str) -> String {
    random.pick(&FRAMES).replace("{}", word)
}
