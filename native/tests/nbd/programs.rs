//! The program beside qemu-nbd: the same command lines, output, messages and exit status.

use super::setup::{folder, ours, output, start, succeed, text};
use std::path::Path;

fn same(folder: &Path, args: &[&str]) {
    let theirs = output(folder, "qemu-nbd", args);
    let ours = output(folder, link(folder), args);
    assert_eq!(ours.status.code(), theirs.status.code(), "{args:?} {ours:?} {theirs:?}");
    let error = |o: &std::process::Output| String::from_utf8_lossy(&o.stderr).into_owned();
    assert_eq!(error(&ours), error(&theirs), "{args:?}");
    let out = |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).into_owned();
    assert_eq!(out(&ours), out(&theirs), "{args:?}");
}

/// A link whose name is the program's, as its file stem says.
fn link(folder: &Path) -> std::path::PathBuf {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).expect("a folder");
    ours(&bin, "qemu-nbd")
}

pub(crate) fn messages() {
    let folder = folder();
    let folder = folder.path();
    succeed(folder, "qemu-img", &["create", "-q", "-f", "qcow2", "a", "1M"]);
    for args in [
        "",
        "a b",
        "-L -x foo",
        "-L --fork",
        "-L a",
        "-e -1 a",
        "-e x a",
        "--cache=foo a",
        "--cache=none -n a",
        "-d",
        "-d a b",
        "-d /nonexistent/nbd0",
        "-c /nonexistent/nbd0 a",
        "--bogus",
        "-P 1 a",
        "-f foo a",
        "nonexistent",
        "-l x -f qcow2 a",
        "-l snapshot.foo=1 a",
        "--discard=x a",
        "--discard=ignore --discard=unmap a",
        "--detect-zeroes=x a",
        "--detect-zeroes=unmap a",
        "--aio=x a",
        "--aio=threads --aio=native a",
        "-o 1x a",
        "-o -1 a",
        "-o 99999999999 a",
        "--tls-creds=x a",
        "--tls-hostname=x a",
        "--tls-authz=x a",
        "-f qcow2 --image-opts a",
        "--image-opts a",
        "-k relative a",
        "-k",
        "-k /nonexistent/socket -f qcow2 a",
        "--handshake-limit=x a",
        "--object foo,id=x a",
        "--object secret a",
        "--object tls-creds-x509,id=t --tls-creds t a",
        "--object tls-creds-x509,id=t,dir=/nonexistent,endpoint=server --tls-creds t a",
        "-p x -f qcow2 a",
        "-L -k /nonexistent/socket",
        "--selinux-label=x a",
        "--fork --pid-file=/nonexistent/pid -f qcow2 -k /nonexistent/socket a",
    ] {
        let args: Vec<&str> = args.split_whitespace().collect();
        let theirs = output(folder, "qemu-nbd", &args);
        let ours = output(folder, link(folder), &args);
        let error = |o: &std::process::Output| String::from_utf8_lossy(&o.stderr).into_owned();
        assert_eq!(error(&ours), error(&theirs), "{args:?}");
        assert_eq!(ours.status.code(), theirs.status.code(), "{args:?}");
        assert_eq!(ours.stdout, theirs.stdout, "{args:?}");
    }
}

pub(crate) fn lists() {
    let folder = folder();
    let folder = folder.path();
    let socket = folder.join("s");
    let name = text(&socket);
    std::fs::write(folder.join("raw"), vec![1; 1 << 20]).expect("an image");
    let image = text(&folder.join("raw"));
    let list = ["-L", "-k", &name];
    let qemu: [&[&str]; 3] = [
        &["-f", "raw", "-r", "-e", "0"],
        &["-f", "raw", "-A", "-x", "name", "-D", "what it is"],
        &["-f", "raw", "-o", "4096", "-e", "2"],
    ];
    for how in qemu {
        let args = [how, &["-t", "-k", &name, &image]].concat();
        let mut lists = Vec::new();
        for program in ["qemu-nbd".into(), link(folder)] {
            let server = start(program, &args, &socket);
            same(folder, &list);
            lists.push(succeed(folder, "qemu-nbd", &list));
            drop(server);
            let _ = std::fs::remove_file(&socket);
        }
        assert_eq!(lists[1], lists[0], "{how:?}");
    }
    for how in [&[][..], &["--no-sr"], &["--oldstyle"], &["--mask-handshake=0"]] {
        let args = [&["-f", "-U", &name], how, &["memory", "1M"]].concat();
        let _server = start("nbdkit", &args, &socket);
        same(folder, &list);
        let _ = std::fs::remove_file(&socket);
    }
}

pub(crate) fn images() {
    let folder = folder();
    let folder = folder.path();
    let socket = folder.join("s");
    let img = ours(folder, "qemu-img");
    succeed(folder, "qemu-img", &["create", "-q", "-f", "qcow2", "base", "4M"]);
    let base = text(&folder.join("base"));
    let name = text(&socket);
    // The bytes of the qcow2 file itself are exported: a format over NBD.
    let args = ["-f", "raw", "-t", "-e", "0", "-r", "-k", &name, &base];
    let _server = start("qemu-nbd", &args, &socket);
    let uri = format!("nbd+unix://?socket={name}");
    let legacy = format!("nbd:unix:{name}");
    succeed(
        folder,
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-b", &uri, "-F", "qcow2", "overlay"],
    );
    for args in [
        vec!["info", &uri],
        vec!["info", &legacy],
        vec!["info", "--output=json", &uri],
        vec!["info", "--backing-chain", "overlay"],
        vec!["map", "--output=json", "overlay"],
        vec!["map", "--output=json", "-f", "raw", &uri],
        vec!["check", &uri],
        vec!["compare", &uri, "overlay"],
        vec!["measure", "-O", "qcow2", &uri],
    ] {
        let theirs = output(folder, "qemu-img", &args);
        let ours = output(folder, &img, &args);
        let out = |o: &std::process::Output| String::from_utf8_lossy(&o.stdout).into_owned();
        assert_eq!(
            out(&ours),
            out(&theirs),
            "{args:?}: {:?}",
            String::from_utf8_lossy(&ours.stderr)
        );
        assert_eq!(ours.status.code(), theirs.status.code(), "{args:?}");
    }
    succeed(folder, &img, &["convert", "-O", "qcow2", &uri, "copy"]);
    succeed(folder, "qemu-img", &["compare", "-q", "copy", &uri]);
}
