//! Compacting moves clusters: the file gets as short as its contents allow, and the disk and its
//! snapshots read as before.

use super::super::{
    CreateOptions, DataFileOptions, EncryptionMethod, EncryptionOptions, Version, create,
};
use super::campaign::with_clock;
use super::{findings, rounds};
use crate::crypto::{Secret, luks};
use crate::format::layer::DataFile;
use crate::format::{
    Env, FindingKind, FormatName, Key, KeySource, Layer, NewSnapshot, OpenOptions, Packed, open,
};
use crate::image::{CompactOptions, Compacted, compact, no_progress};
use crate::io::testing::model::payload;
use crate::io::testing::{Rng, SimRuntime, YieldDevice, abandon_at};
use crate::io::{Access, BlockDevice, Device, DeviceExt, MemoryDevice, WriteFlags};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;

/// An image in memory, and how it is opened.
struct Image {
    env: Env,
    file: Device,
    data: Option<Device>,
}

impl Image {
    async fn new(runtime: &SimRuntime, options: &CreateOptions) -> Self {
        let file: Device = Arc::new(MemoryDevice::new(0));
        let data = options.data_file.as_ref().map(|_| Arc::new(MemoryDevice::new(0)) as Device);
        let handle = runtime.handle();
        create(&handle, &file, data.as_ref(), options).await.expect("possible options");
        Self { env: super::env(runtime, &file), file, data }
    }

    async fn open(&self) -> Arc<Layer> {
        let data_file =
            self.data.clone().map(|device| DataFile { device, filename: Arc::from("data") });
        let options = OpenOptions {
            format: Some(FormatName::Qcow2),
            access: Access::ReadWrite,
            data_file: data_file.into(),
            ..OpenOptions::default()
        };
        open(&self.env, self.file.clone(), "image", options).await.expect("it opens")
    }
}

/// Of bytes that can be compressed, and are no zeroes.
fn tag(at: u64) -> u32 {
    9 * (1 + (at >> 20) as u32)
}

async fn write(layer: &Arc<Layer>, start: u64, len: u64, flags: WriteFlags) {
    for at in (start..start + len).step_by(1 << 20) {
        let len = (start + len - at).min(1 << 20);
        let data = payload(tag(at), at, len);
        layer.write(at, data, flags).await.expect("writable");
    }
}

async fn run(layer: &Arc<Layer>) -> Compacted {
    compact(layer, CompactOptions::default(), &no_progress).await.expect("nothing fails")
}

/// Nothing is left that could be moved, no cluster is free, and nothing is lost.
async fn assert_shortest(name: &str, image: &Image, contents: &[u8]) {
    let layer = image.open().await;
    assert_eq!(findings(&layer).await.expect("a report"), [], "{name}");
    drop(layer);
    let layer = image.open().await;
    let again = run(&layer).await;
    assert_eq!(again.packed, Packed::default(), "{name}");
    assert_eq!(again.file_len.0, again.file_len.1, "{name}");
    assert!(layer.read(0, layer.len()).await.expect("readable").to_vec() == contents, "{name}");
    layer.close().await.expect("clean");
}

/// All that differs in how clusters are counted and entries are written.
fn kinds() -> Vec<(&'static str, CreateOptions)> {
    let size = 8 << 20;
    let base = CreateOptions { size, cluster_size: 512, ..CreateOptions::default() };
    let large = CreateOptions { size, cluster_size: 64 << 10, ..CreateOptions::default() };
    let data_file = Some(DataFileOptions { name: "data".into(), raw: false });
    let mut all = alloc::vec![
        ("512 bytes", base.clone()),
        // The refcount table moves, and blocks lie in what others describe.
        ("512 bytes, 64 bits", CreateOptions { size: 24 << 20, refcount_bits: 64, ..base.clone() }),
        ("version 2", CreateOptions { version: Version::V2, ..base.clone() }),
        ("lazy refcounts", CreateOptions { lazy_refcounts: true, ..base.clone() }),
        ("64 KiB", large.clone()),
        ("2 MiB", CreateOptions { size: 64 << 20, cluster_size: 2 << 20, ..base.clone() }),
        ("extended L2", CreateOptions { extended_l2: true, ..large }),
        ("data file", CreateOptions { data_file, ..base.clone() }),
    ];
    for (name, refcount_bits) in [("1 bit", 1), ("8 bits", 8), ("64 bits", 64)] {
        all.push((name, CreateOptions { refcount_bits, ..base.clone() }));
    }
    all
}

