//! What the file below is told to give up, and when.

use super::super::layout::{self as l, header as h};
use super::super::{CreateOptions, DataFileOptions, DiscardOptions, create};
use super::builder::{CLUSTER, DATA, FILL, Image, L1, L2, SIZE};
use super::{env, findings};
use crate::Result;
use crate::format::{DriverEvent, FormatName, Layer, NewSnapshot, NotFreed, OpenOptions, open};
use crate::io::testing::{CallKind, CallKinds, CountDevice, SimRuntime};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags, ZeroFlags};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

const LEN: u64 = CLUSTER as u64;

/// An image over a device that notes its calls.
struct Bench {
    runtime: SimRuntime,
    file: Arc<CountDevice>,
    data: Device,
}

impl Bench {
    fn new(image: &Image) -> Self {
        let file = Arc::new(CountDevice::new(image.device()));
        let data: Device = Arc::new(MemoryDevice::new(SIZE));
        Self { runtime: SimRuntime::new(1), file, data }
    }

    async fn open(&self, discard: DiscardOptions) -> Arc<Layer> {
        let format = Some(FormatName::Qcow2);
        let mut options =
            OpenOptions { format, access: Access::ReadWrite, ..OpenOptions::default() };
        options.qcow2.discard = discard;
        let env = env(&self.runtime, &self.data);
        open(&env, self.file.clone(), "image", options).await.expect("it opens")
    }

    /// The offsets and lengths that were given up since the last time.
    fn given_up(&self) -> Vec<(u64, u64)> {
        let trace = self.file.trace();
        self.file.reset();
        let discards = trace.iter().filter(|call| call.kind == CallKind::Discard);
        discards.map(|call| (call.offset, call.len)).collect()
    }

    async fn assert_sound(&self, layer: Arc<Layer>) {
        layer.close().await.expect("closed");
        drop(layer);
        let layer = self.open(DiscardOptions::default()).await;
        assert_eq!(findings(&layer).await.expect("a report"), []);
    }
}

async fn write(layer: &Layer, guest: u64, byte: u8) -> Result<()> {
    layer.write(guest, vec![byte; CLUSTER].into(), WriteFlags::empty()).await
}

async fn first(layer: &Layer) -> Vec<u8> {
    layer.read(0, LEN).await.expect("readable").to_vec()
}

fn keeping() -> DiscardOptions {
    DiscardOptions { no_unref: true, ..DiscardOptions::default() }
}

/// The table that does not lead to the cluster any more is durable before the file forgets it.
#[test]
fn space_is_given_up_after_the_change_is_durable() {
    for discard in [DiscardOptions::default(), keeping()] {
        let bench = Bench::new(&Image::v3());
        bench.runtime.block_on(async {
            let layer = bench.open(discard).await;
            bench.file.reset();
            layer.discard(0, LEN).await.expect("discarded");
            layer.flush().await.expect("durable");
            let trace = bench.file.trace();
            let at = |kind: CallKind, offset: usize| {
                let found = trace.iter().position(|c| c.kind == kind && c.offset == offset as u64);
                found.unwrap_or_else(|| panic!("{kind:?} at {offset:#x} in {trace:?}"))
            };
            let (table, hole) = (at(CallKind::Write, L2), at(CallKind::Discard, DATA));
            let flushed = trace[table..hole].iter().any(|call| call.kind == CallKind::Flush);
            assert!(table < hole && flushed, "{discard:?}: {trace:?}");
            assert_eq!(first(&layer).await, [0; CLUSTER]);
            bench.assert_sound(layer).await;
        });
    }
}

#[test]
fn options_decide_what_is_passed_on() {
    let hole = vec![(DATA as u64, LEN)];
    let (yes, no) = (Some(true), Some(false));
    let usual = DiscardOptions::default();
    for (discard, want) in [
        (usual, &hole),
        (DiscardOptions { pass_request: no, ..usual }, &vec![]),
        (DiscardOptions { pass_request: no, pass_other: yes, ..usual }, &vec![]),
        (DiscardOptions { pass_request: yes, pass_snapshot: no, ..usual }, &hole),
        (keeping(), &hole),
        (DiscardOptions { pass_request: no, ..keeping() }, &vec![]),
    ] {
        for zero in [false, true] {
            let bench = Bench::new(&Image::v3());
            bench.runtime.block_on(async {
                let layer = bench.open(discard).await;
                bench.file.reset();
                match zero {
                    true => layer.write_zeroes(0, LEN, ZeroFlags::MAY_UNMAP).await,
                    false => layer.discard(0, LEN).await,
                }
                .expect("done");
                layer.flush().await.expect("durable");
                assert_eq!(bench.given_up(), *want, "{discard:?}");
                let extents = layer.extents(0, LEN).await.expect("extents");
                let place = extents[0].host.as_ref().map(|host| host.offset);
                assert_eq!(place, discard.no_unref.then_some(DATA as u64), "{discard:?}");
                bench.assert_sound(layer).await;
            });
        }
    }
}

