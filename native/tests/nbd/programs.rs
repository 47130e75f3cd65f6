//! The program beside qemu-nbd: the same command lines, output, messages and exit status.

use super::setup::{folder, ours, output, start, start_in, succeed, text};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

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
    for name in ["a", "b"] {
        succeed(folder, "qemu-img", &["create", "-q", "-f", "qcow2", name, "1M"]);
    }
    succeed(folder, "qemu-img", &["bitmap", "--add", "a", "known"]);
    succeed(folder, "qemu-img", &["bitmap", "--add", "b", "broken"]);
    // Ends without storing what it has recorded.
    assert!(
        !output(folder, "qemu-io", &["-c", "write 0 64k", "-c", "abort", "b"]).status.success()
    );
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
        "--image-opts driver=qcow2",
        "--image-opts driver=foo,file.filename=a",
        "--image-opts driver=qcow2,file.filename=nofile",
        "--image-opts driver=qcow2,file.filename=a,foo=1",
        "--image-opts driver=nbd,path=/nonexistent",
        "--image-opts file.filename=a,read-only=on",
        "--image-opts driver=raw,offset=1M,size=1M,file.filename=a",
        "json:{",
        "-B nope -f qcow2 a",
        "-B nope -r --image-opts driver=qcow2,file.filename=a",
        "-B nope -l x -f qcow2 a",
        "-B known -o 512 -f qcow2 a",
        "-B broken -f qcow2 b",
        "-B broken -r -f qcow2 b",
        "-L -B known",
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
        "-c /nonexistent/nbd0 a --selinux-label=x",
        "-c /nonexistent/nbd0 -d nofile --selinux-label=x",
        "-c /nonexistent/nbd0 nofile",
        "-c /nonexistent/nbd0 -f qcow2 a",
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

/// Bitmaps as contexts, found by both programs' clients on both programs' servers.
pub(crate) fn bitmaps() {
    let folder = folder();
    let folder = folder.path();
    let socket = folder.join("s");
    let name = text(&socket);
    let img = ours(folder, "qemu-img");
    let theirs = std::path::PathBuf::from("qemu-img");
    let run = |args: &[&str]| succeed(folder, "qemu-img", args);
    run(&["create", "-q", "-f", "qcow2", "base", "4M"]);
    run(&["bitmap", "--add", "base", "coarse"]);
    run(&["bitmap", "--add", "-g", "512", "base", "fine"]);
    succeed(folder, "qemu-io", &["-f", "qcow2", "-c", "write 1M 64k", "-c", "write 3M 5k", "base"]);
    run(&["snapshot", "-c", "before", "base"]);
    run(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "over"]);
    for how in [
        "-r -f qcow2 base",
        "-r -A -x name -f qcow2 over",
        "-r -l before -f qcow2 base",
        "-s -f qcow2 base",
        "-f qcow2 base",
        "--image-opts -r driver=qcow2,file.driver=file,file.filename=over",
    ] {
        let export = if how.contains("name") { "name" } else { "" };
        let at = format!("driver=nbd,server.type=unix,server.path={name},export={export}");
        let fine = format!("{at},x-dirty-bitmap=qemu:dirty-bitmap:fine");
        let coarse = format!("{at},x-dirty-bitmap=qemu:dirty-bitmap:coarse");
        let child = format!(
            "json:{{'driver':'raw','file':{{'driver':'nbd','path':'{name}','export':'{export}',\
             'x-dirty-bitmap':'qemu:dirty-bitmap:fine'}}}}"
        );
        let asks = [
            vec!["info", "--image-opts", &at],
            vec!["map", "--output=json", "--image-opts", &at],
            vec!["map", "--output=json", "--image-opts", &fine],
            vec!["map", "--output=json", "--image-opts", &coarse],
            vec!["map", "--image-opts", &fine],
            vec!["map", "--output=json", &child],
        ];
        let mut answers = Vec::new();
        for program in ["qemu-nbd".into(), link(folder)] {
            let words: Vec<&str> = how.split(' ').collect();
            let first = ["-t", "-e", "0", "-B", "fine", "-B", "coarse", "-k", &name];
            let args = [&first[..], &words[..]];
            let mut command = std::process::Command::new(&program);
            let server = start_in(folder, &mut command, &args.concat(), &socket);
            let mut said = vec![succeed(folder, "qemu-nbd", &["-L", "-k", &name])];
            for ask in &asks {
                let (a, b) = (output(folder, &theirs, ask), output(folder, &img, ask));
                assert_eq!(
                    String::from_utf8_lossy(&b.stdout),
                    String::from_utf8_lossy(&a.stdout),
                    "{program:?} {how} {ask:?} {}",
                    String::from_utf8_lossy(&b.stderr)
                );
                assert_eq!(b.status.code(), a.status.code(), "{program:?} {how} {ask:?}");
                said.push(String::from_utf8_lossy(&a.stdout).into_owned());
            }
            answers.push(said);
            // A server that is killed leaves bitmaps that nobody can use.
            server.end();
            let _ = std::fs::remove_file(&socket);
        }
        assert_eq!(answers[1], answers[0], "{how}");
    }
}

