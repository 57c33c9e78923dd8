//! Stop texts over streamed text.
//!
//! A stop text may span tokens, so text that could be the beginning of one is held back until it is known not to be. The
//! result does not depend on how the text was cut into pushes.

/// What a push lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopStep {
    /// Text to send on.
    pub text: String,
    /// The stop text that was found; nothing follows.
    pub stopped_by: Option<String>,
}

/// Looks for stop texts in a stream of text.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stop_texts: Vec<String>,
    /// The longest end of the text so far that begins a stop text: shorter than the longest of them.
    held: String,
    is_stopped: bool,
}

impl StopMatcher {
    /// A matcher for `stop_texts`; empty ones never match.
    #[must_use]
    pub fn new(stop_texts: &[String]) -> StopMatcher {
        let stop_texts = stop_texts.iter().filter(|text| !text.is_empty()).cloned().collect();
        StopMatcher { stop_texts, held: String::new(), is_stopped: false }
    }

    /// Takes new text and returns what can no longer be part of a stop text.
    ///
    /// The stop text that is complete first wins; of those complete at the same place, the longest. After it every push
    /// is empty.
    pub fn push(&mut self, text: &str) -> StopStep {
        if self.is_stopped {
            return StopStep { text: String::new(), stopped_by: None };
        }
        if self.stop_texts.is_empty() {
            return StopStep { text: text.to_owned(), stopped_by: None };
        }
        self.held.push_str(text);
        if let Some(found) = self.first_match() {
            let stopped_by = Some(self.stop_texts[found.stop_index].clone());
            self.is_stopped = true;
            let mut before = std::mem::take(&mut self.held);
            before.truncate(found.start);
            return StopStep { text: before, stopped_by };
        }
        let held = self.held.split_off(self.held.len() - self.num_held_bytes());
        StopStep { text: std::mem::replace(&mut self.held, held), stopped_by: None }
    }

    /// Closes the stream: what was held back began no stop text after all.
    #[must_use]
    pub fn finish(self) -> String {
        self.held
    }

    fn first_match(&self) -> Option<Match> {
        let matches = self.stop_texts.iter().enumerate().filter_map(|(stop_index, stop)| {
            let start = self.held.find(stop.as_str())?;
            Some(Match { end: start + stop.len(), start, stop_index })
        });
        matches.min_by_key(|found| (found.end, found.start))
    }

    /// Length of the longest end of `held` that is a proper beginning of a stop text.
    fn num_held_bytes(&self) -> usize {
        let longest = self.stop_texts.iter().map(String::len).max().unwrap_or(0);
        let at_most = self.held.len().min(longest.saturating_sub(1));
        let could_stop = |end: &str| self.stop_texts.iter().any(|stop| stop.starts_with(end));
        (1..=at_most)
            .rev()
            .find(|&num_bytes| self.held.get(self.held.len() - num_bytes..).is_some_and(could_stop))
            .unwrap_or(0)
    }
}

struct Match {
    end: usize,
    start: usize,
    stop_index: usize,
}

#[cfg(test)]
mod tests {
    use lazy_attn_types::StopParams;
    use proptest::prelude::*;

    use super::*;

    fn matcher(stops: &[&str]) -> StopMatcher {
        StopMatcher::new(&stops.iter().map(|stop| stop.to_string()).collect::<Vec<_>>())
    }

    /// Everything let through, and the stop text that ended it.
    fn run(mut matcher: StopMatcher, pushes: &[&str]) -> (String, Option<String>) {
        let mut out = String::new();
        for push in pushes {
            let step = matcher.push(push);
            out.push_str(&step.text);
            if step.stopped_by.is_some() {
                return (out, step.stopped_by);
            }
        }
        out.push_str(&matcher.finish());
        (out, None)
    }

    #[test]
    fn a_stop_text_may_span_pushes() {
        let mut matcher = matcher(&["\n\nQ:"]);
        assert_eq!(matcher.push("yes\n").text, "yes");
        assert_eq!(matcher.push("\nQ").text, "");
        assert_eq!(matcher.push(": no"), StopStep { text: String::new(), stopped_by: Some("\n\nQ:".into()) });
        assert_eq!(matcher.push("more"), StopStep { text: String::new(), stopped_by: None });
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn text_that_only_began_a_stop_text_comes_out() {
        let mut matcher = matcher(&["aab"]);
        assert_eq!(matcher.push("aa").text, "");
        assert_eq!(matcher.push("a").text, "a");
        assert_eq!(matcher.clone().finish(), "aa");
        assert_eq!(matcher.push("c").text, "aac");
    }

    #[test]
    fn the_first_complete_stop_text_wins_and_of_those_the_longest() {
        assert_eq!(run(matcher(&["bcd", "bc"]), &["abcd"]), ("a".into(), Some("bc".into())));
        assert_eq!(run(matcher(&["cd", "bcd"]), &["abcd"]), ("a".into(), Some("bcd".into())));
    }

    #[test]
    fn without_stop_texts_everything_passes_at_once() {
        assert_eq!(matcher(&[]).push("abc").text, "abc");
        assert_eq!(run(matcher(&[""]), &["abc"]), ("abc".into(), None));
    }

    #[test]
    fn the_longest_stop_text_holds_back_one_byte_less_than_its_length() {
        let longest = "x".repeat(StopParams::MAX_STOP_TEXT_BYTES);
        let mut matcher = matcher(&[&longest]);
        assert_eq!(matcher.push(&longest[1..]).text, "");
        assert_eq!(matcher.held.len(), StopParams::MAX_STOP_TEXT_BYTES - 1);
        assert!(matcher.push("x").stopped_by.is_some());
    }

    /// The definition: read character by character until the text so far ends with a stop text.
    fn reference(stops: &[String], text: &str) -> (String, Option<String>) {
        let ends = text.char_indices().map(|(at, c)| at + c.len_utf8());
        for end in ends {
            let so_far = &text[..end];
            let longest =
                stops.iter().filter(|stop| so_far.ends_with(stop.as_str())).max_by_key(|stop| stop.len());
            if let Some(stop) = longest {
                return (so_far[..end - stop.len()].to_owned(), Some(stop.clone()));
            }
        }
        (text.to_owned(), None)
    }

    proptest! {
        #[test]
        fn any_cut_of_the_text_gives_what_reading_it_whole_gives(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pushes in prop::collection::vec("[abé]{0,5}", 0..12),
        ) {
            let pushes: Vec<&str> = pushes.iter().map(String::as_str).collect();
            let (text, stopped_by) = run(StopMatcher::new(&stops), &pushes);
            prop_assert!(!stops.iter().any(|stop| text.contains(stop.as_str())));
            prop_assert_eq!((text, stopped_by), reference(&stops, &pushes.concat()));
        }

        #[test]
        fn what_is_held_back_always_begins_a_stop_text(
            stops in prop::collection::vec("[ab]{1,6}", 1..4),
            pushes in prop::collection::vec("[ab]{0,5}", 0..12),
        ) {
            let mut matcher = StopMatcher::new(&stops);
            for push in &pushes {
                matcher.push(push);
                let held = matcher.held.as_str();
                prop_assert!(held.is_empty() || stops.iter().any(|stop| stop.starts_with(held) && stop != held));
            }
        }
    }
}
