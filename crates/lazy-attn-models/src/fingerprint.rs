//! A hash that tells one set of weights from another without reading all of a large one.

use crate::{ModelConfig, Progress};

/// Files up to this size are hashed whole.
const WHOLE_UP_TO: usize = 64 << 20;
/// Bytes of each sample of a larger file.
const SAMPLE_SIZE: usize = 4096;
/// Samples of a larger file, evenly spread.
const NUM_SAMPLES: usize = 2048;
/// First and last bytes of a larger file that are hashed in full: container headers, and what is written last.
const EDGE_SIZE: usize = 4 << 20;

/// How much of the weights a [`WeightsHash`] covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashCoverage {
    /// Every byte.
    Whole,
    /// Files above 64 MiB by size, first and last 4 MiB and 2048 samples of 4 KiB; smaller ones whole.
    Sampled,
    /// The seed and the shape: the weights follow from them.
    Seed,
}

/// BLAKE3 of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightsHash {
    /// The hash.
    pub bytes: [u8; 32],
    /// What was hashed.
    pub coverage: HashCoverage,
}

impl WeightsHash {
    /// Hashes `files` in order.
    pub(crate) fn of_files<'a>(
        files: impl Iterator<Item = &'a [u8]> + Clone,
        progress: &dyn Progress,
    ) -> WeightsHash {
        let mut coverage = HashCoverage::Whole;
        let mut hasher = blake3::Hasher::new_derive_key("lazy-attention weights v1");
        progress.begin("fingerprint", files.clone().map(|bytes| bytes.len() as u64).sum());
        for bytes in files {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            if bytes.len() <= WHOLE_UP_TO {
                hasher.update(bytes);
            } else {
                coverage = HashCoverage::Sampled;
                update_sampled(&mut hasher, bytes);
            }
            progress.advance(bytes.len() as u64);
        }
        progress.finish();
        WeightsHash { bytes: *hasher.finalize().as_bytes(), coverage }
    }

    pub(crate) fn of_seed(seed: u64, config: &ModelConfig) -> WeightsHash {
        let mut hasher = blake3::Hasher::new_derive_key("lazy-attention random weights v1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(format!("{config:?}").as_bytes());
        WeightsHash { bytes: *hasher.finalize().as_bytes(), coverage: HashCoverage::Seed }
    }
}

fn update_sampled(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&bytes[..EDGE_SIZE]);
    hasher.update(&bytes[bytes.len() - EDGE_SIZE..]);
    let stride = (bytes.len() - SAMPLE_SIZE) / NUM_SAMPLES;
    for sample in 0..NUM_SAMPLES {
        hasher.update(&bytes[sample * stride..][..SAMPLE_SIZE]);
    }
}

/// Labelled bytes that decide what a segment's KV is, for `Fingerprint::of`.
pub(crate) fn parts(
    config: &ModelConfig,
    hash: &WeightsHash,
    tokenizer: Option<&lazy_attn_types::TokenizerSource>,
) -> Vec<(&'static str, Vec<u8>)> {
    let tokenizer = match tokenizer {
        Some(lazy_attn_types::TokenizerSource::Json(bytes)) => blake3::hash(bytes).as_bytes().to_vec(),
        // Part of the weights file, which is hashed already.
        Some(lazy_attn_types::TokenizerSource::Gguf(_)) | None => Vec::new(),
    };
    vec![
        ("weights", hash.bytes.to_vec()),
        ("config", format!("{config:?}").into_bytes()),
        ("tokenizer", tokenizer),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    fn hash(bytes: &[u8]) -> WeightsHash {
        WeightsHash::of_files(std::iter::once(bytes), &Silent)
    }

    #[test]
    fn every_byte_of_a_small_file_counts() {
        let file = vec![7u8; 100_000];
        let mut other = file.clone();
        other[99_999] = 8;
        assert_eq!(hash(&file).coverage, HashCoverage::Whole);
        assert_ne!(hash(&file).bytes, hash(&other).bytes);
    }

    #[test]
    fn a_large_file_is_sampled_from_its_first_to_its_last_byte() {
        let file = vec![0u8; WHOLE_UP_TO + 4097];
        let reference = hash(&file);
        assert_eq!(reference.coverage, HashCoverage::Sampled);
        let middle = (file.len() - SAMPLE_SIZE) / NUM_SAMPLES * (NUM_SAMPLES / 2);
        for changed in [0, EDGE_SIZE - 1, middle, file.len() - 1] {
            let mut other = file.clone();
            other[changed] = 1;
            assert_ne!(hash(&other).bytes, reference.bytes, "byte {changed} does not count");
        }
        assert_ne!(hash(&vec![0u8; WHOLE_UP_TO + 4098]).bytes, reference.bytes);
    }

    #[test]
    fn moving_bytes_between_files_changes_the_hash() {
        let split = |at: usize| {
            let (a, b) = b"weights".split_at(at);
            WeightsHash::of_files([a, b].into_iter(), &Silent).bytes
        };
        assert_ne!(split(3), split(4));
    }
}
