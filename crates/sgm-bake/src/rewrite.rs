//! Copies a file front to back and edits it on the way.

use std::io::{Read, Write};
use std::path::Path;

use sgm_core::sha256::Sha256Hex;

use crate::block::Tally;
use crate::edit::Edit;
use crate::{Error, Result};

/// The number of bytes in memory at a time.
const BUFFER: u64 = 1 << 20;

/// The result of a copy.
#[derive(Debug)]
pub(crate) struct Rewritten {
    /// SHA-256 of the source.
    pub(crate) original: String,
    /// SHA-256 of the result.
    pub(crate) baked: String,
    /// The rounding errors of each edited tensor.
    pub(crate) tallies: Vec<Tally>,
}

/// Copies the `length` bytes of a source to a sink, with edits that are in the order of the file and do not overlap.
///
/// `from` and `to` name the files in errors.
pub(crate) fn rewrite(
    (from, source, length): (&Path, impl Read, u64),
    (to, sink): (&Path, impl Write),
    edits: &[Edit<'_>],
) -> Result<Rewritten> {
    let (original, baked) = (Sha256Hex::default(), Sha256Hex::default());
    let mut copy = Copy { from, source, to, sink, original, baked, buffer: Vec::new(), at: 0 };
    let mut tallies = Vec::new();
    for edit in edits {
        copy.pass(edit.place().0.saturating_sub(copy.at), 1, |_, _| ())?;
        match edit {
            Edit::Replace(replacement) => {
                copy.pass_over(replacement.length)?;
                copy.add(&replacement.bytes)?;
                copy.add_zeros(replacement.zeros)?;
            }
            Edit::Tensor(tensor) => {
                let (mut tally, blocks) = (Tally::default(), tensor.blocks());
                let step = tensor.insertion.as_ref().map_or(blocks, |insertion| insertion.every).max(1);
                let mut first = 0;
                while first < blocks {
                    let bytes = step.min(blocks - first) * tensor.format.bytes;
                    copy.pass(bytes, tensor.format.bytes, |block, bytes| tensor.scale(first + block, bytes, &mut tally))?;
                    if let Some(insertion) = &tensor.insertion {
                        copy.add(&insertion.piece(first / step, &mut tally))?;
                    }
                    first += step;
                }
                if tally.overflowed {
                    return Err(Error::Overflow { path: from.to_owned(), tensor: tensor.tensor.clone() });
                }
                tallies.push(tally);
            }
        }
    }
    copy.pass(length.saturating_sub(copy.at), 1, |_, _| ())?;
    copy.sink.flush().map_err(|source| Error::Io { path: to.to_owned(), action: "write", source })?;
    Ok(Rewritten { original: copy.original.finish(), baked: copy.baked.finish(), tallies })
}

struct Copy<'a, R, W> {
    from: &'a Path,
    source: R,
    to: &'a Path,
    sink: W,
    original: Sha256Hex,
    baked: Sha256Hex,
    buffer: Vec<u8>,
    at: u64,
}

impl<R: Read, W: Write> Copy<'_, R, W> {
    /// Copies bytes in pieces of whole units; `change` may alter each piece and gets the index of its first unit.
    fn pass(&mut self, count: u64, unit: u64, mut change: impl FnMut(u64, &mut [u8])) -> Result<()> {
        let mut done = 0;
        while done < count {
            let mut buffer = self.read((BUFFER / unit * unit).min(count - done))?;
            change(done / unit, &mut buffer);
            self.add(&buffer)?;
            done += buffer.len() as u64;
            self.buffer = buffer;
        }
        Ok(())
    }

    /// Reads bytes that are not copied.
    fn pass_over(&mut self, count: u64) -> Result<()> {
        let mut done = 0;
        while done < count {
            self.buffer = self.read(BUFFER.min(count - done))?;
            done += self.buffer.len() as u64;
        }
        Ok(())
    }

    /// Reads the next bytes of the source.
    fn read(&mut self, size: u64) -> Result<Vec<u8>> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(usize::try_from(size).unwrap_or(0), 0);
        self.source.read_exact(&mut buffer).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Changed { path: self.from.to_owned() },
            _ => Error::Io { path: self.from.to_owned(), action: "read", source },
        })?;
        self.original.update(&buffer);
        self.at += size;
        Ok(buffer)
    }

    /// Writes bytes to the sink.
    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.baked.update(bytes);
        self.sink.write_all(bytes).map_err(|source| Error::Io { path: self.to.to_owned(), action: "write", source })
    }

    fn add_zeros(&mut self, mut count: u64) -> Result<()> {
        while count > 0 {
            let size = BUFFER.min(count);
            self.add(&vec![0; usize::try_from(size).unwrap_or(0)])?;
            count -= size;
        }
        Ok(())
    }
}
