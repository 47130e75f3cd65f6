//! Truncated, flipped and forged images: whatever the bytes, there is an answer, in bounded time
//! and memory, and an error names a structure.
//!
//! Each image is opened, described, checked, mapped, read from end to end (in windows where it is
//! large), copied, and, where it opens for writing, written to. What must not happen is a panic, an
//! endless loop, more calls or bytes than the file explains, or an error of kind `Bug`.

use super::super::layout::{self as l, Autoclear, Incompatible, extension, header as h};
use super::builder::{
    CLUSTER, DATA, Image, L1, L2, REFBLOCK, REFTABLE, SIZE, SPARE, open_file, open_file_with,
};
use super::disks::Disk;
use super::{env, rounds};
use crate::format::{
    Backing, FindingKind, FormatName, KeySource, Layer, OpenOptions, Repair, open,
};
use crate::image::{self, ConvertOptions, NewImage, no_progress};
use crate::io::testing::{CallKinds, CountDevice, Rng, SimRuntime};
use crate::io::{
    Access, BlockDevice, BoxFuture, Device, MemoryDevice, OpenPolicy, Opened, Reference, Runtime,
    WriteFlags, ZeroFlags,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// At most so much of a disk is read, at its beginning and at its end.
const WINDOW: u64 = 1 << 20;

/// What an image may cost: far more than any of these needs, far less than a loop takes.
const MOST_CALLS: usize = 500_000;
const MOST_BYTES: u64 = 1 << 30;

/// An error that may come out of an image: it is not ours, and it says something.
fn assert_fair(name: &str, what: &str, error: &Error) {
    let fair = !matches!(error.kind(), ErrorKind::Bug | ErrorKind::Cancelled);
    assert!(fair && !error.what().is_empty(), "{name}: {what}: {error:?}");
    if error.kind() == ErrorKind::Corrupt {
        assert!(error.format().is_some(), "{name}: {what} does not say which format: {error:?}");
    }
}

fn tolerate<T>(name: &str, what: &str, result: Result<T>) -> Option<T> {
    result.map_err(|error| assert_fair(name, what, &error)).ok()
}

/// Does to an image whatever can be done to one. Gives whether it opened.
async fn use_up(runtime: &SimRuntime, name: &str, bytes: &MemoryDevice) -> bool {
    let file = Arc::new(CountDevice::new(Arc::new(bytes.fork())));
    let opened = open_file_with(runtime, file.clone(), Access::ReadOnly, KeySource::Ignore).await;
    let read = match tolerate(name, "open", opened) {
        Some(layer) => {
            look(runtime, name, &layer).await;
            true
        }
        None => false,
    };
    let opened = open_file(runtime, file.clone(), Access::ReadWrite).await;
    if let Some(layer) = tolerate(name, "open for writing", opened) {
        change(name, &layer).await;
    }
    mend(runtime, name, Arc::new(CountDevice::new(Arc::new(bytes.fork())))).await;
    let calls = file.count(CallKinds::all());
    assert!(calls < MOST_CALLS, "{name}: {calls} calls");
    let moved = file.bytes(CallKinds::READ);
    assert!(moved < MOST_BYTES, "{name}: {moved:#x} bytes read");
    read
}

/// Repairs an image, and once more: what is left the second time stays as it is.
async fn mend(runtime: &SimRuntime, name: &str, file: Arc<CountDevice>) {
    let repair = Repair::All;
    let other: Device = Arc::new(MemoryDevice::new(SIZE));
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        check: true,
        ..OpenOptions::default()
    };
    let before = file.len();
    let mut left = None;
    for _ in 0..2 {
        let opened = open(&env(runtime, &other), file.clone(), "image", options.clone()).await;
        let Some(layer) = tolerate(name, "open for a repair", opened) else { return };
        let done = tolerate(name, "repair", image::check(&layer, repair, &no_progress).await);
        tolerate(name, "close after a repair", layer.close().await);
        let Some(Some(found)) = done else { return };
        if found.last().failed.is_some() {
            continue;
        }
        let now = (found.last().corruptions, found.last().leaks);
        assert!(left.is_none_or(|left| left == now), "{name}: {left:?} errors, then {now:?}");
        left = Some(now);
        let (calls, moved) = (file.count(CallKinds::all()), file.bytes(CallKinds::all()));
        assert!(calls < MOST_CALLS, "{name}: {repair:?} takes {calls} calls");
        assert!(moved < MOST_BYTES, "{name}: {repair:?} moves {moved:#x} bytes");
        file.reset();
    }
    // Refcounts for all of it, and the tables that lead to them.
    let most = 2 * before + (64 << 20);
    assert!(file.len() < most, "{name}: {repair:?} makes {before:#x} bytes {:#x}", file.len());
}

