//! Tables: each rule with the smallest image that breaks it.

use super::super::header::Header;
use super::super::layout::{self as l, Autoclear, Incompatible, extension, header as h, limits};
use super::builder::{
    CLUSTER, DATA, FILL, Image, L1, L2, REFBLOCK, REFTABLE, SIZE, SPARE, open_file,
};
use super::findings;
use crate::format::{DriverEvent, FindingKind};
use crate::io::testing::SimRuntime;
use crate::io::{Access, BlockDevice, WriteFlags};
use crate::{Error, ErrorKind};
use ErrorKind::{Corrupt, Unsupported};
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// An extension and a feature that nobody knows.
pub(super) const UNKNOWN: u32 = 0x1234_5678;
pub(super) const UNKNOWN_BIT: u64 = 1 << 40;

/// What breaks a rule, and the error it must give: kind, a part of the message, offset.
type Rule = (&'static str, fn(&mut Image), ErrorKind, &'static str, Option<usize>);

pub(super) fn assert_refused(
    name: &str,
    error: &Error,
    kind: ErrorKind,
    says: &str,
    at: Option<usize>,
) {
    assert_eq!(error.kind(), kind, "{name}: {error}");
    assert!(error.what().contains(says), "{name}: '{error}' lacks '{says}'");
    assert_eq!(error.offset(), at.map(|at| at as u64), "{name}: {error}");
    assert_eq!(error.format(), Some("qcow2"), "{name}: {error}");
}

fn refuses(rules: &[Rule], access: Access) {
    let runtime = SimRuntime::new(1);
    for (name, break_it, kind, says, at) in rules {
        let mut image = Image::v3();
        break_it(&mut image);
        match runtime.block_on(image.open(&runtime, access)) {
            Ok(_) => panic!("{name}: it opens"),
            Err(error) => assert_refused(name, &error, *kind, says, *at),
        }
    }
}

#[test]
fn the_smallest_images_are_sound() {
    let runtime = SimRuntime::new(1);
    for image in [Image::v2(), Image::v3()] {
        runtime.block_on(async {
            let layer = image.open(&runtime, Access::ReadWrite).await.expect("it opens");
            assert_eq!(findings(&layer).await.expect("a report"), []);
            let data = layer.read(0, SIZE).await.expect("readable").to_vec();
            assert_eq!(data[..CLUSTER], [FILL; CLUSTER]);
            assert!(data[CLUSTER..].iter().all(|b| *b == 0));
        });
    }
}

