//! Moving clusters from the end of the file into free ones nearer its beginning.
//!
//! A pass looks where the file could end (`plan`), moves what lies behind that place, in batches,
//! and cuts the file. Each batch has the image [alone](Qcow2::alone): bytes are copied to clusters
//! that nothing refers to, then the entries change, as with any write: new counts and bytes are
//! durable before an entry leads to them, and the entry before the old cluster is free. What is
//! left of a batch that was stopped is a leak at worst, and a pass remembers nothing: going on is
//! starting again.
//!
//! Encrypted data whose sectors are numbered by their place in the file is encrypted anew. Tables
//! are moved in `tables`.

mod plan;
mod tables;

use super::Qcow2;
use super::alloc::Reftable;
use super::cache::Slice;
use super::claims::{Release, Reserved, Why};
use super::layout::{self as l, Incompatible, be64};
use super::open::read_table;
use super::write::put;
use crate::format::Packed;
use crate::io::{DeviceExt, WriteFlags, ZeroFlags, is_zero};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;
use futures_util::stream::{TryStreamExt, iter};
use plan::{Plan, is_copied};

/// A batch copies at most so many bytes, unless that is less than a cluster …
const BATCH: u64 = 16 << 20;
/// … and changes at most so many bytes of tables, unless that is less than a slice.
const BATCH_TABLES: usize = 4 << 20;
/// Others are not kept waiting while more slices than these are looked at.
const BATCH_LOOKS: usize = 256;
/// Neighbours are copied together up to so many bytes, so many runs at a time.
const COPY: u64 = 1 << 20;
const COPIES_IN_FLIGHT: usize = 8;

/// Is told how much is done, and how much there is in all.
type Progress<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A slice of the L2 tables: index in the L1 table, and byte in the L2 table.
#[derive(Clone, Copy, Debug, Default)]
struct Spot {
    index: usize,
    at: u64,
}

/// A slice of an L2 table that this image has to itself, and the table's offset.
type OwnSlice = (Arc<Slice>, u64);

/// A cluster of guest data that is to be moved: its entry, and where it lies.
#[derive(Debug)]
struct Moving {
    slice: Arc<Slice>,
    position: usize,
    from: u64,
}

/// How far the moves are.
struct Told<'a> {
    progress: Progress<'a>,
    /// Clusters. (Some targets have no 64-bit atomics.)
    moved: Mutex<u64>,
    all: u64,
}

impl Told<'_> {
    fn more(&self, clusters: u64) {
        let done = {
            let mut moved = self.moved.lock();
            *moved += clusters;
            *moved
        };
        (self.progress)(done.min(self.all), self.all);
    }
}

impl Qcow2 {
    /// What could be moved, and what could not, as the file is now.
    pub(super) async fn what_to_pack(&self) -> Result<Packed> {
        self.load_reftable().await?;
        let plan = self.plan().await?;
        Ok(self.packed(&plan, plan.work))
    }

