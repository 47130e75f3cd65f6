//! The model agrees with devices that obey, and finds and shrinks the mistakes of others.

use super::super::broken::{BrokenDevice, Bug};
use super::super::{
    CallFilter, CrashDevice, DelayDevice, Effect, Fault, FaultDevice, SimRuntime, YieldDevice,
};
use super::*;
use crate::io::{Limits, MemoryDevice, Segments};
use crate::sync::Mutex;
use crate::{Error, ErrorKind};
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

fn subject<F>(make: F) -> impl Fn() -> BoxFuture<'static, Result<Device>> + Send + Sync
where
    F: Fn() -> Device + Send + Sync,
{
    move || Box::pin(ready(Ok(make())))
}

fn options(seed: u64) -> ModelOptions {
    ModelOptions {
        seed,
        window: 256 << 10,
        max_len: Some(128 << 10),
        longest: 32 << 10,
        ..ModelOptions::default()
    }
}

#[test]
fn devices_that_obey_agree() {
    for seed in 0..30 {
        let sim = SimRuntime::new(seed);
        let plain = subject(|| Arc::new(MemoryDevice::with_data(&[1; 60_001])));
        sim.block_on(check(&plain, &options(seed))).expect("memory agrees");
        let runtime = sim.handle();
        let slow = subject(move || {
            let inner = Arc::new(YieldDevice::new(Arc::new(MemoryDevice::new(0))));
            Arc::new(DelayDevice::new(inner, runtime.clone(), Duration::from_millis(1), seed))
        });
        sim.block_on(check(&slow, &options(seed))).expect("delays change nothing");
    }
}

#[test]
fn operations_are_drawn_as_the_device_wants_them() {
    let sim = SimRuntime::new(1);
    let limits = Limits { request_alignment: 512, granularity: 4096, max_transfer: 8192 };
    let device = BrokenDevice::new(Bug::None, &sim).with_limits(limits).fixed();
    sim.block_on(device.set_len(64 << 10, Default::default())).expect("memory");
    let mut seen = CallKinds::empty();
    for seed in 0..40 {
        let drawn = generate(&device, &ModelOptions { reopen: true, ..options(seed) });
        assert_eq!(drawn.0.len(), 100);
        let flat = drawn.0.into_iter().flat_map(|op| match op {
            Op::Batch(ops) => ops,
            op => alloc::vec![op],
        });
        for op in flat {
            let kind = match &op {
                Op::Read(_) => CallKind::Read,
                Op::Write { .. } => CallKind::Write,
                Op::Zero { .. } => CallKind::WriteZeroes,
                Op::Discard(_) => CallKind::Discard,
                Op::Flush => CallKind::Flush,
                Op::SetLen(_) => CallKind::SetLen,
                Op::Extents(_) => CallKind::Extents,
                Op::Reopen => CallKind::Info,
                Op::Keep(_) | Op::GoBack(_) | Op::Throw(_) => unreachable!("not asked for"),
                Op::Batch(_) => unreachable!("batches do not nest"),
            };
            seen |= kind.into();
            let range = op.range().cloned().unwrap_or_default();
            assert!(range.start <= range.end && range.end - range.start <= 8192, "{op}");
            if matches!(op, Op::Read(_) | Op::Write { .. }) {
                assert!(range.start.is_multiple_of(512) && range.end.is_multiple_of(512), "{op}");
            }
            if let Op::SetLen(len) = op {
                assert!(len <= 128 << 10 && len.is_multiple_of(512), "{op}");
            }
        }
    }
    assert_eq!(seen, CallKinds::all());
    // Nothing to do is not a reason to look for it for ever.
    let none = ModelOptions { kinds: CallKinds::INFO, ..ModelOptions::default() };
    assert!(generate(&device, &none).0.is_empty());
    let only = ModelOptions { kinds: CallKinds::READ, ..ModelOptions::default() };
    assert!(generate(&device, &only).0.len() == 100);
}