#[test]
fn opening_refuses_what_breaks_a_rule_and_says_where() {
    let rules: &[Rule] = &[
        ("no magic", |i| _ = i.put(0, b"qfi"), Corrupt, "not in qcow2 format", Some(0)),
        ("an empty file", |i| _ = i.len(0), Corrupt, "not in qcow2 format", Some(0)),
        ("a short file", |i| _ = i.len(71), Corrupt, "ends within the header", Some(71)),
        ("half a v3 header", |i| _ = i.len(96), Corrupt, "version 3 header", Some(96)),
        ("version 1", |i| _ = i.be32(h::VERSION, 1), Unsupported, "version 1", Some(h::VERSION)),
        ("version 4", |i| _ = i.be32(h::VERSION, 4), Unsupported, "version 4", Some(h::VERSION)),
        (
            "clusters of 256 bytes",
            |i| _ = i.be32(h::CLUSTER_BITS, 8),
            Unsupported,
            "2^8 bytes",
            Some(h::CLUSTER_BITS),
        ),
        (
            "clusters of 4 MiB",
            |i| _ = i.be32(h::CLUSTER_BITS, 22),
            Unsupported,
            "2^22 bytes",
            Some(h::CLUSTER_BITS),
        ),
        (
            "clusters of 2^32 bits",
            |i| _ = i.be32(h::CLUSTER_BITS, u32::MAX),
            Unsupported,
            "2^4294967295",
            Some(h::CLUSTER_BITS),
        ),
        (
            "a virtual size above 2^63",
            |i| _ = i.be64(h::SIZE, 1 << 63),
            Corrupt,
            "virtual size 0x8000000000000000",
            Some(h::SIZE),
        ),
        (
            "more disk than the L1 table describes",
            |i| _ = i.be64(h::SIZE, SIZE + 1),
            Corrupt,
            "L1 table is too small: 1 entries, 2 needed",
            Some(h::L1_SIZE),
        ),
        (
            "an L1 table above 32 MiB",
            |i| _ = i.be32(h::L1_SIZE, (32 << 20) / 8 + 1),
            Corrupt,
            "L1 table too large: 4194305 entries",
            Some(h::L1_SIZE),
        ),
        (
            "an L1 table between clusters",
            |i| _ = i.be64(h::L1_OFFSET, 8),
            Corrupt,
            "L1 table offset 0x8",
            Some(h::L1_OFFSET),
        ),
        (
            "an L1 table past 2^56",
            |i| _ = i.be64(h::L1_OFFSET, 1 << 56),
            Corrupt,
            "L1 table offset 0x100000000000000",
            Some(h::L1_OFFSET),
        ),
        (
            "an L1 table past the end of the file",
            |i| _ = i.be64(h::L1_OFFSET, 0x10_0000),
            Corrupt,
            "L1 table at 0x100000+0x8 exceeds the file",
            Some(0x10_0000),
        ),
        (
            "a refcount table above 8 MiB",
            |i| _ = i.be32(h::REFTABLE_CLUSTERS, (8 << 20) / CLUSTER as u32 + 1),
            Corrupt,
            "refcount table too large: 0x800200 bytes",
            Some(h::REFTABLE_CLUSTERS),
        ),
        (
            "a refcount table between clusters",
            |i| _ = i.be64(h::REFTABLE_OFFSET, 0x201),
            Corrupt,
            "refcount table offset 0x201",
            Some(h::REFTABLE_OFFSET),
        ),
        (
            "refcounts of 128 bits",
            |i| _ = i.be32(h::REFCOUNT_ORDER, 7),
            Corrupt,
            "refcount order 7",
            Some(h::REFCOUNT_ORDER),
        ),
        (
            "a header length below the least",
            |i| _ = i.be32(h::HEADER_LENGTH, 96),
            Corrupt,
            "header length 96",
            Some(h::HEADER_LENGTH),
        ),
        (
            "a header length of no multiple of 8",
            |i| _ = i.be32(h::HEADER_LENGTH, 111),
            Corrupt,
            "header length 111",
            Some(h::HEADER_LENGTH),
        ),
        (
            "a header longer than the cluster",
            |i| _ = i.be32(h::HEADER_LENGTH, CLUSTER as u32 + 8),
            Corrupt,
            "header length 520",
            Some(h::HEADER_LENGTH),
        ),
        (
            "an unknown compression type",
            |i| _ = i.be64(h::INCOMPATIBLE, 8).put(h::COMPRESSION_TYPE, &[2]),
            Unsupported,
            "compression type 2",
            Some(h::COMPRESSION_TYPE),
        ),
        (
            "zstd without its bit",
            |i| _ = i.put(h::COMPRESSION_TYPE, &[1]),
            Corrupt,
            "compression type 1 and the compression type bit disagree",
            Some(h::COMPRESSION_TYPE),
        ),
        (
            "deflate with the bit of other types",
            |i| _ = i.be64(h::INCOMPATIBLE, 8),
            Corrupt,
            "compression type 0 and the compression type bit disagree",
            Some(h::COMPRESSION_TYPE),
        ),
        (
            "extended L2 entries in small clusters",
            |i| _ = i.be64(h::INCOMPATIBLE, Incompatible::EXTENDED_L2.bits()),
            Corrupt,
            "extended L2 entries with clusters of 2^9",
            Some(h::CLUSTER_BITS),
        ),
        (
            "an unknown encryption method",
            |i| _ = i.be32(h::CRYPT_METHOD, 3),
            Unsupported,
            "encryption method 3",
            Some(h::CRYPT_METHOD),
        ),
        (
            "LUKS without its header",
            |i| _ = i.be32(h::CRYPT_METHOD, 2),
            Corrupt,
            "LUKS encryption without",
            Some(h::CRYPT_METHOD),
        ),
        (
            "too many snapshots",
            |i| _ = i.be32(h::NB_SNAPSHOTS, limits::MAX_SNAPSHOTS + 1),
            Corrupt,
            "65537 snapshots",
            Some(h::NB_SNAPSHOTS),
        ),
        (
            "a snapshot table between clusters",
            |i| _ = i.be32(h::NB_SNAPSHOTS, 1).be64(h::SNAPSHOTS_OFFSET, 0x1fff),
            Corrupt,
            "snapshot table offset 0x1fff",
            Some(h::SNAPSHOTS_OFFSET),
        ),
        (
            "an extension longer than its area",
            |i| _ = i.extension(UNKNOWN, &[0; 8]).be32(h::V3_LEN + 4, 400),
            Corrupt,
            "header extension 0x12345678 of 0x190 bytes",
            Some(h::V3_LEN),
        ),
        (
            "an extension of 2^32 bytes",
            |i| _ = i.extension(UNKNOWN, &[]).be32(h::V3_LEN + 4, u32::MAX),
            Corrupt,
            "header extension 0x12345678",
            Some(h::V3_LEN),
        ),
        (
            "an extension that reaches into the backing file name",
            |i| {
                _ = i
                    .extension(UNKNOWN, &[0; 32])
                    .be64(h::BACKING_OFFSET, h::V3_LEN as u64 + 16)
                    .be32(h::BACKING_SIZE, 4);
            },
            Corrupt,
            "header extension 0x12345678",
            Some(h::V3_LEN),
        ),
        (
            "a backing file name that is too long",
            |i| _ = i.be64(h::BACKING_OFFSET, 128).be32(h::BACKING_SIZE, 1024),
            Corrupt,
            "backing file name of 1024 bytes",
            Some(h::BACKING_SIZE),
        ),
        (
            "a backing file name past the first cluster",
            |i| _ = i.be64(h::BACKING_OFFSET, 510).be32(h::BACKING_SIZE, 3),
            Corrupt,
            "backing file name at 0x1fe+0x3",
            Some(h::BACKING_OFFSET),
        ),
        (
            "a backing file name at the end of the world",
            |i| _ = i.be64(h::BACKING_OFFSET, u64::MAX).be32(h::BACKING_SIZE, 3),
            Corrupt,
            "backing file name at 0xffffffffffffffff",
            Some(h::BACKING_OFFSET),
        ),
        (
            "a backing file name that is not text",
            |i| _ = i.put(256, &[0xff]).be64(h::BACKING_OFFSET, 256).be32(h::BACKING_SIZE, 1),
            Unsupported,
            "not UTF-8",
            Some(h::BACKING_OFFSET),
        ),
        (
            "an encryption extension of the wrong length",
            |i| _ = i.extension(extension::CRYPTO, &[0; 8]),
            Corrupt,
            "not 16 bytes",
            Some(h::V3_LEN),
        ),
        (
            "a bitmaps extension of the wrong length",
            |i| _ = i.extension(extension::BITMAPS, &[0; 16]),
            Corrupt,
            "has 16 bytes, not 24",
            Some(h::V3_LEN),
        ),
        (
            "no bitmaps in the bitmaps extension",
            |i| _ = i.bitmaps_bit().extension(extension::BITMAPS, &[0; 24]),
            Corrupt,
            "found bitmaps extension with zero bitmaps",
            Some(h::V3_LEN),
        ),
        (
            "a reserved field of the bitmaps extension",
            |i| {
                _ = i
                    .bitmaps_bit()
                    .extension(extension::BITMAPS, &[0; 24])
                    .be64(h::V3_LEN + 8, 1 << 32 | 1);
            },
            Corrupt,
            "reserved field",
            Some(h::V3_LEN),
        ),
        (
            "a bitmap directory that is too long",
            |i| {
                _ = i
                    .bitmaps_bit()
                    .extension(extension::BITMAPS, &[0; 24])
                    .be32(h::V3_LEN + 8, 1)
                    .be64(h::V3_LEN + 16, u64::MAX);
            },
            Corrupt,
            "directory of 0xffffffffffffffff bytes",
            Some(h::V3_LEN),
        ),
        (
            "a bitmap directory between clusters",
            |i| {
                _ = i
                    .bitmaps_bit()
                    .extension(extension::BITMAPS, &[0; 24])
                    .be32(h::V3_LEN + 8, 1)
                    .be64(h::V3_LEN + 24, 8);
            },
            Corrupt,
            "bitmap directory offset 0x8",
            Some(h::V3_LEN),
        ),
        (
            "bitmaps without their extension",
            |i| _ = i.be64(h::AUTOCLEAR, Autoclear::BITMAPS.bits()),
            Corrupt,
            "without a bitmaps extension",
            Some(h::AUTOCLEAR),
        ),
    ];
    refuses(rules, Access::ReadOnly);
}

