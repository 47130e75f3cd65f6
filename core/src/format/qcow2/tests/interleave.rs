//! Futures dropped at each await, requests that land late, and several threads on one image.

use super::disks::{Disk, note, perform};
use super::{campaign, findings, rounds};
use crate::format::{Layer, NewSnapshot};
use crate::image::{CompactOptions, compact, no_progress};
use crate::io::testing::model::{self, Flat, ModelOptions, Op, Session, Subject, payload};
use crate::io::testing::{
    DelayDevice, Rng, SimRuntime, YieldDevice, abandon_at, drop_at_each_await,
};
use crate::io::{Access, BlockDevice, BoxFuture, Device, WriteFlags, ZeroFlags};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

/// An image with some operations behind it.
struct World {
    file: Device,
    data: Option<Device>,
    layer: Arc<Layer>,
    model: Flat,
}

/// The image after the operations `before`, none of which is abandoned.
async fn world(disk: &Disk, contents: &Flat, before: &[Op]) -> World {
    let (file, data) = disk.copies();
    let slow = |device: &Device| Arc::new(YieldDevice::new(device.clone())) as Device;
    let layer =
        disk.open(slow(&file), data.as_ref().map(slow), Access::ReadWrite).await.expect("it opens");
    let mut model = contents.clone();
    for op in before {
        perform(layer.clone(), op.clone()).await.expect("nothing fails");
        note(&mut model, op, true);
    }
    World { file, data, layer, model }
}

/// Uses the image after `op` was abandoned (or completed), opens it again, and looks at it.
async fn assert_whole(name: &str, disk: &Disk, mut world: World, op: &Op, completed: bool) {
    note(&mut world.model, op, completed);
    if let (Op::SetLen(wanted), false) = (op, completed) {
        world.model.resized(world.layer.len(), *wanted).expect("the old length or the new");
    }
    let after = Op::Write { range: 0x5200..0x7700, tag: 6, flags: WriteFlags::empty() };
    for op in [after, Op::Flush, Op::Flush] {
        perform(world.layer.clone(), op.clone())
            .await
            .unwrap_or_else(|e| panic!("{name}: {op} afterwards: {e:?}"));
        note(&mut world.model, &op, true);
    }
    world.model.verify(&*world.layer).await.unwrap_or_else(|what| panic!("{name}: {what}"));
    let World { file, data, layer, mut model } = world;
    layer.close().await.unwrap_or_else(|e| panic!("{name}: {e:?}"));
    drop(layer);
    let layer = disk.open(file, data, Access::ReadOnly).await.expect("it opens");
    assert_eq!(findings(&layer).await.expect("a report"), [], "{name}");
    if let (Op::SetLen(wanted), false) = (op, completed) {
        model.resized(layer.len(), *wanted).expect("the old length or the new");
    }
    let verdict = model.verify(&*layer).await;
    verdict.unwrap_or_else(|what| panic!("{name}, opened again: {what}"));
}

#[test]
fn an_operation_dropped_at_any_await_leaves_the_image_whole() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for disk in Disk::all(&runtime).await {
            let contents = disk.contents().await;
            let ops: Vec<Op> =
                disk.plan.0.iter().filter(|op| **op != Op::Reopen).cloned().collect();
            let mut drops = 0;
            for (i, op) in ops.iter().enumerate() {
                let mut waits = 0;
                drops += drop_at_each_await(
                    async || {
                        let world = world(&disk, &contents, &ops[..i]).await;
                        let operation = perform(world.layer.clone(), op.clone());
                        (world, operation)
                    },
                    async |world, result| {
                        let name = format!("{}, op {i} ({op}) dropped at {waits}", disk.name);
                        if let Some(Err(e)) = &result {
                            panic!("{name}: it fails: {e:?}");
                        }
                        assert_whole(&name, &disk, world, op, result.is_some()).await;
                        waits += 1;
                    },
                )
                .await;
            }
            assert!(drops > 50, "{}: {drops} drops", disk.name);
        }
    });
}

/// Everything that changes an image, not only its data: the table of the crash campaign.
#[test]
fn any_step_dropped_at_any_await_leaves_what_a_crash_may_leave() {
    for round in 0..rounds() {
        let tally = campaign::drop_anywhere(1 + round, 8);
        assert!(tally.broken.is_empty(), "{}", tally.broken.join("\n\n"));
        assert!(tally.moments > 500 && tally.points > 200, "{tally:?}");
    }
}

/// An image over a device on which requests overtake each other.
struct Slow<'a> {
    disk: &'a Disk,
    runtime: &'a SimRuntime,
    seed: u64,
}

impl Subject for Slow<'_> {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async {
            let (file, data) = self.disk.copies();
            let slow = |device: Device| {
                let longest = Duration::from_millis(1);
                let runtime = self.runtime.handle();
                Arc::new(DelayDevice::new(device, runtime, longest, self.seed)) as Device
            };
            let layer = self.disk.open(slow(file), data.map(slow), Access::ReadWrite).await?;
            Ok(layer as Device)
        })
    }

    fn inspect<'a>(&'a self, device: &'a dyn BlockDevice) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // Twice: the first lets go of what the second writes down.
            device.flush().await?;
            device.flush().await
        })
    }
}

