//! Document affinity with aging: who is next among the requests of one tenant and one priority.
//!
//! A request's cost is `c_prefill * uncached tokens - bonus * shared tokens - aging * time waited`, where both weights grow with
//! the time that a prompt token takes on this device, as measured. With time itself as
//! the unit the aging is 1, so the first two terms are a *head start* in microseconds: a request that arrived at `a` is
//! ordered by `a - h`, the smallest first, and ties go in order of arrival. `h` is the head start squashed into
//! `(-T/2, T/2)` with `T = max_overtaking_micros`.
//!
//! **Bound.** While `r` waits, no request that arrived more than `T` after it is admitted before it.
//! *Proof.* Let `s` be admitted at some moment while `r` waits. Both were ordered with the head starts they had at that
//! moment, so `a_s - h_s <= a_r - h_r`, hence `a_s - a_r <= h_s - h_r <= T/2 - (-T/2) = T`. Head starts may change
//! between moments as documents come and go; nothing above depends on their history. ∎
//!
//! The bound is for two requests of one tenant and one priority, while no document of `r` is at the group cap: other
//! tenants have their turns by [deficit round robin](crate::fairness), a larger priority goes first by definition, and
//! a group at its cap holds its whole share of the slots already.

use lazy_attn_kv::{FillState, KvCache, SegmentNeed};
use lazy_attn_types::{SegmentKind, Timestamp};

use crate::SchedError;

/// The weights of affinity and the bounds of fairness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// Head start, in microseconds per document token that running sequences hold already, where prompt tokens take
    /// [`Affinity::TOKEN_NANOS`] or less; where they take longer, so much more.
    pub shared_token_micros: u32,
    /// Handicap, in microseconds per prompt token that has to be computed; grows in the same way.
    pub uncached_token_micros: u32,
    /// A request is overtaken only by requests that arrived at most this many microseconds after it.
    pub max_overtaking_micros: u64,
    /// While others wait, the sequences that share one document hold at most this share of the slots.
    pub max_group_percent: u32,
    /// Prompt tokens to compute that a tenant may start per turn while others wait, at least 1.
    pub tenant_quantum_tokens: u32,
}

impl Default for Affinity {
    /// Four seconds of overtaking at most, two each way, half of which 2500 tokens to compute use up; half of the slots per document.
    ///
    /// A token that is computed takes its time from everybody who waits, not from its own request alone, so that it counts for
    /// 40 times the time it takes. What the weights are worth under load: `docs/capacity.md`.
    fn default() -> Self {
        Affinity {
            shared_token_micros: 200,
            uncached_token_micros: 800,
            max_overtaking_micros: 4_000_000,
            max_group_percent: 50,
            tenant_quantum_tokens: 512,
        }
    }
}

impl Affinity {
    /// Time per prompt token that the weights are meant for: about what an 8B model takes on an H100 or H200.
    pub const TOKEN_NANOS: u64 = 20_000;

    pub(crate) fn validate(&self) -> Result<(), SchedError> {
        let (percent, quantum) = (self.max_group_percent, self.tenant_quantum_tokens);
        let refused = |field, value, allowed| Err(SchedError::Config { field, value, allowed });
        if !(1..=100).contains(&percent) {
            return refused("max_group_percent", u64::from(percent), "between 1 and 100");
        }
        if quantum == 0 {
            return refused("tenant_quantum_tokens", 0, "at least 1");
        }
        Ok(())
    }

    /// Sequences that may share a document while others wait.
    pub(crate) fn group_cap(&self, max_running: u32) -> u32 {
        let cap = u64::from(max_running) * u64::from(self.max_group_percent) / 100;
        // A share of a `u32` is a `u32`.
        (cap as u32).max(1)
    }

    /// The place in line of a request that arrived at `arrival`, the smallest first, where a prompt token takes `token_nanos`.
    pub(crate) fn place(&self, arrival: Timestamp, sight: Sight, token_nanos: u64) -> i128 {
        let gain = i128::from(sight.shared) * i128::from(self.shared_token_micros);
        let loss = i128::from(sight.uncached) * i128::from(self.uncached_token_micros);
        let most = i128::from(self.max_overtaking_micros / 2);
        let meant_for = i128::from(Self::TOKEN_NANOS);
        let slowness = i128::from(token_nanos.min(1 << 40)).max(meant_for);
        let head_start = (gain - loss).clamp(-LARGEST, LARGEST) * slowness / meant_for;
        i128::from(arrival.0) - squash(head_start, most)
    }
}

