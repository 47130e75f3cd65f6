//! Whole tables: having the image to oneself, and references of everything a table leads to.
//!
//! A snapshot and the active disk share clusters: each table that leads to a cluster holds a
//! reference on it. Making, applying and removing snapshots counts all of them up or down; then the
//! copied flags of the active tables follow.

use super::cache::Class;
use super::claims::{Release, Reserved, Why};
use super::layout as l;
use super::map::Entry;
use super::write::put;
use super::{Qcow2, refcount};
use crate::io::DeviceExt;
use crate::{Error, Result};
use alloc::format;
use alloc::vec::Vec;
use async_lock::{RwLockReadGuard, RwLockWriteGuard};
use core::sync::atomic::Ordering;
use hashbrown::HashMap;

/// So many raised runs are remembered, to be given back where the operation is abandoned; what is
/// beyond leaks then.
const MAX_REMEMBERED: usize = 1 << 20;

impl Qcow2 {
    /// Waits while somebody has the image to himself; nobody gets it as long as the guard lives, or
    /// an operation that began meanwhile.
    pub(super) async fn with_others(&self) -> Result<RwLockReadGuard<'_, ()>> {
        loop {
            let guard = self.exclusive.read().await;
            if !self.flags_stale.load(Ordering::Acquire) {
                return Ok(guard);
            }
            drop(guard);
            self.settle_abandoned().await?;
        }
    }

    /// The image to oneself: no operation is under way, all metadata is durable and nothing waits
    /// to be given back.
    pub(super) async fn alone(&self) -> Result<RwLockWriteGuard<'_, ()>> {
        let guard = self.exclusive.write().await;
        self.settle_everything().await?;
        if self.flags_stale.load(Ordering::Acquire) {
            self.settle_flags().await?;
        }
        Ok(guard)
    }

    /// Finishes what an abandoned operation has left.
    pub(super) async fn settle_abandoned(&self) -> Result<()> {
        if self.flags_stale.load(Ordering::Acquire) {
            self.alone().await?;
        }
        Ok(())
    }

    /// The same for whoever has the image to himself.
    pub(super) async fn settle_abandoned_alone(&self) -> Result<()> {
        match self.flags_stale.load(Ordering::Acquire) {
            true => self.settle_flags().await,
            false => self.settle_everything().await,
        }
    }

    /// Every operation has ended, and all it did is on disk. The caller has the image to himself.
    pub(super) async fn settle_everything(&self) -> Result<()> {
        self.limbo.quiesce().await;
        self.settle_metadata().await
    }

    /// All changed metadata goes to the file, lazy refcounts too.
    pub(super) async fn settle_metadata(&self) -> Result<()> {
        if self.is_retired() && !self.is_poisoned() {
            return Ok(());
        }
        self.write_back_all(true, false).await?;
        self.flush_refcounts().await
    }

    /// From here on the copied flags may be wrong until [`settle_flags`](Self::settle_flags) has
    /// run; whoever comes next runs it if the caller cannot.
    pub(super) fn flags_are_stale(&self) {
        self.flags_stale.store(true, Ordering::Release);
    }

    /// Sets the copied flags of the active tables by the refcounts, which must be final. The caller
    /// has the image to himself.
    pub(super) async fn settle_flags(&self) -> Result<()> {
        self.settle_everything().await?;
        let table = self.l1.read().entries.clone();
        for (index, entry) in table.into_iter().enumerate() {
            let Some(l2) = self.l2_offset(entry, self.guest_of(index))? else { continue };
            let copied = self.refcount_of(l2 >> self.cluster_bits).await? == 1;
            if copied != (entry & l::COPIED != 0) {
                self.set_copied_l1(index, copied);
            }
            for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
                self.settle_slice(l2 + at).await?;
            }
            self.relieve_cache().await?;
        }
        self.settle_metadata().await?;
        self.flags_stale.store(false, Ordering::Release);
        Ok(())
    }

    async fn settle_slice(&self, at: u64) -> Result<()> {
        if self.data.is_some() {
            // The flag says that there is a place; nobody shares it.
            return Ok(());
        }
        let (slice, _) = self.cache.get(at, Class::L2).await?;
        let mut wrong = Vec::new();
        for (position, host, copied) in slice.with(|bytes| self.flagged(bytes)) {
            let count = self.refcount_of(host >> self.cluster_bits).await?;
            if (count == 1) != copied {
                wrong.push((position, count == 1));
            }
        }
        if !wrong.is_empty() {
            self.cache.modify(&slice, |bytes| {
                for (position, copied) in wrong {
                    set_copied(bytes, position, copied);
                }
            });
        }
        Ok(())
    }

    /// The entries of a slice that can have a copied flag: position, host offset, flag.
    fn flagged(&self, bytes: &[u8]) -> Vec<(usize, u64, bool)> {
        let entry_len = 1usize << self.header.l2_entry_bits();
        let mut out = Vec::new();
        for position in (0..bytes.len()).step_by(entry_len) {
            if let Ok(
                Entry::Standard { host, copied }
                | Entry::Zero { host: Some(host), copied }
                | Entry::Subclusters { host: Some(host), copied, .. },
            ) = self.entry(bytes, position, 0)
            {
                out.push((position, host, copied));
            }
        }
        out
    }

    fn set_copied_l1(&self, index: usize, copied: bool) {
        let mut l1 = self.l1.write();
        if let Some(&entry) = l1.entries.get(index) {
            let _ = l1.set(index, if copied { entry | l::COPIED } else { entry & !l::COPIED });
        }
    }

    /// The first guest offset that an entry of an L1 table describes.
    fn guest_of(&self, index: usize) -> u64 {
        // The L1 table has a limit: no overflow but for areas past the end of the largest disk.
        (index as u64).wrapping_shl(self.header.l1_entry_span_bits())
    }

    /// The same for the byte `at` of that table.
    fn guest_at(&self, index: usize, at: u64) -> u64 {
        let entries = at >> self.header.l2_entry_bits();
        self.guest_of(index).wrapping_add(entries << self.cluster_bits)
    }

    /// Counts a reference more on everything that an L1 table leads to, and clears the copied flags
    /// on the way: the clusters have at least two now. `active`: it is the active table.
    ///
    /// `raised` gives the references back unless it is linked.
    pub(super) async fn raise_all(
        &self,
        table: &[u64],
        active: bool,
        raised: &mut Reserved,
    ) -> Result<()> {
        for (index, entry) in table.iter().enumerate() {
            let Some(l2) = self.l2_offset(*entry, self.guest_of(index))? else { continue };
            let own = Release { first: l2 >> self.cluster_bits, count: 1 };
            self.raise(own, raised).await?;
            if active && entry & l::COPIED != 0 {
                self.set_copied_l1(index, false);
            }
            for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
                let (slice, _) = self.cache.get(l2 + at, Class::L2).await?;
                for run in self.hosts_of(&slice, self.guest_at(index, at))? {
                    self.raise(run, raised).await?;
                }
                let flagged = slice.with(|bytes| self.flagged(bytes));
                if flagged.iter().any(|(_, _, copied)| *copied) {
                    self.cache.modify(&slice, |bytes| {
                        flagged.iter().for_each(|(at, _, _)| set_copied(bytes, *at, false));
                    });
                }
            }
            self.relieve_cache().await?;
        }
        Ok(())
    }

    /// Looks whether everything that an L1 table leads to can be followed. Changes nothing.
    ///
    /// An L2 table that the table leads to more often than its refcount says is refused: the work
    /// that follows is bounded by what is counted. `first`: the index of its first entry, of a part.
    pub(super) async fn inspect_all(&self, first: usize, table: &[u64]) -> Result<()> {
        let mut seen: HashMap<u64, u64> = HashMap::new();
        for (index, entry) in (first..).zip(table) {
            let Some(l2) = self.l2_offset(*entry, self.guest_of(index))? else { continue };
            let times = seen.entry(l2).or_insert(0);
            *times += 1;
            if *times > self.refcount_of(l2 >> self.cluster_bits).await? {
                return Err(Error::corrupt(format!(
                    "an L1 table leads to an L2 table {times} times, more than its refcount; \
                     repair the image before changing it"
                ))
                .in_format("qcow2")
                .at(l2));
            }
            if *times > 1 {
                continue;
            }
            for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
                let (slice, _) = self.cache.get(l2 + at, Class::L2).await?;
                for run in self.hosts_of(&slice, self.guest_at(index, at))? {
                    self.refcount_of(run.first).await?;
                }
            }
        }
        Ok(())
    }

    /// Counts a reference less on everything that an L1 table leads to; that it does not lead there
    /// any more is durable. `first`: the index of its first entry, of a part.
    pub(super) async fn lower_all(&self, why: Why, first: usize, table: &[u64]) -> Result<()> {
        for (index, entry) in (first..).zip(table) {
            let Some(l2) = self.l2_offset(*entry, self.guest_of(index))? else { continue };
            for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
                let (slice, _) = self.cache.get(l2 + at, Class::L2).await?;
                let runs = self.hosts_of(&slice, self.guest_at(index, at))?;
                self.limbo.abandon(why, runs);
            }
            let own = Release { first: l2 >> self.cluster_bits, count: 1 };
            self.limbo.abandon(why, [own]);
            self.give_back().await?;
        }
        Ok(())
    }

    /// Lowers the counts of what has been abandoned, now.
    pub(super) async fn give_back(&self) -> Result<()> {
        self.limbo.quiesce().await;
        self.reclaim_settled().await?;
        self.relieve_cache().await
    }

    /// The host clusters that a slice of an L2 table refers to, neighbours joined.
    fn hosts_of(&self, slice: &super::cache::Slice, mut guest: u64) -> Result<Vec<Release>> {
        let entry_len = 1usize << self.header.l2_entry_bits();
        let mut out: Vec<Release> = Vec::new();
        slice.with(|bytes| {
            for position in (0..bytes.len()).step_by(entry_len) {
                let entry = self.entry(bytes, position, guest)?;
                guest = guest.wrapping_add(self.cluster_size());
                if let Some(run) = self.host_of(&entry) {
                    run.join_onto(&mut out);
                }
            }
            Ok(out)
        })
    }

    /// Counts a reference more on a run of clusters that are in use.
    async fn raise(&self, run: Release, raised: &mut Reserved) -> Result<()> {
        let max = refcount::max(self.refcount_order);
        let (mut at, end) = (run.first, run.first + run.count);
        while at < end {
            let count = self.raise_part(Release { first: at, count: end - at }, max).await?;
            if raised.releases.len() < MAX_REMEMBERED {
                match raised.releases.back_mut() {
                    Some(last) if last.first + last.count == at => last.count += count,
                    _ => raised.releases.push_back(Release { first: at, count }),
                }
            }
            at += count;
        }
        Ok(())
    }

    /// The error of a count that is at its top.
    pub(super) fn too_many_references(&self, cluster: u64) -> Error {
        Error::invalid(format!(
            "a refcount of {} bits cannot count another reference",
            1u32 << self.refcount_order
        ))
        .in_format("qcow2")
        .at(cluster << self.cluster_bits)
    }

    /// The bytes of an L2 table, as it is in memory.
    pub(super) async fn table_bytes(&self, l2: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
            let (slice, _) = self.cache.get(l2 + at, Class::L2).await?;
            slice.with(|bytes| out.extend_from_slice(bytes));
        }
        Ok(out)
    }

    /// Reads the L1 table of a snapshot.
    pub(super) async fn read_l1(&self, offset: u64, entries: u64) -> Result<Vec<u64>> {
        let len = entries * 8;
        if offset.checked_add(len).is_none_or(|end| end > self.file.len()) {
            return Err(Error::corrupt("the L1 table of the snapshot exceeds the file")
                .in_format("qcow2")
                .at(offset));
        }
        let bytes = self.file.read_padded(offset, len).await?.to_bytes();
        Ok(bytes.chunks_exact(8).map(|entry| l::be64(entry, 0)).collect())
    }
}

fn set_copied(bytes: &mut [u8], position: usize, copied: bool) {
    let entry = l::be64(bytes, position);
    put(bytes, position, if copied { entry | l::COPIED } else { entry & !l::COPIED });
}
