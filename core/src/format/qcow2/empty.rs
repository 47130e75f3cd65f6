//! Giving up all guest data at once: afterwards everything shows what lies below.

use super::Qcow2;
use super::cache::Class;
use super::claims::{Release, Why};
use crate::io::{DebugEvent, raise};
use crate::{Error, Result};
use alloc::vec::Vec;

impl Qcow2 {
    /// Takes every L2 table out of the L1 table, gives back the clusters that the tables held, and
    /// ends the file after the last one in use.
    ///
    /// The order is that of every other change: the L1 table without its entries is durable
    /// before a cluster is free, and the file gets shorter after that. Power lost midway leaves
    /// parts of the disk emptied, and leaks.
    pub(super) async fn empty(&self) -> Result<()> {
        if self.data_file_is_raw() {
            return Err(Error::unsupported(
                "an image whose data file is raw has nothing below it, and cannot be emptied",
            )
            .in_format("qcow2"));
        }
        self.prepare_write().await?;
        raise(&*self.file, DebugEvent::EmptyImagePrepare).await;
        let _with_others = self.with_others().await?;
        // All of the disk changes, as far as bitmaps can tell.
        let _recorded = self.bitmaps.set.record(0, *self.virtual_size.read());
        let _everything = self.range_locks.lock(0, u64::MAX).await;
        {
            let _tables = self.l2_lock.lock().await;
            let entries = self.l1.read().entries.len();
            for index in 0..entries {
                self.empty_table(index).await?;
            }
        }
        self.flush_all().await?;
        self.cut_unused_end().await
    }

    async fn empty_table(&self, index: usize) -> Result<()> {
        let guest = (index as u64) << self.header.l1_entry_span_bits();
        let Some(table) = self.l2_offset(self.l1_entry(guest), guest)? else { return Ok(()) };
        let entry_len = 1usize << self.header.l2_entry_bits();
        let mut frees: Vec<Release> = Vec::new();
        let mut at = guest;
        for part in (0..self.cluster_size()).step_by(self.cache.slice_len()) {
            let (slice, _) = self.cache.get(table + part, Class::L2).await?;
            slice.with(|bytes| -> Result<()> {
                for position in (0..bytes.len()).step_by(entry_len) {
                    let entry = self.entry(bytes, position, at)?;
                    if let Some(new) = self.host_of(&entry) {
                        new.join_onto(&mut frees);
                    }
                    at += self.cluster_size();
                }
                Ok(())
            })?;
        }
        frees.push(Release { first: table >> self.cluster_bits, count: 1 });
        // Nothing waits from here on: what is not referred to any more is given back.
        {
            let mut l1 = self.l1.write();
            if !l1.set(index, 0) {
                return Err(Error::bug("an L1 index past the table").in_format("qcow2"));
            }
        }
        self.cache.forget(table, self.cluster_size());
        self.limbo.free_later(Why::Snapshot, frees);
        Ok(())
    }
}
