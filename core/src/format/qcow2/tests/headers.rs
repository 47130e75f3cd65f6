//! Headers: round trips, unknown features, and the states that a header tells of.

use super::super::header::{BitmapsExtension, CryptMethod, Header, UnknownExtension};
use super::super::layout::{
    self as l, Autoclear, Compatible, Incompatible, extension, header as h, limits,
};
use super::builder::{CLUSTER, DATA, Image, SIZE};
use super::findings;
use super::unit::{UNKNOWN, UNKNOWN_BIT, assert_refused, snapshot};
use crate::ErrorKind;
use crate::codec::Compression;
use crate::format::KeySource;
use crate::io::testing::SimRuntime;
use crate::io::{Access, BlockDevice, Segments, WriteFlags, ZeroFlags};
use ErrorKind::{InvalidInput, Unsupported};
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

/// The table of one feature: type, bit, name.
fn feature_names(rows: &[(u8, u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, bit, name) in rows {
        let mut row = vec![*kind, *bit];
        row.extend_from_slice(name.as_bytes());
        row.resize(l::FEATURE_NAME_LEN, 0);
        out.extend(row);
    }
    out
}

#[test]
fn unknown_incompatible_features_are_refused_by_their_names() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image.be64(h::INCOMPATIBLE, UNKNOWN_BIT | 1 << 41);
    // The same bit of another type is another feature.
    let table = feature_names(&[(1, 40, "harmless"), (0, 40, "time travel")]);
    image.extension(extension::FEATURE_NAMES, &table);
    let error = runtime.block_on(image.open(&runtime, Access::ReadOnly)).expect_err("unknown");
    let says = "not known here: time travel, incompatible feature bit 41";
    assert_refused("by name", &error, Unsupported, says, Some(h::INCOMPATIBLE));
}

#[test]
fn unknown_features_survive_and_autoclear_goes_with_the_first_change() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image
        .extension(UNKNOWN, b"keep me")
        .be64(h::COMPATIBLE, UNKNOWN_BIT)
        .be64(h::AUTOCLEAR, UNKNOWN_BIT);
    let file = image.device();
    runtime.block_on(async {
        let layer = super::builder::open_file(&runtime, file.clone(), Access::ReadWrite)
            .await
            .expect("unknown autoclear bits do not keep from writing");
        // What changes nothing leaves the file as it is.
        layer.read(0, SIZE).await.expect("readable");
        layer.flush().await.expect("nothing to do");
        layer.write(0, Segments::new(), WriteFlags::empty()).await.expect("of nothing");
        layer.write_zeroes(0, 0, ZeroFlags::empty()).await.expect("of nothing");
        layer.discard(0, 0).await.expect("of nothing");
        layer.set_len(SIZE, crate::io::Preallocation::Off).await.expect("as it is");
        layer.set_len(1, crate::io::Preallocation::Off).await.expect_err("no multiple of 512");
        assert!(file.to_vec() == image.bytes, "the file has changed");
        // The first change clears the bit, before anything else is written.
        layer.write(0, vec![1; CLUSTER].into(), WriteFlags::empty()).await.expect("writable");
        layer.flush().await.expect("durable");
    });
    let mut want = image.clone();
    want.be64(h::AUTOCLEAR, 0).put(DATA, &[1; CLUSTER]);
    assert!(file.to_vec() == want.bytes, "something else has changed");
}

#[test]
fn opening_and_looking_change_nothing() {
    let runtime = SimRuntime::new(1);
    let mut dirty = Image::v3();
    dirty.be64(h::INCOMPATIBLE, (Incompatible::DIRTY | Incompatible::CORRUPT).bits());
    let mut snapshots = Image::v3();
    snapshot(&mut snapshots);
    for (image, access) in [
        (Image::v2(), Access::ReadWrite),
        (Image::v3(), Access::ReadWrite),
        (snapshots, Access::ReadWrite),
        (dirty, Access::ReadOnly),
    ] {
        let file = image.device();
        runtime.block_on(async {
            let layer =
                super::builder::open_file(&runtime, file.clone(), access).await.expect("it opens");
            findings(&layer).await.expect("a report");
            layer.driver().describe().await.expect("a description");
            layer.extents(0, SIZE).await.expect("extents");
            layer.read(0, SIZE).await.expect("readable");
            layer.flush().await.expect("nothing to do");
        });
        assert!(file.to_vec() == image.bytes, "the file has changed");
    }
}

#[test]
fn the_states_of_an_image_are_told() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image.be64(h::INCOMPATIBLE, (Incompatible::DIRTY | Incompatible::CORRUPT).bits());
    let info = runtime.block_on(async {
        let layer = image.open(&runtime, Access::ReadOnly).await.expect("it opens");
        layer.driver().describe().await.expect("a description")
    });
    assert!(info.dirty && !info.encrypted);
    let specific = format!("{:?}", info.specific);
    assert!(specific.contains("corrupt: Some(true)"), "{specific}");
}

