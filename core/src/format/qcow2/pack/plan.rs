//! What lies at the end of the file, and where the file could end.
//!
//! One pass over the tables tells the owner of each cluster in a window at the end of the file, a
//! byte for each. Memory follows the window, not the image.

use super::super::Qcow2;
use super::super::cache::{Class, Slice};
use super::super::claims::Release;
use super::super::layout as l;
use super::super::map::Entry;
use super::super::refcount;
use crate::{Error, Result};
use alloc::format;
use alloc::vec::Vec;
use hashbrown::HashSet;

/// The window has at most so many clusters; what lies before it is looked at when that is moved.
const WINDOW: u64 = 8 << 20;

/// So many counts are looked at at a time.
const COUNTS: u64 = 1 << 16;

/// Who has a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    /// One entry of one active L2 table.
    Data,
    /// The active L1 table alone: an L2 table.
    Table,
    /// The refcount table: a refcount block.
    Block,
    Compressed,
    /// A snapshot, alone or with the disk.
    Snapshot,
    /// Anything else.
    Other,
}

/// The clusters from `first` on.
struct Window {
    first: u64,
    owners: Vec<Owner>,
}

impl Window {
    fn mark(&mut self, run: Release, owner: Owner) {
        let end = self.first + self.owners.len() as u64;
        for cluster in run.first.max(self.first)..run.first.saturating_add(run.count).min(end) {
            // Within the window, which is in memory.
            let slot = &mut self.owners[(cluster - self.first) as usize];
            *slot = match (*slot, owner) {
                (Owner::Nobody, new) => new,
                (Owner::Compressed, Owner::Compressed) => Owner::Compressed,
                (Owner::Snapshot, _) | (_, Owner::Snapshot) => Owner::Snapshot,
                _ => Owner::Other,
            };
        }
    }
}

/// Where the file could end, and what that takes. Sizes are in clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Everything from this cluster on can be moved before it, or is not needed then.
    pub(super) end: u64,
    /// Where the file could end if everything could be moved.
    pub(super) wanted: u64,
    /// Clusters from there on that are in use, and refcount blocks that describe nothing but them.
    pub(super) work: u64,
    /// Clusters that cannot be moved and lie past where the file would end without them.
    pub(super) compressed: u64,
    pub(super) snapshots: u64,
    pub(super) other: u64,
}

impl Qcow2 {
    /// Looks at the tables. Changes nothing.
    ///
    /// An image in which a cluster that is in use counts as free is refused: it would be written
    /// over.
    pub(super) async fn plan(&self) -> Result<Plan> {
        // What is read here stays what it is.
        let _hold = self.limbo.hold();
        let mut blocks = self.refblocks()?;
        let (mut used, mut len) = (0u64, 0);
        let file_end = self.file.len().div_ceil(self.cluster_size());
        self.each_count(0, file_end, |cluster, count| {
            if count != 0 {
                used += 1;
                len = cluster + 1;
            }
        })
        .await?;
        let least = used.saturating_sub(blocks.len() as u64);
        let first = least.max(len.saturating_sub(WINDOW)).min(len);
        let size = usize::try_from(len - first).unwrap_or(0);
        let mut window = Window { first, owners: alloc::vec![Owner::Nobody; size] };
        for (_, cluster) in &blocks {
            window.mark(Release { first: *cluster, count: 1 }, Owner::Block);
        }
        self.mark_fixed(&mut window);
        let seen = self.mark_active(&mut window).await?;
        self.mark_inactive(&mut window, &seen).await?;

        let mut fixed_end = first;
        self.each_count(first, len, |cluster, count| {
            let owner = &mut window.owners[(cluster - first) as usize];
            *owner = match (*owner, count) {
                (_, 0) => Owner::Nobody,
                (Owner::Nobody, _) => Owner::Other,
                (Owner::Data | Owner::Table | Owner::Block, 2..) => Owner::Other,
                (owner, _) => owner,
            };
            if matches!(*owner, Owner::Compressed | Owner::Snapshot | Owner::Other) {
                fixed_end = cluster + 1;
            }
        })
        .await?;

        // A block that describes only what is cut off is not needed any more.
        blocks.sort_unstable();
        let ends_at = |least: u64| {
            let mut end = len;
            loop {
                let needless = blocks.len() - blocks.partition_point(|(start, _)| *start < end);
                let next = least.max(used.saturating_sub(needless as u64));
                if next >= end {
                    return end;
                }
                end = next;
            }
        };
        let (wanted, end) = (ends_at(first), ends_at(first.max(fixed_end)));
        let past = |end: u64| &window.owners[usize::try_from(end - first).unwrap_or(0)..];
        let mut plan = Plan { end, wanted, ..Plan::default() };
        for owner in past(wanted) {
            match owner {
                Owner::Compressed => plan.compressed += 1,
                Owner::Snapshot => plan.snapshots += 1,
                Owner::Other => plan.other += 1,
                _ => {}
            }
        }
        plan.work = past(end).iter().filter(|owner| **owner != Owner::Nobody).count() as u64
            + blocks.iter().filter(|(start, at)| *start >= end && *at < end).count() as u64;
        Ok(plan)
    }