/// A snapshot's clusters are given up with it, and not what it shares with the disk.
#[test]
fn removed_snapshots_give_up_what_was_theirs_alone() {
    for pass in [true, false] {
        let bench = Bench::new(&Image::v3());
        bench.runtime.block_on(async {
            let discard = DiscardOptions { pass_snapshot: Some(pass), ..DiscardOptions::default() };
            let layer = bench.open(discard).await;
            write(&layer, LEN, 0x11).await.expect("writable");
            let snapshots = layer.driver().snapshots().expect("it has");
            let made = snapshots.create(NewSnapshot::default()).await.expect("made");
            write(&layer, 0, 0x22).await.expect("writable");
            layer.flush().await.expect("durable");
            bench.file.reset();
            snapshots.delete(&made.id).await.expect("removed");
            let given_up = bench.given_up();
            let old = given_up.iter().any(|(at, len)| (*at..at + len).contains(&(DATA as u64)));
            assert_eq!((old, given_up.is_empty()), (pass, !pass), "{given_up:x?}");
            let both = layer.read(0, 2 * LEN).await.expect("readable").to_vec();
            assert_eq!(both, [[0x22; CLUSTER], [0x11; CLUSTER]].concat());
            bench.assert_sound(layer).await;
        });
    }
}

/// The reference punches holes into what a snapshot still shows.
#[test]
fn a_place_that_a_snapshot_shares_is_kept_whole() {
    let bench = Bench::new(&Image::v3());
    bench.runtime.block_on(async {
        let layer = bench.open(keeping()).await;
        let snapshots = layer.driver().snapshots().expect("it has");
        let made = snapshots.create(NewSnapshot::default()).await.expect("made");
        bench.file.reset();
        layer.discard(0, LEN).await.expect("discarded");
        layer.flush().await.expect("durable");
        assert_eq!(bench.given_up(), []);
        assert_eq!(first(&layer).await, [0; CLUSTER]);
        snapshots.apply(&made.id).await.expect("applied");
        assert_eq!(first(&layer).await, [FILL; CLUSTER]);
        bench.assert_sound(layer).await;
    });
}

/// Who writes to a cluster that kept its place, before the file was told to give up what it holds,
/// keeps what he writes.
#[test]
fn a_place_that_is_used_again_is_not_given_up() {
    let bench = Bench::new(&Image::v3());
    bench.runtime.block_on(async {
        let layer = bench.open(keeping()).await;
        bench.file.reset();
        layer.discard(0, LEN).await.expect("discarded");
        write(&layer, 0, 0x33).await.expect("writable");
        layer.flush().await.expect("durable");
        assert_eq!(bench.given_up(), []);
        assert_eq!(first(&layer).await, [0x33; CLUSTER]);
        let extents = layer.extents(0, LEN).await.expect("extents");
        assert_eq!(extents[0].host.as_ref().map(|h| h.offset), Some(DATA as u64), "its old place");
        // And given up twice it is given up.
        layer.discard(0, LEN).await.expect("discarded");
        layer.flush().await.expect("durable");
        assert_eq!(bench.given_up(), [(DATA as u64, LEN)]);
        bench.assert_sound(layer).await;
    });
}