#[test]
fn a_file_ends_where_its_clusters_fit() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (name, options) in kinds() {
            let image = Image::new(&runtime, &options).await;
            let layer = image.open().await;
            let none = WriteFlags::empty();
            let size = layer.len();
            // The first part of the file becomes free, but for a little.
            write(&layer, 0, size, none).await;
            layer.flush().await.expect("durable");
            let quarter = size / 4;
            layer.discard(0, 3 * quarter).await.expect("possible");
            write(&layer, quarter, quarter / 8, none).await;
            layer.close().await.expect("clean");
            drop(layer);
            let layer = image.open().await;
            let contents = layer.read(0, size).await.expect("readable").to_vec();
            let before = image.file.len();
            let done = run(&layer).await;
            layer.close().await.expect("clean");
            drop(layer);
            if image.data.is_none() {
                assert!(done.packed.moved > 0, "{name}: {done:?}");
                // Half of the disk, at most, and tables.
                assert!(image.file.len() * 2 < before, "{name}: {done:?}");
            }
            let left = Packed { moved: done.packed.moved, ..Packed::default() };
            assert_eq!(done.packed, left, "{name}");
            assert_shortest(name, &image, &contents).await;
        }
    });
}

#[test]
fn what_cannot_be_moved_stays_and_is_told() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let options = CreateOptions { size: 4 << 20, cluster_size: 4096, ..Default::default() };
        let image = Image::new(&runtime, &options).await;
        let layer = image.open().await;
        let none = WriteFlags::empty();
        write(&layer, 0, 2 << 20, none).await;
        let snapshots = layer.driver().snapshots().expect("qcow2 has them");
        write(&layer, 2 << 20, 1 << 20, none).await;
        let new = NewSnapshot { name: "one".into(), ..NewSnapshot::default() };
        snapshots.create(new).await.expect("possible");
        // The snapshot keeps all of it; what is the disk's own goes behind it.
        write(&layer, 0, 1 << 20, none).await;
        write(&layer, 3 << 20, 1 << 20, WriteFlags::COMPRESSED).await;
        layer.discard(0, 1 << 20).await.expect("possible");
        layer.close().await.expect("clean");
        drop(layer);
        let layer = image.open().await;
        let contents = layer.read(0, layer.len()).await.expect("readable").to_vec();
        let done = run(&layer).await;
        assert!(done.packed.compressed > 0 && done.packed.free > 0, "{done:?}");
        assert_eq!(done.packed.moved, 0, "{done:?}");
        layer.close().await.expect("clean");
        drop(layer);
        let layer = image.open().await;
        assert_eq!(findings(&layer).await.expect("a report"), []);
        drop(layer);
        let layer = image.open().await;
        assert!(layer.read(0, layer.len()).await.expect("readable").to_vec() == contents);
        let snapshots = layer.driver().snapshots().expect("qcow2 has them");
        snapshots.apply("1").await.expect("it is there");
        let old = layer.read(0, 3 << 20).await.expect("readable").to_vec();
        for at in (0..3 << 20).step_by(1 << 20) {
            let expected = payload(tag(at as u64), at as u64, 1 << 20).to_bytes();
            assert!(old[at..at + (1 << 20)] == expected[..], "at {at:#x}");
        }
    });
}

#[test]
fn a_cluster_in_use_that_counts_as_free_is_not_written_over() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let options = CreateOptions { size: 1 << 20, cluster_size: 4096, ..Default::default() };
        let image = Image::new(&runtime, &options).await;
        let layer = image.open().await;
        let data = payload(5, 0, 1 << 18);
        layer.write(0, data, WriteFlags::empty()).await.expect("writable");
        layer.discard(0, 1 << 16).await.expect("possible");
        layer.close().await.expect("clean");
        drop(layer);
        // The refcount table lies in the second cluster, its first block where it says.
        let block = image.file.read_array::<8>(4096).await.expect("readable");
        let block = u64::from_be_bytes(block);
        let counts = image.file.read(block, 4096).await.expect("readable").to_vec();
        let last = counts.chunks_exact(2).rposition(|count| count == [0, 1]).expect("data");
        let zero = alloc::vec![0; 2].into();
        image.file.write(block + 2 * last as u64, zero, WriteFlags::empty()).await.expect("room");
        let before = image.file.read(0, image.file.len()).await.expect("readable").to_vec();
        let layer = image.open().await;
        let failed = compact(&layer, CompactOptions::default(), &no_progress).await;
        let error = failed.expect_err("it would be lost");
        assert!(error.what().contains("repair the image"), "{error:?}");
        let after = image.file.read(0, image.file.len()).await.expect("readable").to_vec();
        // All but the mark.
        assert!(before[4096..] == after[4096..]);
    });
}

/// An image whose clusters lie in many pieces, as it was closed, and all it holds.
struct Scattered {
    file: MemoryDevice,
    key: Option<Secret>,
    /// Bytes of a slice of a table in memory.
    slice: Option<u64>,
    contents: Vec<u8>,
}

