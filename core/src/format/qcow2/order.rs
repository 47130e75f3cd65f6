//! Write-back: the one place that decides what is durable before what.
//!
//! A change becomes visible on disk in this order (`docs/formats/qcow2.md`, "Write ordering"):
//!
//! 1. guest data and raised refcounts,
//! 2. refcount table entries of new refcount blocks,
//! 3. L2 entries,
//! 4. L1 entries of new L2 tables,
//! 5. lowered refcounts of what is no longer referred to.
//!
//! Between two steps that both have something to write lies a barrier. Copies of what a later
//! step will write are taken *before* the earlier steps run, so that nothing slips in that they
//! did not cover.

use super::cache::{Class, Dirty};
use super::claims::{Release, Why};
use super::layout::Incompatible;
use super::options::OverlapChecks;
use super::{Qcow2, header, layout};
use crate::Result;
use crate::io::{DebugEvent, Segments, WriteFlags, raise};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;
use futures_util::stream::{FuturesUnordered, StreamExt};

/// Metadata writes in flight at a time.
const WRITES_IN_FLIGHT: usize = 16;

/// Entries of the L1 table are written in groups of this many: 512 bytes.
pub(super) const L1_GROUP: usize = 64;

impl Qcow2 {
    /// Makes every completed write durable.
    pub(super) async fn flush_all(&self) -> Result<()> {
        if self.is_retired() && !self.is_poisoned() {
            // All of it was durable before.
            return Ok(());
        }
        self.refuse_poisoned()?;
        self.write_back(true).await?;
        if self.lazy {
            return self.poison_on_error(self.reclaim_settled().await);
        }
        self.flush_refcounts().await
    }

    /// After a write-back: what it released may now go down to a refcount of zero. Lowered counts
    /// need no barrier: lost, they are leaks.
    pub(super) async fn flush_refcounts(&self) -> Result<()> {
        let result = async {
            self.reclaim_settled().await?;
            let _order = self.write_back_lock.lock().await;
            self.write_class(Class::Refcount).await
        };
        self.poison_on_error(result.await)
    }

    /// Ends writing: after this the image is one that was closed cleanly.
    pub(super) async fn close_all(&self) -> Result<()> {
        if self.for_check || self.is_retired() && !self.is_poisoned() {
            return Ok(());
        }
        self.settle_abandoned().await?;
        self.settle_metadata().await?;
        if self.store_bitmaps().await? {
            // What the old ones took is free, and their counts go down.
            self.settle_metadata().await?;
        }
        self.cut_blank_end().await?;
        if self.incompatible.lock().contains(Incompatible::DIRTY) {
            self.barrier().await?;
            self.mark_clean().await?;
        }
        Ok(())
    }

    /// Writes changed metadata in order. With `durable`, ends with a barrier even where there is
    /// nothing to write. Lazy refcounts stay in memory as long as there is room for them.
    pub(super) async fn write_back(&self, durable: bool) -> Result<()> {
        self.write_back_all(durable, self.lazy && !self.cache.is_crowded()).await
    }

    /// The same; `postpone` says whether refcounts may wait.
    pub(super) async fn write_back_all(&self, durable: bool, postpone: bool) -> Result<()> {
        let _order = self.write_back_lock.lock().await;
        self.refuse_poisoned()?;
        let result = self.write_back_locked(durable, postpone).await;
        self.poison_on_error(result)
    }

