//! What other writers of this format have got wrong, by name: each of these has lost data somewhere.

use super::super::layout::{
    self as l, Autoclear, Compatible, Incompatible, extension, header as h,
};
use super::super::{CreateOptions, EncryptionMethod, EncryptionOptions, create};
use super::builder::{CLUSTER, DATA, FILL, Image, L1, L2, REFTABLE, SIZE, SPARE, open_file};
use super::{campaign, findings};
use crate::ErrorKind;
use crate::Result;
use crate::bitmap::DirtyBitmap;
use crate::format::{FindingKind, FormatName, Key, KeySource, Layer, OpenOptions, open};
use crate::io::testing::{
    CallFilter, CallKinds, Fault, FaultDevice, HoldDevice, Rng, SimRuntime, abandon_at, yield_now,
};
use crate::io::{
    Access, BlockDevice, Device, MemoryDevice, Preallocation, Runtime, WriteFlags, ZeroFlags,
};
use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// An image over a device that holds calls, and its runtime.
fn held() -> (SimRuntime, Arc<MemoryDevice>, Arc<HoldDevice>, Arc<Layer>) {
    let runtime = SimRuntime::new(1);
    let file = Image::v3().device();
    let hold = Arc::new(HoldDevice::new(file.clone(), runtime.handle()));
    let layer =
        runtime.block_on(open_file(&runtime, hold.clone(), Access::ReadWrite)).expect("it opens");
    (runtime, file, hold, layer)
}

async fn write(layer: &Layer, guest: u64, byte: u8) -> Result<()> {
    layer.write(guest, alloc::vec![byte; CLUSTER].into(), WriteFlags::empty()).await
}

/// Where a guest cluster lies.
async fn host(layer: &Layer, guest: u64) -> Option<u64> {
    let extents = layer.extents(guest, CLUSTER as u64).await.expect("extents");
    extents[0].host.as_ref().map(|host| host.offset)
}

async fn assert_clean_again(runtime: &SimRuntime, file: &Arc<MemoryDevice>, layer: Arc<Layer>) {
    layer.flush().await.expect("durable");
    layer.flush().await.expect("durable");
    drop(layer);
    let layer = open_file(runtime, file.clone(), Access::ReadOnly).await.expect("it opens");
    assert_eq!(findings(&layer).await.expect("a report"), []);
}

/// The write of a dropped future is under way in its host cluster: nobody else may get that
/// cluster before it has landed.
#[test]
fn the_cluster_of_an_abandoned_write_is_not_reused_before_the_write_has_landed() {
    let (runtime, file, hold, layer) = held();
    runtime.block_on(async {
        hold.hold(CallFilter::of(CallKinds::WRITE));
        assert!(abandon_at(write(&layer, 0x1000, 0x11), 1).await.is_none());
        // The task of the held write is entered, and nothing more.
        yield_now().await;
        let held = hold.held();
        assert_eq!(held.len(), 1, "{held:?}");
        assert!(held[0].abandoned);
        let late = held[0].call.offset;
        hold.pass();
        for i in 0..8 {
            write(&layer, 0x2000 + i * CLUSTER as u64, 0x20).await.expect("writable");
            let place = host(&layer, 0x2000 + i * CLUSTER as u64).await;
            assert_ne!(place, Some(late), "cluster {i} lies where the write will land");
        }
        assert!(hold.release(held[0].id));
        hold.landed().await;
        assert_eq!(file.to_vec()[late as usize], 0x11);
        // Now it can be had.
        layer.flush().await.expect("durable");
        write(&layer, 0x3000, 0x30).await.expect("writable");
        assert_eq!(host(&layer, 0x3000).await, Some(late), "it is never used again");
        assert_eq!(layer.read(0x1000, 1).await.expect("readable").to_vec(), [0]);
        assert_eq!(layer.read(0x3000, 1).await.expect("readable").to_vec(), [0x30]);
        assert_clean_again(&runtime, &file, layer).await;
    });
}

