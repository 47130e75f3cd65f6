//! Replicated disks: what both guests see, against flat bytes, whatever arrives at the same time,
//! fails or is given up midway.

use super::Files;
use crate::filter::ReplicationMode;
use crate::format::{Env, qcow2};
use crate::graph::{Claim, Graph, Node, Options, Permissions, Root};
use crate::image::{NewImage, create};
use crate::io::testing::{
    CallFilter, CallKinds, Fault, FaultDevice, Rng, SimRuntime, YieldDevice, drop_at_each_await,
};
use crate::io::{BlockDevice, BoxFuture, Deny, Device, MemoryDevice, Segments};
use crate::io::{WriteFlags, ZeroFlags};
use crate::monitor::Events;
use crate::{ErrorKind, Result};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use futures_util::future::join;

/// Whole sectors, and not whole clusters.
const SIZE: u64 = (1 << 20) + 1536;
const SECONDARY: ReplicationMode = ReplicationMode::Secondary;

/// A secondary machine: its graph, and both who write.
struct Secondary {
    graph: Arc<Graph>,
    node: Arc<Node>,
    /// The guest of this machine.
    guest: Arc<Root>,
    /// What the primary machine sends.
    primary: Arc<Root>,
    devices: BTreeMap<&'static str, Arc<FaultDevice>>,
    /// What the disk is to be.
    disk: Vec<u8>,
    /// What the guest is to see.
    view: Vec<u8>,
}

impl Secondary {
    /// One that has not been started. The disk is full of different bytes.
    async fn new(sim: &SimRuntime, clusters: [u32; 2]) -> Self {
        let env = Env { runtime: sim.handle(), policy: Arc::new(Deny) };
        let mut files = Files::default();
        let mut devices = BTreeMap::new();
        let disk: Vec<u8> = (0..SIZE).map(|i| (i / 512 % 251 + 1) as u8).collect();
        for (name, cluster_size) in [("active", clusters[0]), ("hidden", clusters[1]), ("disk", 0)]
        {
            let memory: Device = Arc::new(MemoryDevice::new(0).named(name));
            if cluster_size == 0 {
                let flags = WriteFlags::empty();
                memory.set_len(SIZE, crate::io::Preallocation::Off).await.unwrap();
                memory.write(0, disk.clone().into(), flags).await.unwrap();
            } else {
                let options =
                    qcow2::CreateOptions { size: SIZE, cluster_size, ..Default::default() };
                let image = NewImage::Qcow2(options);
                create(&env.runtime, &memory, None, &image).await.unwrap();
            }
            let device = Arc::new(FaultDevice::new(Arc::new(YieldDevice::new(memory))));
            files.0.insert(name.into(), device.clone());
            devices.insert(name, device);
        }
        let graph = Graph::new(env, Arc::new(files), Events::new(sim.handle()));
        let add = async |text: &str| graph.add(Options::parse_json(text).unwrap()).await.unwrap();
        let file = |name: &str| format!("{{'driver': 'file', 'filename': '{name}'}}");
        let image = |name: &str, below: &str| {
            let file = file(name);
            format!(
                "{{'driver': 'qcow2', 'node-name': '{name}', 'file': {file}, 'backing': {below}}}"
            )
        };
        let raw = format!("{{'driver': 'raw', 'node-name': 'disk', 'file': {}}}", file("disk"));
        let below = add(&raw).await;
        add(&image("active", &image("hidden", "'disk'"))).await;
        let side = "{'driver': 'replication', 'node-name': 'side', 'mode': 'secondary', \
                    'top-id': 'side', 'file': 'active'}";
        let node = add(side).await;
        let taken = Permissions::CONSISTENT_READ | Permissions::WRITE;
        let claim = Claim { taken, shared: Permissions::all() - Permissions::RESIZE };
        let guest = graph.attach("", &node, claim).await.unwrap();
        let primary = graph.attach("", &below, claim).await.unwrap();
        let view = disk.clone();
        Self { graph, node, guest, primary, devices, disk, view }
    }

