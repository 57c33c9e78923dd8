//! Merge rules of a SentencePiece vocabulary, made from its scores.
//!
//! SentencePiece joins, again and again, the neighbours whose joined piece has the best score. Ranking every way to
//! split every piece by that score gives byte-pair rules that choose the same joins; the order of ties is that of the
//! reference converter (`generate_merges`), so that both give the same tokens.

use std::cmp::Reverse;

use super::{Merges, Vocab};
use crate::error::{TextError, check_size};

/// Longest piece whose splits are ranked; SentencePiece itself learns pieces of 16 characters.
const MAX_PIECE_BYTES: usize = 256;

struct Rule<'a> {
    left: &'a str,
    right: &'a str,
    score: f32,
    num_chars: (usize, usize),
}

/// The rules for `pieces`, each with its score, in order of their ids.
pub(crate) fn merges_from_scores<'a>(
    pieces: impl Iterator<Item = (&'a str, f32)>,
    vocab: &Vocab,
) -> Result<Merges, TextError> {
    let mut rules: Vec<Rule<'a>> = Vec::new();
    for (piece, score) in pieces {
        check_size("the length of a SentencePiece token in bytes", piece.len(), MAX_PIECE_BYTES)?;
        if score.is_nan() {
            return Err(TextError::InvalidVocab(format!("token {piece:?} has the score NaN")));
        }
        let mut splits: Vec<(u32, u32, Rule<'a>)> = splits_of(piece, score, vocab).collect();
        splits.sort_by_key(|&(left_id, right_id, _)| (left_id, right_id));
        rules.extend(splits.into_iter().map(|(_, _, rule)| rule));
        check_size("the number of merges", rules.len(), super::MAX_MERGES)?;
    }
    // Stable: rules that tie keep the order of their pieces' ids.
    rules.sort_by(|a, b| b.score.total_cmp(&a.score).then(Reverse(a.num_chars).cmp(&Reverse(b.num_chars))));
    Ok(rules.into_iter().map(|rule| (rule.left.to_owned(), rule.right.to_owned())).collect())
}

fn splits_of<'a>(piece: &'a str, score: f32, vocab: &Vocab) -> impl Iterator<Item = (u32, u32, Rule<'a>)> {
    let num_chars = piece.chars().count();
    piece.char_indices().enumerate().skip(1).filter_map(move |(num_left, (at, _))| {
        let (left, right) = piece.split_at(at);
        let ids = (vocab.get(left)?, vocab.get(right)?);
        let rule = Rule { left, right, score, num_chars: (num_left, num_chars - num_left) };
        Some((*ids.0, *ids.1, rule))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merges(pieces: &[(&str, f32)]) -> Vec<String> {
        let vocab: Vocab = (0u32..).zip(pieces).map(|(id, (piece, _))| (piece.to_string(), id)).collect();
        let merges = merges_from_scores(pieces.iter().copied(), &vocab).unwrap();
        merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect()
    }

    #[test]
    fn better_scores_come_first_and_longer_left_sides_break_ties() {
        let pieces =
            [("a", 0.0), ("b", 0.0), ("c", 0.0), ("bc", -2.0), ("ab", -1.0), ("abc", -3.0), ("é", 0.0)];
        assert_eq!(merges(&pieces), ["a b", "b c", "ab c", "a bc"]);
    }

    #[test]
    fn pieces_whose_parts_are_no_tokens_have_no_rule() {
        assert_eq!(merges(&[("a", 0.0), ("ax", -1.0), ("ééé", -1.0)]), [""; 0]);
    }

    #[test]
    fn broken_scores_and_endless_pieces_are_refused() {
        let vocab = Vocab::new();
        let nan = merges_from_scores([("a", f32::NAN)].into_iter(), &vocab);
        assert!(matches!(nan, Err(TextError::InvalidVocab(_))));
        let long = "a".repeat(MAX_PIECE_BYTES + 1);
        let too_long = merges_from_scores([(long.as_str(), 0.0)].into_iter(), &vocab);
        assert!(matches!(too_long, Err(TextError::TooLarge { got: 257, .. })));
    }
}
