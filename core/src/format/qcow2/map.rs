//! Guest to host: L1 and L2 tables (sections "Cluster mapping" and "Extended L2 Entries").

use super::cache::{Class, Slice};
use super::layout::{self as l, be64};
use super::{Qcow2, layout};
use crate::format::{Mapping, Piece, Place};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

/// One answer maps at most so many pieces; the caller asks again.
const MAX_PIECES: usize = 64;

/// What an L2 entry says, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Nothing here: ask the backing file.
    Unallocated,
    /// Reads as zeroes; the cluster at `host` is reserved for it, if any.
    Zero { host: Option<u64>, copied: bool },
    /// Bytes at `host`.
    Standard { host: u64, copied: bool },
    /// Subclusters of the cluster at `host` (none where nothing is allocated).
    Subclusters { host: Option<u64>, copied: bool, bitmap: Subclusters },
    /// Compressed payload.
    Compressed(Descriptor),
}

/// A compressed cluster descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    /// Host offset of the first byte.
    pub(super) offset: u64,
    /// Upper bound of the length: to the end of the last sector.
    pub(super) len: u32,
}

/// A subcluster allocation bitmap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Subclusters {
    pub(super) allocated: u32,
    pub(super) zero: u32,
}

impl Subclusters {
    pub(super) fn from_bits(bits: u64) -> Self {
        // The two halves of 64 bits.
        Self { allocated: bits as u32, zero: (bits >> 32) as u32 }
    }

    pub(super) fn bits(self) -> u64 {
        u64::from(self.zero) << 32 | u64::from(self.allocated)
    }
}

/// A number as the reference shows it: zero has no prefix.
fn c_hex(number: u64) -> String {
    if number == 0 { "0".into() } else { format!("{number:#x}") }
}

/// A bitmap of the subclusters `from..to`.
pub(super) fn subcluster_mask(from: u32, to: u32) -> u32 {
    let below = |n: u32| (1u64 << n) - 1;
    // `to` is at most 32.
    (below(to) & !below(from)) as u32
}

impl Descriptor {
    pub(super) fn parse(entry: u64, cluster_bits: u32) -> Self {
        let x = 62 - (cluster_bits - 8);
        let offset = entry & ((1 << x) - 1) & (l::MAX_HOST_OFFSET - 1);
        let sectors = (entry & !(l::COPIED | l::COMPRESSED)) >> x;
        let len = (sectors + 1) * l::SECTOR - offset % l::SECTOR;
        // At most 2^(cluster_bits - 8) sectors.
        Self { offset, len: len as u32 }
    }

    pub(super) fn emit(offset: u64, len: u32, cluster_bits: u32) -> u64 {
        let x = 62 - (cluster_bits - 8);
        let last = offset + u64::from(len) - 1;
        let sectors = last / l::SECTOR - offset / l::SECTOR;
        l::COMPRESSED | sectors << x | offset
    }
}

impl Qcow2 {
    /// Index into the L1 table and into the L2 table of a guest offset.
    pub(super) fn indices(&self, guest: u64) -> (u64, u64) {
        let cluster = guest >> self.cluster_bits;
        (cluster >> self.l2_bits(), cluster & ((1 << self.l2_bits()) - 1))
    }

    /// The L1 entry for a guest offset; 0 past the table's end.
    pub(super) fn l1_entry(&self, guest: u64) -> u64 {
        let (index, _) = self.indices(guest);
        let l1 = self.l1.read();
        usize::try_from(index).ok().and_then(|i| l1.entries.get(i).copied()).unwrap_or(0)
    }

    /// The offset of the L2 table that an L1 entry points to.
    pub(super) fn l2_offset(&self, l1_entry: u64, guest: u64) -> Result<Option<u64>> {
        let offset = l1_entry & l::OFFSET_MASK;
        if offset == 0 {
            return Ok(None);
        }
        if !offset.is_multiple_of(self.cluster_size()) {
            let (index, _) = self.indices(guest);
            return Err(Error::corrupt(format!(
                "L2 table offset {offset:#x} unaligned (L1 index: {})",
                c_hex(index)
            ))
            .in_format("qcow2")
            .at(offset));
        }
        Ok(Some(offset))
    }

