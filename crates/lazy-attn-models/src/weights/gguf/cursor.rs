//! Little-endian reads that never leave the file.

/// What is wrong with a file, without its path.
pub(super) type Problem = String;

/// A place in a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// Bytes before the cursor.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Bytes behind the cursor.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: u64, what: &str) -> Result<&'a [u8], Problem> {
        let taken = usize::try_from(len).ok().filter(|&len| len <= self.remaining());
        let Some(len) = taken else {
            return Err(format!(
                "truncated: {what} needs {len} bytes at offset {}, but the file ends {} bytes later; download it again",
                self.at,
                self.remaining()
            ));
        };
        let bytes = &self.bytes[self.at..][..len];
        self.at += len;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Problem> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Problem> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length-prefixed UTF-8 text.
    pub(super) fn text(&mut self, what: &str) -> Result<&'a str, Problem> {
        let at = self.at;
        let len = self.u64(what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| format!("{what} at offset {at} is not UTF-8 text"))
    }

    /// A count of things of at least `size` bytes each; refused before anything is allocated if they cannot fit.
    pub(super) fn count(&mut self, what: &str, size: u64) -> Result<usize, Problem> {
        let count = self.u64(what)?;
        self.check_count(count, what, size)
    }

    /// `count`, if that many things of at least `size` bytes each can follow.
    pub(super) fn check_count(&self, count: u64, what: &str, size: u64) -> Result<usize, Problem> {
        let fits = count.checked_mul(size).is_some_and(|bytes| bytes <= self.remaining() as u64);
        usize::try_from(count).ok().filter(|_| fits).ok_or_else(|| {
            format!("{what} is {count}, more than fit into the remaining {} bytes", self.remaining())
        })
    }
}
