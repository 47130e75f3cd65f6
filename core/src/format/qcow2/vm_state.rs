//! The state of a machine: what the L1 entries that no byte of the disk needs lead to. Snapshots keep
//! it with the disk, as their L1 tables have these entries too.

use super::Qcow2;
use super::claims::Why;
use super::layout::limits;
use crate::{Error, Result};

impl Qcow2 {
    /// Index of the first L1 entry that no byte of the disk needs.
    pub(super) fn state_index(&self) -> u64 {
        self.state_index_of(*self.virtual_size.read())
    }

    fn state_index_of(&self, size: u64) -> u64 {
        size.div_ceil(1 << self.header.l1_entry_span_bits())
    }

    /// Makes the L1 table long enough for state up to the guest offset `end`.
    pub(super) async fn prepare_state(&self, end: u64) -> Result<()> {
        let needed = self.state_index_of(end);
        if needed * 8 > limits::MAX_L1_BYTES {
            return Err(
                Error::limit("Failed to grow the L1 table: File too large").in_format("qcow2")
            );
        }
        self.prepare_write().await?;
        self.grow_tables(needed).await
    }

    /// Before the disk becomes larger: state that would become part of it, or lie elsewhere
    /// afterwards, is lost.
    pub(super) async fn clear_way(&self, size: u64) -> Result<()> {
        let index = self.state_index();
        if self.state_index_of(size) <= index || self.l1.read().entries.len() as u64 <= index {
            return Ok(());
        }
        let _alone = self.alone().await?;
        self.drop_state(Why::Shrunk).await?;
        self.settle_everything().await
    }

    /// The active table has no state any more; snapshots keep theirs. The caller has the image to
    /// himself.
    pub(super) async fn drop_state(&self, why: Why) -> Result<()> {
        let first = usize::try_from(self.state_index()).unwrap_or(usize::MAX);
        let state = self.l1.read().entries.get(first..).unwrap_or_default().to_vec();
        if state.iter().all(|entry| *entry == 0) {
            return Ok(());
        }
        self.inspect_all(first, &state).await?;
        {
            let mut l1 = self.l1.write();
            for index in first..first + state.len() {
                let _ = l1.set(index, 0);
            }
        }
        // That nothing leads there any more is durable before anything counts less.
        self.write_back_all(true, false).await?;
        self.lower_all(why, first, &state).await
    }
}
