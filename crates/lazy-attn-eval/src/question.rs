//! A question over documents.

/// A document as it is found in a question set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceDocument {
    /// Its title; empty if it has none.
    pub title: String,
    /// Its text.
    pub text: String,
}

/// A question, the documents it is asked over and the answers that are right.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Question {
    /// The documents, in the order in which they are given to the model.
    pub documents: Vec<SourceDocument>,
    /// The question.
    pub text: String,
    /// Answers that are right, at least one; the first is the one whose log-likelihood is taken.
    pub answers: Vec<String>,
    /// Indices of the documents that hold the answer; empty if the set does not tell.
    pub gold: Vec<usize>,
    /// The classes of a classification, empty for other questions.
    pub classes: Vec<String>,
    /// What kind of question it is; empty if the set does not tell.
    pub group: String,
}

impl Question {
    /// The same question over its documents in another order: document `i` is `order[i]` of this one.
    ///
    /// # Panics
    /// If `order` is not a permutation of the documents' indices.
    #[must_use]
    pub fn reordered(&self, order: &[usize]) -> Question {
        assert_eq!(order.len(), self.documents.len(), "an order names every document once");
        let place = |gold: &usize| order.iter().position(|from| from == gold);
        Question {
            documents: order.iter().map(|&from| self.documents[from].clone()).collect(),
            gold: self.gold.iter().filter_map(place).collect(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answering_document_is_still_known_after_reordering() {
        let document = |text: &str| SourceDocument { title: String::new(), text: text.into() };
        let question = Question {
            documents: ["a", "b", "c"].map(document).into(),
            gold: vec![2],
            ..Question::default()
        };
        let reordered = question.reordered(&[2, 0, 1]);
        assert_eq!(reordered.documents, ["c", "a", "b"].map(document));
        assert_eq!(reordered.gold, [0]);
    }
}