    async fn write_back_locked(&self, durable: bool, postpone: bool) -> Result<()> {
        // The changes behind these releases are already in the tables copied below.
        let releases = self.limbo.pending();
        self.write_table_pointers().await?;
        let mut marks = Marks {
            image: self,
            l1: BTreeSet::new(),
            reftable: BTreeSet::new(),
            behind: Vec::new(),
        };
        marks.l1 = core::mem::take(&mut self.l1.write().dirty);
        let l1 = self.l1_groups(&marks.l1);
        let l2 = self.cache.dirty(Class::L2);
        if !postpone {
            let mut table = self.reftable.lock();
            marks.reftable = core::mem::take(&mut table.dirty);
            marks.behind = core::mem::take(&mut table.behind);
        }
        let reftable = self.reftable_groups(&marks.reftable);
        let mapping_changes = !l1.is_empty() || !l2.is_empty();
        let all = |groups: &[(u64, Segments)]| -> Vec<(u64, u64)> {
            groups.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect()
        };
        self.guard_all(&all(&l1), OverlapChecks::ACTIVE_L1).await?;
        self.guard_all(&all(&reftable), OverlapChecks::REFCOUNT_TABLE).await?;
        self.guard_copies(&l2, Class::L2).await?;

        if postpone {
            // References may get ahead of their counts from here on.
            if mapping_changes || self.cache.has_dirty(Class::Refcount) {
                self.mark_dirty().await?;
            }
        } else {
            self.write_class(Class::Refcount).await?;
        }
        if !reftable.is_empty() {
            self.barrier().await?;
            for (offset, bytes) in reftable {
                raise(&*self.file, DebugEvent::RefblockAllocHookup).await;
                self.file.write(offset, bytes, WriteFlags::empty()).await?;
            }
        }
        if mapping_changes {
            self.barrier().await?;
        }
        self.write_copies(&l2, Class::L2).await?;
        if !l1.is_empty() {
            if !l2.is_empty() {
                self.barrier().await?;
            }
            for (offset, bytes) in l1 {
                raise(&*self.file, DebugEvent::L1Update).await;
                self.file.write(offset, bytes, WriteFlags::empty()).await?;
            }
        }
        if durable || releases > 0 || !marks.behind.is_empty() {
            if durable {
                raise(&*self.file, DebugEvent::FlushToDisk).await;
            }
            self.barrier().await?;
            self.limbo.durable(releases);
            self.limbo.abandon(Why::Other, core::mem::take(&mut marks.behind));
        }
        marks.written();
        Ok(())
    }

    /// Lets the header point to tables that have moved. They are durable where they are now. The
    /// caller holds the write-back lock.
    pub(super) async fn write_table_pointers(&self) -> Result<()> {
        let mut fields = Vec::new();
        let (mut switched, mut activated) = (false, false);
        {
            let table = self.reftable.lock();
            if table.moved {
                switched = true;
                let (offset, clusters) = *self.reftable_place.lock();
                let mut field = offset.to_be_bytes().to_vec();
                field.extend_from_slice(&clusters.to_be_bytes());
                fields.push((layout::header::REFTABLE_OFFSET, field));
            }
            let l1 = self.l1.read();
            if l1.moved {
                activated = true;
                let entries = u32::try_from(l1.entries.len()).unwrap_or(u32::MAX);
                // The disk may have another size with another table: one write for both.
                let mut field = self.virtual_size.read().to_be_bytes().to_vec();
                field.extend_from_slice(&self.header.crypt.number().to_be_bytes());
                field.extend_from_slice(&entries.to_be_bytes());
                field.extend_from_slice(&l1.offset.to_be_bytes());
                fields.push((layout::header::SIZE, field));
            }
            let snapshots = self.snapshots.read();
            if snapshots.moved {
                let count = u32::try_from(snapshots.list.len()).unwrap_or(u32::MAX);
                let mut field = count.to_be_bytes().to_vec();
                field.extend_from_slice(&snapshots.place.0.to_be_bytes());
                fields.push((layout::header::NB_SNAPSHOTS, field));
            }
        }
        if fields.is_empty() {
            return Ok(());
        }
        if switched {
            raise(&*self.file, DebugEvent::RefblockAllocSwitchTable).await;
        }
        if activated {
            raise(&*self.file, DebugEvent::L1GrowActivateTable).await;
        }
        for (at, field) in fields {
            self.file.write(at as u64, field.into(), WriteFlags::empty()).await?;
        }
        self.barrier().await?;
        // No table moves without the lock that the caller holds.
        self.reftable.lock().moved = false;
        self.l1.write().moved = false;
        self.snapshots.write().moved = false;
        Ok(())
    }

    /// Writes the changed slices of a class, unordered among themselves. The caller holds the
    /// write-back lock.
    pub(super) async fn write_class(&self, class: Class) -> Result<()> {
        let copies = self.cache.dirty(class);
        self.guard_copies(&copies, class).await?;
        self.write_copies(&copies, class).await
    }

    /// Refuses to write tables where metadata of another kind lies.
    async fn guard_copies(&self, copies: &[Dirty], class: Class) -> Result<()> {
        let own = match class {
            Class::L2 => OverlapChecks::ACTIVE_L2 | OverlapChecks::INACTIVE_L2,
            Class::Refcount => OverlapChecks::REFCOUNT_BLOCK,
        };
        let ranges = copies.iter().map(|copy| (copy.offset, copy.bytes.len() as u64));
        self.guard_all(&ranges.collect::<Vec<_>>(), own).await
    }

