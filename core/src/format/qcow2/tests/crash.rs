//! Power goes at each change and flush of the image's file, and any part of what was not flushed
//! may be gone.
//!
//! Afterwards the image opens, the check finds leaks at worst, what was flushed is there, and the
//! image can be written to.

use super::disks::Disk;
use super::{campaign, findings, rounds};
use crate::Result;
use crate::format::FindingKind;
use crate::io::testing::model::{OnError, Session, Subject};
use crate::io::testing::{CrashDevice, Rng, SimRuntime};
use crate::io::{Access, BlockDevice, BoxFuture, Device, MemoryDevice, Runtime, WriteFlags};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// An image over files that lose power.
struct Run<'a> {
    disk: &'a Disk,
    file: Arc<CrashDevice>,
    data: Option<Arc<CrashDevice>>,
}

impl<'a> Run<'a> {
    fn new(disk: &'a Disk) -> Self {
        let file = Arc::new(CrashDevice::new(disk.file.fork()));
        let data = disk.data.as_ref().map(|data| Arc::new(CrashDevice::new(data.fork())));
        Self { disk, file, data }
    }

    fn open(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async {
            let data = self.data.clone().map(|data| data as Device);
            let layer = self.disk.open(self.file.clone(), data, Access::ReadWrite).await?;
            Ok(layer as Device)
        })
    }
}

impl Subject for Run<'_> {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        self.open()
    }

    fn reopen(&self, device: Device) -> BoxFuture<'_, Result<Device>> {
        drop(device);
        self.open()
    }
}

/// Runs the plan until the power goes at the given change or flush; true where it went.
async fn crash_at(disk: &Disk, call: u64, seeds: &[u64]) -> bool {
    let run = Run::new(disk);
    run.file.crash_after(call);
    let mut session = Session::start(&run, 1 << 30)
        .await
        .unwrap_or_else(|what| panic!("{}: {what}", disk.name))
        .on_error(OnError::Stop);
    if let Err(what) = session.run(&disk.plan).await {
        panic!("{}, crash at {call}: {what}", disk.name);
    }
    for seed in seeds {
        let name = alloc::format!("{}, crash at {call}, seed {seed:#x}", disk.name);
        let file: Device = Arc::new(run.file.crash(*seed));
        let data = run.data.as_ref().map(|data| Arc::new(data.crash(*seed)) as Device);
        let layer = disk
            .open(file.clone(), data.clone(), Access::ReadWrite)
            .await
            .unwrap_or_else(|e| panic!("{name}: it does not open: {e:?}"));
        assert_sound(&name, &layer).await;
        let model = session.model().after_crash(layer.len());
        let verdict = match model {
            Ok(model) => model.verify(&*layer).await,
            Err(length) => Err(length),
        };
        verdict.unwrap_or_else(|what| panic!("{name}: {what}"));
        // What it can be used for, it can be used for safely.
        let bytes = || alloc::vec![0xee; 0x1200];
        layer.write(0x300, bytes().into(), WriteFlags::empty()).await.expect("writable");
        layer.flush().await.expect("durable");
        layer.close().await.expect("clean");
        drop(layer);
        let layer = disk.open(file, data, Access::ReadOnly).await.expect("it opens");
        assert_sound(&name, &layer).await;
        assert_eq!(layer.read(0x300, 0x1200).await.expect("readable").to_vec(), bytes(), "{name}");
    }
    run.file.crashed()
}

async fn assert_sound(name: &str, layer: &crate::format::Layer) {
    for finding in findings(layer).await.expect("a report") {
        assert_eq!(finding.kind, FindingKind::Leak, "{name}: {finding:?}");
    }
}

#[test]
fn power_lost_at_any_call_leaves_what_was_flushed_and_no_corruption() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(1);
        for disk in Disk::all(&runtime).await {
            let mut call = 0;
            loop {
                let seeds: Vec<u64> = (0..3 * rounds()).map(|_| rng.next_u64()).collect();
                if !crash_at(&disk, call, &seeds).await {
                    break;
                }
                call += 1;
            }
            assert!(call > 5 || disk.data.is_some(), "{}: {call} calls", disk.name);
        }
    });
}

/// A half-made image has no magic number: before the tables are durable there is no header.
#[test]
fn power_lost_while_an_image_is_made_leaves_a_whole_one_or_none() {
    let runtime = SimRuntime::new(1);
    let handle: Arc<dyn Runtime> = runtime.handle();
    runtime.block_on(async {
        let mut rng = Rng::new(2);
        for disk in Disk::all(&runtime).await {
            let Some(options) = &disk.options else { continue };
            for call in 0.. {
                let file = Arc::new(CrashDevice::new(MemoryDevice::new(0)));
                let data = disk.data.as_ref().map(|_| Arc::new(MemoryDevice::new(0)) as Device);
                file.crash_after(call);
                let device: Device = file.clone();
                let made = super::super::create(&handle, &device, data.as_ref(), options).await;
                for _ in 0..4 * rounds() {
                    let left: Device = Arc::new(file.crash(rng.next_u64()));
                    let name = alloc::format!("{}, crash at {call}", disk.name);
                    match disk.open(left, data.clone(), Access::ReadWrite).await {
                        Ok(layer) => assert_sound(&name, &layer).await,
                        Err(e) => {
                            assert!(made.is_err(), "{name}: made, and gone: {e}");
                            assert!(e.what().contains("not in qcow2 format"), "{name}: {e}");
                        }
                    }
                }
                if !file.crashed() {
                    made.expect("nothing has failed");
                    assert!(call >= 5, "{}: {call} calls", disk.name);
                    break;
                }
            }
        }
    });
}

/// `SECTORA_CRASH_POINTS=n` judges `n` points; `SECTORA_CRASH_SEED=n` draws others.
#[test]
fn power_lost_in_any_way_during_any_operation_keeps_what_is_promised() {
    let number =
        |name, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let points = number("SECTORA_CRASH_POINTS", 10_000);
    let tally = campaign::run(number("SECTORA_CRASH_SEED", 1), points, &mut |_| ());
    assert!(tally.broken.is_empty(), "{}", tally.broken.join("\n\n"));
    assert!(tally.points >= points, "{tally:?}");
    assert!(points < 1000 || tally.operations.values().all(|n| *n >= 8), "{tally:?}");
    assert!(points < 1000 || tally.torn * 3 > tally.points, "{tally:?}");
}

/// The campaign finds what is to be found.
#[test]
fn files_that_lie_about_flushes_are_found_out() {
    let tally = campaign::run_over_liars(1, 1000);
    let broken = tally.broken.len();
    assert!(broken > tally.operations.len(), "only {broken}: {tally:?}");
}
