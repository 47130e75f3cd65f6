//! A device that writes make longer, over one that has to be told its length.

use super::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use async_lock::Mutex;

/// Sets the length of `inner` before a write that ends past it.
#[derive(Debug)]
pub(crate) struct Growing {
    inner: Device,
    /// One write at a time makes it longer.
    growth: Mutex<()>,
}

impl Growing {
    /// `device` itself where it grows by itself.
    pub(crate) fn over(device: Device) -> Device {
        match device.capabilities().contains(Capabilities::GROW) {
            true => device,
            false => alloc::sync::Arc::new(Self { inner: device, growth: Mutex::new(()) }),
        }
    }

    async fn reach(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len);
        let end = end.ok_or_else(|| Error::invalid("a write ends past the end of all files"))?;
        if end <= self.inner.len() {
            return Ok(());
        }
        let _growth = self.growth.lock().await;
        match end > self.inner.len() {
            true => self.inner.set_len(end, Preallocation::Off).await,
            false => Ok(()),
        }
    }
}

impl BlockDevice for Growing {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities() | Capabilities::GROW
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.inner.event(event)
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.inner.read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.reach(offset, data.len()).await?;
            self.inner.write(offset, data, flags).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.reach(offset, len).await?;
            self.inner.write_zeroes(offset, len, flags).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.inner.discard(offset, len)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.inner.set_len(len, preallocation)
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.inner.info()
    }
}
