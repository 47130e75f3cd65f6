//! What can be said when an image is opened.

use super::super::header::Header;
use super::super::{
    CacheOptions, CreateOptions, OpenOptions as Qcow2Options, OverlapCheckMode, OverlapChecks,
    create,
};
use super::builder::Image;
use super::{env, findings};
use crate::format::{FormatName, Layer, NewSnapshot, OpenOptions, open};
use crate::io::testing::{CallKinds, CountDevice, SimRuntime};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags};
use alloc::string::ToString;
use alloc::sync::Arc;
use core::time::Duration;

/// The header of an image with clusters of 64 KiB.
fn header(size: u64) -> Header {
    use super::super::layout::header as h;
    let mut image = Image::v3();
    image.be32(h::CLUSTER_BITS, 16).be64(h::SIZE, size).be32(h::L1_SIZE, 1 << 12);
    for (at, cluster) in [(h::L1_OFFSET, 3), (h::REFTABLE_OFFSET, 1)] {
        image.be64(at, cluster << 16);
    }
    image.len(1 << 16);
    Header::parse(&image.bytes).expect("a sound header")
}

const NOTHING: CacheOptions = CacheOptions {
    size: None,
    l2_size: None,
    l2_entry_size: None,
    refcount_size: None,
    clean_interval: None,
};

/// The texts are those of QEMU 10.0.
#[test]
fn contradictions_are_refused_in_the_words_of_the_reference() {
    let header = header(1 << 30);
    let both = |size, l2_size| CacheOptions { size: Some(size), l2_size: Some(l2_size), ..NOTHING };
    let entry = |size| CacheOptions { l2_entry_size: Some(size), ..NOTHING };
    let entry_says =
        "L2 cache entry size must be a power of two between 512 and the cluster size (65536)";
    let cases = [
        (
            CacheOptions { refcount_size: Some(0), ..both(2, 1) },
            "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time",
        ),
        (both(1, 2), "l2-cache-size may not exceed cache-size"),
        (
            CacheOptions { size: Some(1), refcount_size: Some(2), ..NOTHING },
            "refcount-cache-size may not exceed cache-size",
        ),
        (entry(0), entry_says),
        (entry(256), entry_says),
        (entry(513), entry_says),
        (entry(1 << 17), entry_says),
        (entry((1 << 32) + 512), entry_says),
        (CacheOptions { refcount_size: Some(1 << 63), ..NOTHING }, "Refcount cache size too big"),
        (CacheOptions { size: Some(1 << 63), ..NOTHING }, "Refcount cache size too big"),
        (CacheOptions { clean_interval: Some(1 << 32), ..NOTHING }, "Cache clean interval too big"),
    ];
    for (options, says) in cases {
        let refused = options.sizes(&header).expect_err(says);
        assert_eq!(refused.to_string(), says);
    }
}

/// `docs/formats/qcow2.md`, "Memory".
#[test]
fn memory_follows_the_options_and_the_image() {
    const C: u64 = 1 << 16;
    // L2 tables of 1 TiB at 64 KiB clusters: 2048 tables.
    let header = header(1 << 40);
    let of = |options: CacheOptions| options.sizes(&header).expect("possible");
    let sizes = of(NOTHING);
    assert_eq!((sizes.l2, sizes.refcount, sizes.entry_bits), (32 << 20, 4 << 20, 14));
    assert_eq!(sizes.clean_interval, Some(Duration::from_secs(600)));
    assert_eq!(of(CacheOptions { clean_interval: Some(0), ..NOTHING }).clean_interval, None);
    let long = of(CacheOptions { clean_interval: Some(u32::MAX.into()), ..NOTHING });
    assert_eq!(long.clean_interval, Some(Duration::from_secs(u32::MAX.into())));

    // Less than works is raised.
    let least = of(CacheOptions { l2_size: Some(0), refcount_size: Some(0), ..NOTHING });
    assert_eq!((least.l2, least.refcount), (2 << 14, 4 * C));
    let small = of(CacheOptions { l2_size: Some(0), l2_entry_size: Some(512), ..NOTHING });
    assert_eq!((small.l2, small.entry_bits), (1024, 9));

    // What is given in all goes to L2 tables first.
    let all = |size| of(CacheOptions { size: Some(size), ..NOTHING });
    assert_eq!((all(1 << 20).l2, all(1 << 20).refcount), ((1 << 20) - 4 * C, 4 * C));
    let (l2, refcount) = (all(1 << 30).l2, all(1 << 30).refcount);
    assert_eq!((l2, refcount), (2048 * C, (1 << 30) - 2048 * C));
    assert_eq!((all(0).l2, all(0).refcount), (2 << 14, 4 * C));
    let both = of(CacheOptions { size: Some(8 << 20), l2_size: Some(1 << 20), ..NOTHING });
    assert_eq!((both.l2, both.refcount), (1 << 20, 7 << 20));
    let both = of(CacheOptions { size: Some(8 << 20), refcount_size: Some(1 << 20), ..NOTHING });
    assert_eq!((both.l2, both.refcount), (7 << 20, 1 << 20));
}

