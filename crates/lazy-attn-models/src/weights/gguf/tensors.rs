//! The tensors of a GGUF file under their Hugging Face names.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::file::{GgufFile, TensorPlace};
use super::names::hugging_face_name;
use crate::weights::inventory::check_inventory;
use crate::weights::tensor::check_shape;
use crate::weights::{RawTensor, TensorSource};
use crate::{ModelConfig, ModelError};

/// Tensors of a GGUF file, borrowed from its bytes. Rows of q and k stay as the file has them: see
/// [`RopePairing`](crate::config::RopePairing).
#[derive(Debug)]
pub struct GgufTensors {
    file: GgufFile,
    places: HashMap<String, TensorPlace>,
}

impl GgufTensors {
    /// Takes the tensors of `file`, which must be exactly those `config` asks for.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] naming a tensor that is missing, or that no part of the model would use.
    pub fn new(file: GgufFile, config: &ModelConfig) -> Result<GgufTensors, ModelError> {
        let mut places = HashMap::new();
        for (name, place) in file.tensors() {
            // Read with the metadata: it holds frequencies, not weights.
            if name == "rope_freqs.weight" {
                continue;
            }
            let known = hugging_face_name(name).ok_or_else(|| {
                ModelError::tensor(name, "is in the file, but no part of a supported model")
            })?;
            if places.insert(known, place.clone()).is_some() {
                return Err(ModelError::tensor(name, "is in the file twice, under two spellings"));
            }
        }
        let present: HashSet<&str> = places.keys().map(String::as_str).collect();
        check_inventory(config, &present)?;
        Ok(GgufTensors { file, places })
    }
}

impl TensorSource for GgufTensors {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let place = self.places.get(name).ok_or_else(|| ModelError::tensor(name, "is not in the file"))?;
        check_shape(name, &place.shape, shape)?;
        let bytes = Cow::Borrowed(self.file.tensor_bytes(place));
        Ok(RawTensor { dtype: place.dtype, shape: shape.to_vec(), bytes })
    }

    fn total_bytes(&self) -> u64 {
        self.places.values().map(|place| place.bytes.len() as u64).sum()
    }
}