/// A snapshot table entry at the spare cluster, with its L1 table at the image's own.
pub(super) fn snapshot(image: &mut Image) -> &mut Image {
    image
        .be32(h::NB_SNAPSHOTS, 1)
        .be64(h::SNAPSHOTS_OFFSET, SPARE as u64)
        .be64(SPARE, L1 as u64)
        .be32(SPARE + 8, 1)
        .be16(SPARE + 12, 1)
        .be16(SPARE + 14, 3)
        .be32(SPARE + 36, 16)
        .be64(SPARE + 48, SIZE)
        .put(SPARE + 56, b"1one")
}

#[test]
fn opening_refuses_a_broken_snapshot_table() {
    let mut sound = Image::v3();
    snapshot(&mut sound);
    let runtime = SimRuntime::new(1);
    assert!(runtime.block_on(sound.open(&runtime, Access::ReadOnly)).is_ok());
    let rules: &[Rule] = &[
        (
            "a table past the end",
            |i| _ = snapshot(i).be64(h::SNAPSHOTS_OFFSET, 0x1_0000),
            Corrupt,
            "snapshot table entry 0: the file ends before it",
            Some(0x1_0000),
        ),
        (
            "an entry cut in its fixed part",
            |i| _ = snapshot(i).len(SPARE + 39),
            Corrupt,
            "entry 0: the file ends before it",
            Some(SPARE),
        ),
        (
            "an entry cut in its name",
            |i| _ = snapshot(i).len(SPARE + 59),
            Corrupt,
            "entry 0: the file ends within it",
            Some(SPARE),
        ),
        (
            "a second entry past the end",
            |i| _ = snapshot(i).be32(h::NB_SNAPSHOTS, 2).len(SPARE + 64),
            Corrupt,
            "entry 1: the file ends before it",
            Some(SPARE + 64),
        ),
        (
            "extra data above the limit",
            |i| _ = snapshot(i).be32(SPARE + 36, 1025),
            Corrupt,
            "1025 bytes of extra data",
            Some(SPARE),
        ),
        (
            "an L1 table between clusters",
            |i| _ = snapshot(i).be64(SPARE, 7),
            Corrupt,
            "impossible L1 table at 0x7",
            Some(SPARE),
        ),
        (
            "an L1 table above 32 MiB",
            |i| _ = snapshot(i).be32(SPARE + 8, u32::MAX),
            Corrupt,
            "with 4294967295 entries",
            Some(SPARE),
        ),
        (
            "a disk of 2^64 bytes",
            |i| _ = snapshot(i).be64(SPARE + 48, u64::MAX),
            Corrupt,
            "virtual size 0xffffffffffffffff",
            Some(SPARE),
        ),
    ];
    refuses(rules, Access::ReadOnly);
}

