//! Repairs: what they do about each kind of damage, what is left where the power goes in their
//! midst, and the marks that call for them.

use super::super::layout::{self as l, Autoclear, Compatible, Incompatible, be64, header as h};
use super::builder::{CLUSTER, DATA, FILL, Image, L1, L2, REFBLOCK, REFTABLE, SIZE, SPARE};
use super::{env, rounds};
use crate::Result;
use crate::format::{
    CheckReport, DriverEvent, Finding, FindingKind, FormatName, Layer, OpenOptions, Repair, open,
};
use crate::image::{self, no_progress};
use crate::io::testing::{CallKinds, CountDevice, CrashDevice, Rng, SimRuntime};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

async fn open_as(
    runtime: &SimRuntime,
    file: &Device,
    access: Access,
    check: bool,
) -> Result<Arc<Layer>> {
    let other: Device = Arc::new(MemoryDevice::new(SIZE));
    let format = Some(FormatName::Qcow2);
    let options = OpenOptions { format, access, check, ..OpenOptions::default() };
    open(&env(runtime, &other), file.clone(), "image", options).await
}

/// Checks, and repairs.
async fn mend(runtime: &SimRuntime, file: &Device, repair: Repair) -> image::Check {
    let access = if repair == Repair::Nothing { Access::ReadOnly } else { Access::ReadWrite };
    let layer = open_as(runtime, file, access, true).await.expect("it opens to be checked");
    let found = image::check(&layer, repair, &no_progress).await.expect("it runs");
    layer.close().await.expect("closed");
    found.expect("qcow2 has a check")
}

async fn bytes_of(file: &Device) -> Vec<u8> {
    file.read(0, file.len()).await.expect("memory").to_vec()
}

fn words(report: &CheckReport) -> Vec<String> {
    report.findings.iter().map(|f| f.what.clone()).collect()
}

