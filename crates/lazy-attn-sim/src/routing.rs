//! Which worker gets a request.

use std::fmt;
use std::str::FromStr;

/// Which worker gets a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Routing {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests.
    LeastLoaded,
    /// Every document has a home, by a hash of both (rendezvous hashing: a worker that comes or goes moves only its own
    /// documents). The worker that is home to most of a request's documents gets it, unless it has a quarter more requests than
    /// the mean (bounded loads, Mirrokni et al., arXiv:1608.01350).
    #[default]
    Affinity,
}

impl Routing {
    /// All of them.
    pub const ALL: [Routing; 3] = [Routing::RoundRobin, Routing::LeastLoaded, Routing::Affinity];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Routing::RoundRobin => "round-robin",
            Routing::LeastLoaded => "least-loaded",
            Routing::Affinity => "affinity",
        }
    }
}

impl fmt::Display for Routing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Routing {
    type Err = String;

    fn from_str(name: &str) -> Result<Routing, String> {
        let named = Routing::ALL.into_iter().find(|routing| routing.name() == name);
        named.ok_or_else(|| {
            format!("there is no routing {name:?}; it is round-robin, least-loaded or affinity")
        })
    }
}

/// Sends requests to workers.
#[derive(Debug)]
pub(crate) struct Router {
    routing: Routing,
    next: usize,
    /// Requests that each worker has now.
    loads: Vec<u32>,
}

impl Router {
    pub(crate) fn new(routing: Routing, num_workers: u32) -> Router {
        Router { routing, next: 0, loads: vec![0; num_workers as usize] }
    }

    /// The worker of a request over `documents`, which it has from now on.
    pub(crate) fn send(&mut self, documents: &[u32]) -> usize {
        let worker = match self.routing {
            Routing::RoundRobin => self.next % self.loads.len(),
            Routing::LeastLoaded => self.least_loaded(|_| true),
            Routing::Affinity => self.home(documents),
        };
        self.next += 1;
        self.loads[worker] += 1;
        worker
    }

    /// A request of `worker` has ended.
    pub(crate) fn ended(&mut self, worker: usize) {
        self.loads[worker] -= 1;
    }

    fn least_loaded(&self, is_wanted: impl Fn(usize) -> bool) -> usize {
        let wanted = (0..self.loads.len()).filter(|&worker| is_wanted(worker));
        wanted.min_by_key(|&worker| self.loads[worker]).unwrap_or(0)
    }

    fn home(&self, documents: &[u32]) -> usize {
        let mut num_homed = vec![0u32; self.loads.len()];
        for &document in documents {
            num_homed[home_of(document, self.loads.len())] += 1;
        }
        let all: u32 = self.loads.iter().sum();
        let mean = f64::from(all + 1) / self.loads.len() as f64;
        let has_room = |worker: usize| f64::from(self.loads[worker]) < (1.25 * mean).ceil();
        let most =
            (0..self.loads.len()).filter(|&worker| has_room(worker)).map(|worker| num_homed[worker]).max();
        self.least_loaded(|worker| has_room(worker) && Some(num_homed[worker]) == most)
    }
}

/// The worker whose hash with `document` is largest.
fn home_of(document: u32, num_workers: usize) -> usize {
    let weight = |worker: usize| mix(u64::from(document) << 32 | worker as u64);
    (0..num_workers).max_by_key(|&worker| weight(worker)).unwrap_or(0)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_routing_is_read_by_the_name_it_is_written_as() {
        for routing in Routing::ALL {
            assert_eq!(routing.to_string().parse(), Ok(routing));
        }
        assert!("random".parse::<Routing>().is_err());
    }

    #[test]
    fn round_robin_takes_turns_and_least_loaded_fills_up() {
        let mut router = Router::new(Routing::RoundRobin, 3);
        assert_eq!((0..4).map(|_| router.send(&[1])).collect::<Vec<_>>(), [0, 1, 2, 0]);
        let mut router = Router::new(Routing::LeastLoaded, 3);
        assert_eq!((0..3).map(|_| router.send(&[1])).collect::<Vec<_>>(), [0, 1, 2]);
        router.ended(1);
        assert_eq!(router.send(&[1]), 1);
    }

    #[test]
    fn a_document_stays_at_its_home_while_that_has_room() {
        let mut router = Router::new(Routing::Affinity, 4);
        let home = home_of(7, 4);
        assert_eq!(router.send(&[7]), home);
        router.ended(home);
        assert_eq!(router.send(&[7]), home);
        // More and more of one document spill over instead of queueing at one worker.
        let sent: Vec<usize> = (0..40).map(|_| router.send(&[7])).collect();
        let most = (0..4).map(|worker| sent.iter().filter(|&&at| at == worker).count()).max();
        assert!(most < Some(16), "{sent:?}");
    }

    #[test]
    fn homes_are_spread_evenly_and_a_new_worker_takes_its_share_only() {
        let count = |worker| (0..8000).filter(|&document| home_of(document, 8) == worker).count();
        // Binomial with mean 1000 and deviation 30.
        assert!((0..8).all(|worker| count(worker).abs_diff(1000) < 150));
        let moved = (0..8000).filter(|&document| home_of(document, 8) != home_of(document, 9));
        assert!(moved.into_iter().all(|document| home_of(document, 9) == 8));
    }
}
