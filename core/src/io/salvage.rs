//! Reading what can be read of a device that fails.

use super::{
    BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, ExtentFlags, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// What cannot be read is found out down to this many bytes.
const SECTOR: u64 = 512;

/// Is told what could not be read: offset, length, and why.
pub type Lost = Box<dyn Fn(u64, u64, &Error) + Send + Sync>;

/// A device whose unreadable sectors read as zeroes. It cannot be written.
pub struct Salvage {
    device: Device,
    lost: Lost,
}

impl fmt::Debug for Salvage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Salvage").field(&self.device).finish()
    }
}

impl Salvage {
    /// Reads `device`; each sector that is given up is told to `lost`, whenever it is read.
    #[must_use]
    pub fn new(device: Device, lost: Lost) -> Self {
        Self { device, lost }
    }

    async fn read_parts(&self, offset: u64, len: u64) -> Result<Segments> {
        check_range(offset, len, self.device.len())?;
        let unit = SECTOR.max(self.device.limits().request_alignment.into());
        let mut out = Segments::new();
        // What is still to be read, the next part last.
        let mut waiting = Vec::from([(offset, len)]);
        while let Some((at, len)) = waiting.pop() {
            match self.device.read(at, len).await {
                Ok(data) => out.append(data),
                Err(e) => {
                    let middle = (at + len / 2) / unit * unit;
                    if middle > at {
                        waiting.push((middle, at + len - middle));
                        waiting.push((at, middle - at));
                    } else if at / unit < (at + len - 1) / unit {
                        let border = (at / unit + 1) * unit;
                        waiting.push((border, at + len - border));
                        waiting.push((at, border - at));
                    } else {
                        (self.lost)(at, len, &e);
                        out.push_zero(len);
                    }
                }
            }
        }
        Ok(out)
    }
}

fn refused() -> Error {
    Error::denied("a device that is salvaged is not written")
}

impl BlockDevice for Salvage {
    fn len(&self) -> u64 {
        self.device.len()
    }

    fn limits(&self) -> Limits {
        self.device.limits()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::empty()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(self.read_parts(offset, len))
    }

    fn write(&self, _: u64, _: Segments, _: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Err(refused()) })
    }

    fn write_zeroes(&self, _: u64, _: u64, _: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Err(refused()) })
    }

    fn discard(&self, _: u64, _: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Err(refused()) })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn set_len(&self, _: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Err(refused()) })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            check_range(offset, len, self.device.len())?;
            match self.device.extents(offset, len).await {
                Ok(found) => Ok(found),
                Err(_) => {
                    // Where nothing is known, everything is tried; little by little, so that the
                    // rest of the device keeps its zeroes.
                    let flags = ExtentFlags::DATA | ExtentFlags::ALLOCATED;
                    let len = len.min(1 << 20);
                    Ok(Vec::from([Extent { start: offset, len, flags, depth: 0, host: None }]))
                }
            }
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.device.info()
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::io::MemoryDevice;
    use crate::io::testing::{CallFilter, CallKinds, Fault, FaultDevice};
    use crate::sync::Mutex;
    use alloc::sync::Arc;
    use futures_util::FutureExt;

    #[test]
    fn sectors_that_fail_read_as_zeroes_and_are_told() {
        let bytes: Vec<u8> = (0..5000_u32).map(|i| (i % 251) as u8 + 1).collect();
        let device = Arc::new(FaultDevice::new(Arc::new(MemoryDevice::with_data(&bytes))));
        for bad in [600..601, 1024..1536, 4990..5000] {
            let reads = CallFilter::of(CallKinds::READ).within(bad);
            device.add(Fault::new(ErrorKind::Io).on(reads));
        }
        let told = Arc::new(Mutex::new(Vec::new()));
        let lost = told.clone();
        let salvage = Salvage::new(device, Box::new(move |at, len, _| lost.lock().push((at, len))));
        let read = salvage.read(0, 5000).now_or_never().expect("at once").expect("read").to_vec();
        let mut want = bytes;
        want[512..1536].fill(0);
        want[4608..].fill(0);
        assert_eq!(read, want);
        assert_eq!(*told.lock(), [(512, 512), (1024, 512), (4608, 392)]);
    }
}
