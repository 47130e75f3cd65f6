//! The point in time, whatever happens to the device.

use super::super::null::{Null, NullDriver, NullOptions};
use super::super::testing::{bytes, memory, obeys, read, write, yielding};
use super::*;
use crate::ErrorKind;
use crate::io::testing::{
    CallFilter, CallKinds, CountDevice, DelayDevice, Fault, FaultDevice, Rng, SimRuntime,
    abandon_at, drop_at_each_await, model::payload,
};
use crate::io::{ExtentFlags, MemoryDevice};
use futures_util::FutureExt;
use futures_util::future::join_all;

const CLUSTER: u64 = LEAST_CLUSTER;
const LEN: u64 = 8 * CLUSTER + 1000;

/// A disk without zeroes.
fn old() -> Vec<u8> {
    payload(5, 0, LEN).to_vec()
}

fn disk() -> Device {
    Arc::new(MemoryDevice::with_data(&old()))
}

fn keep(sim: &SimRuntime, file: Device, target: Device) -> Arc<CopyBeforeWrite> {
    keep_with(sim, file, target, CopyBeforeWriteOptions::default())
}

fn keep_with(
    sim: &SimRuntime,
    file: Device,
    target: Device,
    options: CopyBeforeWriteOptions,
) -> Arc<CopyBeforeWrite> {
    Arc::new(CopyBeforeWrite::new(file, target, &options, sim.handle()).unwrap())
}

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    let make = || keep(&sim, yielding(128 << 10), yielding(128 << 10)) as Device;
    let skipped = ["limits", "growing_writes", "zero_init", "set_len", "compressed", "read_only"];
    obeys(&sim, make, &skipped);
}

#[test]
fn whole_clusters_are_copied_once_before_they_change() {
    let sim = SimRuntime::new(1);
    let target = Arc::new(CountDevice::new(memory(LEN)));
    let device = keep(&sim, disk(), target.clone());
    let snapshot = device.snapshot_access();
    sim.block_on(async {
        write(&*device, CLUSTER + 100, 1, 10).await;
        write(&*device, CLUSTER + 500, 2, 10).await;
        device.write_zeroes(3 * CLUSTER - 1, 2, ZeroFlags::empty()).await.unwrap();
        device.discard(8 * CLUSTER, 1000).await.unwrap();
        target.assert_trace(
            CallKinds::WRITE,
            &["write 0x10000+0x10000", "write 0x20000+0x20000", "write 0x80000+0x3e8"],
        );
        assert!(read(&snapshot, 0, LEN).await == old());
        target.assert_trace(CallKinds::READ, &["read 0x10000+0x30000", "read 0x80000+0x3e8"]);
        assert_eq!(read(&*device, CLUSTER + 500, 2).await, [2, 2]);
        device.flush().await.unwrap();
    });
    assert_eq!(device.cluster_size(), CLUSTER);
}

/// Guests write, give up writing, and others read the point in time, all at once.
#[test]
fn the_point_in_time_stays_whatever_guests_do() {
    for seed in 0..30 {
        let sim = SimRuntime::new(seed);
        let mut rng = Rng::new(seed);
        let slow = |device: Device, seed| {
            let longest = Duration::from_micros(100);
            Arc::new(DelayDevice::new(device, sim.handle(), longest, seed)) as Device
        };
        let file = slow(disk(), seed);
        let device = keep(&sim, file, slow(memory(LEN), seed + 100));
        let snapshot = device.snapshot_access();
        let old = old();
        sim.block_on(async {
            for _ in 0..6 {
                let plan: Vec<_> = (0..16)
                    .map(|n| {
                        let offset = rng.below(LEN - 1);
                        let len = rng.between(1, (LEN - offset).min(2 * CLUSTER));
                        let waits = if rng.chance(20) { rng.index(8) } else { usize::MAX };
                        (n, offset, len, rng.below(5), waits)
                    })
                    .collect();
                join_all(plan.into_iter().map(async |(n, offset, len, kind, waits)| match kind {
                    0 | 1 => {
                        let found = snapshot.read(offset, len);
                        if let Some(found) = abandon_at(found, waits).await {
                            let (from, to) = (offset as usize, (offset + len) as usize);
                            assert!(found.unwrap().to_vec() == old[from..to], "seed {seed}");
                        }
                    }
                    2 => {
                        let zero = device.write_zeroes(offset, len, ZeroFlags::MAY_UNMAP);
                        if let Some(result) = abandon_at(zero, waits).await {
                            result.unwrap();
                        }
                    }
                    _ => {
                        let data = bytes(n + 1, len as usize);
                        let write = device.write(offset, data, WriteFlags::empty());
                        if let Some(result) = abandon_at(write, waits).await {
                            result.unwrap();
                        }
                    }
                }))
                .await;
            }
            assert!(read(&snapshot, 0, LEN).await == old, "seed {seed}");
        });
    }
}

