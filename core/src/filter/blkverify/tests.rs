//! Two devices that agree, and two that do not.

use super::super::blkdebug::{Blkdebug, BlkdebugIoType, BlkdebugOptions, InjectError};
use super::super::testing::{bytes, memory, obeys, read, write, yielding};
use super::*;
use crate::io::MemoryDevice;
use crate::io::testing::SimRuntime;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use futures_util::FutureExt;

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    let make = || Arc::new(Blkverify::new(yielding(0), yielding(0))) as Device;
    obeys(&sim, make, &["limits", "compressed", "read_only"]);
}

#[test]
fn what_both_have_is_read_and_everything_reaches_both() {
    let sim = SimRuntime::new(1);
    let (test, raw) = (Arc::new(MemoryDevice::new(8192)), Arc::new(MemoryDevice::new(8192)));
    let device = Blkverify::new(test.clone(), raw.clone());
    sim.block_on(async {
        write(&device, 100, 7, 5000).await;
        device.write_zeroes(4000, 50, ZeroFlags::MAY_UNMAP).await.unwrap();
        device.discard(0, 8192).await.unwrap();
        device.flush().await.unwrap();
        assert_eq!(test.to_vec(), raw.to_vec());
        assert_eq!(read(&device, 3999, 2).await, [7, 0]);
        device.set_len(10000, Preallocation::Off).await.unwrap();
        assert_eq!((test.len(), raw.len(), device.len()), (10000, 10000, 10000));
    });
}

#[test]
fn a_difference_fails_the_read_that_meets_it() {
    let raw = Arc::new(MemoryDevice::new(8192));
    raw.write(5000, bytes(5, 10), WriteFlags::empty()).now_or_never().unwrap().unwrap();
    let device = Blkverify::new(memory(8192), raw);
    let read = |offset, len| device.read(offset, len).now_or_never().unwrap();
    assert_eq!(read(0, 4096).unwrap().to_vec(), vec![0; 4096]);
    let error = read(4096, 4096).unwrap_err();
    assert_eq!(
        error.what(),
        "blkverify: read offset=4096 bytes=4096 contents mismatch at offset 5000"
    );
    read(5010, 100).unwrap();
}

#[test]
fn one_that_fails_alone_is_a_difference_too() {
    let failing = |errno| {
        let rule = InjectError {
            errno,
            iotype: Some(BlkdebugIoType::Read),
            ..InjectError::new(DebugEvent::None)
        };
        let options = BlkdebugOptions { inject_error: vec![rule], ..BlkdebugOptions::default() };
        Arc::new(Blkdebug::new(memory(4096), options).unwrap()) as Device
    };
    for (test, raw, want) in [
        (failing(5), memory(4096), "return value mismatch Io != 0"),
        (memory(4096), failing(5), "return value mismatch 0 != Io"),
        (failing(28), failing(5), "return value mismatch NoSpace != Io"),
        (failing(28), failing(28), "No space left on device"),
    ] {
        let device = Blkverify::new(test, raw);
        let error = device.read(0, 512).now_or_never().unwrap().unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        device.write(0, bytes(1, 512), WriteFlags::empty()).now_or_never().unwrap().unwrap();
    }
}
