//! Moving tables: the L1 table and the refcount table, L2 tables, and refcount blocks, which are
//! left out where nothing needs them.

use super::super::Qcow2;
use super::super::alloc::TABLE_GROUP;
use super::super::cache::Class;
use super::super::claims::{Release, Reserved, Why};
use super::super::layout as l;
use super::{BATCH, Told};
use crate::io::WriteFlags;
use crate::{Error, Result};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

impl Qcow2 {
    /// Moves the L1 table and the refcount table where they end behind `end` and there is room in
    /// one piece before them. Gives how many clusters that were.
    pub(super) async fn move_large(&self, end: u64) -> Result<u64> {
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        let mut moved = 0;
        let (offset, entries) = {
            let l1 = self.l1.read();
            (l1.offset, l1.entries.clone())
        };
        let count = (entries.len() as u64 * 8).div_ceil(self.cluster_size());
        if let Some(taken) = self.better_place(offset, count, end).await? {
            let size = *self.virtual_size.read();
            self.place_l1(taken, entries, size, || ()).await?;
            moved += count;
        }
        let (offset, clusters) = *self.reftable_place.lock();
        if let Some(taken) = self.better_place(offset, clusters.into(), end).await? {
            self.place_reftable(taken).await?;
            moved += u64::from(clusters);
        }
        self.settle_metadata().await?;
        Ok(moved)
    }

    /// Takes room for a table of `count` clusters that ends behind `end`, if there is some before
    /// it.
    async fn better_place(&self, offset: u64, count: u64, end: u64) -> Result<Option<Release>> {
        let first = offset >> self.cluster_bits;
        match count > 0 && first + count > end {
            true => self.allocate_run_below(count, first).await,
            false => Ok(None),
        }
    }

    /// Puts the refcount table where room was taken for it. It is durable there before the header
    /// points to it.
    async fn place_reftable(&self, taken: Release) -> Result<()> {
        let mut reserved = Reserved::new(&self.limbo);
        reserved.releases.push_back(taken);
        let _counts = self.alloc.lock().await;
        let _order = self.write_back_lock.lock().await;
        let mut bytes: Vec<u8> = {
            let table = self.reftable.lock();
            table.entries.iter().flat_map(|e| e.to_be_bytes()).collect()
        };
        let len = usize::try_from(taken.count << self.cluster_bits).unwrap_or(usize::MAX);
        bytes.resize(len.max(bytes.len()), 0);
        // The counts of the new place, and blocks that only memory knows.
        self.write_class(Class::Refcount).await?;
        self.file
            .write(taken.first << self.cluster_bits, bytes.into(), WriteFlags::empty())
            .await?;
        self.barrier().await?;

        // Nothing has changed so far. From here on the new table is the one in use, and if this
        // future is dropped before the header says so, the next write-back makes it.
        reserved.linked();
        let clusters = u32::try_from(taken.count).unwrap_or(u32::MAX);
        let place = (taken.first << self.cluster_bits, clusters);
        self.reftable.lock().moved = true;
        let old = core::mem::replace(&mut *self.reftable_place.lock(), place);
        self.limbo.free_later(
            Why::Other,
            [Release { first: old.0 >> self.cluster_bits, count: old.1.into() }],
        );
        let result = self.write_table_pointers().await;
        self.poison_on_error(result)
    }

