//! Who waits, and who is next.
//!
//! [`AdmissionPolicy`] is the one place that orders waiting requests.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use lazy_attn_kv::{KvCache, SegmentNeed};
use lazy_attn_types::{KvPolicy, RequestId, SegmentKind, SequenceId, TenantSalt, Timestamp};

use crate::affinity::Sight;
use crate::backlog::Backlog;
use crate::fairness::{Offers, Rounds, Visit};
use crate::{Affinity, SchedConfig, SchedError, Submission};

/// Order in which waiting requests are admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdmissionPolicy {
    /// First come, first served; nobody overtakes, and tenants and priorities are ignored.
    Fcfs,
    /// Tenants in turn by deficit round robin; of one tenant the largest priority first; of one priority by
    /// [document affinity with aging](crate::affinity), which bounds who may overtake whom.
    Affinity(Affinity),
}

impl Default for AdmissionPolicy {
    fn default() -> Self {
        AdmissionPolicy::Affinity(Affinity::default())
    }
}

/// Names a waiting request; smaller came earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ticket(u64);

/// A request with samples that have not started.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) submission: Submission,
    pub(crate) arrival: Timestamp,
    /// What a reservation asks for.
    pub(crate) needs: Arc<[SegmentNeed]>,
    /// The same, each segment once.
    distinct: Vec<(SegmentNeed, SegmentKind)>,
    sight: Sight,
    /// Tokens it added to its tenant's backlog.
    added_tokens: u64,
    /// Samples started already; they are admitted one by one.
    num_started: usize,
}

impl Waiting {
    pub(crate) fn new(submission: Submission, arrival: Timestamp, kv_policy: KvPolicy) -> Waiting {
        let needs = submission.needs(kv_policy);
        let mut seen = HashSet::new();
        let kinds = submission.context.segments().iter().map(lazy_attn_types::Segment::kind);
        let distinct =
            needs.iter().copied().zip(kinds).filter(|(need, _)| seen.insert(need.address())).collect();
        Waiting {
            submission,
            arrival,
            needs: needs.into(),
            distinct,
            sight: Sight::default(),
            added_tokens: 0,
            num_started: 0,
        }
    }

    fn distinct(&self) -> impl Iterator<Item = SegmentNeed> {
        self.distinct.iter().map(|(need, _)| *need)
    }

    pub(crate) fn next_sequence(&self) -> SequenceId {
        self.submission.sequences[self.num_started]
    }
}

/// The request to admit next, and what its admission changes for the tenants.
#[derive(Debug)]
pub(crate) struct Pick {
    pub(crate) ticket: Ticket,
    turn: Option<(Offers, Visit)>,
}

/// The bounded queue of waiting requests.
#[derive(Debug)]
pub(crate) struct AdmissionQueue {
    policy: AdmissionPolicy,
    max_waiting: usize,
    max_waiting_tokens: u64,
    group_cap: u32,
    waiting: BTreeMap<Ticket, Waiting>,
    rounds: Rounds,
    /// What the cache was when everybody who waits was looked up.
    looked: u64,
    backlogs: HashMap<TenantSalt, Backlog>,
    next_ticket: u64,
}

impl AdmissionQueue {
    pub(crate) fn new(config: &SchedConfig) -> AdmissionQueue {
        let affinity = match config.admission {
            AdmissionPolicy::Affinity(affinity) => affinity,
            AdmissionPolicy::Fcfs => Affinity::default(),
        };
        AdmissionQueue {
            policy: config.admission,
            max_waiting: config.max_waiting,
            max_waiting_tokens: config.max_waiting_tokens,
            group_cap: affinity.group_cap(config.max_running),
            waiting: BTreeMap::new(),
            rounds: Rounds::new(u64::from(affinity.tenant_quantum_tokens)),
            looked: 0,
            backlogs: HashMap::new(),
            next_ticket: 0,
        }
    }

