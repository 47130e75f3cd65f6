//! Where a zstd frame ends, and whether its demands are reasonable (RFC 8878, section 3.1).
//!
//! A payload that is counted in sectors ends in bytes of no meaning, and these may well be the
//! start of another frame; the decoders want to be given exactly one. Only the skeleton is read
//! here (headers and block sizes); the decoder checks everything else.

use super::Compression::Zstd as KIND;
use super::{damaged, too_short};
use crate::{Error, Result};

const MAGIC: u32 = 0xFD2F_B528;
/// The low four bits of a skippable frame's magic number are free.
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;
/// What the reference decoder allows unless told otherwise.
const MAX_WINDOW: u64 = 1 << 27;

/// One frame at the start of a payload.
pub(super) enum Frame<'a> {
    /// A frame with contents, whole.
    Data(&'a [u8]),
    /// A frame to pass over, of this many bytes.
    Skip(usize),
}

/// Finds the frame at the start of `payload`, which is to give at most `room` bytes.
pub(super) fn first(payload: &[u8], got: usize, out_len: usize) -> Result<Frame<'_>> {
    let bytes = &mut Reader { bytes: payload, at: 0, got, out_len };
    let magic = bytes.le(4)?;
    if magic & !0xf == u64::from(SKIPPABLE_MAGIC) {
        let len = bytes.le(4)?;
        bytes.skip(len)?;
        return Ok(Frame::Skip(bytes.at));
    }
    if magic != u64::from(MAGIC) {
        return Err(bytes.damaged("no frame starts here"));
    }
    let checksum = header(bytes)?;
    blocks(bytes)?;
    if checksum {
        bytes.skip(4)?;
    }
    payload.get(..bytes.at).map(Frame::Data).ok_or_else(|| Error::bug("frame past its payload"))
}

/// Reads the frame header after the magic number; true where a checksum ends the frame.
fn header(bytes: &mut Reader<'_>) -> Result<bool> {
    let descriptor = bytes.le(1)?;
    let single_segment = descriptor & 0x20 != 0;
    if descriptor & 0x08 != 0 {
        return Err(bytes.damaged("a reserved bit of the frame header is set"));
    }
    if !single_segment {
        let window = bytes.le(1)?;
        let base = 1u64 << (10 + (window >> 3));
        let size = base + (base >> 3) * (window & 7);
        if size > MAX_WINDOW {
            return Err(Error::limit(alloc::format!(
                "a zstd frame asks for a window of {size:#x} bytes, the limit is {MAX_WINDOW:#x}"
            )));
        }
    }
    let dictionary = bytes.le([0, 1, 2, 4][usize::from(descriptor as u8 & 3)])?;
    if dictionary != 0 {
        return Err(Error::unsupported(alloc::format!(
            "a zstd frame needs dictionary {dictionary:#x}"
        )));
    }
    let content = match descriptor >> 6 {
        0 if !single_segment => None,
        0 => Some(bytes.le(1)?),
        1 => Some(bytes.le(2)? + 256),
        2 => Some(bytes.le(4)?),
        _ => Some(bytes.le(8)?),
    };
    if content.is_some_and(|len| len > bytes.room()) {
        return Err(bytes.damaged("a frame holds more than the cluster has room for"));
    }
    Ok(descriptor & 0x04 != 0)
}

/// Passes over the blocks of a frame.
fn blocks(bytes: &mut Reader<'_>) -> Result<()> {
    loop {
        let block = bytes.le(3)?;
        let (last, kind, size) = (block & 1 != 0, (block >> 1) & 3, block >> 3);
        bytes.skip(match kind {
            // Raw and compressed.
            0 | 2 => size,
            // One byte, repeated.
            1 => 1,
            _ => return Err(bytes.damaged("a block has the reserved type")),
        })?;
        if last {
            return Ok(());
        }
    }
}

/// A cursor over the payload that knows how far the cluster is, for the messages.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    got: usize,
    out_len: usize,
}

impl Reader<'_> {
    /// A little-endian number of `len` (at most 8) bytes; 0 of none.
    fn le(&mut self, len: usize) -> Result<u64> {
        let end = self.at.saturating_add(len);
        let bytes = self.bytes.get(self.at..end).ok_or_else(|| self.short())?;
        self.at = end;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn skip(&mut self, len: u64) -> Result<()> {
        let left = self.bytes.len() - self.at;
        let len = usize::try_from(len).ok().filter(|&len| len <= left);
        self.at += len.ok_or_else(|| self.short())?;
        Ok(())
    }

    fn room(&self) -> u64 {
        (self.out_len - self.got) as u64
    }

    fn short(&self) -> Error {
        too_short(KIND, self.got, self.out_len)
    }

    fn damaged(&self, why: &str) -> Error {
        damaged(KIND, self.got, self.out_len, why)
    }
}
