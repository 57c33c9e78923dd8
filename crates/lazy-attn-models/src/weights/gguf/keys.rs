//! Typed access to the metadata of one architecture.

use super::file::GgufFile;
use super::value::Value;
use crate::ModelError;

/// The metadata of `file`; keys that begin with a dot belong to its architecture (`.block_count`).
pub(super) struct Keys<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) architecture: &'a str,
}

impl<'a> Keys<'a> {
    pub(super) fn full(&self, key: &str) -> String {
        if key.starts_with('.') { format!("{}{key}", self.architecture) } else { key.to_owned() }
    }

    pub(super) fn error(&self, key: &str, problem: impl Into<String>) -> ModelError {
        ModelError::config(&self.full(key), problem)
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.file.value(&self.full(key))
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> ModelError {
        self.error(key, format!("is {value:?}, but must be {wanted}"))
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<usize>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Integer(number)) if usize::try_from(*number).is_ok() => {
                Ok(usize::try_from(*number).ok())
            }
            // Per-layer sizes are written as a list; this engine runs models whose layers are alike.
            Some(Value::Array(list)) => {
                let mut sizes = self.values(key, list)?.into_iter();
                let first = sizes.next();
                match first {
                    Some(Value::Integer(number)) if sizes.all(|size| size == Value::Integer(number)) => {
                        Ok(usize::try_from(number).ok())
                    }
                    _ => Err(self.error(key, "differs from layer to layer, which is not supported")),
                }
            }
            Some(other) => Err(self.wrong(key, other, "a whole number from 0 up")),
        }
    }

    pub(super) fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.integer(key)?.ok_or_else(|| self.error(key, "is missing from the metadata"))
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            #[allow(clippy::cast_possible_truncation, reason = "the model computes in float32")]
            Some(Value::Float(number)) => Ok(Some(*number as f32)),
            Some(other) => Err(self.wrong(key, other, "a floating-point number")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "true or false")),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, other, "a text")),
        }
    }

    /// The entries of a list, empty if there is none.
    pub(super) fn list(&self, key: &str) -> Result<Vec<Value>, ModelError> {
        match self.value(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => self.values(key, list),
            Some(other) => Err(self.wrong(key, other, "a list")),
        }
    }

    fn values(&self, key: &str, list: &super::value::Array) -> Result<Vec<Value>, ModelError> {
        let full = self.full(key);
        let entries = list.values(self.file.bytes(), &full).collect::<Result<Vec<_>, _>>();
        entries.map_err(|problem| self.file.problem(problem))
    }
}
