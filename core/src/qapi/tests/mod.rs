//! Round trips of texts that QEMU's tools (version 10.0.2) printed.

mod describe;
mod validate;

use super::*;
use crate::{Error, ErrorKind};
use alloc::string::ToString;
use alloc::vec::Vec;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads `text`, and holds what is written of it against it: the same bytes.
fn same_text<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let value: T = serde_json::from_str(text).unwrap();
    assert_eq!(pretty(&value).unwrap(), text.trim());
    value
}

/// Reads `text`, and holds what is written of it against it: the same members and values.
fn same_members<T: Serialize + DeserializeOwned>(text: &str) -> T {
    let value: T = serde_json::from_str(text).unwrap();
    let (ours, theirs): (Value, Value) =
        (serde_json::to_value(&value).unwrap(), serde_json::from_str(text).unwrap());
    assert_eq!(ours, theirs);
    value
}

#[test]
fn info_of_an_overlay_with_snapshot_and_bitmaps() {
    let info: BlockGraphInfo = same_text(OVERLAY);
    assert_eq!(info.base.virtual_size, 8 << 20);
    assert_eq!(info.children[0].info.base.format, "file");
    assert_eq!(info.base.snapshots.as_ref().unwrap()[0].name, "snap1");
    let Some(ImageInfoSpecific::Qcow2(qcow2)) = info.base.format_specific else { panic!() };
    assert_eq!(qcow2.compression_type, Qcow2CompressionType::Zstd);
    let bitmaps = qcow2.bitmaps.unwrap();
    assert_eq!(bitmaps[0].flags, [Qcow2BitmapInfoFlags::Auto]);
    assert_eq!(bitmaps[1].flags, []);
}

#[test]
fn info_of_an_image_encrypted_with_luks() {
    // The format of the encryption comes first in ours, in the middle in theirs.
    let info: BlockNodeInfo = same_members(LUKS);
    let Some(ImageInfoSpecific::Qcow2(qcow2)) = info.format_specific else { panic!() };
    let Some(ImageInfoSpecificQCow2Encryption::Luks(luks)) = qcow2.encrypt else { panic!() };
    assert_eq!(luks.cipher_mode, QCryptoCipherMode::Cbc);
    assert_eq!(luks.ivgen_alg, QCryptoIVGenAlgo::Essiv);
    assert_eq!((luks.slots[0].iters, luks.slots[1].iters), (Some(53_894), None));
}

#[test]
fn info_of_an_image_encrypted_with_aes() {
    let info: BlockNodeInfo = same_text(AES);
    let Some(ImageInfoSpecific::Qcow2(qcow2)) = info.format_specific else { panic!() };
    assert_eq!(qcow2.encrypt, Some(ImageInfoSpecificQCow2Encryption::Aes));
}

#[test]
fn info_of_version_2_has_no_members_of_version_3() {
    let text = r#"{
    "compat": "0.10",
    "compression-type": "zlib",
    "refcount-bits": 16
}"#;
    let qcow2: ImageInfoSpecificQCow2 = same_text(text);
    assert_eq!(qcow2.extended_l2, None);
}

#[test]
fn info_with_its_backing_images_inside() {
    let base = BlockNodeInfo { filename: "base".into(), ..BlockNodeInfo::default() };
    let top = ImageInfo {
        backing_image: Some(ImageInfo { backing_image: None, base: base.clone() }.into()),
        base: BlockNodeInfo { filename: "top".into(), ..base },
    };
    let text = serde_json::to_string(&top).unwrap();
    assert_eq!(
        text,
        r#"{"backing-image":{"virtual-size":0,"filename":"base","format":""},"virtual-size":0,"filename":"top","format":""}"#
    );
    assert_eq!(serde_json::from_str::<ImageInfo>(&text).unwrap(), top);
}

#[test]
fn check_with_corruptions_and_with_leaks() {
    let broken: ImageCheck = same_text(
        r#"{
    "image-end-offset": 589824,
    "compressed-clusters": 2,
    "total-clusters": 128,
    "corruptions": 3,
    "check-errors": 0,
    "allocated-clusters": 5,
    "filename": "c.qcow2",
    "format": "qcow2",
    "fragmented-clusters": 4
}"#,
    );
    assert_eq!((broken.corruptions, broken.leaks), (Some(3), None));
    let leaking: ImageCheck = same_text(
        r#"{
    "image-end-offset": 1966080,
    "compressed-clusters": 1,
    "total-clusters": 128,
    "check-errors": 0,
    "leaks": 4,
    "allocated-clusters": 17,
    "filename": "leak.qcow2",
    "format": "qcow2",
    "fragmented-clusters": 1
}"#,
    );
    assert_eq!(leaking.leaks, Some(4));
}

#[test]
fn map_of_a_chain() {
    let text = r#"[{ "start": 0, "length": 65536, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 458752},
{ "start": 1048576, "length": 65536, "depth": 1, "present": true, "zero": false, "data": true, "compressed": true},
{ "start": 1114112, "length": 7274496, "depth": 1, "present": false, "zero": true, "data": false, "compressed": false}]
"#;
    let map: Vec<MapEntry> = same_members(text);
    assert_eq!((map[0].offset, map[1].offset), (Some(458_752), None));
    // The order of the members is theirs; `map` has a layout of its own.
    let (ours, theirs) = (serde_json::to_string(&map).unwrap(), text.replace([' ', '\n'], ""));
    assert_eq!(ours, theirs);
}

#[test]
fn measure_with_and_without_bitmaps() {
    let with: BlockMeasureInfo = same_text(
        r#"{
    "bitmaps": 327680,
    "required": 1441792,
    "fully-allocated": 8716288
}"#,
    );
    assert_eq!(with.bitmaps, Some(327_680));
    let without: BlockMeasureInfo = same_text(
        r#"{
    "required": 1073741824,
    "fully-allocated": 1073741824
}"#,
    );
    assert_eq!(without.bitmaps, None);
}