async fn look(runtime: &SimRuntime, name: &str, layer: &Arc<Layer>) {
    tolerate(name, "info", image::info(layer).await);
    tolerate(name, "check", image::check(layer, Repair::Nothing, &no_progress).await);
    let len = layer.len();
    for start in [0, len.saturating_sub(WINDOW)] {
        let window = WINDOW.min(len - start);
        if let Some(data) = tolerate(name, "read", layer.read(start, window).await) {
            assert_eq!(data.len(), window, "{name}: a read of another length");
        }
    }
    let device: Device = layer.clone();
    let mut mapper = image::Mapper::new(device.clone(), 0, len);
    let (mut at, mut extents) = (0, 0);
    while let Some(Some(extent)) = tolerate(name, "map", mapper.next_extent().await) {
        assert_eq!(extent.start, at, "{name}: the map has a gap");
        (at, extents) = (extent.end(), extents + 1);
        assert!(extents < 1 << 20, "{name}: a map without end");
    }
    let new = NewImage::with_defaults(FormatName::Qcow2, len.min(1 << 40)).expect("qcow2");
    tolerate(name, "measure", image::measure_source(&new, layer, &no_progress).await);
    let same = image::compare(&device, &device, Default::default(), &no_progress).await;
    tolerate(name, "compare", same.map_err(Error::from));
    if len <= 4 * WINDOW {
        let target: Device = Arc::new(MemoryDevice::new(len));
        let handle: Arc<dyn Runtime> = runtime.handle();
        let options = ConvertOptions { parallel: 2, ..ConvertOptions::default() };
        let done = image::convert(&handle, &device, &target, options, &no_progress).await;
        if tolerate(name, "convert", done).is_some() {
            let found = layer.read(0, len).await.expect("it was read a moment ago").to_vec();
            assert!(
                target.read(0, len).await.expect("memory").to_vec() == found,
                "{name}: convert"
            );
        }
    }
}

async fn change(name: &str, layer: &Arc<Layer>) {
    let len = layer.len();
    for at in [0, 0x1234, len / 2, len.saturating_sub(700)] {
        let part = 700.min(len.saturating_sub(at));
        let bytes = alloc::vec![0xee; part as usize];
        let done = layer.write(at, bytes.clone().into(), WriteFlags::empty()).await;
        tolerate(name, "write", done);
    }
    let granule = u64::from(layer.limits().granularity);
    let bytes = alloc::vec![0xcc; granule.min(len) as usize];
    tolerate(name, "compressed", layer.write(0, bytes.into(), WriteFlags::COMPRESSED).await);
    let window = len.min(WINDOW);
    tolerate(name, "zero", layer.write_zeroes(0, window / 2, ZeroFlags::MAY_UNMAP).await);
    tolerate(name, "discard", layer.discard(0, window).await);
    tolerate(name, "flush", layer.flush().await);
    let longer = (len + 0x10_0000).next_multiple_of(512);
    tolerate(name, "resize", layer.set_len(longer, Default::default()).await);
    tolerate(
        name,
        "write again",
        layer.write(0, alloc::vec![1; 100].into(), WriteFlags::empty()).await,
    );
    tolerate(name, "flush again", layer.flush().await);
    tolerate(name, "read again", layer.read(0, window).await);
}

