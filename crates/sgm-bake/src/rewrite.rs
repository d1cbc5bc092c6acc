//! Copies a file front to back and scales rows on the way.

use std::io::{Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::block::{Change, Tally};
use crate::fold::Patch;
use crate::{Error, Result};

/// Bytes held at a time.
const BUFFER: u64 = 1 << 20;

/// What a copy came to.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// SHA-256 of the source.
    pub(crate) original: String,
    /// SHA-256 of the result.
    pub(crate) baked: String,
    /// For each patch, how far its numbers are from the exact products.
    pub(crate) tallies: Vec<Tally>,
}

/// Copies the `length` bytes of a source to a sink, with patches that are in the order of the file and do not overlap.
///
/// `from` and `to` say in errors which files these are.
pub(crate) fn rewrite(
    (from, source, length): (&Path, impl Read, u64),
    (to, sink): (&Path, impl Write),
    patches: &[Patch],
) -> Result<Rewritten> {
    let (original, baked) = (Sha256::new(), Sha256::new());
    let mut copy = Copy { from, source, to, sink, original, baked, buffer: Vec::new(), at: 0 };
    let mut tallies = Vec::new();
    for patch in patches {
        copy.pass(patch.start.saturating_sub(copy.at), 1, |_, _| ())?;
        let mut tally = Tally::default();
        copy.pass(patch.bytes(), patch.format.bytes, |first, bytes| scale(patch, first, bytes, &mut tally))?;
        if tally.overflowed {
            return Err(Error::Overflow { path: from.to_owned(), tensor: patch.tensor.clone() });
        }
        tallies.push(tally);
    }
    copy.pass(length.saturating_sub(copy.at), 1, |_, _| ())?;
    copy.sink.flush().map_err(|source| Error::Io { path: to.to_owned(), action: "write", source })?;
    Ok(Rewritten { original: hex(copy.original), baked: hex(copy.baked), tallies })
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Scales consecutive blocks of a tensor, the first of which is its `first`.
fn scale(patch: &Patch, first: u64, mut blocks: &mut [u8], tally: &mut Tally) {
    let mut block = first;
    while !blocks.is_empty() {
        let left = patch.blocks_per_row - block % patch.blocks_per_row;
        let bytes = usize::try_from(left * patch.format.bytes).unwrap_or(usize::MAX).min(blocks.len());
        let (row, rest) = blocks.split_at_mut(bytes);
        let turn = (block / patch.blocks_per_row) % patch.changes.len() as u64;
        let change = usize::try_from(turn).ok().and_then(|turn| patch.changes.get(turn)).copied().unwrap_or(Change::NONE);
        if change != Change::NONE {
            patch.format.scale(row, change, tally);
        }
        (block, blocks) = (block + left, rest);
    }
}

struct Copy<'a, R, W> {
    from: &'a Path,
    source: R,
    to: &'a Path,
    sink: W,
    original: Sha256,
    baked: Sha256,
    buffer: Vec<u8>,
    at: u64,
}

impl<R: Read, W: Write> Copy<'_, R, W> {
    /// Copies bytes in pieces of whole units, each changed by a function that is told the number of its first unit.
    fn pass(&mut self, count: u64, unit: u64, mut change: impl FnMut(u64, &mut [u8])) -> Result<()> {
        let piece = BUFFER / unit * unit;
        let mut done = 0;
        while done < count {
            let size = piece.min(count - done);
            self.buffer.resize(usize::try_from(size).unwrap_or(0), 0);
            self.source.read_exact(&mut self.buffer).map_err(|source| match source.kind() {
                std::io::ErrorKind::UnexpectedEof => Error::Changed { path: self.from.to_owned() },
                _ => Error::Io { path: self.from.to_owned(), action: "read", source },
            })?;
            self.original.update(&self.buffer);
            change(done / unit, &mut self.buffer);
            self.baked.update(&self.buffer);
            self.sink.write_all(&self.buffer).map_err(|source| Error::Io { path: self.to.to_owned(), action: "write", source })?;
            done += size;
        }
        self.at += count;
        Ok(())
    }
}
