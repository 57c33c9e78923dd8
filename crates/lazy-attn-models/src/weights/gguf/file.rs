//! The GGUF container: metadata and the places of the tensors. Every count and offset is checked before it is used.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cursor::{Cursor, Problem};
use super::value::Value;
use crate::ModelError;
use crate::weights::{FileBytes, TensorDtype};

/// Bytes between tensors unless the file says otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// Fewest bytes of a metadata entry: a key's length, a type and a one-byte value.
const MIN_ENTRY_SIZE: u64 = 8 + 4 + 1;
/// Fewest bytes of a tensor's description: its name's length, dimensions, one size, type and offset.
const MIN_TENSOR_SIZE: u64 = 8 + 4 + 8 + 4 + 8;

/// A GGUF file (versions 2 and 3, little-endian): metadata, and tensors borrowed from its bytes.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    bytes: FileBytes,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorPlace>,
}

/// Where a tensor lies in its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// Element or block type.
    pub dtype: TensorDtype,
    /// Row-major, outermost first (the file lists the innermost first).
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub bytes: Range<usize>,
}

impl GgufFile {
    /// Maps and reads the file at `path`.
    ///
    /// # Errors
    /// [`ModelError::Io`] if it cannot be mapped, [`ModelError::Format`] with the first thing that is wrong in it.
    pub fn open(path: &Path) -> Result<GgufFile, ModelError> {
        GgufFile::read(path.into(), FileBytes::map(path)?)
    }

    /// Reads the container in `bytes`; `path` only names it in errors.
    ///
    /// # Errors
    /// [`ModelError::Format`] with the first thing that is wrong.
    pub fn read(path: PathBuf, bytes: FileBytes) -> Result<GgufFile, ModelError> {
        match parse(&bytes) {
            Ok((metadata, tensors)) => Ok(GgufFile { path, bytes, metadata, tensors }),
            Err(problem) => Err(ModelError::Format { path, problem }),
        }
    }

    /// The path it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The metadata entry `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// Every metadata key, in no order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// Every tensor under the file's own names, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorPlace)> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), place))
    }

    /// The place of the tensor the file calls `name`.
    #[must_use]
    pub fn place(&self, name: &str) -> Option<&TensorPlace> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor of this file.
    #[must_use]
    pub fn tensor_bytes(&self, place: &TensorPlace) -> &[u8] {
        &self.bytes[place.bytes.clone()]
    }

    pub(super) fn problem(&self, problem: impl Into<String>) -> ModelError {
        ModelError::format(&self.path, problem)
    }
}

type Parsed = (HashMap<String, Value>, HashMap<String, TensorPlace>);

fn parse(bytes: &[u8]) -> Result<Parsed, Problem> {
    let mut cursor = Cursor::new(bytes);
    read_version(&mut cursor)?;
    let num_tensors = cursor.count("the number of tensors", MIN_TENSOR_SIZE)?;
    let num_entries = cursor.count("the number of metadata entries", MIN_ENTRY_SIZE)?;
    let metadata = read_metadata(&mut cursor, num_entries)?;
    let alignment = alignment(&metadata)?;
    cursor.check_count(num_tensors as u64, "the number of tensors", MIN_TENSOR_SIZE)?;
    let mut infos = Vec::with_capacity(num_tensors);
    for _ in 0..num_tensors {
        infos.push(TensorInfo::read(&mut cursor)?);
    }
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    let mut tensors = HashMap::with_capacity(num_tensors);
    for info in infos {
        let place = info.place(alignment, data_start, bytes.len() as u64)?;
        if tensors.insert(info.name.to_owned(), place).is_some() {
            return Err(format!("tensor `{}` is listed twice", info.name));
        }
    }
    Ok((metadata, tensors))
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<(), Problem> {
    let magic: [u8; 4] = cursor.array("the magic number")?;
    if &magic != b"GGUF" {
        return Err("is not a GGUF file: it does not begin with `GGUF`".into());
    }
    match cursor.u32("the version")? {
        2 | 3 => Ok(()),
        1 => Err("is a GGUF file of version 1, which is not supported; convert it to version 3".into()),
        version if matches!(version.swap_bytes(), 1..=3) => {
            Err("is a big-endian GGUF file, which is not supported; convert it to little-endian".into())
        }
        version => {
            Err(format!("is a GGUF file of the unknown version {version}; versions 2 and 3 are supported"))
        }
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, num_entries: usize) -> Result<HashMap<String, Value>, Problem> {
    let mut metadata = HashMap::with_capacity(num_entries);
    for _ in 0..num_entries {
        let key = cursor.text("a metadata key")?;
        let value = Value::read(cursor, key)?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(format!("metadata `{key}` is given twice"));
        }
    }
    Ok(metadata)
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<u64, Problem> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    let alignment = match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    };
    let in_range = |alignment: &u64| alignment.is_power_of_two() && *alignment <= 1 << 20;
    alignment
        .filter(in_range)
        .ok_or_else(|| format!("`general.alignment` is {value:?}, but must be a power of two up to 2^20"))
}

