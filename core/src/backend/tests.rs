//! Backends over nodes that fail on purpose.
#![cfg(all(feature = "testing", feature = "raw", feature = "qcow2"))]

use super::{Accounting, Backend, Backends, Boundaries, ErrorPolicy, NewBackend};
use crate::ErrorKind;
use crate::graph::tests::world::World;
use crate::io::{BlockDevice, Device, Segments, WriteFlags};
use crate::qapi::{BlockDeviceIoStatus, BlockdevOnError, RunState};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

struct Machine {
    world: World,
    backends: Arc<Backends>,
}

impl Machine {
    /// A backend `d` over a disk of which the first `iotype` request fails with `errno`.
    fn failing(iotype: &str, errno: u32, read: BlockdevOnError, write: BlockdevOnError) -> Self {
        let world = World::new(1);
        world
            .add(&format!(
                "{{'driver': 'blkdebug', 'node-name': 'n', 'discard': 'unmap', 'image': {{'driver': 'file', \
                 'filename': 'raw'}}, 'inject-error': [{{'event': 'none', 'iotype': '{iotype}', \
                 'errno': {errno}, 'once': true}}]}}"
            ))
            .unwrap();
        let backends = Backends::new(world.graph.clone());
        let machine = Self { world, backends };
        let policy = ErrorPolicy { read, write };
        machine.add(NewBackend { policy, ..new("d", "n") }).unwrap();
        machine
    }

    fn add(&self, new: NewBackend) -> Result<Arc<Backend>, String> {
        self.world.sim.block_on(self.backends.add(new)).map_err(|e| e.what().into())
    }

    fn disk(&self) -> Arc<Backend> {
        self.backends.find("d").unwrap()
    }

    /// The names of what was told since the last call, with what followed an error.
    fn heard(&self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(event) = self.world.heard.try_next() {
            out.push(match event.data.get("action").and_then(|action| action.as_str()) {
                Some(action) => format!("{} {action}", event.name),
                None => event.name.into(),
            });
        }
        out
    }

    fn write(&self, at: u64, byte: u8) -> crate::Result<()> {
        let data = Segments::from(vec![byte; 512]);
        self.world.sim.block_on(self.disk().write(at, data, WriteFlags::empty()))
    }
}

fn new(id: &str, node_name: &str) -> NewBackend {
    NewBackend {
        id: id.into(),
        node_name: node_name.into(),
        policy: ErrorPolicy::default(),
        read_only: false,
        share_rw: false,
        accounting: Accounting::default(),
    }
}

#[test]
fn what_follows_an_error_is_what_was_asked_for() {
    use BlockdevOnError::{Auto, Enospc, Ignore, Report, Stop};
    for (iotype, errno, read, write, told, failed, stopped) in [
        ("write", 5, Auto, Auto, "report", true, false),
        ("write", 28, Auto, Auto, "stop", false, true),
        ("write", 28, Auto, Report, "report", true, false),
        ("write", 5, Auto, Enospc, "report", true, false),
        ("write", 5, Auto, Ignore, "ignore", false, false),
        ("write", 5, Auto, Stop, "stop", false, true),
        ("read", 28, Auto, Auto, "report", true, false),
        ("read", 5, Ignore, Stop, "ignore", false, false),
        ("read", 5, Stop, Report, "stop", false, true),
        ("flush", 5, Report, Stop, "stop", false, true),
        ("discard", 28, Report, Enospc, "stop", false, true),
    ] {
        let machine = Machine::failing(iotype, errno, read, write);
        let what = format!("{iotype} {errno} {read:?} {write:?}");
        let disk = machine.disk();
        let ended = Arc::new(crate::sync::Mutex::new(None));
        let (ends, kind) = (ended.clone(), String::from(iotype));
        machine.world.sim.handle().spawn(Box::pin(async move {
            let result = match kind.as_str() {
                "write" => disk.write(0, vec![7; 512].into(), WriteFlags::empty()).await,
                "read" => disk.read(0, 512).await.map(|_| ()),
                "flush" => disk.flush().await,
                _ => disk.discard(0, 4096).await,
            };
            *ends.lock() = Some(result.is_ok());
        }));
        machine.world.sim.block_on(machine.world.sim.handle().sleep(Duration::from_secs(1)));
        let mut want = vec![format!("BLOCK_IO_ERROR {told}")];
        if stopped {
            want.push("STOP".into());
        }
        assert_eq!(machine.heard(), want, "{what}");
        assert_eq!(*ended.lock(), (!stopped).then_some(!failed), "{what}: held while stopped");
        let status = machine.backends.machine().status();
        assert_eq!(status.running, !stopped, "{what}");
        if stopped {
            assert_eq!(status.status, RunState::IoError);
            let want = match errno {
                28 => BlockDeviceIoStatus::Nospace,
                _ => BlockDeviceIoStatus::Failed,
            };
            assert_eq!(machine.disk().io_status(), want, "{what}");
            machine.backends.resume();
            machine.world.sim.block_on(machine.world.sim.handle().sleep(Duration::from_secs(1)));
            assert_eq!(*ended.lock(), Some(true), "{what}: it is made again");
            assert_eq!(machine.heard(), ["RESUME"]);
            assert_eq!(machine.disk().io_status(), BlockDeviceIoStatus::Ok);
        }
    }
}

