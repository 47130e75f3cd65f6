//! The calls that a ring and a thread both know.

use super::buffer::Buffer;
use super::handle::{Called, Handle};
use rustix::fs::FallocateFlags;
use sectora_core::io::Segments;
use std::ops::Range;

/// One call to the kernel.
#[derive(Debug)]
pub(super) enum Work {
    /// Read into `buffer` from `done` on; its first byte is at `offset` of the file.
    Read { buffer: Buffer, done: usize, offset: u64 },
    /// Write `data` from `done` on; its first byte goes to `offset`.
    Write { data: Segments, done: u64, offset: u64 },
    /// Make written data durable.
    Sync,
    /// One `fallocate`.
    Fallocate { mode: FallocateFlags, offset: u64, len: u64 },
}

impl Work {
    /// What of the file it may change.
    pub(super) fn changes(&self) -> Option<Range<u64>> {
        match self {
            Self::Read { .. } | Self::Sync => None,
            Self::Write { data, done, offset } => Some(offset + done..offset + data.len()),
            Self::Fallocate { offset, len, .. } => Some(*offset..offset.saturating_add(*len)),
        }
    }

    /// How many bytes are to be moved; `None` where it is not about bytes.
    pub(super) fn len(&mut self) -> Option<u64> {
        match self {
            // Within the buffer, which is in memory.
            Self::Read { buffer, done, .. } => {
                Some(buffer.as_mut_slice().len().saturating_sub(*done) as u64)
            }
            Self::Write { data, done, .. } => Some(data.len() - *done),
            Self::Sync | Self::Fallocate { .. } => None,
        }
    }

    /// What must happen when it has settled, whether or not anybody waits.
    pub(super) fn settled(&self, handle: &Handle, result: &Called) {
        match (self, result) {
            (Self::Sync, _) => handle.synced(result),
            (Self::Write { done, offset, .. }, Ok(n)) => {
                handle.wrote_up_to(offset + done + *n as u64);
            }
            (Self::Fallocate { offset, len, .. }, Ok(_)) => {
                handle.wrote_up_to(offset.saturating_add(*len));
            }
            _ => {}
        }
    }

    /// Does it on this thread.
    pub(super) fn run(mut self, handle: &Handle) -> Outcome {
        let result = match &mut self {
            Self::Read { buffer, done, offset } => handle.read(buffer, *done, *offset),
            Self::Write { data, done, offset } => handle.write(&handle.file, data, *done, *offset),
            Self::Sync => handle.sync(),
            Self::Fallocate { mode, offset, len } => handle.fallocate(*mode, *offset, *len),
        };
        (result, self)
    }
}

/// How a call ended, with what it was given.
pub(super) type Outcome = (Called, Work);
