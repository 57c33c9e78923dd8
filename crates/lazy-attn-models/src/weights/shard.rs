//! How several devices share a model: each holds some of the heads, of the feed-forward rows and of the vocabulary.

use std::ops::Range;

use crate::{ModelConfig, ModelError};

/// One of the equal parts that a model is cut into, as in tensor parallelism (Megatron-LM, arXiv:1909.08053).
///
/// A part has whole KV heads with their query heads, the feed-forward rows and the columns behind them, and a range of the
/// head's rows. After the attention output and after the feed-forward layer the parts' results are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    rank: usize,
    world: usize,
}

/// What one part of a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardSizes {
    /// Query heads.
    pub num_q_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the head, so logits.
    pub vocab_size: usize,
}

impl Shard {
    /// The whole model on one device.
    pub const WHOLE: Shard = Shard { rank: 0, world: 1 };

    /// Part `rank` of `world` parts.
    ///
    /// # Errors
    /// [`ModelError::Shard`] if there is no such part.
    pub fn new(rank: usize, world: usize) -> Result<Shard, ModelError> {
        if rank < world {
            return Ok(Shard { rank, world });
        }
        Err(ModelError::Shard { world, problem: format!("there is no part {rank}; parts count from 0") })
    }

    /// Which part it is, from 0.
    #[must_use]
    pub fn rank(self) -> usize {
        self.rank
    }

    /// How many parts there are.
    #[must_use]
    pub fn world(self) -> usize {
        self.world
    }

    /// Its part of `0..count`, where `world` divides `count`.
    pub(super) fn range(self, count: usize) -> Range<usize> {
        let share = count / self.world;
        self.rank * share..(self.rank + 1) * share
    }

    /// Rows of the vocabulary whose logits it computes.
    #[must_use]
    pub fn vocab_rows(self, config: &ModelConfig) -> Range<usize> {
        self.range(config.vocab_size)
    }

    /// What it holds of a model.
    ///
    /// # Errors
    /// [`ModelError::Shard`] naming the first size that the number of parts does not divide.
    pub fn sizes(self, config: &ModelConfig) -> Result<ShardSizes, ModelError> {
        let world = self.world;
        let share = |what: &str, count: usize| {
            if count.is_multiple_of(world) {
                return Ok(count / world);
            }
            let problem = format!("{what} is {count}, which {world} does not divide; {}", possible(config));
            Err(ModelError::Shard { world, problem })
        };
        Ok(ShardSizes {
            num_kv_heads: share("num_key_value_heads", config.num_kv_heads)?,
            num_q_heads: share("num_attention_heads", config.num_q_heads)?,
            intermediate_size: share("intermediate_size", config.intermediate_size)?,
            vocab_size: share("vocab_size", config.vocab_size)?,
        })
    }
}

/// Which numbers of parts a model can be cut into.
fn possible(config: &ModelConfig) -> String {
    let sizes = [config.num_kv_heads, config.num_q_heads, config.intermediate_size, config.vocab_size];
    let divides_all = |world: &usize| sizes.iter().all(|size| size.is_multiple_of(*world));
    let numbers = (1..=config.num_kv_heads).filter(divides_all).map(|world| world.to_string());
    format!("the model can be shared by {} devices", numbers.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_devices_that_does_not_divide_the_model_is_refused_with_those_that_do() {
        let config = ModelConfig::named("llama-3.1-8b").unwrap();
        let error = Shard::new(0, 3).unwrap().sizes(&config).unwrap_err().to_string();
        assert_eq!(
            error,
            "3 devices cannot share the model: num_key_value_heads is 8, which 3 does not divide; the model can be \
             shared by 1, 2, 4, 8 devices"
        );
        let odd = ModelConfig { vocab_size: 128_255, ..config };
        let error = Shard::new(1, 2).unwrap().sizes(&odd).unwrap_err().to_string();
        assert!(error.contains("vocab_size is 128255") && error.ends_with("by 1 devices"), "{error}");
    }

    #[test]
    fn there_is_no_part_beyond_the_last() {
        assert!(Shard::new(3, 4).is_ok());
        for (rank, world) in [(4, 4), (0, 0), (1, 1)] {
            assert!(matches!(Shard::new(rank, world), Err(ModelError::Shard { .. })), "{rank} of {world}");
        }
    }

    #[test]
    fn the_parts_of_a_model_add_up_to_it() {
        let config = ModelConfig::named("llama-3.1-70b").unwrap();
        let sizes = Shard::new(5, 8).unwrap().sizes(&config).unwrap();
        assert_eq!((sizes.num_q_heads, sizes.num_kv_heads), (8, 1));
        assert_eq!((sizes.intermediate_size * 8, sizes.vocab_size * 8), (28_672, 128_256));
        assert_eq!(Shard::new(7, 8).unwrap().vocab_rows(&config).end, config.vocab_size);
    }
}
