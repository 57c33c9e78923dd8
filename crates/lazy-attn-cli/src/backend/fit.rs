//! How much memory of a device a model needs.

use lazy_attn_models::ModelConfig;
use lazy_attn_models::weights::{Shard, num_elements};

use crate::exit::Failure;
use crate::ui::bytes;

/// What a device needs beside weights and KV: activations, workspaces, the driver's own context.
const RESERVED_BYTES: u64 = 1 << 30;
/// Bytes of a weight, key or value on a device.
const ELEMENT_BYTES: u64 = 2;

/// Memory of a model on a device, in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes_per_token: u64,
    /// Longest context of the model.
    pub(crate) max_context_tokens: u64,
}

impl Fit {
    /// # Errors
    /// None for one device, which always shares evenly.
    pub(crate) fn of(config: &ModelConfig) -> Result<Fit, Failure> {
        let kv_elements = 2 * config.num_layers * config.num_kv_heads * config.head_dim;
        Ok(Fit {
            weight_bytes: ELEMENT_BYTES * num_elements(config, Shard::WHOLE)?,
            kv_bytes_per_token: ELEMENT_BYTES * kv_elements as u64,
            max_context_tokens: config.max_context_tokens as u64,
        })
    }

    /// What a device must have free for the weights and the keys and values of `num_tokens`.
    pub(crate) fn needed_bytes(&self, num_tokens: u64) -> u64 {
        self.weight_bytes + RESERVED_BYTES + num_tokens * self.kv_bytes_per_token
    }

    /// Tokens whose keys and values fit beside the weights into `free_bytes`; `None` if not even these fit.
    pub(crate) fn num_tokens(&self, free_bytes: u64) -> Option<u64> {
        let left = free_bytes.checked_sub(self.weight_bytes + RESERVED_BYTES)?;
        Some(left / self.kv_bytes_per_token)
    }

    /// What it needs, for people.
    pub(crate) fn detail(&self) -> String {
        let context = self.max_context_tokens;
        format!(
            "needs {} for weights in 16 bits and one context of {context} tokens at {} each",
            bytes(self.needed_bytes(context)),
            bytes(self.kv_bytes_per_token)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit(name: &str) -> Fit {
        Fit::of(&ModelConfig::named(name).unwrap()).unwrap()
    }

    #[test]
    fn the_memory_of_an_8b_model_is_that_of_its_card() {
        let fit = fit("llama-3.1-8b");
        // 8.03e9 parameters; 2 x 32 layers x 8 heads x 128 elements, 2 bytes each.
        assert_eq!(fit.weight_bytes, 2 * 8_030_261_248);
        assert_eq!(fit.kv_bytes_per_token, 128 << 10);
        assert!(fit.detail().starts_with("needs 32.0 GiB for weights"), "{}", fit.detail());
    }

    #[test]
    fn tokens_fill_what_the_weights_leave() {
        let fit = fit("tiny");
        assert_eq!(fit.num_tokens(fit.needed_bytes(1000)), Some(1000));
        assert_eq!(fit.num_tokens(fit.needed_bytes(0) - 1), None);
    }
}
