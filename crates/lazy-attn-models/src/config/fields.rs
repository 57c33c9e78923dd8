//! Typed access to a JSON object. `null` is the same as absent: it is how Hugging Face writes "the default".

use serde_json::{Map, Value};

use crate::ModelError;

/// An object of a config file.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(key: &str, value: &'a Value) -> Result<Fields<'a>, ModelError> {
        let map = value.as_object().ok_or_else(|| ModelError::config(key, "must be a JSON object"))?;
        Ok(Fields { map })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, even as `null`.
    pub(crate) fn mentions(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Fields<'a>>, ModelError> {
        self.get(key).map(|value| Fields::new(key, value)).transpose()
    }

    /// Keys whose value is not `null`.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key.as_str())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || ModelError::config(key, format!("is {value}, but must be {wanted}"));
        read(value).map(Some).ok_or_else(wrong)
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.typed(key, "a whole number from 0 up", |value| usize::try_from(value.as_u64()?).ok())
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f32>, ModelError> {
        #[allow(clippy::cast_possible_truncation, reason = "the model computes in float32")]
        self.typed(key, "a number", |value| Some(value.as_f64()? as f32))
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a text", Value::as_str)
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, ModelError> {
        self.typed(key, "a list", |value| value.as_array().map(Vec::as_slice))
    }

    pub(crate) fn required(&self, key: &str) -> Result<usize, ModelError> {
        self.integer(key)?.ok_or_else(|| missing(key))
    }

    pub(crate) fn required_number(&self, key: &str) -> Result<f32, ModelError> {
        self.number(key)?.ok_or_else(|| missing(key))
    }
}

pub(crate) fn missing(key: &str) -> ModelError {
    ModelError::config(key, "is missing")
}