#[test]
fn ranges_favour_edges_and_now_and_then_exceed_the_length() {
    let device = MemoryDevice::new(1 << 20);
    let wanted = ModelOptions { edge: Some(1 << 16), ops: 4000, ..ModelOptions::default() };
    let plan = generate(&device, &wanted);
    let ranges: Vec<&Range<u64>> = plan.0.iter().filter_map(Op::range).collect();
    let at_edge = ranges.iter().filter(|r| r.start % (1 << 16) == 0).count();
    assert!(at_edge * 4 > ranges.len(), "{at_edge} of {}", ranges.len());
    let reads = plan.0.iter().filter_map(|op| match op {
        Op::Read(range) => Some(range.end),
        _ => None,
    });
    assert!(reads.into_iter().any(|end| end > 1 << 20));
    // Without a longest length, nothing grows.
    let grows = plan.0.iter().any(|op| match op {
        Op::Write { range, .. } | Op::Zero { range, .. } => range.end > 1 << 20,
        _ => matches!(op, Op::SetLen(_)),
    });
    assert!(!grows);
}

/// A device whose writes that touch the byte at 0x7000 put a wrong value there.
#[derive(Debug)]
struct OneBadByte(MemoryDevice);

impl BlockDevice for OneBadByte {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn capabilities(&self) -> Capabilities {
        self.0.capabilities() - Capabilities::GROW
    }
    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.0.read(offset, len)
    }
    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        if offset + data.len() > self.len() {
            return Box::pin(ready(Err(Error::invalid("past the end"))));
        }
        let mut bytes = data.to_vec();
        if (offset..offset + data.len()).contains(&0x7000) {
            bytes[(0x7000 - offset) as usize] ^= 0x80;
        }
        self.0.write(offset, bytes.into(), flags)
    }
    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        if offset + len > self.len() {
            return Box::pin(ready(Err(Error::invalid("past the end"))));
        }
        self.0.write_zeroes(offset, len, flags)
    }
    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.0.discard(offset, len)
    }
    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.0.flush()
    }
    fn set_len(&self, len: u64, how: crate::io::Preallocation) -> BoxFuture<'_, Result<()>> {
        self.0.set_len(len, how)
    }
    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<crate::io::Extent>>> {
        self.0.extents(offset, len)
    }
    fn info(&self) -> BoxFuture<'_, Result<crate::io::DeviceInfo>> {
        self.0.info()
    }
}

#[test]
fn a_failure_is_shrunk_to_what_it_takes_and_replays() {
    let sim = SimRuntime::new(1);
    let bad = subject(|| Arc::new(OneBadByte(MemoryDevice::new(64 << 10))));
    let mut found = 0;
    for seed in 0..20 {
        let wanted = ModelOptions { max_len: None, ..options(seed) };
        let Err(failure) = sim.block_on(check(&bad, &wanted)) else { continue };
        found += 1;
        // One write that covers the byte, and the comparison at the end.
        assert!(failure.plan.0.len() == 1 && failure.step == 1, "{failure}");
        assert!(
            matches!(&failure.plan.0[0], Op::Write { range, .. } if range.contains(&0x7000)),
            "{failure}"
        );
        assert_eq!(failure.seed, Some(seed));
        assert!(failure.what.contains("0x7000"), "{failure}");
        let text = failure.to_string();
        let pasted = text.split('"').nth(1).expect("a text in quotes");
        let again = sim.block_on(replay(&bad, wanted.window, pasted)).expect_err("the same");
        assert_eq!(again.what, failure.what);
        let fine = subject(|| Arc::new(MemoryDevice::new(64 << 10)));
        sim.block_on(replay(&fine, wanted.window, pasted)).expect("memory has no bad byte");
        // The same seed finds the same.
        let twice = sim.block_on(check(&bad, &wanted)).expect_err("the same");
        assert_eq!(twice.to_string(), text);
    }
    assert!(found > 10, "only {found} of 20 seeds");
    let nonsense = sim.block_on(replay(&bad, 0, "w1+1")).expect_err("no plan");
    assert!(nonsense.what.contains("should in 'w1+1'"), "{nonsense}");
}

