//! Verbs that write: the results hold the same, and the reference finds nothing wrong with ours.

use super::setup::{Folder, compare, images, report};

/// What the reference tells of an image, but for what two correct images may differ in.
fn told(folder: &Folder, image: &str) -> String {
    let info = folder.reference("qemu-img", &format!("info {image}"));
    info.lines().filter(|l| !l.contains("disk size")).collect::<Vec<_>>().join("\n")
}

/// Runs a line in a folder of its own for each program; gives both folders where both succeed.
fn both(line: &str, problems: &mut Vec<String>) -> Option<(Folder, Folder)> {
    let (theirs, ours) = (seed(), seed());
    let (a, b) = (theirs.theirs(line), ours.ours(line));
    compare(line, &a, &b, problems);
    (a.status.success() && b.status.success()).then_some((theirs, ours))
}

/// A base for overlays.
fn seed() -> Folder {
    let folder = Folder::new();
    folder.file("base.raw", 3 << 20, &[(1 << 20, vec![7; 100_000])]);
    folder
}

pub(crate) fn new_images() {
    let mut lines: Vec<String> = [
        "create out 10M",
        "create -f raw -o preallocation=full out 1M",
        "create -f raw -o preallocation=falloc,nocow=off out 1M",
        "create -f raw -o preallocation=metadata out 1M",
        "create out 1000",
        "create -q -f qcow2 out 10M",
        "create -f qcow2 -b base.raw -F raw out",
        "create -f qcow2 -b base.raw -F raw out 64M",
        "create -f qcow2 -u -b missing -F raw out 64M",
        "create -f qcow2 -o backing_file=base.raw,backing_fmt=raw,size=5M out",
        "create -f qcow2 -b base.raw -F raw -o extended_l2=on,preallocation=metadata out",
        "create -f qcow2 -b base.raw -F raw -o preallocation=full out",
        "create -f qcow2 -o data_file=data,data_file_raw=on out 1M",
        "create -f qcow2 -o data_file=data,preallocation=metadata out 1M",
        "create -f qcow2 -o data_file_raw=on out 1M",
        "create -f qcow2 -o backing_fmt=raw out 1M",
        "create -f qcow2 -o compression_type=zstd,lazy_refcounts,noextended_l2 out 1.5G",
        "create -f qcow2 -o compression_type=lz4 out 1G",
        "create -f qcow2 -o encryption=off,compat=v3,nocow=off,extent_size_hint=0 out 1M",
        "create -f qcow2 out 7E",
        "create -f qcow2 -o cluster_size=2M out 1P",
        "create -f qcow2 -o cluster_size=512 out 1G",
        "create -f qcow2 base.raw 1M",
    ]
    .map(str::to_owned)
    .into();
    for cluster_size in ["512", "4k", "64k", "2M"] {
        for compat in ["0.10", "1.1"] {
            for rest in
                ["refcount_bits=1", "refcount_bits=64", "extended_l2=on", "lazy_refcounts=on"]
            {
                lines.push(format!(
                    "create -f qcow2 -o compat={compat},cluster_size={cluster_size},{rest} out 5M"
                ));
            }
        }
        for preallocation in ["metadata", "falloc", "full"] {
            lines.push(format!(
                "create -f qcow2 -o cluster_size={cluster_size},preallocation={preallocation} out 1M"
            ));
        }
    }
    let mut problems = Vec::new();
    for line in lines {
        let Some((theirs, ours)) = both(&line, &mut problems) else { continue };
        let name = if line.ends_with("base.raw 1M") { "base.raw" } else { "out" };
        let (a, b) = (told(&theirs, name), told(&ours, name));
        if a != b {
            problems.push(format!("{line}\n--- theirs\n{a}\n--- ours\n{b}\n"));
        }
        if line.contains("qcow2") && !line.contains("missing") {
            ours.reference("qemu-img", &format!("check {name}"));
        }
        if theirs.names() != ours.names() {
            problems.push(format!("{line}: {:?}, not {:?}", ours.names(), theirs.names()));
        }
    }
    report(&problems);
}

pub(crate) fn copies() {
    let (folder, images) = images();
    let mut problems = Vec::new();
    let damaged = ["orphan.qcow2", "leak.qcow2", "torn.qcow2", "missing", "sub", "large.qcow2"];
    let sources = images.into_iter().filter(|i| !damaged.contains(i));
    let targets = [
        "-O raw",
        "-O raw -S 0 -m 1",
        "-O raw -t none -T none",
        "-O raw --aio threads -W -m 16",
        "-O qcow2",
        "-O qcow2 -c",
        "-O qcow2 -c -o compression_type=zstd,cluster_size=2M",
        "-O qcow2 -c -o cluster_size=512 -m 3",
        "-O qcow2 -S 0",
        "-O qcow2 -S 64k -o extended_l2=on,cluster_size=128k",
        "-O qcow2 -o compat=0.10,cluster_size=4k",
        "-O qcow2 -o preallocation=metadata",
        "-O qcow2 -o data_file=out.data,data_file_raw=on",
        "-O qcow2 -t writeback",
    ];
    for source in sources {
        for options in targets {
            let line = format!("convert {options} {source} out");
            // With options that are not the reference's.
            let output = folder.sectora(&format!("img {line}"));
            if !output.status.success() || !output.stdout.is_empty() || !output.stderr.is_empty() {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                problems.push(format!("{line}: {}\n{text}", output.status));
                continue;
            }
            let format = if options.contains("qcow2") { "qcow2" } else { "raw" };
            let compared = folder.theirs(&format!("compare -F {format} {source} out"));
            if !compared.status.success() {
                problems.push(format!("{line}\n{}", String::from_utf8_lossy(&compared.stdout)));
            }
            if format == "qcow2" {
                let check = folder.theirs("check out");
                if !check.status.success() {
                    problems.push(format!("{line}\n{}", String::from_utf8_lossy(&check.stderr)));
                }
            }
            let allowed = format == "qcow2" || folder.path().join("out").metadata().is_ok();
            assert!(allowed, "{line}");
        }
    }
    // Into what exists, and on top of a backing file.
    for (prepare, line, source) in [
        ("convert -O qcow2 zlib.qcow2 out", "convert -n -O qcow2 over.qcow2 out", "over.qcow2"),
        ("convert -O raw zlib.qcow2 out", "convert -n -O raw over.qcow2 out", "over.qcow2"),
        (
            "create -f qcow2 out 30M",
            "convert -n --target-is-zero -O qcow2 over.qcow2 out",
            "over.qcow2",
        ),
        (
            "create -f raw out 1k",
            "convert -O qcow2 -B plain.raw -F raw over.qcow2 out",
            "over.qcow2",
        ),
        (
            "create -f raw out 1k",
            "convert -O qcow2 -c -B over.qcow2 -F qcow2 sub/top.qcow2 out",
            "sub/top.qcow2",
        ),
    ] {
        folder.reference("qemu-img", prepare);
        let output = folder.ours(line);
        assert!(output.status.success(), "{line}: {output:?}");
        let compared = folder.theirs(&format!("compare {source} out"));
        if !compared.status.success() {
            problems.push(format!("{line}\n{}", String::from_utf8_lossy(&compared.stdout)));
        }
    }
    report(&problems);
}
