//! One dirty bitmap.

use super::bits::Bits;
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use sha2::{Digest, Sha256};

/// The smallest granularity in bytes.
pub const MIN_GRANULARITY: u64 = 512;
/// The largest granularity in bytes: what the schema can tell.
pub const MAX_GRANULARITY: u64 = 1 << 31;

/// The states of a bitmap, by the names of the schema's `BlockDirtyInfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BitmapStatus {
    /// Writes are recorded, in the bitmap itself or in its successor.
    pub recording: bool,
    /// An operation works with it.
    pub busy: bool,
    /// It is stored with the image.
    pub persistent: bool,
    /// Its contents are not known: it was not saved.
    pub inconsistent: bool,
    /// It belongs to an image that is only read.
    pub readonly: bool,
}

/// Which granules of a disk were written to. A granule is a range of [`granularity`] bytes; the
/// last one may end with the disk. Memory follows what is dirty: clean and dirty stretches of any
/// length cost next to nothing.
///
/// [`granularity`]: Self::granularity
#[derive(Debug)]
pub struct DirtyBitmap {
    name: Arc<str>,
    granularity_bits: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Length of the disk in bytes.
    size: u64,
    bits: Bits,
    recording: bool,
    persistent: bool,
    inconsistent: bool,
    readonly: bool,
    busy: bool,
    /// Records while the bitmap itself is frozen.
    successor: Option<Bits>,
    /// Bits or length differ from what the image has.
    changed: bool,
}

