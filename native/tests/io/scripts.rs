//! Scripts written by hand.

use super::images::{Image, OVERLAY, Pair, RAW, text, words};
use libtest_mimic::Failed;
use std::process::Command;

/// A script a line, commands separated by ` ;; `.
const CASES: &str = include_str!("cases.txt");

/// Runs a script, given as one line, with these options.
fn script(pair: &Pair, options: &[&str], line: &str, problems: &mut Vec<String>) {
    let mut args = options.to_vec();
    for command in line.split(" ;; ") {
        args.extend(["-c", command]);
    }
    args.extend(["-f", pair.image.format, "disk"]);
    pair.agree(&args, "", true, problems);
}

pub(crate) fn written(image: Image) -> Vec<String> {
    let (pair, mut problems) = (Pair::new(image), Vec::new());
    for line in CASES.lines().filter(|line| !line.is_empty()) {
        // How words are read does not depend on the image; what happens to it does.
        let everywhere = line.contains(" ;; ");
        if (everywhere || image.name == "qcow2") && !told_apart(image, line) {
            script(&pair, &[], line, &mut problems);
        }
    }
    problems
}

/// Zeroes for a part of a cluster: where nothing is below, and it reads as zeroes already, the
/// reference marks it and we do nothing; where `-n` forbids bytes we change nothing, and the reference
/// what comes before. Version 2 has no mark.
fn told_apart(image: Image, line: &str) -> bool {
    let nothing_below = image.name == "qcow2" && line.starts_with("write -z 1M 10k");
    let part = line.starts_with("write -zn 1M 10k");
    part || nothing_below || (image.name == "version_2" && line.starts_with("write -zn"))
}

/// Options of the program, right and wrong.
pub(crate) fn command_lines() -> Vec<String> {
    let (pair, mut problems) = (Pair::new(RAW), Vec::new());
    for line in [
        "-c length",
        "-f raw disk -c length",
        "-f raw disk other",
        "-x",
        "--foo",
        "-c",
        "--ca",
        "-h",
        "--help",
        "nofile -c length",
        "-f foo disk -c length",
        "-f raw -t foo disk -c length",
        "-f raw -d foo disk -c length",
        "-f raw -i foo disk -c length",
        "-f raw -i threads disk -c length",
        "-f raw -k disk -c length",
        "-f raw -U disk -c length",
        "-f raw -U -r disk -c length",
        "-f raw -r disk -c length",
        "-f raw -m disk -c length",
        "-f raw -C -r disk -c length",
        "--cmd length --format raw disk",
        "--cmd=length --form=raw --read disk",
        "--image-opts=1 disk",
        "disk -c length",
        "-t unsafe -f raw disk -c length",
        "-t writethrough -f raw disk -c length",
        "/nonexistent/disk -c length",
        "--image-opts driver=raw,file.filename=disk -c length",
        "--image-opts driver=raw,size=1M,file.driver=file,file.filename=disk -c length -c info",
        "--image-opts driver=file,filename=disk -c length -c info",
        "--image-opts driver=raw,file.filename=disk,foo=1 -c length",
        "--image-opts driver=raw,file.filename=disk,read-only=on -c length",
        "-C --image-opts driver=raw,file.filename=disk,read-only=on -c length",
        "-s --image-opts driver=raw,file.filename=disk,read-only=on -c length",
        "-C -s --image-opts driver=raw,file.filename=disk,read-only=on -c length",
        "-C -s --image-opts driver=raw,file.filename=nofile,read-only=on -c length",
        "--image-opts driver=raw,file.filename=disk,force-share=on -c length",
        "--image-opts driver=raw,file.filename=nofile -c length",
        "--image-opts driver=nbd,path=/nonexistent -c length",
        "--image-opts disk -c length",
        "--image-opts -f raw file.filename=disk -c length",
        "--image-opts -r driver=raw,file.filename=disk -c length",
        "json:{'driver':'raw','file':{'driver':'file','filename':'disk'}} -c length",
        "-f raw json:{'driver':'qcow2','file':{'driver':'file','filename':'disk'}} -c length",
        "json:{ -c length",
        "--object secret,id=a,data=x -f raw disk -c length",
        "--object secret,id=a -f raw disk -c length",
        "--object secret_keyring,id=a -f raw disk -c length",
        "--object secret_keyring,id=a,serial=1 -f raw disk -c length",
        "--object secret_keyring,id=a,serial=-1 -f raw disk -c length",
        "--object secret_keyring,id=a,serial=0 -f raw disk -c length",
        "--object secret_keyring,id=a,serial=x -f raw disk -c length",
        "--object secret_keyring,id=a,serial=99999999999 -f raw disk -c length",
        "--object secret_keyring,id=a,serial=1,data=x -f raw disk -c length",
        "--object foo,id=a -f raw disk -c length",
        "-T foo -f raw disk -c length",
        "--trace=enable=foo,file=log -f raw disk -c length",
        "nbd:unix:/nonexistent -c length",
    ] {
        pair.agree(&words(line), "", true, &mut problems);
    }
    for commands in [
        &["open", "open -r", "open -o driver=foo disk", "open -o driver=raw,foo=1 disk"][..],
        &["open -t x disk", "open -d x disk", "open -i x disk", "open nofile", "open -U disk"],
        &["open -k disk", "open -r -o driver=raw disk", "length", "close", "length"],
        &["open -o driver=raw,file.filename=disk", "open disk", "info", "close", "close"],
        &["open -o driver=raw,read-only=on disk", "write 0 1"],
        &["open -x", "open -s -o driver=raw disk", "write 0 1k", "read -P 0xcd 0 1k"],
        &["open -o driver=raw,size=1M disk", "length", "reopen -o size=2M", "length"],
        &["open -o driver=raw,file.filename=disk disk", "open -o driver=qcow2", "open -o disk"],
        &["open -o driver", "open -o driver=raw,discard=foo disk", "open -o driver=file disk"],
        &["open -r -o driver=raw,offset=1M disk", "length", "reopen -o size=64k", "length"],
        &["open -o driver=raw disk", "reopen -o size=1M", "reopen -o offset=1M", "length"],
        &["open -o driver=raw disk", "reopen -o size=99M", "length", "reopen -o size=x", "length"],
        &["open -o driver=raw disk", "reopen -o foo=1", "reopen -o driver=qcow2", "length"],
        &["open -o driver=raw disk", "reopen -o driver=raw", "reopen -o node-name=x", "length"],
        &["open -o driver=raw disk", "reopen -o file.filename=x", "reopen -o file=x", "length"],
        &["open -o driver=raw disk", "reopen -o discard=foo", "reopen -o discard", "length"],
        &["open -o driver=raw disk", "reopen -o detect-zeroes=foo", "write -P 0 1M 64k"],
        &["open -r -o driver=raw disk", "reopen -o read-only=off", "write 0 512", "length"],
        &["open -o driver=raw disk", "reopen -c none -o cache.direct=on", "reopen -o a -r"],
        &["open -o driver=raw,discard=unmap disk", "discard 1M 64k", "read -P 0 1M 64k"],
    ] {
        let args: Vec<&str> = commands.iter().flat_map(|command| ["-c", *command]).collect();
        pair.agree(&args, "", true, &mut problems);
    }
    problems
}

