//! Whether the file may have holes where its tables say there is data.
//!
//! Metadata preallocation gives every guest cluster a place and writes none of them: the tables
//! call all of it data, the file system knows better. Asking it for every range would slow down
//! the many images that are dense, so the refcounts are compared with what the file takes first.

use super::layout as l;
use super::open::read_table;
use super::{Qcow2, refcount};
use crate::ErrorKind;
use crate::Result;
use crate::io::DeviceExt;

/// So many bytes of refcount blocks are looked at; past that the file is asked anyway.
const MAX_READ: u64 = 64 << 20;

impl Qcow2 {
    /// True where the file takes less than its refcounts claim. Looked up once.
    pub(super) async fn has_holes(&self) -> Result<bool> {
        self.holes.get_or_try_init(|| self.find_holes()).await.copied()
    }

    async fn find_holes(&self) -> Result<bool> {
        let taken = match self.file.info().await {
            Ok(info) => info.actual_size,
            Err(e) if e.kind() == ErrorKind::Unsupported => None,
            Err(e) => return Err(e),
        };
        let Some(taken) = taken.map(|bytes| bytes >> self.cluster_bits) else { return Ok(false) };
        // File systems round up, and keep some more of a file than asked: a few clusters or a
        // tenth tell nothing. (Where the line is was found by trying it on QEMU.)
        let dense = (taken + 2).max(taken.saturating_mul(10) / 9);
        let clusters = self.file.len() >> self.cluster_bits;
        let (mut claimed, mut read) = (0, 0);
        let table_entries = u64::from(self.header.reftable_clusters) << self.cluster_bits >> 3;
        let (what, offset) = ("refcount table", self.header.reftable_offset);
        let table = match read_table(&self.file, what, offset, table_entries).await {
            // Data can be read without it.
            Err(e) if e.kind() == ErrorKind::Corrupt => return Ok(true),
            table => table?,
        };
        let wanted = clusters.div_ceil(self.refblock_entries());
        for entry in table.into_iter().take(usize::try_from(wanted).unwrap_or(usize::MAX)) {
            let block = entry & l::REFTABLE_OFFSET_MASK;
            let within =
                block.checked_add(self.cluster_size()).is_some_and(|e| e <= self.file.len());
            if block == 0 || !within {
                continue;
            }
            if read >= MAX_READ {
                return Ok(true);
            }
            read += self.cluster_size();
            let bytes = self.file.read_padded(block, self.cluster_size()).await?.to_bytes();
            let entries = refcount::entries(bytes.len(), self.refcount_order);
            claimed += (0..entries)
                .filter(|i| refcount::get(&bytes, *i, self.refcount_order) != 0)
                .count() as u64;
            if claimed >= dense {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
