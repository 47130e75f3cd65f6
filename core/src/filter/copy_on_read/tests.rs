//! Reads that copy, against what is to be in the image afterwards.

use super::CopyOnRead;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, ExtentFlags, Limits,
    MemoryDevice, Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::future::ready;
use futures_util::FutureExt;

const CLUSTER: u64 = 4096;
const CLUSTERS: usize = 8;

/// An image of eight clusters above a backing file: a cluster is its own once it was written to.
#[derive(Debug)]
struct Stacked {
    bytes: MemoryDevice,
    own: Mutex<[bool; CLUSTERS]>,
    writes: Mutex<Vec<(u64, u64, bool)>>,
    broken: bool,
}

impl Stacked {
    fn new(broken: bool) -> Arc<Self> {
        let mut data = vec![7; CLUSTERS * CLUSTER as usize];
        data[2 * CLUSTER as usize..4 * CLUSTER as usize].fill(0);
        let (bytes, own) = (MemoryDevice::with_data(&data), Mutex::new([false; CLUSTERS]));
        Arc::new(Self { bytes, own, writes: Mutex::new(Vec::new()), broken })
    }

    fn took(&self, offset: u64, len: u64, zero: bool) -> Result<()> {
        if self.broken {
            return Err(Error::no_space("full"));
        }
        for cluster in offset / CLUSTER..(offset + len).div_ceil(CLUSTER) {
            self.own.lock()[cluster as usize] = true;
        }
        self.writes.lock().push((offset, len, zero));
        Ok(())
    }
}

impl BlockDevice for Stacked {
    fn len(&self) -> u64 {
        self.bytes.len()
    }

    fn limits(&self) -> Limits {
        Limits { granularity: CLUSTER as u32, ..Limits::default() }
    }

    fn capabilities(&self) -> Capabilities {
        self.bytes.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.bytes.read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        match self.took(offset, data.len(), false) {
            Ok(()) => self.bytes.write(offset, data, flags),
            refused => Box::pin(ready(refused)),
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        match self.took(offset, len, true) {
            Ok(()) => self.bytes.write_zeroes(offset, len, flags),
            refused => Box::pin(ready(refused)),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.bytes.discard(offset, len)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.bytes.flush()
    }

    fn set_len(&self, len: u64, how: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.bytes.set_len(len, how)
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        let mut out = Vec::new();
        let mut at = offset;
        while at < offset + len {
            let end = (at - at % CLUSTER + CLUSTER).min(offset + len);
            let own = self.own.lock()[(at / CLUSTER) as usize];
            let flags = ExtentFlags::DATA | ExtentFlags::ALLOCATED;
            let depth = u32::from(!own);
            out.push(Extent { start: at, len: end - at, flags, depth, host: None });
            at = end;
        }
        Box::pin(ready(Ok(out)))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.bytes.info()
    }
}

fn read(device: &CopyOnRead, offset: u64, len: u64) -> Result<Vec<u8>> {
    let read = device.read(offset, len).now_or_never().expect("memory answers at once");
    read.map(|data| data.to_vec())
}

#[test]
fn whole_clusters_are_copied_once_and_zeroes_as_zeroes() {
    let image = Stacked::new(false);
    let device = CopyOnRead::new(image.clone() as Device);
    assert_eq!(read(&device, 100, CLUSTER).unwrap(), vec![7; CLUSTER as usize]);
    assert_eq!(*image.writes.lock(), [(0, 2 * CLUSTER, false)]);
    read(&device, 0, 2 * CLUSTER).unwrap();
    assert_eq!(image.writes.lock().len(), 1, "what is here is not copied again");
    assert_eq!(read(&device, 3 * CLUSTER + 5, 10).unwrap(), [0; 10]);
    assert_eq!(image.writes.lock()[1], (3 * CLUSTER, CLUSTER, true));
    // What is missing around what is there.
    read(&device, 0, 5 * CLUSTER).unwrap();
    assert_eq!(
        image.writes.lock()[2..],
        [(2 * CLUSTER, CLUSTER, true), (4 * CLUSTER, CLUSTER, false)]
    );
    assert!(read(&device, 8 * CLUSTER, 1).is_err());
}

#[test]
fn a_write_is_never_replaced_by_a_copy() {
    let image = Stacked::new(false);
    let device = CopyOnRead::new(image.clone() as Device);
    let data = Segments::from(vec![9; CLUSTER as usize]);
    let written = device.write(CLUSTER, data, WriteFlags::empty()).now_or_never();
    written.expect("memory answers at once").unwrap();
    let all = read(&device, 0, 3 * CLUSTER).unwrap();
    assert_eq!(all[CLUSTER as usize..2 * CLUSTER as usize], vec![9; CLUSTER as usize]);
    let copies: Vec<u64> = image.writes.lock()[1..].iter().map(|write| write.0).collect();
    assert_eq!(copies, [0, 2 * CLUSTER]);
}

#[test]
fn a_copy_that_fails_fails_the_read() {
    let device = CopyOnRead::new(Stacked::new(true) as Device);
    assert_eq!(read(&device, 0, 1).unwrap_err().kind(), crate::ErrorKind::NoSpace);
}