#[test]
fn members_of_a_batch_are_dropped_too() {
    let sim = SimRuntime::new(1);
    let device = sim.clone();
    let racy = subject(move || Arc::new(BrokenDevice::new(Bug::LosesNeighbours, &device)));
    let plan = "w0+4000=13 f (r0+10 w100+10=21 x800+100 w200+10=29 d3000+1000) r100+10";
    let plan: Plan = plan.parse().expect("a plan");
    let failure = sim.block_on(run(&racy, 1 << 20, &plan)).expect_err("neighbours are lost");
    let shrunk = sim.block_on(shrink::shrink(&racy, &options(0), 1, failure));
    let text = shrunk.plan.to_string();
    assert_eq!(shrunk.plan.0.len(), 2, "{text}");
    assert!(
        matches!(&shrunk.plan.0[1], Op::Batch(members) if members.len() == 2),
        "two writes are needed, and no more: {text}"
    );
}

#[test]
fn a_panic_is_a_failure_like_any_other() {
    let sim = SimRuntime::new(1);
    let device = sim.clone();
    let panics = subject(move || Arc::new(BrokenDevice::new(Bug::Panics, &device)));
    let plan: Plan = "f r0+0 xffffffffffffff00+1".parse().expect("a plan");
    sim.block_on(run(&panics, 1 << 20, &plan)).expect("no overflow, only past the end");
    let window = u64::MAX;
    let mut session = sim.block_on(Session::start(&panics, window)).expect("an empty device");
    let wraps = Op::Read(u64::MAX - 1..u64::MAX);
    sim.block_on(session.run(&Plan(alloc::vec![wraps]))).expect("refused");
    struct Panicking;
    impl Subject for Panicking {
        fn make(&self) -> BoxFuture<'_, Result<Device>> {
            Box::pin(ready(Ok(Arc::new(MemoryDevice::new(9)) as Device)))
        }
        fn inspect<'a>(&'a self, device: &'a dyn BlockDevice) -> BoxFuture<'a, Result<()>> {
            Box::pin(async move {
                assert!(device.read(0, 1).await?.to_vec() == [0], "the first byte is taken");
                Ok(())
            })
        }
    }
    let failure = sim.block_on(run(&Panicking, 9, &"f w1+1=5 w0+1=5 f".parse().expect("a plan")));
    let failure = failure.expect_err("the inspection panics");
    assert_eq!((failure.step, failure.what.as_str()), (2, "panicked: the first byte is taken"));
}

#[test]
fn wrong_answers_of_every_kind_are_failures() {
    let sim = SimRuntime::new(1);
    for (bug, plan, what) in [
        (Bug::ShortRead, "l4000 r0+2000", "returns 0x1fff bytes"),
        (Bug::PaddedRead, "r10+10", "it succeeds, though it exceeds the length 0x0"),
        (Bug::WrongKind, "r10+10", "it fails: Io: bad range"),
        (Bug::LenLags, "w0+10=5", "the length is 0x0, should be 0x10"),
        (Bug::ExtentsNone, "l4000 x2000+1", "the list is empty"),
        (Bug::ExtentsLie, "w0+8000=5 x0+8000", "claims to be zero and is not"),
        (Bug::LostSetLen, "l10 l20", "the length is 0x10, should be 0x20"),
        (Bug::NoFallbackHalf, "w0+10=5 z0+10N r0+10", "the byte at 0x0 is 0x00"),
        (Bug::DiscardsToJunk, "w0+10=5 d0+10 r0+10", "is 0xdd, should be"),
        (Bug::FlushFailsLater, "f f", "it fails: Io: flush fails"),
        (Bug::StaleTail, "w0+10=5 l8 l10 r0+10", "should be 0x00"),
    ] {
        let device = sim.clone();
        let broken = subject(move || Arc::new(BrokenDevice::new(bug, &device)));
        let failure = sim.block_on(replay(&broken, 1 << 20, plan)).expect_err("a mistake");
        assert!(failure.what.contains(what), "{bug:?}: {failure}");
        let device = sim.clone();
        let fine = subject(move || Arc::new(BrokenDevice::new(Bug::None, &device)));
        sim.block_on(replay(&fine, 1 << 20, plan)).expect("the same without the mistake");
    }
}

#[test]
fn overlapping_members_of_a_batch_are_left_out() {
    let sim = SimRuntime::new(1);
    let count = Arc::new(Mutex::new(Vec::new()));
    let kept = count.clone();
    let counting = subject(move || {
        let inner = Arc::new(MemoryDevice::new(100));
        let device = Arc::new(super::super::CountDevice::new(inner));
        kept.lock().push(device.clone());
        device
    });
    let plan = "(w0+10=5 rf+2 r10+8 l0 o f (r0+1) z17+1 d18+4 x60+10)";
    let mut session = sim.block_on(Session::start(&counting, 100)).expect("a device");
    count.lock()[0].reset();
    sim.block_on(session.run(&plan.parse().expect("a plan"))).expect("it agrees");
    count.lock()[0].assert_trace(
        CallKinds::all(),
        &["write 0x0+0x10", "read 0x10+0x8", "flush", "discard 0x18+0x4"],
    );
}