#[test]
fn modes_have_names_and_each_is_more_than_the_one_before() {
    let mut before = OverlapChecks::empty();
    for name in ["none", "constant", "cached", "all"] {
        let checks: OverlapChecks = name.parse::<OverlapCheckMode>().expect(name).into();
        assert!(checks.contains(before) && (checks != before || name == "none"), "{name}");
        before = checks;
    }
    assert_eq!(before, OverlapChecks::all());
    assert_eq!(OverlapChecks::default(), OverlapCheckMode::Cached.into());
    let refused = "Cached".parse::<OverlapCheckMode>().expect_err("no such mode");
    assert_eq!(
        refused.to_string(),
        "Unsupported value 'Cached' for qcow2 option 'overlap-check'. Allowed are any of the \
         following: none, constant, cached, all"
    );
}

/// 64 L2 tables of one cluster, each of which leads to one cluster of data.
async fn many_tables(runtime: &SimRuntime) -> Arc<MemoryDevice> {
    let file = Arc::new(MemoryDevice::new(0));
    let device: Device = file.clone();
    let options = CreateOptions { size: 64 * SPAN, cluster_size: 4096, ..CreateOptions::default() };
    create(&runtime.handle(), &device, None, &options).await.expect("possible options");
    let layer = open_with(runtime, device, Access::ReadWrite, NOTHING).await;
    for table in 0..64 {
        write(&layer, table * SPAN, table as u8).await;
    }
    layer.close().await.expect("closed");
    file
}

/// What an L2 table of 4096 bytes describes.
const SPAN: u64 = 512 * 4096;

async fn open_with(
    runtime: &SimRuntime,
    file: Device,
    access: Access,
    cache: CacheOptions,
) -> Arc<Layer> {
    let other: Device = Arc::new(MemoryDevice::new(512));
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access,
        qcow2: Qcow2Options { cache, ..Qcow2Options::default() },
        ..OpenOptions::default()
    };
    open(&env(runtime, &other), file, "image", options).await.expect("it opens")
}

async fn write(layer: &Layer, at: u64, byte: u8) {
    let data = alloc::vec![byte; 4096];
    layer.write(at, data.into(), WriteFlags::empty()).await.expect("writable");
}

/// Reads one byte behind each of the tables.
async fn read_all(layer: &Layer, tables: core::ops::Range<u64>) {
    for table in tables {
        let found = layer.read(table * SPAN, 1).await.expect("readable").to_vec();
        assert_eq!(found, [table as u8]);
    }
}

/// How much of the file is read for tables by `work`: data is read one byte at a time.
async fn table_bytes(count: &CountDevice, work: impl Future<Output = ()>) -> u64 {
    count.reset();
    work.await;
    count
        .trace()
        .iter()
        .filter(|call| CallKinds::READ.contains(call.kind.into()) && call.len > 1)
        .map(|call| call.len)
        .sum()
}