    /// Moves the L2 tables that lie behind `end`. False where there was no room for all.
    pub(super) async fn move_tables(&self, end: u64, told: &Told<'_>) -> Result<bool> {
        let mut index = 0;
        loop {
            let next = self.own_table_from(index, end);
            let Some(first) = next else { return Ok(true) };
            index = first;
            self.prepare_write().await?;
            let _alone = self.alone().await?;
            let mut reserved = Reserved::new(&self.limbo);
            let mut moves: Vec<(usize, u64, u64)> = Vec::new();
            let mut room = true;
            while room && (moves.len() as u64) << self.cluster_bits < BATCH {
                let Some(found) = self.own_table_from(index, end) else { break };
                index = found + 1;
                let old = self.table_at(found);
                if self.refcount_of(old >> self.cluster_bits).await? != 1 {
                    continue;
                }
                let Some(taken) = self.allocate_below(1, end).await? else {
                    room = false;
                    break;
                };
                reserved.releases.push_back(taken);
                let new = taken.first << self.cluster_bits;
                let bytes = self.table_bytes(old).await?;
                self.write_table(new, bytes).await?;
                moves.push((found, old, new));
            }
            let count = moves.len() as u64;
            // Nothing waits from here on: what is linked must not be given back.
            for (index, old, new) in moves {
                if !self.l1.write().set(index, new | l::COPIED) {
                    return Err(Error::bug("an L1 index past the table").in_format("qcow2"));
                }
                reserved.releases.pop_front();
                self.cache.forget(old, self.cluster_size());
                self.limbo.free_later(
                    Why::Other,
                    [Release { first: old >> self.cluster_bits, count: 1 }],
                );
            }
            self.settle_metadata().await?;
            told.more(count);
            if !room {
                return Ok(false);
            }
        }
    }

    /// The offset of the L2 table that an entry of the L1 table leads to; 0 for none.
    fn table_at(&self, index: usize) -> u64 {
        self.l1.read().entries.get(index).map_or(0, |entry| entry & l::OFFSET_MASK)
    }

    /// The first entry of the L1 table from `index` on whose L2 table is nobody else's, and lies
    /// behind `end`.
    fn own_table_from(&self, index: usize, end: u64) -> Option<usize> {
        let l1 = self.l1.read();
        let behind = |entry: &u64| {
            entry & l::COPIED != 0 && (entry & l::OFFSET_MASK) >> self.cluster_bits >= end
        };
        let rest = l1.entries.get(index..)?;
        rest.iter().position(behind).map(|at| index + at)
    }

