//! Question sets made from a seed: the same on every machine, of any size, about things that do not exist.
//!
//! Nothing in them can be known without the documents, and what a question needs is known by construction. `words` makes the
//! names, `facts` the questions over short documents, `needle` those over one fact in much text, `shots` classifications.

mod facts;
mod needle;
mod shots;
mod words;

use std::fmt;
use std::str::FromStr;

use crate::random::Random;
use crate::{EvalError, Question};

/// A kind of made question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// One attribute of one of several things.
    Attributes,
    /// A code of digits that belongs to one of several places.
    Codes,
    /// An attribute of a thing that a second document names.
    MultiHop,
    /// One fact at a known depth between sentences of no use.
    Needle,
    /// A class that only the examples in the documents define.
    ManyShot,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 5] =
        [Family::Attributes, Family::Codes, Family::MultiHop, Family::Needle, Family::ManyShot];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Family::Attributes => "attributes",
            Family::Codes => "codes",
            Family::MultiHop => "multi-hop",
            Family::Needle => "needle",
            Family::ManyShot => "many-shot",
        }
    }

    /// Question `index` of the set of `seed`; it depends on nothing else.
    #[must_use]
    pub fn question(self, seed: u64, index: usize) -> Question {
        // The family and the index choose a stream each; SplitMix64 mixes neighbouring seeds apart.
        let stream = (index as u64) << 8 | self as u64;
        let mut random = Random::new(
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream.wrapping_mul(0xd134_2543_de82_ef95),
        );
        match self {
            Family::Attributes => facts::attribute(&mut random),
            Family::Codes => facts::code(&mut random),
            Family::MultiHop => facts::multi_hop(&mut random),
            Family::Needle => needle::needle(&mut random, index),
            Family::ManyShot => shots::many_shot(&mut random),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Family {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Family, EvalError> {
        Family::ALL.into_iter().find(|family| family.name() == name).ok_or_else(|| EvalError::Unknown {
            what: "procedural set",
            name: name.to_owned(),
            known: Family::ALL.map(Family::name).join(", "),
        })
    }
}

/// `num_questions` of `families` in turn.
#[must_use]
pub fn questions(families: &[Family], num_questions: usize, seed: u64) -> Vec<Question> {
    let in_turn = families.iter().cycle().take(num_questions).enumerate();
    in_turn.map(|(at, family)| family.question(seed, at / families.len())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::metrics::normalised;

    #[test]
    fn a_question_depends_on_seed_and_index_only() {
        for family in Family::ALL {
            assert_eq!(family.question(3, 9), family.question(3, 9), "{family}");
            assert_ne!(family.question(3, 9), family.question(3, 10), "{family}");
            assert_ne!(family.question(3, 9), family.question(4, 9), "{family}");
        }
        assert_eq!(questions(&Family::ALL, 7, 1)[6], Family::Codes.question(1, 1));
    }

    #[test]
    fn every_answer_stands_in_the_documents_that_are_said_to_hold_it_and_in_no_other() {
        for family in Family::ALL {
            for index in 0..200 {
                let question = family.question(1, index);
                let answer = normalised(&question.answers[0]);
                let holders: Vec<usize> = (0..question.documents.len())
                    .filter(|&at| {
                        let document = &question.documents[at];
                        format!(" {} ", normalised(&document.text)).contains(&format!(" {answer} "))
                    })
                    .collect();
                match family {
                    // Several examples of a class, one document of two hops, else exactly one.
                    Family::ManyShot => assert_eq!(holders, question.gold, "{question:?}"),
                    Family::MultiHop => assert_eq!(holders, question.gold[1..], "{question:?}"),
                    _ => assert_eq!(holders, question.gold, "{question:?}"),
                }
                assert_eq!(question.answers.len(), 1);
            }
        }
    }

    #[test]
    fn questions_differ_and_the_answer_stands_anywhere() {
        let made: Vec<Question> = (0..200).map(|index| Family::Attributes.question(1, index)).collect();
        let texts: HashSet<&str> = made.iter().map(|question| question.text.as_str()).collect();
        assert!(texts.len() > 190, "{} of 200 differ", texts.len());
        let places: HashSet<usize> = made.iter().map(|question| question.gold[0]).collect();
        assert_eq!(places.len(), made[0].documents.len());
    }

    #[test]
    fn names_are_read_back() {
        for family in Family::ALL {
            assert_eq!(family.name().parse::<Family>().unwrap(), family);
        }
        let error = "needles".parse::<Family>().unwrap_err().to_string();
        assert!(error.contains("needles") && error.contains("many-shot"), "{error}");
    }
}