    async fn start(&mut self) {
        self.graph.start_replication(SECONDARY).await.unwrap();
        self.view = self.disk.clone();
    }

    /// The names of all nodes but those that were made up, whether they are only read, and where
    /// their edges lead.
    fn shape(&self) -> Vec<String> {
        let name = |node: &Node| match node.name().starts_with('#') {
            true => node.driver().to_string(),
            false => node.name().to_string(),
        };
        let line = |node: &Arc<Node>| {
            let to = |edge: &Arc<crate::graph::Edge>| {
                format!("{}={}", edge.name(), edge.target().map_or("-".into(), |to| name(&to)))
            };
            let edges: Vec<_> = node.children().iter().map(to).collect();
            format!("{} {} {}", name(node), node.settings().read_only, edges.join(" "))
        };
        self.graph.nodes().iter().map(line).collect()
    }

    async fn write(&mut self, by_guest: bool, at: usize, data: &[u8]) {
        let (root, flat) = match by_guest {
            true => (&self.guest, &mut self.view),
            false => (&self.primary, &mut self.disk),
        };
        let written = Segments::from(data.to_vec());
        root.write(at as u64, written, WriteFlags::empty()).await.unwrap();
        flat[at..at + data.len()].copy_from_slice(data);
    }

    #[track_caller]
    fn same(found: &[u8], wanted: &[u8], what: &str) {
        let differs = found.iter().zip(wanted).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{what} differs at that offset");
        assert_eq!(found.len(), wanted.len(), "{what}");
    }

    /// Both see what they are to see.
    async fn check(&self) {
        let seen = self.guest.read(0, SIZE).await.unwrap().to_vec();
        Self::same(&seen, &self.view, "what the guest sees");
        let seen = self.primary.read(0, SIZE).await.unwrap().to_vec();
        Self::same(&seen, &self.disk, "the disk");
    }

    /// Buffers something in every way: written by one side, by both, whole clusters and parts,
    /// zeroes.
    async fn fill(&mut self) {
        self.write(true, 70_000, &[201; 3000]).await;
        self.write(false, 71_000, &[202; 140_000]).await;
        self.write(true, 200_000, &[203; 70_000]).await;
        let none = ZeroFlags::empty();
        self.guest.write_zeroes(400_000, 100_000, none).await.unwrap();
        self.view[400_000..500_000].fill(0);
        self.primary.write_zeroes(600_000, 100_000, ZeroFlags::MAY_UNMAP).await.unwrap();
        self.disk[600_000..700_000].fill(0);
        self.check().await;
    }

    fn clear_faults(&self) {
        self.devices.values().for_each(|device| device.clear());
    }
}

