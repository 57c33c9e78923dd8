//! Which documents a request takes.

use crate::WorkloadError;
use crate::rng::{Purpose, Rng};

/// Draws in a row that may hit what is taken already, per document wanted, before the rest is drawn in one pass.
const MAX_DRAWS: u32 = 64;

/// A pool of documents with Zipf popularity: the document of rank `r` (from 1) is drawn with probability proportional to
/// `r^-alpha`. Which document has which rank is a random permutation that is fixed for the pool.
#[derive(Debug, Clone)]
pub struct Popularity {
    /// Sums of the probabilities of the ranks up to each, ending with 1.
    cumulative: Vec<f64>,
    /// The document of each rank.
    documents: Vec<u32>,
}

impl Popularity {
    /// Most documents of a pool.
    pub const MAX_DOCUMENTS: u32 = 1 << 24;

    /// A pool of `num_documents` whose ranks follow from `seed`.
    ///
    /// # Errors
    /// [`WorkloadError::Param`] for no document or more than [`Popularity::MAX_DOCUMENTS`], and for an `alpha` that is not
    /// from 0 to 8.
    pub fn new(num_documents: u32, alpha: f64, seed: u64) -> Result<Popularity, WorkloadError> {
        if num_documents == 0 || num_documents > Self::MAX_DOCUMENTS {
            let (value, allowed) = (num_documents.to_string(), "from 1 to 16777216");
            return Err(WorkloadError::Param { field: "num_documents", value, allowed });
        }
        if !(0.0..=8.0).contains(&alpha) {
            let value = alpha.to_string();
            return Err(WorkloadError::Param { field: "alpha", value, allowed: "from 0 to 8" });
        }
        let mut documents: Vec<u32> = (0..num_documents).collect();
        Rng::new(seed, Purpose::Ranks, 0).shuffle(&mut documents);
        let weights = probabilities(num_documents, alpha);
        let cumulative = weights.iter().scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        });
        Ok(Popularity { cumulative: cumulative.collect(), documents })
    }

    /// Documents of the pool.
    #[must_use]
    pub fn num_documents(&self) -> u32 {
        self.documents.len() as u32
    }

    /// The document of each rank, the most popular first.
    #[must_use]
    pub fn by_rank(&self) -> &[u32] {
        &self.documents
    }

    /// `count` different documents in random order.
    ///
    /// They are drawn one after the other, each in proportion to its popularity among those not yet taken, and then
    /// shuffled. Of a `count` above the pool's size, the whole pool is taken.
    #[must_use]
    pub fn draw(&self, count: u32, rng: &mut Rng) -> Vec<u32> {
        let count = count.min(self.num_documents()) as usize;
        let mut ranks: Vec<usize> = Vec::with_capacity(count);
        let mut draws_left = MAX_DRAWS.saturating_mul(count as u32);
        while ranks.len() < count && draws_left > 0 {
            draws_left -= 1;
            let at = rng.unit();
            let rank = self.cumulative.partition_point(|&sum| sum <= at).min(self.documents.len() - 1);
            if !ranks.contains(&rank) {
                ranks.push(rank);
            }
        }
        if ranks.len() < count {
            self.draw_rest(&mut ranks, count, rng);
        }
        let mut documents: Vec<u32> = ranks.into_iter().map(|rank| self.documents[rank]).collect();
        rng.shuffle(&mut documents);
        documents
    }

    /// The same draws in one pass: whoever's exponential clock of its rate rings first is drawn first.
    fn draw_rest(&self, ranks: &mut Vec<usize>, count: usize, rng: &mut Rng) {
        let mut before = 0.0;
        let mut clocks: Vec<(f64, usize)> = Vec::with_capacity(self.documents.len());
        for (rank, &sum) in self.cumulative.iter().enumerate() {
            let ring = rng.exponential() / (sum - before).max(f64::MIN_POSITIVE);
            before = sum;
            if !ranks.contains(&rank) {
                clocks.push((ring, rank));
            }
        }
        clocks.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let missing = count - ranks.len();
        ranks.extend(clocks.into_iter().take(missing).map(|(_, rank)| rank));
    }
}

/// Probability of one draw for each rank, the most popular first.
#[must_use]
pub fn probabilities(num_documents: u32, alpha: f64) -> Vec<f64> {
    let weights: Vec<f64> = (1..=num_documents).map(|rank| f64::from(rank).powf(-alpha)).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rng(index: u64) -> Rng {
        Rng::new(11, Purpose::Requests, index)
    }

    #[test]
    fn documents_are_different_and_in_random_order() {
        let pool = Popularity::new(20, 1.1, 3).unwrap();
        let mut firsts = [0u32; 20];
        for index in 0..2000 {
            let drawn = pool.draw(5, &mut rng(index));
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 5, "{drawn:?}");
            firsts[drawn[0] as usize] += u32::from(drawn.contains(&pool.by_rank()[0]));
        }
        // Where the most popular document is among the five, it is first in a fifth of the cases.
        let with_top: u32 = firsts.iter().sum();
        let top_first = f64::from(firsts[pool.by_rank()[0] as usize]) / f64::from(with_top);
        // Four standard errors of a binomial with some 1500 cases.
        assert!((top_first - 0.2).abs() < 0.042, "{top_first}");
    }

    #[test]
    fn single_draws_have_the_zipf_frequencies() {
        let pool = Popularity::new(10, 1.1, 3).unwrap();
        let mut counts = [0u32; 10];
        (0..20_000).for_each(|index| counts[pool.draw(1, &mut rng(index))[0] as usize] += 1);
        for (rank, p) in probabilities(10, 1.1).into_iter().enumerate() {
            let share = f64::from(counts[pool.by_rank()[rank] as usize]) / 2e4;
            let error = (p * (1.0 - p) / 2e4).sqrt();
            assert!((share - p).abs() < 4.0 * error, "rank {rank}: {share}, not {p}");
        }
    }

    #[test]
    fn a_whole_pool_can_be_drawn_however_skewed_it_is() {
        let pool = Popularity::new(200, 8.0, 3).unwrap();
        let mut drawn = pool.draw(500, &mut rng(0));
        drawn.sort_unstable();
        assert_eq!(drawn, (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn both_ways_of_drawing_take_each_document_equally_often() {
        let pool = Popularity::new(8, 1.5, 3).unwrap();
        let (mut one, mut other) = ([0f64; 8], [0f64; 8]);
        for index in 0..20_000 {
            pool.draw(3, &mut rng(index)).iter().for_each(|&document| one[document as usize] += 1.0);
            let mut ranks = Vec::new();
            pool.draw_rest(&mut ranks, 3, &mut rng(index + 1_000_000));
            ranks.iter().for_each(|&rank| other[pool.by_rank()[rank] as usize] += 1.0);
        }
        for document in 0..8 {
            let (a, b) = (one[document] / 2e4, other[document] / 2e4);
            // Two binomial shares of 20 000 draws; four standard errors of their difference.
            let error = (2.0 * a * (1.0 - a) / 2e4).sqrt().max(1e-3);
            assert!((a - b).abs() < 4.0 * error, "document {document}: {a} and {b}");
        }
    }

    #[test]
    fn what_cannot_be_a_pool_is_refused() {
        for (documents, alpha) in [(0, 1.0), (1 << 25, 1.0), (5, -0.1), (5, 8.1), (5, f64::NAN)] {
            assert!(Popularity::new(documents, alpha, 0).is_err(), "{documents} {alpha}");
        }
    }
}
