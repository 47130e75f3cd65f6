//! The suite passes over devices that obey, and finds each device that does not.

use super::super::broken::{BrokenDevice, Bug};
use super::super::{
    CallFilter, CallKinds, CountDevice, CrashDevice, DelayDevice, FaultDevice, HoldDevice,
    SimRuntime, YieldDevice,
};
use super::*;
use crate::Result;
use crate::io::{Capabilities, Device, Limits, MemoryDevice};
use core::future::ready;

/// A subject from a closure that makes devices at once.
fn subject<F>(make: F) -> impl Fn() -> BoxFuture<'static, Result<Device>> + Send + Sync
where
    F: Fn() -> Device + Send + Sync,
{
    move || Box::pin(ready(Ok(make())))
}

/// Runs the whole suite; the cases skipped must be exactly these.
#[track_caller]
fn obeys(sim: &SimRuntime, make: impl Fn() -> Device + Send + Sync, skipped: &[&str]) {
    obeys_with(sim, make, skipped, ContractOptions { rounds: 3, ..ContractOptions::default() });
}

#[track_caller]
fn obeys_with(
    sim: &SimRuntime,
    make: impl Fn() -> Device + Send + Sync,
    skipped: &[&str],
    options: ContractOptions,
) {
    let report = sim.block_on(run(&subject(make), sim, &options));
    report.assert_ok();
    assert_eq!(report.outcomes.len(), cases().len());
    let found: Vec<&str> = report.skipped().map(|(name, _)| name).collect();
    assert_eq!(found, skipped, "{report}");
}

const ALIGNED: Limits =
    Limits { request_alignment: 512, granularity: 4096, max_transfer: 40 << 10 };

/// The memory device takes requests of any length, though it names a longest one.
const MEMORY: (&str, &str) = ("limits", "memory does not refuse overlong requests yet");

fn memory_options() -> ContractOptions {
    ContractOptions { rounds: 3, skip: alloc::vec![MEMORY], ..ContractOptions::default() }
}

#[test]
fn case_names_are_distinct() {
    let mut names: Vec<_> = cases().iter().map(Case::name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases().len());
    assert!(cases().iter().all(|case| !case.about().is_empty()));
}

#[test]
fn memory_obeys() {
    let sim = SimRuntime::new(1);
    let read_only = subject(|| Arc::new(MemoryDevice::with_data(&[1; 5000]).read_only()));
    let options = ContractOptions { read_only: Some(Arc::new(read_only)), ..memory_options() };
    let make = || Arc::new(MemoryDevice::new(0)) as Device;
    obeys_with(&sim, make, &["limits", "compressed", "dropped_writes"], options);
}

#[test]
fn middleware_obeys_over_memory() {
    type Wrap = fn(Device, &SimRuntime) -> Device;
    let waiting: [Wrap; 5] = [
        |inner, _| Arc::new(YieldDevice::new(inner)),
        |inner, sim| Arc::new(DelayDevice::new(inner, sim.handle(), Duration::from_micros(300), 9)),
        |inner, _| Arc::new(CountDevice::new(Arc::new(YieldDevice::new(inner)))),
        |inner, _| Arc::new(YieldDevice::new(Arc::new(FaultDevice::new(inner)))),
        |inner, sim| Arc::new(YieldDevice::new(Arc::new(HoldDevice::new(inner, sim.handle())))),
    ];
    for wrap in waiting {
        let sim = SimRuntime::new(2);
        let runtime = sim.clone();
        let make = move || wrap(Arc::new(MemoryDevice::new(0)), &runtime);
        obeys_with(&sim, make, &["limits", "compressed", "read_only"], memory_options());
    }
}

#[test]
fn a_disk_that_can_crash_obeys() {
    let sim = SimRuntime::new(3);
    let make = || Arc::new(CrashDevice::new(MemoryDevice::new(0))) as Device;
    let skipped = &["limits", "compressed", "read_only", "dropped_writes"];
    obeys_with(&sim, make, skipped, memory_options());
}

/// Changes that take their time, also when nobody waits for them any more, in an order that the
/// seed decides: the way the kernel treats an abandoned request.
#[test]
fn a_device_that_finishes_what_was_abandoned_obeys() {
    for seed in 0..4 {
        let sim = SimRuntime::new(seed);
        let runtime = sim.clone();
        let make = move || {
            let inner = Arc::new(YieldDevice::new(Arc::new(MemoryDevice::new(0))));
            let device = Arc::new(HoldDevice::new(inner, runtime.handle()));
            device.hold(CallFilter::of(CallKinds::CHANGES));
            let (releasing, runtime) = (Arc::downgrade(&device), runtime.clone());
            runtime.clone().spawn(Box::pin(async move {
                loop {
                    let mut random = [0; 2];
                    runtime.random(&mut random);
                    runtime.sleep(Duration::from_micros(u64::from(random[0]) + 1)).await;
                    let Some(device) = releasing.upgrade() else { return };
                    let held = device.held();
                    if !held.is_empty() {
                        device.release(held[usize::from(random[1]) % held.len()].id);
                    }
                }
            }));
            device as Device
        };
        let options = ContractOptions { rounds: 1, ops: 60, ..memory_options() };
        obeys_with(&sim, make, &["limits", "compressed", "read_only"], options);
    }
}

