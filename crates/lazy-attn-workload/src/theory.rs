//! The hit ratios that a cache of documents can have under [`Popularity`](crate::Popularity): what measured ones are held
//! against.
//!
//! Everything follows from `pi_r`, the probability that a request takes the document of rank `r`. The `k` documents of a request
//! are drawn one after the other without putting back, which is the same as giving every document an exponential clock of its
//! probability as rate and taking the `k` that ring first. So
//!
//! `pi_r = integral over t of p_r exp(-p_r t) P(fewer than k of the others have rung by t)`,
//!
//! and the others are independent: a Poisson binomial, summed exactly here and integrated numerically.

use crate::popularity::probabilities;

/// Step of the integral in the logarithm of time; the integrand is smooth and vanishes at both ends, where the trapezoidal
/// rule converges faster than any power of the step.
const STEP: f64 = 0.05;
/// Ends of the integral, as the mean number of rings of all clocks, and of the slowest.
const FIRST_RINGS: f64 = 1e-9;
const LAST_RINGS: f64 = 50.0;
/// Documents up to which the sum is exact; beyond it the others are taken for infinitely many.
const MAX_EXACT: u32 = 4096;

/// How often documents are asked for, the most popular first.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    inclusion: Vec<f64>,
    per_request: f64,
}

impl Demand {
    /// Of requests that take `per_request` different documents of `num_documents` whose popularity is Zipf's with `alpha`.
    #[must_use]
    pub fn new(num_documents: u32, alpha: f64, per_request: u32) -> Demand {
        let rates = probabilities(num_documents, alpha);
        let k = per_request.min(num_documents) as usize;
        let inclusion = if k == rates.len() {
            vec![1.0; k]
        } else if num_documents <= MAX_EXACT {
            exact_inclusion(&rates, k)
        } else {
            poisson_inclusion(&rates, k as f64)
        };
        Demand { inclusion, per_request: k as f64 }
    }

    /// Probability that a request takes the document of each rank.
    #[must_use]
    pub fn inclusion(&self) -> &[f64] {
        &self.inclusion
    }

    /// The same for copies of documents, one for each of `num_places` places where a document stands equally often.
    #[must_use]
    pub fn per_place(&self, num_places: u32) -> Demand {
        let copies = self.inclusion.iter().map(|pi| pi / f64::from(num_places));
        let copies = copies.flat_map(|pi| std::iter::repeat_n(pi, num_places as usize));
        Demand { inclusion: copies.collect(), per_request: self.per_request }
    }

    /// Hit ratio of a cache that always holds the `capacity` most popular documents: no cache of that size does better without
    /// knowing the future. One that keeps a copy per place of a document, of which there are `D`, does as well as one of
    /// `capacity / D` documents.
    #[must_use]
    pub fn best_hit_ratio(&self, capacity: f64) -> f64 {
        let whole = (capacity.max(0.0) as usize).min(self.inclusion.len());
        let part = self.inclusion.get(whole).map_or(0.0, |next| next * (capacity - whole as f64));
        (self.inclusion[..whole].iter().sum::<f64>() + part) / self.per_request
    }

    /// Hit ratio of a cache that evicts the document whose last use is longest ago: Che's approximation (Che, Tung and Wang
    /// 2002), which gives every document the same time `T` to be asked for again, where `T` fills the cache on average.
    #[must_use]
    pub fn lru_hit_ratio(&self, capacity: f64) -> f64 {
        if capacity >= self.inclusion.len() as f64 {
            return 1.0;
        }
        let held = |requests: f64| self.inclusion.iter().map(move |pi| 1.0 - (1.0 - pi).powf(requests));
        let requests = solve(capacity, |requests| held(requests).sum());
        let hits = self.inclusion.iter().zip(held(requests)).map(|(pi, held)| pi * held);
        hits.sum::<f64>() / self.per_request
    }
}

