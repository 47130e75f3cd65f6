//! The model: a flat vector of bytes, and what else each byte may be.
//!
//! Most bytes have one right value. After a discard, a failed write or a crash a byte may have one
//! of several; those are kept as layers, and go when the byte is next written for sure.

use super::super::call::overlaps;
use super::super::transfer::read_all;
use crate::io::BlockDevice;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::Bytes;
use core::ops::{Range, RangeInclusive};

/// What a device has to contain.
#[derive(Clone, Debug)]
pub struct Flat {
    now: Contents,
    flushed: Contents,
    /// Every change that no flush covers yet, oldest first.
    since: Vec<Layer>,
    /// Every length the device may have had since the last flush began, the present one included.
    /// A write that grows it may be torn, and leave any length on the way.
    lens: Vec<RangeInclusive<u64>>,
}

/// The state of a whole disk, kept.
#[derive(Clone, Debug)]
pub(super) struct Kept(Contents);

#[derive(Clone, Debug)]
struct Contents {
    bytes: Vec<u8>,
    layers: Vec<Layer>,
}

/// Values that the bytes of a range may have.
#[derive(Clone, Debug)]
struct Layer {
    range: Range<u64>,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Zero,
    Bytes(Bytes),
}

impl Layer {
    fn data(offset: u64, data: Bytes) -> Self {
        Self { range: offset..offset + data.len() as u64, values: Values::Bytes(data) }
    }

    fn zero(range: Range<u64>) -> Self {
        Self { range, values: Values::Zero }
    }

    fn at(&self, position: u64) -> Option<u8> {
        self.range.contains(&position).then(|| match &self.values {
            Values::Zero => 0,
            Values::Bytes(data) => data[(position - self.range.start) as usize],
        })
    }

    /// The part within `range`, if any.
    fn clip(&self, range: Range<u64>) -> Option<Self> {
        let range = self.range.start.max(range.start)..self.range.end.min(range.end);
        if range.is_empty() {
            return None;
        }
        let skip = (range.start - self.range.start) as usize;
        let len = (range.end - range.start) as usize;
        let values = match &self.values {
            Values::Zero => Values::Zero,
            Values::Bytes(data) => Values::Bytes(data.slice(skip..skip + len)),
        };
        Some(Self { range, values })
    }
}

/// Takes `range` out of all layers.
fn cut(layers: &mut Vec<Layer>, range: &Range<u64>) {
    if layers.iter().any(|layer| overlaps(&layer.range, range)) {
        *layers = layers
            .iter()
            .flat_map(|l| [l.clip(0..range.start), l.clip(range.end..u64::MAX)])
            .flatten()
            .collect();
    }
}

impl Contents {
    /// The bytes of `layer` are now those of the layer, for sure.
    fn set(&mut self, layer: &Layer) {
        cut(&mut self.layers, &layer.range);
        if layer.range.end > self.len() {
            self.resize(layer.range.end);
        }
        let part = &mut self.bytes[layer.range.start as usize..layer.range.end as usize];
        match &layer.values {
            Values::Zero => part.fill(0),
            Values::Bytes(data) => part.copy_from_slice(data),
        }
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn resize(&mut self, len: u64) {
        let kept = len.min(self.len());
        cut(&mut self.layers, &(kept..u64::MAX));
        self.bytes.resize(len as usize, 0);
    }

    fn check(&self, offset: u64, found: &[u8]) -> Result<(), String> {
        let from = offset as usize;
        let Some(want) = self.bytes.get(from..from + found.len()) else {
            return Err(format!(
                "{offset:#x}+{:#x} exceeds the length {:#x}",
                found.len(),
                self.bytes.len()
            ));
        };
        if want == found {
            return Ok(());
        }
        for (position, (want, found)) in (offset..).zip(want.iter().zip(found)) {
            if want == found {
                continue;
            }
            let mut others = Vec::new();
            others.extend(self.layers.iter().filter_map(|layer| layer.at(position)));
            if !others.contains(found) {
                let others: Vec<String> = others.iter().map(|b| format!("{b:#04x}")).collect();
                let or = match others.is_empty() {
                    true => String::new(),
                    false => format!(" (or one of {})", others.join(", ")),
                };
                return Err(format!(
                    "the byte at {position:#x} is {found:#04x}, should be {want:#04x}{or}"
                ));
            }
        }
        Ok(())
    }
}

impl Flat {
    /// A device that contains `bytes`, all of them durable.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let lens = exactly(bytes.len() as u64);
        let now = Contents { bytes, layers: Vec::new() };
        Self { flushed: now.clone(), now, since: Vec::new(), lens }
    }