/// Name, damage, what is left of corruptions and leaks after `Leaks` and after `All`; `None` where
/// the repair has to refuse.
type Case = (&'static str, fn(&mut Image), Option<(u64, u64)>, (u64, u64));

const CASES: &[Case] = &[
    ("a leak", |i| _ = i.refcount(6, 1), Some((0, 0)), (0, 0)),
    ("too high a count", |i| _ = i.refcount(5, 3), Some((0, 0)), (0, 0)),
    ("a count that is missing", |i| _ = i.refcount(5, 0), None, (0, 0)),
    ("a cluster used twice", |i| _ = i.be64(L2 + 8, DATA as u64 | l::COPIED), Some((1, 0)), (0, 0)),
    ("a copied flag that is missing", |i| _ = i.be64(L2, DATA as u64), Some((0, 0)), (0, 0)),
    ("the same of an L2 table", |i| _ = i.be64(L1, L2 as u64), Some((0, 0)), (0, 0)),
    ("no refcount block", |i| _ = i.be64(REFTABLE, 0), None, (0, 0)),
    ("a refcount block out of line", |i| _ = i.be64(REFTABLE, REFBLOCK as u64 + 8), None, (0, 0)),
    ("a refcount block far away", |i| _ = i.be64(REFTABLE, 1 << 40), None, (0, 0)),
    ("a block used twice", |i| _ = i.be64(REFTABLE + 8, REFBLOCK as u64), None, (0, 0)),
    ("counts full of noise", |i| _ = i.put(REFBLOCK, &[0xa5; 14]), Some((0, 0)), (0, 0)),
    ("no refcount table", |i| _ = i.be32(h::REFTABLE_CLUSTERS, 0), None, (0, 0)),
    ("a refcount table far away", |i| _ = i.be64(h::REFTABLE_OFFSET, 1 << 40), None, (0, 0)),
    (
        "a place for zeroes out of line",
        |i| _ = i.be64(L2 + 8, (SPARE as u64 + 0x200) | l::ZERO).len(9 * CLUSTER).refcount(7, 1),
        Some((0, 0)),
        (0, 0),
    ),
    ("reserved bits", |i| _ = i.be64(L2, DATA as u64 | l::COPIED | 2), Some((1, 0)), (1, 0)),
    ("data past the end", |i| _ = i.be64(L2 + 8, 0x10_0000 | l::COPIED), Some((2, 0)), (1, 0)),
];

#[test]
fn a_repair_leaves_what_it_says_and_the_data_as_it_was() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (name, damage, after_leaks, after_all) in CASES {
            let mut image = Image::v3();
            damage(&mut image);
            for (repair, want) in [(Repair::Leaks, *after_leaks), (Repair::All, Some(*after_all))] {
                let name = format!("{name}, {repair:?}");
                let file: Device = image.device();
                let before = bytes_of(&file).await;
                let planned = mend(&runtime, &file, Repair::Nothing).await;
                assert_eq!(bytes_of(&file).await, before, "{name}: a check changes something");
                let found = mend(&runtime, &file, repair).await;
                let last = found.last();
                let Some(want) = want else {
                    assert!(last.failed.is_some(), "{name}: {:#?}", words(last));
                    assert_eq!(bytes_of(&file).await, before, "{name}: refused, and changed");
                    continue;
                };
                assert_eq!(last.failed, None, "{name}");
                assert_eq!((last.corruptions, last.leaks), want, "{name}: {:#?}", words(last));
                assert!(last.findings.iter().all(|f| !f.fixed), "{name}: a check repairs");
                // What was planned has been done.
                let done = planned
                    .report
                    .findings
                    .iter()
                    .any(|f| f.remedy.needs() <= Some(repair) && f.remedy.needs().is_some());
                assert_eq!(found.second.is_some(), done, "{name}: {:#?}", planned.report.findings);
                let again = mend(&runtime, &file, Repair::Nothing).await;
                let counts = (again.report.corruptions, again.report.leaks);
                assert_eq!(counts, want, "{name}: it does not stay");
                if want == (0, 0) {
                    let layer = open_as(&runtime, &file, Access::ReadWrite, false).await;
                    let layer = layer.expect("a sound image opens for writing");
                    let data = layer.read(0, CLUSTER as u64).await.expect("readable").to_vec();
                    assert_eq!(data, [FILL; CLUSTER], "{name}");
                    layer
                        .write(0x3000, alloc::vec![7; 0x2000].into(), WriteFlags::empty())
                        .await
                        .expect("writable");
                    layer.close().await.expect("closed");
                    let sound = mend(&runtime, &file, Repair::Nothing).await;
                    assert_eq!(words(&sound.report), [""; 0], "{name}");
                }
            }
        }
    });
}

/// Refcounts and snapshot tables that a repair wrote at the end of the file were shown by a disk that
/// referred to that place.
#[test]
fn a_repair_writes_nothing_where_the_disk_refers_to() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (first, second) in [(8, 8), (8, 10), (9, 9), (9, 11), (10, 8), (11, 12), (13, 9)] {
            for with_snapshot in [false, true] {
                let mut image = Image::v3();
                let place = |index: usize| (index * CLUSTER) as u64 | l::COPIED;
                image.be64(L2 + 8, place(first)).be64(L2 + 16, place(second));
                match with_snapshot {
                    // An entry of an old writer.
                    true => _ = image.snapshot_of_all(SPARE).put(SPARE + 40, b"1one"),
                    false => _ = image.be64(REFTABLE, 0),
                }
                let file: Device = image.len(8 * CLUSTER).device();
                let name = format!("{first}, {second}, {with_snapshot}");
                let found = mend(&runtime, &file, Repair::All).await;
                let last = found.last();
                assert_eq!(last.failed, None, "{name}: {:#?}", words(last));
                let layer = open_as(&runtime, &file, Access::ReadOnly, false).await.expect("open");
                let data = layer.read(0, 3 * CLUSTER as u64).await.expect("readable").to_vec();
                assert_eq!(data[..CLUSTER], [FILL; CLUSTER], "{name}");
                assert_eq!(data[CLUSTER..], [0; 2 * CLUSTER], "{name}");
                let again = mend(&runtime, &file, Repair::Nothing).await;
                assert_eq!(words(&again.report), words(last), "{name}: it does not stay");
            }
        }
    });
}

