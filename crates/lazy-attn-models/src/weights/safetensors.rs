//! Safetensors files, single and sharded, mapped. The header is checked before any of it is used.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::inventory::check_inventory;
use super::tensor::check_shape;
use super::{FileBytes, RawTensor, TensorDtype, TensorSource};
use crate::files::read_json;
use crate::{ModelConfig, ModelError};

/// Largest header, as in the reference implementation.
const MAX_HEADER_SIZE: usize = 100_000_000;
/// Bytes of the header's length at the start of the file.
const LENGTH_SIZE: usize = 8;

/// Tensors of one or more safetensors files.
#[derive(Debug)]
pub struct SafetensorsFiles {
    files: Vec<FileBytes>,
    places: HashMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    file_index: usize,
    dtype: TensorDtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl SafetensorsFiles {
    /// Opens the weights in `directory`: `model.safetensors.index.json` and its shards, or `model.safetensors`.
    ///
    /// # Errors
    /// [`ModelError`] naming the file that is missing or wrong.
    pub fn open_directory(directory: &Path) -> Result<SafetensorsFiles, ModelError> {
        let index = directory.join("model.safetensors.index.json");
        let single = directory.join("model.safetensors");
        if single.exists() || !index.exists() {
            return SafetensorsFiles::open(&[single]);
        }
        let shards: Vec<PathBuf> = shard_names(&index)?.iter().map(|name| directory.join(name)).collect();
        SafetensorsFiles::open(&shards)
    }

    /// Opens the files at `paths`, which hold one model together.
    ///
    /// # Errors
    /// [`ModelError`] naming the file that is missing or wrong.
    pub fn open(paths: &[PathBuf]) -> Result<SafetensorsFiles, ModelError> {
        let mut all = SafetensorsFiles { files: Vec::new(), places: HashMap::new() };
        for path in paths {
            all.add(path, FileBytes::map(path)?)?;
        }
        Ok(all)
    }

    /// Adds the tensors of a file whose content is `bytes`; `path` only names it in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] with the first thing that is wrong in it.
    pub fn add(&mut self, path: &Path, bytes: FileBytes) -> Result<(), ModelError> {
        let file_index = self.files.len();
        for (name, tensor) in read_header(&bytes).map_err(|problem| ModelError::format(path, problem))? {
            let Header { dtype, shape, bytes } = tensor;
            let place = Place { file_index, dtype, shape, bytes };
            if self.places.insert(name.clone(), place).is_some() {
                return Err(ModelError::format(
                    path,
                    format!("holds tensor `{name}`, which another file holds too"),
                ));
            }
        }
        self.files.push(bytes);
        Ok(())
    }

    /// Checks that the tensors are exactly those `config` asks for.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] naming a tensor that is missing, or that no part of the model would use.
    pub fn check(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let present: HashSet<&str> = self.places.keys().map(String::as_str).collect();
        check_inventory(config, &present)
    }

    /// The bytes of every file, in order.
    pub fn files(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.files.iter().map(|file| &**file)
    }
}

impl TensorSource for SafetensorsFiles {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<RawTensor<'_>, ModelError> {
        let place = self.places.get(name).ok_or_else(|| ModelError::tensor(name, "is not in the files"))?;
        check_shape(name, &place.shape, shape)?;
        let bytes = Cow::Borrowed(&self.files[place.file_index][place.bytes.clone()]);
        Ok(RawTensor { dtype: place.dtype, shape: shape.to_vec(), bytes })
    }

    fn total_bytes(&self) -> u64 {
        self.places.values().map(|place| place.bytes.len() as u64).sum()
    }
}