    /// The refcount blocks: the first cluster that each describes, and its own.
    fn refblocks(&self) -> Result<Vec<(u64, u64)>> {
        let per_block = self.refblock_entries();
        let table = self.reftable.lock();
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        for (index, entry) in table.entries.iter().enumerate() {
            let offset = entry & l::REFTABLE_OFFSET_MASK;
            if offset == 0 {
                continue;
            }
            if !seen.insert(offset) {
                return Err(self.refuse(offset, "a refcount block is used more than once"));
            }
            out.push((index as u64 * per_block, offset >> self.cluster_bits));
        }
        Ok(out)
    }

    fn refuse(&self, at: u64, what: &str) -> Error {
        Error::corrupt(format!("{what}; repair the image before it is compacted"))
            .in_format("qcow2")
            .at(at)
    }

    /// Marks what the header and the snapshots lead to.
    fn mark_fixed(&self, window: &mut Window) {
        let run = |offset: u64, len: u64| Release {
            first: offset >> self.cluster_bits,
            count: len.div_ceil(self.cluster_size()),
        };
        window.mark(Release { first: 0, count: 1 }, Owner::Other);
        let (offset, clusters) = *self.reftable_place.lock();
        window.mark(run(offset, u64::from(clusters) << self.cluster_bits), Owner::Other);
        {
            let l1 = self.l1.read();
            window.mark(run(l1.offset, l1.entries.len() as u64 * 8), Owner::Other);
        }
        let snapshots = self.snapshots.read();
        window.mark(run(snapshots.place.0, snapshots.place.1), Owner::Snapshot);
        for snapshot in &snapshots.list {
            let len = u64::from(snapshot.l1_size) * 8;
            window.mark(run(snapshot.l1_offset, len), Owner::Snapshot);
        }
    }

    /// Marks what the active L1 table leads to. Gives its L2 tables.
    async fn mark_active(&self, window: &mut Window) -> Result<HashSet<u64>> {
        let mut seen = HashSet::new();
        let entries = self.l1.read().entries.len();
        for index in 0..entries {
            let Some(entry) = self.l1.read().entries.get(index).copied() else { break };
            let guest = (index as u64).wrapping_shl(self.header.l1_entry_span_bits());
            let Some(l2) = self.l2_offset(entry, guest)? else { continue };
            let own = entry & l::COPIED != 0;
            let table = Release { first: l2 >> self.cluster_bits, count: 1 };
            window.mark(table, if own { Owner::Table } else { Owner::Snapshot });
            if seen.insert(table.first) {
                self.mark_table(window, l2, own).await?;
            }
        }
        Ok(seen)
    }