#[test]
fn a_stopped_machine_holds_requests_and_does_not_hold_up_changes() {
    let machine = Machine::failing("read", 5, BlockdevOnError::Report, BlockdevOnError::Report);
    machine.backends.machine().stop();
    machine.backends.machine().stop();
    assert_eq!(machine.heard(), ["STOP"]);
    let disk = machine.disk();
    machine.world.sim.handle().spawn(Box::pin(async move {
        disk.write(512, vec![9; 512].into(), WriteFlags::empty()).await.unwrap();
    }));
    let sim = &machine.world.sim;
    sim.block_on(sim.handle().sleep(Duration::from_secs(1)));
    let node = machine.world.graph.find("n").unwrap();
    drop(sim.block_on(machine.world.graph.quiet(&node)));
    assert_eq!(machine.disk().statistics().told(sim.handle().now(), 0).wr_operations, 0);
    machine.backends.resume();
    sim.block_on(sim.handle().sleep(Duration::from_secs(1)));
    assert_eq!(machine.disk().statistics().told(sim.handle().now(), 0).wr_operations, 1);
    assert_eq!(machine.heard(), ["RESUME"]);
}

#[test]
fn names_permissions_and_users_are_respected() {
    let machine = Machine::failing("read", 5, BlockdevOnError::Report, BlockdevOnError::Report);
    assert_eq!(machine.add(new("d", "n")).unwrap_err(), "Duplicate device ID 'd'");
    assert!(machine.add(new("n", "n")).unwrap_err().contains("conflicting with a node name"));
    assert!(machine.add(new("e", "x")).unwrap_err().starts_with("Cannot find device='x'"));
    assert!(machine.add(new("e", "n")).unwrap_err().contains("by block device 'd' (uses"));
    machine.add(NewBackend { read_only: true, share_rw: true, ..new("e", "n") }).unwrap();
    let clash = "{'driver': 'null-co', 'node-name': 'd'}";
    assert_eq!(
        machine.world.add(clash).unwrap_err(),
        "node-name=d is conflicting with a device id"
    );
    let lookup = |name| machine.world.graph.lookup(Some(name), None);
    assert_eq!(lookup("d").unwrap().name(), "n");
    assert_eq!(lookup("f").unwrap_err().kind(), ErrorKind::NotFound);
    let user = machine.disk().enter();
    let remove = |id: &str| machine.world.sim.block_on(machine.backends.remove(id));
    assert_eq!(remove("d").unwrap_err().kind(), ErrorKind::InUse);
    drop(user);
    remove("d").unwrap();
    assert_eq!(remove("d").unwrap_err().kind(), ErrorKind::NotFound);
    remove("e").unwrap();
    assert_eq!(machine.world.remove("n"), Ok(()));
}