/// A write in place is under way while its cluster is discarded, and somebody looks for space.
#[test]
fn a_discarded_cluster_is_not_reused_while_a_write_to_it_is_under_way() {
    let (runtime, file, hold, layer) = held();
    runtime.block_on(async {
        hold.hold(CallFilter::of(CallKinds::WRITE).within(DATA as u64..(DATA + CLUSTER) as u64));
        let writer = layer.clone();
        runtime.spawn(Box::pin(async move {
            write(&writer, 0, 0x11).await.expect("it completes in the end");
        }));
        while hold.held().is_empty() {
            yield_now().await;
        }
        hold.pass();
        layer.discard(0, CLUSTER as u64).await.expect("discard");
        layer.flush().await.expect("durable");
        layer.flush().await.expect("durable");
        for i in 1..9 {
            write(&layer, i * CLUSTER as u64, 0x20).await.expect("writable");
            assert_ne!(host(&layer, i * CLUSTER as u64).await, Some(DATA as u64), "cluster {i}");
        }
        assert_eq!(hold.release_all(), 1);
        hold.landed().await;
        while Arc::strong_count(&layer) > 1 {
            yield_now().await;
        }
        layer.flush().await.expect("durable");
        write(&layer, 0x2000, 0x30).await.expect("writable");
        assert_eq!(host(&layer, 0x2000).await, Some(DATA as u64), "it is never used again");
        let found = layer.read(0, 9 * CLUSTER as u64).await.expect("readable").to_vec();
        assert!(found[..CLUSTER].iter().all(|b| *b == 0));
        assert!(found[CLUSTER..].iter().all(|b| *b == 0x20));
        assert_clean_again(&runtime, &file, layer).await;
    });
}

/// A read has learnt an address before the cluster was given up: it must not see what others put
/// there.
#[test]
fn a_discarded_cluster_is_not_reused_while_a_read_of_it_is_under_way() {
    let (runtime, file, hold, layer) = held();
    runtime.block_on(async {
        // The table is in memory, so that the read is of data.
        layer.read(CLUSTER as u64, 1).await.expect("readable");
        hold.hold(CallFilter::of(CallKinds::READ));
        let (reader, done) = (layer.clone(), Arc::new(crate::sync::Mutex::new(None)));
        let out = done.clone();
        runtime.spawn(Box::pin(async move {
            let found = reader.read(0, CLUSTER as u64).await.expect("readable").to_vec();
            *out.lock() = Some(found);
        }));
        while hold.held().is_empty() {
            yield_now().await;
        }
        hold.pass();
        layer.discard(0, CLUSTER as u64).await.expect("discard");
        layer.flush().await.expect("durable");
        layer.flush().await.expect("durable");
        for i in 1..9 {
            write(&layer, i * CLUSTER as u64, 0x20).await.expect("writable");
        }
        assert_eq!(hold.release_all(), 1);
        let found = loop {
            if let Some(found) = done.lock().take() {
                break found;
            }
            yield_now().await;
        };
        assert_eq!(found, [FILL; CLUSTER], "the read sees what was there when it began");
        layer.flush().await.expect("durable");
        write(&layer, 0x2000, 0x30).await.expect("writable");
        assert_eq!(host(&layer, 0x2000).await, Some(DATA as u64), "it is never used again");
        assert_clean_again(&runtime, &file, layer).await;
    });
}

/// The mapping of a new cluster is on disk only after its bytes are, whatever lands when.
#[test]
fn a_mapping_is_not_written_before_its_bytes_have_landed() {
    let (runtime, file, hold, layer) = held();
    runtime.block_on(async {
        hold.hold(CallFilter::of(CallKinds::WRITE).within(6 * CLUSTER as u64..u64::MAX));
        let writer = layer.clone();
        runtime.spawn(Box::pin(async move {
            write(&writer, 0x1000, 0x11).await.expect("it completes in the end");
        }));
        while hold.held().is_empty() {
            yield_now().await;
        }
        layer.flush().await.expect("durable");
        let entry = L2 + 8 * 0x1000 / CLUSTER;
        assert_eq!(file.to_vec()[entry..entry + 8], [0; 8], "it shows what is not there yet");
        hold.pass();
        hold.release_all();
        while Arc::strong_count(&layer) > 1 {
            yield_now().await;
        }
        assert_clean_again(&runtime, &file, layer).await;
    });
}

