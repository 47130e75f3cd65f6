//! `blkverify` (the schema's driver, block-core.json): two devices that have to agree. What is written
//! goes to both; what is read comes from the one under test and must be what the other has.
//!
//! Invariants: a read never returns bytes on which the two differ; discards reach neither, as each
//! may then read as it likes. The reference ends its process at a difference; here the request
//! fails, in the same words.

use crate::io::{
    Aligned, BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent,
    ExtentFlags, HostRange, Limits, Preallocation, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::ready;
use futures_util::future::join;

/// Two devices that have to agree.
#[derive(Debug)]
pub struct Blkverify {
    test: Aligned,
    raw: Aligned,
}

impl Blkverify {
    /// Compares `test` with `raw`.
    #[must_use]
    pub fn new(test: Device, raw: Device) -> Self {
        Self { test: Aligned::new(test), raw: Aligned::new(raw) }
    }

    /// Both did the same: it worked, or failed in the same way.
    async fn both<T>(
        &self,
        call: &str,
        offset: u64,
        len: u64,
        test: BoxFuture<'_, Result<T>>,
        raw: BoxFuture<'_, Result<T>>,
    ) -> Result<(T, T)> {
        let differs = |test: &str, raw: &str| {
            Error::io(format!(
                "blkverify: {call} offset={offset} bytes={len} return value mismatch {test} != {raw}"
            ))
        };
        match join(test, raw).await {
            (Ok(test), Ok(raw)) => Ok((test, raw)),
            (Err(test), Err(raw)) if test.kind() == raw.kind() => Err(test),
            (Err(test), Err(raw)) => {
                Err(differs(test.kind().name(), raw.kind().name()).because(test))
            }
            (Err(test), Ok(_)) => Err(differs(test.kind().name(), "0").because(test)),
            (Ok(_), Err(raw)) => Err(differs("0", raw.kind().name()).because(raw)),
        }
    }
}

impl BlockDevice for Blkverify {
    fn len(&self) -> u64 {
        self.test.len()
    }

    fn limits(&self) -> Limits {
        let (test, raw) = (self.test.limits(), self.raw.limits());
        Limits { max_transfer: test.max_transfer.min(raw.max_transfer), ..test }
    }

    fn capabilities(&self) -> Capabilities {
        self.test.capabilities() & self.raw.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        let (test, raw) = (self.test.read(offset, len), self.raw.read(offset, len));
        Box::pin(async move {
            let (test, raw) = self.both("read", offset, len, test, raw).await?;
            match difference(&test, &raw) {
                None => Ok(test),
                Some(at) => Err(Error::io(format!(
                    "blkverify: read offset={offset} bytes={len} contents mismatch at offset {}",
                    offset + at
                ))),
            }
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let len = data.len();
        let test = self.test.write(offset, data.clone(), flags);
        let raw = self.raw.write(offset, data, flags);
        Box::pin(async move { self.both("write", offset, len, test, raw).await.map(drop) })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            // One may have a fast way and the other none.
            let what = "zeroes are written to both devices, by whatever way they have";
            return Box::pin(ready(Err(Error::unsupported(what))));
        }
        let test = self.test.write_zeroes(offset, len, flags);
        let raw = self.raw.write_zeroes(offset, len, flags);
        Box::pin(async move { self.both("write_zeroes", offset, len, test, raw).await.map(drop) })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        if !self.capabilities().contains(Capabilities::WRITE) {
            return self.test.discard(offset, len);
        }
        Box::pin(ready(check_range(offset, len, self.len())))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        let (test, raw) = (self.test.flush(), self.raw.flush());
        Box::pin(async move { self.both("flush", 0, 0, test, raw).await.map(drop) })
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        let test = self.test.set_len(len, preallocation);
        let raw = self.raw.set_len(len, preallocation);
        Box::pin(async move { self.both("set_len", len, 0, test, raw).await.map(drop) })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        // Where the bytes are is not told: they are in two places.
        let extents = match len {
            0 => Vec::new(),
            _ => {
                let flags = ExtentFlags::DATA | ExtentFlags::ALLOCATED;
                let host = Some(HostRange { file: Arc::from("blkverify"), offset });
                Vec::from([Extent { start: offset, len, flags, depth: 0, host }])
            }
        };
        Box::pin(ready(check_range(offset, len, self.len()).map(|()| extents)))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move { Ok(DeviceInfo { actual_size: None, ..self.test.info().await? }) })
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.test.event(event)
    }
}

/// Where two answers of the same length differ first.
pub(super) fn difference(a: &Segments, b: &Segments) -> Option<u64> {
    if a.is_zero() && b.is_zero() {
        return None;
    }
    let (a, b) = (a.to_bytes(), b.to_bytes());
    if a == b {
        return None;
    }
    a.iter().zip(&b).position(|(a, b)| a != b).map(|at| at as u64)
}

#[cfg(test)]
mod tests;