/// It was refused: what nobody keeps true any more says nothing.
#[test]
fn an_extension_without_its_bit_does_no_harm() {
    let runtime = SimRuntime::new(1);
    for (what, data) in [("no bitmaps", [0; 24]), ("all bits", [0xff; 24])] {
        let mut image = Image::v3();
        image.extension(extension::BITMAPS, &data);
        let header = Header::parse(&image.bytes[..CLUSTER]).expect(what);
        let again = Header::parse(&header.emit().expect("it fits")).expect(what);
        assert_eq!(again, header, "{what}: it stays as it is");
        runtime.block_on(async {
            let file = image.device();
            let open = async || {
                let access = Access::ReadWrite;
                open_file(&runtime, file.clone(), access).await.expect(what)
            };
            let layer = open().await;
            let events = layer.driver().take_events();
            assert!(matches!(&events[..], [DriverEvent::Warning(_)]), "{what}: {events:?}");
            assert!(layer.bitmaps().all().is_empty(), "{what}");
            let bytes = vec![1; CLUSTER];
            layer.write(0, bytes.into(), WriteFlags::empty()).await.expect("writable");
            layer.close().await.expect("closed");
            let layer = open().await;
            assert_eq!(layer.driver().take_events(), [], "{what}: whoever writes drops it");
            assert_eq!(findings(&layer).await.expect("a report"), [], "{what}");
        });
    }
}

