//! Devices, buffers, extents, and what a host provides.
//!
//! [`BlockDevice`] is the only interface bytes pass through. Files, memory, browser storage,
//! images and filters implement it; everything above holds [`Device`] handles and cannot tell
//! which is which.
//!
//! Middleware devices for tests (fail the n-th call, delay and reorder, count, yield, crash) are
//! behind the feature `testing`, in [`testing`].

mod aligned;
mod closed;
mod concat;
mod device;
mod event;
mod extent;
mod growing;
mod memory;
mod policy;
mod read_only;
mod runtime;
mod salvage;
mod segments;
mod sink;
#[cfg(feature = "testing")]
pub mod testing;

pub use aligned::Aligned;
pub(crate) use aligned::Turns;
pub(crate) use closed::Closed;
pub use concat::{Concat, Part};
pub(crate) use device::check_range;
pub use device::{
    BlockDevice, Capabilities, Device, DeviceExt, DeviceInfo, Hold, Limits, Preallocation,
    WriteFlags, ZeroFlags,
};
pub use event::{DebugEvent, raise};
pub use extent::{Extent, ExtentFlags, HostRange};
pub(crate) use growing::Growing;
pub use memory::MemoryDevice;
pub use policy::{
    Access, Deny, OpenPolicy, Opened, Opener, Reference, ReferenceKind, SameDirectory,
    Unrestricted, combine_path, has_protocol,
};
pub(crate) use read_only::ReadOnly;
pub use runtime::{Instant, Job, Runtime, RuntimeExt};
pub use salvage::{Lost, Salvage};
pub(crate) use segments::is_zero;
pub use segments::{Segment, Segments};
pub use sink::Sink;

pub use crate::sync::BoxFuture;
