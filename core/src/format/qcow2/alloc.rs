//! Host clusters: taking, counting, giving back.
//!
//! Every change of a refcount happens under [`AllocLock`]. Counts go up before anything refers to
//! a cluster and down only after nothing does any more, so that a crash can leak space but never
//! hand it out twice.

use super::cache::Class;
use super::claims::{Left, Release, Reserved, Why};
use super::layout as l;
use super::options::OverlapChecks;
use super::overlap::Leads;
use super::{Qcow2, refcount};
use crate::format::NotFreed;
use crate::io::{Capabilities, DebugEvent, Preallocation, Segments, WriteFlags, ZeroFlags, raise};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use async_lock::MutexGuard;

/// Entries of the refcount table are written in groups of this many.
pub(super) const TABLE_GROUP: usize = 64;

/// One allocation passes over at most so many clusters that are counted as used and that the file
/// does not have. A sound image has few of them.
const MAX_ABSENT: u64 = 1 << 26;

/// The refcount table in memory.
#[derive(Debug, Default)]
pub(super) struct Reftable {
    pub(super) entries: Vec<u64>,
    /// The refcount blocks.
    pub(super) leads: Leads,
    /// Groups that differ from the file.
    pub(super) dirty: BTreeSet<usize>,
    /// It lies in a new place, which is durable, and the header does not say so yet.
    pub(super) moved: bool,
    /// Blocks that it does not lead to any more. They lose their references when that is durable,
    /// which is later than for anything else where refcounts may wait.
    pub(super) behind: Vec<Release>,
}

/// Serialises allocation. Unlike the engine's other locks it is held while refcount blocks are
/// read; readers of the image never take it.
#[derive(Debug, Default)]
pub(super) struct AllocLock(async_lock::Mutex<Cursor>);

/// Where the next cluster is looked for.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// No free cluster lies before this one.
    hint: u64,
    /// The next free byte after the last compressed cluster, if its host cluster has room.
    tail: Option<u64>,
    /// Nobody has taken this cluster or one after it since the image was opened.
    top: u64,
    /// From `top` to this cluster the file is zeroes; 0 where none were made.
    ///
    /// A write of less than a cluster needs the rest of it zeroed. Behind everything else that is
    /// done for many clusters at a time, by a zero write that the host has a fast way for.
    zeroed: u64,
}

/// So many clusters are zeroed ahead …
const BLANK_CLUSTERS: u64 = 16;
/// … and not more than so many bytes, unless that is less than a cluster.
const BLANK_BYTES: u64 = 1 << 20;

impl Cursor {
    /// This cluster is free now.
    pub(super) fn freed(&mut self, cluster: u64) {
        self.hint = self.hint.min(cluster);
    }

    /// Somebody has this run now.
    fn took(&mut self, run: &Release) {
        self.top = self.top.max(run.first + run.count);
    }

    /// The first cluster that nobody has ever written to, in a file of `len` clusters.
    fn untouched(&self, len: u64) -> u64 {
        // What was zeroed ahead makes the file longer.
        if self.zeroed > 0 { self.top } else { self.top.max(len) }
    }
}

type Locked<'a> = MutexGuard<'a, Cursor>;

impl AllocLock {
    /// No count changes as long as the guard lives, but by its holder.
    pub(super) async fn lock(&self) -> Locked<'_> {
        self.0.lock().await
    }
}

impl Qcow2 {
    /// Takes up to `want` neighbouring free clusters, at least one.
    pub(super) async fn allocate(&self, want: u64) -> Result<Release> {
        let mut cursor = self.alloc.0.lock().await;
        self.reclaim(&mut cursor).await?;
        self.allocate_locked(&mut cursor, want).await
    }

    /// The same, all of them below the cluster `limit`. `None` where none is free there.
    pub(super) async fn allocate_below(&self, want: u64, limit: u64) -> Result<Option<Release>> {
        let mut cursor = self.alloc.0.lock().await;
        self.reclaim(&mut cursor).await?;
        self.allocate_until(&mut cursor, want, limit).await
    }