#[test]
fn writing_is_refused_where_it_could_do_harm() {
    let bitmaps = |i: &mut Image| {
        i.extension(extension::BITMAPS, &[0; 24])
            .be32(h::V3_LEN + 8, 1)
            .be64(h::V3_LEN + 16, 32)
            .be64(h::V3_LEN + 24, SPARE as u64)
            .be64(h::AUTOCLEAR, Autoclear::BITMAPS.bits());
    };
    let cases: &[Rule] = &[
        (
            "marked corrupt",
            |i| _ = i.be64(h::INCOMPATIBLE, Incompatible::CORRUPT.bits()),
            Corrupt,
            "Image is corrupt; cannot be opened read/write",
            None,
        ),
        (
            "a bitmap directory that is none",
            bitmaps,
            Corrupt,
            "bitmap directory: an entry of type 0",
            Some(SPARE),
        ),
        (
            "no refcount table",
            |i| _ = i.be32(h::REFTABLE_CLUSTERS, 0),
            Corrupt,
            "'image' has no refcount table",
            None,
        ),
        (
            "a refcount table past the end of the file",
            |i| _ = i.be64(h::REFTABLE_OFFSET, 0x10_0000),
            Corrupt,
            "refcount table at 0x100000+0x200 exceeds the file",
            Some(0x10_0000),
        ),
        (
            "the L1 table in the header",
            |i| _ = i.be64(h::L1_OFFSET, 0),
            Corrupt,
            "the active L1 table overlaps the header",
            Some(0),
        ),
        (
            "the refcount table in the header",
            |i| _ = i.be64(h::REFTABLE_OFFSET, 0),
            Corrupt,
            "the refcount table overlaps the header",
            Some(0),
        ),
        (
            "the L1 table in the refcount table",
            |i| _ = i.be64(h::L1_OFFSET, REFTABLE as u64),
            Corrupt,
            "the refcount table overlaps the active L1 table",
            Some(REFTABLE),
        ),
        (
            "the snapshot table in the L1 table",
            |i| _ = snapshot(i).be64(h::L1_OFFSET, SPARE as u64),
            Corrupt,
            "the snapshot table overlaps the active L1 table",
            Some(SPARE),
        ),
    ];
    refuses(cases, Access::ReadWrite);
    // Reading is possible all the same.
    let runtime = SimRuntime::new(1);
    for (name, break_it, ..) in cases {
        let mut image = Image::v3();
        break_it(&mut image);
        let layer = runtime.block_on(image.open(&runtime, Access::ReadOnly));
        // Not in the reference implementation, where there is no such table.
        assert_eq!(layer.is_ok(), *name != "no refcount table", "{name}: {layer:?}");
    }
}

#[test]
fn what_an_entry_breaks_is_said_when_it_is_read() {
    let rules: &[Rule] = &[
        (
            "an L2 table past the end of the file",
            |i| _ = i.be64(L1, 0x10_0000 | l::COPIED),
            Corrupt,
            "past the end of the file",
            Some(0x10_0000),
        ),
        (
            "a compressed cluster of nonsense",
            |i| _ = i.be64(L2, l::COMPRESSED | DATA as u64),
            Corrupt,
            "compressed cluster of guest offset 0x0: compressed data (deflate)",
            Some(DATA),
        ),
        (
            "a compressed cluster past the end of the file",
            |i| _ = i.be64(L2, l::COMPRESSED | 0x10_0000),
            Corrupt,
            "compressed cluster of guest offset 0x0",
            Some(0x10_0000),
        ),
    ];
    let runtime = SimRuntime::new(1);
    for (name, break_it, kind, says, at) in rules {
        let mut image = Image::v3();
        break_it(&mut image);
        let error = runtime.block_on(async {
            let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
            layer.read(0, 1).await.expect_err("it cannot be read")
        });
        assert_refused(name, &error, *kind, says, *at);
    }
    // Version 2 has no zero clusters.
    let mut image = Image::v2();
    image.be64(L2, DATA as u64 | l::ZERO);
    let error = runtime.block_on(async {
        let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
        layer.read(0, 1).await.expect_err("it cannot be read")
    });
    assert_refused("zero in version 2", &error, Corrupt, "image of version 2", Some(DATA));
}

