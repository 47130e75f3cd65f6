//! Copies with the bitmaps of their sources, and into images that options name: to the letter what
//! the reference does and says.

use super::setup::{Folder, report};
use sectora::storage::{FileDevice, FileOptions};
use sectora_core::format::{Env, OpenOptions, open};
use sectora_core::io::{Access, Deny, Device};
use std::fs;
use std::process::Output;
use std::sync::Arc;

/// Images with bitmaps of all kinds, made by the reference.
fn seed() -> Folder {
    let folder = Folder::new();
    folder.file("plain.raw", 4 << 20, &[(1 << 20, vec![7; 100_000])]);
    folder.file("small.raw", 1 << 20, &[]);
    for line in [
        "create -q -f qcow2 source.qcow2 4M",
        "bitmap --add source.qcow2 b0",
        "bitmap --add -g 512 source.qcow2 b1",
        "snapshot -c before source.qcow2",
        "create -q -f qcow2 empty.qcow2 4M",
        "create -q -f qcow2 part.qcow2 4M",
        "bitmap --add --disable part.qcow2 other",
        "bitmap --add part.qcow2 b1",
        "create -q -f qcow2 large.qcow2 8M",
        "create -q -f qcow2 -o compat=0.10 old.qcow2 4M",
        "create -q -f qcow2 -b source.qcow2 -F qcow2 over.qcow2",
        "create -q -f qcow2 broken.qcow2 4M",
        "bitmap --add broken.qcow2 b0",
        "bitmap --add --disable broken.qcow2 b1",
    ] {
        folder.reference("qemu-img", line);
    }
    let io = |commands: &[&str], image: &str| {
        let mut command = std::process::Command::new("qemu-io");
        for text in commands {
            command.args(["-c", text]);
        }
        command.arg(image).current_dir(folder.path()).output().expect("qemu-io")
    };
    assert!(io(&["write 1M 64k", "write 3000k 5k"], "source.qcow2").status.success());
    folder.reference("qemu-img", "bitmap --add --disable source.qcow2 b2");
    // Ends without storing what it has recorded.
    assert!(!io(&["write 0 64k", "abort"], "broken.qcow2").status.success());
    folder.reference("qemu-img", "bitmap --add broken.qcow2 b2");
    folder
}

fn copy_of(folder: &Folder) -> Folder {
    let copy = Folder::new();
    for name in folder.names() {
        fs::copy(folder.path().join(&name), copy.path().join(&name)).expect("copy");
    }
    copy
}

fn show(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}{}", text(&output.stdout), text(&output.stderr), output.status)
}

/// The bitmaps of an image as the reference tells of them; nothing where it is none.
fn bitmaps(folder: &Folder, name: &str) -> String {
    if !folder.path().join(name).exists() {
        return String::new();
    }
    let info = folder.theirs(&format!("info --output json {name}"));
    let json: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap_or_default();
    json["format-specific"]["data"]["bitmaps"].to_string()
}

/// What is dirty in a bitmap, as the engine reads it from the file.
fn dirty_of(folder: &Folder, image: &str, name: &str) -> Vec<(u64, u64)> {
    let path = folder.path().join(image);
    let run = sectora::runtime::block_on(|runtime| async move {
        let path = path.to_str().expect("a name");
        let file: Device =
            Arc::new(FileDevice::open(path, &FileOptions::new(Access::ReadOnly)).expect("open"));
        let env = Env { runtime: Arc::new(runtime), policy: Arc::new(Deny) };
        let layer = open(&env, file, path, OpenOptions::default()).await.expect("an image");
        layer.driver().load_bitmaps().await.expect("bitmaps");
        let bitmap = layer.bitmaps().find(name).expect("a bitmap");
        let (mut runs, mut at) = (Vec::new(), 0);
        while let Some((start, len)) = bitmap.next_dirty_area(at, u64::MAX, u64::MAX) {
            runs.push((start, len));
            at = start + len;
        }
        runs
    });
    run.expect("a runtime")
}

pub(crate) fn copied() {
    let seed = seed();
    let mut problems = Vec::new();
    for (line, target) in [
        ("convert --bitmaps -O qcow2 source.qcow2 out", "out"),
        ("convert --bitmaps -c -m 4 -U -O qcow2 source.qcow2 out", "out"),
        ("convert --bitmaps -l before -O qcow2 source.qcow2 out", "out"),
        ("convert --bitmaps -O qcow2 over.qcow2 out", "out"),
        ("convert --bitmaps -n -O qcow2 source.qcow2 empty.qcow2", "empty.qcow2"),
        ("convert --bitmaps -n -O qcow2 source.qcow2 part.qcow2", "part.qcow2"),
        ("convert --bitmaps -n -O qcow2 source.qcow2 large.qcow2", "large.qcow2"),
        ("convert --bitmaps -n -O qcow2 source.qcow2 old.qcow2", "old.qcow2"),
        ("convert --bitmaps -n -O raw source.qcow2 small.raw", ""),
        ("convert --bitmaps -n -O qcow2 source.qcow2 missing", ""),
        ("convert --bitmaps -O raw source.qcow2 out", ""),
        ("convert --bitmaps -O qcow2 -o compat=0.10 source.qcow2 out", ""),
        ("convert --bitmaps -O qcow2 source.qcow2 source.qcow2 out", ""),
        ("convert --bitmaps -O qcow2 plain.raw out", ""),
        ("convert --bitmaps -O qcow2 old.qcow2 out", ""),
        ("convert --bitmaps -O qcow2 broken.qcow2 out", ""),
        ("convert --bitmaps --skip-broken-bitmaps -O qcow2 broken.qcow2 out", "out"),
        ("convert --skip-broken-bitmaps -O qcow2 source.qcow2 out", ""),
        ("convert --target-image-opts source.qcow2 driver=raw,file.filename=out", ""),
        ("convert --target-image-opts -n -O raw source.qcow2 driver=raw,file.filename=a", ""),
        ("convert --target-image-opts -n source.qcow2 missing", ""),
        ("convert --target-image-opts -n source.qcow2 driver=raw,file.filename=small.raw", ""),
        ("convert --target-image-opts -n source.qcow2 file.filename=plain.raw", ""),
        (
            "convert --target-image-opts --bitmaps -n source.qcow2 \
             driver=qcow2,discard=unmap,file.driver=file,file.filename=empty.qcow2",
            "empty.qcow2",
        ),
    ] {
        let (theirs, ours) = (copy_of(&seed), copy_of(&seed));
        let (a, b) = (show(&theirs.theirs(line)), show(&ours.ours(line)));
        if a != b {
            problems.push(format!("{line}\n--- theirs\n{a}\n--- ours\n{b}\n"));
        }
        if target.is_empty() {
            continue;
        }
        let (a, b) = (bitmaps(&theirs, target), bitmaps(&ours, target));
        if a != b {
            problems.push(format!("{line}\n--- theirs\n{a}\n--- ours\n{b}\n"));
        }
        ours.reference("qemu-img", &format!("check {target}"));
        for name in ["b0", "b1", "b2"].iter().filter(|name| a.contains(**name)) {
            let dirty = |folder: &Folder| dirty_of(folder, target, name);
            let (a, b) = (dirty(&theirs), dirty(&ours));
            if a != b {
                problems.push(format!("{line}: {name}\n--- theirs\n{a:x?}\n--- ours\n{b:x?}\n"));
            }
        }
    }
    report(&problems);
}