    /// The same for guest data. With `padded` some of it is going to be written with zeroes around
    /// it; the answer says whether all of what was taken is zeroes in the file already.
    pub(super) async fn allocate_data(&self, want: u64, padded: bool) -> Result<(Release, bool)> {
        let mut cursor = self.alloc.0.lock().await;
        self.reclaim(&mut cursor).await?;
        if !padded
            || !self.file.capabilities().contains(Capabilities::GROW | Capabilities::FAST_ZERO)
        {
            return Ok((self.allocate_locked(&mut cursor, want).await?, false));
        }
        let untouched = cursor.untouched(self.file.len().div_ceil(self.cluster_size()));
        let mut reserved = Reserved::new(&self.limbo);
        let taken = self.allocate_locked(&mut cursor, want).await?;
        reserved.releases.push_back(taken);
        let mut is_blank = taken.first >= untouched;
        if is_blank && cursor.top > cursor.zeroed {
            let ahead = BLANK_CLUSTERS.min(BLANK_BYTES >> self.cluster_bits).max(taken.count);
            let (from, to) = (taken.first.max(cursor.zeroed), taken.first + ahead);
            is_blank = self.zero_ahead(from, to).await;
            if is_blank {
                cursor.zeroed = to;
            }
        }
        reserved.linked();
        Ok((taken, is_blank))
    }

    /// Zeroes clusters past the end of everything, where the host has a fast way.
    async fn zero_ahead(&self, from: u64, to: u64) -> bool {
        let (offset, len) = (from << self.cluster_bits, (to - from) << self.cluster_bits);
        raise(&*self.file, DebugEvent::ClusterAllocSpace).await;
        // Whatever the reason is why it cannot: the write that this is for meets it too.
        self.file.write_zeroes(offset, len, ZeroFlags::NO_FALLBACK).await.is_ok()
    }

    /// Cuts off what was zeroed ahead and not used. Nobody takes clusters meanwhile.
    pub(super) async fn cut_blank_end(&self) -> Result<()> {
        let mut cursor = self.alloc.0.lock().await;
        let zeroed = core::mem::take(&mut cursor.zeroed);
        if zeroed <= cursor.top || self.file.len() != zeroed << self.cluster_bits {
            return Ok(());
        }
        self.set_file_len(cursor.top << self.cluster_bits).await
    }