/// A disk that keeps its states in memory, or (`forgetful`) loses a byte of them.
struct Kept {
    disk: Arc<MemoryDevice>,
    states: Mutex<BTreeMap<u32, Vec<u8>>>,
    forgetful: bool,
}

impl Subject for Kept {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        self.states.lock().clear();
        Box::pin(async {
            self.disk.set_len(0, Default::default()).await?;
            self.disk.set_len(64 << 10, Default::default()).await?;
            Ok(self.disk.clone() as Device)
        })
    }
    fn change_state<'a>(&'a self, device: &'a Device, op: &'a Op) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match op {
                Op::Keep(number) => {
                    let mut bytes = device.read(0, device.len()).await?.to_vec();
                    if let (true, Some(byte)) = (self.forgetful, bytes.last_mut()) {
                        *byte = 0;
                    }
                    self.states.lock().insert(*number, bytes);
                }
                Op::GoBack(number) => {
                    let bytes = self.states.lock().get(number).cloned().unwrap_or_default();
                    device.set_len(bytes.len() as u64, Default::default()).await?;
                    device.write(0, bytes.into(), Default::default()).await?;
                }
                Op::Throw(number) => drop(self.states.lock().remove(number)),
                op => return Err(Error::bug(alloc::format!("{op} is no state"))),
            }
            Ok(())
        })
    }
}

#[test]
fn states_of_the_whole_disk_are_gone_back_to() {
    let sim = SimRuntime::new(1);
    let subject = |forgetful| Kept {
        disk: Arc::new(MemoryDevice::new(0)),
        states: Mutex::default(),
        forgetful,
    };
    for seed in 0..20 {
        let options = ModelOptions { states: 3, len_unit: 512, ..options(seed) };
        sim.block_on(check(&subject(false), &options)).expect("it keeps everything");
    }
    let plan = "wfff0+10=5 k1 w0+10=6 g1";
    let failure = sim.block_on(replay(&subject(true), 1 << 20, plan)).expect_err("a lost byte");
    assert!(failure.what.contains("0xffff is 0x00"), "{failure}");
    let kept = "wfff0+10=5 k1 w0+10=6";
    let failure = sim.block_on(replay(&subject(true), 1 << 20, kept)).expect_err("at the end");
    assert!(failure.what.contains("the state 1"), "{failure}");
    // What was left out is not missed.
    sim.block_on(replay(&subject(true), 1 << 20, "g7 t7 w0+10=6")).expect("nothing to do");
}

/// A subject that counts how it is used.
struct Watched {
    disk: Arc<MemoryDevice>,
    reopened: AtomicUsize,
    inspected: AtomicUsize,
}

impl Subject for Watched {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(ready(Ok(self.disk.clone() as Device)))
    }
    fn reopen(&self, device: Device) -> BoxFuture<'_, Result<Device>> {
        drop(device);
        // The subject, this call and nobody else: the old handle is gone.
        assert_eq!(Arc::strong_count(&self.disk), 1);
        self.reopened.fetch_add(1, Ordering::Relaxed);
        self.make()
    }
    fn inspect<'a>(&'a self, _: &'a dyn BlockDevice) -> BoxFuture<'a, Result<()>> {
        let count = self.inspected.fetch_add(1, Ordering::Relaxed);
        Box::pin(ready(if count < 5 { Ok(()) } else { Err(Error::corrupt("leaked")) }))
    }
}

#[test]
fn a_subject_is_reopened_and_inspected() {
    let watched = Watched {
        disk: Arc::new(MemoryDevice::new(100)),
        reopened: AtomicUsize::new(0),
        inspected: AtomicUsize::new(0),
    };
    let sim = SimRuntime::new(1);
    sim.block_on(replay(&watched, 100, "w0+10=5 o r0+10 o")).expect("it agrees");
    assert_eq!(watched.reopened.load(Ordering::Relaxed), 2);
    assert_eq!(watched.inspected.load(Ordering::Relaxed), 5, "after each step and at the end");
    let failure = sim.block_on(replay(&watched, 100, "f")).expect_err("the sixth");
    assert_eq!(failure.what, "an invariant is broken: Corrupt: leaked");
}