#[test]
fn tables_are_read_in_entries_and_kept_as_far_as_there_is_room() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file = many_tables(&runtime).await;
        for (l2_size, entry, again) in [
            // There is room for all of them.
            (64 * 4096, 4096, 0),
            (64 * 512, 512, 0),
            // There is not, and they come in turn: each is gone when it is wanted again.
            (63 * 4096, 4096, 64),
            (0, 512, 64),
        ] {
            let count = Arc::new(CountDevice::new(file.clone()));
            let cache =
                CacheOptions { l2_size: Some(l2_size), l2_entry_size: Some(entry), ..NOTHING };
            let layer = open_with(&runtime, count.clone(), Access::ReadOnly, cache).await;
            assert_eq!(table_bytes(&count, read_all(&layer, 0..64)).await, 64 * entry, "{entry}");
            let found = table_bytes(&count, read_all(&layer, 0..64)).await;
            assert_eq!(found, again * entry, "{l2_size} in entries of {entry}");
        }
    });
}

#[test]
fn what_nobody_uses_is_dropped_after_the_interval() {
    let runtime = SimRuntime::new(1);
    let handle = runtime.handle();
    runtime.block_on(async {
        let file = many_tables(&runtime).await;
        let count = Arc::new(CountDevice::new(file.clone()));
        let seconds = Duration::from_secs;
        // Asked for: by itself, and what is not written yet stays.
        let cache = CacheOptions { clean_interval: Some(10), ..NOTHING };
        let layer = open_with(&runtime, count.clone(), Access::ReadWrite, cache).await;
        read_all(&layer, 0..4).await;
        write(&layer, 4096, 0xee).await;
        handle.sleep(seconds(15)).await;
        // Looked at in the second period, and so are two of them in the third.
        assert_eq!(table_bytes(&count, read_all(&layer, 0..2)).await, 0);
        handle.sleep(seconds(10)).await;
        assert_eq!(table_bytes(&count, read_all(&layer, 0..2)).await, 0);
        assert_eq!(table_bytes(&count, read_all(&layer, 2..4)).await, 2 * 4096);
        handle.sleep(seconds(100)).await;
        let found = layer.read(4096, 1).await.expect("readable").to_vec();
        assert_eq!(found, [0xee], "the table that says so was not written yet");
        assert_eq!(table_bytes(&count, read_all(&layer, 1..4)).await, 3 * 4096);
        layer.close().await.expect("closed");

        // Said nothing: by the next who reads a table, after ten minutes.
        let layer = open_with(&runtime, count.clone(), Access::ReadOnly, NOTHING).await;
        read_all(&layer, 0..4).await;
        handle.sleep(seconds(700)).await;
        read_all(&layer, 4..5).await;
        handle.sleep(seconds(700)).await;
        read_all(&layer, 5..6).await;
        assert_eq!(table_bytes(&count, read_all(&layer, 0..4)).await, 4 * 4096);

        // Said that it is not wanted.
        let cache = CacheOptions { clean_interval: Some(0), ..NOTHING };
        let layer = open_with(&runtime, count.clone(), Access::ReadOnly, cache).await;
        read_all(&layer, 0..4).await;
        for table in 4..7 {
            handle.sleep(seconds(100_000)).await;
            read_all(&layer, table..table + 1).await;
        }
        assert_eq!(table_bytes(&count, read_all(&layer, 0..4)).await, 0);
    });
}

/// The least memory there can be: writes, snapshots and closing work all the same.
#[test]
fn the_smallest_caches_work() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file = many_tables(&runtime).await;
        for entry in [512, 4096] {
            let cache = CacheOptions {
                size: Some(0),
                l2_entry_size: Some(entry),
                clean_interval: Some(1),
                ..NOTHING
            };
            let layer = open_with(&runtime, file.clone(), Access::ReadWrite, cache).await;
            let snapshots = layer.driver().snapshots().expect("it has them");
            snapshots.create(NewSnapshot::default()).await.expect("possible");
            for table in 0..64 {
                write(&layer, table * SPAN + entry * 8, table as u8 | 1).await;
            }
            read_all(&layer, 0..64).await;
            layer.close().await.expect("closed");
            let layer = open_with(&runtime, file.clone(), Access::ReadWrite, cache).await;
            read_all(&layer, 0..64).await;
            assert_eq!(findings(&layer).await.expect("a report"), [], "{entry}");
            layer.close().await.expect("closed");
        }
    });
}