#[test]
fn devices_of_every_shape_obey() {
    let sim = SimRuntime::new(4);
    let new = || BrokenDevice::new(Bug::None, &sim);
    let disk = |len| Arc::new(MemoryDevice::new(len)) as Device;
    let over = |len| BrokenDevice::over(disk(len), Bug::None, &sim);
    obeys(&sim, || Arc::new(new()), &["compressed", "read_only"]);
    obeys(&sim, || Arc::new(new().with_limits(ALIGNED)), &["compressed", "read_only"]);
    let coarse = Limits { request_alignment: 4096, granularity: 1 << 16, ..ALIGNED };
    obeys(&sim, || Arc::new(new().with_limits(coarse)), &["compressed", "read_only"]);
    let compressing = || new().with_capabilities(Capabilities::COMPRESSED);
    obeys(&sim, || Arc::new(compressing()), &["read_only"]);
    // Lengths that are no multiple of anything, and a disk longer than the window.
    for len in [70_001, 20_000, 1 << 40] {
        let report = sim.block_on(run(
            &subject(|| Arc::new(over(len).fixed())),
            &sim,
            &ContractOptions { rounds: 3, ..ContractOptions::default() },
        ));
        report.assert_ok();
        let skipped: Vec<&str> = report.skipped().map(|(name, _)| name).collect();
        assert!(skipped.contains(&"growing_writes"), "{report}");
        // Only the length of a disk that the suite has as a whole is changed.
        assert_eq!(skipped.contains(&"set_len"), len > 20_000, "{report}");
    }
    let read_only = Arc::new(subject({
        let sim = sim.clone();
        move || {
            let disk = Arc::new(MemoryDevice::new(9999).read_only());
            Arc::new(BrokenDevice::over(disk, Bug::None, &sim).read_only()) as Device
        }
    }));
    let report = sim.block_on(run(&*read_only, &sim, &ContractOptions::default()));
    report.assert_ok();
    let passed = report.outcomes.iter().filter(|(_, o)| *o == Outcome::Passed);
    assert_eq!(passed.map(|(name, _)| *name).collect::<Vec<_>>(), ["read_only", "info"]);
}

/// How the device has to be made for the bug to be one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Plain,
    Aligned,
    Fixed,
    Compressing,
    ReadOnly,
}

