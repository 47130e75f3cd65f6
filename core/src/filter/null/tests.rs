//! What a device says that keeps nothing.

use super::super::testing::{read, write};
use super::*;
use crate::ErrorKind;
use crate::io::testing::SimRuntime;

fn null(sim: &SimRuntime, options: &NullOptions) -> Null {
    Null::new(NullDriver::Co, options, sim.handle()).unwrap()
}

#[test]
fn it_takes_everything_and_keeps_nothing() {
    let sim = SimRuntime::new(1);
    let device = null(&sim, &NullOptions::default());
    sim.block_on(async {
        assert_eq!(device.len(), 1 << 30);
        write(&device, 5, 7, 100).await;
        assert_eq!(read(&device, 5, 100).await, [0; 100]);
        device.write_zeroes(0, 1 << 30, ZeroFlags::empty()).await.unwrap();
        device.discard(1 << 29, 1 << 29).await.unwrap();
        device.flush().await.unwrap();
        let extents = device.extents(10, 20).await.unwrap();
        assert_eq!(extents.len(), 1);
        assert!(!extents[0].is_zero() && !extents[0].is_allocated());
        let info = device.info().await.unwrap();
        assert_eq!((info.driver, &*info.filename), ("null-co", "null-co://"));
        assert_eq!(info.actual_size, Some(0));
        let longer = device.set_len(1 << 31, Preallocation::Off).await.unwrap_err();
        assert_eq!(longer.kind(), ErrorKind::Unsupported);
    });
    assert_eq!(sim.elapsed(), Duration::ZERO);
}

#[test]
fn it_refuses_what_does_not_lie_within_it() {
    let sim = SimRuntime::new(1);
    let device = null(&sim, &NullOptions { size: 1000, ..NullOptions::default() });
    assert_eq!(device.len(), 1024, "whole sectors");
    sim.block_on(async {
        for (offset, len) in [(1024, 1), (0, 1025), (u64::MAX, 1), (1, u64::MAX)] {
            let data = Segments::zero(len);
            let write = device.write(offset, data, WriteFlags::empty()).await;
            let zeroes = device.write_zeroes(offset, len, ZeroFlags::empty()).await;
            let discard = device.discard(offset, len).await;
            for result in [write, zeroes, discard, device.read(offset, len).await.map(drop)] {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::InvalidInput);
            }
            assert!(device.extents(offset, len).await.is_err());
        }
        assert!(device.extents(1024, 0).await.unwrap().is_empty());
    });
}

#[test]
fn every_request_takes_the_latency_unless_somebody_drains() {
    let sim = SimRuntime::new(1);
    let options = NullOptions { latency_ns: 5_000_000, read_zeroes: true, ..Default::default() };
    let device = Arc::new(Null::new(NullDriver::Aio, &options, sim.handle()).unwrap());
    assert!(device.capabilities().contains(Capabilities::ZERO_INIT));
    sim.block_on(async {
        read(&*device, 0, 10).await;
        write(&*device, 0, 1, 10).await;
        device.flush().await.unwrap();
        let extent = device.extents(512, 5).await.unwrap().remove(0);
        assert!(extent.is_zero());
        assert_eq!(extent.host.unwrap().offset, 512);
    });
    assert_eq!(sim.elapsed(), Duration::from_millis(15));
    let other = device.clone();
    sim.spawn(Box::pin(async move { other.flush().await.unwrap() }));
    sim.block_on(async {
        sim.sleep(Duration::from_millis(1)).await;
        device.release(true);
        device.release(true);
        read(&*device, 0, 10).await;
        device.release(false);
        read(&*device, 0, 10).await;
    });
    sim.run_until_idle();
    assert_eq!((sim.unfinished(), sim.elapsed()), (0, Duration::from_millis(16)));
    device.release(false);
    device.release(false);
    sim.block_on(device.flush()).unwrap();
    assert_eq!(sim.elapsed(), Duration::from_millis(21));
}

#[test]
fn options_out_of_range_are_refused() {
    let sim = SimRuntime::new(1);
    for (size, latency_ns, what) in [
        (1, 1 << 63, "latency-ns is invalid"),
        (i64::MAX as u64, 0, "Could not refresh total sector count: File too large"),
        (u64::MAX, 0, "Could not refresh total sector count: File too large"),
    ] {
        let options = NullOptions { size, latency_ns, read_zeroes: false };
        let error = Null::new(NullDriver::Co, &options, sim.handle()).unwrap_err();
        assert_eq!((error.kind(), error.what()), (ErrorKind::InvalidInput, what));
    }
}