/// Faults in every call, each with any part of its effect, and the model keeps up.
#[test]
fn a_session_goes_on_after_faults() {
    for seed in 0..40 {
        let sim = SimRuntime::new(seed);
        let mut rng = Rng::new(seed);
        let effect = *rng.pick(&[Effect::None, Effect::Half, Effect::Whole]);
        let first = rng.below(5);
        let faulty = subject(move || {
            let device = FaultDevice::new(Arc::new(MemoryDevice::with_data(&[3; 40_000])));
            let chosen = CallKinds::CHANGES | CallKinds::READ | CallKinds::EXTENTS;
            for n in 0..20 {
                let fault = Fault::new(ErrorKind::NoSpace).on(CallFilter::of(chosen));
                device.add(fault.effect(effect).nth(2 + first + 3 * n));
            }
            Arc::new(device)
        });
        let plan = sim.block_on(async {
            let device = faulty().await.expect("memory");
            generate(&*device, &options(seed))
        });
        let mut session = sim
            .block_on(Session::start(&faulty, 256 << 10))
            .expect("the first call succeeds")
            .on_error(OnError::Continue);
        if let Err(what) = sim.block_on(session.run(&plan)) {
            panic!("seed {seed}, step {}: {what}", session.steps());
        }
        assert!(session.stopped().is_none());
        sim.block_on(session.finish()).expect("all faults are behind");
        // The strict session takes the first of them for what it is.
        let mut strict = sim.block_on(Session::start(&faulty, 256 << 10)).expect("no fault yet");
        let what = sim.block_on(strict.run(&plan)).expect_err("a fault");
        assert!(what.contains("injected"), "{what}");
    }
}

/// What a crash leaves is what the model allows: for every moment, and many ways to lose data.
#[test]
fn a_crash_leaves_what_the_model_allows() {
    for seed in 0..12 {
        let (lost, bad) = crash_everywhere(seed, Bug::None);
        assert!(lost > 10, "seed {seed}: hardly anything was lost");
        assert_eq!(bad, None, "seed {seed}");
    }
}

/// … and a device whose flush does nothing is found out.
#[test]
fn a_flush_that_lies_shows_after_a_crash() {
    assert!((0..5).any(|seed| crash_everywhere(seed, Bug::FlushLies).1.is_some()));
}

/// Crashes at every change of a drawn plan. Returns how many disks lacked something, and the
/// first contradiction.
fn crash_everywhere(seed: u64, bug: Bug) -> (usize, Option<String>) {
    let sim = SimRuntime::new(seed);
    let (mut lost, mut calls) = (0, 0);
    loop {
        let disk = Arc::new(CrashDevice::new(MemoryDevice::with_data(&[1; 30_000])));
        disk.crash_after(calls);
        let (below, runtime) = (disk.clone(), sim.clone());
        let subject = subject(move || Arc::new(BrokenDevice::over(below.clone(), bug, &runtime)));
        let wanted = ModelOptions { ops: 30, in_flight: 4, ..options(seed) };
        let end = sim.block_on(async {
            let mut session = Session::start(&subject, wanted.window)
                .await
                .expect("reads do not crash")
                .on_error(OnError::Stop);
            let plan = generate(&**session.device(), &wanted);
            session.run(&plan).await.expect("nothing but the crash");
            for seed in 0..20 {
                let left = disk.crash(seed);
                let allowed = match session.model().after_crash(left.len()) {
                    Ok(allowed) => allowed,
                    Err(what) => return Some(Err(what)),
                };
                if let Err(what) = allowed.verify(&left).await {
                    return Some(Err(what));
                }
                lost += usize::from(session.model().verify(&left).await.is_err());
            }
            if disk.crashed() { None } else { Some(Ok(())) }
        });
        match end {
            None => calls += 1,
            Some(Ok(())) => return (lost, None),
            Some(Err(what)) => return (lost, Some(what)),
        }
    }
}