/// What is written through a server is recorded, shown and kept.
pub(crate) fn recorded() {
    let folder = folder();
    let folder = folder.path();
    let socket = folder.join("s");
    let name = text(&socket);
    succeed(folder, "qemu-img", &["create", "-q", "-f", "qcow2", "a", "4M"]);
    succeed(folder, "qemu-img", &["bitmap", "--add", "a", "b"]);
    let image = text(&folder.join("a"));
    let args = ["-t", "-e", "0", "-B", "b", "-f", "qcow2", "-k", &name, &image];
    let server = start(link(folder), &args, &socket);
    let at = format!("driver=nbd,path={name}");
    succeed(folder, "qemu-io", &["--image-opts", &at, "-c", "write 1M 64k"]);
    let ask = format!("{at},x-dirty-bitmap=qemu:dirty-bitmap:b");
    let map = ["map", "--output=json", "--image-opts", &ask];
    let live = succeed(folder, "qemu-img", &map);
    assert!(
        live.contains("\"start\": 1048576, \"length\": 65536, \"depth\": 0, \"present\": false")
    );
    // A signal ends the server as an end does: what was recorded is stored.
    server.end();
    succeed(folder, "qemu-img", &["check", "-q", "a"]);
    let _ = std::fs::remove_file(&socket);
    let args = ["-r", "-t", "-e", "0", "-B", "b", "-f", "qcow2", "-k", &name, &image];
    let _server = start("qemu-nbd", &args, &socket);
    assert_eq!(succeed(folder, "qemu-img", &map), live);
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

/// A server whose replies come through a hand that holds some up, and ends the connection after
/// `replies` reads of 4 KiB.
fn relayed(folder: &Path, replies: usize) -> std::path::PathBuf {
    let (front, back) = (folder.join("front"), folder.join("back"));
    // Of an earlier relay, where there is one.
    let _ = std::fs::remove_file(&front);
    let listener = UnixListener::bind(&front).expect("a socket");
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut server = UnixStream::connect(&back).expect("the server");
        let (mut requests, mut ahead) = (
            client.try_clone().expect("the same stream"),
            server.try_clone().expect("the same stream"),
        );
        std::thread::spawn(move || std::io::copy(&mut requests, &mut ahead));
        let mut buffer = vec![0; 64 << 10];
        let (mut passed, mut held) = (0, 0);
        while let Ok(n @ 1..) = server.read(&mut buffer) {
            passed += n;
            // Around the time that a client waits in place, and well beyond it.
            let replied = passed / 4096;
            if replied > held && replied.is_multiple_of(13) {
                held = replied;
                let pauses = [20, 60, 1000, 15_000, 60_000];
                std::thread::sleep(Duration::from_micros(pauses[replied % pauses.len()]));
            }
            if replied >= replies || client.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        // The other thread has them as well. Either may have gone.
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
    });
    front
}

/// Requests that come one by one wait in place for a while only, and see the end of a connection.
pub(crate) fn late() {
    let folder = folder();
    let folder = folder.path();
    std::fs::write(folder.join("disk"), vec![7; 1 << 20]).expect("a disk");
    let (nbd, img) = (ours(folder, "qemu-nbd"), ours(folder, "qemu-img"));
    let back = folder.join("back");
    let args = ["-t", "-r", "-e", "0", "-k", &text(&back), "-f", "raw", "disk"];
    let _server = start_in(folder, &mut std::process::Command::new(nbd), &args, &back);
    let bench = |replies: usize| {
        let name = format!("nbd+unix:///?socket={}", text(&relayed(folder, replies)));
        output(folder, &img, &["bench", "-f", "raw", "-c", "400", "-d", "1", &name])
    };
    let whole = bench(usize::MAX);
    let said = String::from_utf8_lossy(&whole.stderr);
    assert!(whole.status.success(), "{said}");
    assert_eq!(said, "");
    let cut = bench(200);
    let said = String::from_utf8_lossy(&cut.stderr);
    assert_eq!(cut.status.code(), Some(1), "{said}");
    assert!(said.contains("Failed request"), "{said}");
}
