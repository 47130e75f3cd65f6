//! Several queues on one qcow2 image over a real file, driven by the threads of the host's runtime.
//!
//! Each queue owns every sixth part of 256 bytes, so that queues share clusters and never bytes, and
//! knows what its parts hold after every step. Meanwhile snapshots of the whole disk come and go, and
//! the image is compacted.
//! `SECTORA_TEST_ROUNDS=n` makes it `n` times as long.

use futures_util::future::try_join_all;
use sectora::runtime::{NativeRuntime, block_on};
use sectora::storage::{Aio, Create, FileDevice, FileOptions};
use sectora_core::format::qcow2::{CreateOptions, create};
use sectora_core::format::{Env, FormatName, Layer, NewSnapshot, OpenOptions, Repair, open};
use sectora_core::image::{CompactOptions, compact, no_progress};
use sectora_core::io::testing::model::{Flat, payload};
use sectora_core::io::testing::{Rng, abandon_at};
use sectora_core::io::{Access, BlockDevice, Deny, Device, Runtime, WriteFlags, ZeroFlags};
use sectora_core::{Error, Result};
use std::sync::Arc;

const QUEUES: u64 = 6;
const PART: u64 = 256;
const SIZE: u64 = 768 << 10;
const SNAPSHOTS: u32 = 6;
const COMPACTIONS: u32 = 6;

fn rounds() -> u64 {
    std::env::var("SECTORA_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

/// One queue: up to four requests at a time, each of a part of its own.
async fn drive(layer: Arc<Layer>, queue: u64, seed: u64) -> Result<Flat> {
    let mut rng = Rng::new(seed);
    let mut model = Flat::new(vec![0; SIZE as usize]);
    let parts = SIZE / PART / QUEUES;
    for step in 0..100u32 {
        let first = rng.below(parts - 4);
        let count = rng.between(1, 4);
        let at = |i: u64| ((first + i) * QUEUES + queue) * PART;
        match rng.below(12) {
            0 => layer.flush().await?,
            1 | 2 => {
                let calls =
                    (0..count).map(|i| layer.write_zeroes(at(i), PART, ZeroFlags::MAY_UNMAP));
                try_join_all(calls).await?;
                (0..count).for_each(|i| model.zero(at(i), PART));
            }
            3 => {
                try_join_all((0..count).map(|i| layer.discard(at(i), PART))).await?;
                (0..count).for_each(|i| model.discard(at(i), PART));
            }
            4 => {
                // Dropped before it is done, at whatever point that is.
                let data = payload(step, at(0), PART);
                let write = layer.write(at(0), data.clone(), WriteFlags::empty());
                let _ = abandon_at(write, rng.index(5)).await;
                model.may_write(at(0), data.to_bytes());
                let found = layer.read(at(0), PART).await?;
                model.check(at(0), &found.to_bytes()).map_err(Error::bug)?;
                // From here on it is sure again, whatever lands late.
                let data = payload(step + 1000, at(0), PART);
                layer.write(at(0), data.clone(), WriteFlags::empty()).await?;
                model.write(at(0), data.to_bytes());
            }
            _ => {
                let calls = (0..count)
                    .map(|i| layer.write(at(i), payload(step, at(i), PART), WriteFlags::empty()));
                try_join_all(calls).await?;
                for i in 0..count {
                    model.write(at(i), payload(step, at(i), PART).to_bytes());
                }
            }
        }
        let look = rng.below(parts);
        let look = (look * QUEUES + queue) * PART;
        let found = layer.read(look, PART).await?;
        model.check(look, &found.to_bytes()).map_err(Error::bug)?;
    }
    Ok(model)
}

/// Keeps the disk, and throws it away again, some times: everybody else waits meanwhile, and copies
/// what he writes to afterwards.
async fn snapshots(layer: Arc<Layer>) -> Result<()> {
    let snapshots = layer.driver().snapshots().ok_or_else(|| Error::bug("qcow2 has them"))?;
    for number in 0..SNAPSHOTS {
        let new = NewSnapshot { name: format!("{number}"), ..NewSnapshot::default() };
        let info = snapshots.create(new).await?;
        snapshots.delete(&info.id).await?;
    }
    Ok(())
}

/// Makes the file shorter again and again; now and then it is stopped midway.
async fn compacting(layer: Arc<Layer>, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    for _ in 0..COMPACTIONS {
        let whole = compact(&layer, CompactOptions::default(), &no_progress);
        if rng.chance(30) {
            let _ = abandon_at(whole, rng.index(20)).await;
        } else {
            whole.await?;
        }
    }
    Ok(())
}

async fn run(host: NativeRuntime, aio: Aio, cluster_size: u32, extended_l2: bool, seed: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("image.qcow2");
    let name = path.to_str().expect("a path in UTF-8");
    let options = FileOptions { aio, create: Create::New, ..FileOptions::new(Access::ReadWrite) };
    let Ok(file) = FileDevice::open(name, &options) else { return };
    let file: Device = Arc::new(file);
    let runtime: Arc<dyn Runtime> = Arc::new(host);
    let image = CreateOptions { size: SIZE, cluster_size, extended_l2, ..CreateOptions::default() };
    create(&runtime, &file, None, &image).await.expect("created");
    let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
    let open = async |access| {
        let options =
            OpenOptions { format: Some(FormatName::Qcow2), access, ..OpenOptions::default() };
        open(&env, file.clone(), name, options).await.expect("it opens")
    };
    let layer = open(Access::ReadWrite).await;
    let keeper = tokio::spawn(snapshots(layer.clone()));
    let compactor = tokio::spawn(compacting(layer.clone(), seed));
    let queues: Vec<_> =
        (0..QUEUES).map(|queue| tokio::spawn(drive(layer.clone(), queue, seed + queue))).collect();
    let mut models = Vec::new();
    for queue in queues {
        models.push(queue.await.expect("no panic").expect("as the model has it"));
    }
    keeper.await.expect("no panic").expect("snapshots can be had");
    compactor.await.expect("no panic").expect("it can be compacted");
    layer.close().await.expect("durable");
    drop(layer);

    let layer = open(Access::ReadOnly).await;
    let report = layer.driver().check(Repair::Nothing, &no_progress).await.expect("a check");
    assert_eq!(report.expect("qcow2 has one").findings, []);
    for (queue, model) in (0..).zip(&models) {
        for part in 0..SIZE / PART / QUEUES {
            let at = (part * QUEUES + queue) * PART;
            let found = layer.read(at, PART).await.expect("readable");
            model.check(at, &found.to_bytes()).expect("it stays");
        }
    }
    // A snapshot keeps every cluster once more at most, a freed one waits for a flush.
    let bound = 4 * SIZE + 64 * u64::from(cluster_size);
    assert!(file.len() <= bound, "{:#x} bytes, {bound:#x} are enough", file.len());
}

#[test]
fn queues_on_one_image_do_not_disturb_each_other() {
    for round in 0..rounds() {
        for aio in [Aio::IoUring, Aio::Threads] {
            for (cluster_size, extended_l2) in [(512, false), (65536, false), (16384, true)] {
                let seed = 100 * round + u64::from(cluster_size);
                block_on(|host| run(host, aio, cluster_size, extended_l2, seed))
                    .expect("a runtime");
            }
        }
    }
}
