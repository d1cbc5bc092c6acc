//! A reader of little-endian numbers and texts that counts its bytes.

use std::io::{BufRead, Read as _};

use super::problem::{GgufProblem, ReadError};

pub(super) type Result<T> = std::result::Result<T, ReadError>;

/// A reader of a file from front to back. A count in the file is compared with the bytes left before anything is allocated by it.
pub(super) struct Reader<R> {
    source: R,
    at: u64,
    length: u64,
}

impl<R: BufRead> Reader<R> {
    /// A reader of a file of `length` bytes whose source starts at byte `at`.
    pub(super) fn new(source: R, at: u64, length: u64) -> Self {
        Self { source, at, length }
    }

    /// The position of the next byte in the file.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Checks that `count` things of at least `each` bytes fit into the rest of the file.
    pub(super) fn room_for(&self, what: &'static str, count: u64, each: u64) -> Result<()> {
        if count > self.left() / each { Err(GgufProblem::TooMany { what, count }.into()) } else { Ok(()) }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.source.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A text of at most `longest` bytes, which must be UTF-8; `what` describes it in errors.
    pub(super) fn name(&mut self, what: &'static str, longest: u64) -> Result<String> {
        let length = self.u64()?;
        if length > longest {
            return Err(GgufProblem::TooLong { what, length }.into());
        }
        String::from_utf8(self.bytes(length)?).map_err(|_| GgufProblem::NotUtf8 { what }.into())
    }

    /// A text. Bytes that are not UTF-8 are replaced, because vocabularies hold parts of characters.
    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(&self.bytes(length)?).into_owned())
    }

    /// The next bytes. The buffer grows with the bytes that arrive.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        if count > self.left() {
            return Err(GgufProblem::Truncated.into());
        }
        let mut bytes = Vec::new();
        let read = self.source.by_ref().take(count).read_to_end(&mut bytes)? as u64;
        self.at += read;
        if read < count { Err(GgufProblem::Truncated.into()) } else { Ok(bytes) }
    }

    /// Passes over bytes.
    pub(super) fn skip(&mut self, mut count: u64) -> Result<()> {
        if count > self.left() {
            return Err(GgufProblem::Truncated.into());
        }
        while count > 0 {
            let here = self.source.fill_buf()?.len();
            if here == 0 {
                return Err(GgufProblem::Truncated.into());
            }
            let step = here.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.source.consume(step);
            self.at += step as u64;
            count -= step as u64;
        }
        Ok(())
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }
}