#[test]
fn every_broken_device_is_found_by_the_case_that_is_for_it() {
    use Shape::{Aligned, Compressing, Fixed, Plain, ReadOnly};
    let table = [
        (Bug::LostZeroTail, Plain, "segments"),
        (Bug::LostSegments, Plain, "segments"),
        (Bug::LostLastByte, Plain, "read_after_write"),
        (Bug::CutGrowth, Plain, "growing_writes"),
        (Bug::LostForced, Plain, "read_after_write"),
        (Bug::LostCompressed, Compressing, "compressed"),
        (Bug::ShortRead, Plain, "read_after_write"),
        (Bug::PaddedRead, Plain, "past_the_end"),
        (Bug::WrongKind, Plain, "past_the_end"),
        (Bug::Wraps, Plain, "overflow"),
        (Bug::Panics, Plain, "overflow"),
        (Bug::GrowsUnasked, Fixed, "past_the_end"),
        (Bug::LenLags, Plain, "growing_writes"),
        (Bug::TakesUnaligned, Aligned, "limits"),
        (Bug::TakesOverlong, Aligned, "limits"),
        (Bug::ZeroesTooMuch, Plain, "write_zeroes"),
        (Bug::ZeroesTooLittle, Plain, "write_zeroes"),
        (Bug::ZeroesTooMuch, Aligned, "write_zeroes"),
        (Bug::UnmapKeeps, Plain, "write_zeroes"),
        (Bug::NoFallbackHalf, Plain, "write_zeroes"),
        (Bug::DiscardsTooMuch, Plain, "discard"),
        (Bug::DiscardsTooMuch, Aligned, "discard"),
        (Bug::DiscardsToJunk, Plain, "discard"),
        (Bug::DiscardsAnywhere, Plain, "past_the_end"),
        (Bug::StaleTail, Plain, "set_len"),
        (Bug::StaleTail, Plain, "zero_init"),
        (Bug::JunkGap, Plain, "growing_writes"),
        (Bug::JunkGap, Plain, "zero_init"),
        (Bug::JunkPreallocation, Plain, "set_len"),
        (Bug::LostSetLen, Plain, "set_len"),
        (Bug::ExtentsGap, Plain, "extents"),
        (Bug::ExtentsOverrun, Plain, "extents"),
        (Bug::ExtentsNone, Plain, "extents"),
        (Bug::ExtentsEmpty, Plain, "extents"),
        (Bug::ExtentsRounded, Plain, "extents"),
        (Bug::ExtentsSplit, Plain, "extents"),
        (Bug::ExtentsLie, Plain, "extents"),
        (Bug::ExtentsPadded, Plain, "past_the_end"),
        (Bug::WritableAfterAll, ReadOnly, "read_only"),
        (Bug::WrongRefusal, ReadOnly, "read_only"),
        (Bug::FlushFailsLater, Plain, "flush"),
        (Bug::FlushHangs, Plain, "flush"),
        (Bug::Nameless, Plain, "info"),
        (Bug::LosesNeighbours, Plain, "concurrent"),
        (Bug::SharedBuffer, Plain, "overlapping"),
        (Bug::LandsLate, Plain, "dropped_writes"),
        (Bug::ZeroesLandLate, Plain, "dropped_writes"),
        (Bug::FlushOvertakes, Plain, "dropped_writes"),
        (Bug::LetsGoEarly, Plain, "holds"),
        (Bug::NeverLetsGo, Plain, "holds"),
        // What the random operations find by themselves.
        (Bug::LostZeroTail, Plain, "random"),
        (Bug::LostForced, Plain, "random"),
        (Bug::ZeroesTooMuch, Plain, "random"),
        (Bug::ZeroesTooLittle, Plain, "random"),
        (Bug::DiscardsTooMuch, Plain, "random"),
        (Bug::StaleTail, Plain, "random"),
        (Bug::JunkGap, Plain, "random"),
        (Bug::LosesNeighbours, Plain, "random"),
        (Bug::ExtentsLie, Plain, "random"),
    ];
    for (bug, shape, name) in table {
        let sim = SimRuntime::new(5);
        let make = |bug| {
            let sim = sim.clone();
            subject(move || {
                let len = if shape == Fixed { 100_000 } else { 0 };
                let device = BrokenDevice::over(Arc::new(MemoryDevice::new(len)), bug, &sim);
                Arc::new(match shape {
                    Plain => device,
                    Aligned => device.with_limits(ALIGNED),
                    Fixed => device.fixed(),
                    Compressing => device.with_capabilities(Capabilities::COMPRESSED),
                    ReadOnly => device.read_only(),
                })
            })
        };
        let case = cases().iter().find(|case| case.name() == name).expect("a case of this name");
        let options = ContractOptions { rounds: 4, ..ContractOptions::default() };
        let outcome = sim.block_on(case.run(&make(bug), &sim, &options));
        assert!(matches!(outcome, Outcome::Failed(_)), "{bug:?} ({shape:?}): {name}: {outcome:?}");
        // The same device without the bug passes this very case.
        let outcome = sim.block_on(case.run(&make(Bug::None), &sim, &options));
        assert_eq!(outcome, Outcome::Passed, "{shape:?}: {name}");
    }
}

#[test]
fn a_hang_is_a_failure_with_its_time() {
    let sim = SimRuntime::new(6);
    let device = sim.clone();
    let make = subject(move || Arc::new(BrokenDevice::new(Bug::FlushHangs, &device)));
    let report = sim.block_on(run(&make, &sim, &ContractOptions::default()));
    let (_, what) = report.failures().find(|(name, _)| *name == "flush").expect("it hangs");
    assert_eq!(what, "no end after 120s: a call never completes");
}

#[test]
fn a_device_that_cannot_be_made_or_is_too_small_fails() {
    let sim = SimRuntime::new(7);
    let none = || -> BoxFuture<'static, Result<Device>> {
        Box::pin(ready(Err(crate::Error::io("no such disk"))))
    };
    let report = sim.block_on(run(&none, &sim, &ContractOptions::default()));
    assert_eq!(report.failures().count(), cases().len(), "{report}");
    let device = sim.clone();
    let small = subject(move || {
        let disk = Arc::new(MemoryDevice::new(1000));
        Arc::new(BrokenDevice::over(disk, Bug::None, &device).fixed())
    });
    let report = sim.block_on(run(&small, &sim, &ContractOptions::default()));
    let wanted = report.failures().filter(|(_, what)| what.contains("at least 0x4000 bytes"));
    assert!(wanted.count() > 10, "{report}");
}

#[test]
#[should_panic(expected = "FAILED   info: the driver has no name")]
fn a_report_panics_with_every_failure() {
    let sim = SimRuntime::new(8);
    let device = sim.clone();
    let make = subject(move || Arc::new(BrokenDevice::new(Bug::Nameless, &device)));
    sim.block_on(run(&make, &sim, &ContractOptions { rounds: 1, ..ContractOptions::default() }))
        .assert_ok();
}