pub(crate) fn piped() -> Vec<String> {
    let (pair, mut problems) = (Pair::new(OVERLAY), Vec::new());
    for input in [
        "",
        "\n\n",
        "length\nfoo\nlength",
        "quit\nlength\n",
        "# comment\n  length  \nread\t0\t512\n\"length\"\n",
        "aio_read 0 1k\naio_flush\nread -P 7 0 1k\n",
        "write 0 1k\nread -v 0 20\nmap\n",
        "abort\n",
        "write -P 5 0 64k\nflush\nquit\n",
    ] {
        pair.agree(&["-f", "qcow2", "disk"], input, true, &mut problems);
    }
    problems
}

pub(crate) fn discards() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [RAW, OVERLAY] {
        let pair = Pair::new(image);
        for mode in ["ignore", "off", "unmap", "on"] {
            for line in ["discard 0 1M ;; map", "write -zu 0 1M ;; map", "discard 100k 300k"] {
                script(&pair, &["-d", mode], line, &mut problems);
            }
        }
    }
    problems
}

pub(crate) fn snapshot() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [RAW, OVERLAY] {
        let pair = Pair::new(image);
        for line in [
            "write -P 9 100 5000 ;; read -P 9 100 5000 ;; info ;; length",
            "map ;; alloc 0 1M ;; write 256k 64k ;; map",
            "read -P 7 200k 70k ;; discard 0 1M ;; map",
        ] {
            script(&pair, &["-s"], line, &mut problems);
        }
        script(&pair, &["-s", "-r"], "write 0 1 ;; read 0 1k", &mut problems);
    }
    problems
}

pub(crate) fn copy_on_read() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [RAW, OVERLAY] {
        let pair = Pair::new(image);
        for line in [
            "read 100 64k ;; map",
            "read 3M 64k ;; map",
            "read 1000k 200k ;; map",
            "read 0 4M ;; map",
            "read 190k 100k ;; map",
            "aio_read 0 1k ;; aio_flush ;; map ;; write -P 4 0 512 ;; read -P 4 0 512",
        ] {
            script(&pair, &["-C"], line, &mut problems);
        }
    }
    problems
}

/// What this program does not do it says, and fails.
pub(crate) fn unsupported() -> Result<(), Failed> {
    let pair = Pair::new(RAW);
    for (args, wanted) in [
        (
            &["--object", "tls-creds-psk,id=a,dir=/", "disk"],
            "--object tls-creds-psk is not supported",
        ),
        (&["--object", "tls-creds-anon,id=a", "disk"], "--object tls-creds-anon is not supported"),
    ] {
        let done = Command::new(pair.path("bin/qemu-io")).args(args).output()?;
        let said = text(&done.stderr);
        if done.status.code() != Some(1) || !said.contains(wanted) {
            return Err(format!("{args:?}: {} {said}", done.status).into());
        }
    }
    let source = pair.path("source/disk");
    let disk = source.to_str().ok_or("a name")?;
    for (command, wanted) in [
        ("wait_break a", "Could not wait for breakpoint: Operation not supported"),
        ("read -b 0 512", "read failed: Operation not supported"),
        ("write -b 0 512", "write failed: Operation not supported"),
    ] {
        let done = Command::new(env!("CARGO_BIN_EXE_sectora"))
            .args(["io", "-f", "raw", "-c", command, disk])
            .output()?;
        let said = text(&done.stdout);
        if done.status.code() != Some(1) || !said.contains(wanted) {
            return Err(format!("{command}: {} {said}", done.status).into());
        }
    }
    Ok(())
}
