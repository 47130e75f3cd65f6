//! Overlap checks: what damaged tables and counts must not lead a write to.

use super::super::layout::{self as l, Incompatible, be64, header as h};
use super::super::{
    CreateOptions, OpenOptions as Qcow2Options, OverlapCheckMode, OverlapChecks, create,
};
use super::builder::{CLUSTER, DATA, FILL, Image, L1, L2, REFBLOCK, REFTABLE, SIZE, SPARE};
use super::{env, findings};
use crate::bitmap::DirtyBitmap;
use crate::format::{DriverEvent, FormatName, Layer, NewSnapshot, OpenOptions, open};
use crate::io::testing::{Rng, SimRuntime};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags, ZeroFlags};
use crate::{ErrorKind, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

async fn open_with(
    runtime: &SimRuntime,
    file: &Arc<MemoryDevice>,
    checks: impl Into<OverlapChecks>,
) -> Arc<Layer> {
    let other: Device = Arc::new(MemoryDevice::new(SIZE));
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        qcow2: Qcow2Options { overlap_check: checks.into(), ..Qcow2Options::default() },
        ..OpenOptions::default()
    };
    open(&env(runtime, &other), file.clone(), "image", options).await.expect("it opens")
}

async fn write(layer: &Layer, guest: u64, byte: u8) -> Result<()> {
    layer.write(guest, alloc::vec![byte; CLUSTER].into(), WriteFlags::empty()).await
}

/// What the one event of an image says, without the words around it.
fn told(layer: &Layer) -> Option<String> {
    let events = layer.driver().take_events();
    let [DriverEvent::Corrupted(event)] = &events[..] else {
        assert_eq!(events, []);
        return None;
    };
    assert!(event.fatal && event.offset.is_some() && event.size.is_some(), "{event:?}");
    let msg = event.msg.strip_prefix("Preventing invalid write on metadata (overlaps with ");
    Some(msg.expect("an overlap").strip_suffix(')').expect("an overlap").into())
}

/// A disk of one L2 table that has everything: cluster 0 is written, in a snapshot and again, and
/// there is a bitmap. Gives the file and where its structures lie.
async fn with_everything(runtime: &SimRuntime) -> (Vec<u8>, Vec<(&'static str, u64)>) {
    let file = Arc::new(MemoryDevice::new(0));
    let device: Device = file.clone();
    let options = CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() };
    create(&runtime.handle(), &device, None, &options).await.expect("possible options");
    let layer = open_with(runtime, &file, OverlapCheckMode::All).await;
    write(&layer, 0, 1).await.expect("writable");
    let snapshots = layer.driver().snapshots().expect("it has them");
    let new = NewSnapshot { name: "s".into(), ..NewSnapshot::default() };
    snapshots.create(new).await.expect("possible");
    write(&layer, 0, 2).await.expect("writable");
    let bitmap = DirtyBitmap::new("b", SIZE, 512).expect("valid");
    bitmap.set_persistent(true);
    layer.bitmaps().add(bitmap).expect("new");
    layer.close().await.expect("closed");
    drop(layer);
    let bytes = file.to_vec();
    let at = |at: u64| be64(&bytes, at as usize) & l::OFFSET_MASK;
    let (l1, table, snapshot) =
        (at(h::L1_OFFSET as u64), at(h::REFTABLE_OFFSET as u64), at(h::SNAPSHOTS_OFFSET as u64));
    let extension = 0x2385_2875_u32.to_be_bytes();
    let extension = bytes.windows(4).position(|w| w == extension).expect("bitmaps") as u64;
    let structures = Vec::from([
        ("active L1 table", l1),
        ("active L2 table", at(l1)),
        ("refcount table", table),
        ("refcount block", at(table)),
        ("snapshot table", snapshot),
        ("inactive L1 table", at(snapshot)),
        ("inactive L2 table", at(at(snapshot))),
        ("bitmap directory", at(extension + 24)),
    ]);
    (bytes, structures)
}

/// The second cluster of the disk lies on a table, says a forged entry: each mode guards what the
/// schema says that it guards, and what it does not guard is written to.
#[test]
fn each_mode_guards_its_structures() {
    use OverlapCheckMode::{All, Cached, Constant, None};
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let (bytes, structures) = with_everything(&runtime).await;
        let l2 = structures[1].1 as usize;
        for (what, at) in structures {
            let least = match what {
                "active L2 table" | "refcount block" | "inactive L1 table" => Cached,
                "inactive L2 table" => All,
                _ => Constant,
            };
            for mode in [None, Constant, Cached, All] {
                let mut forged = bytes.clone();
                forged[l2 + 8..l2 + 16].copy_from_slice(&(at | l::COPIED).to_be_bytes());
                let file = Arc::new(MemoryDevice::with_data(&forged));
                let layer = open_with(&runtime, &file, mode).await;
                let written = write(&layer, 4096, 0xee).await;
                // A directory of bitmaps says in its first entry that they are in use.
                let place = at as usize + 24..at as usize + CLUSTER;
                if mode as u8 >= least as u8 {
                    let refused = written.expect_err(what);
                    assert_eq!(refused.kind(), ErrorKind::Corrupt);
                    assert_eq!(told(&layer).as_deref(), Some(what), "{mode:?}");
                    assert_eq!(file.to_vec()[place.clone()], forged[place], "{what} {mode:?}");
                    let marks = be64(&file.to_vec(), h::INCOMPATIBLE);
                    assert_eq!(marks, Incompatible::CORRUPT.bits(), "{what} {mode:?}");
                    write(&layer, 0x2000, 1).await.expect_err("nothing is written any more");
                    layer.flush().await.expect_err("nothing is written any more");
                    assert_eq!(told(&layer), Option::None, "it is told once");
                } else {
                    written.unwrap_or_else(|e| panic!("{what} {mode:?}: {e}"));
                    assert_eq!(told(&layer), Option::None, "{what} {mode:?}");
                    assert_eq!(file.to_vec()[place], [0xee; CLUSTER - 24], "{what} {mode:?}");
                }
            }
        }
    });
}