/// Images with every structure in them, used.
async fn samples(runtime: &SimRuntime) -> Vec<(&'static str, MemoryDevice)> {
    let mut out = Vec::new();
    for disk in Disk::all(runtime).await {
        if disk.data.is_some() || disk.name == "refcount table full" {
            continue;
        }
        let (file, _) = disk.copies();
        let layer = disk.open(file.clone(), None, Access::ReadWrite).await.expect("it opens");
        for op in &disk.plan.0 {
            super::disks::perform(layer.clone(), op.clone()).await.expect("nothing fails");
        }
        drop(layer);
        let bytes = file.read(0, file.len()).await.expect("readable").to_vec();
        out.push((disk.name, MemoryDevice::with_data(&bytes)));
    }
    out
}

#[test]
fn an_image_cut_at_any_place_is_refused_or_read() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (name, image) in samples(&runtime).await {
            let bytes = image.to_vec();
            let step = bytes.len().div_ceil(40);
            let inside = [1, 4, 71, 72, 103, 104, 111, 112, 120, 511, 512, 513];
            for len in inside.into_iter().chain((0..bytes.len()).step_by(step)) {
                let name = format!("{name}, cut to {len}");
                use_up(&runtime, &name, &MemoryDevice::with_data(&bytes[..len])).await;
            }
        }
    });
}

/// Where the tables of an image lie: header, refcount table and blocks, L1 and L2 tables.
fn metadata(bytes: &[u8]) -> Vec<(usize, usize)> {
    let cluster = 1usize << l::be32(bytes, h::CLUSTER_BITS);
    let table = |at: u64, len: usize| (at as usize, (at as usize + len).min(bytes.len()));
    let mut out = Vec::from([(0, 256.min(cluster))]);
    let (reftable, l1) = (l::be64(bytes, h::REFTABLE_OFFSET), l::be64(bytes, h::L1_OFFSET));
    let l1_len = l::be32(bytes, h::L1_SIZE) as usize * 8;
    out.push(table(reftable, 64));
    out.push(table(l1, l1_len));
    for (start, end) in [table(reftable, 64), table(l1, l1_len)] {
        for entry in bytes[start..end].chunks_exact(8) {
            let at = l::be64(entry, 0) & l::OFFSET_MASK;
            if at != 0 {
                out.push(table(at, cluster.min(1024)));
            }
        }
    }
    if l::be32(bytes, h::NB_SNAPSHOTS) > 0 {
        out.push(table(l::be64(bytes, h::SNAPSHOTS_OFFSET), 128));
    }
    out.retain(|(start, end)| start < end);
    out
}

#[test]
fn flipped_bits_in_tables_do_no_harm() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(7);
        let mut opened = 0;
        let samples = samples(&runtime).await;
        for round in 0..1500 * rounds() {
            let (name, image) = rng.pick(&samples);
            let mut bytes = image.to_vec();
            let places = metadata(&bytes);
            let mut flips = String::new();
            for _ in 0..rng.between(1, 4) {
                let (start, end) = *rng.pick(&places);
                let (at, bit) = (start + rng.index(end - start), rng.below(8));
                bytes[at] ^= 1 << bit;
                flips += &format!(" {at:#x}.{bit}");
            }
            let name = format!("{name}, round {round}, flipped{flips}");
            let image = MemoryDevice::with_data(&bytes);
            opened += u64::from(use_up(&runtime, &name, &image).await);
        }
        assert!(opened > 100 * rounds(), "only {opened} of them get past the header");
    });
}

