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
use super::{Qcow2, header, layout};
use crate::Result;
use crate::io::{Segments, WriteFlags};
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
        self.refuse_poisoned()?;
        self.write_back(true).await?;
        // What the write-back released may now go down to a refcount of zero. Lowered counts need
        // no barrier: lost, they are leaks.
        let result = async {
            self.reclaim_settled().await?;
            let _order = self.write_back_lock.lock().await;
            self.write_class(Class::Refcount).await
        };
        self.poison_on_error(result.await)
    }

    /// Writes all changed metadata in order. With `durable`, ends with a barrier even where there
    /// is nothing to write.
    pub(super) async fn write_back(&self, durable: bool) -> Result<()> {
        let _order = self.write_back_lock.lock().await;
        self.refuse_poisoned()?;
        let result = self.write_back_locked(durable).await;
        self.poison_on_error(result)
    }

    async fn write_back_locked(&self, durable: bool) -> Result<()> {
        // The changes behind these releases are already in the tables copied below.
        let releases = self.limbo.pending();
        let l1 = self.take_dirty_l1();
        let l2 = self.cache.dirty(Class::L2);
        let reftable = self.take_dirty_reftable();
        let mapping_changes = !l1.is_empty() || !l2.is_empty();

        self.write_class(Class::Refcount).await?;
        if !reftable.is_empty() {
            self.barrier().await?;
            for (_, offset, bytes) in reftable {
                self.file.write(offset, bytes, WriteFlags::empty()).await?;
            }
        }
        if mapping_changes {
            self.barrier().await?;
        }
        self.write_copies(&l2).await?;
        if !l1.is_empty() {
            if !l2.is_empty() {
                self.barrier().await?;
            }
            for (offset, bytes) in l1 {
                self.file.write(offset, bytes, WriteFlags::empty()).await?;
            }
        }
        if durable || releases > 0 {
            self.barrier().await?;
            self.limbo.durable(releases);
        }
        Ok(())
    }

    /// Writes the changed slices of a class, unordered among themselves. The caller holds the
    /// write-back lock.
    pub(super) async fn write_class(&self, class: Class) -> Result<()> {
        let copies = self.cache.dirty(class);
        self.write_copies(&copies).await
    }

    async fn write_copies(&self, copies: &[Dirty]) -> Result<()> {
        for group in copies.chunks(WRITES_IN_FLIGHT) {
            let mut writes: FuturesUnordered<_> =
                group.iter().map(|copy| self.write_copy(copy)).collect();
            while let Some(result) = writes.next().await {
                result?;
            }
        }
        Ok(())
    }

    async fn write_copy(&self, copy: &Dirty) -> Result<()> {
        let bytes = Segments::from(copy.bytes.clone());
        self.file.write(copy.offset, bytes, WriteFlags::empty()).await?;
        self.cache.written(copy);
        Ok(())
    }

    /// Everything written so far is durable when this returns.
    pub(super) async fn barrier(&self) -> Result<()> {
        if let Some(data) = &self.data {
            data.flush().await?;
        }
        self.file.flush().await
    }

    /// Takes the changed groups of the L1 table: file offset and bytes of each.
    fn take_dirty_l1(&self) -> Vec<(u64, Segments)> {
        if self.l1.read().dirty.is_empty() {
            return Vec::new();
        }
        let mut l1 = self.l1.write();
        let groups = core::mem::take(&mut l1.dirty);
        groups
            .into_iter()
            .map(|group| {
                let from = group * L1_GROUP;
                let to = l1.entries.len().min(from + L1_GROUP);
                let bytes: Vec<u8> =
                    l1.entries[from..to].iter().flat_map(|e| e.to_be_bytes()).collect();
                (l1.offset + 8 * from as u64, bytes.into())
            })
            .collect()
    }

    /// Before the first change: refuses what must not be written to, and clears the autoclear
    /// bits that this implementation does not keep true.
    pub(super) async fn prepare_write(&self) -> Result<()> {
        self.refuse_poisoned()?;
        if self.prepared.load(Ordering::Acquire) {
            return Ok(());
        }
        self.refuse_encrypted()?;
        let mut touched = self.touched.lock().await;
        if *touched {
            return Ok(());
        }
        let known = layout::Autoclear::DATA_FILE_RAW;
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
        *touched = true;
        self.prepared.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn poison_on_error<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.poison();
        }
        result
    }
}
