//! Changing the virtual size.

use super::Qcow2;
use super::layout::{self as l, header, limits};
use crate::io::{Preallocation, WriteFlags};
use crate::{Error, Result};
use alloc::format;
use alloc::vec::Vec;

impl Qcow2 {
    /// Grows the disk; what is gained reads as zeroes (or as the backing file where that is
    /// longer).
    pub(super) async fn resize(&self, size: u64, preallocation: Preallocation) -> Result<()> {
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
        let bytes = size.to_be_bytes().to_vec();
        let result = async {
            self.file.write(header::SIZE as u64, bytes.into(), WriteFlags::empty()).await?;
            self.barrier().await
        };
        self.poison_on_error(result.await)?;
        *self.virtual_size.write() = size;
        Ok(())
    }

    /// Moves the L1 table to a larger place. The new one is durable before the header points to it.
    async fn grow_l1(&self, entries: u64) -> Result<()> {
        let taken = self.allocate_run((entries * 8).div_ceil(self.cluster_size())).await?;
        // The counts of the new place, and everything the table refers to, go first.
        self.write_back(true).await?;
        let _tables = self.l2_lock.lock().await;
        let _order = self.write_back_lock.lock().await;
        let offset = taken.first << self.cluster_bits;
        let mut image: Vec<u64> = self.l1.read().entries.clone();
        image.resize(usize::try_from(entries).unwrap_or(usize::MAX), 0);
        let bytes: Vec<u8> = image.iter().flat_map(|e| e.to_be_bytes()).collect();
        let result = async {
            self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
            self.barrier().await?;
            let count = u32::try_from(entries).unwrap_or(u32::MAX);
            let mut field = count.to_be_bytes().to_vec();
            field.extend_from_slice(&offset.to_be_bytes());
            self.file.write(header::L1_SIZE as u64, field.into(), WriteFlags::empty()).await?;
            self.barrier().await
        };
        self.poison_on_error(result.await)?;
        let mut l1 = self.l1.write();
        let old_clusters = (l1.entries.len() as u64 * 8).div_ceil(self.cluster_size());
        self.limbo.free_later([super::claims::Release {
            first: l1.offset >> self.cluster_bits,
            count: old_clusters,
        }]);
        l1.offset = offset;
        l1.entries = image;
        Ok(())
    }
}

const _: () = assert!(header::L1_OFFSET == header::L1_SIZE + 4);
