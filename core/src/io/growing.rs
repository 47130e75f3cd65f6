//! Places for images in things that grow only when they are told to: each grows with what is written.

use super::{
    BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::sync;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use async_lock::Mutex;
use core::any::Any;

/// A place in `inner`.
#[derive(Debug)]
pub(crate) struct Growing {
    inner: Device,
    /// A length of its own, of which `inner` has at least as much.
    len: Option<sync::Mutex<u64>>,
    /// One change of the length at a time.
    change: Mutex<()>,
}

impl Growing {
    /// A place for a new image: it begins as long as `device`, which never gets shorter. What lies past
    /// its end reads as zeroes once it is reached again.
    pub(crate) fn over(device: Device) -> Self {
        let len = Some(sync::Mutex::new(device.len()));
        Self { inner: device, len, change: Mutex::new(()) }
    }

    /// All of `device`, whose length is changed.
    pub(crate) fn along(device: Device) -> Self {
        Self { inner: device, len: None, change: Mutex::new(()) }
    }

    async fn reach(&self, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len);
        let end = end.ok_or_else(|| Error::invalid("a write ends past the end of all files"))?;
        match end > self.len() {
            true => self.change_len(end, true, Preallocation::Off).await,
            false => Ok(()),
        }
    }

    async fn change_len(&self, len: u64, only_grow: bool, how: Preallocation) -> Result<()> {
        let _change = self.change.lock().await;
        let old = self.len();
        if only_grow && len <= old {
            return Ok(());
        }
        let Some(own) = &self.len else { return self.inner.set_len(len, how).await };
        let there = self.inner.len();
        if len < old {
            self.inner.write_zeroes(len, there - len, ZeroFlags::MAY_UNMAP).await?;
        } else if len > there {
            self.inner.set_len(len, how).await?;
        }
        *own.lock() = len;
        Ok(())
    }
}

impl BlockDevice for Growing {
    fn len(&self) -> u64 {
        self.len.as_ref().map_or_else(|| self.inner.len(), |len| *len.lock())
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
        Box::pin(self.change_len(len, false, preallocation))
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
}
