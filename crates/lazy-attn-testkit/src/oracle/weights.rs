//! Tensors of the oracle.

use std::collections::BTreeMap;

/// A row-major tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct OracleTensor {
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Vec<f64>,
}

/// Tensors under their Hugging Face names.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OracleWeights {
    tensors: BTreeMap<String, OracleTensor>,
}

impl OracleWeights {
    /// Adds a tensor.
    ///
    /// # Panics
    /// If `shape` does not multiply to the number of elements.
    pub fn insert(&mut self, name: &str, shape: &[usize], data: Vec<f64>) {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{name}: the shape fits the elements");
        self.tensors.insert(name.to_owned(), OracleTensor { shape: shape.to_vec(), data });
    }

    /// The tensor `name`.
    ///
    /// # Panics
    /// If there is none; the caller's weights do not fit its config.
    #[must_use]
    pub fn get(&self, name: &str) -> &OracleTensor {
        assert!(self.tensors.contains_key(name), "the oracle was given no tensor {name}");
        &self.tensors[name]
    }
}
