//! The one interface bytes pass through.

use super::{BoxFuture, DebugEvent, Extent, Segments};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;

/// A shared handle to a device.
pub type Device = Arc<dyn BlockDevice>;

/// Something that must stay alive until an operation has settled; see [`Segments::hold`].
pub type Hold = Arc<dyn Any + Send + Sync>;

bitflags::bitflags! {
    /// What a device can do beyond reading.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Capabilities: u32 {
        /// Writes, zero writes, discards and length changes are possible.
        const WRITE = 1;
        /// A write or zero write that ends past [`BlockDevice::len`] makes the device longer.
        const GROW = 1 << 1;
        /// Bytes that were never written, and those gained by growing, read as zeroes.
        const ZERO_INIT = 1 << 2;
        /// [`BlockDevice::write_zeroes`] costs much less than writing the bytes.
        const FAST_ZERO = 1 << 3;
        /// [`WriteFlags::COMPRESSED`] is understood.
        const COMPRESSED = 1 << 4;
    }

    /// How a write is to be done.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WriteFlags: u32 {
        /// Store compressed. The range must be whole clusters (or end at the end of the device).
        const COMPRESSED = 1;
        /// Durable when it completes, as if followed by a flush of just this data.
        const FUA = 1 << 1;
    }

    /// How zeroes are to be written.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct ZeroFlags: u32 {
        /// The space may be given back.
        const MAY_UNMAP = 1;
        /// Fail with [`ErrorKind::Unsupported`](crate::ErrorKind) rather than write the bytes.
        const NO_FALLBACK = 1 << 1;
    }
}

/// How the space a device gains is prepared ([`BlockDevice::set_len`], creation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Sparse.
    #[default]
    Off,
    /// Metadata only (image formats).
    Metadata,
    /// Reserved by the file system, without writing.
    Falloc,
    /// Reserved by writing zeroes.
    Full,
}

/// Sizes a device works best, or only, with. All are powers of two except the maxima.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Offsets and lengths of reads and writes must be multiples of it.
    pub request_alignment: u32,
    /// The unit that is allocated as one: a cluster. Writing whole ones avoids copying.
    pub granularity: u32,
    /// The longest read or write it takes at once. Longer ones are the caller's mistake.
    pub max_transfer: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request_alignment: 1, granularity: 1, max_transfer: 1 << 30 }
    }
}

/// What is known of a device besides its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The schema's driver name: `file`, `qcow2` …
    pub driver: &'static str,
    /// The name it was opened by.
    pub filename: String,
    /// The space it takes on the host, where the host can tell.
    pub actual_size: Option<u64>,
    /// The unit in which its file system was asked to allocate, in bytes.
    pub extent_size_hint: Option<u64>,
}

/// Whatever can be read and written by offset.
///
/// Contract, for every implementation (checked by `testing::contract`):
///
/// - A read returns exactly `len` bytes. A range that does not lie within the length is refused
///   with `InvalidInput`; so is one that breaks [`Limits`].
/// - **Dropping a future is always safe.** The device keeps the data (and its
///   [hold](Segments::hold)) until the operation has settled, and settles a dropped write before
///   it starts any later write, zero write, discard or length change that overlaps it, and before
///   a later flush completes.
/// - After a write completes, every later read sees it. Overlapping requests in flight at the
///   same time may land in any order.
/// - What a completed flush covers (every write completed before the flush began) survives a
///   crash. After a failed flush nothing may pretend: the device fails all later flushes.
/// - Zero writes and discards that are not aligned to anything are still exact: no byte outside
///   the range changes.
#[expect(clippy::len_without_is_empty, reason = "an empty device is as good as any other")]
pub trait BlockDevice: Send + Sync + fmt::Debug {
    /// Length in bytes, as it is now.
    fn len(&self) -> u64;

    /// Sizes to work with.
    fn limits(&self) -> Limits;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Reads `len` bytes at `offset`.
    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>>;

    /// Writes `data` at `offset`.
    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>>;

    /// Makes `len` bytes at `offset` read as zeroes.
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>>;

    /// Gives up the contents of `len` bytes at `offset`: they may read as anything that was
    /// there before, or zeroes, until written.
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>>;

    /// Makes all completed writes durable.
    fn flush(&self) -> BoxFuture<'_, Result<()>>;

    /// Changes the length; bytes gained read as zeroes.
    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>>;

    /// The status of a range, in order and without gaps, beginning at `offset`. The list is never
    /// empty, and may end before the range does: ask again from there. Neighbours that could be
    /// one extent are merged within one answer.
    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>>;

    /// Name, driver and space taken.
    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>>;

    /// Is told what its user is about to do ([`DebugEvent`]), and may keep it waiting until the
    /// future completes. A hook for test drivers: other devices need not do anything, and filters
    /// tell the device below.
    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        let _ = event;
        None
    }

    /// Itself, where it stands on other devices as an image or a filter does, for whoever above
    /// knows the type.
    fn node(&self) -> Option<&(dyn Any + Send + Sync)> {
        None
    }

    /// Ends what it keeps between requests. Nobody asks anything of it afterwards.
    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(core::future::ready(Ok(())))
    }
}

/// Refuses a range that does not lie within `len`.
pub(crate) fn check_range(offset: u64, len: u64, device_len: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= device_len) {
        return Ok(());
    }
    Err(Error::invalid(alloc::format!(
        "request {offset:#x}+{len:#x} exceeds the device length {device_len:#x}"
    )))
}

/// Calls built on the trait's.
pub trait DeviceExt: BlockDevice {
    /// Reads `len` bytes at `offset`; what lies past the end reads as zeroes.
    fn read_padded(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        let inside = self.len().saturating_sub(offset).min(len);
        if inside == len {
            return self.read(offset, len);
        }
        Box::pin(async move {
            let mut data = match inside {
                0 => Segments::new(),
                n => self.read(offset, n).await?,
            };
            data.push_zero(len - inside);
            Ok(data)
        })
    }

    /// Sets the length to 0. An empty device is left alone: to ext4 even the truncation of an empty
    /// file means that what follows replaces something, and is written out when the file is closed.
    fn make_empty(&self) -> BoxFuture<'_, Result<()>> {
        match self.len() {
            0 => Box::pin(core::future::ready(Ok(()))),
            _ => self.set_len(0, Preallocation::Off),
        }
    }

    /// Reads exactly `N` bytes at `offset`, which must lie within the device.
    fn read_array<const N: usize>(&self, offset: u64) -> BoxFuture<'_, Result<[u8; N]>> {
        Box::pin(async move {
            let mut out = [0; N];
            self.read(offset, N as u64).await?.copy_to(&mut out);
            Ok(out)
        })
    }
}

impl<T: BlockDevice + ?Sized> DeviceExt for T {}
