//! Changing the virtual size.

use super::Qcow2;
use super::claims::{Release, Reserved};
use super::layout::{self as l, header, limits};
use crate::io::{Preallocation, WriteFlags};
use crate::{Error, Result};
use alloc::format;
use alloc::vec::Vec;

impl Qcow2 {
    /// Grows the disk; what is gained reads as zeroes (or as the backing file where that is
    /// longer).
    pub(super) async fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        // Held to the end: nobody makes L2 tables or resizes meanwhile.
        let _tables = self.l2_lock.lock().await;
        let old = *self.virtual_size.read();
        let refuse = |what: &'static str| Err(Error::unsupported(what).in_format("qcow2"));
        if size == old {
            return Ok(());
        }
        if !size.is_multiple_of(l::SECTOR) || size > limits::MAX_VIRTUAL_SIZE {
            return Err(Error::invalid(format!("virtual size {size:#x} is not possible"))
                .in_format("qcow2"));
        }
        if size < old {
            return refuse("making an image smaller is not supported yet");
        }
        if !self.snapshots.is_empty() {
            return refuse("resizing an image with snapshots is not supported yet");
        }
        if preallocation != Preallocation::Off {
            return refuse("resizing with preallocation is not supported yet");
        }
        let needed = size.div_ceil(1 << self.header.l1_entry_span_bits());
        if needed * 8 > limits::MAX_L1_BYTES {
            return Err(Error::limit(format!(
                "an L1 table of {needed} entries exceeds 32 MiB; use larger clusters"
            ))
            .in_format("qcow2"));
        }
        self.prepare_write().await?;
        if needed > self.l1.read().entries.len() as u64 {
            self.grow_l1(needed).await?;
        }
        if let Some(data) = &self.data
            && self.data_file_is_raw()
            && data.len() < size
        {
            // It shows the disk as it is, its length included.
            data.set_len(size, Preallocation::Off).await?;
        }
        let bytes = size.to_be_bytes().to_vec();
        let result = async {
            self.file.write(header::SIZE as u64, bytes.into(), WriteFlags::empty()).await?;
            self.barrier().await
        };
        self.poison_on_error(result.await)?;
        *self.virtual_size.write() = size;
        Ok(())
    }

    /// Moves the L1 table to a larger place. The new one is durable before the header points to
    /// it. The caller holds the lock on the making of L2 tables.
    async fn grow_l1(&self, entries: u64) -> Result<()> {
        let taken = self.allocate_run((entries * 8).div_ceil(self.cluster_size())).await?;
        let mut reserved = Reserved::new(&self.limbo);
        reserved.releases.push_back(taken);
        // The counts of the new place, and everything the table refers to, go first.
        self.write_back(true).await?;
        let offset = taken.first << self.cluster_bits;
        let mut image: Vec<u64> = self.l1.read().entries.clone();
        image.resize(usize::try_from(entries).unwrap_or(usize::MAX), 0);
        let bytes: Vec<u8> = image.iter().flat_map(|e| e.to_be_bytes()).collect();
        let _order = self.write_back_lock.lock().await;
        self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
        self.barrier().await?;

        // Nothing has changed so far. From here on the new table is the one in use, and if this
        // future is dropped before the header says so, the next write-back makes it.
        reserved.linked();
        {
            let mut l1 = self.l1.write();
            let count = (l1.entries.len() as u64 * 8).div_ceil(self.cluster_size());
            let first = l1.offset >> self.cluster_bits;
            self.limbo.free_later((count > 0).then_some(Release { first, count }));
            (l1.offset, l1.entries, l1.moved) = (offset, image, true);
        }
        let result = self.write_table_pointers().await;
        self.poison_on_error(result)
    }
}

const _: () = assert!(header::L1_OFFSET == header::L1_SIZE + 4);