/// Values that break what is done with them.
fn nasty(rng: &mut Rng, file_len: u64) -> u64 {
    let near = rng.below(5).wrapping_sub(2);
    match rng.below(10) {
        0 => near,
        1 => u64::MAX.wrapping_add(near),
        2 => (1u64 << rng.below(64)).wrapping_add(near),
        3 => file_len.wrapping_add(near),
        4 => file_len & !511 | l::COPIED,
        // Another structure of the small images.
        5..=7 => (rng.below(file_len / 512 + 1) * 512) | *rng.pick(&[0, l::COPIED, l::ZERO]),
        8 => l::COMPRESSED | rng.below(file_len) | rng.below(4) << 55,
        _ => rng.next_u64(),
    }
}

#[test]
fn forged_entries_and_fields_do_no_harm() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(8);
        let samples = samples(&runtime).await;
        for round in 0..1500 * rounds() {
            let (name, image) = rng.pick(&samples);
            let mut bytes = image.to_vec();
            let places = metadata(&bytes);
            let mut forged = String::new();
            for _ in 0..rng.between(1, 3) {
                let (start, end) = *rng.pick(&places);
                let width = if start == 0 { *rng.pick(&[4, 8]) } else { 8 };
                let at = start + rng.index((end - start) / width) * width;
                let value = nasty(&mut rng, bytes.len() as u64);
                bytes[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
                forged += &format!(" {at:#x}={value:#x}/{width}");
            }
            let name = format!("{name}, round {round}, forged{forged}");
            use_up(&runtime, &name, &MemoryDevice::with_data(&bytes)).await;
        }
    });
}

#[test]
fn tables_that_lie_on_each_other_do_no_harm() {
    let runtime = SimRuntime::new(1);
    let places = [0, REFTABLE, REFBLOCK, L1, L2, DATA, SPARE];
    runtime.block_on(async {
        for at in places {
            for other in places {
                for field in [h::L1_OFFSET, h::REFTABLE_OFFSET, REFTABLE, L1, L2, L2 + 8] {
                    let mut image = Image::v3();
                    let flag = if field >= L1 { l::COPIED } else { 0 };
                    image.be64(field, at as u64 | flag).be64(L2 + 16, other as u64 | l::COPIED);
                    let name =
                        format!("{field:#x} leads to {at:#x}, guest cluster 2 to {other:#x}");
                    use_up(&runtime, &name, &MemoryDevice::with_data(&image.bytes)).await;
                }
            }
        }
    });
}

/// A file of an impossible length that is all holes but for its header.
fn vast(image: &Image, len: u64) -> MemoryDevice {
    let file = MemoryDevice::new(len);
    let done = futures_util::FutureExt::now_or_never(file.write(
        0,
        image.bytes.clone().into(),
        WriteFlags::empty(),
    ));
    done.expect("memory does not wait").expect("there is room");
    file
}