/// `value` squashed into `[-most, most]`: nearly itself where it is small beside them, and of two larger ones the larger stays so,
/// which cutting at the bounds would lose.
fn squash(value: i128, most: i128) -> i128 {
    let value = value.clamp(-LARGEST, LARGEST);
    if most == 0 { 0 } else { most * value / (value.abs() + most) }
}

/// A head start above which none are told apart, so that products of it and half a `u64` fit.
const LARGEST: i128 = 1 << 62;

/// What the cache holds for a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sight {
    /// Prompt tokens that nobody has computed or is computing; the last one is always run.
    pub(crate) uncached: u64,
    /// Document tokens that running sequences hold.
    pub(crate) shared: u64,
    /// Running references to its most popular document.
    pub(crate) largest_group: u32,
}

impl Sight {
    /// Looks `needs`, each segment once, up in the cache.
    pub(crate) fn of(needs: &[(SegmentNeed, SegmentKind)], kv: &KvCache) -> Sight {
        let mut sight = Sight { uncached: 1, ..Sight::default() };
        for (need, kind) in needs {
            let num_tokens = u64::from(need.num_tokens);
            let Some(found) = kv.residency_of(need) else {
                sight.uncached += num_tokens;
                continue;
            };
            let is_held = found.num_refs > 0;
            assert!(is_held || found.state == FillState::Complete, "what is being filled is held");
            if is_held && *kind == SegmentKind::Document {
                sight.shared += num_tokens;
                sight.largest_group = sight.largest_group.max(found.num_refs);
            }
        }
        sight
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AFFINITY: Affinity = Affinity {
        shared_token_micros: 1,
        uncached_token_micros: 2,
        max_overtaking_micros: 1000,
        max_group_percent: 50,
        tenant_quantum_tokens: 1,
    };

    fn place(arrival: u64, shared: u64, uncached: u64) -> i128 {
        AFFINITY.place(Timestamp(arrival), Sight { uncached, shared, largest_group: 0 }, 0)
    }

    #[test]
    fn shared_tokens_bring_a_request_forward_and_uncached_ones_hold_it_back_up_to_the_cap() {
        // Head starts of 100, 100 - 160, and far more than half of the bound: 500.
        assert_eq!(place(5000, 100, 0), 5000 - 500 * 100 / 600);
        assert_eq!(place(5000, 100, 80), 5000 + 500 * 60 / 560);
        assert_eq!(place(5000, 1 << 30, 0), 4501);
        assert_eq!(place(5000, 0, 1 << 30), 5499);
        assert_eq!(place(0, u64::MAX, 0), -499);
        let unbounded =
            Affinity { max_overtaking_micros: u64::MAX, shared_token_micros: u32::MAX, ..AFFINITY };
        let sight = Sight { uncached: 0, shared: u64::MAX, largest_group: 0 };
        assert!(unbounded.place(Timestamp(0), sight, u64::MAX) < -(1 << 61), "no overflow");
    }

    #[test]
    fn long_requests_of_which_more_is_there_go_first() {
        let [most, half, none] = [0, 5000, 10_000].map(|uncached| place(0, 0, uncached));
        assert!(most < half && half < none, "{most} {half} {none}");
    }

    #[test]
    fn tokens_weigh_more_where_they_take_longer() {
        let sight = Sight { uncached: 0, shared: 100, largest_group: 0 };
        let head_start = |token_nanos| -AFFINITY.place(Timestamp(0), sight, token_nanos);
        assert_eq!(head_start(Affinity::TOKEN_NANOS), head_start(0));
        assert_eq!(head_start(3 * Affinity::TOKEN_NANOS), 500 * 300 / 800);
    }

    #[test]
    fn a_group_always_has_one_slot() {
        assert_eq!(AFFINITY.group_cap(1), 1);
        assert_eq!(AFFINITY.group_cap(9), 4);
        assert_eq!(Affinity { max_group_percent: 100, ..AFFINITY }.group_cap(u32::MAX), u32::MAX);
    }

    proptest! {
        #[test]
        fn whoever_arrived_later_than_the_bound_is_behind(
            arrival in 0u64..1 << 40, later in 1u64..1 << 40,
            mine in (0u64..1 << 31, 0u64..1 << 31), theirs in (0u64..1 << 31, 0u64..1 << 31),
        ) {
            let bound = AFFINITY.max_overtaking_micros;
            let me = place(arrival, mine.0, mine.1);
            prop_assert!(me < place(arrival + bound + later, theirs.0, theirs.1));
        }
    }
}