struct TensorInfo<'a> {
    name: &'a str,
    dtype: TensorDtype,
    shape: Vec<usize>,
    offset: u64,
}

impl<'a> TensorInfo<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<TensorInfo<'a>, Problem> {
        let name = cursor.text("a tensor's name")?;
        let num_dimensions = cursor.u32("a tensor's dimensions")?;
        if !(1..=MAX_DIMENSIONS).contains(&num_dimensions) {
            return Err(format!(
                "tensor `{name}` has {num_dimensions} dimensions, but 1 to {MAX_DIMENSIONS} are possible"
            ));
        }
        let mut shape = Vec::with_capacity(MAX_DIMENSIONS as usize);
        for _ in 0..num_dimensions {
            let size = cursor.u64("a tensor's shape")?;
            let size = usize::try_from(size).ok().filter(|&size| size > 0);
            shape.push(size.ok_or_else(|| format!("tensor `{name}` has a dimension of impossible size"))?);
        }
        shape.reverse();
        let dtype = dtype(name, cursor.u32("a tensor's type")?)?;
        Ok(TensorInfo { name, dtype, shape, offset: cursor.u64("a tensor's offset")? })
    }

    fn place(&self, alignment: u64, data_start: u64, file_size: u64) -> Result<TensorPlace, Problem> {
        let TensorInfo { name, dtype, shape, offset } = self;
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor `{name}` begins at {offset}, which is not a multiple of {alignment}"
            ));
        }
        let size = dtype.size_of(shape).ok_or_else(|| {
            format!(
                "tensor `{name}` of shape {shape:?} and type {dtype:?} has an impossible size: rows are whole blocks of {}",
                dtype.block_elements()
            )
        })?;
        let start = data_start.checked_add(*offset);
        let end = start.and_then(|start| start.checked_add(size as u64)).filter(|&end| end <= file_size);
        let range = start
            .zip(end)
            .and_then(|(start, end)| Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?));
        let bytes = range.ok_or_else(|| {
            format!(
                "truncated: tensor `{name}` needs {size} bytes at offset {offset} of the data, which begins at \
                 {data_start}, but the file has only {file_size}; download it again"
            )
        })?;
        Ok(TensorPlace { dtype: *dtype, shape: shape.clone(), bytes })
    }
}

fn dtype(name: &str, number: u32) -> Result<TensorDtype, Problem> {
    let unsupported = match number {
        0 => return Ok(TensorDtype::F32),
        1 => return Ok(TensorDtype::F16),
        2 => return Ok(TensorDtype::Q4_0),
        3 => return Ok(TensorDtype::Q4_1),
        6 => return Ok(TensorDtype::Q5_0),
        7 => return Ok(TensorDtype::Q5_1),
        8 => return Ok(TensorDtype::Q8_0),
        12 => return Ok(TensorDtype::Q4K),
        13 => return Ok(TensorDtype::Q5K),
        14 => return Ok(TensorDtype::Q6K),
        30 => return Ok(TensorDtype::Bf16),
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return Err(format!("tensor `{name}` has the unknown type {number}")),
    };
    Err(format!(
        "tensor `{name}` has type {unsupported}, which is not supported; use a file of F32, F16, BF16, Q8_0, Q4_0, \
         Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K"
    ))
}
