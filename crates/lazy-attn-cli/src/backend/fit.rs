//! How much memory of a device a model needs.

use lazy_attn_models::ModelConfig;
use lazy_attn_models::weights::{Shard, num_elements};

use crate::args::KvDtypeArg;
use crate::exit::Failure;
use crate::ui::bytes;

/// What a device needs beside weights and KV: activations, workspaces, the driver's own context.
const RESERVED_BYTES: u64 = 1 << 30;
/// Bytes of a weight on a device, and of a key or value unless it is held in 8 bits.
const ELEMENT_BYTES: u64 = 2;

/// Memory of a model on each of the devices that share it, its weights in 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fit {
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes_per_token: u64,
    /// Longest context of the model.
    pub(crate) max_context_tokens: u64,
}

impl Fit {
    /// # Errors
    /// [`Exit::Model`](crate::exit::Exit::Model) if so many devices cannot share the model evenly.
    pub(crate) fn of(config: &ModelConfig, num_devices: usize, kv: KvDtypeArg) -> Result<Fit, Failure> {
        let shard = Shard::new(0, num_devices)?;
        let kv_element_bytes = if kv == KvDtypeArg::Fp8 { 1 } else { ELEMENT_BYTES };
        let kv_elements = 2 * config.num_layers * shard.sizes(config)?.num_kv_heads * config.head_dim;
        Ok(Fit {
            weight_bytes: ELEMENT_BYTES * num_elements(config, shard)?,
            kv_bytes_per_token: kv_element_bytes * kv_elements as u64,
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
        Fit::of(&ModelConfig::named(name).unwrap(), 1, KvDtypeArg::Auto).unwrap()
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
    fn devices_that_share_a_model_hold_a_part_each() {
        let config = ModelConfig::named("llama-3.1-70b").unwrap();
        let fit = |num_devices| Fit::of(&config, num_devices, KvDtypeArg::Auto);
        let [whole, part] = [1, 8].map(|num_devices| fit(num_devices).unwrap());
        assert_eq!(part.kv_bytes_per_token, whole.kv_bytes_per_token / 8);
        // The embedding and the norms are on every device.
        let everywhere = 2 * 8192 * (128_256 + 2 * 80 + 1);
        assert_eq!(8 * part.weight_bytes - whole.weight_bytes, 7 * everywhere);
        let in_8_bits = Fit::of(&config, 8, KvDtypeArg::Fp8).unwrap();
        assert_eq!(in_8_bits.kv_bytes_per_token, part.kv_bytes_per_token / 2);
        let line = fit(3).unwrap_err().line().unwrap();
        assert!(line.contains("3 devices cannot share"), "{line}");
    }

    #[test]
    fn tokens_fill_what_the_weights_leave() {
        let fit = fit("tiny");
        assert_eq!(fit.num_tokens(fit.needed_bytes(1000)), Some(1000));
        assert_eq!(fit.num_tokens(fit.needed_bytes(0) - 1), None);
    }
}