/// The host file gives up a freed cluster, or is told to zero it, and that takes its time: who gets
/// the cluster must not lose what he writes to it.
#[test]
fn a_freed_cluster_is_not_written_to_while_a_hole_is_punched_there() {
    let (runtime, file, hold, layer) = held();
    runtime.block_on(async {
        hold.hold(CallFilter::of(CallKinds::DISCARD | CallKinds::WRITE_ZEROES));
        layer.discard(0, CLUSTER as u64).await.expect("discard");
        // Whoever punches does it by himself or with the flush; neither waits for what is held.
        let flushing = layer.clone();
        runtime.spawn(Box::pin(async move {
            flushing.flush().await.expect("durable");
            flushing.flush().await.expect("durable");
        }));
        for _ in 0..50 {
            yield_now().await;
        }
        let punched: Vec<_> = hold.held().iter().map(|held| held.call).collect();
        let writer = layer.clone();
        runtime.spawn(Box::pin(async move {
            for i in 1..9 {
                write(&writer, i * CLUSTER as u64, 0x20).await.expect("writable");
            }
        }));
        for _ in 0..200 {
            yield_now().await;
        }
        for hole in punched {
            let data = file.read(hole.offset, hole.len.min(file.len() - hole.offset)).await;
            let data = data.expect("readable").to_vec();
            assert!(!data.contains(&0x20), "{hole} is under way, and others write there");
        }
        hold.pass();
        hold.release_all();
        hold.landed().await;
        while Arc::strong_count(&layer) > 1 {
            yield_now().await;
        }
        let found = layer.read(0, 9 * CLUSTER as u64).await.expect("readable").to_vec();
        assert!(found[CLUSTER..].iter().all(|b| *b == 0x20), "a hole was punched into it");
        assert_clean_again(&runtime, &file, layer).await;
    });
}

/// A step fails after it has taken clusters. Whether it gives them back or keeps them: nobody else
/// has one of them at the same time.
#[test]
fn a_cluster_is_not_given_twice_after_a_step_has_failed() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut failures = 0;
        for call in 0..200 {
            let file = Image::v3().device();
            let failing = Arc::new(FaultDevice::new(file.clone()));
            let filter = CallFilter::of(CallKinds::CHANGES | CallKinds::FLUSH);
            failing.add(Fault::new(ErrorKind::Io).on(filter).nth(call));
            let device: Device = failing.clone();
            let mut layer = open_file(&runtime, device.clone(), Access::ReadWrite).await;
            let mut written = Vec::new();
            for i in 1..12u64 {
                let Ok(open) = &layer else { break };
                let done = match i % 4 {
                    3 => open.flush().await,
                    _ => write(open, i * 3 * CLUSTER as u64, i as u8).await,
                };
                match done {
                    Ok(()) if i % 4 != 3 => written.push(i),
                    Ok(()) => {}
                    Err(_) if open.flush().await.is_ok() => {}
                    Err(_) => {
                        // It writes no more until it is opened again.
                        written.clear();
                        layer = open_file(&runtime, device.clone(), Access::ReadWrite).await;
                    }
                }
            }
            let layer = layer.expect("it opens");
            for i in &written {
                let at = i * 3 * CLUSTER as u64;
                let found = layer.read(at, CLUSTER as u64).await.expect("readable").to_vec();
                assert_eq!(found, [*i as u8; CLUSTER], "call {call} fails");
            }
            let mut places = BTreeSet::new();
            for at in (0..SIZE).step_by(CLUSTER) {
                let place = host(&layer, at).await;
                assert!(place.is_none_or(|at| places.insert(at)), "call {call}: {place:?} twice");
            }
            // The call that fails may be one of closing.
            let closed = layer.close().await;
            assert!(closed.is_ok() || failing.failed() == 1, "call {call}: {closed:?}");
            drop(layer);
            let layer = open_file(&runtime, file, Access::ReadOnly).await.expect("it opens");
            for finding in findings(&layer).await.expect("a report") {
                assert_eq!(finding.kind, FindingKind::Leak, "call {call}: {finding:?}");
            }
            if failing.failed() == 0 {
                break;
            }
            failures += 1;
        }
        assert!((10..199).contains(&failures), "{failures} failures");
    });
}

