//! What the program promises beyond the reference: nothing half-made, clean stops, streams.

use super::setup::{Folder, compare, noise, program, report};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub(crate) fn images_in_use() {
    let folder = Folder::new();
    folder.reference("qemu-img", "create -q -f qcow2 used.qcow2 1M");
    folder.reference("qemu-img", "create -q -f raw other.raw 1M");
    // Holds the image until its standard input ends; it has it once it answers.
    let mut user = Command::new("qemu-io")
        .args(["-f", "qcow2", "used.qcow2"])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("qemu-io");
    let mut input = user.stdin.take().expect("input");
    std::io::Write::write_all(&mut input, b"length\n").expect("ask");
    let mut answer = BufReader::new(user.stdout.take().expect("output"));
    let mut line = String::new();
    while !line.contains("1 MiB") {
        line.clear();
        assert!(answer.read_line(&mut line).expect("answer") > 0);
    }
    let mut problems = Vec::new();
    for line in [
        "info used.qcow2",
        "info -U used.qcow2",
        "check used.qcow2",
        "check -U used.qcow2",
        "map used.qcow2",
        "compare used.qcow2 used.qcow2",
        "convert used.qcow2 out.raw",
        "convert -U used.qcow2 out.raw",
        "convert -O qcow2 other.raw used.qcow2",
        "create -q -f qcow2 used.qcow2 1M",
        "create -q used.qcow2 1M",
    ] {
        compare(line, &folder.theirs(line), &folder.ours(line), &mut problems);
    }
    drop(input);
    user.wait().expect("wait");
    report(&problems);
}

/// A compressed image whose last cluster does not decompress.
fn damaged(folder: &Folder) {
    folder.file("source.raw", 4 << 20, &[(0, vec![b'a'; 4 << 20])]);
    folder.reference("qemu-img", "convert -O qcow2 -c source.raw damaged.qcow2");
    let path = folder.path().join("damaged.qcow2");
    let mut bytes = std::fs::read(&path).expect("read");
    let end = bytes.len();
    // The last payloads; metadata lies before them.
    bytes[end - 400..].fill(0xff);
    std::fs::write(&path, bytes).expect("write");
}

pub(crate) fn failed_copy() {
    let folder = Folder::new();
    damaged(&folder);
    folder.file("out", 11, &[(0, b"precious".to_vec())]);
    let (before, names) = (std::fs::read(folder.path().join("out")).expect("read"), folder.names());
    for line in [
        "img convert -O raw damaged.qcow2 out",
        "img convert -O qcow2 damaged.qcow2 out",
        "img convert -O qcow2 -o data_file=source.raw damaged.qcow2 out",
        "img convert -O raw damaged.qcow2 new",
        "img create -f qcow2 -o cluster_size=5 out 1M",
        "img create -f qcow2 out 7E",
    ] {
        let output = folder.sectora(line);
        assert_eq!(output.status.code(), Some(1), "{line}: {output:?}");
        assert!(output.stderr.starts_with(b"sectora: "), "{line}: {output:?}");
        assert_eq!(std::fs::read(folder.path().join("out")).expect("read"), before, "{line}");
        assert_eq!(folder.names(), names, "{line}");
    }
    let source = std::fs::read(folder.path().join("source.raw")).expect("read");
    assert!(source.iter().all(|b| *b == b'a') && source.len() == 4 << 20);
}

pub(crate) fn stopped_copy() {
    let folder = Folder::new();
    // Long enough to be met in the middle: noise takes the compressor a second or more.
    let runs: Vec<(u64, Vec<u8>)> =
        (0..24).map(|i| (i * (8 << 20), noise(i + 1, 8 << 20))).collect();
    folder.file("source.raw", 192 << 20, &runs);
    folder.file("out", 11, &[(0, b"precious".to_vec())]);
    let (before, names) = (std::fs::read(folder.path().join("out")).expect("read"), folder.names());
    for (signal, code) in [("INT", Some(130)), ("TERM", Some(143)), ("KILL", None)] {
        let line = "img convert -O qcow2 -c --progress=json source.raw out";
        let mut copy = folder.command(line).stderr(Stdio::piped()).spawn().expect("start");
        let mut lines = BufReader::new(copy.stderr.take().expect("messages")).lines();
        // It has begun to write.
        lines.by_ref().nth(3).expect("progress").expect("text");
        let id = copy.id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &id]).status().expect("kill");
        assert!(sent.success());
        let rest: Vec<String> = lines.map(|l| l.expect("text")).collect();
        assert_eq!(copy.wait().expect("wait").code(), code, "{signal}: {rest:?}");
        if code.is_some() {
            assert_eq!(
                rest.last().map(String::as_str),
                Some(&*format!("sectora: stopped by SIG{signal}"))
            );
        }
        assert_eq!(std::fs::read(folder.path().join("out")).expect("read"), before, "{signal}");
        assert_eq!(folder.names(), names, "{signal}");
    }
}