/// One step of the model. A request of the primary and one of the guest are under way together.
async fn step(pair: &mut Secondary, rng: &mut Rng) {
    let range = |rng: &mut Rng| {
        let at = rng.below(SIZE);
        (at as usize, rng.below((SIZE - at).min(200_000)) as usize + 1)
    };
    let clamp = |(at, len): (usize, usize)| (at, len.min(SIZE as usize - at));
    let (theirs, ours) = (clamp(range(rng)), clamp(range(rng)));
    // Half of the time they meet in the same place.
    let ours = if rng.chance(50) { theirs } else { ours };
    let (a, b) = (rng.next_u64() as u8, rng.next_u64() as u8);
    let none = WriteFlags::empty();
    let primary = pair.primary.clone();
    let sent: BoxFuture<'_, Result<()>> = match rng.below(4) {
        0 => primary.write_zeroes(theirs.0 as u64, theirs.1 as u64, ZeroFlags::MAY_UNMAP),
        1 => Box::pin(async { Ok(()) }),
        _ => primary.write(theirs.0 as u64, Segments::from(alloc::vec![a; theirs.1]), none),
    };
    let kind = rng.below(5);
    let guest = pair.guest.clone();
    let (at, len) = (ours.0 as u64, ours.1 as u64);
    let seen: BoxFuture<'_, Result<Option<Vec<u8>>>> = match kind {
        0 => Box::pin(async {
            guest.write_zeroes(at, len, ZeroFlags::MAY_UNMAP).await.map(|()| None)
        }),
        1 => Box::pin(async { guest.discard(at, len).await.map(|()| None) }),
        2 => Box::pin(async {
            let data = Segments::from(alloc::vec![b; len as usize]);
            guest.write(at, data, none).await.map(|()| None)
        }),
        _ => Box::pin(async { guest.read(at, len).await.map(|data| Some(data.to_vec())) }),
    };
    let is_zero = matches!(kind, 0);
    let before = pair.primary.read(theirs.0 as u64, theirs.1 as u64).await.unwrap().to_vec();
    let (sent, seen) = join(sent, seen).await;
    sent.unwrap();
    let after = pair.primary.read(theirs.0 as u64, theirs.1 as u64).await.unwrap().to_vec();
    // What was sent is one value, zeroes or nothing.
    let uniform = after.iter().all(|byte| *byte == after[0]);
    assert!(uniform || after == before, "a write of the primary is whole");
    pair.disk[theirs.0..theirs.0 + theirs.1].copy_from_slice(&after);
    match seen.unwrap() {
        Some(data) => {
            Secondary::same(&data, &pair.view[ours.0..ours.0 + ours.1], "what the guest read");
        }
        None if kind == 1 => {}
        None => pair.view[ours.0..ours.0 + ours.1].fill(if is_zero { 0 } else { b }),
    }
}

#[test]
fn a_guest_sees_the_last_checkpoint_and_its_own_writes() {
    for seed in 0..12 {
        let sim = SimRuntime::new(seed);
        let mut rng = Rng::new(seed);
        let sizes = [4096, 65536, 65536, 262_144];
        let clusters = [*rng.pick(&sizes), *rng.pick(&sizes)];
        sim.block_on(async {
            let mut pair = Secondary::new(&sim, clusters).await;
            pair.start().await;
            for _ in 0..60 {
                match rng.below(12) {
                    0 => {
                        pair.graph.checkpoint_replication().await.unwrap();
                        pair.view = pair.disk.clone();
                    }
                    1 => pair.check().await,
                    _ => step(&mut pair, &mut rng).await,
                }
            }
            pair.check().await;
            let failover = rng.chance(70);
            pair.graph.stop_replication(failover).await.unwrap();
            match failover {
                true => pair.disk = pair.view.clone(),
                false => pair.view = pair.disk.clone(),
            }
            pair.check().await;
            pair.graph.replication_error().unwrap();
            if failover {
                // From here on both are the same disk.
                pair.write(true, 1000, &[7; 5000]).await;
                pair.disk = pair.view.clone();
                pair.write(false, 3000, &[8; 5000]).await;
                pair.view = pair.disk.clone();
                pair.check().await;
            }
        });
    }
}

