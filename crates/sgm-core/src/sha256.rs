//! SHA-256 digests as lowercase hexadecimal text.
//!
//! ```
//! use sgm_core::sha256::{Sha256Hex, hex_digest};
//!
//! let mut hash = Sha256Hex::default();
//! hash.update("a");
//! hash.update([b'b']);
//! assert_eq!(hash.finish(), hex_digest("ab"));
//! ```

use std::io;

use sha2::{Digest, Sha256};

/// The digest of some bytes: 64 lowercase hexadecimal digits.
pub fn hex_digest(bytes: impl AsRef<[u8]>) -> String {
    let mut hash = Sha256Hex::default();
    hash.update(bytes);
    hash.finish()
}

/// A digest of bytes that arrive piece by piece, by [`update`](Self::update) or as a writer.
#[derive(Debug, Clone, Default)]
pub struct Sha256Hex(Sha256);

impl Sha256Hex {
    /// Adds bytes.
    pub fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes);
    }

    /// The digest of all bytes added: 64 lowercase hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl io::Write for Sha256Hex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn digests_equal_the_standards_examples() {
        // FIPS 180-4: the empty message and "abc".
        assert_eq!(hex_digest(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex_digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut hash = Sha256Hex::default();
        hash.write_all(b"ab").unwrap();
        hash.update("c");
        assert_eq!(hash.finish(), hex_digest("abc"));
    }
}
