//! What only qcow2 has: its options, and images that somebody has damaged.

use super::images::{Image, Pair, qcow2, text};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

const PLAIN: Image = qcow2("plain", "", &["write -P 7 0 256k"]);
const SUBCLUSTERS: Image = qcow2("subclusters", "-o extended_l2=on", &["write -P 7 0 256k"]);
const VERSION_2: Image = qcow2("version_2", "-o compat=0.10", &["write -P 7 0 256k"]);
const BACKED: Image = qcow2("backed", "-b base.raw -F raw", &["write -P 7 0 128k"]);
const JSON_BACKED: Image = qcow2(
    "json_backed",
    r#"-F raw -b json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}"#,
    &["write -P 7 64k 64k"],
);
const COMPRESSED: Image = qcow2("compressed", "", &["write -c 0 64k", "write -c 64k 64k"]);
const LUKS: Image = qcow2(
    "luks",
    "--object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    &[],
);
const AES: Image =
    qcow2("aes", "--object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s", &[]);

/// The number of `len` bytes at `at`.
fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

pub(crate) fn encryption_options() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [PLAIN, LUKS, AES] {
        let pair = Pair::new(image);
        for options in [
            "encrypt.format=luks",
            "encrypt.format=aes",
            "encrypt.format=foo",
            "encrypt.format=luks,encrypt.key-secret=s",
            "encrypt.format=aes,encrypt.key-secret=s",
            "encrypt.format=luks,encrypt.key-secret=none",
            "encrypt.key-secret=s",
            "encrypt.key-secret=none",
            "encrypt.foo=1",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.foo=1",
        ] {
            let options = format!("driver=qcow2,file.filename=disk,{options}");
            let args = ["--object", "secret,id=s,data=abc", "-c", "read 0 1k", "--image-opts"];
            let args: Vec<&str> = args.into_iter().chain([&*options]).collect();
            pair.agree_on_words(&args, "", &mut problems);
        }
    }
    problems
}

/// A bitmaps extension whose bit is not set says nothing, and its bitmaps are lost.
pub(crate) fn stale_bitmaps() -> Vec<String> {
    let (pair, mut problems) = (Pair::new(PLAIN), Vec::new());
    pair.forge(|bytes| {
        let mut at = number(bytes, 100, 4);
        while number(bytes, at, 4) != 0 {
            at += 8 + number(bytes, at + 4, 4).next_multiple_of(8);
        }
        bytes[at..at + 8].copy_from_slice(&[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]);
    });
    for args in [&["-r", "-c", "read 0 1k", "disk"][..], &["-c", "write 0 1k", "disk"]] {
        pair.agree(args, "", true, &mut problems);
    }
    problems
}

/// What the file takes, and where the guest's clusters are.
fn state(pair: &Pair, side: &str) -> (u64, String) {
    let disk = pair.path(side).join("disk");
    let blocks = std::fs::metadata(&disk).expect("a file").blocks();
    let args = ["map", "--output=json", "-f", "qcow2"];
    let map = Command::new("qemu-img").args(args).arg(&disk).output().expect("qemu-img");
    (blocks, text(&map.stdout))
}

/// Which discards and zero writes reach the file, and which clusters keep their place.
pub(crate) fn discards() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [PLAIN, SUBCLUSTERS, VERSION_2, BACKED, COMPRESSED] {
        let pair = Pair::new(image);
        for options in [
            "",
            ",discard=unmap",
            ",discard=ignore",
            ",discard=unmap,pass-discard-request=off",
            ",discard=ignore,pass-discard-request=on",
            ",discard=unmap,pass-discard-other=on",
            ",discard=unmap,discard-no-unref=on",
            ",discard=ignore,discard-no-unref=on",
            ",discard=unmap,discard-no-unref=on,pass-discard-request=off",
            ",pass-discard-request=x",
        ] {
            for command in [
                &["discard 0 128k"][..],
                &["write -zu 0 128k"],
                &["write -z 0 128k"],
                &["discard 32k 128k", "read -P 0 64k 64k"],
                &["discard 0 128k", "discard 0 64k", "write -P 3 0 64k", "read -P 3 0 64k"],
            ] {
                let options = format!("driver=qcow2,file.filename=disk{options}");
                let mut args: Vec<&str> = command.iter().flat_map(|c| ["-c", *c]).collect();
                args.extend(["--image-opts", &options]);
                pair.agree(&args, "", true, &mut problems);
                // Where clusters have lost their place, ours are used again only after a flush.
                let kept = options.contains("no-unref=on") && image.name != "compressed";
                let moves = command.len() > 2 && !kept;
                let (theirs, ours) = (state(&pair, "theirs"), state(&pair, "ours"));
                // A file that ends within a block keeps that block.
                let same = theirs.0.abs_diff(ours.0) <= 8 && theirs.1 == ours.1;
                if !same && !moves {
                    let what = format!("{} {args:?}", image.name);
                    problems.push(format!("{what}: space\n{theirs:?}\n{ours:?}"));
                }
            }
        }
    }
    problems
}