/// The snapshot table entry of an old writer: no extra data. The whole table moves.
#[test]
fn snapshots_that_lack_fields_get_them() {
    let runtime = SimRuntime::new(1);
    let table = SPARE + CLUSTER;
    let mut image = Image::v3();
    image.snapshot_of_all(table).be32(table + 32, 0x1234).put(table + 40, b"1one");
    runtime.block_on(async {
        let file: Device = image.device();
        let found = mend(&runtime, &file, Repair::Nothing).await;
        assert_eq!(words(&found.report), ["ERROR snapshot table entry 0 is incomplete"]);
        let found = mend(&runtime, &file, Repair::All).await;
        assert_eq!(words(&found.report), ["Repairing snapshot table entry 0 is incomplete"]);
        assert_eq!(words(found.last()), [""; 0]);
        let layer = open_as(&runtime, &file, Access::ReadOnly, false).await.expect("it opens");
        let info = layer.driver().describe().await.expect("described");
        let snapshot = &info.snapshots[0];
        assert_eq!((snapshot.name.as_str(), snapshot.vm_state_size), ("one", 0x1234));
        let at = layer.file().read_array_at(h::SNAPSHOTS_OFFSET as u64).await;
        assert_eq!(at, 8 * CLUSTER as u64, "behind everything else");
    });
}

/// Reading a field back, in tests.
trait Field {
    async fn read_array_at(&self, at: u64) -> u64;
}

impl Field for Device {
    async fn read_array_at(&self, at: u64) -> u64 {
        be64(&self.read(at, 8).await.expect("memory").to_bytes(), 0)
    }
}

/// Wherever the power goes while an image is repaired: it opens to be checked, a repair makes of it
/// what it would have made, and the data is the same.
#[test]
fn power_lost_during_a_repair_costs_nothing() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(3);
        for (name, damage, _, after) in CASES {
            let mut image = Image::v3();
            damage(&mut image);
            let disk: Device = image.device();
            let uncounted = |report: &CheckReport| -> Vec<u64> {
                let raised = |f: &&Finding| f.remedy.needs() == Some(Repair::All);
                report.findings.iter().filter(raised).filter_map(|f| f.at).collect()
            };
            let first = uncounted(&mend(&runtime, &disk, Repair::Nothing).await.report);
            for call in 0.. {
                let file = Arc::new(CrashDevice::new(MemoryDevice::with_data(&image.bytes)));
                file.crash_after(call);
                let device: Device = file.clone();
                let layer = open_as(&runtime, &device, Access::ReadWrite, true).await;
                let layer = layer.expect("opening writes nothing");
                let _ = image::check(&layer, Repair::All, &no_progress).await;
                drop(layer);
                for _ in 0..3 * rounds() {
                    let left: Device = Arc::new(file.crash(rng.next_u64()));
                    let now = mend(&runtime, &left, Repair::Nothing).await.report;
                    let worse = uncounted(&now).into_iter().any(|at| !first.contains(&at));
                    assert!(!worse, "{name}, crash at {call}: {:#?}", words(&now));
                    let mended = mend(&runtime, &left, Repair::All).await;
                    let last = mended.last();
                    assert_eq!(
                        (last.corruptions, last.leaks),
                        *after,
                        "{name}, crash at {call}: {:#?}",
                        words(last)
                    );
                    let layer = open_as(&runtime, &left, Access::ReadOnly, false).await;
                    let data = layer.expect("it opens").read(0, CLUSTER as u64).await;
                    assert_eq!(data.expect("readable").to_vec(), [FILL; CLUSTER], "{name}");
                }
                if !file.crashed() {
                    break;
                }
            }
        }
    });
}