/// Counts say that the header or a table is free. Nothing is written over
/// them; where there is no other place, the write fails.
#[test]
fn structures_that_count_as_free_are_not_written_over() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for free in [&[0][..], &[1], &[2], &[3], &[4], &[0, 1], &[2, 4], &[0, 1, 2, 3, 4]] {
            let mut image = Image::v3();
            free.iter().for_each(|cluster| _ = image.refcount(*cluster, 0));
            let file = image.device();
            let layer = open_file(&runtime, file.clone(), Access::ReadWrite).await;
            let layer = layer.expect("counts are not looked at when it is opened");
            let mut refused = false;
            for i in 1..20u64 {
                refused |= write(&layer, i * CLUSTER as u64, 0xee).await.is_err();
            }
            assert!(refused, "{free:?}: nothing was noticed");
            let _ = layer.flush().await;
            drop(layer);
            let bytes = file.to_vec();
            for at in 0..5 {
                let found = &bytes[at * CLUSTER..(at + 1) * CLUSTER];
                assert!(!found.contains(&0xee), "{free:?} are free, {at} is written over");
            }
            assert_eq!(bytes[..8], image.bytes[..8], "the header is gone");
            let layer = open_file(&runtime, file, Access::ReadOnly).await.expect("it opens");
            let found = layer.read(0, CLUSTER as u64).await.expect("readable").to_vec();
            assert_eq!(found, [FILL; CLUSTER]);
        }
    });
}

/// Space that was given up is used again, that of tables and refcount blocks included: whoever
/// rewrites a disk for ever does not fill the host's.
#[test]
fn rewriting_the_same_areas_does_not_let_the_file_grow() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (cluster_size, refcount_bits, extended_l2) in
            [(512, 64, false), (512, 16, false), (4096, 16, false), (16 << 10, 16, true)]
        {
            let size = 64 * u64::from(cluster_size);
            let options = CreateOptions {
                size,
                cluster_size,
                refcount_bits,
                extended_l2,
                ..CreateOptions::default()
            };
            let file = Arc::new(MemoryDevice::new(0));
            let device: Device = file.clone();
            create(&runtime.handle(), &device, None, &options).await.expect("possible options");
            let layer = open_file(&runtime, device, Access::ReadWrite).await.expect("it opens");
            let mut rng = Rng::new(7);
            let cluster = u64::from(cluster_size);
            for round in 0..400 {
                let at = rng.below(48) * cluster;
                let len = rng.between(1, 16) * cluster;
                match rng.below(6) {
                    0 => layer.discard(at, len).await.expect("discard"),
                    1 => {
                        layer.write_zeroes(at, len, ZeroFlags::MAY_UNMAP).await.expect("zeroes");
                    }
                    2 => {
                        let data = alloc::vec![round as u8; len as usize];
                        layer.write(at, data.into(), WriteFlags::COMPRESSED).await.expect("room");
                    }
                    _ => {
                        let data = alloc::vec![round as u8 | 1; len as usize];
                        layer.write(at, data.into(), WriteFlags::empty()).await.expect("room");
                    }
                }
                if rng.chance(30) {
                    layer.flush().await.expect("durable");
                }
            }
            layer.flush().await.expect("durable");
            // What it holds at most, twice, and tables: a cluster waits for a flush before it is
            // used again.
            let bound = 2 * size + 16 * cluster;
            let len = file.len();
            assert!(len <= bound, "{cluster_size}: {len:#x} bytes, {bound:#x} are enough");
            layer.close().await.expect("closed");
        }
    });
}

/// An open that is refused leaves everything as it was, bits that a writer would clear included.
#[test]
fn a_refused_open_changes_nothing() {
    let runtime = SimRuntime::new(1);
    type Break = fn(&mut Image);
    let cases: &[(&str, Break)] = &[
        ("an unknown feature", |i| _ = i.be64(h::INCOMPATIBLE, 1 << 40)),
        ("marked corrupt", |i| _ = i.be64(h::INCOMPATIBLE, Incompatible::CORRUPT.bits())),
        ("an L1 table far away", |i| _ = i.be64(h::L1_OFFSET, 1 << 40)),
        ("tables on one another", |i| _ = i.be64(h::L1_OFFSET, REFTABLE as u64)),
        ("no refcount table", |i| _ = i.be32(h::REFTABLE_CLUSTERS, 0)),
        ("a snapshot table far away", |i| {
            _ = i.be32(h::NB_SNAPSHOTS, 1).be64(h::SNAPSHOTS_OFFSET, 1 << 40);
        }),
        ("a broken bitmap directory", |i| {
            _ = i
                .extension(extension::BITMAPS, &[0; 24])
                .be32(h::V3_LEN + 8, 1)
                .be64(h::V3_LEN + 16, 32)
                .be64(h::V3_LEN + 24, SPARE as u64);
        }),
        ("dirty, and not to be repaired", |i| {
            _ = i
                .be32(h::NB_SNAPSHOTS, 1)
                .be64(h::SNAPSHOTS_OFFSET, 1 << 40)
                .be64(h::INCOMPATIBLE, Incompatible::DIRTY.bits());
        }),
    ];
    runtime.block_on(async {
        for (name, break_it) in cases {
            let mut image = Image::v3();
            break_it(&mut image);
            image.be64(h::AUTOCLEAR, Autoclear::BITMAPS.bits() | 1 << 50);
            let file = image.device();
            let refused = open_file(&runtime, file.clone(), Access::ReadWrite).await;
            assert!(refused.is_err(), "{name}: it opens");
            assert!(file.to_vec() == image.bytes, "{name}: the file has changed");
        }
    });
}

