//! Which events of `DebugEvent` an image raises, against what the reference raises for the same
//! request (`qemu-io` on qcow2 over `blkdebug`, one run with a rule for each event). Tables are
//! written back by this engine at flushes, in its own order; their events come with them.

use super::super::{CreateOptions, create};
use super::Always;
use crate::Result;
use crate::filter::CopyOnRead;
use crate::format::{BackingRef, Env, FormatName, Layer, NewSnapshot, OpenOptions, open};
use crate::io::testing::SimRuntime;
use crate::io::{
    Access, BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    MemoryDevice, Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::sync::Mutex;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

const CLUSTER: usize = 64 << 10;

/// A file that keeps what it is told.
#[derive(Debug)]
struct Spy {
    inner: MemoryDevice,
    events: Mutex<Vec<DebugEvent>>,
}

impl BlockDevice for Spy {
    fn len(&self) -> u64 {
        self.inner.len()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn capabilities(&self) -> Capabilities {
        // Without a fast way to zeroes, as a file in a file system that has none.
        self.inner.capabilities() - Capabilities::FAST_ZERO
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.inner.read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.inner.write(offset, data, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.inner.write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.inner.discard(offset, len)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.inner.set_len(len, preallocation)
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.inner.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.inner.info()
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.events.lock().push(event);
        None
    }
}

struct Bench {
    sim: SimRuntime,
    spy: Arc<Spy>,
    env: Env,
    layer: Arc<Layer>,
}

impl Bench {
    /// An image of 64 MiB, above one full of sevens if there is a backing file.
    fn new(backed: bool) -> Self {
        let sim = SimRuntime::new(1);
        let spy = Arc::new(Spy { inner: MemoryDevice::new(0), events: Mutex::default() });
        let below: Device = Arc::new(MemoryDevice::with_data(&vec![7; 4 * CLUSTER]));
        let env = Env { runtime: sim.handle(), policy: Arc::new(Always(below)) };
        let backing =
            backed.then(|| BackingRef { name: "base".into(), format: Some("raw".into()) });
        let options = CreateOptions { size: 64 << 20, backing, ..CreateOptions::default() };
        let file: Device = spy.clone();
        sim.block_on(create(&sim.handle(), &file, None, &options)).expect("created");
        let layer = sim.block_on(Self::open(&env, file)).expect("opened");
        Self { sim, spy, env, layer }
    }

    async fn open(env: &Env, file: Device) -> Result<Arc<Layer>> {
        let format = Some(FormatName::Qcow2);
        let options = OpenOptions { format, access: Access::ReadWrite, ..OpenOptions::default() };
        open(env, file, "image", options).await
    }

    fn reopen(&mut self) {
        let (env, file) = (self.env.clone(), self.spy.clone());
        self.layer = self
            .sim
            .block_on(async {
                self.layer.close().await?;
                Self::open(&env, file).await
            })
            .expect("opened again");
    }

    /// The names of the events of what is done, each once, in the order of their first time.
    fn events(&self, work: impl AsyncFnOnce(&Layer) -> Result<()>) -> Vec<&'static str> {
        self.spy.events.lock().clear();
        self.sim.block_on(work(&self.layer)).expect("done");
        let mut names = Vec::new();
        for event in self.spy.events.lock().iter() {
            if !names.contains(&event.as_str()) {
                names.push(event.as_str());
            }
        }
        names
    }
}

fn data(len: usize) -> Segments {
    vec![9; len].into()
}

async fn write(layer: &Layer, offset: usize, len: usize) -> Result<()> {
    layer.write(offset as u64, data(len), WriteFlags::empty()).await
}

/// Checks that these are among the events.
#[track_caller]
fn has(events: &[&str], wanted: &[&str]) {
    for name in wanted {
        assert!(events.contains(name), "{name} is missing: {events:?}");
    }
}

#[test]
fn reading_tells_where_the_bytes_come_from() {
    let mut bench = Bench::new(true);
    bench.events(async |layer| {
        write(layer, 0, CLUSTER).await?;
        let packed = layer.write(CLUSTER as u64, data(CLUSTER), WriteFlags::COMPRESSED);
        packed.await?;
        layer.flush().await
    });
    let read = async |layer: &Layer, cluster: usize| {
        layer.read((cluster * CLUSTER) as u64, 512).await.map(drop)
    };
    assert_eq!(bench.events(async |layer| read(layer, 0).await), ["read_aio"]);
    assert_eq!(bench.events(async |layer| read(layer, 1).await), ["read_compressed"]);
    assert_eq!(bench.events(async |layer| read(layer, 2).await), ["read_backing_aio"]);
    bench.reopen();
    assert!(bench.spy.events.lock().contains(&DebugEvent::ReftableLoad));
    assert_eq!(bench.events(async |layer| read(layer, 0).await), ["l2_load", "read_aio"]);
}

#[test]
fn a_first_write_allocates_and_a_flush_writes_tables() {
    let bench = Bench::new(false);
    let first = bench.events(async |layer| write(layer, 0, CLUSTER).await);
    has(
        &first,
        &["cluster_alloc", "refblock_alloc", "refblock_load", "l2_alloc_write", "write_aio"],
    );
    let flush = bench.events(async |layer| layer.flush().await);
    // The reference writes the first L1 entry with the write, and the rest in this order.
    assert_eq!(flush[0], "flush_to_os");
    has(&flush, &["refblock_update_part", "l2_update", "l1_update", "flush_to_disk"]);
    let place = |name| flush.iter().position(|event| *event == name);
    assert!(place("refblock_update_part") < place("l2_update"));
    assert!(place("l2_update") < place("flush_to_disk"));
    assert_eq!(bench.events(async |layer| write(layer, 5, 100).await), ["write_aio"]);
}

/// The same order as the reference's.
#[test]
fn a_part_of_a_cluster_copies_what_is_around_it() {
    let bench = Bench::new(true);
    let events = bench.events(async |layer| write(layer, 4096, 4096).await);
    let from = events.iter().position(|event| *event == "cow_read").expect("it copies");
    assert_eq!(events[from..from + 4], ["cow_read", "read_backing_aio", "write_aio", "cow_write"]);
}

#[test]
fn after_a_snapshot_tables_and_clusters_are_copied() {
    let bench = Bench::new(false);
    bench.events(async |layer| {
        write(layer, 0, CLUSTER).await?;
        layer.driver().snapshots().expect("it has").create(NewSnapshot::default()).await?;
        layer.flush().await
    });
    let events = bench.events(async |layer| {
        write(layer, 4096, 4096).await?;
        layer.flush().await
    });
    has(
        &events,
        &[
            "l2_alloc_cow_read",
            "l2_alloc_write",
            "read_aio",
            "cow_read",
            "cow_write",
            "cluster_alloc",
            "l1_update",
            "l2_update",
            "refblock_update_part",
        ],
    );
}

#[test]
fn compressed_writes_discards_and_states_have_events_of_their_own() {
    let bench = Bench::new(false);
    let events = bench.events(async |layer| {
        layer.write(0, data(CLUSTER), WriteFlags::COMPRESSED).await?;
        layer.flush().await
    });
    has(
        &events,
        &[
            "cluster_alloc_bytes",
            "write_compressed",
            "l2_update_compressed",
            "l2_update",
            "flush_to_disk",
        ],
    );
    assert!(!events.contains(&"write_aio"));
    let events = bench.events(async |layer| {
        write(layer, CLUSTER, CLUSTER).await?;
        layer.flush().await?;
        layer.discard(CLUSTER as u64, CLUSTER as u64).await?;
        layer.flush().await
    });
    has(&events, &["cluster_free", "refblock_update_part"]);
    let saved = bench.events(async |layer| layer.write_vm_state(0, data(512)).await);
    has(&saved, &["vmstate_save", "l1_grow_alloc_table", "l1_grow_write_table", "write_aio"]);
    has(&saved, &["l1_grow_activate_table"]);
    let loaded = bench.events(async |layer| layer.read_vm_state(0, 512).await.map(drop));
    assert_eq!(loaded[0], "vmstate_load");
}

#[test]
fn a_longer_disk_grows_its_table() {
    let bench = Bench::new(false);
    let events = bench.events(async |layer| layer.set_len(100 << 30, Preallocation::Off).await);
    has(
        &events,
        &["l1_grow_alloc_table", "l1_grow_write_table", "l1_grow_activate_table", "cluster_alloc"],
    );
}

#[test]
fn a_copy_on_read_says_so() {
    let bench = Bench::new(true);
    let layer = bench.layer.clone();
    let events = bench.events(async |_| CopyOnRead::new(layer).read(0, 512).await.map(drop));
    let from = events.iter().position(|event| *event == "cor_write").expect("it copies");
    has(&events[from..], &["write_aio"]);
}