    /// Where the file cannot get shorter it stays as it is.
    async fn set_file_len(&self, len: u64) -> Result<()> {
        match self.file.set_len(len, Preallocation::Off).await {
            Err(e) if e.kind() == ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    async fn allocate_locked(&self, cursor: &mut Locked<'_>, want: u64) -> Result<Release> {
        let found = self.allocate_until(cursor, want, u64::MAX).await?;
        found.ok_or_else(|| Error::bug("an allocation without an end found one").in_format("qcow2"))
    }

    async fn allocate_until(
        &self,
        cursor: &mut Locked<'_>,
        want: u64,
        limit: u64,
    ) -> Result<Option<Release>> {
        raise(&*self.file, DebugEvent::ClusterAlloc).await;
        raise(&*self.file, DebugEvent::RefblockAlloc).await;
        let file_clusters = self.file.len() >> self.cluster_bits;
        let mut absent = 0;
        loop {
            let hint = cursor.hint;
            if hint >= limit {
                return Ok(None);
            }
            if absent > MAX_ABSENT {
                return Err(Error::corrupt(format!(
                    "the refcounts call more than {MAX_ABSENT} clusters used that lie past the end \
                     of the file; repair the image before writing to it"
                ))
                .in_format("qcow2")
                .at(hint << self.cluster_bits));
            }
            if !self.ensure_refblock(cursor, hint).await? {
                continue;
            }
            let (slice, index) = self.refcount_slice(hint).await?;
            let order = self.refcount_order;
            let (skip, run) = slice.with(|bytes| {
                let len = refcount::entries(bytes.len(), order);
                let first = (index..len).find(|i| refcount::get(bytes, *i, order) == 0);
                let first = first.unwrap_or(len);
                let most = usize::try_from(want).unwrap_or(usize::MAX).min(len - first);
                let run = (first..first + most)
                    .take_while(|i| refcount::get(bytes, *i, order) == 0)
                    .count();
                (first - index, run)
            });
            cursor.hint = hint + skip as u64;
            if hint > file_clusters {
                absent += skip as u64;
            }
            if run == 0 || cursor.hint >= limit {
                continue;
            }
            let run = usize::try_from(limit - cursor.hint).unwrap_or(usize::MAX).min(run);
            let found = Release { first: cursor.hint, count: run as u64 };
            self.guard_free(found).await?;
            self.cache.modify(&slice, |bytes| {
                for i in 0..run {
                    refcount::set(bytes, index + skip + i, order, 1);
                }
            });
            cursor.hint += run as u64;
            cursor.took(&found);
            return Ok(Some(found));
        }
    }

    /// Takes `count` clusters in a row, for a table that must be contiguous.
    pub(super) async fn allocate_run(&self, count: u64) -> Result<Release> {
        let found = self.allocate_run_below(count, u64::MAX).await?;
        found.ok_or_else(|| Error::bug("an allocation without an end found one").in_format("qcow2"))
    }

    /// The same, all of them below the cluster `limit`. `None` where so many are not free there.
    pub(super) async fn allocate_run_below(
        &self,
        count: u64,
        limit: u64,
    ) -> Result<Option<Release>> {
        let mut cursor = self.alloc.0.lock().await;
        self.reclaim(&mut cursor).await?;
        raise(&*self.file, DebugEvent::ClusterAlloc).await;
        raise(&*self.file, DebugEvent::RefblockAlloc).await;
        let mut start = cursor.hint;
        let mut at = start;
        while at < start + count {
            if start + count > limit {
                return Ok(None);
            }
            if self.ensure_refblock(&mut cursor, at).await? && self.refcount_of(at).await? == 0 {
                at += 1;
                continue;
            }
            // Taken, by others or by the refcount block just made there.
            at += 1;
            start = at;
        }
        let found = Release { first: start, count };
        self.guard_free(found).await?;
        cursor.took(&found);
        self.change_refcounts(found, |_| Ok(1)).await?;
        Ok(Some(found))
    }

    /// Takes room for compressed payloads, packed as closely as the format allows. Gives their
    /// host offsets, and in the same order what each holds a reference on.
    pub(super) async fn allocate_bytes(
        &self,
        payloads: impl Iterator<Item = u32>,
    ) -> Result<(Vec<u64>, Reserved)> {
        let cluster = self.cluster_size();
        let max = refcount::max(self.refcount_order);
        let mut cursor = self.alloc.0.lock().await;
        self.reclaim(&mut cursor).await?;
        raise(&*self.file, DebugEvent::ClusterAllocBytes).await;
        let mut offsets = Vec::new();
        let mut reserved = Reserved::new(&self.limbo);
        for len in payloads {
            let placed = self.place_payload(&mut cursor, len.into(), cluster, max).await?;
            offsets.push(placed.0);
            reserved.releases.push_back(placed.1);
        }
        Ok((offsets, reserved))
    }

    async fn place_payload(
        &self,
        cursor: &mut Locked<'_>,
        len: u64,
        cluster: u64,
        max: u64,
    ) -> Result<(u64, Release)> {
        // The cluster that still has room, unless its count is at the top.
        let mut tail = cursor.tail.take();
        if let Some(at) = tail
            && self.refcount_of(at / cluster).await? >= max
        {
            tail = None;
        }
        let room = tail.map_or(0, |at| cluster - at % cluster);
        let mut taken = Reserved::new(&self.limbo);
        let start = match tail {
            Some(at) if len <= room => {
                self.change_refcounts(Release { first: at / cluster, count: 1 }, |n| Ok(n + 1))
                    .await?;
                at
            }
            _ => {
                let next = self.allocate_locked(cursor, 1).await?;
                taken.releases.push_back(next);
                match tail {
                    // The new cluster continues the old one: the payload may cross the border.
                    Some(at) if at / cluster + 1 == next.first => {
                        let old = Release { first: at / cluster, count: 1 };
                        self.change_refcounts(old, |n| Ok(n + 1)).await?;
                        at
                    }
                    _ => next.first * cluster,
                }
            }
        };
        let end = start + len;
        if end > self.max_compressed_offset() {
            return Err(Error::limit("no compressed cluster fits below the offset limit")
                .in_format("qcow2")
                .at(start));
        }
        if !end.is_multiple_of(cluster) {
            cursor.tail = Some(end);
        }
        let first = start / cluster;
        // The caller holds the references of all of it now.
        taken.linked();
        Ok((start, Release { first, count: (end - 1) / cluster - first + 1 }))
    }

    /// Gives the references of settled releases back.
    async fn reclaim(&self, cursor: &mut Locked<'_>) -> Result<()> {
        let order = self.refcount_order;
        while let Some(Left { run: release, why }) = self.limbo.settled() {
            if let Why::Kept { guest } = why {
                self.give_up_hollow(guest, release).await;
                self.limbo.given_back(release.count);
                continue;
            }
            raise(&*self.file, DebugEvent::ClusterFree).await;
            if self.refblock_of(release.first) == 0 {
                // A count that is not there cannot go down, now or later.
                let rest = self.refblock_entries() - release.first % self.refblock_entries();
                let count = release.count.min(rest);
                self.tell_not_freed(NotFreed::Uncounted, count);
                self.limbo.given_back(count);
                continue;
            }
            let given_up = self.give_up_unused(why, release).await;
            let found = match given_up {
                Ok(()) => self.refcount_slice(release.first).await,
                Err(e) => Err(e),
            };
            let (slice, index) = match found {
                Ok(found) => found,
                Err(e) => {
                    if e.kind() == ErrorKind::Corrupt {
                        self.limbo.given_back(release.count);
                    }
                    return Err(e);
                }
            };
            // Nothing waits between the change and its account.
            let (done, zeroed, free) = self.cache.modify(&slice, |bytes| {
                let len = refcount::entries(bytes.len(), order);
                let most = usize::try_from(release.count).unwrap_or(usize::MAX).min(len - index);
                let (mut zeroed, mut free) = (false, 0);
                for i in index..index + most {
                    let old = refcount::get(bytes, i, order);
                    let new = old.saturating_sub(1);
                    refcount::set(bytes, i, order, new);
                    zeroed |= new == 0;
                    free += u64::from(old == 0);
                }
                (most as u64, zeroed, free)
            });
            self.limbo.given_back(done);
            if free > 0 {
                self.tell_not_freed(NotFreed::Free, free);
            }
            if zeroed {
                cursor.hint = cursor.hint.min(release.first);
            }
            if let Some(tail) = cursor.tail {
                let at = tail / self.cluster_size();
                if (release.first..release.first + done).contains(&at) {
                    cursor.tail = None;
                }
            }
        }
        Ok(())
    }

    /// [`reclaim`](Self::reclaim) outside an allocation.
    pub(super) async fn reclaim_settled(&self) -> Result<()> {
        let mut cursor = self.alloc.0.lock().await;
        self.reclaim(&mut cursor).await
    }

    /// Lets the file end after its last cluster in use. What is free has settled, and nobody takes
    /// clusters meanwhile. Where the file cannot get shorter it stays as it is.
    pub(super) async fn cut_unused_end(&self) -> Result<()> {
        let mut cursor = self.alloc.0.lock().await;
        let per_block = self.refblock_entries();
        let covered = (self.reftable.lock().entries.len() as u64).saturating_mul(per_block);
        // The last cluster may be there in part: compressed payload ends where it ends.
        let mut end = self.file.len().div_ceil(self.cluster_size()).min(covered);
        while let Some(last) = end.checked_sub(1) {
            if self.refblock_of(last) == 0 {
                end = last - last % per_block;
            } else if self.refcount_of(last).await? == 0 {
                end = last;
            } else {
                break;
            }
        }
        let len = end << self.cluster_bits;
        if end == 0 || len >= self.file.len() {
            return Ok(());
        }
        cursor.hint = cursor.hint.min(end);
        cursor.zeroed = 0;
        self.set_file_len(len).await
    }

    /// Counts a reference more on the first clusters of a run, as many as one slice of a refcount
    /// block describes. Where one of them is at `max`, nothing changes.
    pub(super) async fn raise_part(&self, run: Release, max: u64) -> Result<u64> {
        let _cursor = self.alloc.0.lock().await;
        let order = self.refcount_order;
        let (slice, index) = self.refcount_slice(run.first).await?;
        self.cache.modify(&slice, |bytes| {
            let len = refcount::entries(bytes.len(), order);
            let most = usize::try_from(run.count).unwrap_or(usize::MAX).min(len - index);
            let range = index..index + most;
            if let Some(full) = range.clone().find(|i| refcount::get(bytes, *i, order) >= max) {
                return Err(self.too_many_references(run.first + (full - index) as u64));
            }
            for i in range {
                refcount::set(bytes, i, order, refcount::get(bytes, i, order) + 1);
            }
            Ok(most as u64)
        })
    }

    /// Applies `change` to the counts of a run of clusters.
    async fn change_refcounts(
        &self,
        run: Release,
        change: impl Fn(u64) -> Result<u64>,
    ) -> Result<()> {
        let order = self.refcount_order;
        let (mut at, end) = (run.first, run.first + run.count);
        while at < end {
            let (slice, index) = self.refcount_slice(at).await?;
            let done = self.cache.modify(&slice, |bytes| -> Result<u64> {
                let len = refcount::entries(bytes.len(), order);
                let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(len - index);
                for i in index..index + most {
                    let new = change(refcount::get(bytes, i, order))?;
                    refcount::set(bytes, i, order, new);
                }
                Ok(most as u64)
            })?;
            at += done;
        }
        Ok(())
    }

    /// The refcount of a host cluster; 0 where no block covers it.
    pub(super) async fn refcount_of(&self, cluster: u64) -> Result<u64> {
        if self.refblock_of(cluster) == 0 {
            return Ok(0);
        }
        let (slice, index) = self.refcount_slice(cluster).await?;
        Ok(slice.with(|bytes| refcount::get(bytes, index, self.refcount_order)))
    }

    /// The cached slice that holds the count of `cluster`, and the index in it.
    pub(super) async fn refcount_slice(
        &self,
        cluster: u64,
    ) -> Result<(alloc::sync::Arc<super::cache::Slice>, usize)> {
        let block = self.refblock_of(cluster);
        if block == 0 {
            return Err(Error::corrupt(format!(
                "cluster {cluster:#x} is used and has no refcount"
            ))
            .in_format("qcow2")
            .at(cluster << self.cluster_bits));
        }
        if !block.is_multiple_of(self.cluster_size()) {
            return Err(Error::corrupt("refcount block is not cluster aligned")
                .in_format("qcow2")
                .at(block));
        }
        let index = cluster % self.refblock_entries();
        let slice_entries = refcount::entries(self.cache.slice_len(), self.refcount_order) as u64;
        let slice_offset = block + index / slice_entries * self.cache.slice_len() as u64;
        self.guard(block, self.cluster_size(), OverlapChecks::REFCOUNT_BLOCK).await?;
        let (slice, _) = self.cache.get(slice_offset, Class::Refcount).await?;
        // Smaller than the number of entries of a slice.
        Ok((slice, (index % slice_entries) as usize))
    }

    /// True where the count of `cluster` has a place.
    pub(super) fn has_refblock(&self, cluster: u64) -> bool {
        self.refblock_of(cluster) != 0
    }

    pub(super) fn refblock_of(&self, cluster: u64) -> u64 {
        let table = self.reftable.lock();
        usize::try_from(cluster / self.refblock_entries())
            .ok()
            .and_then(|i| table.entries.get(i))
            .map_or(0, |entry| entry & l::REFTABLE_OFFSET_MASK)
    }

    /// Clusters that one refcount block covers.
    pub(super) fn refblock_entries(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// Makes sure that `cluster` has a refcount block. False where one had to be made: it takes
    /// `cluster` itself, the first of a range in which nothing is used.
    async fn ensure_refblock(&self, cursor: &mut Locked<'_>, cluster: u64) -> Result<bool> {
        if cluster >= l::MAX_HOST_OFFSET >> self.cluster_bits {
            return Err(Error::limit("the image file cannot grow further").in_format("qcow2"));
        }
        if self.refblock_of(cluster) != 0 {
            return Ok(true);
        }
        let index = usize::try_from(cluster / self.refblock_entries())
            .map_err(|_| Error::limit("refcount table index").in_format("qcow2"))?;
        cursor.took(&Release { first: cluster, count: 1 });
        let used = if index < self.reftable.lock().entries.len() {
            self.make_refblock(cluster, index).await?;
            1
        } else {
            // It writes to clusters behind this one, and may be dropped before they count.
            cursor.zeroed = 0;
            self.grow_reftable(cluster).await?
        };
        cursor.took(&Release { first: cluster, count: used });
        if cursor.hint == cluster {
            cursor.hint += used;
        }
        Ok(false)
    }

    /// Makes the refcount block of table entry `index`, which covers `cluster`, in that cluster.
    async fn make_refblock(&self, cluster: u64, index: usize) -> Result<()> {
        let offset = cluster << self.cluster_bits;
        self.guard_free(Release { first: cluster, count: 1 }).await?;
        raise(&*self.file, DebugEvent::RefblockAllocWrite).await;
        self.file.write_zeroes(offset, self.cluster_size(), ZeroFlags::empty()).await?;
        // Nothing waits from here on: a block that can be found counts itself.
        self.cache.forget(offset, self.cluster_size());
        let own = cluster % self.refblock_entries();
        let slice_entries = refcount::entries(self.cache.slice_len(), self.refcount_order) as u64;
        let slice_offset = offset + own / slice_entries * self.cache.slice_len() as u64;
        let slice = self.cache.insert_zeroed(slice_offset, Class::Refcount);
        self.cache.modify(&slice, |bytes| {
            // Smaller than the number of entries of a slice.
            refcount::set(bytes, (own % slice_entries) as usize, self.refcount_order, 1);
        });
        let mut table = self.reftable.lock();
        table.set(index, offset);
        Ok(())
    }

    /// Moves the refcount table to a larger place: at `cluster`, which lies in the range that the
    /// old table could not describe, so nothing there is used. Returns the clusters taken.
    ///
    /// The new blocks and the new table are durable before the header points to them.
    async fn grow_reftable(&self, cluster: u64) -> Result<u64> {
        let _order = self.write_back_lock.lock().await;
        let (blocks, entry_size) = (self.refblock_entries(), 8);
        let old_len = self.reftable.lock().entries.len() as u64;
        // Room for half as much again, and for describing itself.
        let mut table_clusters = 1;
        let mut block_count;
        loop {
            block_count = 1;
            loop {
                let taken = table_clusters + block_count;
                let needed = (cluster % blocks + taken).div_ceil(blocks);
                if needed <= block_count {
                    break;
                }
                block_count = needed;
            }
            let needed = (old_len + old_len / 2).max(cluster / blocks + block_count + 1);
            let clusters = (needed * entry_size).div_ceil(self.cluster_size());
            if clusters <= table_clusters {
                break;
            }
            table_clusters = clusters;
        }
        let len = (table_clusters << self.cluster_bits) / entry_size;
        if len * entry_size > l::limits::MAX_REFTABLE_BYTES {
            return Err(Error::limit("the refcount table cannot grow further").in_format("qcow2"));
        }
        let taken = table_clusters + block_count;
        self.guard_free(Release { first: cluster, count: taken }).await?;
        let mut entries = self.reftable.lock().entries.clone();
        entries.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
        let table_offset = cluster << self.cluster_bits;
        raise(&*self.file, DebugEvent::RefblockAllocWriteBlocks).await;
        for i in 0..block_count {
            // The blocks lie right after the table; the i-th describes the i-th range from here.
            let offset = (cluster + table_clusters + i) << self.cluster_bits;
            let range = cluster / blocks + i;
            let mut bytes = alloc::vec![0; 1 << self.cluster_bits];
            for own in cluster.max(range * blocks)..(cluster + taken).min((range + 1) * blocks) {
                // Smaller than the number of entries of a block.
                refcount::set(&mut bytes, (own % blocks) as usize, self.refcount_order, 1);
            }
            self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
            entries[usize::try_from(range).unwrap_or(usize::MAX)] = offset;
        }
        // The counts of blocks that only the new table will show.
        self.write_class(Class::Refcount).await?;
        let image: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
        raise(&*self.file, DebugEvent::RefblockAllocWriteTable).await;
        self.file.write(table_offset, image.into(), WriteFlags::empty()).await?;
        self.barrier().await?;

        // Nothing has changed so far. From here on the new table is the one in use, and if this
        // future is dropped before the header says so, the next write-back makes it.
        for i in 0..block_count {
            let offset = (cluster + table_clusters + i) << self.cluster_bits;
            self.cache.forget(offset, self.cluster_size());
        }
        let place = (table_offset, u32::try_from(table_clusters).unwrap_or(u32::MAX));
        let old = {
            let mut table = self.reftable.lock();
            let behind = core::mem::take(&mut table.behind);
            *table = Reftable { moved: true, behind, ..Reftable::new(entries, self.cluster_bits) };
            core::mem::replace(&mut *self.reftable_place.lock(), place)
        };
        let old = Release { first: old.0 >> self.cluster_bits, count: old.1.into() };
        self.limbo.free_later(Why::Other, [old]);
        let result = self.write_table_pointers().await;
        self.poison_on_error(result)?;
        Ok(taken)
    }

    /// The changed groups of the refcount table: file offset and bytes of each.
    pub(super) fn reftable_groups(&self, groups: &BTreeSet<usize>) -> Vec<(u64, Segments)> {
        let table = self.reftable.lock();
        let (offset, _) = *self.reftable_place.lock();
        groups
            .iter()
            .map(|group| {
                let from = group * TABLE_GROUP;
                let to = table.entries.len().min(from + TABLE_GROUP);
                let bytes: Vec<u8> =
                    table.entries[from..to].iter().flat_map(|e| e.to_be_bytes()).collect();
                (offset + 8 * from as u64, bytes.into())
            })
            .collect()
    }
}

/// What sits behind [`Qcow2::reftable_place`]: offset and clusters.
pub(super) type ReftablePlace = Mutex<(u64, u32)>;

impl Reftable {
    pub(super) fn new(entries: Vec<u64>, cluster_bits: u32) -> Self {
        let leads = Leads::new(&entries, l::REFTABLE_OFFSET_MASK, cluster_bits);
        Self { entries, leads, ..Self::default() }
    }

    /// Changes an entry, which is there.
    pub(super) fn set(&mut self, index: usize, offset: u64) {
        let old = core::mem::replace(&mut self.entries[index], offset);
        self.leads.change(old & l::REFTABLE_OFFSET_MASK, offset);
        self.dirty.insert(index / TABLE_GROUP);
    }
}