#[test]
fn nothing_is_read_or_written_before_the_start() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let pair = Secondary::new(&sim, [65536; 2]).await;
        assert_eq!(pair.guest.read(0, 512).await.unwrap_err().kind(), ErrorKind::Io);
        let data = Segments::from(alloc::vec![1; 512]);
        let written = pair.guest.write(0, data, WriteFlags::empty()).await;
        assert_eq!(written.unwrap_err().kind(), ErrorKind::Io);
        let text = |result: Result<()>| result.unwrap_err().what().to_string();
        let graph = &pair.graph;
        assert_eq!(text(graph.replication_error()), "Block replication is not running");
        let checkpoint = graph.checkpoint_replication().await;
        assert_eq!(text(checkpoint), "Backup job was cancelled unexpectedly");
        let stopped = graph.stop_replication(false).await;
        assert_eq!(text(stopped), "Block replication is not running");
        graph.stop_replication(true).await.unwrap();
        let other = graph.start_replication(ReplicationMode::Primary).await;
        let wrong = "The parameter mode's value is invalid, needs 1, but got 0";
        assert_eq!(text(other), wrong);
        graph.start_replication(SECONDARY).await.unwrap();
        let again = graph.start_replication(ReplicationMode::Primary).await;
        assert_eq!(text(again), "Block replication is running or done");
        graph.stop_replication(true).await.unwrap();
        // It is over: nothing more follows.
        graph.start_replication(ReplicationMode::Primary).await.unwrap();
        graph.checkpoint_replication().await.unwrap();
        graph.stop_replication(false).await.unwrap();
        assert!(!pair.shape().iter().any(|line| line.contains("copy-before-write")));
    });
}

/// Does the same in worlds of their own with `n` counting up, until it says that no call number `n` was
/// there to fail.
fn fail_each_call(mut run: impl AsyncFnMut(&SimRuntime, u64) -> bool) {
    for n in 0.. {
        let sim = SimRuntime::new(n);
        if !sim.block_on(run(&sim, n)) {
            break;
        }
    }
}

#[test]
fn a_start_that_fails_leaves_the_graph_as_it_was() {
    let mut failures = 0;
    for name in ["active", "hidden", "disk"] {
        fail_each_call(async |sim, n| {
            let mut pair = Secondary::new(sim, [65536; 2]).await;
            let before = pair.shape();
            pair.devices[name].add(Fault::new(ErrorKind::Io).nth(n));
            let result = pair.graph.start_replication(SECONDARY).await;
            let failed = pair.devices[name].failed() > 0;
            pair.clear_faults();
            if result.is_err() {
                assert!(failed, "{result:?}");
                assert_eq!(pair.shape(), before, "call {n} of {name}");
                assert!(pair.guest.read(0, 512).await.is_err());
                assert!(pair.graph.replication_error().is_err());
                // The primary goes on as if nothing had been.
                pair.write(false, 5000, &[9; 5000]).await;
                let seen = pair.primary.read(0, SIZE).await.unwrap().to_vec();
                Secondary::same(&seen, &pair.disk, "the disk");
                failures += 1;
            } else {
                pair.view = pair.disk.clone();
                pair.check().await;
            }
            failed
        });
    }
    assert!(failures > 5, "{failures}");
}

#[test]
fn a_failover_that_fails_shows_the_same_and_can_be_repeated() {
    let (mut failures, mut repeated) = (0, 0);
    for (name, kinds) in [
        ("active", CallKinds::all()),
        ("hidden", CallKinds::all()),
        ("disk", CallKinds::all()),
        ("disk", CallKinds::WRITE | CallKinds::WRITE_ZEROES),
    ] {
        fail_each_call(async |sim, n| {
            let mut pair = Secondary::new(sim, [65536; 2]).await;
            pair.start().await;
            pair.fill().await;
            let fault = Fault::new(ErrorKind::Io).on(CallFilter::of(kinds));
            pair.devices[name].add(fault.nth(n));
            let result = pair.graph.stop_replication(true).await;
            let failed = pair.devices[name].failed() > 0;
            pair.clear_faults();
            let seen = pair.guest.read(0, SIZE).await.unwrap().to_vec();
            Secondary::same(&seen, &pair.view, "what the guest sees");
            if result.is_err() {
                failures += 1;
                assert!(pair.graph.replication_error().is_err());
                // What arrives still does not reach the guest, and what it writes stays its own.
                let data = Segments::from(alloc::vec![11; 5000]);
                let none = WriteFlags::empty();
                let _ = pair.primary.write(300_000, data, none).await;
                pair.write(true, 800_000, &[12; 5000]).await;
                let seen = pair.guest.read(0, SIZE).await.unwrap().to_vec();
                Secondary::same(&seen, &pair.view, "what the guest sees after that");
                // A flush that has failed stays so.
                repeated += usize::from(pair.graph.stop_replication(true).await.is_ok());
                let seen = pair.guest.read(0, SIZE).await.unwrap().to_vec();
                Secondary::same(&seen, &pair.view, "what the guest sees at the end");
            } else {
                pair.disk = pair.view.clone();
                pair.check().await;
            }
            failed
        });
    }
    assert!(failures > 5 && repeated > 3, "{failures} {repeated}");
}

