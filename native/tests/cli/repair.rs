//! `check -r` on broken images: what is said, what is left, and what a dry run promises.

use crate::setup::Folder;
use std::process::{Command, Output};

/// Of an image with clusters of 64 KiB, made by the reference: refcount block and L2 table.
const REFBLOCK: usize = 0x2_0000;
const L2: usize = 0x4_0000;
const INCOMPATIBLE: usize = 72;

/// What is broken: places, and what is written there.
type Damage = &'static [(usize, u64)];

/// Cases in which both do the same, to the letter.
const SAME: &[(&str, Damage)] = &[
    ("nothing", &[]),
    ("a leak", &[(L2 + 8, 0)]),
    ("a cluster used twice", &[(L2 + 8, 0x8000_0000_0005_0000)]),
    ("a copied flag that is missing", &[(L2 + 8, 0x6_0000)]),
    ("reserved bits", &[(L2 + 8, 0x8200_0000_0006_0000)]),
    ("data out of line", &[(L2 + 8, 0x8000_0000_0006_0200)]),
    ("zeroes out of line", &[(L2 + 8, 0x8000_0000_0006_0201)]),
    ("data past the end", &[(L2 + 8, 0x8000_0000_4000_0000)]),
    ("counts of 0", &[(REFBLOCK + 8, 0)]),
    ("marked corrupt", &[(INCOMPATIBLE, 2)]),
    ("marked dirty, with a leak", &[(INCOMPATIBLE, 1), (L2 + 8, 0)]),
    ("marked corrupt, and is", &[(INCOMPATIBLE, 2), (L2 + 8, 0x8200_0000_0006_0000)]),
];

fn base(folder: &Folder) -> Vec<u8> {
    folder.reference("qemu-img", "create -q -f qcow2 base.qcow2 4M");
    let made = Command::new("qemu-io")
        .args(["-c", "write -P 1 0 256k", "-c", "write -P 2 1M 64k", "base.qcow2"])
        .current_dir(folder.path())
        .output()
        .expect("qemu-io starts");
    assert!(made.status.success(), "{made:?}");
    std::fs::read(folder.path().join("base.qcow2")).expect("read")
}

fn broken(base: &[u8], damage: Damage) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for (at, value) in damage {
        bytes[*at..at + 8].copy_from_slice(&value.to_be_bytes());
    }
    bytes
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

pub(crate) fn repairs() {
    let folder = Folder::new();
    let base = base(&folder);
    let image = folder.path().join("image");
    for (name, damage) in SAME {
        let bytes = broken(&base, damage);
        for options in [
            "",
            "-r leaks",
            "-r all",
            "-r all -q",
            "--output json",
            "-r all --output=json",
            "-r leaks -U",
        ] {
            let line = format!("check {options} image");
            std::fs::write(&image, &bytes).expect("write");
            let theirs = said(&folder.theirs(&line));
            let left = std::fs::read(&image).expect("read");
            std::fs::write(&image, &bytes).expect("write");
            let ours = said(&folder.ours(&line));
            let found = std::fs::read(&image).expect("read");
            let what = format!("{name}: {line}");
            if *name == "counts of 0" && theirs.0 == Some(0) {
                // New refcounts lie elsewhere than the reference's, and the image ends elsewhere.
                let words = |text: &str| -> Vec<String> {
                    text.lines().filter(|l| !l.contains("nd offset")).map(str::to_owned).collect()
                };
                assert_eq!((ours.0, words(&ours.2)), (theirs.0, words(&theirs.2)), "{what}");
                folder.reference("qemu-img", "check image");
                continue;
            }
            assert_eq!(ours, theirs, "{what}");
            let marks = |bytes: &[u8]| bytes[INCOMPATIBLE..INCOMPATIBLE + 8].to_vec();
            assert_eq!(marks(&found), marks(&left), "{what}: other marks");
            assert_eq!(found.len(), left.len(), "{what}: another length");
        }
    }
}

pub(crate) fn dry_run() {
    let folder = Folder::new();
    let base = base(&folder);
    let bytes = broken(&base, &[(INCOMPATIBLE, 1), (L2 + 8, 0x8000_0000_0005_0000)]);
    let image = folder.path().join("image");
    std::fs::write(&image, &bytes).expect("write");
    let (code, text, errors) = said(&folder.sectora("img check --dry-run -r leaks image"));
    assert_eq!((code, errors.as_str()), (Some(2), ""), "{text}");
    let raise = "0x50000: ERROR cluster 5 refcount=1 reference=2\n    \
                 the repair would not: raise the refcount to the references found\n";
    let lower = "0x60000: Leaked cluster 6 refcount=1 reference=0\n    \
                 the repair would: lower the refcount to the references found\n    lost: ";
    assert!(text.starts_with(raise) && text.contains(lower), "{text}");
    let (code, text, _) = said(&folder.sectora("img check --dry-run --output=json -r all image"));
    let found: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, found["corruptions"].as_u64()), (Some(2), Some(1)), "{text}");
    let first = &found["findings"][0];
    assert_eq!(
        (first["kind"].as_str(), first["offset"].as_u64()),
        (Some("corruption"), Some(0x5_0000))
    );
    assert_eq!(first["repairs"].as_bool(), Some(true), "{text}");
    assert!(std::fs::read(&image).expect("read") == bytes, "a dry run changes something");

    // Progress, and formats that have nothing to check.
    let (code, text, _) = said(&folder.sectora("img check -p image"));
    assert!(code == Some(2) && text.contains("/100%)"), "{text}");
    folder.file("a.raw", 1 << 20, &[]);
    let (code, ..) = said(&folder.sectora("img check -r all a.raw"));
    assert_eq!(code, Some(63));
}