#[test]
fn requests_that_overtake_each_other_behave_like_a_flat_disk() {
    let mut seeds = Rng::new(3);
    for round in 0..rounds() {
        let seed = seeds.next_u64();
        let runtime = SimRuntime::new(seed);
        runtime.block_on(async {
            for disk in Disk::all(&runtime).await {
                let slow = Slow { disk: &disk, runtime: &runtime, seed };
                let mut session = Session::start(&slow, 1 << 30).await.expect("it opens");
                let options = ModelOptions {
                    seed,
                    ops: 40,
                    window: session.device().len(),
                    longest: 0x3000,
                    in_flight: 12,
                    compressed: disk.data.is_none(),
                    ..ModelOptions::default()
                };
                let plan = model::generate(&**session.device(), &options);
                let result = match session.run(&plan).await {
                    Ok(()) => session.finish().await,
                    failed => failed,
                };
                if let Err(what) = result {
                    panic!("{}, round {round}, seed {seed:#x}: {what}\n{plan}", disk.name);
                }
            }
        });
    }
}

/// Runs a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// One thread's operations: it owns the bytes at `lane` of every 256 in turn, so that the threads
/// share clusters and never bytes.
async fn drive(layer: &Layer, lane: u64, lanes: u64, seed: u64) -> Result<Flat, Error> {
    const PART: u64 = 256;
    let mut rng = Rng::new(seed);
    let mut model = Flat::new(alloc::vec![0; (layer.len()) as usize]);
    let parts = layer.len() / PART / lanes;
    for tag in 0..300 {
        let at = (rng.below(parts) * lanes + lane) * PART;
        match rng.below(10) {
            0 => layer.flush().await?,
            1 => {
                layer.write_zeroes(at, PART, ZeroFlags::MAY_UNMAP).await?;
                model.zero(at, PART);
            }
            2 => {
                layer.discard(at, PART).await?;
                model.discard(at, PART);
            }
            3 | 4 => {
                let found = layer.read(at, PART).await?;
                model.check(at, &found.to_bytes()).map_err(Error::bug)?;
            }
            _ => {
                let data = payload(tag, at, PART);
                layer.write(at, data.clone(), WriteFlags::empty()).await?;
                model.write(at, data.to_bytes());
            }
        }
    }
    for part in 0..parts {
        let at = (part * lanes + lane) * PART;
        let found = layer.read(at, PART).await?;
        model.check(at, &found.to_bytes()).map_err(Error::bug)?;
    }
    Ok(model)
}

/// Another thread's: the whole disk is kept and thrown away, and the file is made shorter.
async fn keep_house(layer: &Arc<Layer>, can_keep: bool, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    let bug = || Error::bug("qcow2 has snapshots");
    for number in 0..12 {
        let mut kept = None;
        if can_keep && rng.chance(50) {
            let new = NewSnapshot { name: format!("{number}"), ..NewSnapshot::default() };
            kept = Some(layer.driver().snapshots().ok_or_else(bug)?.create(new).await?);
        }
        let compacting = compact(layer, CompactOptions::default(), &no_progress);
        if rng.chance(30) {
            let _ = abandon_at(compacting, rng.index(3)).await;
        } else {
            compacting.await?;
        }
        if let Some(kept) = kept {
            layer.driver().snapshots().ok_or_else(bug)?.delete(&kept.id).await?;
        }
    }
    Ok(())
}

#[test]
fn threads_that_share_clusters_do_not_disturb_each_other() {
    let runtime = SimRuntime::new(1);
    let disks = runtime.block_on(Disk::all(&runtime));
    let names = ["small clusters", "large clusters", "extended L2", "version 2", "data file"];
    for disk in disks.iter().filter(|disk| names.contains(&disk.name)) {
        for round in 0..rounds() {
            let (file, data) = disk.copies();
            let layer = block_on(disk.open(file.clone(), data.clone(), Access::ReadWrite))
                .expect("it opens");
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4)
                    .map(|lane| {
                        let layer = &layer;
                        scope.spawn(move || block_on(drive(layer, lane, 4, 4 * round + lane)))
                    })
                    .collect();
                let can_keep = data.is_none();
                let layer = &layer;
                let house = scope.spawn(move || block_on(keep_house(layer, can_keep, round)));
                house.join().expect("no panic").unwrap_or_else(|e| panic!("{}: {e:?}", disk.name));
                for thread in threads {
                    let result = thread.join().expect("no panic");
                    result.unwrap_or_else(|e| panic!("{}: {e:?}", disk.name));
                }
            });
            block_on(async {
                layer.flush().await.expect("durable");
                layer.flush().await.expect("durable");
            });
            drop(layer);
            let layer = block_on(disk.open(file, data, Access::ReadOnly)).expect("it opens");
            let found = block_on(findings(&layer)).expect("a report");
            assert_eq!(found, [], "{}", disk.name);
        }
    }
}