#[test]
fn disks_and_tables_of_the_greatest_size_cost_what_the_file_explains() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        // The largest disk there can be, with an L1 table of 32 MiB, in a file of holes.
        let mut image = Image::v3();
        image
            .be32(h::CLUSTER_BITS, 21)
            .be64(h::SIZE, 1 << 61)
            .be32(h::L1_SIZE, 1 << 22)
            .be64(h::L1_OFFSET, 2 << 21)
            .be64(h::REFTABLE_OFFSET, 1 << 21)
            .be32(h::REFTABLE_CLUSTERS, 4);
        let file = vast(&image, 1 << 40);
        assert!(use_up(&runtime, "a disk of 2 EiB", &file).await);
        // Small clusters, every table at its limit, all of it holes.
        let mut image = Image::v3();
        image
            .be32(h::L1_SIZE, 1 << 22)
            .be64(h::SIZE, 1 << 37)
            .be64(h::L1_OFFSET, 1 << 30)
            .be64(h::REFTABLE_OFFSET, 1 << 31)
            .be32(h::REFTABLE_CLUSTERS, 1 << 14)
            .be32(h::NB_SNAPSHOTS, 65_536)
            .be64(h::SNAPSHOTS_OFFSET, 1 << 32);
        assert!(use_up(&runtime, "every table at its limit", &vast(&image, 1 << 55)).await);
        // An encryption header that claims most of the address space.
        let mut image = Image::v3();
        let mut luks = (SPARE as u64).to_be_bytes().to_vec();
        luks.extend_from_slice(&(1u64 << 62).to_be_bytes());
        image.be32(h::CRYPT_METHOD, 2).extension(extension::CRYPTO, &luks);
        assert!(use_up(&runtime, "a vast encryption header", &vast(&image, 1 << 62)).await);
        // A bitmap table of 32 GiB.
        let mut image = Image::v3();
        let mut data = Vec::from([0, 0, 0, 1, 0, 0, 0, 0]);
        data.extend_from_slice(&32u64.to_be_bytes());
        data.extend_from_slice(&(SPARE as u64).to_be_bytes());
        image
            .extension(extension::BITMAPS, &data)
            .be64(h::AUTOCLEAR, Autoclear::BITMAPS.bits())
            .be64(SPARE, 1 << 40)
            .be32(SPARE + 8, u32::MAX)
            .put(SPARE + 16, &[1, 16, 0, 1, 0, 0, 0, 0, b'b']);
        assert!(use_up(&runtime, "a vast bitmap table", &vast(&image, 1 << 55)).await);
    });
}

#[test]
fn one_l2_table_for_the_whole_disk_is_checked_once() {
    // 4 Mi entries of the L1 table lead to the same L2 table, whose 64 entries all are in use.
    let runtime = SimRuntime::new(1);
    let entries = 1usize << 16;
    let mut image = Image::v3();
    let l1 = 16 * CLUSTER;
    image
        .len(l1 + 8 * entries)
        .be32(h::L1_SIZE, entries as u32)
        .be64(h::SIZE, entries as u64 * SIZE)
        .be64(h::L1_OFFSET, l1 as u64);
    for i in 0..entries {
        image.be64(l1 + 8 * i, L2 as u64);
    }
    for i in 0..64 {
        image.be64(L2 + 8 * i, DATA as u64);
    }
    let report = runtime.block_on(async {
        let file = Arc::new(CountDevice::new(image.device()));
        let layer = open_file(&runtime, file.clone(), Access::ReadOnly).await.expect("it opens");
        file.reset();
        let report = layer.driver().check(Repair::Nothing, &no_progress).await.expect("a report");
        let read = file.bytes(CallKinds::READ);
        assert!(read < 4 * image.bytes.len() as u64, "the check reads {read:#x} bytes");
        report.expect("qcow2 has a check")
    });
    assert!(report.corruptions > 0);
    let found =
        report.findings.iter().any(|f| f.kind != FindingKind::Leak && f.at == Some(DATA as u64));
    assert!(found, "{:?}", report.findings);
}

#[test]
fn a_bomb_unpacks_to_one_cluster() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let zeroes = alloc::vec![0; 1 << 24];
        for kind in [crate::codec::Compression::Deflate, crate::codec::Compression::Zstd] {
            let payload = crate::codec::compress(kind, &zeroes).expect("it compresses");
            let payload = payload.expect("much smaller");
            let mut image = Image::v3();
            image.len(64 * 1024);
            let len = payload.len().min(32 * 1024);
            image.put(DATA, &payload[..len]);
            // As many sectors as a descriptor can have.
            image.be64(L2, l::COMPRESSED | 1 << 61 | DATA as u64);
            if kind == crate::codec::Compression::Zstd {
                let bit = Incompatible::COMPRESSION_TYPE.bits();
                image.be64(h::INCOMPATIBLE, bit).put(h::COMPRESSION_TYPE, &[1]);
            }
            let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
            match layer.read(0, CLUSTER as u64).await {
                Ok(data) => assert!(data.to_vec().iter().all(|b| *b == 0)),
                Err(error) => {
                    assert!(
                        matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Limit),
                        "{error}"
                    );
                    assert_eq!(error.offset(), Some(DATA as u64), "{error}");
                }
            }
        }
    });
}

