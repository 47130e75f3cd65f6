//! Compacting: the disk reads as before whatever happens midway, and what nobody needs is gone.

use super::disks::Disk;
use super::{findings, rounds};
use crate::format::{FindingKind, Layer};
use crate::image::{CompactOptions, Compacted, compact, no_progress};
use crate::io::testing::model::{Flat, payload};
use crate::io::testing::{
    CallFilter, CallKinds, CrashDevice, DelayDevice, Effect, Fault, Rng, SimRuntime, YieldDevice,
    drop_at_each_await, fail_each_call,
};
use crate::io::{Access, BlockDevice, BoxFuture, Device, MemoryDevice, Runtime, WriteFlags};
use crate::{ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

const REALLY: CompactOptions = CompactOptions { backing: true, dry_run: false };

/// A disk with data, zeroes and copies of what lies below, and all it holds.
struct Filled {
    disk: Disk,
    file: MemoryDevice,
    contents: Vec<u8>,
}

impl Filled {
    /// Every state but those with an external data file, which have nothing to give up.
    async fn all(runtime: &SimRuntime) -> Vec<Self> {
        let mut all = Vec::new();
        for disk in Disk::all(runtime).await.into_iter().filter(|disk| disk.data.is_none()) {
            all.push(Self::new(disk).await);
        }
        all
    }

    async fn new(disk: Disk) -> Self {
        let file: Device = Arc::new(disk.file.fork());
        let layer = disk.open(file.clone(), None, Access::ReadWrite).await.expect("it opens");
        let none = WriteFlags::empty();
        let zeroes = |len: usize| alloc::vec![0; len].into();
        // The same bytes as below, in clusters of their own.
        let below = layer.read(0x1000, 0x1000).await.expect("readable");
        layer.write(0x1000, below, none).await.expect("writable");
        layer.write(0x2000, payload(3, 0x2000, 0x2800), none).await.expect("writable");
        layer.write(0x3000, zeroes(0xe00), none).await.expect("writable");
        layer.write(0x5000, payload(9, 0x5000, 0x800), WriteFlags::COMPRESSED).await.ok();
        layer.write(0x6000, zeroes(0x2000), none).await.expect("writable");
        if layer.len() > 0x1_4000 {
            layer.write(0x8000, payload(5, 0x8000, 0x4000), none).await.expect("writable");
            layer.write(0xc000, zeroes(0x8000), none).await.expect("writable");
        }
        layer.close().await.expect("clean");
        let contents = layer.read(0, layer.len()).await.expect("readable").to_vec();
        drop(layer);
        let bytes = file.read(0, file.len()).await.expect("readable").to_vec();
        Self { disk, file: MemoryDevice::with_data(&bytes), contents }
    }

    async fn open(&self, file: Device, access: Access) -> Result<Arc<Layer>> {
        self.disk.open(file, None, access).await
    }

    /// The disk is what it was, and no more than space is lost: nothing, where `clean`.
    async fn assert_whole(&self, name: &str, file: Device, clean: bool) {
        let layer = self.open(file, Access::ReadWrite).await;
        let layer = layer.unwrap_or_else(|e| panic!("{name}: it does not open: {e:?}"));
        for finding in findings(&layer).await.expect("a report") {
            assert!(!clean && finding.kind == FindingKind::Leak, "{name}: {finding:?}");
        }
        let now = layer.read(0, layer.len()).await.expect("readable").to_vec();
        assert!(now == self.contents, "{name}: other data");
    }
}

async fn run(layer: &Arc<Layer>, options: CompactOptions) -> Compacted {
    compact(layer, options, &no_progress).await.expect("nothing fails")
}

#[test]
fn what_nobody_needs_is_given_back_once() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for filled in Filled::all(&runtime).await {
            let name = filled.disk.name;
            let file: Device = Arc::new(filled.file.fork());
            let layer = filled.open(file.clone(), Access::ReadWrite).await.expect("it opens");
            let promised = run(&layer, CompactOptions { dry_run: true, ..REALLY }).await;
            let done = run(&layer, REALLY).await;
            let given = |done: Compacted| (done.zeroes, done.same_as_backing);
            assert_eq!(given(promised), given(done), "{name}");
            // Version 2 cannot say that a cluster is zero where another lies below.
            let can = !name.contains("backed, version 2");
            assert!(done.zeroes > 0 || !can, "{name}: {done:?}");
            assert!(done.file_len.1 <= done.file_len.0, "{name}: {done:?}");
            assert_eq!(given(run(&layer, REALLY).await), (0, 0), "{name}");
            layer.close().await.expect("clean");
            drop(layer);
            filled.assert_whole(name, file, true).await;
        }
    });
}

