//! `null-co` and `null-aio` (the schema's drivers, block-core.json, `BlockdevOptionsNull`): a device
//! that keeps nothing. It measures what everything above costs.
//!
//! Invariants: what was written is not read back, and no byte is kept anywhere; a request takes the
//! latency, or less while somebody drains.

use super::check_limits;
use super::release::Release;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, ExtentFlags, HostRange, Limits,
    Preallocation, Runtime, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::ready;
use core::time::Duration;
use futures_util::future::select;

/// The unit in which the length of a device is counted.
const SECTOR: u64 = 512;

/// `BlockdevOptionsNull`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NullOptions {
    /// Length in bytes; rounded up to whole sectors of 512.
    pub size: u64,
    /// How long each request takes, in nanoseconds.
    pub latency_ns: u64,
    /// Reads produce zeroes. Without it they produce whatever there is: here zeroes too, but the
    /// device does not say so.
    pub read_zeroes: bool,
}

impl Default for NullOptions {
    fn default() -> Self {
        Self { size: 1 << 30, latency_ns: 0, read_zeroes: false }
    }
}

/// Which of the two drivers: they differ in name only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullDriver {
    /// `null-co`.
    Co,
    /// `null-aio`.
    Aio,
}

impl NullDriver {
    /// The schema's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Co => "null-co",
            Self::Aio => "null-aio",
        }
    }

    /// The only file name that means this driver.
    #[must_use]
    pub fn filename(self) -> &'static str {
        match self {
            Self::Co => "null-co://",
            Self::Aio => "null-aio://",
        }
    }
}

/// A device that keeps nothing.
pub struct Null {
    driver: NullDriver,
    len: u64,
    latency: Duration,
    read_zeroes: bool,
    runtime: Arc<dyn Runtime>,
    release: Release,
}

impl fmt::Debug for Null {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Null")
            .field("driver", &self.driver)
            .field("len", &self.len)
            .field("latency", &self.latency)
            .finish_non_exhaustive()
    }
}

impl Null {
    /// A device of `options.size` bytes.
    ///
    /// # Errors
    /// `InvalidInput` where the latency or the size exceeds what a signed number holds.
    pub fn new(
        driver: NullDriver,
        options: &NullOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Self> {
        if i64::try_from(options.latency_ns).is_err() {
            return Err(Error::invalid("latency-ns is invalid"));
        }
        let len = options.size.checked_next_multiple_of(SECTOR);
        let Some(len) = len.filter(|len| i64::try_from(*len).is_ok()) else {
            let what = "Could not refresh total sector count: File too large";
            return Err(Error::invalid(what));
        };
        Ok(Self {
            driver,
            len,
            latency: Duration::from_nanos(options.latency_ns),
            read_zeroes: options.read_zeroes,
            runtime,
            release: Release::default(),
        })
    }

    /// Requests are answered at once (`true`) until as many calls with `false` have been made.
    pub fn release(&self, release: bool) {
        self.release.set(release);
    }

    /// Answers with `result` when the latency is over.
    fn later<T: Send + 'static>(&self, result: Result<T>) -> BoxFuture<'_, Result<T>> {
        if self.latency.is_zero() || result.is_err() {
            return Box::pin(ready(result));
        }
        Box::pin(async move {
            let wanted = core::pin::pin!(self.release.wanted());
            select(self.runtime.sleep(self.latency), wanted).await;
            result
        })
    }

    /// The same for a request of data.
    fn request<T: Send + 'static>(
        &self,
        offset: u64,
        len: u64,
        value: T,
    ) -> BoxFuture<'_, Result<T>> {
        let fits = check_range(offset, len, self.len)
            .and_then(|()| check_limits(offset, len, &self.limits()));
        self.later(fits.map(|()| value))
    }
}

impl BlockDevice for Null {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn capabilities(&self) -> Capabilities {
        let can = Capabilities::WRITE | Capabilities::FAST_ZERO;
        if self.read_zeroes { can | Capabilities::ZERO_INIT } else { can }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.request(offset, len, Segments::zero(len))
    }

    fn write(&self, offset: u64, data: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.request(offset, data.len(), ())
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.later(check_range(offset, len, self.len))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.later(check_range(offset, len, self.len))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.later(Ok(()))
    }

    fn set_len(&self, len: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        let result = match len == self.len {
            true => Ok(()),
            false => Err(Error::unsupported("Image format driver does not support resize")),
        };
        Box::pin(ready(result))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        let mut flags = ExtentFlags::empty();
        let mut host = None;
        if self.read_zeroes {
            flags = ExtentFlags::ZERO | ExtentFlags::ALLOCATED;
            host = Some(HostRange { file: Arc::from(self.driver.filename()), offset });
        }
        let extents = match len {
            0 => Vec::new(),
            _ => alloc::vec![Extent { start: offset, len, flags, depth: 0, host }],
        };
        Box::pin(ready(check_range(offset, len, self.len).map(|()| extents)))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(ready(Ok(DeviceInfo {
            driver: self.driver.name(),
            filename: self.driver.filename().to_string(),
            actual_size: Some(0),
            ..DeviceInfo::default()
        })))
    }
}

#[cfg(test)]
mod tests;