/// Single flags add to a mode and take from it.
#[test]
fn single_structures_can_be_guarded() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut image = Image::v3();
        image.be64(L2 + 8, L2 as u64 | l::COPIED);
        for (checks, refused) in [
            (OverlapChecks::ACTIVE_L2, true),
            (OverlapChecks::all() - OverlapChecks::ACTIVE_L2, false),
            (OverlapChecks::empty(), false),
        ] {
            let layer = open_with(&runtime, &image.device(), checks).await;
            let written = write(&layer, CLUSTER as u64, 0).await;
            assert_eq!(written.is_err(), refused, "{checks:?}");
        }
        let names = OverlapChecks::NAMES.iter().fold(OverlapChecks::empty(), |all, n| all | n.1);
        assert_eq!(names, OverlapChecks::all(), "a flag has no name");
    });
}

/// Tables that lie on one another: nothing is written over either, and whoever writes is told.
#[test]
fn tables_on_one_another_are_not_written() {
    let runtime = SimRuntime::new(1);
    type Break = fn(&mut Image);
    let cases: [(&str, Break); 6] = [
        ("an L2 table on the refcount table", |i| _ = i.be64(L1, REFTABLE as u64 | l::COPIED)),
        ("an L2 table on a refcount block", |i| _ = i.be64(L1, REFBLOCK as u64 | l::COPIED)),
        ("an L2 table on the L1 table", |i| _ = i.be64(L1, L1 as u64 | l::COPIED)),
        ("a refcount block on an L2 table", |i| _ = i.be64(REFTABLE, L2 as u64)),
        ("a refcount block on the L1 table", |i| _ = i.be64(REFTABLE, L1 as u64)),
        ("a place for zeroes on the L2 table", |i| {
            _ = i.be64(L2 + 16 * 8, L2 as u64 | l::COPIED | l::ZERO);
        }),
    ];
    runtime.block_on(async {
        for (name, break_it) in cases {
            let mut image = Image::v3();
            break_it(&mut image);
            let file = image.device();
            let layer = open_with(&runtime, &file, OverlapCheckMode::Cached).await;
            let mut refused = false;
            for step in 0..8u64 {
                refused |= write(&layer, (16 + step) * CLUSTER as u64, 0xee).await.is_err();
                refused |= layer.flush().await.is_err();
            }
            assert!(refused, "{name}: nothing was noticed");
            drop(layer);
            let (mut now, mut before) = (file.to_vec(), image.bytes.clone());
            // The mark is allowed to be there, and nothing else.
            for bytes in [&mut now, &mut before] {
                bytes[h::INCOMPATIBLE..h::INCOMPATIBLE + 8].fill(0);
            }
            for at in (0..SPARE).step_by(CLUSTER) {
                assert_eq!(now[at..at + CLUSTER], before[at..at + CLUSTER], "{name}: {at:#x}");
            }
        }
    });
}

/// A version that has no mark: it is told all the same, and nothing more is written.
#[test]
fn version_2_is_guarded_without_a_mark() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut image = Image::v2();
        image.be64(L2 + 8, L1 as u64 | l::COPIED);
        let file = image.device();
        let layer = open_with(&runtime, &file, OverlapCheckMode::Cached).await;
        write(&layer, CLUSTER as u64, 0xee).await.expect_err("the L1 table");
        assert_eq!(told(&layer).as_deref(), Some("active L1 table"));
        write(&layer, 0, 0xee).await.expect_err("nothing is written any more");
        assert_eq!(file.to_vec(), image.bytes);
        let found = layer.read(0, CLUSTER as u64).await.expect("it can be read").to_vec();
        assert_eq!(found, [FILL; CLUSTER]);
    });
}

/// A write over many clusters, of which one lies on a table.
#[test]
fn a_long_write_stops_at_the_table() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut image = Image::v3();
        image.refcount(6, 1).be64(L2 + 8, SPARE as u64 | l::COPIED);
        image.be64(L2 + 16, REFBLOCK as u64 | l::COPIED);
        let file = image.device();
        let layer = open_with(&runtime, &file, OverlapCheckMode::Cached).await;
        let data = alloc::vec![0xee; 3 * CLUSTER];
        layer.write(0, data.into(), WriteFlags::empty()).await.expect_err("the third cluster");
        assert_eq!(told(&layer).as_deref(), Some("refcount block"));
        let now = file.to_vec();
        assert_eq!(now[REFBLOCK..REFBLOCK + CLUSTER], image.bytes[REFBLOCK..REFBLOCK + CLUSTER]);
        let first = now[DATA];
        assert!(first == FILL || first == 0xee);
    });
}