#[test]
fn power_lost_while_compacting_loses_nothing() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(3);
        for filled in Filled::all(&runtime).await {
            for call in 0.. {
                let file = Arc::new(CrashDevice::new(filled.file.fork()));
                file.crash_after(call);
                if let Ok(layer) = filled.open(file.clone(), Access::ReadWrite).await {
                    // Whether it fails is the power's doing.
                    let _ = compact(&layer, REALLY, &no_progress).await;
                }
                for _ in 0..3 * rounds() {
                    let seed = rng.next_u64();
                    let name = format!("{}, call {call}, seed {seed:#x}", filled.disk.name);
                    filled.assert_whole(&name, Arc::new(file.crash(seed)), false).await;
                }
                if !file.crashed() {
                    assert!(call > 3, "{}: {call} calls", filled.disk.name);
                    break;
                }
            }
        }
    });
}

#[test]
fn a_call_that_fails_while_compacting_loses_nothing() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let changes = CallFilter::of(CallKinds::CHANGES | CallKinds::FLUSH);
        for fault in [
            Fault::new(ErrorKind::Io),
            Fault::new(ErrorKind::NoSpace).on(changes).effect(Effect::Whole),
        ] {
            for filled in Filled::all(&runtime).await {
                let below = core::cell::RefCell::new(Arc::new(filled.file.fork()));
                let make = async || {
                    let fresh = Arc::new(filled.file.fork());
                    *below.borrow_mut() = fresh.clone();
                    fresh as Device
                };
                let calls = fail_each_call(fault.clone(), make, async |file, call| {
                    if let Ok(layer) = filled.open(file, Access::ReadWrite).await {
                        let _ = compact(&layer, REALLY, &no_progress).await;
                    }
                    let name = format!("{}, call {call}", filled.disk.name);
                    let left = below.borrow().clone();
                    filled.assert_whole(&name, left, false).await;
                });
                assert!(calls.await > 3, "{}", filled.disk.name);
            }
        }
    });
}

#[test]
fn compacting_dropped_at_any_await_can_be_begun_again() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for filled in Filled::all(&runtime).await {
            let mut waits = 0;
            let make = async || {
                let file: Device = Arc::new(filled.file.fork());
                let slow: Device = Arc::new(YieldDevice::new(file.clone()));
                let layer = filled.open(slow, Access::ReadWrite).await.expect("it opens");
                let image = layer.clone();
                let operation: BoxFuture<'static, Result<Compacted>> =
                    Box::pin(async move { compact(&image, REALLY, &no_progress).await });
                ((file, layer), operation)
            };
            let drops = drop_at_each_await(make, async |(file, layer), result| {
                let name = format!("{}, dropped at {waits}", filled.disk.name);
                if let Some(Err(e)) = result {
                    panic!("{name}: it fails: {e:?}");
                }
                run(&layer, REALLY).await;
                let again = run(&layer, REALLY).await;
                assert_eq!((again.zeroes, again.same_as_backing), (0, 0), "{name}");
                layer.close().await.expect("clean");
                drop(layer);
                filled.assert_whole(&name, file, true).await;
                waits += 1;
            });
            assert!(drops.await > 10, "{}", filled.disk.name);
        }
    });
}

/// Writes of one cluster or a part of it, zeroes among them, beside it all.
async fn write_beside(layer: &Arc<Layer>, model: &mut Flat, seed: u64) {
    let mut rng = Rng::new(seed);
    for tag in 1..60 {
        let start = rng.below(0x80) * 0x100;
        let len = (1 + rng.below(8)) * 0x100;
        let len = len.min(layer.len() - start);
        let data = match rng.chance(40) {
            true => alloc::vec![0; len as usize].into(),
            false => payload(tag, start, len),
        };
        model.write(start, data.to_bytes());
        layer.write(start, data, WriteFlags::empty()).await.expect("writable");
    }
}

#[test]
fn writes_beside_it_are_not_lost() {
    for seed in 0..4 * rounds() {
        let runtime = SimRuntime::new(seed);
        runtime.block_on(async {
            for filled in Filled::all(&runtime).await {
                let name = format!("{}, seed {seed}", filled.disk.name);
                let file: Device = Arc::new(filled.file.fork());
                let longest = Duration::from_millis(3);
                let handle: Arc<dyn Runtime> = runtime.handle();
                let slow = Arc::new(DelayDevice::new(file.clone(), handle, longest, seed));
                let layer = filled.open(slow, Access::ReadWrite).await.expect("it opens");
                let mut model = Flat::new(filled.contents.clone());
                let repeated = async {
                    for _ in 0..4 {
                        run(&layer, REALLY).await;
                    }
                };
                let writes = write_beside(&layer, &mut model, seed);
                futures_util::future::join(repeated, writes).await;
                let verdict = model.verify(&*layer).await;
                verdict.unwrap_or_else(|what| panic!("{name}: {what}"));
                layer.close().await.expect("clean");
                drop(layer);
                let layer = filled.open(file, Access::ReadOnly).await.expect("it opens");
                assert_eq!(findings(&layer).await.expect("a report"), [], "{name}");
                let verdict = model.verify(&*layer).await;
                verdict.unwrap_or_else(|what| panic!("{name}, opened again: {what}"));
            }
        });
    }
}
