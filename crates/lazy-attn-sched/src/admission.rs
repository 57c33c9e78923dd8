//! Who waits, and who is next.
//!
//! [`AdmissionPolicy`] is the one place that orders waiting requests: document affinity with aging, deficit round robin
//! across tenants, priorities and deadlines are further variants of it, and see what a policy may look at in
//! `Waiting`.

use std::collections::VecDeque;

use lazy_attn_types::{RequestId, SequenceId};

use crate::{SchedError, Submission};

/// Order in which waiting requests are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AdmissionPolicy {
    /// First come, first served; nobody overtakes.
    #[default]
    Fcfs,
}

/// A request with samples that have not started.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) submission: Submission,
    /// Samples started already; they are admitted one by one.
    num_started: usize,
}

impl Waiting {
    pub(crate) fn next_sequence(&self) -> SequenceId {
        self.submission.sequences[self.num_started]
    }
}

/// The bounded queue of waiting requests.
#[derive(Debug)]
pub(crate) struct AdmissionQueue {
    policy: AdmissionPolicy,
    max_waiting: usize,
    waiting: VecDeque<Waiting>,
}

impl AdmissionQueue {
    pub(crate) fn new(policy: AdmissionPolicy, max_waiting: usize) -> AdmissionQueue {
        AdmissionQueue { policy, max_waiting, waiting: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, submission: Submission) -> Result<(), SchedError> {
        if self.waiting.len() >= self.max_waiting {
            return Err(SchedError::QueueFull { waiting: self.waiting.len() });
        }
        self.waiting.push_back(Waiting { submission, num_started: 0 });
        Ok(())
    }

    /// Index of the request to admit next.
    pub(crate) fn next(&self) -> Option<usize> {
        match self.policy {
            AdmissionPolicy::Fcfs => (!self.waiting.is_empty()).then_some(0),
        }
    }

    pub(crate) fn get(&self, index: usize) -> &Waiting {
        &self.waiting[index]
    }

    /// Records that the next sample of `index` runs; after the last one the request waits no more.
    pub(crate) fn start_one(&mut self, index: usize) {
        let waiting = &mut self.waiting[index];
        waiting.num_started += 1;
        if waiting.num_started == waiting.submission.sequences.len() {
            self.waiting.remove(index);
        }
    }

    pub(crate) fn remove(&mut self, request: RequestId) {
        self.waiting.retain(|waiting| waiting.submission.request != request);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}