#[test]
fn encrypted_images_without_their_key_are_described_and_neither_read_nor_written() {
    let runtime = SimRuntime::new(1);
    let mut image = Image::v3();
    image.be32(h::CRYPT_METHOD, 1);
    let file = image.device();
    runtime.block_on(async {
        let open =
            |key| super::builder::open_file_with(&runtime, file.clone(), Access::ReadWrite, key);
        let missing = "Parameter 'encrypt.key-secret' is required for cipher";
        let error = open(KeySource::None).await.expect_err("no key");
        assert_eq!((error.kind(), error.what()), (InvalidInput, missing));
        let layer = open(KeySource::Ignore).await.expect("it opens");
        assert!(layer.driver().describe().await.expect("a description").encrypted);
        let errors = [
            layer.read(0, 1).await.map(|_| ()).expect_err("read"),
            layer.write(0, vec![1].into(), WriteFlags::empty()).await.expect_err("write"),
            layer.write_zeroes(0, 1, ZeroFlags::empty()).await.expect_err("zero"),
            layer.discard(0, SIZE).await.expect_err("discard"),
        ];
        for error in errors {
            assert_eq!(error.kind(), InvalidInput);
            assert!(error.what().ends_with(missing), "{error}");
        }
        let extents = layer.extents(0, SIZE).await.expect("extents");
        assert!(extents.iter().all(|e| e.host.is_none()), "{extents:?}");
        layer.flush().await.expect("nothing to do");
    });
    assert!(file.to_vec() == image.bytes, "the file has changed");
}

/// A header with something in every field that its version has.
fn full_header(version: u32, compression: Compression) -> Header {
    let v3 = version == 3;
    let mut incompatible = Incompatible::empty();
    if v3 {
        incompatible |= Incompatible::DATA_FILE | Incompatible::EXTENDED_L2;
        incompatible.set(Incompatible::COMPRESSION_TYPE, compression == Compression::Zstd);
    }
    Header {
        version,
        cluster_bits: 16,
        size: 5 << 30,
        crypt: if v3 {
            CryptMethod::Luks { offset: 0x50_0000, len: 0x1f_0000 }
        } else {
            CryptMethod::Aes
        },
        l1_size: 20,
        l1_offset: 0x3_0000,
        reftable_offset: 0x1_0000,
        reftable_clusters: 2,
        nb_snapshots: 3,
        snapshots_offset: 0x70_0000,
        incompatible,
        compatible: if v3 {
            Compatible::LAZY_REFCOUNTS | Compatible::from_bits_retain(UNKNOWN_BIT)
        } else {
            Compatible::empty()
        },
        autoclear: if v3 {
            Autoclear::all() | Autoclear::from_bits_retain(UNKNOWN_BIT)
        } else {
            Autoclear::empty()
        },
        refcount_order: if v3 { 6 } else { 4 },
        compression,
        header_length: if v3 { 128 } else { 72 },
        backing_name: Some("base.img".to_string()),
        backing_format: Some("raw".to_string()),
        data_file: v3.then(|| "data.raw".to_string()),
        stray_raw_bit: false,
        bitmaps: v3.then_some(BitmapsExtension {
            count: 2,
            reserved: 0,
            directory_size: 64,
            directory_offset: 0x60_0000,
        }),
        unknown_fields: if v3 { (1..=16).collect() } else { Vec::new() },
        unknown_extensions: vec![
            UnknownExtension { kind: UNKNOWN, data: b"odd".to_vec() },
            UnknownExtension { kind: UNKNOWN + 1, data: Vec::new() },
        ],
        has_feature_names: v3,
    }
}

#[test]
fn headers_round_trip_with_everything_in_them() {
    let mut headers = Vec::new();
    for compression in [Compression::Deflate, Compression::Zstd] {
        headers.push(full_header(3, compression));
    }
    headers.push(full_header(2, Compression::Deflate));
    for length in [104, 112] {
        let mut header = full_header(3, Compression::Deflate);
        (header.header_length, header.unknown_fields) = (length, Vec::new());
        headers.push(header);
    }
    for bits in limits::MIN_CLUSTER_BITS..=limits::MAX_CLUSTER_BITS {
        for version in [2, 3] {
            let mut header = full_header(version, Compression::Deflate);
            header.incompatible -= Incompatible::EXTENDED_L2;
            (header.cluster_bits, header.size, header.has_feature_names) = (bits, 1 << 19, false);
            (header.l1_offset, header.reftable_offset) = (1 << bits, 2 << bits);
            header.l1_size = 64;
            if version == 3 {
                header.crypt = CryptMethod::Luks { offset: 3 << bits, len: 1 };
            }
            (header.snapshots_offset, header.reftable_clusters) = (4 << bits, 1);
            if let Some(bitmaps) = &mut header.bitmaps {
                bitmaps.directory_offset = 5 << bits;
            }
            headers.push(header);
        }
    }
    for header in headers {
        let bytes = header.emit().expect("it fits");
        let parsed = Header::parse(&bytes).expect("it is a header");
        assert_eq!(parsed, header);
        assert_eq!(parsed.emit().expect("it fits"), bytes, "a rewrite changes nothing");
    }
}

#[test]
fn a_header_that_exceeds_its_cluster_is_not_written() {
    let mut header = full_header(3, Compression::Deflate);
    header.cluster_bits = 9;
    let error = header.emit().expect_err("feature names alone take 384 bytes");
    assert_refused("emit", &error, ErrorKind::Limit, "a cluster has 512", None);
}
