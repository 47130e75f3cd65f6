//! The state of a machine, which some formats keep behind the disk: offsets count from its own
//! beginning, and what was never written reads as zeroes.

use super::{Layer, transfer};
use crate::io::{Access, DebugEvent, Segments, raise};
use crate::{Error, Result};
use alloc::format;

impl Layer {
    /// Reads `len` bytes at `offset` of the state.
    ///
    /// # Errors
    /// `Unsupported` where the format has no place for it, `Limit` past the largest offset, and
    /// those of the devices.
    pub async fn read_vm_state(&self, offset: u64, len: u64) -> Result<Segments> {
        let (start, _) = self.place_of_state(offset, len)?;
        raise(&*self.file, DebugEvent::VmstateLoad).await;
        transfer::fetch(self, start, len).await
    }

    /// Writes `data` at `offset` of the state. It is durable after a flush.
    ///
    /// # Errors
    /// The same, and `Denied` where the image is only read.
    pub async fn write_vm_state(&self, offset: u64, data: Segments) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Err(Error::denied(format!("'{}' was opened read-only", self.filename)));
        }
        let (start, end) = self.place_of_state(offset, data.len())?;
        if !data.is_empty() {
            self.driver.prepare_vm_state(end).await?;
        }
        raise(&*self.file, DebugEvent::VmstateSave).await;
        transfer::write(self, start, data).await
    }

    fn place_of_state(&self, offset: u64, len: u64) -> Result<(u64, u64)> {
        let name = self.driver.name();
        let Some(base) = self.driver.vm_state_offset() else {
            let what = "the format has no place for the state of a machine";
            return Err(Error::unsupported(what).in_format(name));
        };
        let start = base.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if end <= i64::MAX as u64 => Ok((start, end)),
            _ => Err(Error::limit("the state of a machine ends before that").in_format(name)),
        }
    }
}
