//! Changing the virtual size.
//!
//! The size, the place and the length of the L1 table lie side by side in the header and change in
//! one write. What a larger disk must read as is mapped before, past the end of the disk as it is;
//! what a smaller disk gives up is given up after.

use super::claims::{Release, Reserved, Why};
use super::layout::{self as l, header, limits};
use super::{L1, Qcow2};
use crate::io::{DebugEvent, Preallocation, Segments, WriteFlags, ZeroFlags, raise};
use crate::{Error, Result};
use alloc::vec::Vec;

/// Zeroes are written in steps of this size.
const STEP: u64 = 2 << 20;

impl Qcow2 {
    /// Changes the size of the disk. What is gained reads as zeroes where nothing has been mapped
    /// there before, or as the backing file where that is longer.
    pub(super) async fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        let old = *self.virtual_size.read();
        if size == old {
            return Ok(());
        }
        let needed = self.check_size(size)?;
        self.prepare_write().await?;
        if size < old {
            if preallocation != Preallocation::Off {
                return Err(Error::invalid("Preallocation can only be used for growing images")
                    .in_format("qcow2"));
            }
            return self.shrink(size, needed).await;
        }
        self.grow_tables(needed).await?;
        let preallocates = preallocation != Preallocation::Off || self.data_file_is_raw();
        // Clusters that have a place get all of it, as in the reference: a data file that they are
        // allocated in ends with the last of them.
        let end = if preallocates { self.cluster_end(size) } else { size };
        if let Some(data) = &self.data
            && data.len() < end
        {
            let by_file = match preallocation {
                Preallocation::Metadata => Preallocation::Off,
                other => other,
            };
            data.set_len(end, by_file).await?;
        }
        if preallocates {
            let start = self.cluster_end(old);
            self.preallocate(start, self.cluster_end(size), preallocation).await?;
        }
        let _alone = self.alone().await?;
        let _order = self.write_back_lock.lock().await;
        // If this future is dropped before the header says so, the next write-back makes it.
        *self.virtual_size.write() = size;
        self.l1.write().moved = true;
        let result = self.write_table_pointers().await;
        self.poison_on_error(result)
    }

    /// Refuses sizes that the image cannot have; gives the L1 entries that it takes.
    pub(super) fn check_size(&self, size: u64) -> Result<u64> {
        let invalid = |what| Err(Error::invalid(what).in_format("qcow2"));
        if !size.is_multiple_of(l::SECTOR) {
            return invalid("The new size must be a multiple of 512");
        }
        if self.header.version < 3 && !self.snapshots.read().list.is_empty() {
            return Err(Error::unsupported("Can't resize a v2 image which has snapshots")
                .in_format("qcow2"));
        }
        let needed = size.div_ceil(1 << self.header.l1_entry_span_bits());
        if size > limits::MAX_VIRTUAL_SIZE || needed * 8 > limits::MAX_L1_BYTES {
            return Err(
                Error::limit("Failed to grow the L1 table: File too large").in_format("qcow2")
            );
        }
        Ok(needed)
    }

    /// Makes the L1 table large enough for a disk of `size` bytes, so that what lies past the end
    /// can be mapped.
    pub(super) async fn prepare_growth(&self, size: u64) -> Result<()> {
        let needed = self.check_size(size)?;
        self.prepare_write().await?;
        self.clear_way(size).await?;
        self.grow_tables(needed).await
    }

    pub(super) async fn grow_tables(&self, entries: u64) -> Result<()> {
        if entries <= self.l1.read().entries.len() as u64 {
            return Ok(());
        }
        let _alone = self.alone().await?;
        // Snapshots that do not say how large the disk was say so before that changes.
        self.complete_snapshots().await?;
        let grown = self.grow_l1(entries).await;
        grown.map_err(|e| e.context("Failed to grow the L1 table"))
    }

    /// Maps all clusters of `[start, end)`, which is whole clusters that nothing is known of yet,
    /// and reserves the space. They read as zeroes.
    pub(super) async fn preallocate(
        &self,
        start: u64,
        end: u64,
        preallocation: Preallocation,
    ) -> Result<()> {
        let mut at = start;
        while at < end {
            let reservation = self.reserve_range(at, end - at).await?;
            for target in &reservation.targets {
                at = target.start + target.len;
                if self.data.is_some() {
                    continue;
                }
                let (from, to) =
                    (target.offset - target.before, target.offset + target.len + target.after);
                self.prepare_space(from, to, preallocation).await?;
                if to > self.file.len() {
                    // A table may only lead to what the file has.
                    self.file.set_len(to, Preallocation::Off).await?;
                }
            }
            if let Some(token) = reservation.token {
                self.commit_token(token).await?;
            }
        }
        let shows = self.has_backing() && preallocation == Preallocation::Metadata;
        if shows || self.encryption.is_some() {
            // There is a place for them; as long as nobody uses it they are zeroes. (Zeroes of the
            // file are none when they are decrypted.)
            self.zero_range(start, end - start, ZeroFlags::empty()).await?;
        }
        self.write_back(true).await
    }

    /// Makes the host range `[from, to)` zeroes, and its space certain where that is wanted.
    async fn prepare_space(&self, from: u64, to: u64, wanted: Preallocation) -> Result<()> {
        match wanted {
            Preallocation::Full => {
                for at in (from..to).step_by(STEP as usize) {
                    let zeroes = Segments::zero(STEP.min(to - at));
                    self.file.write(at, zeroes, WriteFlags::empty()).await?;
                }
                Ok(())
            }
            Preallocation::Falloc => {
                self.file.write_zeroes(from, to - from, ZeroFlags::empty()).await
            }
            // What lies past the end of the file will read as zeroes; before it, anything may.
            Preallocation::Off | Preallocation::Metadata => {
                let inside = to.min(self.file.len());
                if from >= inside {
                    return Ok(());
                }
                self.file.write_zeroes(from, inside - from, ZeroFlags::MAY_UNMAP).await
            }
        }
    }

    /// Makes the disk end at `size`: a copy of the L1 table, and of the L2 table in which the disk
    /// ends, without what lies past the end takes their place, together with the size.
    async fn shrink(&self, size: u64, needed: u64) -> Result<()> {
        let _alone = self.alone().await?;
        self.complete_snapshots().await?;
        raise(&*self.file, DebugEvent::L1ShrinkWriteTable).await;
        raise(&*self.file, DebugEvent::L1ShrinkFreeL2Clusters).await;
        let old = self.l1.read().entries.clone();
        let keep = usize::try_from(needed).unwrap_or(usize::MAX).min(old.len());
        let (kept, gone) = old.split_at(keep);
        self.inspect_all(keep, gone).await?;
        let mut table = kept.to_vec();
        let mut reserved = Reserved::new(&self.limbo);
        let mut releases = Vec::new();
        if !size.is_multiple_of(1 << self.header.l1_entry_span_bits())
            && let Some(last) = table.last_mut()
            && let Some(l2) = self.l2_offset(*last, size)?
        {
            let mut bytes = self.table_bytes(l2).await?;
            let frees = self.cut_table(&mut bytes, size)?;
            if !frees.is_empty() || bytes != self.table_bytes(l2).await? {
                let taken = self.allocate(1).await?;
                reserved.releases.push_back(taken);
                let offset = taken.first << self.cluster_bits;
                self.write_table(offset, bytes).await?;
                *last = offset | l::COPIED;
                releases = frees;
                releases.push(Release { first: l2 >> self.cluster_bits, count: 1 });
            }
        }
        table.resize(table.len().max(1), 0);
        self.swap_l1(table, size, || reserved.linked()).await?;
        self.lower_all(Why::Shrunk, keep, gone).await?;
        self.limbo.abandon(Why::Shrunk, releases);
        self.settle_everything().await?;
        if let Some(data) = &self.data
            && data.len() > size
        {
            data.set_len(size, Preallocation::Off).await?;
        }
        self.cut_unused_end().await
    }

    /// Removes the entries past the end of a disk of `size` bytes from the bytes of the L2 table in
    /// which it ends. Gives what they refer to.
    fn cut_table(&self, bytes: &mut [u8], size: u64) -> Result<Vec<Release>> {
        let entry_len = 1usize << self.header.l2_entry_bits();
        let (_, first) = self.indices(self.cluster_end(size) - 1);
        let mut guest = self.cluster_end(size);
        let mut frees = Vec::new();
        // Within the table.
        for position in ((first as usize + 1) * entry_len..bytes.len()).step_by(entry_len) {
            frees.extend(self.host_of(&self.entry(bytes, position, guest)?));
            guest = guest.saturating_add(self.cluster_size());
            bytes[position..position + entry_len].fill(0);
        }
        Ok(frees)
    }

    /// Moves the L1 table to a larger place. The caller holds the lock on the making of L2 tables.
    async fn grow_l1(&self, entries: u64) -> Result<()> {
        let mut table: Vec<u64> = self.l1.read().entries.clone();
        table.resize(usize::try_from(entries).unwrap_or(usize::MAX), 0);
        let size = *self.virtual_size.read();
        raise(&*self.file, DebugEvent::L1GrowAllocTable).await;
        raise(&*self.file, DebugEvent::L1GrowWriteTable).await;
        self.swap_l1(table, size, || ()).await
    }

    /// Puts an L1 table in the place of the one there is, and a virtual size with it. The table is
    /// durable before the header points to it; `linked` is called when there is no way back. The
    /// caller holds the lock on the making of L2 tables, or has the image to himself.
    pub(super) async fn swap_l1(
        &self,
        entries: Vec<u64>,
        size: u64,
        linked: impl FnOnce(),
    ) -> Result<()> {
        let len = entries.len() as u64 * 8;
        let taken = self.allocate_run(len.div_ceil(self.cluster_size())).await?;
        self.place_l1(taken, entries, size, linked).await
    }

    /// The same in a place that was taken for it.
    pub(super) async fn place_l1(
        &self,
        taken: Release,
        entries: Vec<u64>,
        size: u64,
        linked: impl FnOnce(),
    ) -> Result<()> {
        let mut reserved = Reserved::new(&self.limbo);
        reserved.releases.push_back(taken);
        // The counts of the new place, and everything the table refers to, go first.
        self.write_back_all(true, false).await?;
        let offset = taken.first << self.cluster_bits;
        let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
        let _order = self.write_back_lock.lock().await;
        self.write_table(offset, bytes).await?;
        self.barrier().await?;

        // Nothing has changed so far. From here on the new table is the one in use, and if this
        // future is dropped before the header says so, the next write-back makes it.
        linked();
        reserved.linked();
        {
            let mut l1 = self.l1.write();
            let count = (l1.entries.len() as u64 * 8).div_ceil(self.cluster_size());
            let first = l1.offset >> self.cluster_bits;
            self.limbo.free_later(Why::Other, (count > 0).then_some(Release { first, count }));
            *l1 = L1 { moved: true, ..L1::new(offset, entries, true, self.cluster_bits) };
            *self.virtual_size.write() = size;
        }
        let result = self.write_table_pointers().await;
        self.poison_on_error(result)
    }
}

const _: () = assert!(
    header::L1_OFFSET == header::L1_SIZE + 4
        && header::L1_SIZE == header::CRYPT_METHOD + 4
        && header::CRYPT_METHOD == header::SIZE + 8
        && header::SNAPSHOTS_OFFSET == header::NB_SNAPSHOTS + 4
);