/// Places in a data file are always the same: what was written there since stays.
#[test]
fn a_data_file_gives_up_what_nobody_has_written_since() {
    for no_unref in [false, true] {
        let runtime = SimRuntime::new(1);
        let file: Device = Arc::new(MemoryDevice::new(0));
        let data = Arc::new(CountDevice::new(Arc::new(MemoryDevice::new(0))));
        let env = env(&runtime, &(data.clone() as Device));
        runtime.block_on(async {
            let options = CreateOptions {
                data_file: Some(DataFileOptions { name: "data".into(), raw: false }),
                size: 1 << 20,
                ..CreateOptions::default()
            };
            create(&env.runtime, &file, Some(&(data.clone() as Device)), &options)
                .await
                .expect("made");
            let mut options = OpenOptions { access: Access::ReadWrite, ..OpenOptions::default() };
            options.qcow2.discard.no_unref = no_unref;
            let layer = open(&env, file.clone(), "image", options).await.expect("it opens");
            let cluster = 1 << 16;
            let bytes = vec![0x44; 3 * cluster];
            layer.write(0, bytes.into(), WriteFlags::empty()).await.expect("writable");
            layer.flush().await.expect("durable");
            data.reset();
            layer.discard(0, 3 << 16).await.expect("discarded");
            let again = vec![0x55; cluster];
            layer.write(1 << 16, again.into(), WriteFlags::empty()).await.expect("writable");
            layer.flush().await.expect("durable");
            let want = ["discard 0x0+0x10000", "discard 0x20000+0x10000"];
            data.assert_trace(CallKinds::DISCARD, &want);
            let all = layer.read(0, 3 << 16).await.expect("readable").to_vec();
            let parts = [vec![0; cluster], vec![0x55; cluster], vec![0; cluster]];
            assert_eq!(all, parts.concat());
            layer.close().await.expect("closed");
            assert_eq!(findings(&layer).await.expect("a report"), []);
        });
    }
}

/// A damaged table leads to the L1 table as if it were data: that is not given up.
#[test]
fn what_the_image_stands_on_is_not_given_up() {
    for discard in [DiscardOptions::default(), keeping()] {
        let mut image = Image::v3();
        image.be64(L2, L1 as u64 | l::COPIED);
        let bench = Bench::new(&image);
        bench.runtime.block_on(async {
            let layer = bench.open(discard).await;
            bench.file.reset();
            layer.discard(0, LEN).await.expect("discarded");
            layer.flush().await.expect("durable");
            assert_eq!(bench.given_up(), []);
        });
    }
}

/// What cannot be freed is told, and is no reason to stop.
#[test]
fn clusters_that_count_as_free_or_not_at_all_are_told_of() {
    let far = CLUSTER as u64 * 300;
    for (why, host, count) in [(NotFreed::Free, DATA as u64, 0), (NotFreed::Uncounted, far, 1)] {
        let mut image = Image::v3();
        image.be64(L2, host | l::COPIED).refcount(5, count);
        let bench = Bench::new(&image);
        bench.runtime.block_on(async {
            let layer = bench.open(DiscardOptions::default()).await;
            layer.discard(0, LEN).await.expect("discarded");
            layer.flush().await.expect("durable");
            let events = layer.driver().take_events();
            assert_eq!(events, [DriverEvent::NotFreed { why, clusters: 1 }]);
            write(&layer, LEN, 0x66).await.expect("writable");
            layer.close().await.expect("closed");
        });
    }
}

/// Zeroes for a part of a cluster take no space where the image below has zeroes all around.
#[test]
fn parts_of_clusters_are_marked_where_the_rest_is_zeroes_below() {
    let mut image = Image::v3();
    let name = b"base";
    image
        .put(CLUSTER - name.len(), name)
        .be64(h::BACKING_OFFSET, (CLUSTER - name.len()) as u64)
        .be32(h::BACKING_SIZE, name.len() as u32);
    let bench = Bench::new(&image);
    bench.runtime.block_on(async {
        let base = [vec![0; CLUSTER], vec![0; 100], vec![7; 100], vec![0; CLUSTER - 200]].concat();
        bench.data.write(LEN, base[..].to_vec().into(), WriteFlags::empty()).await.expect("below");
        let layer = bench.open(DiscardOptions::default()).await;
        let zero = async |start: u64, len: u64| {
            layer.write_zeroes(start, len, ZeroFlags::empty()).await.expect("done");
            let extents = layer.extents(start, len).await.expect("extents");
            (extents[0].is_allocated(), extents[0].host.is_some())
        };
        assert_eq!(zero(60 * LEN + 100, 50).await, (true, false), "marked");
        assert_eq!(zero(61 * LEN + 500, 24).await, (true, false), "marked, on both sides");
        // Here the image below has bytes.
        assert_eq!(zero(2 * LEN + 100, 50).await, (true, true), "written");
        layer.discard(2 * LEN, LEN).await.expect("discarded");
        let all = layer.read(0, SIZE).await.expect("readable").to_vec();
        assert!(all[CLUSTER..].iter().all(|byte| *byte == 0));
        // Its own bytes stay.
        layer.write_zeroes(100, 100, ZeroFlags::empty()).await.expect("done");
        let head = first(&layer).await;
        assert_eq!(head, [vec![FILL; 100], vec![0; 100], vec![FILL; CLUSTER - 200]].concat());
        bench.assert_sound(layer).await;
    });
}