#[test]
fn a_checkpoint_that_fails_shows_no_mixture() {
    let (mut failures, mut repeated) = (0, 0);
    for name in ["active", "hidden"] {
        fail_each_call(async |sim, n| {
            let mut pair = Secondary::new(sim, [65536; 2]).await;
            pair.start().await;
            pair.fill().await;
            pair.devices[name].add(Fault::new(ErrorKind::Io).nth(n));
            let result = pair.graph.checkpoint_replication().await;
            let failed = pair.devices[name].failed() > 0;
            pair.clear_faults();
            if result.is_err() {
                failures += 1;
                assert!(pair.guest.read(0, 512).await.is_err());
                assert!(pair.graph.replication_error().is_err());
                assert!(pair.graph.stop_replication(true).await.is_err());
                // The disk is the primary's all the time.
                let seen = pair.primary.read(0, SIZE).await.unwrap().to_vec();
                Secondary::same(&seen, &pair.disk, "the disk");
                if pair.graph.checkpoint_replication().await.is_err() {
                    return failed;
                }
                repeated += 1;
            }
            pair.view = pair.disk.clone();
            pair.check().await;
            pair.fill().await;
            failed
        });
    }
    assert!(failures > 5, "{failures} {repeated}");
}

#[test]
fn all_sides_are_started_or_none() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let mut pair = Secondary::new(&sim, [65536; 2]).await;
        let add = |text: &str| {
            let (graph, options) = (pair.graph.clone(), Options::parse_json(text).unwrap());
            async move { graph.add(options).await.unwrap() }
        };
        // The good side comes first, and then last: the newest is started first.
        let bad = "{'driver': 'replication', 'node-name': 'bad', 'mode': 'secondary', \
                   'top-id': 'bad', 'file': {'driver': 'null-co', 'size': 1048576}}";
        let other = "{'driver': 'replication', 'node-name': 'other', 'mode': 'secondary', \
                     'top-id': 'other', 'file': 'active'}";
        for (text, wanted) in [
            (bad, "Active disk doesn't have backing file"),
            (other, "Node 'active' is busy: another replication uses it"),
        ] {
            let added = add(text).await.name().to_string();
            let before = pair.shape();
            let failed = pair.graph.start_replication(SECONDARY).await.unwrap_err();
            assert_eq!(failed.what(), wanted);
            assert_eq!(pair.shape(), before);
            assert!(pair.guest.read(0, 512).await.is_err());
            pair.graph.remove(&added).await.unwrap();
        }
        add(bad).await;
        pair.graph.detach(&pair.guest).await.unwrap();
        pair.graph.remove("side").await.unwrap();
        let side = "{'driver': 'replication', 'node-name': 'side', 'mode': 'secondary', \
                    'top-id': 'side', 'file': 'active'}";
        pair.node = add(side).await;
        let claim = pair.primary.wanted();
        pair.guest = pair.graph.attach("", &pair.node, claim).await.unwrap();
        let before = pair.shape();
        assert!(pair.graph.start_replication(SECONDARY).await.is_err());
        assert_eq!(pair.shape(), before);
        assert!(pair.guest.read(0, 512).await.is_err());
        pair.graph.remove("bad").await.unwrap();
        pair.start().await;
        pair.fill().await;
    });
}

