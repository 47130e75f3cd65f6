//! Every table from the header on: counts references, and finds broken entries.

use super::beyond::Beyond;
use super::counts::Counts;
use super::{Check, Progress};
use crate::Result;
use crate::format::qcow2::bitmap;
use crate::format::qcow2::header::CryptMethod;
use crate::format::qcow2::layout::{self as l, Autoclear, be64};
use crate::format::qcow2::map::{Descriptor, Subclusters};
use crate::format::{FindingKind, Remedy};
use crate::io::{Device, DeviceExt, Segments};
use alloc::format;
use alloc::vec::Vec;
use futures_util::stream::{FuturesOrdered, StreamExt};
use hashbrown::HashSet;

/// Entries of a bitmap table read at a time.
const BITMAP_STEP: u64 = 1 << 16;
/// L2 tables read ahead.
const TABLES_IN_FLIGHT: usize = 8;
/// Bits that L1 entries do not have.
const L1_RESERVED: u64 = !(l::OFFSET_MASK | l::COPIED);
/// Bits that L2 entries of clusters that are not compressed do not have.
const L2_RESERVED: u64 = !(l::OFFSET_MASK | l::COPIED | l::COMPRESSED | l::ZERO);
/// Bits that refcount table entries do not have.
const REFTABLE_RESERVED: u64 = !l::REFTABLE_OFFSET_MASK;

/// What an L2 entry says of its cluster.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    /// The entry as it is.
    value: u64,
    bitmap: Subclusters,
    host: u64,
    /// Some of what the guest reads lies there.
    holds_data: bool,
}