#[test]
fn a_write_given_up_at_any_moment_leaves_the_point_in_time_whole() {
    let sim = SimRuntime::new(1);
    let drops = sim.block_on(drop_at_each_await(
        async || {
            let file = crate::io::testing::YieldDevice::new(disk());
            let device = keep(&sim, Arc::new(file), yielding(LEN));
            let writer = device.clone();
            let write: BoxFuture<'static, _> = Box::pin(async move {
                writer.write(100, bytes(1, 2 * CLUSTER as usize), WriteFlags::empty()).await
            });
            (device, write)
        },
        async |device, _| {
            assert!(read(&device.snapshot_access(), 0, LEN).await == old());
            write(&*device, 0, 2, 5 * CLUSTER as usize).await;
            assert!(read(&device.snapshot_access(), 0, LEN).await == old());
        },
    ));
    assert!(drops > 4, "{drops}");
}

fn full(sim: &SimRuntime, on_cbw_error: OnCbwError) -> (Arc<CopyBeforeWrite>, Arc<FaultDevice>) {
    let target = Arc::new(FaultDevice::new(memory(LEN)));
    target.add(Fault::new(ErrorKind::NoSpace).on(CallFilter::of(CallKinds::WRITE)));
    let options = CopyBeforeWriteOptions { on_cbw_error, ..CopyBeforeWriteOptions::default() };
    (keep_with(sim, disk(), target.clone(), options), target)
}

#[test]
fn a_copy_that_fails_fails_the_write_and_keeps_the_point_in_time() {
    let sim = SimRuntime::new(1);
    let (device, target) = full(&sim, OnCbwError::BreakGuestWrite);
    sim.block_on(async {
        let error = device.write(0, bytes(1, 10), WriteFlags::empty()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(read(&*device, 0, LEN).await == old());
        assert!(read(&device.snapshot_access(), 0, LEN).await == old());
        target.clear();
        write(&*device, 0, 1, 10).await;
        assert!(read(&device.snapshot_access(), 0, LEN).await == old());
    });
    assert_eq!(device.snapshot_error(), None);
}

#[test]
fn a_copy_that_fails_loses_the_point_in_time_if_guests_come_first() {
    let sim = SimRuntime::new(1);
    let (device, target) = full(&sim, OnCbwError::BreakSnapshot);
    let snapshot = device.snapshot_access();
    sim.block_on(async {
        write(&*device, 0, 1, 10).await;
        assert_eq!(read(&*device, 0, 10).await, [1; 10]);
        assert_eq!(snapshot.read(5 * CLUSTER, 1).await.unwrap_err().kind(), ErrorKind::Io);
        assert!(snapshot.extents(5 * CLUSTER, 1).await.is_err());
        let failed = target.failed();
        write(&*device, CLUSTER, 1, 10).await;
        assert_eq!(target.failed(), failed, "nothing is copied any more");
    });
    assert!(device.snapshot_error().is_some());
}

#[test]
fn a_copy_that_takes_too_long_has_failed() {
    for on_cbw_error in [OnCbwError::BreakGuestWrite, OnCbwError::BreakSnapshot] {
        let sim = SimRuntime::new(1);
        let slow = NullOptions { size: 1 << 20, latency_ns: 5_000_000_000, read_zeroes: false };
        let target = Arc::new(Null::new(NullDriver::Co, &slow, sim.handle()).unwrap());
        let options = CopyBeforeWriteOptions { on_cbw_error, cbw_timeout: 2, ..Default::default() };
        let device = keep_with(&sim, disk(), target, options);
        let result = sim.block_on(device.write(0, bytes(1, 10), WriteFlags::empty()));
        assert_eq!(sim.elapsed(), Duration::from_secs(2));
        let guest_first = on_cbw_error == OnCbwError::BreakSnapshot;
        assert_eq!(result.is_ok(), guest_first);
        assert_eq!(device.snapshot_error().is_some(), guest_first);
    }
}

/// As the reference: a bitmap of 4 KiB granules makes whole clusters accessible.
#[test]
fn only_what_the_bitmap_says_belongs_to_the_point_in_time() {
    let sim = SimRuntime::new(1);
    let bitmap = Arc::new(DirtyBitmap::new("b", LEN, 4096).unwrap());
    bitmap.set(130 << 10, 4096);
    let target = Arc::new(CountDevice::new(memory(LEN)));
    let options = CopyBeforeWriteOptions { bitmap: Some(bitmap.clone()), ..Default::default() };
    let device = keep_with(&sim, disk(), target.clone(), options);
    let snapshot = device.snapshot_access();
    bitmap.set(0, LEN);
    sim.block_on(async {
        for round in 0..2 {
            for (offset, len) in [(0, 4096), (128 << 10, 65 << 10), (127 << 10, 2 << 10)] {
                let error = snapshot.read(offset, len).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Denied);
            }
            let found = read(&snapshot, 128 << 10, 64 << 10).await;
            assert!(found == old()[128 << 10..192 << 10]);
            assert!(snapshot.extents(0, LEN).await.is_err());
            let extents = snapshot.extents(140 << 10, 100 << 10).await.unwrap();
            assert_eq!(extents[0].end(), 192 << 10);
            assert_eq!(extents[0].flags, ExtentFlags::DATA | ExtentFlags::ALLOCATED);
            if round == 0 {
                write(&*device, 0, 1, LEN as usize).await;
            }
        }
        target.assert_trace(CallKinds::WRITE, &["write 0x20000+0x10000"]);
    });
}

