//! Prompt tokens that those who wait would have to compute, each segment once however many wait for it.

use std::collections::HashMap;

use lazy_attn_kv::{KvCache, Scope, SegmentNeed};
use lazy_attn_types::SegmentKey;

#[derive(Debug)]
struct Queued {
    num_waiting: u32,
    /// 0 once the segment is in the cache, even if it is evicted again before its turn.
    num_tokens: u64,
}

/// The backlog of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    by_address: HashMap<(Scope, SegmentKey), Queued>,
    num_tokens: u64,
}

impl Backlog {
    pub(crate) fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// Tokens of `needs`, each segment once, that neither the cache holds nor anybody waits for.
    pub(crate) fn missing(&self, needs: impl Iterator<Item = SegmentNeed>, kv: &KvCache) -> u64 {
        let is_missing = |need: &SegmentNeed| {
            !self.by_address.contains_key(&(need.scope, need.key))
                && kv.residency(need.scope, need.key).is_none()
        };
        needs.filter(is_missing).map(|need| u64::from(need.num_tokens)).sum()
    }

    /// A request with `needs` waits from now on.
    pub(crate) fn join(&mut self, needs: impl Iterator<Item = SegmentNeed>, kv: &KvCache) {
        for need in needs {
            let queued = self.by_address.entry((need.scope, need.key)).or_insert_with(|| {
                let is_there = kv.residency(need.scope, need.key).is_some();
                let num_tokens = if is_there { 0 } else { u64::from(need.num_tokens) };
                self.num_tokens += num_tokens;
                Queued { num_waiting: 0, num_tokens }
            });
            queued.num_waiting += 1;
        }
    }

    /// A sample of a request with `needs` started: the cache holds them all.
    pub(crate) fn start(&mut self, needs: impl Iterator<Item = SegmentNeed>) {
        for need in needs {
            if let Some(queued) = self.by_address.get_mut(&(need.scope, need.key)) {
                self.num_tokens -= std::mem::take(&mut queued.num_tokens);
            }
        }
    }

    /// A request with `needs` waits no more.
    pub(crate) fn leave(&mut self, needs: impl Iterator<Item = SegmentNeed>) {
        for need in needs {
            let address = (need.scope, need.key);
            let Some(queued) = self.by_address.get_mut(&address) else { continue };
            queued.num_waiting -= 1;
            if queued.num_waiting == 0 {
                self.num_tokens -= queued.num_tokens;
                self.by_address.remove(&address);
            }
        }
    }
}