    /// Length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.now.len()
    }

    /// A write has completed.
    pub fn write(&mut self, offset: u64, data: Bytes) {
        self.change(Layer::data(offset, data));
    }

    /// A zero write has completed.
    pub fn zero(&mut self, offset: u64, len: u64) {
        self.change(Layer::zero(offset..offset + len));
    }

    /// A discard has completed: the bytes are what they were, or zero.
    pub fn discard(&mut self, offset: u64, len: u64) {
        self.may(Layer::zero(offset..offset + len));
    }

    /// A write has failed, or was abandoned: each byte may be old or new. What lies past the end
    /// is not taken up; see [`resized`](Self::resized).
    pub fn may_write(&mut self, offset: u64, data: Bytes) {
        self.may(Layer::data(offset, data));
    }

    /// A zero write has failed, or was abandoned: each byte may be old or zero.
    pub fn may_zero(&mut self, offset: u64, len: u64) {
        self.may(Layer::zero(offset..offset + len));
    }

    /// The length has changed; bytes gained are zero.
    pub fn set_len(&mut self, len: u64) {
        let old = self.now.len();
        self.since.push(Layer::zero(old.min(len)..old.max(len)));
        self.now.resize(len);
        self.lens.extend(exactly(len));
    }

    /// After a failed change the length is `len`, which must be one that the change explains:
    /// the old one or `wanted`, or for a growing write anything between.
    ///
    /// # Errors
    /// Says what was found where it is not.
    pub fn resized(&mut self, len: u64, wanted: u64) -> Result<(), String> {
        let old = self.now.len();
        if !(old.min(wanted)..=old.max(wanted)).contains(&len) {
            return Err(format!(
                "the length is {len:#x} after a failed change from {old:#x} to {wanted:#x}"
            ));
        }
        if len != old {
            self.set_len(len);
        }
        // The rest of the change may yet land.
        self.lens.push(old.min(wanted)..=old.max(wanted));
        Ok(())
    }

    /// The state as it is now.
    pub(super) fn keep(&self) -> Kept {
        Kept(self.now.clone())
    }

    /// The device has gone back to a state, durably.
    pub(super) fn go_back(&mut self, kept: &Kept) {
        self.now = kept.0.clone();
        self.flush();
    }

    /// A flush has completed that began now: what has completed is durable.
    pub fn flush(&mut self) {
        self.flushed = self.now.clone();
        self.since.clear();
        self.lens = exactly(self.now.len());
    }

    /// The bytes of a completed write are durable without a flush
    /// ([`WriteFlags::FUA`](crate::io::WriteFlags::FUA)). Call it after [`write`](Self::write).
    pub fn harden(&mut self, offset: u64, len: u64) {
        let range = offset..offset + len;
        cut(&mut self.since, &range);
        let bytes = &self.now.bytes[offset as usize..range.end as usize];
        self.flushed.set(&Layer::data(offset, Bytes::copy_from_slice(bytes)));
        // A length below the end of these bytes is no longer possible, unless it was cut later.
        self.lens.retain_mut(|possible| {
            *possible = *possible.start().max(&range.end)..=*possible.end();
            !possible.is_empty()
        });
    }

    /// What a device of length `len` may contain after a crash at this moment: what was flushed,
    /// and any byte that a change since then has put there.
    ///
    /// # Errors
    /// Where it could not have this length.
    pub fn after_crash(&self, len: u64) -> Result<Self, String> {
        let possible = self.lens.iter().any(|possible| possible.contains(&len));
        if len != self.flushed.len() && !possible {
            return Err(format!("the length is {len:#x}, which it never was since the last flush"));
        }
        let mut now = self.flushed.clone();
        now.resize(len);
        now.layers.extend(self.since.iter().filter_map(|layer| layer.clip(0..len)));
        Ok(Self { flushed: now.clone(), now, since: Vec::new(), lens: exactly(len) })
    }

    /// Checks bytes that were read at `offset`.
    ///
    /// # Errors
    /// Names the first wrong byte, and what it should be.
    pub fn check(&self, offset: u64, found: &[u8]) -> Result<(), String> {
        self.now.check(offset, found)
    }

    /// Checks that `len` bytes at `offset` may all be zero.
    ///
    /// # Errors
    /// Names the first byte that may not.
    pub fn check_zero(&self, offset: u64, len: u64) -> Result<(), String> {
        self.check(offset, &alloc::vec![0; len as usize])
    }

    /// Reads the first bytes of `device`, as many as there are here, and checks them.
    ///
    /// # Errors
    /// Names the first wrong byte, or the read that failed.
    pub async fn verify(&self, device: &dyn BlockDevice) -> Result<(), String> {
        self.verify_range(device, 0, self.len()).await
    }

    /// Reads a range of `device` and checks it.
    ///
    /// # Errors
    /// Names the first wrong byte, or the read that failed.
    pub async fn verify_range(
        &self,
        device: &dyn BlockDevice,
        offset: u64,
        len: u64,
    ) -> Result<(), String> {
        let found = read_all(device, offset, len).await?;
        self.check(offset, &found)
    }

    fn change(&mut self, layer: Layer) {
        let old = self.now.len();
        self.now.set(&layer);
        if self.now.len() != old {
            self.since.push(Layer::zero(old..self.now.len()));
        }
        self.may_reach(&layer.range);
        self.since.push(layer);
    }

    /// A write into `range` makes a device longer that has lost an earlier growth, or grows now.
    fn may_reach(&mut self, range: &Range<u64>) {
        let shortest = self.lens.iter().map(|lens| *lens.start()).min().unwrap_or(0);
        if shortest.min(self.flushed.len()) < range.end {
            self.lens.push(range.start..=range.end);
        }
    }

    fn may(&mut self, layer: Layer) {
        self.may_reach(&layer.range);
        self.now.layers.extend(layer.clip(0..self.now.len()));
        self.since.push(layer);
    }
}

