//! Limits held to, in virtual time.

use super::super::testing::{bytes, memory, obeys, yielding};
use super::*;
use crate::ErrorKind;
use crate::io::testing::{SimRuntime, abandon_at};
use crate::io::{MemoryDevice, Preallocation, Runtime};
use alloc::vec::Vec;
use core::time::Duration;
use futures_util::FutureExt;
use futures_util::future::join_all;

fn group(sim: &SimRuntime, limits: ThrottleLimits) -> Arc<ThrottleGroup> {
    ThrottleGroup::new(&limits, sim.handle()).unwrap()
}

fn none() -> ThrottleLimits {
    ThrottleLimits::default()
}

fn device(group: &Arc<ThrottleGroup>) -> Arc<Throttle> {
    Arc::new(Throttle::new(memory(64 << 20), group.clone()))
}

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    let slow = || group(&sim, ThrottleLimits { iops_total: Some(1000), ..none() });
    let make = || Arc::new(Throttle::new(yielding(0), slow())) as Device;
    obeys(&sim, make, &["limits", "compressed", "read_only"]);
}

/// So many of a request one after another, and how many milliseconds they take.
fn time(limits: ThrottleLimits, count: usize, request: impl AsyncFn(&Throttle)) -> u128 {
    let sim = SimRuntime::new(1);
    let device = device(&group(&sim, limits));
    sim.block_on(async {
        for _ in 0..count {
            request(&device).await;
        }
    });
    sim.elapsed().as_millis()
}

async fn read(device: &Throttle, len: u64) {
    device.read(0, len).await.unwrap();
}

/// Each of these was measured with the reference (`qemu-io`, `driver=throttle` over `null-co`).
#[test]
fn sequences_take_the_time_that_they_take_with_the_reference() {
    let iops = |n| ThrottleLimits { iops_total: Some(n), ..none() };
    let burst = |max, length| ThrottleLimits {
        iops_total_max: Some(max),
        iops_total_max_length: length,
        ..iops(100)
    };
    let small = async |device: &Throttle| read(device, 512).await;
    for (count, ms) in [(11, 0), (12, 10), (20, 90), (50, 390), (100, 890)] {
        assert_eq!(time(iops(100), count, small), ms, "{count} reads");
    }
    for (count, ms) in [(201, 0), (202, 10), (210, 90), (300, 990)] {
        assert_eq!(time(burst(200, None), count, small), ms, "{count} reads, burst of 1 s");
    }
    for (count, ms) in [(21, 0), (22, 5), (30, 45), (100, 395), (300, 1395)] {
        assert_eq!(time(burst(200, Some(2)), count, small), ms, "{count} reads, burst of 2 s");
    }
    let bps = ThrottleLimits { bps_total: Some(1 << 20), ..none() };
    let large = async |device: &Throttle| read(device, 64 << 10).await;
    for (count, ms) in [(2, 0), (3, 25), (4, 87), (16, 837)] {
        assert_eq!(time(bps, count, large), ms, "{count} reads of 64 KiB");
    }
    let sized = ThrottleLimits { iops_size: Some(4096), ..iops(100) };
    for (count, ms) in [(7, 0), (8, 5), (20, 185)] {
        let one_and_a_half = async |device: &Throttle| read(device, 6144).await;
        assert_eq!(time(sized, count, one_and_a_half), ms, "{count} reads of 6 KiB");
    }
    // What passes, and what counts as a write.
    let flush = async |device: &Throttle| device.flush().await.unwrap();
    assert_eq!(time(iops(10), 30, flush), 0);
    let discard = async |device: &Throttle| device.discard(0, 1 << 20).await.unwrap();
    assert_eq!(time(iops(10), 30, discard), 2800);
    assert_eq!(time(bps, 5, discard), 3900);
    let zero = async |device: &Throttle| {
        device.write_zeroes(0, 1 << 20, ZeroFlags::empty()).await.unwrap();
    };
    assert_eq!(time(bps, 5, zero), 3900);
    let reads = ThrottleLimits { bps_read: Some(1 << 20), ..none() };
    assert_eq!(time(reads, 10, zero), 0);
    let writes = ThrottleLimits { iops_write: Some(10), ..none() };
    assert_eq!(time(writes, 10, zero), 800);
    assert_eq!(time(writes, 30, small), 0);
}

