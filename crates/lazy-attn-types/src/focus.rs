//! How attention weighs documents that were encoded apart from each other.

use crate::sampling::ParamError;

/// How queries look at the shared copies of documents: as adaptive parallel encoding does (Yang et al., arXiv:2502.05431).
///
/// Copies that never saw each other draw more attention, and more even attention, than the same documents in one context.
/// So the scores of their keys are divided by `temperature`, and the log-sum-exp of these scores, over all copies together, is
/// multiplied by `scale` before they are merged with everything else:
///
/// ```text
/// z = logsumexp_d(s_d / T)      weight of document key d: exp(s_d / T - z) exp(S z)      of any other key i: exp(s_i)
/// ```
///
/// Nothing that is stored changes. Document tokens that are computed again for a request are no copies: they are seen as they
/// are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DocumentFocus {
    temperature: f32,
    scale: f32,
}

// Neither number is a NaN.
impl Eq for DocumentFocus {}

impl DocumentFocus {
    /// Ordinary attention.
    pub const OFF: DocumentFocus = DocumentFocus { temperature: 1.0, scale: 1.0 };
    /// The smallest temperature and scale.
    pub const MIN: f32 = 0.1;
    /// The largest temperature and scale.
    pub const MAX: f32 = 4.0;

    /// Scores divided by `temperature`, their log-sum-exp multiplied by `scale`.
    ///
    /// # Errors
    /// [`ParamError`] naming the number that is not from 0.1 to 4.
    pub fn new(temperature: f32, scale: f32) -> Result<DocumentFocus, ParamError> {
        for (field, value) in [("focus.temperature", temperature), ("focus.scale", scale)] {
            if !(Self::MIN..=Self::MAX).contains(&value) {
                return Err(ParamError { field, value: value.to_string(), allowed: "from 0.1 to 4" });
            }
        }
        Ok(DocumentFocus { temperature, scale })
    }

    /// Whether it is anything but ordinary attention.
    #[must_use]
    pub fn is_on(self) -> bool {
        self != Self::OFF
    }

    /// What scores of document keys are divided by.
    #[must_use]
    pub fn temperature(self) -> f32 {
        self.temperature
    }

    /// What the log-sum-exp of these scores is multiplied by.
    #[must_use]
    pub fn scale(self) -> f32 {
        self.scale
    }
}

impl Default for DocumentFocus {
    fn default() -> DocumentFocus {
        DocumentFocus::OFF
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AttentionMode, ContextBuilder, ContextRules, Fingerprint, KeySpace, Segment, SegmentKey, SegmentKind,
        TenantSalt, TokenId,
    };

    #[test]
    fn both_numbers_are_bounded() {
        assert!(!DocumentFocus::new(1.0, 1.0).unwrap().is_on());
        for (temperature, scale) in [(0.1, 4.0), (4.0, 0.1), (1.0, 0.9)] {
            let focus = DocumentFocus::new(temperature, scale).unwrap();
            assert_eq!((focus.temperature(), focus.scale(), focus.is_on()), (temperature, scale, true));
        }
        for wrong in [0.0, 0.09, 4.1, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(DocumentFocus::new(wrong, 1.0).unwrap_err().field, "focus.temperature");
            assert_eq!(DocumentFocus::new(1.0, wrong).unwrap_err().field, "focus.scale");
        }
    }

    #[test]
    fn text_that_looks_at_documents_otherwise_has_another_key_and_nothing_else_has() {
        let keys = KeySpace::new(TenantSalt::SINGLE_USER, Fingerprint::of(&[("model", b"tiny")]));
        let parts: [(SegmentKind, &[u32]); 4] = [
            (SegmentKind::Text, &[7, 7]),
            (SegmentKind::Document, &[1, 2]),
            (SegmentKind::Document, &[3]),
            (SegmentKind::Text, &[9, 8]),
        ];
        let of = |temperature, scale| -> Vec<SegmentKey> {
            let focus = DocumentFocus::new(temperature, scale).unwrap();
            let rules = ContextRules { focus, ..ContextRules::from(AttentionMode::Block) };
            let mut builder = ContextBuilder::new(keys, rules);
            for (kind, ids) in parts {
                builder.push(kind, ids.iter().copied().map(TokenId).collect()).unwrap();
            }
            builder.finish().unwrap().segments().iter().map(Segment::key).collect()
        };
        let plain = of(1.0, 1.0);
        let others = [(0.5, 1.0), (1.0, 0.5), (0.5, 0.5)].map(|(temperature, scale)| of(temperature, scale));
        for (index, other) in others.iter().enumerate() {
            assert_eq!(other[..3], plain[..3]);
            assert!(other[3] != plain[3] && others[..index].iter().all(|earlier| earlier[3] != other[3]));
        }
    }
}