    /// The cached slice with the L2 entry of a guest offset, and the byte position in it.
    pub(super) async fn l2_slice(&self, l2_offset: u64, guest: u64) -> Result<(Arc<Slice>, usize)> {
        let (_, index) = self.indices(guest);
        self.cache.get(l2_offset + (index << self.header.l2_entry_bits()), Class::L2).await
    }

    /// Reads the entry at byte `at` of a slice.
    pub(super) fn entry(&self, bytes: &[u8], at: usize, guest: u64) -> Result<Entry> {
        let entry = be64(bytes, at);
        let bitmap = match self.extended_l2 {
            true => be64(bytes, at + 8),
            false => 0,
        };
        self.parse_entry(entry, bitmap, guest)
    }

    /// Checks an L2 entry.
    pub(super) fn parse_entry(&self, entry: u64, bitmap: u64, guest: u64) -> Result<Entry> {
        let broken = |what: &str, at: u64| {
            Error::corrupt(format!("{what} (guest offset {guest:#x})")).in_format("qcow2").at(at)
        };
        if entry & l::COMPRESSED != 0 {
            let descriptor = Descriptor::parse(entry, self.cluster_bits);
            if self.data.is_some() {
                return Err(broken("compressed cluster with a data file", descriptor.offset));
            }
            return Ok(Entry::Compressed(descriptor));
        }
        let (offset, copied) = (entry & l::OFFSET_MASK, entry & l::COPIED != 0);
        if offset % self.cluster_size() != 0 {
            return Err(Error::corrupt(format!(
                "Data cluster offset {offset:#x} unaligned (guest offset: {})",
                c_hex(guest)
            ))
            .in_format("qcow2")
            .at(offset));
        }
        // Offset 0 means a place only in a data file, marked by the copied bit.
        let host = (offset != 0 || (self.data.is_some() && copied)).then_some(offset);
        if let Some(host) = host {
            let expected = guest & !(self.cluster_size() - 1);
            if self.data.is_some() && self.data_file_is_raw() && host != expected {
                return Err(broken("cluster is not at its guest offset in the data file", host));
            }
        }
        if self.extended_l2 {
            let bitmap = Subclusters::from_bits(bitmap);
            if bitmap.allocated & bitmap.zero != 0 {
                return Err(broken("subcluster both allocated and zero", offset));
            }
            if host.is_none() && bitmap.allocated != 0 {
                return Err(broken("subclusters allocated without a cluster", offset));
            }
            if host.is_none() && bitmap == Subclusters::default() {
                return Ok(Entry::Unallocated);
            }
            return Ok(Entry::Subclusters { host, copied, bitmap });
        }
        if entry & l::ZERO != 0 {
            if self.header.version < 3 {
                return Err(broken("zero cluster in an image of version 2", offset));
            }
            return Ok(Entry::Zero { host, copied });
        }
        Ok(match host {
            None => Entry::Unallocated,
            Some(host) => Entry::Standard { host, copied },
        })
    }