/// Unusual, and allowed: such an image opens for writing, is sound, and takes a write.
#[test]
fn unusual_images_that_are_valid_are_not_refused() {
    let runtime = SimRuntime::new(1);
    type Make = fn(&mut Image);
    let cases: &[(&str, Make)] = &[
        ("an L1 table longer than the disk needs", |i| _ = i.be32(h::L1_SIZE, 40)),
        ("unknown compatible and autoclear bits", |i| {
            _ = i.be64(h::COMPATIBLE, 1 << 60).be64(h::AUTOCLEAR, 1 << 61);
        }),
        ("unknown extensions, an empty one too", |i| {
            _ = i.extension(0x1234_5678, b"some").extension(0x1234_5679, b"");
        }),
        ("an empty table of feature names", |i| _ = i.extension(extension::FEATURE_NAMES, b"")),
        ("a disk that ends within a cluster", |i| _ = i.be64(h::SIZE, SIZE - CLUSTER as u64 / 2)),
        ("a longer header", |i| {
            _ = i.be32(h::HEADER_LENGTH, 120).be64(104, 0).be64(112, 0);
        }),
        ("a file that ends within its last cluster", |i| {
            _ = i.refcount(6, 1).be64(L2 + 8, SPARE as u64 | l::COPIED).len(6 * CLUSTER + 7);
        }),
        ("postponed refcounts", |i| {
            _ = i.be64(h::COMPATIBLE, Compatible::LAZY_REFCOUNTS.bits());
        }),
        ("zeroes with a place of their own", |i| {
            _ = i.refcount(6, 1).be64(L2 + 8, SPARE as u64 | l::COPIED | l::ZERO);
        }),
        ("bytes behind the end of everything", |i| _ = i.len(20 * CLUSTER)),
        ("an L1 entry of nothing beside one in use", |i| _ = i.be32(h::L1_SIZE, 2).be64(L1 + 8, 0)),
    ];
    runtime.block_on(async {
        for (name, make) in cases {
            let mut image = Image::v3();
            make(&mut image);
            let file = image.device();
            let layer = open_file(&runtime, file.clone(), Access::ReadWrite).await;
            let layer = layer.unwrap_or_else(|e| panic!("{name}: refused: {e}"));
            let found = layer.read(0, CLUSTER as u64).await.expect("readable").to_vec();
            assert_eq!(found, [FILL; CLUSTER], "{name}");
            let found = findings(&layer).await.expect("a report");
            assert!(found.is_empty(), "{name}: {found:?}");
            write(&layer, 0x2000, 7).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            layer.close().await.expect("closed");
            let layer = open_file(&runtime, file, Access::ReadOnly).await.expect("it opens");
            let found = findings(&layer).await.expect("a report");
            assert!(found.is_empty(), "{name}, written to: {found:?}");
            assert_eq!(layer.read(0x2000, 1).await.expect("readable").to_vec(), [7], "{name}");
        }
    });
}

/// Refcounts are for those who write: without them the disk can be read, and its extents be told.
#[test]
fn an_image_without_its_refcount_table_can_be_read() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for offset in [1 << 32, 0x200] {
            let mut image = Image::v3();
            image.be64(h::REFTABLE_OFFSET, offset).be32(h::REFTABLE_CLUSTERS, 100);
            let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
            let found = layer.read(0, CLUSTER as u64).await.expect("readable").to_vec();
            assert_eq!(found, [FILL; CLUSTER]);
            let extents = layer.extents(0, SIZE).await.expect("without refcounts");
            assert!(extents[0].is_data() && extents[0].len == CLUSTER as u64, "{extents:?}");
        }
    });
}