#[test]
fn marks_go_with_what_they_warn_of() {
    let runtime = SimRuntime::new(1);
    let both = Incompatible::DIRTY | Incompatible::CORRUPT;
    type MarkCase = (fn(&mut Image), Repair, Incompatible);
    let cases: &[MarkCase] = &[
        (|_| (), Repair::Nothing, both),
        (|_| (), Repair::Leaks, Incompatible::empty()),
        (|_| (), Repair::All, Incompatible::empty()),
        // Broken in a way that counts do not depend on.
        (|i| _ = i.be64(L2, DATA as u64 | l::COPIED | 2), Repair::All, Incompatible::CORRUPT),
        // Counts that are not right yet.
        (|i| _ = i.be64(L2 + 8, DATA as u64 | l::COPIED), Repair::Leaks, both),
        (|i| _ = i.be64(L2 + 8, DATA as u64 | l::COPIED), Repair::All, Incompatible::empty()),
    ];
    runtime.block_on(async {
        for (index, (damage, repair, want)) in cases.iter().enumerate() {
            let mut image = Image::v3();
            damage(image.be64(h::INCOMPATIBLE, both.bits()).be64(h::AUTOCLEAR, 1 << 9));
            let file: Device = image.device();
            mend(&runtime, &file, *repair).await;
            let found = file.read_array_at(h::INCOMPATIBLE as u64).await;
            assert_eq!(Incompatible::from_bits_retain(found), *want, "case {index}, {repair:?}");
            let unknown = file.read_array_at(h::AUTOCLEAR as u64).await;
            // Nothing has been written where nothing could be done.
            let kept = if *want == both { 1 << 9 } else { 0 };
            assert_eq!(unknown & !Autoclear::all().bits(), kept, "case {index}");
        }
    });
}

#[test]
fn lazy_refcounts_are_written_when_the_image_is_closed() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let image = || {
            let mut image = Image::v3();
            image.be64(h::COMPATIBLE, Compatible::LAZY_REFCOUNTS.bits());
            image
        };
        let file = Arc::new(CountDevice::new(image().device()));
        let device: Device = file.clone();
        let layer = open_as(&runtime, &device, Access::ReadWrite, false).await.expect("it opens");
        let marks = async || device.read_array_at(h::INCOMPATIBLE as u64).await;
        assert_eq!(marks().await, 0, "nothing has changed");
        file.reset();
        for at in [0x1000, 0x3000] {
            let bytes = alloc::vec![at as u8 | 1; 0x400];
            layer.write(at, bytes.into(), WriteFlags::empty()).await.expect("written");
            layer.flush().await.expect("durable");
        }
        assert_eq!(marks().await, Incompatible::DIRTY.bits());
        let writes = format!("write {REFBLOCK:#x}+");
        let counted = file.trace().iter().any(|call| format!("{call}").starts_with(&writes));
        assert!(!counted, "refcounts are written by a flush");
        // As after a crash: refcounts are behind, and opening for writing puts them right.
        let crashed: Device = Arc::new(MemoryDevice::with_data(&bytes_of(&device).await));
        let behind = mend(&runtime, &crashed, Repair::Nothing).await.report;
        assert!(behind.corruptions > 0, "{:#?}", words(&behind));
        let again = open_as(&runtime, &crashed, Access::ReadWrite, false).await.expect("repaired");
        let events = again.driver().take_events();
        assert!(
            matches!(&events[..], [DriverEvent::Repaired(r)] if r.has_repaired()),
            "{events:?}"
        );
        assert_eq!(again.read(0x3000, 1).await.expect("readable").to_vec(), [1]);
        assert_eq!(words(&mend(&runtime, &crashed, Repair::Nothing).await.report), [""; 0]);

        layer.close().await.expect("closed");
        assert_eq!(marks().await, 0, "closed cleanly");
        assert_eq!(words(&mend(&runtime, &device, Repair::Nothing).await.report), [""; 0]);

        // The option goes before what the image says.
        let device: Device = image().device();
        let other: Device = Arc::new(MemoryDevice::new(SIZE));
        let options = OpenOptions {
            format: Some(FormatName::Qcow2),
            access: Access::ReadWrite,
            lazy_refcounts: Some(false),
            ..OpenOptions::default()
        };
        let layer = open(&env(&runtime, &other), device.clone(), "image", options.clone()).await;
        let layer = layer.expect("it opens");
        layer.write(0x1000, alloc::vec![1; 9].into(), WriteFlags::empty()).await.expect("written");
        layer.flush().await.expect("durable");
        assert_eq!(words(&mend(&runtime, &device, Repair::Nothing).await.report), [""; 0]);
        let options = OpenOptions { lazy_refcounts: Some(true), ..options };
        let v2: Device = Image::v2().device();
        let refused = open(&env(&runtime, &other), v2, "image", options).await.expect_err("v2");
        assert!(refused.what().contains("Lazy refcounts require"), "{refused}");
    });
}

