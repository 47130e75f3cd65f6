//! What the tests of the filters share.

use crate::Result;
use crate::io::testing::contract::{self, ContractOptions};
use crate::io::testing::{SimRuntime, YieldDevice};
use crate::io::{BlockDevice, BoxFuture, Capabilities, Device, MemoryDevice, Segments, WriteFlags};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::ready;

/// A file in memory.
pub(super) fn memory(len: u64) -> Device {
    Arc::new(MemoryDevice::new(len))
}

/// A file in memory of which every call is suspended twice.
pub(super) fn yielding(len: u64) -> Device {
    Arc::new(YieldDevice::new(memory(len)))
}

/// So many bytes of one value.
pub(super) fn bytes(value: u8, len: usize) -> Segments {
    alloc::vec![value; len].into()
}

/// Runs the contract suite over devices from `make`; exactly the cases `skipped` do not apply.
#[track_caller]
pub(super) fn obeys(sim: &SimRuntime, make: impl Fn() -> Device + Send + Sync, skipped: &[&str]) {
    let subject = || -> BoxFuture<'static, Result<Device>> { Box::pin(ready(Ok(make()))) };
    let options = ContractOptions {
        rounds: 3,
        // The memory device takes requests of any length, though it names a longest one.
        skip: alloc::vec![("limits", "memory does not refuse overlong requests yet")],
        ..ContractOptions::default()
    };
    let report = sim.block_on(contract::run(&subject, sim, &options));
    report.assert_ok();
    let found: Vec<&str> = report.skipped().map(|(name, _)| name).collect();
    assert_eq!(found, skipped, "{report}");
}

/// Writes and expects that it succeeds.
pub(super) async fn write(device: &dyn BlockDevice, offset: u64, value: u8, len: usize) {
    let data = bytes(value, len);
    device.write(offset, data, WriteFlags::empty()).await.unwrap();
}

/// Reads and expects that it succeeds.
pub(super) async fn read(device: &dyn BlockDevice, offset: u64, len: u64) -> Vec<u8> {
    device.read(offset, len).await.unwrap().to_vec()
}

/// A device that says of itself that it compresses, and keeps what it is told to.
#[derive(Debug)]
pub(super) struct Compressing {
    pub(super) inner: Device,
    pub(super) cluster: u32,
    pub(super) writes: crate::sync::Mutex<Vec<(u64, u64, WriteFlags)>>,
}

impl BlockDevice for Compressing {
    super::forward::forward!(len read write_zeroes discard flush set_len extents info);

    fn limits(&self) -> crate::io::Limits {
        crate::io::Limits { granularity: self.cluster, ..self.inner.limits() }
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities() | Capabilities::COMPRESSED
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.writes.lock().push((offset, data.len(), flags));
        self.inner.write(offset, data, flags - WriteFlags::COMPRESSED)
    }
}