impl DirtyBitmap {
    /// An empty bitmap over `size` bytes that records.
    ///
    /// # Errors
    /// `InvalidInput` where the name is empty or the granularity is no power of two from 512 bytes
    /// to 2 GiB.
    pub fn new(name: &str, size: u64, granularity: u64) -> Result<Self> {
        if name.is_empty() {
            return Err(Error::invalid("Bitmap name cannot be empty"));
        }
        if !granularity.is_power_of_two()
            || !(MIN_GRANULARITY..=MAX_GRANULARITY).contains(&granularity)
        {
            return Err(Error::invalid("Granularity must be power of 2 and at least 512"));
        }
        let state = State {
            size,
            bits: Bits::new(size.div_ceil(granularity)),
            recording: true,
            persistent: false,
            inconsistent: false,
            readonly: false,
            busy: false,
            successor: None,
            changed: true,
        };
        let granularity_bits = granularity.trailing_zeros();
        Ok(Self { name: Arc::from(name), granularity_bits, state: Mutex::new(state) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes that one bit stands for.
    #[must_use]
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Number of dirty bytes, in whole granules: as the schema's `count`.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.state.lock().bits.ones() << self.granularity_bits
    }

    /// Its states.
    #[must_use]
    pub fn status(&self) -> BitmapStatus {
        let state = self.state.lock();
        BitmapStatus {
            recording: state.recording,
            busy: state.busy || state.successor.is_some(),
            persistent: state.persistent,
            inconsistent: state.inconsistent,
            readonly: state.readonly,
        }
    }

    /// Refuses a bitmap that an operation has, or whose contents are not known.
    ///
    /// # Errors
    /// `InUse` for a busy bitmap, `Corrupt` for an inconsistent one.
    pub fn check_usable(&self) -> Result<()> {
        self.refuse_busy()?;
        if self.status().inconsistent {
            return Err(Error::corrupt(format!(
                "Bitmap '{}' is inconsistent and cannot be used\n\
                 Try block-dirty-bitmap-remove to delete this bitmap from disk",
                self.name
            )));
        }
        Ok(())
    }

    /// Refuses what [`check_usable`](Self::check_usable) refuses, and a bitmap that may only be
    /// read.
    ///
    /// # Errors
    /// As there; `Denied` for a bitmap of an image that is only read.
    pub fn check_writable(&self) -> Result<()> {
        self.check_usable()?;
        if self.status().readonly {
            return Err(Error::denied(format!(
                "Bitmap '{}' is readonly and cannot be modified",
                self.name
            )));
        }
        Ok(())
    }

    pub(super) fn refuse_busy(&self) -> Result<()> {
        if self.status().busy {
            return Err(Error::new(
                ErrorKind::InUse,
                format!(
                    "Bitmap '{}' is currently in use by another operation and cannot be used",
                    self.name
                ),
            ));
        }
        Ok(())
    }

    /// An operation begins to work with it, or ends.
    pub fn set_busy(&self, busy: bool) {
        self.state.lock().busy = busy;
    }

    /// It is to be stored with the image.
    pub fn set_persistent(&self, persistent: bool) {
        self.state.lock().persistent = persistent;
    }

    pub(crate) fn set_readonly(&self) {
        self.state.lock().readonly = true;
    }

    pub(crate) fn set_inconsistent(&self) {
        let mut state = self.state.lock();
        (state.inconsistent, state.recording) = (true, false);
    }

    pub(crate) fn set_recording(&self, recording: bool) {
        self.state.lock().recording = recording;
    }

    /// Marks the granules that a range touches as dirty.
    pub fn set(&self, offset: u64, len: u64) {
        let granules = self.touched(offset, len);
        let mut state = self.state.lock();
        state.bits.fill(granules, true);
        state.changed = true;
    }

    /// Marks the granules that lie wholly within a range as clean; the end of the disk ends the
    /// last granule.
    pub fn reset(&self, offset: u64, len: u64) {
        let mut state = self.state.lock();
        let end = offset.saturating_add(len);
        let last = if end >= state.size { state.bits.len() } else { end >> self.granularity_bits };
        let first = offset.div_ceil(self.granularity());
        state.bits.fill(first..last.max(first), false);
        state.changed = true;
    }

    /// Marks everything as clean.
    pub fn clear(&self) {
        let mut state = self.state.lock();
        state.bits.clear();
        state.changed = true;
    }

    /// Records a write, if it records at all.
    pub(super) fn record(&self, offset: u64, len: u64) {
        let granules = self.touched(offset, len);
        let mut state = self.state.lock();
        if !state.recording {
            return;
        }
        match &mut state.successor {
            Some(successor) => successor.fill(granules, true),
            None => state.bits.fill(granules, true),
        }
        state.changed = true;
    }

    /// The disk has another length; what is gained is clean.
    pub(super) fn resize(&self, size: u64) {
        let granules = size.div_ceil(self.granularity());
        let mut state = self.state.lock();
        if state.size == size {
            return;
        }
        state.size = size;
        state.bits.resize(granules);
        if let Some(successor) = &mut state.successor {
            successor.resize(granules);
        }
        state.changed = true;
    }

    /// True where the byte at `offset` is in a dirty granule.
    #[must_use]
    pub fn get(&self, offset: u64) -> bool {
        self.state.lock().bits.get(offset >> self.granularity_bits)
    }

    /// The first dirty byte in `[offset, offset + len)`.
    #[must_use]
    pub fn next_dirty(&self, offset: u64, len: u64) -> Option<u64> {
        self.next(offset, len, true)
    }

    /// The first clean byte in `[offset, offset + len)`.
    #[must_use]
    pub fn next_zero(&self, offset: u64, len: u64) -> Option<u64> {
        self.next(offset, len, false)
    }

    fn next(&self, offset: u64, len: u64, value: bool) -> Option<u64> {
        let state = self.state.lock();
        let end = offset.saturating_add(len).min(state.size);
        if offset >= end {
            return None;
        }
        let granule = state.bits.next(offset >> self.granularity_bits, value)?;
        let found = (granule << self.granularity_bits).max(offset);
        (found < end).then_some(found)
    }

    /// The first run of dirty bytes in `[offset, offset + len)`: its offset and its length, `most`
    /// bytes at most.
    #[must_use]
    pub fn next_dirty_area(&self, offset: u64, len: u64, most: u64) -> Option<(u64, u64)> {
        let state = self.state.lock();
        let end = offset.saturating_add(len).min(state.size);
        if offset >= end || most == 0 {
            return None;
        }
        let first = state.bits.next(offset >> self.granularity_bits, true)?;
        let start = (first << self.granularity_bits).max(offset);
        if start >= end {
            return None;
        }
        let stop = match state.bits.next(first, false) {
            Some(clean) => (clean << self.granularity_bits).min(end),
            None => end,
        };
        Some((start, (stop - start).min(most)))
    }

    /// Marks as dirty what is dirty in `source`, whose granularity may differ. Both cover the same
    /// disk, or disks of one length.
    ///
    /// # Errors
    /// `InvalidInput` where the lengths differ; nothing is changed then.
    pub fn merge(&self, source: &Self) -> Result<()> {
        if core::ptr::eq(self, source) {
            return Ok(());
        }
        // One lock at a time: two merges may go opposite ways.
        let (size, bits) = {
            let source = source.state.lock();
            (source.size, source.bits.clone())
        };
        let mut state = self.state.lock();
        if state.size != size {
            return Err(Error::invalid(format!(
                "Bitmaps are of different sizes (destination size is {}, source size is {size}) \
                 and can't be merged",
                state.size
            )));
        }
        for run in bits.runs() {
            let start = (run.start << source.granularity_bits) >> self.granularity_bits;
            // The last granule may reach past the end of the disk.
            let end = size.min(run.end.saturating_mul(source.granularity()));
            state.bits.fill(start..end.div_ceil(self.granularity()), true);
        }
        state.changed = true;
        Ok(())
    }

    /// Freezes the bitmap for an operation: from here on writes are recorded in a successor, until
    /// [`abdicate`](Self::abdicate) or [`reclaim`](Self::reclaim). It is busy that long.
    ///
    /// # Errors
    /// `InUse` where it is busy already.
    pub fn create_successor(&self) -> Result<()> {
        self.check_usable()?;
        let mut state = self.state.lock();
        state.successor = Some(Bits::new(state.bits.len()));
        Ok(())
    }

    /// The operation succeeded: only what was written meanwhile is dirty.
    pub fn abdicate(&self) {
        let mut state = self.state.lock();
        if let Some(successor) = state.successor.take() {
            (state.bits, state.changed) = (successor, true);
        }
    }

    /// The operation failed: what was dirty still is, and what was written meanwhile too.
    pub fn reclaim(&self) {
        let mut state = self.state.lock();
        if let Some(successor) = state.successor.take() {
            successor.runs().for_each(|run| state.bits.fill(run, true));
            state.changed = true;
        }
    }

    /// Length in bytes of its serialised form: one bit a granule.
    #[must_use]
    pub fn serialized_len(&self) -> u64 {
        self.state.lock().bits.len().div_ceil(8)
    }

    /// Bytes `[start, start + len)` of the serialised form, the first granule the least
    /// significant bit of the first byte. Bits past the last granule are zero.
    #[must_use]
    pub fn serialize(&self, start: u64, len: u64) -> Vec<u8> {
        let bits = start.saturating_mul(8)..start.saturating_add(len).saturating_mul(8);
        self.state.lock().bits.bytes(bits)
    }

    /// The SHA-256 digest of the serialised form, filled with zeroes to whole words of 64 bits
    /// (`x-debug-block-dirty-bitmap-sha256`).
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        const STEP: u64 = 64 << 10;
        let len = self.serialized_len();
        let mut digest = Sha256::new();
        for start in (0..len).step_by(STEP as usize) {
            digest.update(self.serialize(start, STEP.min(len - start)));
        }
        let rest = len.next_multiple_of(8) - len;
        digest.update(&[0; 8][..rest as usize]);
        digest.finalize().into()
    }

    /// Marks as dirty what is set in bytes of the serialised form, from byte `start` on. Bits past
    /// the last granule are ignored.
    pub fn deserialize(&self, start: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        state.bits.set_bytes(start.saturating_mul(8), bytes);
        state.changed = true;
    }

    /// `Some` where all of `len` serialised bytes from `start` on are the same: all clean, or all
    /// dirty and none past the end.
    #[must_use]
    pub fn uniform(&self, start: u64, len: u64) -> Option<bool> {
        let state = self.state.lock();
        let (first, end) = (start.saturating_mul(8), start.saturating_add(len).saturating_mul(8));
        let stop = |value| state.bits.next(first, value).unwrap_or(u64::MAX);
        if stop(true) >= end {
            return Some(false);
        }
        (end <= state.bits.len() && stop(false) >= end).then_some(true)
    }

    /// Marks all granules of `len` serialised bytes from `start` on as dirty.
    pub(crate) fn deserialize_ones(&self, start: u64, len: u64) {
        let mut state = self.state.lock();
        let end = start.saturating_add(len).saturating_mul(8);
        state.bits.fill(start.saturating_mul(8)..end, true);
    }

    /// What is in memory is what the image has.
    pub(crate) fn stored(&self) {
        self.state.lock().changed = false;
    }

    /// Bits or length may differ from what the image has.
    pub(crate) fn is_changed(&self) -> bool {
        self.state.lock().changed
    }

    fn touched(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len);
        match len {
            0 => 0..0,
            _ => offset >> self.granularity_bits..end.div_ceil(self.granularity()),
        }
    }

    #[cfg(test)]
    pub(super) fn spans(&self) -> usize {
        self.state.lock().bits.spans()
    }
}
