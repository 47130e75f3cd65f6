//! Compacting moves clusters: the file gets as short as its contents allow, and the disk and its
//! snapshots read as before.

use super::super::{CreateOptions, DataFileOptions, Version, create};
use super::findings;
use crate::format::layer::DataFile;
use crate::format::{Env, FormatName, Layer, NewSnapshot, OpenOptions, Packed, open};
use crate::image::{CompactOptions, Compacted, compact, no_progress};
use crate::io::testing::SimRuntime;
use crate::io::testing::model::payload;
use crate::io::{Access, BlockDevice, Device, DeviceExt, MemoryDevice, WriteFlags};
use alloc::sync::Arc;
use alloc::vec::Vec;

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