#[test]
fn every_request_is_counted_once_and_where_it_belongs() {
    let machine = Machine::failing("write", 5, BlockdevOnError::Auto, BlockdevOnError::Report);
    let sim = &machine.world.sim;
    let disk = machine.disk();
    let told = || disk.statistics().told(sim.handle().now(), 0);
    assert_eq!(told().idle_time_ns, None, "nothing was done yet");
    let borders = Boundaries { read: Some(vec![10, 1_000_000]), ..Boundaries::default() };
    disk.statistics().set_boundaries(borders).unwrap();
    for wrong in [vec![], vec![0, 1], vec![5, 5], vec![5, 4]] {
        let borders = Boundaries { write: Some(wrong), ..Boundaries::default() };
        assert!(disk.statistics().set_boundaries(borders).is_err());
    }
    machine.write(0, 1).unwrap_err();
    machine.write(0, 1).unwrap();
    machine.write(512, 1).unwrap();
    for _ in 0..3 {
        sim.block_on(disk.read(0, 4096)).unwrap();
    }
    sim.block_on(disk.read(1 << 40, 4096)).unwrap_err();
    sim.block_on(disk.flush()).unwrap();
    sim.block_on(disk.discard(0, 1024)).unwrap();
    let got = told();
    let writes = (got.wr_operations, got.wr_bytes, got.failed_wr_operations);
    assert_eq!(writes, (2, 1024, 1));
    assert_eq!((got.rd_operations, got.rd_bytes, got.invalid_rd_operations), (3, 12288, 1));
    assert_eq!((got.flush_operations, got.unmap_operations, got.unmap_bytes), (1, 1, 1024));
    let histogram = got.rd_latency_histogram.unwrap();
    assert_eq!((histogram.bins.len(), histogram.bins.iter().sum::<u64>()), (3, 3));
    assert!(got.wr_latency_histogram.is_none());
    sim.block_on(sim.handle().sleep(Duration::from_secs(5)));
    assert!(told().idle_time_ns.unwrap() >= 5_000_000_000);
    disk.statistics().set_boundaries(Boundaries::default()).unwrap();
    assert!(told().rd_latency_histogram.is_none());
}

#[test]
fn intervals_forget_what_is_older() {
    let world = World::new(3);
    world
        .add("{'driver': 'null-co', 'node-name': 'n', 'size': 65536, 'latency-ns': 2000000}")
        .unwrap();
    let backends = Backends::new(world.graph.clone());
    let intervals = vec![Duration::from_secs(10)];
    let accounting = Accounting { intervals, ..Accounting::default() };
    let disk =
        world.sim.block_on(backends.add(NewBackend { accounting, ..new("d", "n") })).unwrap();
    world.sim.block_on(disk.read(0, 512)).unwrap();
    let told = || disk.statistics().told(world.sim.handle().now(), 0).timed_stats[0].clone();
    let first = told();
    assert_eq!(first.interval_length, 10);
    assert!(first.avg_rd_latency_ns >= 2_000_000 && first.min_rd_latency_ns >= 2_000_000);
    assert!(first.avg_rd_queue_depth > 0.0);
    assert_eq!(first.avg_wr_latency_ns, 0);
    world.sim.block_on(world.sim.handle().sleep(Duration::from_secs(25)));
    assert_eq!(told().max_rd_latency_ns, 0, "it is over");
}

#[test]
fn a_backend_is_a_device_like_any_other() {
    let machine = Machine::failing("flush", 5, BlockdevOnError::Auto, BlockdevOnError::Report);
    let disk: Device = machine.disk();
    assert_eq!(disk.len(), crate::graph::tests::world::SIZE);
    machine.world.sim.block_on(disk.write_zeroes(0, 512, crate::io::ZeroFlags::empty())).unwrap();
    let extents = machine.world.sim.block_on(disk.extents(0, 4096)).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.len).sum::<u64>(), 4096);
}