    /// Refuses `waiting` if the queue is full of requests or of tokens.
    pub(crate) fn check(&self, waiting: &Waiting, kv: &KvCache) -> Result<(), SchedError> {
        if self.waiting.len() >= self.max_waiting {
            return Err(SchedError::QueueFull { waiting: self.waiting.len() });
        }
        let (waiting_tokens, needed_tokens) = (self.waiting_tokens(), self.missing(waiting, kv));
        let max_tokens = self.max_waiting_tokens;
        if !self.waiting.is_empty() && waiting_tokens.saturating_add(needed_tokens) > max_tokens {
            return Err(SchedError::BacklogFull { waiting_tokens, needed_tokens, max_tokens });
        }
        Ok(())
    }

    /// Lets `waiting` wait; the caller checked that it may.
    pub(crate) fn push(&mut self, mut waiting: Waiting, kv: &KvCache) {
        waiting.added_tokens = self.missing(&waiting, kv);
        waiting.sight = Sight::of(&waiting.distinct, kv);
        let tenant = waiting.submission.tenant;
        self.rounds.join(tenant);
        self.backlogs.entry(tenant).or_default().join(waiting.distinct(), kv);
        self.waiting.insert(Ticket(self.next_ticket), waiting);
        self.next_ticket += 1;
    }

    /// Prompt tokens that those who wait would have to compute.
    pub(crate) fn waiting_tokens(&self) -> u64 {
        self.backlogs.values().map(Backlog::num_tokens).sum()
    }

    /// Prompt tokens that `waiting` would add to its tenant's backlog.
    fn missing(&self, waiting: &Waiting, kv: &KvCache) -> u64 {
        let nothing = Backlog::default();
        let backlog = self.backlogs.get(&waiting.submission.tenant).unwrap_or(&nothing);
        backlog.missing(waiting.distinct(), kv)
    }

    /// An estimate of the prompt tokens that are started before `waiting` has its first token, its own included: those
    /// of its tenant that go no later by priority, and as many of every other tenant that waits, as far as there are.
    pub(crate) fn tokens_ahead(&self, waiting: &Waiting, kv: &KvCache) -> u64 {
        let (own, all) = (self.missing(waiting, kv) + 1, self.waiting_tokens());
        if self.policy == AdmissionPolicy::Fcfs {
            return own + all;
        }
        let Submission { tenant, priority, .. } = waiting.submission;
        let of_tenant = self.backlogs.get(&tenant).map_or(0, Backlog::num_tokens);
        let earlier = self
            .waiting
            .values()
            .filter(|earlier| earlier.submission.tenant == tenant && earlier.submission.priority >= priority);
        let before = earlier.map(|earlier| earlier.added_tokens).sum::<u64>().min(of_tenant);
        let num_others = self.backlogs.keys().filter(|&&other| other != tenant).count() as u64;
        let of_others = (all - of_tenant).min((before + own) * num_others);
        own + before + of_others
    }

    /// Looks up what the cache holds for everybody who waits.
    pub(crate) fn look(&mut self, kv: &KvCache) {
        if self.policy != AdmissionPolicy::Fcfs && self.looked != kv.generation() {
            self.looked = kv.generation();
            for waiting in self.waiting.values_mut() {
                waiting.sight = Sight::of(&waiting.distinct, kv);
            }
        }
    }

    /// The request to admit next, by what the last look saw, where a prompt token takes `token_nanos`.
    pub(crate) fn next(&self, token_nanos: u64) -> Option<Pick> {
        match self.policy {
            AdmissionPolicy::Fcfs => {
                let (&ticket, _) = self.waiting.first_key_value()?;
                Some(Pick { ticket, turn: None })
            }
            AdmissionPolicy::Affinity(affinity) => self.next_by_affinity(&affinity, token_nanos),
        }
    }