#[test]
fn what_is_refused_takes_nothing_from_the_limits() {
    let limits = ThrottleLimits { bps_total: Some(1), ..none() };
    let bad = async |device: &Throttle| {
        device.read(0, u64::MAX).await.unwrap_err();
        device.discard(1, u64::MAX - 1).await.unwrap_err();
        device.write(u64::MAX, bytes(1, 1), WriteFlags::empty()).await.unwrap_err();
        device.write_zeroes(u64::MAX, 1, ZeroFlags::empty()).await.unwrap_err();
        device.set_len(64 << 20, Preallocation::Off).await.unwrap();
        device.read(0, 0).await.unwrap();
    };
    assert_eq!(time(limits, 100, bad), 0);
}

/// Members of one group with so many requests in flight each, for ten seconds: how many requests
/// of each were done.
fn crowd(sim: &SimRuntime, group: &Arc<ThrottleGroup>, depths: &[usize]) -> Vec<usize> {
    let devices: Vec<_> = depths.iter().map(|_| device(group)).collect();
    let end = sim.elapsed() + Duration::from_secs(10);
    let work = devices.iter().zip(depths).map(|(device, depth)| {
        let workers = (0..*depth).map(async |worker| {
            let mut done = 0;
            while sim.elapsed() < end {
                match worker % 2 {
                    0 => read(device, 4096).await,
                    _ => device.write(0, bytes(1, 4096), WriteFlags::empty()).await.unwrap(),
                }
                done += 1;
            }
            done
        });
        async { join_all(workers).await.into_iter().sum::<usize>() }
    });
    sim.block_on(join_all(work))
}

#[test]
fn a_group_holds_its_limit_and_shares_it_evenly() {
    for seed in 0..5 {
        let sim = SimRuntime::new(seed);
        let group = group(&sim, ThrottleLimits { iops_total: Some(1000), ..none() });
        let done = crowd(&sim, &group, &[2, 4, 32, 3]);
        let all: usize = done.iter().sum();
        // Ten seconds, the slack of a tenth, and those in flight at the end.
        assert!((10_000..=10_200).contains(&all), "{all}");
        for count in &done {
            assert!(count.abs_diff(all / 4) <= all / 100, "{done:?}");
        }
        assert_eq!(group.waiting(), 0);
        assert_eq!(group.members(), 0, "members leave with their devices");
    }
}

#[test]
fn reads_and_writes_share_a_total_and_do_not_wait_for_each_other_otherwise() {
    let sim = SimRuntime::new(1);
    let total = group(&sim, ThrottleLimits { bps_total: Some(4096 * 500), ..none() });
    let shared = device(&total);
    let end = Duration::from_secs(4);
    let reads = async {
        let mut done = 0;
        while sim.elapsed() < end {
            join_all((0..16).map(|_| read(&shared, 4096))).await;
            done += 16;
        }
        done
    };
    let writes = async {
        let mut done = 0;
        while sim.elapsed() < end {
            shared.write(0, bytes(1, 4096), WriteFlags::empty()).await.unwrap();
            done += 1;
        }
        done
    };
    let (reads, writes) = sim.block_on(futures_util::future::join(reads, writes));
    assert!((2000..=2080).contains(&(reads + writes)), "{reads} {writes}");
    assert!(writes > 900, "a stream of reads leaves room for writes: {reads} {writes}");

    // Writes that wait for a limit of their own keep no read.
    let own = device(&group(&sim, ThrottleLimits { iops_write: Some(1), ..none() }));
    let start = sim.elapsed();
    for _ in 0..3 {
        let own = own.clone();
        sim.spawn(Box::pin(async move {
            own.write(0, bytes(1, 1), WriteFlags::empty()).await.unwrap();
        }));
    }
    sim.block_on(async {
        sim.sleep(Duration::from_millis(100)).await;
        for _ in 0..100 {
            read(&own, 512).await;
        }
    });
    assert_eq!(sim.elapsed() - start, Duration::from_millis(100));
    assert!(own.group().waiting() > 0);
}