impl Scattered {
    async fn new(
        runtime: &SimRuntime,
        options: &CreateOptions,
        slice: Option<u64>,
        seed: u64,
    ) -> Self {
        let device = Arc::new(MemoryDevice::new(0));
        let file: Device = device.clone();
        let handle = with_clock(runtime);
        create(&handle, &file, None, options).await.expect("possible options");
        let key = options.encryption.as_ref().and_then(|e| e.secret.clone());
        let mut made = Self { file: device.fork(), key, slice, contents: Vec::new() };
        let layer = made.open(runtime, file.clone()).await;
        let (size, cluster) = (layer.len(), u64::from(options.cluster_size));
        let mut rng = Rng::new(seed);
        // Of a large disk a part of each table.
        let step = if size > 16 << 20 { 64 << 10 } else { size };
        for at in (0..size).step_by(step as usize) {
            write(&layer, at, step.min(1 << 20), WriteFlags::empty()).await;
        }
        layer.flush().await.expect("durable");
        let mut at = 0;
        while at < size / 4 * 3 {
            let run = rng.between(1, 9) * cluster;
            layer.discard(at, run).await.expect("possible");
            at += run + rng.between(1, 3) * cluster;
        }
        layer.close().await.expect("clean");
        made.contents = layer.read(0, size).await.expect("readable").to_vec();
        drop(layer);
        made.file = device.fork();
        made
    }

    async fn open(&self, runtime: &SimRuntime, file: Device) -> Arc<Layer> {
        let key = self.key.clone().map_or(KeySource::None, |key| KeySource::Given(Key::from(key)));
        let mut options = OpenOptions {
            format: Some(FormatName::Qcow2),
            access: Access::ReadWrite,
            key,
            ..OpenOptions::default()
        };
        options.qcow2.cache.l2_entry_size = self.slice;
        open(&super::env(runtime, &file), file, "image", options).await.expect("it opens")
    }

    async fn assert_whole(&self, name: &str, layer: &Arc<Layer>, leaks: bool) {
        for finding in findings(layer).await.expect("a report") {
            assert!(leaks && finding.kind == FindingKind::Leak, "{name}: {finding:?}");
        }
        let found = layer.read(0, layer.len()).await.expect("readable").to_vec();
        assert!(found == self.contents, "{name}: other data");
    }
}

/// Kinds of images, and the slices of their tables, for which a batch is large or many are needed.
fn scattered_kinds() -> Vec<(&'static str, CreateOptions, Option<u64>)> {
    let base = CreateOptions { size: 1 << 20, cluster_size: 512, ..CreateOptions::default() };
    let luks = luks::CreateOptions { iter_time: 1, ..luks::CreateOptions::default() };
    let method = EncryptionMethod::Luks(luks);
    let encryption = Some(EncryptionOptions { method, secret: Some("secret".into()) });
    alloc::vec![
        ("one large batch", base.clone(), None),
        ("lazy refcounts", CreateOptions { lazy_refcounts: true, ..base.clone() }, None),
        ("64 bits", CreateOptions { refcount_bits: 64, ..base.clone() }, None),
        ("version 2", CreateOptions { version: Version::V2, ..base.clone() }, None),
        ("LUKS", CreateOptions { encryption, cluster_size: 4096, ..base.clone() }, None),
        (
            "extended L2",
            CreateOptions {
                extended_l2: true,
                cluster_size: 16 << 10,
                size: 8 << 20,
                ..base.clone()
            },
            None,
        ),
        ("several batches", CreateOptions { size: 24 << 20, ..base }, Some(512)),
    ]
}

/// How often a future waits before it is done.
async fn waits_of<F: Future>(future: F) -> (usize, F::Output) {
    let mut future = Box::pin(future);
    let mut waits = 0;
    let out = poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        waits += usize::from(polled.is_pending());
        polled
    })
    .await;
    (waits, out)
}

#[test]
fn a_large_batch_dropped_at_any_await_is_done_or_not() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (kind, options, slice) in scattered_kinds() {
            let scattered = Scattered::new(&runtime, &options, slice, 5).await;
            let slow = |file: &Arc<MemoryDevice>| {
                Arc::new(YieldDevice::new(file.clone() as Device)) as Device
            };
            let file = Arc::new(scattered.file.fork());
            let layer = scattered.open(&runtime, slow(&file)).await;
            let (all, done) = waits_of(run(&layer)).await;
            layer.close().await.expect("clean");
            assert!(done.packed.moved > 0 && all > 50, "{kind}: {all} waits, {done:?}");
            let shortest = file.len();
            drop(layer);

            let stride = (all / (60 * rounds() as usize)).max(1);
            for waits in (0..all).step_by(stride) {
                let name = format!("{kind}, dropped at {waits} of {all}");
                let file = Arc::new(scattered.file.fork());
                let layer = scattered.open(&runtime, slow(&file)).await;
                let dropped = abandon_at(run(&layer), waits).await;
                assert!(dropped.is_none(), "{name}: it is done");
                // Once the image goes on, once it is left as it is.
                let goes_on = (waits / stride).is_multiple_of(2);
                if goes_on {
                    run(&layer).await;
                    layer.close().await.expect("clean");
                    assert!(file.len() <= shortest, "{name}: {} of {shortest}", file.len());
                }
                drop(layer);
                let layer = scattered.open(&runtime, Arc::new(file.fork())).await;
                scattered.assert_whole(&name, &layer, !goes_on).await;
            }
        }
    });
}
