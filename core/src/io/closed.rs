//! Stands for a device that is deliberately not opened.

use super::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, Limits, Preallocation, Segments,
    WriteFlags, ZeroFlags,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::ready;

/// A device of length 0 that refuses every call for bytes and says what it stands for.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    /// What it stands for, in words.
    what: Arc<str>,
}

impl Closed {
    pub(crate) fn new(what: &str) -> Self {
        Self { what: Arc::from(what) }
    }

    fn refuse<T: Send + 'static>(&self) -> BoxFuture<'_, Result<T>> {
        let what = format!("{} is not open: the image was opened for its metadata only", self.what);
        Box::pin(ready(Err(Error::invalid(what))))
    }
}

impl BlockDevice for Closed {
    fn len(&self) -> u64 {
        0
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::empty()
    }

    fn read(&self, _: u64, _: u64) -> BoxFuture<'_, Result<Segments>> {
        self.refuse()
    }

    fn write(&self, _: u64, _: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        // Nothing was written.
        Box::pin(ready(Ok(())))
    }

    fn set_len(&self, _: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.refuse()
    }

    fn extents(&self, _: u64, _: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.refuse()
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        let info = DeviceInfo { driver: "closed", ..DeviceInfo::default() };
        Box::pin(ready(Ok(info)))
    }
}