impl Check<'_> {
    /// Counts all references, from none.
    pub(super) async fn walk(&mut self, progress: Progress<'_>) -> Result<()> {
        (self.counts, self.beyond, self.rebuild) = (Counts::default(), Beyond::default(), false);
        self.tables.clear();
        (self.allocated, self.fragmented, self.compressed) = (0, 0, 0);
        let header = self.header.clone();
        let table_entries = u64::from(header.reftable_clusters) << header.cluster_bits >> 3;
        self.reftable = self.read_entries(header.reftable_offset, table_entries).await?;
        self.refblocks = self.reftable.iter().map(|e| e & l::REFTABLE_OFFSET_MASK).collect();
        self.l1 = self.read_entries(header.l1_offset, header.l1_size.into()).await?;

        self.count(0, self.cluster_size())?;
        let tables = 1 + self.snapshots.entries.len() as u64;
        let l1 = self.l1.clone();
        self.walk_l1(header.l1_offset, header.l1_size, &l1, true, &|done, all| {
            progress(done, all.saturating_mul(tables));
        })
        .await?;
        for i in 0..self.snapshots.entries.len() {
            let before = (i + 1) as u64;
            self.walk_snapshot(i, &|done, all| {
                progress(done + all.saturating_mul(before), all.saturating_mul(tables));
            })
            .await?;
        }
        self.count(header.snapshots_offset, self.snapshots.len)?;
        if let CryptMethod::Luks { offset, len } = header.crypt {
            self.count(offset, len)?;
        }
        self.walk_bitmaps().await?;
        let reftable_len = u64::from(header.reftable_clusters) << header.cluster_bits;
        self.count(header.reftable_offset, reftable_len)?;
        self.walk_refblocks()?;
        // What was corrected above is durable before counts go down.
        self.flush().await
    }

    /// Counts a reference on every cluster that a range touches; as many as L1 entries lead to the
    /// table it is found in.
    fn count(&mut self, offset: u64, len: u64) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let cluster = self.cluster_size();
        let end = offset.saturating_add(len);
        let file_len = self.len.unwrap_or(self.file.len());
        if end > file_len && end - file_len >= cluster {
            self.beyond.add(offset / cluster, end.div_ceil(cluster), file_len.div_ceil(cluster));
            self.corruption(
                offset,
                format!(
                    "ERROR: counting reference for region exceeding the end of the file by one \
                     cluster or more: offset {offset:#x} size {len:#x}"
                ),
            );
            return Ok(());
        }
        let max = self.max_count();
        for index in offset / cluster..=(end - 1) / cluster {
            if self.counts.add(index, self.times, max)? && max < super::SATURATED {
                let at = index * cluster;
                self.found(
                    FindingKind::Corruption,
                    1,
                    at,
                    format!(
                        "ERROR: overflow cluster offset={at:#x}\nUse qemu-img amend to increase \
                         the refcount entry width or qemu-img convert to create a clean copy if \
                         the image cannot be opened for writing"
                    ),
                    Remedy::None,
                );
            }
        }
        Ok(())
    }

    async fn walk_snapshot(&mut self, index: usize, progress: Progress<'_>) -> Result<()> {
        let entry = &self.snapshots.entries[index];
        let (offset, size) = (entry.l1_offset(), entry.l1_size());
        let label = entry.label();
        if !offset.is_multiple_of(self.cluster_size()) {
            let what = format!(
                "ERROR snapshot {label} l1_offset={offset:#x}: L1 table is not cluster aligned; \
                 snapshot table entry corrupted"
            );
            self.corruption(offset, what);
            return Ok(());
        }
        if u64::from(size) * 8 > l::limits::MAX_L1_BYTES {
            let what = format!(
                "ERROR snapshot {label} l1_size={size:#x}: L1 table is too large; snapshot table \
                 entry corrupted"
            );
            self.corruption(offset, what);
            return Ok(());
        }
        let table = self.read_entries(offset, size.into()).await?;
        self.walk_l1(offset, size, &table, false, progress).await
    }

    async fn walk_l1(
        &mut self,
        offset: u64,
        size: u32,
        table: &[u64],
        active: bool,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.count(offset, u64::from(size) * 8)?;
        let (file, cluster) = (self.file.clone(), self.cluster_size());
        // An L2 table that several entries lead to is looked at once, and counts for all of them:
        // the time follows the length of the file, whatever the tables say.
        let mut offsets: Vec<u64> =
            table.iter().map(|entry| entry & l::OFFSET_MASK).filter(|at| *at != 0).collect();
        offsets.sort_unstable();
        let times = |at: u64| {
            offsets.partition_point(|other| *other <= at)
                - offsets.partition_point(|other| *other < at)
        };
        let mut seen = HashSet::new();
        let mut used =
            table.iter().enumerate().filter(|(_, entry)| **entry != 0).map(|(index, entry)| {
                let again =
                    times(entry & l::OFFSET_MASK) > 1 && !seen.insert(entry & l::OFFSET_MASK);
                read_l2(&file, cluster, index, *entry, again)
            });
        let mut tables: FuturesOrdered<_> = used.by_ref().take(TABLES_IN_FLIGHT).collect();
        while let Some((index, entry, at, bytes)) = tables.next().await {
            tables.extend(used.next());
            progress(index as u64, table.len() as u64);
            if at == 0 {
                // There is no table, and nothing is read as one.
                let what = format!("ERROR L1 entry {index} has no offset: {entry:x}");
                self.corruption(offset + 8 * index as u64, what);
                continue;
            }
            if entry & L1_RESERVED != 0 {
                let what = format!("ERROR found L1 entry with reserved bits set: {entry:x}");
                self.corruption(offset + 8 * index as u64, what);
            }
            self.count(at, cluster)?;
            if !at.is_multiple_of(cluster) {
                // Where the true table is nobody knows, nor what is its.
                self.keep_leaks = true;
                self.corruption(
                    at,
                    format!(
                        "ERROR l2_offset={at:x}: Table is not cluster aligned; L1 entry corrupted"
                    ),
                );
                continue;
            }
            match bytes {
                // Past the end of the file, which was counted as a corruption above, or seen.
                None => {}
                Some(Err(e)) => {
                    let what = format!("ERROR: I/O error in check_refcounts_l2: {e}");
                    self.found(FindingKind::Error, 1, at, what, Remedy::None);
                }
                Some(Ok(bytes)) => {
                    self.times = times(at) as u64;
                    *self.tables.entry(at).or_default() += self.times;
                    let done = self.walk_l2(&bytes.to_bytes(), at, active).await;
                    self.times = 1;
                    done?;
                }
            }
        }
        Ok(())
    }

    async fn walk_l2(&mut self, table: &[u8], at: u64, active: bool) -> Result<()> {
        let entry_len = 1usize << self.header.l2_entry_bits();
        // Fragmentation is counted within each table.
        self.expected = None;
        for (index, raw) in table.chunks_exact(entry_len).enumerate() {
            let value = be64(raw, 0);
            let bitmap = if entry_len == 16 { be64(raw, 8) } else { 0 };
            if value == 0 && bitmap == 0 {
                continue;
            }
            let bitmap = Subclusters::from_bits(bitmap);
            let place = at + (index * entry_len) as u64;
            if value & l::COMPRESSED != 0 {
                self.walk_compressed(index, value, bitmap, place, active)?;
                continue;
            }
            let old = self.header.version < 3 && value & l::ZERO != 0;
            if value & L2_RESERVED != 0 || old {
                let what = format!("ERROR found l2 entry with reserved bits set: {value:x}");
                self.corruption(place, what);
            }
            let extended = self.header.l2_entry_bits() == 4;
            let holds_data = if extended { bitmap.allocated != 0 } else { value & l::ZERO == 0 };
            let host = value & l::OFFSET_MASK;
            let cluster = Cluster { value, bitmap, host, holds_data };
            self.walk_cluster(cluster, place, active).await?;
        }
        Ok(())
    }

    fn walk_compressed(
        &mut self,
        index: usize,
        value: u64,
        bitmap: Subclusters,
        place: u64,
        active: bool,
    ) -> Result<()> {
        let problem = if self.has_data_file() {
            "with data file"
        } else if bitmap != Subclusters::default() {
            "with non-zero subcluster allocation bitmap"
        } else {
            let d = Descriptor::parse(value & !l::COPIED, self.header.cluster_bits);
            if value & l::COPIED != 0 {
                let at = d.offset;
                self.corruption(
                    place,
                    format!(
                        "ERROR: coffset={at:#x}: copied flag must never be set for compressed \
                         clusters"
                    ),
                );
            }
            if active {
                self.allocated += self.times;
                self.compressed += self.times;
                // Compressed clusters are fragmented by their nature.
                self.fragmented += self.times;
            }
            return self.count(d.offset, d.len.into());
        };
        self.corruption(
            place,
            format!("ERROR compressed cluster {index} {problem}, entry={value:#x}"),
        );
        Ok(())
    }

    async fn walk_cluster(&mut self, cluster: Cluster, place: u64, active: bool) -> Result<()> {
        let Cluster { value, bitmap, host, holds_data } = cluster;
        // Offset 0 is a place only in a data file, marked by the copied bit.
        if host == 0 && !(self.has_data_file() && value & l::COPIED != 0) {
            if bitmap.allocated != 0 {
                let what = "ERROR: Unallocated cluster has non-zero subcluster allocation map";
                self.corruption(place, what.into());
            }
            return Ok(());
        }
        if bitmap.allocated & bitmap.zero != 0 {
            let what = format!(
                "ERROR offset={host:x}: Allocated cluster has corrupted subcluster allocation \
                 bitmap"
            );
            self.corruption(place, what);
        }
        let aligned = host.is_multiple_of(self.cluster_size());
        let table = place - place % self.cluster_size();
        let fixes = !aligned && !holds_data && self.fixes_all();
        if fixes && !self.overlaps_structure(table) && self.is_only_a_table(table).await? {
            let zero = if self.header.l2_entry_bits() == 4 { 0 } else { l::ZERO };
            self.write(place, zero.to_be_bytes().to_vec()).await?;
            let what = format!(
                "Repairing offset={host:x}: Preallocated cluster is not properly aligned; L2 entry \
                 corrupted."
            );
            self.fixed(FindingKind::Corruption, place, what, Remedy::DropPreallocation);
            return Ok(());
        }
        if !aligned {
            let (word, remedy) = match holds_data {
                true => ("Data", Remedy::None),
                false => ("Preallocated", Remedy::DropPreallocation),
            };
            let what = format!(
                "ERROR offset={host:x}: {word} cluster is not properly aligned; L2 entry corrupted."
            );
            self.found(FindingKind::Corruption, self.times, place, what, remedy);
        }
        if active {
            self.allocated += self.times;
            if self.expected.is_some_and(|expected| expected != host) {
                self.fragmented += 1;
            }
            self.expected = host.checked_add(self.cluster_size());
        }
        // What no bytes are read from and no cluster begins at makes nothing data of the disk.
        let is_in_file =
            host.checked_add(self.cluster_size()).is_some_and(|end| end <= self.file.len());
        let means_nothing = self.is_survey && !aligned && !holds_data && is_in_file;
        match self.has_data_file() || means_nothing {
            true => Ok(()),
            false => self.count(host, self.cluster_size()),
        }
    }

    async fn walk_bitmaps(&mut self) -> Result<()> {
        let Some(extension) = self.header.bitmaps else { return Ok(()) };
        if !self.header.autoclear.contains(Autoclear::BITMAPS) {
            return Ok(());
        }
        let bitmaps = match bitmap::read_directory(self.file, &extension).await {
            Ok(bitmaps) => bitmaps,
            Err(e) => {
                self.keep_leaks = true;
                self.corruption(extension.directory_offset, format!("ERROR bitmaps: {e}"));
                return Ok(());
            }
        };
        self.count(extension.directory_offset, extension.directory_size)?;
        for bitmap in bitmaps {
            let entries = u64::from(bitmap.table_size);
            let name = &bitmap.name;
            if !bitmap.table_offset.is_multiple_of(self.cluster_size()) {
                let at = bitmap.table_offset;
                let what = format!(
                    "ERROR bitmap '{name}' table_offset={at:#x}: table is not cluster aligned; \
                     bitmap directory entry corrupted"
                );
                self.keep_leaks = true;
                self.corruption(extension.directory_offset, what);
                continue;
            }
            if bitmap.flags.bits() & !bitmap::Flags::all().bits() != 0 {
                let flags = bitmap.flags.bits();
                let what = format!("ERROR bitmap '{name}' has reserved flags: {flags:#x}");
                self.corruption(extension.directory_offset, what);
            }
            self.count(bitmap.table_offset, entries * 8)?;
            let inside = self.file.len().saturating_sub(bitmap.table_offset) / 8;
            let mut at = 0;
            while at < entries.min(inside) {
                let step = BITMAP_STEP.min(entries - at);
                let table = self.read_entries(bitmap.table_offset + at * 8, step).await?;
                for (i, entry) in table.into_iter().enumerate() {
                    let data = entry & l::OFFSET_MASK;
                    // Bit 0 says "all ones", of entries that have no cluster.
                    let reserved = !l::OFFSET_MASK & !u64::from(data == 0);
                    if entry & reserved != 0 || !data.is_multiple_of(self.cluster_size()) {
                        let place = bitmap.table_offset + 8 * (at + i as u64);
                        let what =
                            format!("ERROR bitmap '{name}' table entry {entry:#x} corrupted");
                        self.keep_leaks = true;
                        self.corruption(place, what);
                    } else if data != 0 {
                        self.count(data, self.cluster_size())?;
                    }
                }
                at += step;
            }
        }
        Ok(())
    }

    fn walk_refblocks(&mut self) -> Result<()> {
        let cluster = self.cluster_size();
        for index in 0..self.reftable.len() {
            let entry = self.reftable[index];
            let at = entry & l::REFTABLE_OFFSET_MASK;
            let place = self.header.reftable_offset + 8 * index as u64;
            let remedy = Remedy::RebuildRefcounts;
            let problem = if entry & REFTABLE_RESERVED != 0 {
                self.rebuild = true;
                format!("ERROR refcount table entry {index} has reserved bits set")
            } else if at == 0 {
                continue;
            } else if !at.is_multiple_of(cluster) {
                self.rebuild = true;
                format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry \
                     corrupted"
                )
            } else if at >= self.file.len() {
                // Alone it harms nobody: nothing in the file is counted there, or the comparison
                // finds out. Only where everything is to be repaired it has to go.
                self.rebuild |= self.fixes_all();
                format!("ERROR refcount block {index} is outside image")
            } else {
                self.count(at, cluster)?;
                let count = self.counts.get(at / cluster);
                if count == 1 {
                    continue;
                }
                self.rebuild = true;
                format!("ERROR refcount block {index} refcount={count}")
            };
            let at = if at >= self.file.len() { at } else { place };
            self.found(FindingKind::Corruption, 1, at, problem, remedy);
        }
        Ok(())
    }
}

/// Reads the L2 table of an L1 entry; `None` where there cannot be one, or it was read before.
async fn read_l2(
    file: &Device,
    cluster: u64,
    index: usize,
    entry: u64,
    again: bool,
) -> (usize, u64, u64, Option<Result<Segments>>) {
    let at = entry & l::OFFSET_MASK;
    let bytes = match !again && at != 0 && at.is_multiple_of(cluster) && at < file.len() {
        true => Some(file.read_padded(at, cluster).await),
        false => None,
    };
    (index, entry, at, bytes)
}
