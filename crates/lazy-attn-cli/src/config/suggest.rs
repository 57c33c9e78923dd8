//! The name that was meant.

/// The one of `names` that is most like `wrong`, if one is like it at all.
pub(crate) fn closest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = names.map(|name| (distance(wrong, name), name)).min_by_key(|(n, _)| *n)?;
    (distance <= name.chars().count().div_ceil(3)).then_some(name)
}

/// Characters to insert, remove or replace until `a` is `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    // Distances of the prefix of `a` read so far to every prefix of `b`.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, &right) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(left != right);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_single_edits() {
        for (a, b, n) in [("", "", 0), ("", "ab", 2), ("host", "hosts", 1), ("kitten", "sitting", 3)] {
            assert_eq!((distance(a, b), distance(b, a)), (n, n), "{a} {b}");
        }
    }

    #[test]
    fn only_a_name_that_is_like_the_wrong_one_is_suggested() {
        let closest = |wrong| closest(wrong, ["host", "grpc-port", "max-num-seqs"].into_iter());
        assert_eq!(closest("grpc_port"), Some("grpc-port"));
        assert_eq!(closest("max-seqs"), Some("max-num-seqs"));
        assert_eq!(closest("temperature"), None);
    }
}