    async fn guard_all(&self, ranges: &[(u64, u64)], own: OverlapChecks) -> Result<()> {
        for (offset, len) in ranges {
            self.guard(*offset, *len, own).await?;
        }
        Ok(())
    }

    async fn write_copies(&self, copies: &[Dirty], class: Class) -> Result<()> {
        for group in copies.chunks(WRITES_IN_FLIGHT) {
            let mut writes: FuturesUnordered<_> =
                group.iter().map(|copy| self.write_copy(copy, class)).collect();
            while let Some(result) = writes.next().await {
                result?;
            }
        }
        Ok(())
    }

    async fn write_copy(&self, copy: &Dirty, class: Class) -> Result<()> {
        let event = match class {
            Class::L2 => DebugEvent::L2Update,
            Class::Refcount => DebugEvent::RefblockUpdatePart,
        };
        raise(&*self.file, event).await;
        let bytes = Segments::from(copy.bytes.clone());
        self.file.write(copy.offset, bytes, WriteFlags::empty()).await?;
        self.cache.written(copy);
        Ok(())
    }

    /// Everything written so far is durable when this returns.
    pub(super) async fn barrier(&self) -> Result<()> {
        let result = async {
            if let Some(data) = &self.data {
                data.flush().await?;
            }
            self.file.flush().await
        };
        self.poison_on_error(result.await)
    }

    /// Groups of the L1 table: file offset and bytes of each.
    fn l1_groups(&self, groups: &BTreeSet<usize>) -> Vec<(u64, Segments)> {
        let l1 = self.l1.read();
        groups
            .iter()
            .map(|group| {
                let from = group * L1_GROUP;
                let to = l1.entries.len().min(from + L1_GROUP);
                let bytes: Vec<u8> =
                    l1.entries[from..to].iter().flat_map(|e| e.to_be_bytes()).collect();
                (l1.offset + 8 * from as u64, bytes.into())
            })
            .collect()
    }

    /// Before the first change: refuses what must not be written to, clears autoclear bits, and marks
    /// the bitmaps that are going to change *in use*.
    pub(super) async fn prepare_write(&self) -> Result<()> {
        self.refuse_poisoned()?;
        let generation = self.bitmaps.set.generation();
        if self.prepared.load(Ordering::Acquire)
            && self.bitmaps.marked.load(Ordering::Acquire) == generation
        {
            return Ok(());
        }
        self.refuse_locked()?;
        self.prepare_header().await?;
        let _touched = self.touched.lock().await;
        self.poison_on_error(self.mark_bitmaps(false).await)?;
        self.bitmaps.marked.store(generation, Ordering::Release);
        self.prepared.store(true, Ordering::Release);
        Ok(())
    }

    /// Clears the autoclear bits that this implementation does not keep true, and what points to
    /// bitmaps that are not true any more, once.
    pub(super) async fn prepare_header(&self) -> Result<()> {
        let mut touched = self.touched.lock().await;
        if *touched {
            return Ok(());
        }
        let known = layout::Autoclear::DATA_FILE_RAW | layout::Autoclear::BITMAPS;
        let kept = self.header.autoclear & known;
        if kept != self.header.autoclear {
            let at = header::AUTOCLEAR_FIELD;
            let bytes = kept.bits().to_be_bytes().to_vec();
            let result = async {
                self.file.write(at, bytes.into(), WriteFlags::empty()).await?;
                self.file.flush().await
            };
            self.poison_on_error(result.await)?;
        }
        if self.header.has_stale_bitmaps() {
            self.poison_on_error(self.point_to_bitmaps(None).await)?;
        }
        *touched = true;
        Ok(())
    }

    pub(super) fn poison_on_error<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.poison();
        }
        result
    }
}

/// The groups of tables that are being written. A write-back that is dropped midway leaves them
/// marked as changed, for the next one.
struct Marks<'a> {
    image: &'a Qcow2,
    l1: BTreeSet<usize>,
    reftable: BTreeSet<usize>,
    /// What loses its reference with these groups of the refcount table.
    behind: Vec<Release>,
}

impl Marks<'_> {
    fn written(mut self) {
        self.l1.clear();
        self.reftable.clear();
    }
}

impl Drop for Marks<'_> {
    fn drop(&mut self) {
        if !self.l1.is_empty() {
            self.image.l1.write().dirty.append(&mut self.l1);
        }
        if !self.reftable.is_empty() {
            self.image.reftable.lock().dirty.append(&mut self.reftable);
        }
        if !self.behind.is_empty() {
            self.image.reftable.lock().behind.append(&mut self.behind);
        }
    }
}