fn exactly(len: u64) -> Vec<RangeInclusive<u64>> {
    alloc::vec![len..=len]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat() -> Flat {
        Flat::new(alloc::vec![1; 8])
    }

    fn data(byte: u8, len: usize) -> Bytes {
        Bytes::from(alloc::vec![byte; len])
    }

    #[test]
    fn bytes_written_have_one_value() {
        let mut f = flat();
        f.write(2, data(2, 2));
        f.zero(7, 3);
        assert_eq!(f.check(0, &[1, 1, 2, 2, 1, 1, 1, 0, 0, 0]), Ok(()));
        let error = f.check(1, &[1, 2, 3]).expect_err("a wrong byte");
        assert_eq!(error, "the byte at 0x3 is 0x03, should be 0x02");
        assert!(f.check(9, &[0, 0]).is_err(), "past the end");
        assert!(f.check_zero(7, 3).is_ok() && f.check_zero(6, 2).is_err());
    }

    #[test]
    fn an_uncertain_byte_has_its_values_until_it_is_written() {
        let mut f = flat();
        f.discard(0, 4);
        f.may_write(2, data(9, 4));
        assert_eq!(f.check(0, &[0, 1, 9, 0, 9, 1, 1, 1]), Ok(()));
        let error = f.check(2, &[5]).expect_err("none of its values");
        assert_eq!(error, "the byte at 0x2 is 0x05, should be 0x01 (or one of 0x00, 0x09)");
        assert!(f.check(0, &[9]).is_err() && f.check(5, &[0]).is_err());
        f.write(2, data(3, 1));
        assert_eq!(f.check(1, &[0, 3, 9]), Ok(()));
        assert!(f.check(2, &[9]).is_err() && f.check(2, &[0]).is_err());
        // A layer reaches no further than the device, also after it has grown again.
        f.set_len(3);
        f.set_len(8);
        assert_eq!(f.check(0, &[1, 0, 3, 0, 0, 0, 0, 0]), Ok(()));
        assert!(f.check(4, &[9]).is_err());
        f.may_zero(6, 100);
        f.set_len(200);
        assert!(f.check(100, &[0]).is_ok());
    }

    #[test]
    fn a_failed_change_of_length_leaves_one_that_it_explains() {
        let mut f = flat();
        assert!(f.resized(8, 12).is_ok() && f.len() == 8);
        assert!(f.resized(10, 12).is_ok() && f.len() == 10);
        assert!(f.resized(13, 12).is_err() && f.resized(9, 12).is_err());
    }

    #[test]
    fn after_a_crash_a_byte_is_what_it_was_since_the_last_flush() {
        let mut f = flat();
        f.write(0, data(2, 2));
        f.flush();
        f.write(0, data(3, 1));
        f.write(0, data(4, 1));
        f.write(7, data(5, 3));
        let same = f.after_crash(8).expect("the old length");
        for ok in [[2, 2, 1, 1, 1, 1, 1, 1], [3, 2, 1, 1, 1, 1, 1, 5], [4, 2, 1, 1, 1, 1, 1, 1]] {
            assert_eq!(same.check(0, &ok), Ok(()));
        }
        assert!(same.check(0, &[1]).is_err(), "flushed data is gone");
        assert!(same.check(6, &[5]).is_err(), "other data");
        let grown = f.after_crash(10).expect("the new length");
        assert!(grown.check(8, &[0, 5]).is_ok() && grown.check(8, &[1]).is_err());
        assert!(f.after_crash(9).is_ok(), "a write may be torn");
        assert!(f.after_crash(11).is_err());
    }

    #[test]
    fn a_forced_write_is_durable_alone() {
        let mut f = flat();
        f.write(0, data(2, 2));
        f.write(1, data(3, 1));
        f.harden(1, 1);
        let after = f.after_crash(8).expect("the same length");
        assert!(after.check(0, &[1, 3]).is_ok() && after.check(0, &[2, 3]).is_ok());
        assert!(after.check(1, &[2]).is_err() && after.check(1, &[1]).is_err());
        f.write(8, data(7, 2));
        f.harden(8, 2);
        assert!(f.after_crash(8).is_err(), "its length is durable too");
        assert!(f.after_crash(10).is_ok_and(|after| after.check(8, &[7, 7]).is_ok()));
    }
}