#[test]
fn tables_and_clusters_must_be_aligned() {
    // With clusters of 512 bytes an entry cannot even say otherwise: these are of 1024.
    let mut image = Image::v3();
    image.len(16 * 1024).be32(h::CLUSTER_BITS, 10).be64(h::L1_OFFSET, 1024).be64(1024, 0x1200);
    let runtime = SimRuntime::new(1);
    let read = |image: &Image| {
        runtime.block_on(async {
            let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
            layer.read(0, 1).await.expect_err("it cannot be read")
        })
    };
    image.be64(h::REFTABLE_OFFSET, 2048);
    let says = "L2 table offset 0x1200 unaligned (L1 index: 0)";
    assert_refused("L1 entry", &read(&image), Corrupt, says, Some(0x1200));
    image.be64(1024, 4096).be64(4096, 0x2200);
    let says = "Cluster allocation offset 0x2200 unaligned (L2 offset: 0x1000, L2 index: 0)";
    assert_refused("L2 entry", &read(&image), Corrupt, says, Some(0x2200));
}

#[test]
fn the_check_finds_what_is_broken_and_says_where() {
    use FindingKind::{Corruption, Leak};
    type Case = (&'static str, fn(&mut Image), FindingKind, &'static str, usize);
    let cases: &[Case] = &[
        (
            "a leak",
            |i| _ = i.refcount(6, 1),
            Leak,
            "Leaked cluster 6 refcount=1 reference=0",
            SPARE,
        ),
        (
            "too low a refcount",
            |i| _ = i.refcount(1, 0),
            Corruption,
            "ERROR cluster 1 refcount=0 reference=1",
            REFTABLE,
        ),
        (
            "a copied bit at a refcount of 2",
            |i| _ = i.refcount(5, 2),
            Corruption,
            "OFLAG_COPIED data cluster",
            DATA,
        ),
        (
            "a missing copied bit of an L2 table",
            |i| _ = i.be64(L1, L2 as u64),
            Corruption,
            "OFLAG_COPIED L2 cluster",
            L2,
        ),
        (
            "data past the end of the file",
            |i| _ = i.be64(L2 + 8, 0x10_0000 | l::COPIED),
            Corruption,
            "exceeding the end of the file",
            0x10_0000,
        ),
        (
            "a cluster used twice",
            |i| _ = i.be64(L2 + 8, DATA as u64 | l::COPIED),
            Corruption,
            "ERROR cluster 5 refcount=1 reference=2",
            DATA,
        ),
        (
            "a compressed cluster with the copied bit",
            |i| _ = i.be64(L2, DATA as u64 | l::COPIED | l::COMPRESSED),
            Corruption,
            "copied flag must never be set",
            L2,
        ),
        (
            "a refcount block past the end of the file",
            |i| _ = i.be64(REFTABLE + 8, 0x10_0000),
            Corruption,
            "refcount block 1 is outside image",
            0x10_0000,
        ),
    ];
    let runtime = SimRuntime::new(1);
    for (name, break_it, kind, says, at) in cases {
        let mut image = Image::v3();
        break_it(&mut image);
        let found = runtime.block_on(async {
            let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
            findings(&layer).await.expect("a report")
        });
        let hit = found
            .iter()
            .any(|f| f.kind == *kind && f.what.contains(says) && f.at == Some(*at as u64));
        assert!(hit, "{name}: {found:#?}");
    }
}

