//! Tests of what changes backing chains, over memory: what the image reads never changes, whatever
//! fails, loses power or is dropped.
#![cfg(feature = "testing")]

use super::{CommitChain, CommitOptions, RebaseOptions, commit, no_progress, rebase};
use crate::format::{BackingRef, Env, FindingKind, Layer, OpenOptions, Repair, open, qcow2, raw};
use crate::image::{NewImage, create};
use crate::io::testing::{
    CrashDevice, Effect, Fault, FaultDevice, Rng, SimRuntime, YieldDevice, drop_at_each_await,
    fail_each_call,
};
use crate::io::{
    Access, BlockDevice, BoxFuture, Device, MemoryDevice, OpenPolicy, Opened, Reference, Runtime,
    WriteFlags, ZeroFlags,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Files by name.
#[derive(Clone)]
struct Files(Vec<(&'static str, Device)>);

impl Files {
    fn get(&self, name: &str) -> Result<Device> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, device)| device.clone()).ok_or_else(|| Error::denied("no such file"))
    }
}

impl OpenPolicy for Files {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let found = self.get(reference.name);
        Box::pin(async move { Ok(Opened { device: found?, filename: reference.name.to_string() }) })
    }
}

/// A chain in memory: `top` on `mid` on `base`, and `other`, which is in no chain.
struct World {
    files: Vec<(&'static str, MemoryDevice)>,
    contents: Vec<u8>,
}

const BASE: usize = 2;

impl World {
    async fn new(runtime: &Arc<dyn Runtime>, rng: &mut Rng) -> Self {
        let mut files: Vec<(&'static str, MemoryDevice)> = Vec::new();
        let names = ["top", "mid", "base", "other"];
        for name in names {
            files.push((name, MemoryDevice::new(0)));
        }
        for i in [3, 2, 1, 0] {
            let size = 512 * rng.between(40, 160);
            let below = (i < BASE).then(|| names[i + 1]);
            let image = match below {
                None if rng.chance(40) => {
                    NewImage::Raw(raw::CreateOptions { size, ..Default::default() })
                }
                _ => new_qcow2(rng, size, below),
            };
            let memory = Arc::new(files[i].1.fork());
            let device: Device = memory.clone();
            create(runtime, &device, None, &image).await.expect("create");
            let mut all: Vec<(&'static str, Device)> = Vec::new();
            for (name, memory) in &files {
                all.push((*name, Arc::new(memory.fork())));
            }
            all[i].1 = device;
            let layer = open_top(runtime, &Files(all), names[i], Access::ReadWrite).await;
            let layer = layer.expect("a new image");
            scribble(&layer, rng).await;
            layer.close().await.expect("durable");
            drop(layer);
            files[i].1 = memory.fork();
        }
        let mut world = Self { files, contents: Vec::new() };
        world.contents = world.read(runtime, &world.memory()).await;
        world
    }

    fn memory(&self) -> Files {
        let files = self.files.iter();
        Files(files.map(|(name, file)| (*name, Arc::new(file.fork()) as Device)).collect())
    }

    /// What the image reads; its tables are sound.
    async fn read(&self, runtime: &Arc<dyn Runtime>, files: &Files) -> Vec<u8> {
        let top = open_top(runtime, files, "top", Access::ReadOnly).await.expect("it opens");
        let mut layer = Some(&top);
        while let Some(found) = layer {
            if let Some(report) =
                found.driver().check(Repair::Nothing, &no_progress).await.expect("a report")
            {
                for finding in report.findings {
                    assert_eq!(
                        finding.kind,
                        FindingKind::Leak,
                        "{}: {finding:?}",
                        found.filename()
                    );
                }
            }
            layer = found.backing();
        }
        top.read(0, top.len()).await.expect("readable").to_vec()
    }

    async fn verify(&self, runtime: &Arc<dyn Runtime>, files: &Files, what: &str) {
        let found = self.read(runtime, files).await;
        let first = found.iter().zip(&self.contents).position(|(a, b)| a != b);
        assert_eq!(first, None, "{what}: the image reads otherwise");
        assert_eq!(found.len(), self.contents.len(), "{what}");
    }
}

fn new_qcow2(rng: &mut Rng, size: u64, below: Option<&str>) -> NewImage {
    let extended_l2 = rng.chance(20);
    let cluster_size = if extended_l2 { 16 << 10 } else { *rng.pick(&[512, 4096]) };
    let old = !extended_l2 && rng.chance(25);
    NewImage::Qcow2(qcow2::CreateOptions {
        size,
        cluster_size,
        extended_l2,
        version: if old { qcow2::Version::V2 } else { qcow2::Version::V3 },
        backing: below.map(|name| BackingRef { name: name.to_string(), format: None }),
        ..qcow2::CreateOptions::default()
    })
}

async fn scribble(layer: &Layer, rng: &mut Rng) {
    for _ in 0..rng.between(1, 6) {
        let at = rng.below(layer.len());
        let len = rng.between(1, 9_000).min(layer.len() - at);
        if rng.chance(30) {
            layer.write_zeroes(at, len, ZeroFlags::MAY_UNMAP).await.expect("zeroes");
            continue;
        }
        let mut bytes = alloc::vec![0; usize::try_from(len).expect("short")];
        match rng.chance(50) {
            true => rng.fill(&mut bytes),
            false => bytes.fill(*rng.pick(&[0, 1, 2])),
        }
        layer.write(at, bytes.into(), WriteFlags::empty()).await.expect("writes");
    }
}

fn env(runtime: &Arc<dyn Runtime>, files: &Files) -> Env {
    Env { runtime: runtime.clone(), policy: Arc::new(files.clone()) }
}

async fn open_top(
    runtime: &Arc<dyn Runtime>,
    files: &Files,
    name: &str,
    access: Access,
) -> Result<Arc<Layer>> {
    let options = OpenOptions { access, ..OpenOptions::default() };
    open(&env(runtime, files), files.get(name)?, name, options).await
}

/// One operation on a chain.
#[derive(Clone, Debug)]
enum Change {
    Commit { base: &'static str, keep: bool },
    Rebase { to: Option<&'static str>, compress: bool },
}

impl Change {
    fn random(rng: &mut Rng) -> Self {
        match rng.chance(50) {
            true => {
                let base = *rng.pick(&["mid", "base"]);
                Self::Commit { base, keep: base == "base" || rng.chance(30) }
            }
            false => Self::Rebase {
                to: *rng.pick(&[None, Some("base"), Some("mid"), Some("other")]),
                compress: rng.chance(30),
            },
        }
    }

    async fn run(&self, runtime: &Arc<dyn Runtime>, files: &Files) -> Result<()> {
        match self {
            Self::Commit { base, keep } => {
                let file = files.get("top")?;
                let is_base = |_: &str, name: &str| name == *base;
                let env = env(runtime, files);
                let chain = CommitChain::open(&env, file, "top", None, &is_base).await?;
                let chain = chain.ok_or_else(|| Error::bug("the base is there"))?;
                let options = CommitOptions { keep: *keep, rate: 0 };
                commit(runtime, &chain, options, &no_progress).await
            }
            Self::Rebase { to, compress } => {
                let top = open_top(runtime, files, "top", Access::ReadWrite).await?;
                let new = match to {
                    None => None,
                    Some(name) => Some(open_top(runtime, files, name, Access::ReadOnly).await?),
                };
                let depth = match to {
                    Some("mid") => Some(1),
                    Some("base") => Some(2),
                    _ => None,
                };
                let format = |layer: &Layer| layer.driver().name().to_string();
                let reference = new.as_ref().map(|layer| BackingRef {
                    name: layer.filename().to_string(),
                    format: Some(format(layer)),
                });
                let options = RebaseOptions { compress: *compress, depth };
                let new: Option<Device> = new.map(|layer| layer as Device);
                rebase(&top, new.as_ref(), reference, options, &no_progress).await?;
                top.close().await
            }
        }
    }
}

/// Chains whose base must not grow over a longer one are refused; nothing else is.
fn refused(error: &Error) -> bool {
    error.kind() == ErrorKind::Unsupported && error.what().contains("resize it first")
}

fn rounds() -> u64 {
    std::env::var("SECTORA_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    1..=count * rounds()
}

#[test]
fn a_chain_that_is_changed_reads_as_before() {
    for seed in seeds(300) {
        let sim = SimRuntime::new(seed);
        sim.block_on(async {
            let runtime = sim.handle();
            let mut rng = Rng::new(seed);
            let world = World::new(&runtime, &mut rng).await;
            let files = world.memory();
            for _ in 0..3 {
                let change = Change::random(&mut rng);
                let what = format!("seed {seed}, {change:?}");
                match change.run(&runtime, &files).await {
                    Err(e) if refused(&e) => {}
                    // The chain may be a shorter one by now.
                    Err(e) if e.kind() == ErrorKind::Bug => {}
                    Err(e) if e.what().contains("no zero flag") => {}
                    result => result.unwrap_or_else(|e| panic!("{what}: {e:?}")),
                }
                world.verify(&runtime, &files, &what).await;
            }
        });
    }
}

#[test]
fn a_committed_image_is_empty_and_its_base_has_the_data() {
    for seed in seeds(40) {
        let sim = SimRuntime::new(seed);
        sim.block_on(async {
            let runtime = sim.handle();
            let world = World::new(&runtime, &mut Rng::new(seed)).await;
            let files = world.memory();
            let change = Change::Commit { base: "mid", keep: false };
            match change.run(&runtime, &files).await {
                Err(e) if refused(&e) => return,
                done => done.expect("commits"),
            }
            let top = open_top(&runtime, &files, "top", Access::ReadOnly).await.expect("opens");
            for extent in top.extents(0, top.len()).await.expect("extents") {
                assert!(extent.depth > 0 || !extent.is_allocated(), "seed {seed}: {extent:?}");
            }
            let mid = open_top(&runtime, &files, "mid", Access::ReadOnly).await.expect("opens");
            let data = mid.read(0, top.len()).await.expect("long enough").to_vec();
            assert_eq!(data, world.contents, "seed {seed}");
            // Nothing but the tables of an image without data is left.
            let (clusters, left) = (u64::from(top.limits().granularity), top.file().len());
            assert!(left <= 16 * clusters.max(512), "seed {seed}: {left:#x} bytes are left");
        });
    }
}

#[test]
fn a_rebased_image_stands_on_its_new_backing_file_alone() {
    for seed in seeds(60) {
        let sim = SimRuntime::new(seed);
        sim.block_on(async {
            let runtime = sim.handle();
            let world = World::new(&runtime, &mut Rng::new(seed)).await;
            for to in [None, Some("other"), Some("base")] {
                let files = world.memory();
                let change = Change::Rebase { to, compress: seed % 3 == 0 };
                change.run(&runtime, &files).await.expect("rebases");
                let mut left = files.clone();
                left.0.retain(|(name, _)| *name == "top" || to == Some(*name));
                world.verify(&runtime, &left, &format!("seed {seed}, {to:?}")).await;
            }
        });
    }
}

#[test]
fn a_failing_call_leaves_the_chain_readable() {
    let mut all = 0;
    for seed in seeds(60) {
        let sim = SimRuntime::new(seed);
        all += sim.block_on(async {
            let runtime = sim.handle();
            let mut rng = Rng::new(seed);
            let world = World::new(&runtime, &mut rng).await;
            let change = Change::random(&mut rng);
            let failing = *rng.pick(&["top", "top", "mid", "base"]);
            // Writes that are cut belong to the tests of the format.
            let effect = *rng.pick(&[Effect::None, Effect::Whole]);
            let files = core::cell::RefCell::new(world.memory());
            let calls = fail_each_call(
                Fault::new(ErrorKind::Io).effect(effect),
                async || {
                    *files.borrow_mut() = world.memory();
                    files.borrow().get(failing).expect("there")
                },
                async |device: Arc<FaultDevice>, n| {
                    let whole = files.borrow().clone();
                    let mut broken = whole.clone();
                    for (name, file) in &mut broken.0 {
                        if *name == failing {
                            *file = device.clone();
                        }
                    }
                    let done = change.run(&runtime, &broken).await;
                    let what = format!("seed {seed}, {change:?}, {failing} call {n}: {done:?}");
                    match &done {
                        Ok(()) => {}
                        Err(e) => assert!(e.kind() == ErrorKind::Io || refused(e), "{what}"),
                    }
                    world.verify(&runtime, &whole, &what).await;
                },
            );
            calls.await
        });
    }
    assert!(all > 600, "{all} calls");
}

#[test]
fn power_lost_at_any_call_leaves_the_chain_readable() {
    let mut all = 0;
    for seed in seeds(60) {
        let sim = SimRuntime::new(seed);
        sim.block_on(async {
            let runtime = sim.handle();
            let mut rng = Rng::new(seed);
            let world = World::new(&runtime, &mut rng).await;
            let change = Change::random(&mut rng);
            // Where the call is counted at which the power goes.
            for counted in ["top", "base", "mid"] {
                for call in 0.. {
                    let disks: Vec<(&'static str, Arc<CrashDevice>)> = world
                        .files
                        .iter()
                        .map(|(name, file)| (*name, Arc::new(CrashDevice::new(file.fork()))))
                        .collect();
                    let lost = disks.iter().find(|(name, _)| *name == counted).expect("there");
                    lost.1.crash_after(call);
                    let devices = disks.iter().map(|(name, disk)| (*name, disk.clone() as Device));
                    let done = change.run(&runtime, &Files(devices.collect())).await;
                    let what = format!("seed {seed}, {change:?}, {counted} call {call}: {done:?}");
                    for _ in 0..2 {
                        let left = disks.iter().map(|(name, disk)| {
                            (*name, Arc::new(disk.crash(rng.next_u64())) as Device)
                        });
                        world.verify(&runtime, &Files(left.collect()), &what).await;
                    }
                    all += 1;
                    if !lost.1.crashed() {
                        break;
                    }
                }
            }
        });
    }
    assert!(all > 600, "{all} crashes");
}

#[test]
fn a_dropped_change_leaves_the_chain_readable() {
    let mut all = 0;
    for seed in seeds(8) {
        let sim = SimRuntime::new(seed);
        all += sim.block_on(async {
            let runtime = sim.handle();
            let mut rng = Rng::new(seed);
            let world = World::new(&runtime, &mut rng).await;
            let change = Change::random(&mut rng);
            drop_at_each_await(
                async || {
                    let files = world.memory();
                    let mut slow = files.clone();
                    for (_, file) in &mut slow.0 {
                        *file = Arc::new(YieldDevice::new(file.clone()));
                    }
                    let (change, runtime) = (change.clone(), runtime.clone());
                    let operation: BoxFuture<'static, Result<()>> =
                        Box::pin(async move { change.run(&runtime, &slow).await });
                    (files, operation)
                },
                async |files, result| {
                    let what = format!("seed {seed}, {change:?}: {result:?}");
                    world.verify(&runtime, &files, &what).await;
                },
            )
            .await
        });
    }
    assert!(all > 100, "{all} drops");
}

#[test]
fn a_rate_limit_takes_its_time() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let runtime = sim.handle();
        let world = World::new(&runtime, &mut Rng::new(3)).await;
        let files = world.memory();
        let is_base = |_: &str, name: &str| name == "mid";
        let file = files.get("top").expect("there");
        let chain = CommitChain::open(&env(&runtime, &files), file, "top", None, &is_base).await;
        let chain = chain.expect("opens").expect("found");
        let moved: u64 = {
            let extents = chain.top().extents(0, chain.top().len()).await.expect("extents");
            extents.iter().filter(|e| e.is_allocated() && !e.is_zero()).map(|e| e.len).sum()
        };
        let before = sim.elapsed();
        let options = CommitOptions { keep: true, rate: 1000 };
        commit(&runtime, &chain, options, &no_progress).await.expect("commits");
        let took = (sim.elapsed() - before).as_millis();
        assert!(moved > 0 && took >= u128::from(moved), "{moved} bytes in {took} ms");
    });
}
