//! Deficit round robin across tenants (Shreedhar and Varghese, 1996): each visit adds a quantum to a tenant's
//! allowance, and a tenant starts what its allowance pays for.
//!
//! Rounds in which nobody can pay are skipped by arithmetic, and nothing changes until something is started, so a
//! request that waits for room neither costs nor earns. A tenant's allowance stays below one quantum and its most
//! expensive request, and tenants that wait are visited equally often up to one visit: what two of them started since
//! both wait differs by less than two quanta and the most expensive request.

use std::collections::{HashMap, VecDeque};

use lazy_attn_types::TenantSalt;

/// What each tenant would start next would cost this many tokens.
pub(crate) type Offers = HashMap<TenantSalt, u64>;

#[derive(Debug)]
struct Turn {
    tenant: TenantSalt,
    allowance: u64,
}

/// The tenants that wait, the one being visited first.
#[derive(Debug)]
pub(crate) struct Rounds {
    quantum: u64,
    ring: VecDeque<Turn>,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Visit {
    pub(crate) tenant: TenantSalt,
    /// Visits before it, counted from the tenant at the front.
    time: u64,
    place: usize,
}

impl Rounds {
    pub(crate) fn new(quantum: u64) -> Rounds {
        Rounds { quantum, ring: VecDeque::new() }
    }

    /// `tenant` has something that waits.
    pub(crate) fn join(&mut self, tenant: TenantSalt) {
        if self.ring.iter().all(|turn| turn.tenant != tenant) {
            // Who comes alone is being visited already.
            let allowance = if self.ring.is_empty() { self.quantum } else { 0 };
            self.ring.push_back(Turn { tenant, allowance });
        }
    }

    /// `tenant` waits for nothing any more; its allowance goes with it.
    pub(crate) fn leave(&mut self, tenant: TenantSalt) {
        let was_visited = self.ring.front().is_some_and(|turn| turn.tenant == tenant);
        self.ring.retain(|turn| turn.tenant != tenant);
        if let (true, Some(next)) = (was_visited, self.ring.front_mut()) {
            next.allowance += self.quantum;
        }
    }

    /// Tenants that wait.
    pub(crate) fn len(&self) -> usize {
        self.ring.len()
    }

    /// The first visit that can pay for its tenant's offer.
    pub(crate) fn next(&self, offers: &Offers) -> Option<Visit> {
        let visit = |(place, turn): (usize, &Turn)| {
            let cost = *offers.get(&turn.tenant)?;
            let num_visits = cost.saturating_sub(turn.allowance).div_ceil(self.quantum);
            let time = self.time_of(place, num_visits);
            Some(Visit { tenant: turn.tenant, time, place })
        };
        self.ring.iter().enumerate().filter_map(visit).min_by_key(|visit| visit.time)
    }

    /// Starts the offer of `visit`: every tenant with an offer earns the visits up to it, and its tenant pays.
    pub(crate) fn serve(&mut self, offers: &Offers, visit: Visit) {
        for place in 0..self.ring.len() {
            let num_visits = self.visits_until(place, visit.time);
            let turn = &mut self.ring[place];
            if offers.contains_key(&turn.tenant) {
                turn.allowance += num_visits * self.quantum;
            }
        }
        self.ring.rotate_left(visit.place);
        if let (Some(turn), Some(&cost)) = (self.ring.front_mut(), offers.get(&visit.tenant)) {
            assert!(turn.allowance >= cost, "a visit comes when the allowance pays for the offer");
            turn.allowance -= cost;
        }
    }

    /// When `place` is visited for the `num_visits`-th time. The front is being visited: its next visit ends a round.
    fn time_of(&self, place: usize, num_visits: u64) -> u64 {
        let (place, num_tenants) = (place as u64, self.ring.len() as u64);
        if place == 0 { num_visits * num_tenants } else { (num_visits.max(1) - 1) * num_tenants + place }
    }

    fn visits_until(&self, place: usize, time: u64) -> u64 {
        let (place, num_tenants) = (place as u64, self.ring.len() as u64);
        match time.checked_sub(place) {
            None => 0,
            Some(after) => after / num_tenants + u64::from(place > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tenant(index: usize) -> TenantSalt {
        TenantSalt([index as u8; 32])
    }

    /// Serves `num_served` requests of tenants that always wait; tenant `i` asks for `costs[i]` in turn.
    fn served(quantum: u64, costs: &[Vec<u64>], num_served: usize) -> Vec<u64> {
        let mut rounds = Rounds::new(quantum);
        (0..costs.len()).for_each(|index| rounds.join(tenant(index)));
        let mut totals = vec![0; costs.len()];
        let mut nexts = vec![0; costs.len()];
        for _ in 0..num_served {
            let cost = |index: usize| costs[index][nexts[index] % costs[index].len()];
            let offers: Offers = (0..costs.len()).map(|index| (tenant(index), cost(index))).collect();
            let visit = rounds.next(&offers).unwrap();
            let index = usize::from(visit.tenant.0[0]);
            totals[index] += cost(index);
            nexts[index] += 1;
            rounds.serve(&offers, visit);
        }
        totals
    }

    #[test]
    fn a_tenant_with_small_requests_starts_as_many_tokens_as_one_with_large_ones() {
        assert_eq!(served(10, &[vec![10], vec![1]], 22), [20, 20]);
    }

    #[test]
    fn a_lone_tenant_is_always_next() {
        assert_eq!(served(3, &[vec![1000]], 5), [5000]);
    }

    #[test]
    fn one_that_leaves_takes_its_allowance_along() {
        let mut rounds = Rounds::new(10);
        rounds.join(tenant(0));
        let offers = Offers::from([(tenant(0), 1)]);
        let visit = rounds.next(&offers).unwrap();
        rounds.serve(&offers, visit);
        assert_eq!(rounds.ring[0].allowance, 9);
        rounds.leave(tenant(0));
        rounds.join(tenant(0));
        assert_eq!((rounds.len(), rounds.ring[0].allowance), (1, 10));
    }

    proptest! {
        #[test]
        fn tenants_that_wait_start_equal_tokens_up_to_a_quantum_and_a_request(
            quantum in 1u64..40,
            costs in prop::collection::vec(prop::collection::vec(1u64..100, 1..5), 2..5),
            num_served in 1usize..200,
        ) {
            let totals = served(quantum, &costs, num_served);
            // Every allowance is in `0..=quantum + 99`, and at any moment visits differ by at most one: the difference
            // of two totals is below two quanta and the most expensive request.
            let spread = totals.iter().max().unwrap() - totals.iter().min().unwrap();
            prop_assert!(spread < 2 * quantum + 100, "{totals:?}");
        }
    }
}