/// The argument at which the growing `value` reaches `target`.
fn solve(target: f64, value: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while value(high) < target && high < 1e15 {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..80 {
        let middle = 0.5 * (low + high);
        if value(middle) < target { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// For infinitely many others, how many have rung by `t` is certain: `t` is when `k` have (Rosén 1997).
fn poisson_inclusion(rates: &[f64], k: f64) -> Vec<f64> {
    let rung = |time: f64| rates.iter().map(move |rate| -(-rate * time).exp_m1());
    let time = solve(k, |time| rung(time).sum());
    rung(time).collect()
}

fn exact_inclusion(rates: &[f64], k: usize) -> Vec<f64> {
    let mut inclusion = vec![0.0; rates.len()];
    let slowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
    let (first, last) = (FIRST_RINGS.ln(), (LAST_RINGS / slowest).ln());
    for step in 0..=((last - first) / STEP) as u32 {
        let time = (first + f64::from(step) * STEP).exp();
        let few = fewer_than(k, rates, time);
        for ((sum, &rate), few) in inclusion.iter_mut().zip(rates).zip(few) {
            // dt = t d(ln t).
            *sum += rate * (-rate * time).exp() * few * time * STEP;
        }
    }
    inclusion
}

/// For each document, the probability that fewer than `k` of the others have rung by `time`.
fn fewer_than(k: usize, rates: &[f64], time: f64) -> Vec<f64> {
    // Row `i`: probabilities that 0, 1, .. k-1 of the documents behind `i` have rung.
    let mut behind = vec![vec![0.0; k]; rates.len() + 1];
    behind[rates.len()][0] = 1.0;
    for index in (0..rates.len()).rev() {
        behind[index] = with_one_more(&behind[index + 1], rates[index], time);
    }
    let mut before = vec![0.0; k];
    before[0] = 1.0;
    let mut few = Vec::with_capacity(rates.len());
    for (index, &rate) in rates.iter().enumerate() {
        let mut up_to = 0.0;
        let cumulative: Vec<f64> = behind[index + 1]
            .iter()
            .map(|part| {
                up_to += part;
                up_to
            })
            .collect();
        few.push((0..k).map(|rung| before[rung] * cumulative[k - 1 - rung]).sum());
        before = with_one_more(&before, rate, time);
    }
    few
}

/// The distribution of a count, cut at its length, with one more document in it.
fn with_one_more(counts: &[f64], rate: f64, time: f64) -> Vec<f64> {
    let silent = (-rate * time).exp();
    let rung = -(-rate * time).exp_m1();
    let fewer = std::iter::once(0.0).chain(counts.iter().copied());
    counts.iter().zip(fewer).map(|(&same, fewer)| same * silent + fewer * rung).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Popularity;
    use crate::rng::{Purpose, Rng};

    #[test]
    fn a_request_takes_as_many_documents_as_it_takes() {
        for (n, alpha, k) in
            [(100, 0.0, 5), (100, 2.1, 5), (64, 1.1, 16), (300, 0.8, 1), (5, 1.0, 5), (9, 4.0, 8)]
        {
            let demand = Demand::new(n, alpha, k);
            let sum: f64 = demand.inclusion().iter().sum();
            assert!((sum - f64::from(k)).abs() < 1e-6, "{n} {alpha} {k}: {sum}");
        }
    }

    #[test]
    fn inclusion_is_what_draws_show() {
        let (n, alpha, k, num_requests) = (40, 1.5, 5, 20_000u32);
        let pool = Popularity::new(n, alpha, 9).unwrap();
        let mut counts = vec![0u32; n as usize];
        for request in 0..num_requests {
            let drawn = pool.draw(k, &mut Rng::new(9, Purpose::Requests, u64::from(request)));
            drawn.iter().for_each(|&document| counts[document as usize] += 1);
        }
        for (rank, &pi) in Demand::new(n, alpha, k).inclusion().iter().enumerate() {
            let share = f64::from(counts[pool.by_rank()[rank] as usize]) / f64::from(num_requests);
            let error = (pi * (1.0 - pi) / f64::from(num_requests)).sqrt();
            // 40 ranks: four standard errors are passed by chance in 1 of 400 runs, and the seed is fixed.
            assert!((share - pi).abs() < 4.0 * error + 1e-9, "rank {rank}: {share}, not {pi}");
        }
    }

    #[test]
    fn many_documents_are_the_limit_of_few() {
        let rates = probabilities(2000, 0.8);
        let (exact, limit) = (exact_inclusion(&rates, 8), poisson_inclusion(&rates, 8.0));
        let worst = exact.iter().zip(&limit).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // One more or less among the first 8 of rates below 1/50.
        assert!(worst < 0.01, "{worst}");
    }

    #[test]
    fn hit_ratios_grow_from_nothing_to_all_and_nobody_beats_the_best() {
        let demand = Demand::new(100, 1.1, 5);
        assert_eq!(demand.best_hit_ratio(0.0), 0.0);
        assert!((demand.best_hit_ratio(100.0) - 1.0).abs() < 1e-6);
        let mut last = 0.0;
        for capacity in [5.0, 10.0, 25.0, 50.0, 99.0] {
            let (best, lru) = (demand.best_hit_ratio(capacity), demand.lru_hit_ratio(capacity));
            assert!(last < lru && lru < best, "{capacity}: {lru} {best}");
            last = lru;
        }
        let copies = demand.per_place(5);
        assert!((copies.best_hit_ratio(10.0) - demand.best_hit_ratio(2.0)).abs() < 1e-12);
        assert!(copies.lru_hit_ratio(10.0) < demand.lru_hit_ratio(10.0));
        let between = demand.best_hit_ratio(2.5);
        let mean = 0.5 * (demand.best_hit_ratio(2.0) + demand.best_hit_ratio(3.0));
        assert!((between - mean).abs() < 1e-12);
    }

    #[test]
    fn of_uniform_documents_every_cache_hits_its_share() {
        let demand = Demand::new(100, 0.0, 5);
        assert!((demand.best_hit_ratio(25.0) - 0.25).abs() < 1e-6);
        assert!((demand.lru_hit_ratio(25.0) - 0.25).abs() < 1e-6);
    }
}