pub(crate) fn stream() {
    let folder = Folder::new();
    let runs = [(0, noise(1, 300_000)), (5 << 20, noise(2, 70_000)), (9 << 20, vec![1; 1])];
    folder.file("source.raw", 10 << 20, &runs);
    for options in
        ["-O raw", "-O qcow2", "-O qcow2 -o cluster_size=4k", "-O qcow2 -o extended_l2=on"]
    {
        let output = folder.sectora(&format!("img convert {options} source.raw -"));
        assert!(output.status.success() && output.stderr.is_empty(), "{options}: {output:?}");
        std::fs::write(folder.path().join("out"), output.stdout).expect("write");
        let format = options.split(' ').nth(1).expect("a format");
        folder.reference("qemu-img", &format!("compare -F {format} source.raw out"));
        if format == "qcow2" {
            folder.reference("qemu-img", "check out");
        }
    }
    assert!(!folder.names().contains(&"-".to_owned()));
}

pub(crate) fn broken_pipe() {
    let folder = Folder::new();
    folder.file("source.raw", 8 << 20, &[(0, noise(1, 8 << 20))]);
    folder.reference("qemu-img", "convert -O qcow2 -o cluster_size=512 source.raw small.qcow2");
    for line in ["img convert -O raw source.raw -", "img convert -O qcow2 source.raw -"] {
        let mut copy = folder
            .command(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let mut first = [0; 100];
        copy.stdout.take().expect("output").read_exact(&mut first).expect("read");
        let output = copy.wait_with_output().expect("wait");
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    }
    // Nobody reads from the start.
    for line in ["img info source.raw", "img --help", "img map --output=json small.qcow2"] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let output =
            folder.command(line).stdout(writer).stderr(Stdio::piped()).output().expect("run");
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    }
}

pub(crate) fn progress() {
    let folder = Folder::new();
    // Requests that complete together are told of as one step: many, so that some do not.
    folder.file("source.raw", 64 << 20, &[(0, noise(1, 64 << 20))]);
    for line in [
        "img convert --progress=json -O qcow2 source.raw out",
        "img convert --progress=json -O qcow2 source.raw -",
        "img compare --progress=json source.raw source.raw",
    ] {
        let output = folder.sectora(line);
        assert!(output.status.success(), "{line}: {output:?}");
        let steps: Vec<(u64, u64)> = String::from_utf8(output.stderr)
            .expect("text")
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                (value["done"].as_u64().expect("done"), value["total"].as_u64().expect("total"))
            })
            .collect();
        assert!(steps.len() > 3, "{line}: {steps:?}");
        assert!(steps.is_sorted_by_key(|(done, _)| *done), "{line}: {steps:?}");
        assert!(steps.last().is_some_and(|(done, total)| done == total), "{line}: {steps:?}");
    }
    let quiet = folder.sectora("img convert -q -p -O qcow2 source.raw out");
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    let plain = folder.ours("convert -p -O qcow2 source.raw out");
    let text = String::from_utf8(plain.stdout).expect("text");
    assert!(text.starts_with("    (0.00/100%)\r"), "{text:?}");
    assert!(text.ends_with("    (100.00/100%)\r\n"), "{text:?}");
}

pub(crate) fn sample() {
    let folder = Folder::new();
    let output = folder.command("").env("TMPDIR", folder.path()).output().expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && output.stderr.is_empty(), "{text}");
    for part in ["file format: qcow2", "virtual size: 32 MiB", "No errors were found", "img --help"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(folder.names().is_empty(), "{:?}", folder.names());
    let version = folder.sectora("--version");
    assert!(String::from_utf8_lossy(&version.stdout).starts_with("sectora "));
    for line in ["--help", "img --help", "img info --help", "img convert -h"] {
        let output = folder.sectora(line);
        assert!(
            output.status.success() && output.stdout.starts_with(b"") && !output.stdout.is_empty()
        );
    }
    // The name it is called by decides, not where it lies.
    let version = Command::new(program()).arg0("/elsewhere/qemu-img").arg("--version").output();
    let text = version.expect("run").stdout;
    assert!(text.starts_with(b"qemu-img version 10.0.2"), "{}", String::from_utf8_lossy(&text));
}

pub(crate) fn unsupported() {
    let folder = Folder::new();
    folder.file("a.raw", 1 << 20, &[]);
    assert!(folder.sectora("img create -q -f qcow2 a.qcow2 1M").status.success());
    let names = folder.names();
    for line in [
        "img convert --bitmaps -O qcow2 a.qcow2 -",
        "img convert -c -O qcow2 a.raw -",
        "img create -f qcow2 nbd:localhost:1 1M",
        "img info https://host/disk",
    ] {
        let output = folder.sectora(line);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{line}: {text}");
        assert!(text.contains("not supported"), "{line}: {text}");
        assert_eq!(folder.names(), names, "{line}");
    }
}