#[test]
fn what_is_discarded_is_neither_kept_nor_read_any_more() {
    let sim = SimRuntime::new(1);
    let target = Arc::new(CountDevice::new(memory(LEN)));
    let device = keep(&sim, disk(), target.clone());
    let snapshot = device.snapshot_access();
    sim.block_on(async {
        write(&*device, 0, 1, 10).await;
        snapshot.discard(0, CLUSTER).await.unwrap();
        // Parts of clusters stay.
        snapshot.discard(CLUSTER + 1, 2 * CLUSTER).await.unwrap();
        snapshot.discard(7 * CLUSTER + 5, CLUSTER + 995).await.unwrap();
        write(&*device, 2 * CLUSTER, 1, 10).await;
        target.assert_trace(
            CallKinds::WRITE | CallKinds::DISCARD,
            &[
                "write 0x0+0x10000",
                "discard 0x0+0x10000",
                "discard 0x20000+0x10000",
                "discard 0x80000+0x3e8",
            ],
        );
        for (offset, there) in [(0, false), (1, true), (2, false), (3, true), (7, true), (8, false)]
        {
            assert_eq!(snapshot.read(offset * CLUSTER, 1).await.is_ok(), there, "{offset}");
        }
        snapshot.discard(LEN, 1).await.unwrap_err();
    });
}

#[test]
fn the_point_in_time_itself_takes_no_changes() {
    let sim = SimRuntime::new(1);
    let device = keep(&sim, disk(), memory(LEN));
    let snapshot = device.snapshot_access();
    assert!(!snapshot.capabilities().contains(Capabilities::WRITE));
    sim.block_on(async {
        let write = snapshot.write(0, bytes(1, 1), WriteFlags::empty()).await;
        let zeroes = snapshot.write_zeroes(0, 1, ZeroFlags::empty()).await;
        let len = snapshot.set_len(0, Preallocation::Off).await;
        for result in [write, zeroes, len] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Denied);
        }
        let past = snapshot.read(LEN, 1).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::InvalidInput);
        let longer = device.set_len(2 * LEN, Preallocation::Off).await.unwrap_err();
        assert_eq!(longer.kind(), ErrorKind::Unsupported);
        let past = device.write(LEN, bytes(1, 1), WriteFlags::empty()).await.unwrap_err();
        assert_eq!(past.kind(), ErrorKind::InvalidInput);
        assert_eq!(snapshot.info().await.unwrap().driver, "snapshot-access");
    });
}

#[test]
fn zeroes_are_copied_as_zeroes_and_clusters_are_as_large_as_wanted() {
    let sim = SimRuntime::new(1);
    let target = Arc::new(CountDevice::new(memory(4 << 20)));
    let options =
        CopyBeforeWriteOptions { min_cluster_size: 2 << 20, ..CopyBeforeWriteOptions::default() };
    let device = keep_with(&sim, memory(4 << 20), target.clone(), options);
    sim.block_on(write(&*device, (2 << 20) - 1, 1, 2));
    target.assert_trace(
        CallKinds::all(),
        &[
            "write_zeroes 0x0+0x100000",
            "write_zeroes 0x100000+0x100000",
            "write_zeroes 0x200000+0x100000",
            "write_zeroes 0x300000+0x100000",
        ],
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let sim = SimRuntime::new(1);
    let bitmap = Arc::new(DirtyBitmap::new("t", 2 << 20, 4096).unwrap());
    let size = |min_cluster_size| CopyBeforeWriteOptions { min_cluster_size, ..Default::default() };
    for (options, want) in [
        (size(3), "Cannot create block-copy-state: min-cluster-size needs to be a power of 2"),
        (
            size(1 << 63),
            "Cannot create block-copy-state: min-cluster-size too large: 9223372036854775808 > \
             2147483648",
        ),
        (
            CopyBeforeWriteOptions { bitmap: Some(bitmap), ..Default::default() },
            "Cannot create block-copy-state: Failed to merge bitmap 't' to internal copy-bitmap: \
             Bitmaps are of different sizes (destination size is 1048576, source size is 2097152) \
             and can't be merged",
        ),
    ] {
        let made = CopyBeforeWrite::new(memory(1 << 20), memory(1 << 20), &options, sim.handle());
        let error = made.unwrap_err();
        assert_eq!((error.kind(), error.what()), (ErrorKind::InvalidInput, want));
    }
    let small = CopyBeforeWrite::new(memory(0), memory(0), &size(4096), sim.handle()).unwrap();
    assert_eq!(small.cluster_size(), CLUSTER);
    assert!(small.snapshot_access().read(0, 0).now_or_never().unwrap().unwrap().is_empty());
}