    /// Moves the refcount blocks that lie behind `end` and describe something before it. False
    /// where there was no room for all.
    pub(super) async fn move_blocks(&self, end: u64, told: &Told<'_>) -> Result<bool> {
        let last = usize::try_from(end.div_ceil(self.refblock_entries())).unwrap_or(usize::MAX);
        let all: Vec<usize> = {
            let table = self.reftable.lock();
            let described = table.entries.iter().take(last).enumerate();
            described
                .filter(|(_, e)| (*e & l::REFTABLE_OFFSET_MASK) >> self.cluster_bits >= end)
                .map(|(index, _)| index)
                .collect()
        };
        let most = usize::try_from(BATCH >> self.cluster_bits).unwrap_or(usize::MAX).max(1);
        for batch in all.chunks(most) {
            self.prepare_write().await?;
            let _alone = self.alone().await?;
            let mut moved = 0;
            for index in batch {
                let Some(taken) = self.allocate_below(1, end).await? else { break };
                self.move_block(*index, taken, end).await?;
                moved += 1;
            }
            self.settle_metadata().await?;
            told.more(moved);
            if moved < batch.len() as u64 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves a refcount block to the cluster that was taken. No count changes meanwhile. The
    /// block that was is free when the refcount table is durable.
    async fn move_block(&self, index: usize, taken: Release, end: u64) -> Result<()> {
        let mut reserved = Reserved::new(&self.limbo);
        reserved.releases.push_back(taken);
        let _counts = self.alloc.lock().await;
        let _order = self.write_back_lock.lock().await;
        let entry = self.reftable.lock().entries.get(index).copied().unwrap_or(0);
        let (old, new) = (entry & l::REFTABLE_OFFSET_MASK, taken.first << self.cluster_bits);
        if old >> self.cluster_bits < end {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for at in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
            let (slice, _) = self.cache.get(old + at, Class::Refcount).await?;
            slice.with(|part| bytes.extend_from_slice(part));
        }
        self.file.write(new, bytes.into(), WriteFlags::empty()).await?;
        // Nothing waits from here on: the counts are those of the new place.
        self.cache.forget(old, self.cluster_size());
        self.cache.forget(new, self.cluster_size());
        let mut table = self.reftable.lock();
        table.set(index, new);
        table.behind.push(Release { first: old >> self.cluster_bits, count: 1 });
        drop(table);
        reserved.linked();
        Ok(())
    }

    /// Takes the refcount blocks out of the refcount table that describe nothing but clusters from
    /// `end` on, all of them free, or the block itself.
    ///
    /// The table is durable without them before they are gone in memory: a block may lie in a
    /// cluster that only it describes, and that could be taken at once.
    pub(super) async fn drop_blocks(&self, end: u64, told: &Told<'_>) -> Result<()> {
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        loop {
            let dropped = self.drop_empty_blocks(end).await?;
            if dropped == 0 {
                return Ok(());
            }
            told.more(dropped);
            // Where one lay in what another describes, that may be empty now.
            self.settle_metadata().await?;
        }
    }

    async fn drop_empty_blocks(&self, end: u64) -> Result<u64> {
        let mut cursor = self.alloc.lock().await;
        let _order = self.write_back_lock.lock().await;
        let blocks = self.empty_blocks(end).await?;
        if blocks.is_empty() {
            return Ok(0);
        }
        let groups: BTreeSet<usize> = blocks.iter().map(|(index, _)| index / TABLE_GROUP).collect();
        let mut writes = Vec::new();
        {
            let mut table = self.reftable.lock();
            // Should this be dropped midway, the next write-back writes what is in memory.
            table.dirty.extend(&groups);
            let (place, _) = *self.reftable_place.lock();
            for group in groups {
                let from = group * TABLE_GROUP;
                let to = table.entries.len().min(from + TABLE_GROUP);
                let mut entries = table.entries[from..to].to_vec();
                for (index, _) in blocks.iter().filter(|(index, _)| (from..to).contains(index)) {
                    entries[index - from] = 0;
                }
                let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
                writes.push((place + 8 * from as u64, bytes));
            }
        }
        let result = async {
            for (offset, bytes) in writes {
                self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
            }
            self.file.flush().await
        };
        self.poison_on_error(result.await)?;

        // Nothing waits from here on.
        let mut gone = Vec::new();
        let per_block = self.refblock_entries();
        for (index, offset) in &blocks {
            let cluster = offset >> self.cluster_bits;
            self.reftable.lock().set(*index, 0);
            self.cache.forget(*offset, self.cluster_size());
            if cluster / per_block == *index as u64 {
                // It was the only one to count itself.
                cursor.freed(cluster);
            } else {
                gone.push(Release { first: cluster, count: 1 });
            }
        }
        self.limbo.abandon(Why::Other, gone);
        Ok(blocks.len() as u64)
    }

    /// The refcount blocks of that kind: index in the refcount table, and offset.
    async fn empty_blocks(&self, end: u64) -> Result<Vec<(usize, u64)>> {
        let per_block = self.refblock_entries();
        let first = usize::try_from(end.div_ceil(per_block)).unwrap_or(usize::MAX);
        let entries = {
            let table = self.reftable.lock();
            table.entries.get(first..).unwrap_or_default().to_vec()
        };
        let mut out = Vec::new();
        for (index, entry) in (first..).zip(entries) {
            let offset = entry & l::REFTABLE_OFFSET_MASK;
            if offset == 0 {
                continue;
            }
            let (mut at, stop) = (index as u64 * per_block, (index as u64 + 1) * per_block);
            let mut is_needed = false;
            while at < stop && !is_needed {
                at = self
                    .some_counts(at, stop, |cluster, count| {
                        is_needed |= count != 0 && cluster != offset >> self.cluster_bits;
                    })
                    .await?;
            }
            if !is_needed {
                out.push((index, offset));
            }
        }
        Ok(out)
    }
}