    /// Members of a group at its cap step aside while anybody else waits.
    fn next_by_affinity(&self, affinity: &Affinity, token_nanos: u64) -> Option<Pick> {
        let is_capped = |waiting: &&Waiting| waiting.sight.largest_group >= self.group_cap;
        let all_capped = self.waiting.values().all(|waiting| is_capped(&waiting));
        let mut firsts: HashMap<TenantSalt, (Place, u64)> = HashMap::new();
        for (&ticket, waiting) in self.waiting.iter().filter(|(_, waiting)| all_capped || !is_capped(waiting))
        {
            let at = affinity.place(waiting.arrival, waiting.sight, token_nanos);
            let place = (Reverse(waiting.submission.priority), at, ticket);
            let offer = (place, waiting.sight.uncached);
            let first = firsts.entry(waiting.submission.tenant).or_insert(offer);
            *first = (*first).min(offer);
        }
        let offers: Offers = firsts.iter().map(|(&tenant, &(_, cost))| (tenant, cost)).collect();
        let visit = self.rounds.next(&offers)?;
        let ((_, _, ticket), _) = firsts[&visit.tenant];
        Some(Pick { ticket, turn: Some((offers, visit)) })
    }

    pub(crate) fn get(&self, ticket: Ticket) -> &Waiting {
        &self.waiting[&ticket]
    }

    /// Records that the next sample of `pick` runs, with its segments in the cache; after its last sample a request
    /// waits no more.
    pub(crate) fn start_one(&mut self, pick: Pick, kv: &KvCache) {
        if let Some((offers, visit)) = pick.turn {
            self.rounds.serve(&offers, visit);
        }
        let Some(started) = self.waiting.get_mut(&pick.ticket) else { return };
        started.num_started += 1;
        if let Some(backlog) = self.backlogs.get_mut(&started.submission.tenant) {
            backlog.start(started.distinct());
        }
        // Other copies of what it holds count as well.
        let content = |need: &SegmentNeed| (need.scope, need.key);
        let held: HashSet<_> = started.distinct.iter().map(|(need, _)| content(need)).collect();
        if started.num_started == started.submission.sequences.len() {
            self.take(pick.ticket);
        }
        if self.policy != AdmissionPolicy::Fcfs {
            // Only who shares a segment sees a difference.
            let touched = |need: &SegmentNeed| held.contains(&content(need));
            let sharing = self.waiting.values_mut();
            for waiting in sharing.filter(|waiting| waiting.needs.iter().any(touched)) {
                waiting.sight = Sight::of(&waiting.distinct, kv);
            }
        }
    }

    pub(crate) fn remove(&mut self, request: RequestId) {
        let of_request = |(_, waiting): &(&Ticket, &Waiting)| waiting.submission.request == request;
        if let Some(ticket) = self.waiting.iter().find(of_request).map(|(&ticket, _)| ticket) {
            self.take(ticket);
        }
    }

    fn take(&mut self, ticket: Ticket) {
        let Some(gone) = self.waiting.remove(&ticket) else { return };
        let tenant = gone.submission.tenant;
        let Some(backlog) = self.backlogs.get_mut(&tenant) else { return };
        backlog.leave(gone.distinct());
        if self.waiting.values().all(|waiting| waiting.submission.tenant != tenant) {
            assert!(backlog.num_tokens() == 0, "who waits for nothing has no backlog");
            self.backlogs.remove(&tenant);
            self.rounds.leave(tenant);
        }
    }

    /// Asserts that the tenants that wait have a turn and a backlog each, and that every sight is that of the cache, if
    /// the cache is as it was at the last look.
    pub(crate) fn check_invariants(&self, kv: &KvCache) {
        let tenants: HashSet<TenantSalt> =
            self.waiting.values().map(|waiting| waiting.submission.tenant).collect();
        assert!(self.backlogs.len() == tenants.len() && self.rounds.len() == tenants.len(), "one each");
        assert!(tenants.iter().all(|tenant| self.backlogs.contains_key(tenant)), "of those who wait");
        if self.policy != AdmissionPolicy::Fcfs && self.looked == kv.generation() {
            for waiting in self.waiting.values() {
                assert_eq!(waiting.sight, Sight::of(&waiting.distinct, kv), "a look lasts a generation");
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

/// Smallest first: priority, affinity, arrival.
type Place = (Reverse<i32>, i128, Ticket);
