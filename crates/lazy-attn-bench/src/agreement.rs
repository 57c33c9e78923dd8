//! Whether contenders that compute the same choose the same tokens.

use serde::{Deserialize, Serialize};

use crate::offline::Played;

/// Log-probability by which a token must lead the next one for two computations that round differently to agree on it.
pub const SAFE_MARGIN: f32 = 0.05;

/// How far the greedy tokens of two contenders agree on one trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agreement {
    /// Whose margins count.
    pub base: String,
    /// Who is compared with it.
    pub other: String,
    /// Tokens behind equal ones that lead by more than [`SAFE_MARGIN`].
    pub num_clear: u64,
    /// Those of them that differ.
    pub num_clear_differing: u64,
    /// Requests that differ from a token on that leads by less: rounding may decide there.
    pub num_close_differing: u64,
    /// The largest lead of a token that differs; 0 if none does.
    pub differing_margin_max: f32,
}

impl Agreement {
    /// Compares request by request, up to the first token that differs: what follows has another context.
    #[must_use]
    pub fn between(base: &Played, other: &Played) -> Agreement {
        let mut agreement = Agreement {
            base: base.contender.to_string(),
            other: other.contender.to_string(),
            num_clear: 0,
            num_clear_differing: 0,
            num_close_differing: 0,
            differing_margin_max: 0.0,
        };
        for (ours, theirs) in base.records.iter().zip(&other.records) {
            let margins = ours.output.iter().flat_map(|tokens| tokens.margins.iter().copied());
            for ((ours, theirs), margin) in ours.output_ids().iter().zip(theirs.output_ids()).zip(margins) {
                agreement.count(*ours == theirs, margin);
                if *ours != theirs {
                    break;
                }
            }
        }
        agreement
    }

    /// Whether every token that leads clearly is the same.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.num_clear_differing == 0
    }

    fn count(&mut self, is_same: bool, margin: f32) {
        let is_clear = margin > SAFE_MARGIN;
        self.num_clear += u64::from(is_clear);
        if !is_same {
            self.num_clear_differing += u64::from(is_clear);
            self.num_close_differing += u64::from(!is_clear);
            self.differing_margin_max = self.differing_margin_max.max(margin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lazy_attn_types::{KvPolicy, TokenId};

    use super::*;
    use crate::meter::Observed;
    use crate::record::{RequestRecord, Tokens};

    /// One request that generates `tokens`, each with its margin.
    fn played(tokens: &[(u32, f32)]) -> Played {
        let one = |&(id, margin): &(u32, f32)| Tokens {
            at: Duration::ZERO,
            ids: vec![TokenId(id)],
            margins: vec![margin],
        };
        let record = RequestRecord {
            index: 0,
            sent: Duration::ZERO,
            late: Duration::ZERO,
            ended: Duration::ZERO,
            prompt_tokens: 1,
            documents: Vec::new(),
            output: tokens.iter().map(one).collect(),
            error: None,
        };
        Played {
            contender: KvPolicy::Lazy.into(),
            records: vec![record],
            duration: Duration::ZERO,
            observed: Observed::default(),
            kv_budget_bytes: 0,
        }
    }

    #[test]
    fn a_token_that_leads_clearly_must_be_the_same_and_nothing_counts_behind_a_difference() {
        let base = played(&[(1, 2.0), (2, 0.01), (3, 0.5)]);
        let numbers = |tokens: &[(u32, f32)]| {
            let found = Agreement::between(&base, &played(tokens));
            (found.num_clear, found.num_clear_differing, found.num_close_differing, found.holds())
        };
        assert_eq!(numbers(&[(1, 0.0), (2, 0.0), (3, 0.0)]), (2, 0, 0, true));
        assert_eq!(numbers(&[(1, 0.0), (9, 0.0), (9, 0.0)]), (1, 0, 1, true));
        assert_eq!(numbers(&[(9, 0.0), (2, 0.0), (9, 0.0)]), (1, 1, 0, false));
        assert_eq!(numbers(&[(1, 0.0), (2, 0.0), (9, 0.0)]), (2, 1, 0, false));
    }
}