#[test]
fn pretty_text_is_ascii_and_escaped_as_theirs() {
    let name = "a\x1f\x7f\t\u{8}\u{c}\n\rz<&\"\\{}[],: é中😀";
    let text = r#""a\u001F\u007F\t\b\f\n\rz<&\"\\{}[],: \u00E9\u4E2D\uD83D\uDE00""#;
    assert_eq!(pretty(&name).unwrap(), text);
    assert_eq!(serde_json::from_str::<String>(text).unwrap(), name);
    assert_eq!(pretty(&Vec::<u8>::new()).unwrap(), "[\n]");
    assert_eq!(pretty(&[[0u8; 0], []]).unwrap(), "[\n    [\n    ],\n    [\n    ]\n]");
}

/// The names of the text form are those of the wire form, and come back from both.
fn names_agree<T>(all: &[T])
where
    T: Copy + PartialEq + core::fmt::Debug + core::fmt::Display + core::str::FromStr<Err = Error>,
    T: Serialize + DeserializeOwned,
{
    for &value in all {
        let name = value.to_string();
        assert_eq!(serde_json::to_value(value).unwrap(), Value::String(name.clone()));
        assert_eq!(name.parse::<T>().unwrap(), value);
    }
    let e = "nonsense".parse::<T>().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

#[test]
fn names_are_the_same_as_text_and_on_the_wire() {
    names_agree(OnOffAuto::ALL);
    names_agree(PreallocMode::ALL);
    names_agree(BlockdevQcow2Version::ALL);
    names_agree(BlockdevQcow2EncryptionFormat::ALL);
    names_agree(Qcow2CompressionType::ALL);
    names_agree(Qcow2BitmapInfoFlags::ALL);
    names_agree(ImageInfoSpecificKind::ALL);
    names_agree(QCryptoHashAlgo::ALL);
    names_agree(QCryptoCipherAlgo::ALL);
    names_agree(QCryptoCipherMode::ALL);
    names_agree(QCryptoIVGenAlgo::ALL);
    assert_eq!(
        "lazy".parse::<PreallocMode>().unwrap_err().to_string(),
        "unknown preallocation mode 'lazy', expected one of: off, metadata, falloc, full"
    );
}

/// `qemu-img info --output=json` of an image with extended L2 entries, zstd, a backing file, a
/// snapshot and two bitmaps.
const OVERLAY: &str = r#"{
    "children": [
        {
            "name": "file",
            "info": {
                "children": [
                ],
                "virtual-size": 918016,
                "filename": "o.qcow2",
                "format": "file",
                "actual-size": 434176,
                "format-specific": {
                    "type": "file",
                    "data": {
                    }
                },
                "dirty-flag": false
            }
        }
    ],
    "backing-filename-format": "qcow2",
    "snapshots": [
        {
            "icount": 0,
            "vm-clock-nsec": 0,
            "name": "snap1",
            "date-sec": 1795346980,
            "date-nsec": 792221000,
            "vm-clock-sec": 0,
            "id": "1",
            "vm-state-size": 0
        }
    ],
    "virtual-size": 8388608,
    "filename": "o.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 434176,
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "compression-type": "zstd",
            "lazy-refcounts": false,
            "bitmaps": [
                {
                    "flags": [
                        "auto"
                    ],
                    "name": "b0",
                    "granularity": 65536
                },
                {
                    "flags": [
                    ],
                    "name": "b1",
                    "granularity": 65536
                }
            ],
            "refcount-bits": 16,
            "corrupt": false,
            "extended-l2": true
        }
    },
    "full-backing-filename": "base.qcow2",
    "backing-filename": "base.qcow2",
    "dirty-flag": false
}"#;

/// The image itself, of one encrypted with LUKS, in a data file.
const LUKS: &str = r#"{
    "virtual-size": 8388608,
    "filename": "top.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 1314816,
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "compression-type": "zlib",
            "lazy-refcounts": false,
            "refcount-bits": 16,
            "data-file": "top.raw",
            "encrypt": {
                "ivgen-alg": "essiv",
                "detached-header": false,
                "hash-alg": "sha256",
                "cipher-alg": "aes-256",
                "uuid": "8de62d0f-7147-4df3-ac34-25432b3b8384",
                "ivgen-hash-alg": "sha256",
                "format": "luks",
                "cipher-mode": "cbc",
                "slots": [
                    {
                        "active": true,
                        "iters": 53894,
                        "key-offset": 4096,
                        "stripes": 4000
                    },
                    {
                        "active": false,
                        "key-offset": 135168
                    }
                ],
                "payload-offset": 1052672,
                "master-key-iters": 6649
            },
            "data-file-raw": false,
            "corrupt": false,
            "extended-l2": false
        }
    },
    "full-backing-filename": "o.qcow2",
    "encrypted": true,
    "backing-filename": "o.qcow2",
    "dirty-flag": false
}"#;

/// The image itself, of an overlay encrypted with AES.
const AES: &str = r#"{
    "backing-filename-format": "qcow2",
    "virtual-size": 8388608,
    "filename": "eo.qcow2",
    "cluster-size": 65536,
    "format": "qcow2",
    "actual-size": 200704,
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "compression-type": "zlib",
            "lazy-refcounts": false,
            "refcount-bits": 16,
            "encrypt": {
                "format": "aes"
            },
            "corrupt": false,
            "extended-l2": false
        }
    },
    "full-backing-filename": "base.qcow2",
    "encrypted": true,
    "backing-filename": "base.qcow2",
    "dirty-flag": false
}"#;