/// Files an index names, each a plain name in the index's own directory.
pub(crate) fn shard_names(index: &Path) -> Result<BTreeSet<String>, ModelError> {
    let content = read_json(index)?;
    let map = content.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| ModelError::format(index, "has no `weight_map`; download it again"))?;
    let name = |value: &Value| {
        let name = value.as_str().filter(|name| is_plain_name(name));
        name.map(str::to_owned).ok_or_else(|| {
            ModelError::format(
                index,
                format!("names the file {value}, which is not a plain name in its own directory"),
            )
        })
    };
    let names: BTreeSet<String> = map.values().map(name).collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Err(ModelError::format(index, "names no files; download it again"));
    }
    Ok(names)
}

fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    let plain = matches!(first, Some(Component::Normal(part)) if part == name);
    plain && components.next().is_none() && !name.contains(['\\', ':'])
}

struct Header {
    dtype: TensorDtype,
    shape: Vec<usize>,
    /// In the file.
    bytes: Range<usize>,
}

fn read_header(file: &[u8]) -> Result<Vec<(String, Header)>, String> {
    let header_size = header_size(file)?;
    let data_start = LENGTH_SIZE + header_size;
    let header: Map<String, Value> =
        serde_json::from_slice(&file[LENGTH_SIZE..data_start]).map_err(|error| {
            format!("has a wrong header, not a JSON object: {error}; it is no safetensors file")
        })?;
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let read = |(name, info): (String, Value)| {
        let tensor = read_tensor(&name, &info, file.len() - data_start)?;
        let bytes = tensor.bytes.start + data_start..tensor.bytes.end + data_start;
        Ok((name, Header { bytes, ..tensor }))
    };
    tensors.map(read).collect()
}

fn header_size(file: &[u8]) -> Result<usize, String> {
    let Some(length) = file.first_chunk::<LENGTH_SIZE>() else {
        return Err(format!(
            "is truncated: {} bytes cannot hold a safetensors header; download it again",
            file.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    let available = file.len() - LENGTH_SIZE;
    match usize::try_from(length) {
        Ok(size) if size > MAX_HEADER_SIZE && size <= available => {
            Err(format!("has a header of {size} bytes, but at most {MAX_HEADER_SIZE} are allowed"))
        }
        Ok(size) if size <= available => Ok(size),
        _ => Err(format!(
            "has a wrong header: it claims {length} bytes, but only {available} follow; the file is truncated or no \
             safetensors file"
        )),
    }
}

/// The description `info` of tensor `name`, its range relative to the data, which has `data_size` bytes.
fn read_tensor(name: &str, info: &Value, data_size: usize) -> Result<Header, String> {
    let wrong = |what: &str| format!("has a wrong header: tensor `{name}` {what}");
    let dtype = match info.get("dtype").and_then(Value::as_str) {
        Some("F32") => TensorDtype::F32,
        Some("F16") => TensorDtype::F16,
        Some("BF16") => TensorDtype::Bf16,
        Some(other) => {
            return Err(format!("tensor `{name}` has type {other}, but F32, F16 and BF16 are supported"));
        }
        None => return Err(wrong("has no dtype")),
    };
    let sizes = |key: &str| -> Option<Vec<usize>> {
        let list = info.get(key)?.as_array()?;
        list.iter().map(|size| usize::try_from(size.as_u64()?).ok()).collect()
    };
    let shape = sizes("shape").ok_or_else(|| wrong("has no shape"))?;
    let Some([start, end]) = sizes("data_offsets").and_then(|offsets| <[usize; 2]>::try_from(offsets).ok())
    else {
        return Err(wrong("has no data_offsets"));
    };
    if end > data_size {
        return Err(format!(
            "tensor `{name}` ends at offset {end} past the end of the data, which has {data_size} bytes; the file is \
             truncated, download it again"
        ));
    }
    let size = dtype.size_of(&shape).ok_or_else(|| wrong("has a shape of impossible size"))?;
    if start > end || end - start != size {
        return Err(wrong(&format!(
            "lies at {start}..{end}, but its shape {shape:?} and type need {size} bytes"
        )));
    }
    Ok(Header { dtype, shape, bytes: start..end })
}