#[test]
fn limits_change_while_requests_wait() {
    let sim = SimRuntime::new(1);
    let limits = group(&sim, ThrottleLimits { iops_total: Some(1), ..none() });
    let device = device(&limits);
    sim.block_on(async {
        read(&device, 1).await;
        read(&device, 1).await;
        assert!(read(&device, 1).now_or_never().is_none());
    });
    for _ in 0..50 {
        let device = device.clone();
        sim.spawn(Box::pin(async move { read(&device, 1).await }));
    }
    sim.block_on(sim.sleep(Duration::from_millis(10)));
    assert!(limits.waiting() >= 49);
    limits.set_limits(&ThrottleLimits { iops_total: Some(-1), ..none() }).unwrap_err();
    assert_eq!(limits.limits().iops_total, Some(1));
    limits.set_limits(&ThrottleLimits { iops_total: Some(0), ..none() }).unwrap();
    sim.run_until_idle();
    assert_eq!((limits.waiting(), sim.unfinished()), (0, 0));
}

#[test]
fn requests_go_while_somebody_drains_and_count_all_the_same() {
    let sim = SimRuntime::new(1);
    let limits = group(&sim, ThrottleLimits { iops_total: Some(10), ..none() });
    let (one, other) = (device(&limits), device(&limits));
    for device in [&one, &other] {
        for _ in 0..20 {
            let device = device.clone();
            sim.spawn(Box::pin(async move { read(&device, 1).await }));
        }
    }
    sim.block_on(async {
        sim.sleep(Duration::from_millis(1)).await;
        assert!(limits.waiting() > 30);
        one.release(true);
        sim.sleep(Duration::from_millis(1)).await;
        assert!((1..=20).contains(&limits.waiting()), "only one of them is drained");
        read(&one, 1).await;
        one.release(false);
        // 41 in all, of which two tenths of a second did not have to wait.
        let start = sim.elapsed();
        read(&one, 1).await;
        assert!(sim.elapsed() - start > Duration::from_millis(1900));
    });
    sim.run_until_idle();
    assert_eq!(limits.waiting(), 0);
}

#[test]
fn whoever_gives_up_waiting_leaves_no_trace() {
    let sim = SimRuntime::new(3);
    let limits = group(&sim, ThrottleLimits { iops_total: Some(100), ..none() });
    let devices: Vec<_> = (0..3).map(|_| device(&limits)).collect();
    sim.block_on(async {
        for _ in 0..11 {
            read(&devices[0], 1).await;
        }
        // Half of them are dropped while they wait, the first ones in turn among them.
        let requests = (0..40).map(|n| {
            let device = &devices[n % 3];
            async move {
                match n % 4 {
                    0 | 1 => drop(abandon_at(device.read(0, 1), 1 + n % 3).await),
                    _ => read(device, 1).await,
                }
            }
        });
        join_all(requests).await;
    });
    assert_eq!(limits.waiting(), 0);
    let ms = sim.elapsed().as_millis();
    assert!((200..=400).contains(&ms), "20 that went, and few that were dropped late: {ms}");
}

#[test]
fn a_device_moves_to_another_group() {
    let sim = SimRuntime::new(1);
    let (slow, fast) = (group(&sim, ThrottleLimits { iops_total: Some(1), ..none() }), none());
    let fast = group(&sim, fast);
    let device = Throttle::new(Arc::new(MemoryDevice::new(10)), slow.clone());
    assert_eq!((slow.members(), fast.members()), (1, 0));
    device.set_group(fast.clone());
    assert_eq!((slow.members(), fast.members()), (0, 1));
    sim.block_on(async {
        for _ in 0..100 {
            read(&device, 1).await;
        }
    });
    assert_eq!(sim.elapsed(), Duration::ZERO);
}

