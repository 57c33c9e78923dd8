//! One fact at a known depth between sentences that say nothing about it.

use super::words;
use crate::random::Random;
use crate::{Question, SourceDocument};

/// Documents of one question.
const NUM_DOCUMENTS: usize = 8;
/// Sentences of a document, the fact not counted.
const NUM_SENTENCES: usize = 6;
/// Depths in percent, in turn.
const DEPTHS: [usize; 5] = [0, 25, 50, 75, 100];

const SUBJECTS: [&str; 12] = [
    "The old road",
    "A small boat",
    "The winter market",
    "The evening train",
    "A group of children",
    "The baker",
    "The north wind",
    "A farmer",
    "The church bell",
    "A black dog",
    "The river",
    "An old man",
];

const PREDICATES: [&str; 12] = [
    "passes the fields every morning",
    "is often seen near the bridge",
    "comes back before night",
    "was quiet for most of the year",
    "makes people stop for a moment",
    "follows the wall around the hill",
    "brings the smell of the sea",
    "waits under the trees when it rains",
    "is known to everyone here",
    "has not changed for a long time",
    "takes the long way to the village",
    "can be heard from far away",
];

/// The question of number `index`, at the depth whose turn it is.
pub(super) fn needle(random: &mut Random, index: usize) -> Question {
    let depth = DEPTHS[index % DEPTHS.len()];
    let (person, code) = (words::people(random, 1).remove(0), words::codes(random, 1).remove(0));
    let total = NUM_DOCUMENTS * NUM_SENTENCES;
    let mut sentences: Vec<String> = (0..total).map(|_| sentence(random)).collect();
    // The last place is behind the last sentence, inside the last document.
    let at = total * depth / 100;
    let gold = (at / NUM_SENTENCES).min(NUM_DOCUMENTS - 1);
    sentences.insert(at, format!("The secret number of {person} is {code}."));
    let mut sentences = sentences.into_iter();
    let mut document = |index: usize| {
        let count = NUM_SENTENCES + usize::from(index == gold);
        let text: Vec<String> = sentences.by_ref().take(count).collect();
        SourceDocument { title: format!("Notes, page {}", index + 1), text: text.join(" ") }
    };
    Question {
        documents: (0..NUM_DOCUMENTS).map(&mut document).collect(),
        text: format!("What is the secret number of {person}?"),
        answers: vec![code],
        gold: vec![gold],
        group: format!("needle at {depth} %"),
        ..Question::default()
    }
}

fn sentence(random: &mut Random) -> String {
    format!("{} {}.", random.pick(&SUBJECTS), random.pick(&PREDICATES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fact_stands_at_its_depth() {
        for (index, depth) in DEPTHS.into_iter().enumerate() {
            let question = needle(&mut Random::new(3), index);
            let texts: Vec<&str> = question.documents.iter().map(|document| document.text.as_str()).collect();
            let sentences: Vec<String> =
                texts.join(" ").split_inclusive('.').map(|part| part.trim().to_owned()).collect();
            assert_eq!(sentences.len(), NUM_DOCUMENTS * NUM_SENTENCES + 1);
            let at = sentences.iter().position(|part| part.contains("secret number")).unwrap();
            assert_eq!(at * 100, depth * NUM_DOCUMENTS * NUM_SENTENCES, "depth {depth}");
            assert_eq!(question.group, format!("needle at {depth} %"));
        }
    }
}