/// Clusters that count as free already, or whose references nothing counts.
pub(crate) fn not_freed() -> Vec<String> {
    let mut problems = Vec::new();
    for uncounted in [false, true] {
        let pair = Pair::new(PLAIN);
        pair.forge(|bytes| {
            let l1 = number(bytes, 40, 8);
            let l2 = number(bytes, l1 + 2, 6);
            let data = number(bytes, l2 + 2, 6);
            let block = number(bytes, number(bytes, 48, 8), 8);
            if uncounted {
                // A cluster of the second refcount block, which there is not.
                bytes[l2..l2 + 8].copy_from_slice(&(1u64 << 63 | 1 << 31).to_be_bytes());
            } else {
                bytes[block + (data >> 16) * 2..][..4].fill(0);
            }
        });
        for command in ["discard 0 64k", "discard 0 256k", "write -zu 0 64k"] {
            pair.agree_on_words(&["-f", "qcow2", "-c", command, "disk"], "", &mut problems);
        }
    }
    problems
}

pub(crate) fn json_backed() -> Vec<String> {
    let (pair, mut problems) = (Pair::new(JSON_BACKED), Vec::new());
    for args in [
        &["-c", "read -P 9 0 64k", "-c", "read -P 9 128k 896k", "-c", "map", "-c", "info"][..],
        &[
            "-c",
            "write -P 3 100 5000",
            "-c",
            "read -P 9 5100 1k",
            "-c",
            "discard 0 64k",
            "-c",
            "map",
        ],
        &["-r", "-c", "alloc 0 4M"],
    ] {
        let args: Vec<&str> = args.iter().copied().chain(["disk"]).collect();
        // Who compares the images stands in another folder, where there is no such file.
        pair.agree_on_words(&args, "", &mut problems);
    }
    let mut images = Vec::new();
    for name in [
        "json:{",
        r#"json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"},"foo":1}"#,
        r#"json:{"driver":"raw","file":{"driver":"file","filename":"base.raw","foo":1}}"#,
        r#"json:{"driver":"raw","file":{"driver":"file","filename":"nofile"}}"#,
        r#"json:{"driver":"file","filename":"base.raw"}"#,
        r#"json:{"file":{"driver":"file","filename":"base.raw"}}"#,
        r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"base.raw"}}"#,
        r#"json:{"driver":"raw","file.filename":"base.raw","offset":"512","size":"1k"}"#,
    ] {
        images.push(format!("-u -F raw -b {name}"));
    }
    for create in images {
        // Such an image is made anew in each run of this test: it need not outlive it.
        let pair = Pair::new(qcow2("json_backed", create.leak(), &[]));
        pair.agree_on_words(&["-r", "-c", "read -P 9 0 1k", "disk"], "", &mut problems);
    }
    problems
}

/// The state of a machine: the same words, and each reads what the other has written.
pub(crate) fn vm_states() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [PLAIN, SUBCLUSTERS, VERSION_2, BACKED, LUKS, AES] {
        let pair = Pair::new(image);
        let options = match image.name {
            "luks" | "aes" => "driver=qcow2,file.filename=disk,encrypt.key-secret=s",
            _ => "driver=qcow2,file.filename=disk",
        };
        let rest = ["--object", "secret,id=s,data=abc", "--image-opts", options];
        let run = |commands: &[&'static str]| -> Vec<&str> {
            commands.iter().flat_map(|c| ["-c", *c]).chain(rest).collect()
        };
        for commands in [
            &["write -b -P 7 0 100k", "read -b -P 7 0 100k", "read -b -P 0 100k 4k"][..],
            &["write -b -P 7 512 1k", "read -b -P 7 512 1k", "write -b -P 8 1k 512"],
            &["read -b -P 0 50M 4k", "write -b 777 1k", "write -b 0 513", "read -b 1 512"],
            &["write -b -z 0 512", "write -b -f 0 512", "read -b 0 0", "write -b 0 0", "length"],
            &["write -b -P 5 600M 64k", "read -b -P 5 600M 64k", "read -P 0 4M 512", "map"],
            &["read -b 9E 512", "read -b -- -512 512", "length"],
        ] {
            let args = run(commands);
            pair.agree_on_words(&args, "", &mut problems);
        }
        let written = run(&["write -b -P 7 0 100k", "write -b -P 8 512 1k"]);
        pair.agree_on_words(&written, "", &mut problems);
        let swap = |from: &str, to: &str| {
            std::fs::rename(pair.path(from).join("disk"), pair.path(to).join("disk"))
                .expect("rename");
        };
        swap("ours", "bin");
        swap("theirs", "ours");
        swap("bin", "theirs");
        let read = run(&["read -b -P 7 0 512", "read -b -P 8 512 1k", "read -b -P 7 1536 98k"]);
        pair.agree_as_it_is("qemu-io", &read, "", &mut problems);
    }
    problems
}