    /// An image that is only read has no counts in memory.
    async fn load_reftable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        if self.incompatible.lock().contains(Incompatible::DIRTY) {
            return Err(Error::invalid(
                "the image was not closed cleanly, and its refcounts say nothing; repair it first",
            )
            .in_format("qcow2"));
        }
        let (offset, clusters) = *self.reftable_place.lock();
        let len = u64::from(clusters) << self.cluster_bits >> 3;
        let entries = read_table(&self.file, "refcount table", offset, len).await?;
        *self.reftable.lock() = Reftable::new(entries, self.cluster_bits);
        Ok(())
    }

    fn packed(&self, plan: &Plan, moved: u64) -> Packed {
        let bytes = |clusters: u64| clusters << self.cluster_bits;
        Packed {
            moved: bytes(moved),
            compressed: bytes(plan.compressed),
            snapshots: bytes(plan.snapshots),
            other: bytes(plan.other),
            free: 0,
        }
    }

    /// Makes the file as short as it gets, and gives the space of what is free in it back to the
    /// host.
    pub(super) async fn pack_all(&self, progress: Progress<'_>) -> Result<Packed> {
        let mut sum = 0;
        let mut before: Option<Plan> = None;
        let plan = loop {
            self.prepare_write().await?;
            // What was given up is free, and not in the way.
            drop(self.alone().await?);
            let mut plan = self.plan().await?;
            if plan.other > 0 {
                let moved = self.move_large(plan.wanted).await?;
                if moved > 0 {
                    sum += moved;
                    plan = self.plan().await?;
                }
            }
            // Somebody may write meanwhile: what does not get less is left.
            let gets_less = |old: &Plan| (plan.end, plan.work) < (old.end, old.work);
            if plan.work == 0 || !before.as_ref().is_none_or(gets_less) {
                break plan;
            }
            let told = Told { progress, moved: Mutex::new(0), all: plan.work };
            self.pass(plan.end, &told).await?;
            sum += *told.moved.lock();
            before = Some(plan);
        };
        self.cut_end().await?;
        let mut packed = self.packed(&plan, sum);
        packed.free = self.punch().await?;
        Ok(packed)
    }

    /// Moves what lies at the cluster `end` and after it, as far as there is room below.
    async fn pass(&self, end: u64, told: &Told<'_>) -> Result<()> {
        if self.move_blocks(end, told).await? && self.move_tables(end, told).await? {
            self.move_data(end, told).await?;
        }
        self.drop_blocks(end, told).await
    }

    async fn move_data(&self, end: u64, told: &Told<'_>) -> Result<()> {
        let mut spot = Spot::default();
        while self.seek(&mut spot, end).await? {
            self.prepare_write().await?;
            let _alone = self.alone().await?;
            let batch = self.gather(&mut spot, end).await?;
            let (wanted, moved) = (batch.len() as u64, self.move_batch(batch, end).await?);
            self.settle_metadata().await?;
            told.more(moved);
            if moved < wanted {
                break;
            }
        }
        Ok(())
    }

    /// The slice at `spot` or the next one; `spot` goes on behind it.
    async fn next_slice(&self, spot: &mut Spot) -> Result<Option<OwnSlice>> {
        loop {
            let entry = self.l1.read().entries.get(spot.index).copied();
            let Some(entry) = entry else { return Ok(None) };
            let guest = (spot.index as u64).wrapping_shl(self.header.l1_entry_span_bits());
            let l2 = self.l2_offset(entry, guest)?.filter(|_| entry & l::COPIED != 0);
            let at = spot.at;
            match l2 {
                Some(l2) if at < self.cluster_size() => {
                    spot.at += self.cache.slice_len() as u64;
                    let (slice, _) = self.cache.get(l2 + at, super::cache::Class::L2).await?;
                    return Ok(Some((slice, l2)));
                }
                _ => *spot = Spot { index: spot.index + 1, at: 0 },
            }
        }
    }

    /// Goes to the next slice that leads behind `end`. False where there is none.
    async fn seek(&self, spot: &mut Spot, end: u64) -> Result<bool> {
        if self.data.is_some() {
            return Ok(false);
        }
        // The tables stay tables.
        let _hold = self.limbo.hold();
        loop {
            let here = *spot;
            let Some((slice, _)) = self.next_slice(spot).await? else { return Ok(false) };
            if !self.movable(&slice, end)?.is_empty() {
                *spot = here;
                return Ok(true);
            }
        }
    }

    /// The entries of a slice whose clusters lie behind `end`: position and offset.
    fn movable(&self, slice: &Slice, end: u64) -> Result<Vec<(usize, u64)>> {
        let entry_len = 1usize << self.header.l2_entry_bits();
        slice.with(|bytes| {
            let mut out = Vec::new();
            for position in (0..bytes.len()).step_by(entry_len) {
                let entry = self.entry(bytes, position, 0)?;
                if is_copied(&entry)
                    && let Some(run) = self.host_of(&entry)
                    && run.first >= end
                {
                    out.push((position, run.first << self.cluster_bits));
                }
            }
            Ok(out)
        })
    }

    /// A batch, from `spot` on. The caller has the image to himself.
    async fn gather(&self, spot: &mut Spot, end: u64) -> Result<Vec<Moving>> {
        let most = usize::try_from(BATCH >> self.cluster_bits).unwrap_or(usize::MAX).max(1);
        let mut batch = Vec::new();
        let (mut tables, mut looked) = (0, 0);
        while batch.len() < most && tables < BATCH_TABLES && looked < BATCH_LOOKS {
            let here = *spot;
            let Some((slice, l2)) = self.next_slice(spot).await? else { break };
            looked += 1;
            let all = self.movable(&slice, end)?;
            if all.is_empty() {
                continue;
            }
            self.guard_l2(l2).await?;
            tables += self.cache.slice_len();
            for (position, from) in all {
                if batch.len() == most {
                    *spot = here;
                    break;
                }
                if self.refcount_of(from >> self.cluster_bits).await? == 1 {
                    batch.push(Moving { slice: slice.clone(), position, from });
                }
            }
        }
        Ok(batch)
    }

    /// Moves clusters below `end`, as many as there is room for; gives how many.
    async fn move_batch(&self, mut batch: Vec<Moving>, end: u64) -> Result<u64> {
        let mut reserved = Reserved::new(&self.limbo);
        while reserved.releases.len() < batch.len() {
            let want = (batch.len() - reserved.releases.len()) as u64;
            let Some(run) = self.allocate_below(want, end).await? else { break };
            let each = run.first..run.first + run.count;
            reserved.releases.extend(each.map(|first| Release { first, count: 1 }));
        }
        batch.truncate(reserved.releases.len());
        let place = |to: &Release| to.first << self.cluster_bits;
        let pairs: Vec<(u64, u64)> =
            batch.iter().zip(&reserved.releases).map(|(m, to)| (m.from, place(to))).collect();
        self.copy_clusters(&pairs).await?;

        // Nothing waits from here on: what is linked must not be given back.
        let mut frees = Vec::new();
        let mut unused = Reserved::new(&self.limbo);
        for Moving { slice, position, from } in batch {
            let Some(to) = reserved.releases.pop_front() else { break };
            let linked = self.cache.modify(&slice, |bytes| {
                let old = be64(bytes, position);
                let same = old & l::COMPRESSED == 0 && old & l::OFFSET_MASK == from;
                if same {
                    put(bytes, position, old & !l::OFFSET_MASK | place(&to));
                }
                same
            });
            if linked {
                frees.push(Release { first: from >> self.cluster_bits, count: 1 });
            } else {
                // Two entries of a damaged table lead there.
                unused.releases.push_back(to);
            }
        }
        let moved = frees.len() as u64;
        self.limbo.free_later(Why::Other, frees);
        Ok(moved)
    }

    /// Copies clusters within the file, neighbours together.
    async fn copy_clusters(&self, pairs: &[(u64, u64)]) -> Result<()> {
        let cluster = self.cluster_size();
        let mut runs: Vec<(u64, u64, u64)> = Vec::new();
        for (from, to) in pairs {
            match runs.last_mut() {
                Some((start, at, len))
                    if *start + *len == *from && *at + *len == *to && *len + cluster <= COPY =>
                {
                    *len += cluster;
                }
                _ => runs.push((*from, *to, cluster)),
            }
        }
        iter(runs.into_iter().map(|(from, to, len)| Ok(self.copy_run(from, to, len))))
            .try_buffer_unordered(COPIES_IN_FLIGHT)
            .try_for_each(|()| core::future::ready(Ok(())))
            .await
    }

    async fn copy_run(&self, from: u64, to: u64, len: u64) -> Result<()> {
        // The last cluster of the file may be there in part.
        let data = self.file.read_padded(from, len).await?;
        if let Some(encryption) = &self.encryption {
            let data = encryption.moved(&self.runtime, data, from, to).await?;
            return self.file.write(to, data, WriteFlags::empty()).await;
        }
        // What has no space keeps having none.
        match is_zero(&data.to_bytes()) {
            true => self.file.write_zeroes(to, len, ZeroFlags::MAY_UNMAP).await,
            false => self.file.write(to, data, WriteFlags::empty()).await,
        }
    }

    /// Ends the file after its last cluster in use.
    async fn cut_end(&self) -> Result<()> {
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        self.cut_unused_end().await?;
        self.file.flush().await
    }

    /// Gives the space of free clusters back to the host, where it takes it; gives how many bytes
    /// of the file are free.
    async fn punch(&self) -> Result<u64> {
        let _alone = self.alone().await?;
        let _counts = self.alloc.lock().await;
        let (mut at, end) = (0, self.file.len() >> self.cluster_bits);
        let (mut free, mut takes) = (0, true);
        while at < end {
            let mut runs: Vec<Release> = Vec::new();
            at = self
                .some_counts(at, end, |cluster, count| {
                    if count == 0 {
                        Release { first: cluster, count: 1 }.join_onto(&mut runs);
                    }
                })
                .await?;
            for run in runs {
                let (offset, len) =
                    (run.first << self.cluster_bits, run.count << self.cluster_bits);
                free += len;
                if takes {
                    takes = match self.file.discard(offset, len).await {
                        Err(e) if e.kind() == ErrorKind::Unsupported => false,
                        result => result.map(|()| true)?,
                    };
                }
            }
        }
        Ok(free)
    }
}
