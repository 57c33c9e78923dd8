//! Bytes of a weights file: mapped, compiled in, or owned.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;

use crate::ModelError;

/// Read-only bytes of a file. Cheap to make: a mapped file is read page by page when it is first touched.
#[derive(Debug)]
pub enum FileBytes {
    /// Part of the program.
    Static(&'static [u8]),
    /// A file mapped into memory.
    Mapped(Mmap),
    /// In memory.
    Owned(Vec<u8>),
}

impl FileBytes {
    /// Maps the regular file at `path`.
    ///
    /// The file must not be shortened while it is mapped: the system would end the process at the next touch.
    ///
    /// # Errors
    /// [`ModelError::Io`] if it cannot be opened or mapped, [`ModelError::Format`] if it is not a regular file.
    pub fn map(path: &Path) -> Result<FileBytes, ModelError> {
        let io = |source| ModelError::Io { path: path.into(), source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(ModelError::format(path, "is not a regular file; give the path of a weights file"));
        }
        let file = File::open(path).map_err(io)?;
        if metadata.len() == 0 {
            return Ok(FileBytes::Owned(Vec::new()));
        }
        // SAFETY: the mapping is private and read-only, and lives in the returned value, which lends only `&[u8]`.
        // Its bytes can change only if another process rewrites the file in place; every reader of this crate checks
        // each range against the length at mapping time and accepts any byte values, so changed bytes give wrong
        // numbers, never an access outside the mapping. Shortening is excluded by the contract above.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(FileBytes::Mapped(map))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            FileBytes::Static(bytes) => bytes,
            FileBytes::Mapped(map) => map,
            FileBytes::Owned(bytes) => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named() {
        let error = FileBytes::map(Path::new("no/such/model.gguf")).unwrap_err().to_string();
        assert!(error.starts_with("cannot read no/such/model.gguf: "), "{error}");
    }

    #[test]
    fn a_directory_is_not_a_weights_file() {
        let error = FileBytes::map(&std::env::temp_dir()).unwrap_err().to_string();
        assert!(error.contains("is not a regular file"), "{error}");
    }

    #[test]
    fn a_mapped_file_gives_its_bytes() {
        let dir = crate::testing::TempDir::new("mmap");
        let path = dir.write("file", b"bytes");
        assert_eq!(&*FileBytes::map(&path).unwrap(), b"bytes");
        let empty = dir.write("empty", b"");
        assert!(FileBytes::map(&empty).unwrap().is_empty());
    }
}
