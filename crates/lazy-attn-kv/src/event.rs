//! What came and went, for whoever mirrors the cache.

use std::collections::BTreeSet;

use lazy_attn_types::{SegmentHandle, SegmentKey};

use crate::KvCache;

/// A change of which documents are resident. Texts are left out: nobody else could name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvEvent {
    /// A document is complete: from now on it is a hit.
    Stored {
        /// Its content.
        key: SegmentKey,
        /// Its length.
        num_tokens: u32,
    },
    /// A complete document is gone: from now on it is a miss.
    Evicted {
        /// Its content.
        key: SegmentKey,
        /// Its length.
        num_tokens: u32,
    },
}

/// Changes not yet taken; empty as long as nobody asked for them.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    is_on: bool,
    events: Vec<KvEvent>,
}

impl EventLog {
    pub(crate) fn push(&mut self, event: KvEvent) {
        if self.is_on {
            self.events.push(event);
        }
    }
}

impl KvCache {
    /// Starts to record events. Whoever does takes them regularly: they pile up in between.
    pub fn record_events(&mut self) {
        self.events.is_on = true;
    }

    /// The events since the last call, oldest first.
    pub fn take_events(&mut self) -> Vec<KvEvent> {
        std::mem::take(&mut self.events.events)
    }

    /// Every complete document with its length, in no order: what the events so far add up to.
    pub fn complete_documents(&self) -> impl Iterator<Item = (SegmentKey, u32)> {
        let first = move |copies: &BTreeSet<SegmentHandle>| {
            let entries = copies.iter().map(|&handle| self.entry(handle));
            entries.filter(|entry| entry.is_shared_document()).find(|entry| entry.holds_content())
        };
        let documents = self.copies.values().filter_map(first);
        documents.map(|entry| (entry.address.key, entry.num_tokens))
    }
}
