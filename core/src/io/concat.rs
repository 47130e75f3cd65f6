//! Parts of devices, one after the other, as one device that is read.

use super::{
    BlockDevice, BoxFuture, Capabilities, Device, DeviceExt, DeviceInfo, Extent, ExtentFlags,
    Limits, Preallocation, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;

/// A part of a device. What lies past the device's end reads as zeroes.
#[derive(Clone, Debug)]
pub struct Part {
    /// The device.
    pub device: Device,
    /// Where the part begins in it, in bytes.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
}

/// Parts of devices joined into one device. It cannot be written.
#[derive(Debug)]
pub struct Concat {
    parts: Vec<Part>,
    len: u64,
}

impl Concat {
    /// Joins parts, in this order.
    ///
    /// # Errors
    /// `Limit` where they are longer together than a device can be.
    pub fn new(parts: Vec<Part>) -> Result<Self> {
        let len = parts.iter().try_fold(0_u64, |sum, part| sum.checked_add(part.len));
        let len = len.ok_or_else(|| Error::limit("the sources are too long to be joined"))?;
        Ok(Self { parts, len })
    }

    /// The pieces of `[offset, offset + len)`: the part, where in its device, how long.
    fn pieces(&self, offset: u64, len: u64) -> Vec<(&Part, u64, u64)> {
        let mut out = Vec::new();
        let mut start = 0;
        for part in &self.parts {
            // The sums stay below the length of the whole.
            let (from, to) = (offset.max(start), (offset + len).min(start + part.len));
            if from < to {
                out.push((part, part.start.saturating_add(from - start), to - from));
            }
            start += part.len;
        }
        out
    }

    fn refused<T>(&self) -> Result<T> {
        Err(Error::denied("joined devices cannot be written"))
    }
}

impl BlockDevice for Concat {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::empty()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            check_range(offset, len, self.len)?;
            let mut out = Segments::new();
            for (part, at, len) in self.pieces(offset, len) {
                out.append(part.device.read_padded(at, len).await?);
            }
            Ok(out)
        })
    }

    fn write(&self, _: u64, _: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.refused() })
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.refused() })
    }

    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.refused() })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn set_len(&self, _: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { self.refused() })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            check_range(offset, len, self.len)?;
            // The first piece is enough of an answer.
            let Some((part, at, len)) = self.pieces(offset, len).into_iter().next() else {
                return Ok(Vec::new());
            };
            let inside = part.device.len().saturating_sub(at).min(len);
            if inside == 0 {
                let flags = ExtentFlags::ZERO;
                return Ok(Vec::from([Extent { start: offset, len, flags, depth: 0, host: None }]));
            }
            let mut found = part.device.extents(at, inside).await?;
            for extent in &mut found {
                extent.start = extent.start - at + offset;
            }
            Ok(found)
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async { Ok(DeviceInfo::default()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::MemoryDevice;
    use alloc::sync::Arc;
    use futures_util::FutureExt;

    #[test]
    fn parts_follow_one_another_and_short_devices_end_in_zeroes() {
        let device = |bytes: &[u8]| Arc::new(MemoryDevice::with_data(bytes)) as Device;
        let joined = Concat::new(Vec::from([
            Part { device: device(b"abcdef"), start: 2, len: 3 },
            Part { device: device(b""), start: 0, len: 0 },
            Part { device: device(b"xyz"), start: 1, len: 5 },
        ]))
        .expect("short");
        let whole = b"cdeyz\0\0\0";
        assert_eq!(joined.len(), 8);
        for from in 0..8_u8 {
            for to in from + 1..=8 {
                let (offset, len) = (u64::from(from), u64::from(to - from));
                let read = joined.read(offset, len).now_or_never().expect("at once");
                let want = &whole[usize::from(from)..usize::from(to)];
                assert_eq!(read.expect("within").to_vec(), want);
                let mut at = offset;
                while at < offset + len {
                    let found = joined.extents(at, offset + len - at).now_or_never();
                    for extent in found.expect("at once").expect("within") {
                        assert_eq!(extent.start, at);
                        at = extent.end();
                    }
                }
                assert_eq!(at, offset + len);
            }
        }
        let past = joined.read(8, 1).now_or_never().expect("at once");
        assert_eq!(past.expect_err("past the end").kind(), crate::ErrorKind::InvalidInput);
    }
}