/// Every entry of a refcount table of 8 MiB leads to one block that is full to the brim: 2^40
/// clusters of 2 MiB, and none of them free.
#[test]
fn refcounts_that_call_everything_used_end_in_an_error() {
    let runtime = SimRuntime::new(1);
    let cluster = 2usize << 20;
    let mut image = Image::v3();
    image
        .len(6 * cluster)
        .be32(h::CLUSTER_BITS, 21)
        .be64(h::L1_OFFSET, cluster as u64)
        .be64(h::REFTABLE_OFFSET, 2 * cluster as u64)
        .be32(h::REFTABLE_CLUSTERS, 4);
    let block = image.bytes.len();
    image.bytes.resize(block + cluster, 0xff);
    for i in 0..1 << 20 {
        image.be64(2 * cluster + 8 * i, block as u64);
    }
    runtime.block_on(async {
        let layer = image.open(&runtime, Access::ReadWrite).await.expect("it opens");
        let written = layer.write(0x1000, alloc::vec![1].into(), WriteFlags::empty()).await;
        let error = written.expect_err("there is no free cluster");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.what().contains("past the end of the file"), "{error}");
    });
}

/// Every name leads to the same image, by a name of its own.
struct Mirrors(Device);

impl OpenPolicy for Mirrors {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let filename = format!("{}.", reference.referrer);
        let opened = Opened { device: self.0.clone(), filename };
        Box::pin(core::future::ready(Ok(opened)))
    }
}

#[test]
fn a_chain_without_end_is_refused() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image.put(256, b"self").be64(h::BACKING_OFFSET, 256).be32(h::BACKING_SIZE, 4);
    let file: Device = image.device();
    runtime.block_on(async {
        // By one name: a loop.
        let error = {
            let env = env(&runtime, &file);
            let options = OpenOptions::default();
            open(&env, file.clone(), "self", options).await.expect_err("a loop")
        };
        assert!(error.what().contains("'self' creates an infinite loop"), "{error}");
        // By ever new names: a chain that is too long.
        let policy = Arc::new(Mirrors(file.clone()));
        let env = crate::format::Env { runtime: runtime.handle(), policy };
        let options = OpenOptions::default();
        let error = open(&env, file.clone(), "a", options.clone()).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        let options = OpenOptions { backing: Backing::Ignore, ..options };
        let top = open(&env, file.clone(), "a", options).await.expect("opens alone");
        let error = image::info_chain(&env, top).await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
        assert!(error.to_string().contains("longer than"), "{error}");
    });
}

/// As deep as a chain may be, on the stack of a common thread.
#[test]
fn the_longest_chain_can_be_read() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image.put(256, b"self").be64(h::BACKING_OFFSET, 256).be32(h::BACKING_SIZE, 4);
    image.be64(L1, 0);
    let end: Device = Image::v3().device();
    let middle: Device = image.device();
    struct Steps(Device, Device);
    impl OpenPolicy for Steps {
        fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
            let filename = format!("{}.", reference.referrer);
            let last = filename.len() == 256;
            let device = if last { self.1.clone() } else { self.0.clone() };
            Box::pin(core::future::ready(Ok(Opened { device, filename })))
        }
    }
    runtime.block_on(async {
        let policy = Arc::new(Steps(middle.clone(), end));
        let env = crate::format::Env { runtime: runtime.handle(), policy };
        let layer =
            open(&env, middle.clone(), "a", OpenOptions::default()).await.expect("it opens");
        let data = layer.read(0, 1).await.expect("readable").to_vec();
        assert_eq!(data, [super::builder::FILL]);
        let extents = layer.extents(0, 1).await.expect("extents");
        assert_eq!(extents[0].depth, 255);
    });
}