/// All texts, and which comes first, are those of the reference (`object-add throttle-group`).
#[test]
fn limits_that_make_no_sense_are_refused() {
    const BOTH: &str =
        "bps/iops/max total values and read/write values cannot be used at the same time";
    const RANGE: &str = "bps/iops/max values must be within [0, 1000000000000000]";
    const NO_RATE: &str = "bps_max/iops_max require corresponding bps/iops values";
    const LOWER: &str = "bps_max/iops_max cannot be lower than bps/iops";
    const LONG: &str = "burst length too high for this burst rate";
    const NO_BURST: &str = "burst length set without burst rate";
    const NO_LENGTH: &str = "the burst length cannot be 0";
    const SIZE: &str = "iops size requires an iops value to be set";
    let set = |set: fn(&mut ThrottleLimits)| {
        let mut limits = ThrottleLimits { iops_total: Some(10), ..none() };
        set(&mut limits);
        limits
    };
    let sim = SimRuntime::new(1);
    for (change, want) in [
        (set(|l| l.iops_read = Some(5)), BOTH),
        (set(|l| (l.bps_total, l.bps_write) = (Some(5), Some(5))), BOTH),
        (set(|l| (l.iops_total, l.iops_read) = (Some(-1), Some(5))), BOTH),
        (set(|l| (l.iops_total_max, l.iops_read_max) = (Some(15), Some(5))), BOTH),
        (set(|l| (l.bps_total, l.bps_write_max) = (Some(100), Some(5))), NO_RATE),
        (set(|l| (l.iops_total, l.iops_total_max) = (None, Some(5))), NO_RATE),
        (set(|l| l.iops_total_max = Some(5)), LOWER),
        (set(|l| l.iops_total = Some(-1)), RANGE),
        (set(|l| l.iops_total = Some(1_000_000_000_000_001)), RANGE),
        (set(|l| l.iops_total_max = Some(-1)), RANGE),
        (set(|l| l.iops_total_max_length = Some(5)), NO_BURST),
        (set(|l| l.iops_total_max_length = Some(0)), NO_LENGTH),
        (
            set(|l| {
                (l.iops_total_max, l.iops_total_max_length) = (Some(500_000_000_000_001), Some(2));
            }),
            LONG,
        ),
        (set(|l| (l.iops_total_max, l.iops_total_max_length) = (Some(200), Some(-1))), LONG),
        (
            set(|l| {
                (l.iops_total_max, l.iops_total_max_length) = (Some(200), Some(4_294_967_296));
            }),
            "iops-total-max-length value must be in the range [0, 4294967295]",
        ),
        (set(|l| (l.iops_total, l.iops_size) = (None, Some(4096))), SIZE),
        (set(|l| (l.iops_total, l.iops_size, l.bps_total) = (None, Some(-1), Some(-1))), SIZE),
        (set(|l| (l.iops_read, l.iops_total) = (Some(-1), None)), RANGE),
        (set(|l| (l.iops_total, l.bps_write_max_length) = (Some(-1), Some(0))), NO_LENGTH),
    ] {
        let error = ThrottleGroup::new(&change, sim.handle()).unwrap_err();
        assert_eq!((error.kind(), error.what()), (ErrorKind::InvalidInput, want), "{change:?}");
    }
    for change in [
        set(|l| l.iops_total_max = Some(10)),
        set(|l| l.iops_total = Some(1_000_000_000_000_000)),
        set(|l| l.iops_total_max_length = Some(1)),
        set(|l| (l.bps_total, l.iops_read) = (Some(5), Some(0))),
        set(|l| l.iops_size = Some(-1)),
        set(|l| (l.iops_total_max, l.iops_total_max_length) = (Some(500_000_000_000_000), Some(2))),
    ] {
        ThrottleGroup::new(&change, sim.handle()).unwrap();
    }
}

#[test]
fn absent_limits_stay_and_all_are_told() {
    let sim = SimRuntime::new(1);
    let given = ThrottleLimits { iops_total: Some(9), bps_read: Some(50), ..none() };
    let limits = group(&sim, given);
    let burst =
        ThrottleLimits { iops_total_max: Some(20), iops_total_max_length: Some(7), ..none() };
    limits.set_limits(&burst).unwrap();
    let all = limits.limits();
    assert_eq!((all.iops_total, all.iops_total_max), (Some(9), Some(20)));
    assert_eq!((all.iops_total_max_length, all.bps_read), (Some(7), Some(50)));
    assert_eq!((all.bps_write, all.bps_write_max_length), (Some(0), Some(1)));
    let without = ThrottleLimits { iops_total_max: Some(0), ..none() };
    let error = limits.set_limits(&without).unwrap_err();
    assert_eq!(error.what(), "burst length set without burst rate");
}