    /// Marks what the tables of snapshots lead to.
    async fn mark_inactive(&self, window: &mut Window, seen: &HashSet<u64>) -> Result<()> {
        if self.snapshots.read().list.is_empty() {
            return Ok(());
        }
        for cluster in self.inactive_l2().await?.iter() {
            window.mark(Release { first: *cluster, count: 1 }, Owner::Snapshot);
            if !seen.contains(cluster) {
                self.mark_table(window, cluster << self.cluster_bits, false).await?;
            }
        }
        Ok(())
    }

    /// Marks what an L2 table leads to; `own`: it belongs to the active L1 table alone.
    async fn mark_table(&self, window: &mut Window, l2: u64, own: bool) -> Result<()> {
        self.expect_counted(Release { first: l2 >> self.cluster_bits, count: 1 }).await?;
        if self.data.is_some() {
            return Ok(());
        }
        for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
            let (slice, _) = self.cache.get(l2 + at, Class::L2).await?;
            for (run, owner) in self.owners(&slice, own)? {
                window.mark(run, owner);
                self.expect_counted(run).await?;
            }
        }
        Ok(())
    }

    /// The clusters that a slice of an L2 table leads to, neighbours joined.
    fn owners(&self, slice: &Slice, own: bool) -> Result<Vec<(Release, Owner)>> {
        let entry_len = 1usize << self.header.l2_entry_bits();
        let mut out: Vec<(Release, Owner)> = Vec::new();
        slice.with(|bytes| {
            for position in (0..bytes.len()).step_by(entry_len) {
                let entry = self.entry(bytes, position, 0)?;
                let Some(run) = self.host_of(&entry) else { continue };
                let owner = match entry {
                    Entry::Compressed(_) if own => Owner::Compressed,
                    _ if own && is_copied(&entry) => Owner::Data,
                    _ => Owner::Snapshot,
                };
                match out.last_mut() {
                    Some((last, same))
                        if last.first + last.count == run.first && *same == owner =>
                    {
                        last.count += run.count;
                    }
                    _ => out.push((run, owner)),
                }
            }
            Ok(out)
        })
    }

    /// Refuses clusters in use that count as free.
    async fn expect_counted(&self, run: Release) -> Result<()> {
        let mut free = None;
        let mut seen = 0;
        let counts = self.each_count(run.first, run.first + run.count, |cluster, count| {
            seen += 1;
            if count == 0 {
                free = Some(cluster);
            }
        });
        counts.await?;
        if free.is_none() && seen == run.count {
            return Ok(());
        }
        let at = free.unwrap_or(run.first) << self.cluster_bits;
        Err(self.refuse(at, "a cluster in use counts as free"))
    }

    /// Calls `look` with each cluster of `[first, end)` that has a count, and its count.
    async fn each_count(
        &self,
        first: u64,
        end: u64,
        mut look: impl FnMut(u64, u64) + Send,
    ) -> Result<()> {
        let mut at = first;
        while at < end {
            at = self.some_counts(at, end, &mut look).await?;
        }
        Ok(())
    }

    /// The same for the first of them; gives where it stopped.
    pub(super) async fn some_counts(
        &self,
        at: u64,
        end: u64,
        mut look: impl FnMut(u64, u64) + Send,
    ) -> Result<u64> {
        let per_block = self.refblock_entries();
        if self.refblock_of(at) == 0 {
            return Ok((at - at % per_block).saturating_add(per_block));
        }
        let (slice, index) = self.refcount_slice(at).await?;
        Ok(slice.with(|bytes| {
            let len = refcount::entries(bytes.len(), self.refcount_order) - index;
            let most = (end - at).min(COUNTS).min(len as u64);
            for (i, cluster) in (at..at + most).enumerate() {
                look(cluster, refcount::get(bytes, index + i, self.refcount_order));
            }
            at + most
        }))
    }
}

/// True where an entry says that nobody else has its cluster.
pub(super) fn is_copied(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Standard { copied: true, .. }
            | Entry::Zero { copied: true, .. }
            | Entry::Subclusters { copied: true, .. }
    )
}