/// Power is lost while an image is committed and emptied: through the chain everything reads as
/// before, whatever has landed in either file.
#[test]
fn a_commit_that_is_interrupted_loses_nothing() {
    let tally = campaign::run_one("commit", 3, 400, &mut |_| ());
    assert!(tally.broken.is_empty(), "{}", tally.broken.join("\n\n"));
    assert!(tally.points >= 400 && tally.moments > 20, "{tally:?}");
}

/// A bitmap was stored, the disk was written to, and the writer is gone before it could store the
/// bitmap again: what the file has is of before, and must not pass for the truth. After that, a new
/// one of the same name begins anew.
#[test]
fn a_bitmap_of_before_a_crash_is_not_believed() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file = Arc::new(MemoryDevice::new(0));
        let device: Device = file.clone();
        let options =
            CreateOptions { size: 1 << 20, cluster_size: 4096, ..CreateOptions::default() };
        create(&runtime.handle(), &device, None, &options).await.expect("possible options");
        let rw = async || open_file(&runtime, device.clone(), Access::ReadWrite).await;
        let add = |layer: &Layer| {
            let bitmap = DirtyBitmap::new("b", layer.len(), 4096).expect("valid");
            bitmap.set_persistent(true);
            layer.bitmaps().add(bitmap).expect("new")
        };
        let layer = rw().await.expect("it opens");
        add(&layer);
        layer.close().await.expect("closed");

        let layer = rw().await.expect("it opens");
        write(&layer, 0x3000, 7).await.expect("writable");
        layer.flush().await.expect("durable");
        drop(layer);

        // A second writer that stores everything does not make it true either.
        for _ in 0..2 {
            let layer = rw().await.expect("it opens");
            let bitmap = layer.bitmaps().find("b").expect("still there");
            assert!(bitmap.status().inconsistent, "it does not know of the last write");
            bitmap.check_usable().expect_err("not to be used");
            write(&layer, 0x9000, 8).await.expect("writable");
            layer.close().await.expect("closed");
        }
        let layer = rw().await.expect("it opens");
        layer.bitmaps().remove("b").expect("removable");
        let bitmap = add(&layer);
        write(&layer, 0xc000, 9).await.expect("writable");
        assert_eq!((bitmap.get(0x3000), bitmap.get(0xc000)), (false, true));
        layer.close().await.expect("closed");
        let layer = rw().await.expect("it opens");
        let bitmap = layer.bitmaps().find("b").expect("stored");
        assert!(!bitmap.status().inconsistent && bitmap.get(0xc000));
        assert_eq!(findings(&layer).await.expect("a report"), []);
        layer.set_len(2 << 20, Preallocation::Off).await.expect("grown");
    });
}

/// Clusters that were reserved in advance hold zeroes in the file, and zeroes are none when they are
/// decrypted.
#[test]
fn an_encrypted_disk_gains_zeroes_however_it_is_preallocated() {
    use Preallocation::{Falloc, Full, Metadata, Off};
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for how in [Off, Metadata, Falloc, Full] {
            let file: Device = Arc::new(MemoryDevice::new(0));
            let secret = Some("secret".into());
            let encryption = EncryptionOptions { method: EncryptionMethod::Aes, secret };
            let options = CreateOptions {
                size: 1 << 20,
                encryption: Some(encryption),
                ..CreateOptions::default()
            };
            create(&runtime.handle(), &file, None, &options).await.expect("possible options");
            let rw = async || {
                let options = OpenOptions {
                    format: Some(FormatName::Qcow2),
                    access: Access::ReadWrite,
                    key: KeySource::Given(Key::from(crate::crypto::Secret::from("secret"))),
                    ..OpenOptions::default()
                };
                let env = super::env(&runtime, &file);
                open(&env, file.clone(), "image", options).await.expect("it opens")
            };
            let layer = rw().await;
            layer.set_len(3 << 20, how).await.expect("larger");
            layer.close().await.expect("closed");
            let layer = rw().await;
            let gained = layer.read(1 << 20, 2 << 20).await.expect("readable").to_vec();
            assert!(gained.iter().all(|byte| *byte == 0), "{how:?}");
            assert_eq!(findings(&layer).await.expect("a report"), [], "{how:?}");
        }
    });
}
