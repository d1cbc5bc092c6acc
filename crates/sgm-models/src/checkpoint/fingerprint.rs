//! A fast fingerprint of weight files, from a sample of their bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sgm_core::sha256::Sha256Hex;

/// Files up to this size are hashed in full.
const WHOLE: u64 = 8 << 20;
/// The number of bytes from the start of a larger file, where the names and shapes of its tensors are.
const HEAD: u64 = 1 << 20;
/// The number of blocks of a larger file, spread evenly from its first to its last byte.
const BLOCKS: u64 = 1024;
const BLOCK: u64 = 4096;

/// Hashes files: a SHA-256, in hex, over each file's length and bytes. Of a file above 8 MiB, the first MiB and 1,024
/// blocks of 4 KiB spread evenly over the file are hashed.
///
/// Training or quantising changes every tensor and so the fingerprint. A change of a few rows of a large file may fall
/// between the blocks and go unnoticed. The order of the files matters; their names and locations do not.
pub(crate) fn of_files<P: AsRef<Path>>(paths: &[P]) -> io::Result<String> {
    let mut hash = Sha256Hex::default();
    for path in paths {
        hash_file(&mut hash, &mut File::open(path)?)?;
    }
    Ok(hash.finish())
}

/// Hashes one file in memory, as [`of_files`] does.
pub(crate) fn of_bytes(bytes: &[u8]) -> io::Result<String> {
    let mut hash = Sha256Hex::default();
    hash_file(&mut hash, &mut io::Cursor::new(bytes))?;
    Ok(hash.finish())
}

fn hash_file(hash: &mut Sha256Hex, file: &mut (impl Read + Seek)) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    hash.update(length.to_le_bytes());
    let mut part = |start: u64, length: u64| {
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.by_ref().take(length).read_to_end(&mut bytes)?;
        hash.update(bytes);
        io::Result::Ok(())
    };
    if length <= WHOLE {
        return part(0, length);
    }
    part(0, HEAD)?;
    // Counted in units of a block, so that no product overflows.
    (0..BLOCKS).try_for_each(|i| part((length - BLOCK) / (BLOCKS - 1) * i, BLOCK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_hashed_in_full_and_large_ones_by_length_head_and_blocks() {
        let mut bytes = vec![7u8; 300_000];
        let before = of_bytes(&bytes).unwrap();
        bytes[200_001] = 8;
        assert_ne!(of_bytes(&bytes).unwrap(), before);

        let mut large = vec![7u8; usize::try_from(WHOLE).unwrap() * 4];
        let before = of_bytes(&large).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("w"), &large).unwrap();
        assert_eq!(of_files(&[directory.path().join("w")]).unwrap(), before);
        for at in [0, 1_000_000, 4_096] {
            large[at] ^= 1;
            assert_ne!(of_bytes(&large).unwrap(), before, "{at}");
            large[at] ^= 1;
        }
        // All weights scaled.
        let scaled: Vec<u8> = large.iter().map(|b| b + 1).collect();
        assert_ne!(of_bytes(&scaled).unwrap(), before);
        large.push(7);
        assert_ne!(of_bytes(&large).unwrap(), before);
    }
}