/// Directory entries: each a table of one entry at the given offset, and a name.
fn directory(image: &mut Image, count: u32, entries: &[(u64, &str)]) {
    let mut bytes = Vec::new();
    for (table, name) in entries {
        bytes.extend_from_slice(&table.to_be_bytes());
        bytes.extend_from_slice(&1u32.to_be_bytes());
        bytes.extend_from_slice(&2u32.to_be_bytes());
        bytes.extend_from_slice(&[1, 16]);
        bytes.extend_from_slice(&(name.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&0u32.to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let mut data = count.to_be_bytes().to_vec();
    data.extend_from_slice(&[0; 4]);
    data.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    data.extend_from_slice(&(SPARE as u64).to_be_bytes());
    image
        .extension(extension::BITMAPS, &data)
        .be64(h::AUTOCLEAR, Autoclear::BITMAPS.bits())
        .refcount(6, 1)
        .put(SPARE, &bytes);
}

#[test]
fn a_broken_bitmap_directory_is_refused_entry_by_entry() {
    let runtime = SimRuntime::new(1);
    let describe = |image: &Image| {
        runtime.block_on(async {
            let layer = image.open(&runtime, Access::ReadOnly).await?;
            layer.driver().describe().await
        })
    };
    let mut sound = Image::v3();
    directory(&mut sound, 2, &[(0, "a"), (0, "longer than that")]);
    let info = format!("{:?}", describe(&sound).expect("a directory").specific);
    assert!(info.contains("longer than that") && info.contains("granularity: 65536"), "{info}");
    type Case = (&'static str, u32, fn(&mut Image), &'static str, usize);
    let cases: &[Case] = &[
        ("fewer entries", 3, |_| (), "2 entries, the header says 3", SPARE),
        ("more entries", 1, |_| (), "more than the 1 entries stated", SPARE + 32),
        ("a type", 2, |i| _ = i.put(SPARE + 16, &[2]), "an entry of type 2", SPARE),
        ("no name", 2, |i| _ = i.be16(SPARE + 18, 0), "a name of 0 bytes", SPARE),
        ("a long name", 2, |i| _ = i.be16(SPARE + 18, 65535), "exceeds the directory", SPARE),
        ("extra data", 2, |i| _ = i.be32(SPARE + 20, 8), "8 bytes of extra data", SPARE),
        ("much extra", 2, |i| _ = i.be32(SPARE + 20, !0), "exceeds the directory", SPARE),
        ("granularity", 2, |i| _ = i.put(SPARE + 17, &[64]), "granularity of 2^64", SPARE),
        ("a cut file", 2, |i| _ = i.len(SPARE + 8), "exceed the file", SPARE),
    ];
    for (name, count, break_it, says, at) in cases {
        let mut image = Image::v3();
        directory(&mut image, *count, &[(0, "a"), (0, "longer than that")]);
        break_it(&mut image);
        let error = describe(&image).expect_err(name);
        assert_refused(name, &error, Corrupt, says, Some(*at));
    }
    // Valid, and more than 32 bits can tell: it used to overflow where it was described.
    for bits in 32..=63 {
        let mut image = Image::v3();
        directory(&mut image, 1, &[(0, "a")]);
        image.put(SPARE + 17, &[bits]);
        let error = describe(&image).expect_err("too coarse");
        assert_refused("coarse", &error, Unsupported, "is supported", Some(SPARE));
    }
}

#[test]
fn names_in_tables_need_not_be_text() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    snapshot(&mut image).put(SPARE + 56, &[0xff, 0xfe, b'x', b'y']);
    let info = runtime.block_on(async {
        let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
        layer.driver().describe().await.expect("a description")
    });
    let names: Vec<String> = info.snapshots.into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["\u{fffd}xy"]);
}

#[test]
fn a_refcount_at_its_top_is_not_raised() {
    // A snapshot's refcounts are the only ones above one; the block says 65535 here.
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image.refcount(5, u16::MAX).be64(L2, DATA as u64);
    let file = image.device();
    runtime.block_on(async {
        let layer = open_file(&runtime, file.clone(), Access::ReadWrite).await.expect("it opens");
        layer.write(0, vec![1; CLUSTER].into(), WriteFlags::empty()).await.expect("copied");
        layer.flush().await.expect("durable");
        layer.flush().await.expect("durable");
    });
    let bytes = file.to_vec();
    assert_eq!(bytes[REFBLOCK + 10..REFBLOCK + 12], (u16::MAX - 1).to_be_bytes());
    assert_eq!(bytes[DATA..DATA + CLUSTER], [FILL; CLUSTER], "others still refer to it");
}
