//! A device that is only read, whatever its users try.

use super::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::any::Any;
use core::future::ready;

/// Passes reads on and refuses everything else: the file of an image that was opened for reading.
#[derive(Clone, Debug)]
pub(crate) struct ReadOnly {
    inner: Device,
}

impl ReadOnly {
    pub(crate) fn new(inner: Device) -> Self {
        Self { inner }
    }
}

fn refuse<'a>() -> BoxFuture<'a, Result<()>> {
    Box::pin(ready(Err(Error::denied("the image was opened read-only"))))
}

impl BlockDevice for ReadOnly {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities() - Capabilities::WRITE - Capabilities::GROW
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.inner.read(offset, len)
    }

    fn write(&self, _: u64, _: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        refuse()
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        refuse()
    }

    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<()>> {
        refuse()
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.flush()
    }

    fn set_len(&self, _: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        refuse()
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.inner.info()
    }

    fn node(&self) -> Option<&(dyn Any + Send + Sync)> {
        self.inner.node()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.close()
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.inner.event(event)
    }
}
