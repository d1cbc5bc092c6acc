//! Which weights a checkpoint has, told cheaply.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use sha2::{Digest, Sha256};

/// Files up to this size are hashed whole.
const WHOLE: u64 = 8 << 20;
/// Of larger files: bytes from the start, which hold the names and shapes of the tensors.
const HEAD: u64 = 1 << 20;
/// Of larger files: blocks spread evenly from first to last byte.
const BLOCKS: u64 = 1024;
const BLOCK: u64 = 4096;

/// A SHA-256, in hex, over each file's length and its bytes: all of them up to 8 MiB, else the first MiB and 1,024 blocks of 4 KiB
/// spread evenly over the file.
///
/// Training or quantising touches every tensor and is seen; a change of a few rows of a large file may lie between the blocks
/// and is not. Names and places of files do not matter, their order does.
pub(crate) fn of_files<P: AsRef<Path>>(paths: &[P]) -> io::Result<String> {
    let mut hash = Sha256::new();
    for path in paths {
        add(&mut hash, &mut File::open(path)?)?;
    }
    Ok(hex(hash))
}

/// As [`of_files`], of one file in memory.
pub(crate) fn of_bytes(bytes: &[u8]) -> io::Result<String> {
    let mut hash = Sha256::new();
    add(&mut hash, &mut io::Cursor::new(bytes))?;
    Ok(hex(hash))
}

fn add(hash: &mut Sha256, file: &mut (impl Read + Seek)) -> io::Result<()> {
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
    // In units of a block, so that no product overflows.
    (0..BLOCKS).try_for_each(|i| part((length - BLOCK) / (BLOCKS - 1) * i, BLOCK))
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_are_known_by_every_byte_and_large_ones_by_length_head_and_blocks() {
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
        // Every weight scaled.
        let scaled: Vec<u8> = large.iter().map(|b| b + 1).collect();
        assert_ne!(of_bytes(&scaled).unwrap(), before);
        large.push(7);
        assert_ne!(of_bytes(&large).unwrap(), before);
    }
}
