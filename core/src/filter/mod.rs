//! Filters: devices that change what happens on the way, not what is stored. `docs/filters.md`
//! tells of each what it does, its options, and where it differs from QEMU.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `blkdebug` | errors injected at named events, requests that stop there |
//! | `blklogwrites` | every change is logged, for replays of crashes |
//! | `blkreplay` | passes everything on |
//! | `blkverify` | two devices that have to agree |
//! | `compress` | every write is stored compressed |
//! | `copy_before_write` | a device as it was, while it goes on changing |
//! | `copy_on_read` | what is read from a backing file is kept in the image above it |
//! | `null` | a device that keeps nothing |
//! | `preallocate` | a file grows ahead of what is written |
//! | `quorum` | several devices with the same contents vote |
//! | `replication` | one side of a disk that two machines have |
//! | `throttle` | requests wait so that a group of devices keeps within its limits |
//!
//! Each is made from plain options with the schema's names and the devices it stands on. One that
//! holds requests back has a method `release`, which lets them go while somebody drains.

mod blkdebug;
mod blklogwrites;
mod blkreplay;
mod blkverify;
mod compress;
mod copy_before_write;
mod copy_on_read;
pub(crate) mod forward;
mod null;
mod preallocate;
mod quorum;
mod release;
mod replication;
mod settle;
#[cfg(test)]
mod testing;
mod throttle;

pub use blkdebug::{
    Blkdebug, BlkdebugIoType, BlkdebugOptions, BreakpointListener, BreakpointNotice, InjectError,
    InjectedError, SetState, blkdebug_event, parse_config,
};
pub use blklogwrites::{Blklogwrites, BlklogwritesOptions};
pub use blkreplay::Blkreplay;
pub use blkverify::Blkverify;
pub use compress::Compress;
pub use copy_before_write::{CopyBeforeWrite, CopyBeforeWriteOptions, OnCbwError, SnapshotAccess};
pub use copy_on_read::CopyOnRead;
pub use null::{Null, NullDriver, NullOptions};
pub use preallocate::{Preallocate, PreallocateOptions};
pub use quorum::{
    Quorum, QuorumEvent, QuorumListener, QuorumOpType, QuorumOptions, QuorumReadPattern,
};
pub use replication::{Replication, ReplicationMode, ReplicationStage};
pub use throttle::{Throttle, ThrottleGroup, ThrottleLimits};

use crate::io::Limits;
use crate::{Error, Result};
use alloc::format;

/// Refuses a request for data that breaks `limits`.
fn check_limits(offset: u64, len: u64, limits: &Limits) -> Result<()> {
    let align = u64::from(limits.request_alignment).max(1);
    if !offset.is_multiple_of(align) || !len.is_multiple_of(align) {
        return Err(Error::invalid(format!(
            "request {offset:#x}+{len:#x} is not aligned to {align:#x}"
        )));
    }
    let most = limits.max_transfer;
    if len > u64::from(most) {
        return Err(Error::invalid(format!(
            "a request of {len:#x} bytes exceeds the longest possible, {most:#x}"
        )));
    }
    Ok(())
}
