//! Verbs that change an image in place: sequences of them say the same, and leave the same disks.

use super::setup::{Folder, compare, report};
use std::process::Command;

/// Command lines, one after the other in one folder for each program. `qemu-io` is the reference's.
const SEQUENCES: [&[&str]; 6] = [
    &[
        "create -q -f qcow2 a 1M",
        "snapshot -l a",
        "snapshot a",
        "snapshot -c one a",
        "snapshot -c one a",
        "snapshot -c 7 a",
        "snapshot -q -d one a",
        "snapshot -d one a",
        "snapshot -d one a",
        "snapshot -a nope a",
        "snapshot -a 3 a",
        "snapshot -a 7 a",
        "snapshot -c a -d b a",
        "snapshot -l a b",
        "snapshot",
        "snapshot -l missing",
        "snapshot -U -c u a",
        "convert -O raw -l 7 a out",
        "convert -O raw -l snapshot.name=7 a out",
        "convert -O raw -l snapshot.id=3,snapshot.name=7 a out",
        "convert -O raw -l snapshot.id=9 a out",
        "convert -O raw -l snapshot.foo=9 a out",
        "convert -l 7 a a out",
        "measure -O qcow2 -l 7 a",
        "measure -O qcow2 -l 8 a",
        "create -q -f raw r 1M",
        "snapshot -l -f raw r",
        "snapshot -c x -f raw r",
        "snapshot -a x -f raw r",
        "snapshot -d x -f raw r",
        "create -q -f qcow2 -o data_file=d b 1M",
        "snapshot -c x b",
        "snapshot -a x b",
        "snapshot -d x b",
        "create -q -f qcow2 z 0",
        "snapshot -c x z",
        "snapshot -a x z",
        "snapshot -d x z",
    ],
    &[
        "create -q -f qcow2 -o cluster_size=4k a 1M",
        "io write -P 1 0 200k",
        "snapshot -c small a",
        "io write -P 2 100k 8k",
        "resize a 2M",
        "io write -P 3 1500k 100k",
        "io write -c -P 4 1024k 64k",
        "snapshot -c big a",
        "snapshot -a small a",
        "io write -z 8k 16k",
        "snapshot -a big a",
        "resize --shrink a 1200k",
        "io discard 0 64k",
        "snapshot -d small a",
        "resize a +1M",
        "snapshot -a big a",
        "snapshot -d big a",
        "resize a 1200k",
        "resize --shrink a -512k",
        "check a",
    ],
    &[
        "create -q -f qcow2 a 2M",
        "resize a -1M",
        "resize a 0",
        "resize a -4M",
        "resize a +x",
        "resize a 513",
        "resize a +1",
        "resize a 16E",
        "resize a 8E",
        "resize a 7E",
        "resize a",
        "resize a 1M 2M",
        "resize --preallocation=foo a 3M",
        "resize --preallocation=full a 3M",
        "resize --preallocation=metadata a 4M",
        "resize --preallocation=falloc a 5M",
        "resize --shrink --preallocation=full a 2M",
        "resize -q a -1M --shrink",
        "resize a --shrink -1M",
        "create -q -f raw r 1M",
        "resize -f raw r 1000",
        "resize -f raw --shrink r 1000",
        "resize -f raw --preallocation=metadata r 2M",
        "resize -f raw --preallocation=full r 2M",
        "create -q -f qcow2 -o compat=0.10 v2 1M",
        "snapshot -c one v2",
        "resize v2 2M",
    ],
    &[
        "create -q -f raw base 4M",
        "create -q -f qcow2 -o cluster_size=4k -b base -F raw a 1001k",
        "io write -P 1 900k 4k",
        "resize a 2M",
        "resize --preallocation=metadata a 3M",
        "resize --preallocation=falloc a 4M",
        "snapshot -c one a",
        "io write -z 0 1M",
        "amend -o compat=0.10 a",
        "amend -o compat=1.1 a",
        "amend -o compat=0.10 a",
    ],
    &[
        "amend -f qcow2 -o help",
        "amend -f raw -o help",
        "create -q -f qcow2 a 1M",
        "amend a",
        "amend -o x=1 a",
        "amend -o compat=0.10 a",
        "amend -o refcount_bits=8 a",
        "amend -o lazy_refcounts=on a",
        "amend -o compat=v3 a",
        "amend -o compat=7 a",
        "amend -o lazy_refcounts=on a",
        "amend -o refcount_bits=1 a",
        "io write -P 1 0 200k",
        "amend -o refcount_bits=64 a",
        "io write -P 2 100k 300k",
        "snapshot -c one a",
        "amend -o refcount_bits=1 a",
        "amend -o refcount_bits=2 a",
        "amend -o refcount_bits=3 a",
        "amend -o compat=0.10 a",
        "amend -o compat=0.10,refcount_bits=16 a",
        "amend -o compat=1.1,refcount_bits=32,lazy_refcounts=on a",
        "amend -o size=2M a",
        "amend -o compat=0.10 a",
        "amend -o size=1000 a",
        "amend -o cluster_size=4k a",
        "amend -o backing_file=b a",
        "amend -o data_file=b a",
        "amend -o data_file_raw=on a",
        "amend -o encrypt.state=active a",
        "amend -o size=1M",
        "amend -t foo -o size=1M a",
    ],
    &[
        "create -q -f qcow2 -o data_file=d,data_file_raw=on a 1M",
        "io write -P 1 0 200k",
        "amend -o compat=0.10 a",
        "amend -o data_file_raw=off a",
        "resize a 2M",
        "resize --preallocation=metadata a 3M",
    ],
];

/// What the reference tells of an image, but for what two correct images may differ in.
fn told(folder: &Folder) -> String {
    let info = folder.reference("qemu-img", "info a");
    let differs = ["disk size", "file length", ":00:00.000"];
    let kept = |line: &&str| !differs.iter().any(|what| line.contains(what));
    info.lines().filter(kept).collect::<Vec<_>>().join("\n")
}

pub(crate) fn sequences() {
    let mut problems = Vec::new();
    for sequence in SEQUENCES {
        let (theirs, ours) = (Folder::new(), Folder::new());
        for line in sequence {
            let before = problems.len();
            if let Some(change) = line.strip_prefix("io ") {
                for folder in [&theirs, &ours] {
                    let mut command = Command::new("qemu-io");
                    let output =
                        command.args(["-c", change, "a"]).current_dir(folder.path()).output();
                    assert!(output.is_ok_and(|o| o.status.success()), "{line}");
                }
                continue;
            }
            let (a, b) = (theirs.theirs(line), ours.ours(line));
            if *line == "snapshot a" || *line == "check a" {
                // Dates and ends of files differ.
                assert_eq!(a.status.code(), b.status.code(), "{line}");
            } else {
                compare(line, &a, &b, &mut problems);
            }
            if theirs.path().join("a").exists() {
                let (a, b) = (told(&theirs), told(&ours));
                if a != b {
                    problems.push(format!("{line}\n--- theirs\n{a}\n--- ours\n{b}\n"));
                }
                ours.reference("qemu-img", "check -q a");
                let other = theirs.path().join("a");
                ours.reference("qemu-img", &format!("compare a {}", other.display()));
            }
            if problems.len() > before {
                break;
            }
        }
    }
    report(&problems);
}