#[test]
fn damage_met_on_the_way_marks_the_image_and_is_told_once() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        // The header's own cluster is called free.
        let mut image = Image::v3();
        image.refcount(0, 0);
        let file: Device = image.device();
        let layer = open_as(&runtime, &file, Access::ReadWrite, false).await.expect("it opens");
        assert_eq!(layer.driver().take_events(), []);
        for _ in 0..2 {
            let refused = layer.write(0x2000, alloc::vec![1].into(), WriteFlags::empty()).await;
            refused.expect_err("it would go over the header");
        }
        let events = layer.driver().take_events();
        let [DriverEvent::Corrupted(event)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((event.offset, event.fatal), (Some(0), true));
        let says = "qcow2: Marking image as corrupt: Preventing invalid write on metadata (overlaps \
                    with qcow2_header); further corruption events will be suppressed";
        assert!(event.text("qcow2") == says, "{event:?}");
        layer.flush().await.expect_err("nothing is written any more");
        assert_eq!(bytes_of(&file).await[DATA..], image.bytes[DATA..]);
        let marks = file.read_array_at(h::INCOMPATIBLE as u64).await;
        assert_eq!(marks, Incompatible::CORRUPT.bits());
        let refused = open_as(&runtime, &file, Access::ReadWrite, false).await.expect_err("marked");
        assert!(refused.what().contains("cannot be opened read/write"), "{refused}");
        open_as(&runtime, &file, Access::ReadOnly, false).await.expect("it can be read");
        let mended = mend(&runtime, &file, Repair::All).await;
        assert_eq!(words(mended.last()), [""; 0]);
        open_as(&runtime, &file, Access::ReadWrite, false).await.expect("repaired");

        // Version 2 has no zero flag; an image that is only read is not marked.
        let mut image = Image::v2();
        image.be64(L2, l::ZERO);
        let file: Device = image.device();
        let layer = open_as(&runtime, &file, Access::ReadOnly, false).await.expect("it opens");
        for _ in 0..2 {
            layer.read(0, 1).await.expect_err("a broken entry");
        }
        let events = layer.driver().take_events();
        let [DriverEvent::Corrupted(event)] = &events[..] else { panic!("{events:?}") };
        assert!(!event.fatal && event.text("qcow2").contains("Image is corrupt: "), "{event:?}");
        let found = mend(&runtime, &file, Repair::Nothing).await;
        assert!(found.report.findings.iter().any(|f| f.kind == FindingKind::Corruption));
    });
}

/// An image that is opened to be checked is for nothing else, and dropping it changes nothing.
#[test]
fn an_image_opened_to_be_checked_gives_no_data() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut image = Image::v3();
        image.be64(h::INCOMPATIBLE, Incompatible::DIRTY.bits()).be64(h::L1_OFFSET, 1 << 40);
        let file = Arc::new(CountDevice::new(image.device()));
        let device: Device = file.clone();
        let layer = open_as(&runtime, &device, Access::ReadWrite, true).await.expect("it opens");
        let says = |e: crate::Error| assert!(e.what().contains("opened to be checked"), "{e}");
        says(layer.read(0, 1).await.expect_err("not to be read"));
        let refused = layer.write(0, alloc::vec![1].into(), WriteFlags::empty()).await;
        says(refused.expect_err("not to be written"));
        layer.close().await.expect("closed");
        assert_eq!(file.count(CallKinds::all() - CallKinds::READ), 0);
    });
}

#[test]
fn a_dirty_image_that_cannot_be_repaired_is_refused_as_it_was() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut image = Image::v3();
        image
            .be64(h::INCOMPATIBLE, Incompatible::DIRTY.bits())
            .refcount(5, 0)
            .be32(h::NB_SNAPSHOTS, 1)
            .be64(h::SNAPSHOTS_OFFSET, 0x10_0000);
        let file: Device = image.device();
        let refused = open_as(&runtime, &file, Access::ReadWrite, false).await;
        assert_eq!(refused.expect_err("no snapshot table").offset(), Some(0x10_0000));
        assert_eq!(bytes_of(&file).await, image.bytes);
    });
}
