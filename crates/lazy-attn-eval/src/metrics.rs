//! How right one answer is, as SQuAD's evaluation script defines it (Rajpurkar et al., arXiv:1606.05250, section 6).

use std::collections::HashMap;

use crate::Question;

/// How right an answer is; each from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Whether it is one of the right answers, after [`normalised`].
    pub exact_match: f64,
    /// Harmonic mean of precision and recall over its words, of the right answer it is closest to.
    pub f1: f64,
    /// Whether it contains a right answer.
    pub contains: f64,
    /// Whether the class it names is right; `None` for a question that is no classification.
    pub accuracy: Option<f64>,
}

impl Score {
    /// Scores `answer` to `question`.
    #[must_use]
    pub fn of(question: &Question, answer: &str) -> Score {
        let answer = normalised(answer);
        let right: Vec<String> = question.answers.iter().map(|right| normalised(right)).collect();
        let holds = |right: &String| !right.is_empty() && answer.contains(right.as_str());
        let is_class = (!question.classes.is_empty()).then(|| class_named(&answer, &question.classes));
        Score {
            exact_match: as_number(right.contains(&answer)),
            f1: right.iter().map(|right| word_f1(&answer, right)).fold(0.0, f64::max),
            contains: as_number(right.iter().any(holds)),
            accuracy: is_class.map(|class| as_number(class.is_some_and(|class| right.contains(&class)))),
        }
    }
}

fn as_number(is_true: bool) -> f64 {
    f64::from(u8::from(is_true))
}

/// `text` in lower case, without ASCII punctuation, without the words a, an and the, and with single spaces.
#[must_use]
pub fn normalised(text: &str) -> String {
    let lower = text.to_lowercase();
    let plain: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let words = plain.split_whitespace().filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.collect::<Vec<_>>().join(" ")
}

/// F1 of the words of two normalised texts, counted with their multiplicity; 1 if both are empty.
fn word_f1(answer: &str, right: &str) -> f64 {
    let (answer_words, right_words): (Vec<&str>, Vec<&str>) =
        (answer.split(' ').collect(), right.split(' ').collect());
    if answer.is_empty() || right.is_empty() {
        return as_number(answer == right);
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    right_words.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut num_common = 0usize;
    for word in &answer_words {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            num_common += 1;
        }
    }
    2.0 * num_common as f64 / (answer_words.len() + right_words.len()) as f64
}

/// The class that a normalised answer names first; of several at one place, the longest.
fn class_named(answer: &str, classes: &[String]) -> Option<String> {
    let named = classes.iter().map(|class| normalised(class)).filter(|class| !class.is_empty());
    let named = named.filter_map(|class| Some((answer.find(class.as_str())?, class)));
    let first = named.min_by_key(|(at, class)| (*at, usize::MAX - class.len()));
    first.map(|(_, class)| class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(answer: &str, right: &[&str]) -> Score {
        let answers = right.iter().map(|&right| right.to_owned()).collect();
        Score::of(&Question { answers, ..Question::default() }, answer)
    }

    #[test]
    fn texts_are_normalised_as_squad_does() {
        let cases = [
            ("The  Harlow, Museum!", "harlow museum"),
            ("an a the", ""),
            ("Theatre", "theatre"),
            ("U.S.", "us"),
            ("Éa “x”", "éa “x”"),
        ];
        for (text, expected) in cases {
            assert_eq!(normalised(text), expected, "{text}");
        }
    }

    #[test]
    fn an_answer_is_exact_whatever_its_articles_case_and_punctuation() {
        assert_eq!(score("the Red Turbans.", &["Han", "Red Turbans"]).exact_match, 1.0);
        assert_eq!(score("Red Turban", &["Red Turbans"]).exact_match, 0.0);
    }

    #[test]
    fn f1_counts_common_words_once_each_and_takes_the_closest_answer() {
        // Two of three words of the answer, two of four of the right one: 2 * 2 / 7.
        assert!((score("x b c", &["b c d e", "q"]).f1 - 4.0 / 7.0).abs() < 1e-12);
        // One `b` of the right answer is matched by one of the two.
        assert!((score("b b", &["b"]).f1 - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(score("", &["b"]).f1, 0.0);
        assert_eq!(score("the", &["a"]).f1, 1.0);
    }

    #[test]
    fn an_answer_contains_a_right_one_anywhere() {
        let long = score("It was Zhu Yuanzhang, a monk", &["Zhu Yuanzhang"]);
        assert_eq!((long.contains, long.exact_match), (1.0, 0.0));
        assert_eq!(
            score("nobody", &["the"]).contains,
            0.0,
            "an answer of articles only is contained in nothing"
        );
    }

    #[test]
    fn the_class_that_is_named_first_counts() {
        let classes = ["food", "sea food", "tool"].map(str::to_owned).to_vec();
        let question = Question { answers: vec!["sea food".into()], classes, ..Question::default() };
        let accuracy = |answer| Score::of(&question, answer).accuracy;
        assert_eq!(accuracy("It is sea food, no tool"), Some(1.0));
        assert_eq!(accuracy("tool or sea food"), Some(0.0));
        assert_eq!(accuracy("food"), Some(0.0));
        assert_eq!(accuracy("?"), Some(0.0));
        assert_eq!(score("x", &["x"]).accuracy, None);
    }
}