/// Sound images never meet a check, whatever is done with them: tables that were tables are data
/// later, and the other way round.
#[test]
fn sound_images_do_not_meet_the_checks() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for seed in 0..4 * super::rounds() {
            let file = Arc::new(MemoryDevice::new(0));
            let device: Device = file.clone();
            let size = 4 * SIZE;
            let options = CreateOptions { size, cluster_size: 512, ..CreateOptions::default() };
            create(&runtime.handle(), &device, None, &options).await.expect("possible options");
            let mut layer = open_with(&runtime, &file, OverlapCheckMode::All).await;
            let mut rng = Rng::new(seed);
            let mut disk = alloc::vec![0u8; size as usize];
            for step in 0..150u32 {
                let at = rng.below(250) * 512;
                let len = rng.between(1, 6) * 512;
                let range = at as usize..(at + len) as usize;
                let snapshots = layer.driver().snapshots().expect("it has them");
                let done = match rng.below(12) {
                    0 => {
                        let name = format!("{step}");
                        let new = NewSnapshot { name, ..NewSnapshot::default() };
                        snapshots.create(new).await.map(drop)
                    }
                    1 => match snapshots.list().first() {
                        Some(oldest) => snapshots.delete(&oldest.id).await,
                        None => Ok(()),
                    },
                    2 => {
                        disk[range].fill(0);
                        layer.write_zeroes(at, len, ZeroFlags::MAY_UNMAP).await
                    }
                    3 => layer.flush().await,
                    4 if rng.chance(30) => {
                        layer.close().await.expect("closed");
                        layer = open_with(&runtime, &file, OverlapCheckMode::All).await;
                        Ok(())
                    }
                    _ => {
                        disk[range].fill(step as u8);
                        let data = alloc::vec![step as u8; len as usize];
                        layer.write(at, data.into(), WriteFlags::empty()).await
                    }
                };
                done.unwrap_or_else(|e| panic!("seed {seed}, step {step}: {e}"));
            }
            let found = layer.read(0, size).await.expect("readable").to_vec();
            assert!(found == disk, "seed {seed}");
            layer.close().await.expect("closed");
            assert_eq!(findings(&layer).await.expect("a report"), [], "seed {seed}");
            assert_eq!(layer.driver().take_events(), []);
        }
    });
}

/// Whatever is forged into entries and counts: no byte of the guest gets into a cluster that is a
/// table of the forged image.
#[test]
fn no_forgery_leads_guest_data_into_tables() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let (mut refused, mut written) = (0, 0);
        for seed in 0..400 * super::rounds() {
            let mut rng = Rng::new(seed);
            let mut image = Image::v3();
            image.len(12 * CLUSTER);
            for _ in 0..rng.between(1, 4) {
                let target = rng.below(10) * CLUSTER as u64;
                let entry = rng.below(12) as usize;
                let flags = [0, l::COPIED, l::COPIED, l::COPIED | l::ZERO, l::ZERO];
                let flags = flags[rng.below(5) as usize];
                _ = match rng.below(6) {
                    0 => image.refcount(rng.below(8) as usize, rng.below(2) as u16),
                    // What is not to itself moves, and leaves its place to others.
                    1 if target != 0 => image.be64(L1, target | l::COPIED),
                    2 if target != 0 => image.be64(REFTABLE, target),
                    _ => image.be64(L2 + 8 * entry, target | flags),
                };
            }
            let at = |at: usize| (be64(&image.bytes, at) & l::OFFSET_MASK) as usize;
            let tables = [0, REFTABLE, L1, at(L1), at(REFTABLE)];
            let file = image.device();
            let layer = open_with(&runtime, &file, OverlapCheckMode::Cached).await;
            for _ in 0..12 {
                let guest = rng.below(24) * CLUSTER as u64;
                let len = rng.between(1, 3) as usize * CLUSTER;
                let data = alloc::vec![0xee; len];
                let done = match rng.below(8) {
                    0 => layer.flush().await,
                    1 => layer.write_zeroes(guest, len as u64, ZeroFlags::MAY_UNMAP).await,
                    2 => layer.discard(guest, len as u64).await,
                    _ => layer.write(guest, data.into(), WriteFlags::empty()).await,
                };
                *(if done.is_ok() { &mut written } else { &mut refused }) += 1;
            }
            let _ = layer.close().await;
            let bytes = file.to_vec();
            for table in tables {
                let found = bytes.get(table..table + CLUSTER).unwrap_or_default();
                assert!(
                    !found.windows(16).any(|bytes| bytes == [0xee; 16]),
                    "seed {seed}: guest data in the table at {table:#x}"
                );
            }
        }
        assert!(refused > 100 && written > 100, "{refused} refused, {written} written");
    });
}
