//! Metadata values. Arrays stay in the file until they are asked for.

use std::ops::Range;

use super::cursor::{Cursor, Problem};

/// Type of a metadata value, with the numbers of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Kind, Problem> {
        const KINDS: [Kind; 13] = [
            Kind::U8,
            Kind::I8,
            Kind::U16,
            Kind::I16,
            Kind::U32,
            Kind::I32,
            Kind::F32,
            Kind::Bool,
            Kind::Text,
            Kind::Array,
            Kind::U64,
            Kind::I64,
            Kind::F64,
        ];
        let number = cursor.u32("a value's type")?;
        let kind = usize::try_from(number).ok().and_then(|number| KINDS.get(number));
        kind.copied().ok_or_else(|| format!("metadata `{key}` has the unknown type {number}"))
    }

    /// Fewest bytes of a value.
    fn min_size(self) -> u64 {
        match self {
            Kind::U8 | Kind::I8 | Kind::Bool => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::Text | Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::Array => 12,
        }
    }
}

/// A metadata value; integers and floats of every width are one each.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer of any width.
    Integer(i128),
    /// A float of either width.
    Float(f64),
    /// A flag.
    Bool(bool),
    /// UTF-8 text.
    Text(String),
    /// A list, kept in the file.
    Array(Array),
}

/// Where a list lies in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    kind: Kind,
    len: usize,
    bytes: Range<usize>,
}

impl Value {
    /// Reads a value of the type that precedes it.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Value, Problem> {
        let kind = Kind::read(cursor, key)?;
        if kind == Kind::Array {
            Array::read(cursor, key).map(Value::Array)
        } else {
            Value::read_scalar(cursor, kind, key)
        }
    }

    fn read_scalar(cursor: &mut Cursor<'_>, kind: Kind, key: &str) -> Result<Value, Problem> {
        let what = "a metadata value";
        Ok(match kind {
            Kind::U8 => Value::Integer(u8::from_le_bytes(cursor.array(what)?).into()),
            Kind::I8 => Value::Integer(i8::from_le_bytes(cursor.array(what)?).into()),
            Kind::U16 => Value::Integer(u16::from_le_bytes(cursor.array(what)?).into()),
            Kind::I16 => Value::Integer(i16::from_le_bytes(cursor.array(what)?).into()),
            Kind::U32 => Value::Integer(cursor.u32(what)?.into()),
            Kind::I32 => Value::Integer(i32::from_le_bytes(cursor.array(what)?).into()),
            Kind::U64 => Value::Integer(cursor.u64(what)?.into()),
            Kind::I64 => Value::Integer(i64::from_le_bytes(cursor.array(what)?).into()),
            Kind::F32 => Value::Float(f32::from_le_bytes(cursor.array(what)?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(cursor.array(what)?)),
            Kind::Text => Value::Text(cursor.text(what)?.to_owned()),
            Kind::Bool => match cursor.array::<1>(what)? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("metadata `{key}` is a flag of value {other}")),
            },
            Kind::Array => return Err(format!("metadata `{key}` nests lists, which is not supported")),
        })
    }
}

impl Array {
    fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, Problem> {
        let kind = Kind::read(cursor, key)?;
        if kind == Kind::Array {
            return Err(format!("metadata `{key}` nests lists, which is not supported"));
        }
        let len = cursor.count(&format!("the length of the list `{key}`"), kind.min_size())?;
        let start = cursor.position();
        if kind == Kind::Text {
            for _ in 0..len {
                let size = cursor.u64("a text's length")?;
                cursor.take(size, "a text")?;
            }
        } else {
            // `count` has checked that the product fits into the file.
            cursor.take(len as u64 * kind.min_size(), "a list")?;
        }
        Ok(Array { kind, len, bytes: start..cursor.position() })
    }

    /// Entries of the list.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list has no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entries, read from the `file` this list was found in.
    pub(super) fn values<'a>(
        &'a self,
        file: &'a [u8],
        key: &'a str,
    ) -> impl Iterator<Item = Result<Value, Problem>> + 'a {
        let mut cursor = Cursor::new(&file[self.bytes.clone()]);
        (0..self.len).map(move |_| Value::read_scalar(&mut cursor, self.kind, key))
    }
}