/// What is given up midway.
#[derive(Clone, Copy, PartialEq)]
enum Command {
    Start,
    Checkpoint,
    Failover,
    Stop,
}

#[test]
fn commands_can_be_given_up_at_every_await() {
    for command in [Command::Start, Command::Checkpoint, Command::Failover, Command::Stop] {
        let sim = SimRuntime::new(1);
        let dropped = sim.block_on(drop_at_each_await(
            async || {
                let mut pair = Secondary::new(&sim, [65536; 2]).await;
                if command != Command::Start {
                    pair.start().await;
                    pair.fill().await;
                }
                let graph = pair.graph.clone();
                let work: BoxFuture<'static, Result<()>> = Box::pin(async move {
                    match command {
                        Command::Start => graph.start_replication(SECONDARY).await,
                        Command::Checkpoint => graph.checkpoint_replication().await,
                        Command::Failover => graph.stop_replication(true).await,
                        Command::Stop => graph.stop_replication(false).await,
                    }
                });
                (pair, work)
            },
            async |mut pair, result| {
                let done = result.map(|result| result.unwrap()).is_some();
                let seen = pair.guest.read(0, SIZE).await.map(|data| data.to_vec());
                match command {
                    Command::Start if !done => {
                        if seen.is_err() {
                            let tied = pair.shape().join("\n").contains("copy-before-write");
                            assert!(!tied, "{:?}", pair.shape());
                            pair.start().await;
                        }
                        pair.check().await;
                        pair.fill().await;
                    }
                    Command::Failover => {
                        // At every point it is what it was.
                        Secondary::same(&seen.unwrap(), &pair.view, "what the guest sees");
                        pair.graph.stop_replication(true).await.unwrap();
                        pair.disk = pair.view.clone();
                        pair.check().await;
                    }
                    _ => {
                        // All of the old, all of the new, or nothing.
                        if let Ok(seen) = seen {
                            assert!(seen == pair.view || seen == pair.disk, "a mixture");
                        }
                        if command == Command::Checkpoint {
                            pair.graph.checkpoint_replication().await.unwrap();
                        } else {
                            pair.graph.stop_replication(false).await.unwrap();
                        }
                        pair.view = pair.disk.clone();
                        pair.check().await;
                    }
                }
            },
        ));
        assert!(dropped > 10, "{dropped}");
    }
}

#[test]
fn a_side_that_goes_away_while_it_runs_leaves_the_disk_to_others() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let mut pair = Secondary::new(&sim, [65536; 2]).await;
        pair.start().await;
        pair.fill().await;
        let busy = pair.graph.remove("side").await.unwrap_err();
        let wanted = "Node 'side' is busy: Block device is in use by internal backup job";
        assert_eq!(busy.what(), wanted);
        for name in ["active", "hidden"] {
            let node = pair.graph.find(name).unwrap();
            let busy = pair.graph.refuse_busy(&node).unwrap_err();
            assert!(busy.what().contains("is busy"), "{busy}");
        }
        // Its owner goes away, and takes it along.
        pair.graph.detach(&pair.guest).await.unwrap();
        pair.node.set_owned(false);
        pair.graph
            .detach(&pair.graph.attach("", &pair.node, Claim::NONE).await.unwrap())
            .await
            .unwrap();
        assert!(pair.graph.find("side").is_none());
        assert!(!pair.shape().iter().any(|line| line.contains("copy-before-write")));
        let seen = pair.primary.read(0, SIZE).await.unwrap().to_vec();
        Secondary::same(&seen, &pair.disk, "the disk");
        pair.write(false, 0, &[1; 100_000]).await;
        // What was buffered is there still.
        let active = pair.graph.find("active").unwrap();
        let seen = active.device().read(70_000, 3000).await.unwrap().to_vec();
        Secondary::same(&seen, &pair.view[70_000..73_000], "the active disk");
        pair.graph.close().await.unwrap();
        assert!(pair.graph.nodes().is_empty());
    });
}