    pub(super) async fn map_range(&self, start: u64, len: u64) -> Result<Mapping> {
        self.refuse_unusable()?;
        let end = start + len;
        let mut mapping =
            Mapping { hold: self.writable.then(|| self.limbo.hold()), ..Mapping::default() };
        let mut at = start;
        while at < end && mapping.pieces.len() < MAX_PIECES {
            match self.map_next(at, end, &mut mapping).await {
                Ok(next) => at = next,
                // What comes before the damage is sound; who goes on meets it.
                Err(_) if !mapping.pieces.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(mapping)
    }

    /// Maps as much from `at` on as one slice of a table tells; gives where it stopped.
    async fn map_next(&self, at: u64, end: u64, mapping: &mut Mapping) -> Result<u64> {
        let l1_entry = self.l1_entry(at);
        let Some(l2) = self.l2_offset(l1_entry, at)? else {
            let span = 1u64 << self.header.l1_entry_span_bits();
            let next = (at & !(span - 1)).saturating_add(span).min(end);
            mapping.push(Piece { len: next - at, place: Place::Unallocated { reserved: None } });
            return Ok(next);
        };
        let (slice, first) = self.l2_slice(l2, at).await?;
        slice.with(|bytes| self.map_entries(bytes, (l2, first), at, end, mapping))
    }

    /// Maps from `at` to `end` or to the end of the slice, whichever comes first; gives where it
    /// stopped. `place`: the offset of the L2 table, and where in the slice the entry for `at` is.
    fn map_entries(
        &self,
        bytes: &[u8],
        (l2, first): (u64, usize),
        mut at: u64,
        end: u64,
        mapping: &mut Mapping,
    ) -> Result<u64> {
        let entry_len = 1 << self.header.l2_entry_bits();
        for position in (first..bytes.len()).step_by(entry_len) {
            if at >= end || mapping.pieces.len() >= MAX_PIECES {
                break;
            }
            let cluster_start = at & !(self.cluster_size() - 1);
            let next = (cluster_start + self.cluster_size()).min(end);
            let within = at - cluster_start;
            let child = self.data_child();
            let entry = self.entry(bytes, position, at);
            let entry = entry.map_err(|e| self.read_error(e, be64(bytes, position), l2, at))?;
            let place = match entry {
                Entry::Unallocated => Place::Unallocated { reserved: None },
                Entry::Zero { host, .. } => {
                    Place::Zero { reserved: host.map(|h| (child, h + within)) }
                }
                Entry::Standard { host, .. } => Place::Raw { child, offset: host + within },
                Entry::Compressed(d) => Place::Compressed {
                    offset: d.offset,
                    len: d.len,
                    kind: self.header.compression,
                    unit_start: cluster_start,
                    unit_len: 1 << self.cluster_bits,
                },
                Entry::Subclusters { host, bitmap, .. } => {
                    self.map_subclusters(host, bitmap, at, next, mapping);
                    at = next;
                    continue;
                }
            };
            mapping.push(Piece { len: next - at, place });
            at = next;
        }
        Ok(at)
    }

    /// The error of an entry that is read, not written to: where a cluster is misplaced the
    /// reference has other words for it.
    fn read_error(&self, error: Error, entry: u64, l2: u64, guest: u64) -> Error {
        let offset = entry & l::OFFSET_MASK;
        if entry & l::COMPRESSED != 0 || offset.is_multiple_of(self.cluster_size()) {
            return error;
        }
        let (_, index) = self.indices(guest);
        Error::corrupt(format!(
            "Cluster allocation offset {offset:#x} unaligned (L2 offset: {l2:#x}, L2 index: {})",
            c_hex(index)
        ))
        .in_format("qcow2")
        .at(offset)
    }

    fn map_subclusters(
        &self,
        host: Option<u64>,
        bitmap: Subclusters,
        start: u64,
        end: u64,
        mapping: &mut Mapping,
    ) {
        let (size, child) = (self.subcluster_size(), self.data_child());
        let mut at = start;
        while at < end {
            let within = at & (self.cluster_size() - 1);
            let bit = 1u32 << (within / size);
            let next = (at - at % size + size).min(end);
            let place = match host {
                Some(host) if bitmap.allocated & bit != 0 => {
                    Place::Raw { child, offset: host + within }
                }
                _ if bitmap.zero & bit != 0 => {
                    Place::Zero { reserved: host.map(|h| (child, h + within)) }
                }
                _ => Place::Unallocated { reserved: host.map(|h| (child, h + within)) },
            };
            mapping.push(Piece { len: next - at, place });
            at = next;
        }
    }
}

const _: () = assert!(layout::SUBCLUSTERS == u32::BITS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_round_trip_for_every_cluster_size() {
        for bits in 9..=21 {
            for (offset, len) in [(0x5_0000, 1), (0x5_0001, 511), (0x5_01ff, 512), (0x5_0000, 512)]
            {
                let parsed = Descriptor::parse(Descriptor::emit(offset, len, bits), bits);
                assert_eq!(parsed.offset, offset);
                assert!(parsed.len >= len && parsed.len < len + 512, "{bits}: {parsed:?}");
                assert_eq!((offset + u64::from(parsed.len)) % 512, 0);
            }
        }
    }
}
