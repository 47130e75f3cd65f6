//! Commands on exports, to the reference and to ours: what is wrong with them, and in which order it is
//! found.

use super::monitor::Monitor;
use super::setup::{Place, run};
use super::virtio::{self, Guest, Wanted};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

/// Commands in turn; `@` is the folder of the daemon.
fn script() -> Vec<(&'static str, Value)> {
    let unix = |name: &str| json!({ "type": "unix", "path": format!("@/{name}") });
    let legacy = |name: &str| json!({ "type": "unix", "data": { "path": format!("@/{name}") } });
    let add = |kind: &str, more: Value| {
        let mut options = json!({ "type": kind, "id": "e", "node-name": "d" });
        let map = options.as_object_mut().expect("an object");
        map.extend(more.as_object().expect("an object").clone());
        options
    };
    let vhost = |mut more: Value| {
        if more.get("addr").is_none() {
            more["addr"] = unix("v");
        }
        add("vhost-user-blk", more)
    };
    let fuse = |mut more: Value| {
        if more.get("mountpoint").is_none() {
            more["mountpoint"] = "@/mountpoint".into();
        }
        add("fuse", more)
    };
    let del = || json!({ "id": "e" });
    let mut all: Vec<(&str, Value)> = vec![
        ("query-block-exports", json!({})),
        ("query-block-exports", json!({ "x": 1 })),
        ("nbd-server-stop", json!({})),
        ("block-export-add", add("nbd", json!({}))),
        ("block-export-add", add("nbd", json!({ "name": "x" }))),
        ("nbd-server-start", json!({ "addr": { "type": "fd", "data": { "str": "3" } } })),
        ("nbd-server-start", json!({ "addr": { "type": "fd", "data": { "str": "x" } } })),
        ("nbd-server-start", json!({ "addr": legacy("nope/n") })),
        ("nbd-server-start", json!({ "addr": legacy("n"), "tls-creds": "t" })),
        ("nbd-server-start", json!({ "addr": legacy("n"), "max-connections": -1 })),
        ("nbd-server-start", json!({ "addr": { "type": "zz", "data": {} } })),
        ("nbd-server-start", json!({ "addr": legacy("n") })),
        ("nbd-server-start", json!({ "addr": legacy("n") })),
        ("block-export-add", add("nbd", json!({ "id": "1" }))),
        ("block-export-add", add("nbd", json!({ "id": "" }))),
        ("block-export-add", add("nbd", json!({ "node-name": "zz" }))),
        ("block-export-add", add("nbd", json!({ "iothread": "zz" }))),
        ("block-export-add", add("nbd", json!({ "fixed-iothread": true, "iothread": "zz" }))),
        ("block-export-add", add("nbd", json!({ "writable": true, "node-name": "r" }))),
        ("block-export-add", add("nbd", json!({ "bitmaps": ["zz"] }))),
        ("block-export-add", add("nbd", json!({ "bitmaps": [{ "node": "zz", "name": "b" }] }))),
        ("block-export-add", add("nbd", json!({ "description": "x".repeat(5000) }))),
        ("block-export-add", add("nbd", json!({ "name": "x".repeat(5000) }))),
        ("block-export-add", add("nbd", json!({ "name": 1 }))),
        (
            "block-export-add",
            add("nbd", json!({ "iothread": "zz", "node-name": "r", "writable": true })),
        ),
        ("block-export-add", vhost(json!({ "num-queues": 0, "allow-inactive": true }))),
        (
            "block-export-add",
            vhost(json!({ "node-name": "r", "writable": true, "allow-inactive": true })),
        ),
        ("block-export-add", add("nbd", json!({ "mountpoint": "x" }))),
        ("block-export-add", add("zz", json!({}))),
        ("block-export-add", json!({ "type": "nbd", "id": "e" })),
        ("block-export-add", add("nbd", json!({ "iothread": "io", "fixed-iothread": true }))),
        ("block-export-add", add("nbd", json!({}))),
        ("block-export-add", add("nbd", json!({ "id": "f" }))),
        (
            "block-export-add",
            add("nbd", json!({ "id": "f", "name": "other", "fixed-iothread": true })),
        ),
        ("query-block-exports", json!({})),
        ("block-export-del", json!({ "id": "zz" })),
        ("block-export-del", json!({ "id": "e", "mode": "soft" })),
        ("block-export-del", json!({})),
        ("block-export-del", json!({ "id": "f", "mode": "hard" })),
        ("block-export-del", del()),
        ("block-export-del", del()),
        ("nbd-server-add", json!({ "device": "zz" })),
        ("nbd-server-add", json!({ "device": "d", "name": "1 x" })),
        ("nbd-server-add", json!({ "device": "d" })),
        ("nbd-server-add", json!({ "device": "d" })),
        ("nbd-server-add", json!({ "device": "d", "name": "two", "bitmap": "zz" })),
        ("nbd-server-add", json!({ "device": "r", "name": "two", "writable": true })),
        ("query-block-exports", json!({})),
        ("nbd-server-remove", json!({ "name": "zz" })),
        ("nbd-server-remove", json!({ "name": "two", "mode": "safe" })),
        ("block-export-add", vhost(json!({ "num-queues": 0 }))),
        ("block-export-add", vhost(json!({ "num-queues": 70000 }))),
        ("block-export-add", vhost(json!({ "logical-block-size": 511 }))),
        ("block-export-add", vhost(json!({ "logical-block-size": 4_194_304 }))),
        ("block-export-add", vhost(json!({ "logical-block-size": 1, "num-queues": 0 }))),
        ("block-export-add", vhost(json!({ "addr": { "type": "fd", "str": "9" } }))),
        ("block-export-add", vhost(json!({ "addr": { "type": "fd", "str": "x" } }))),
        (
            "block-export-add",
            vhost(json!({ "addr": { "type": "vsock", "cid": "1", "port": "1" } })),
        ),
        (
            "block-export-add",
            vhost(json!({ "addr": { "type": "inet", "host": "localhost", "port": "1" } })),
        ),
        ("block-export-add", vhost(json!({ "addr": { "type": "unix", "path": "@/no/v" } }))),
        (
            "block-export-add",
            vhost(json!({ "addr": unix("v"), "node-name": "r", "writable": true })),
        ),
        ("block-export-add", json!({ "type": "vhost-user-blk", "id": "e", "node-name": "d" })),
        ("block-export-add", vhost(json!({ "allow-inactive": true }))),
        ("block-export-add", vhost(json!({}))),
        ("block-export-add", fuse(json!({}))),
        ("block-export-del", del()),
        ("block-export-add", fuse(json!({ "mountpoint": "@" }))),
        ("block-export-add", fuse(json!({ "mountpoint": "@/nope" }))),
        ("block-export-add", fuse(json!({ "mountpoint": "" }))),
        ("block-export-add", fuse(json!({ "allow-other": "maybe" }))),
        ("block-export-add", fuse(json!({ "growable": 1 }))),
        ("block-export-add", fuse(json!({ "node-name": "r", "writable": true }))),
        ("block-export-add", fuse(json!({ "allow-inactive": true }))),
        ("block-export-add", json!({ "type": "fuse", "id": "e", "node-name": "d" })),
        ("block-export-add", json!({ "type": "vduse-blk", "id": "e", "node-name": "d" })),
        ("block-export-add", add("nbd", json!({ "allow-inactive": true, "name": "third" }))),
    ];
    all.push(("block-export-del", del()));
    all.push(("nbd-server-stop", json!({})));
    all.push(("nbd-server-stop", json!({})));
    all.push(("query-block-exports", json!({})));
    all
}

/// What was asked, and what was said: events, then the answer.
fn answers(place: &Place, program: usize) -> Vec<(String, Value)> {
    let folder = place.path(["ours", "theirs"][program]);
    std::fs::create_dir(&folder).expect("a folder");
    for name in ["disk", "mountpoint"] {
        let file = std::fs::File::create(format!("{folder}/{name}")).expect("a file");
        file.set_len(if name == "disk" { 1 << 20 } else { 0 }).expect("a length");
    }
    let mut monitor = Monitor::start(&place.both()[program], &format!("{folder}/qmp"));
    let disk = format!("{folder}/disk");
    monitor.done("blockdev-add", json!({ "driver": "file", "node-name": "d", "filename": disk }));
    let read_only = json!({
        "driver": "null-co", "node-name": "r", "size": 4096, "read-only": true
    });
    monitor.done("blockdev-add", read_only);
    monitor.done("object-add", json!({ "qom-type": "iothread", "id": "io" }));
    let mut out = Vec::new();
    for (command, arguments) in script() {
        let text = arguments.to_string().replace('@', &folder);
        let arguments = serde_json::from_str(&text).expect("JSON");
        let (events, answer) = monitor.ask_with_events(command, arguments);
        for line in events.iter().chain([&answer]) {
            let mut line = line.clone();
            line.as_object_mut().expect("an object").remove("timestamp");
            let said = line.to_string().replace(&folder, "@");
            let said = serde_json::from_str(&said).expect("JSON");
            let mut asked = format!("{command} {text}").replace(&folder, "@");
            asked.truncate(300);
            out.push((asked, said));
        }
    }
    monitor.quit();
    out
}

pub(crate) fn commands() {
    let place = Place::new();
    let [ours, theirs] = [0, 1].map(|program| answers(&place, program));
    let different: Vec<String> = ours
        .iter()
        .zip(&theirs)
        .filter(|(got, want)| got != want)
        .map(|(got, want)| {
            let what = format!("{}\nours   {}\n", got.0, got.1);
            format!("{what}{}\ntheirs {}", if got.0 == want.0 { "" } else { &want.0 }, want.1)
        })
        .collect();
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert_eq!(ours.len(), theirs.len());
}

/// Options of the command line, whose descriptors are those of the process.
pub(crate) fn line() {
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::write(&disk, vec![0; 4096]).expect("a file");
    let blockdev = format!("file,node-name=d,filename={disk}");
    let cases = [
        "--nbd-server=addr.type=fd,addr.str=x",
        "--nbd-server=addr.type=fd,addr.str=77",
        "--nbd-server=addr.type=fd,addr.str=-1",
        "--nbd-server=addr.type=fd,addr.str=1",
        "--nbd-server=addr.type=unix,addr.path=/nope/x",
        "--nbd-server=addr.type=zz",
        "--export=vhost-user-blk,id=e,node-name=d,addr.type=fd,addr.str=1",
        "--export=vhost-user-blk,id=e,node-name=d,addr.type=fd,addr.str=x",
        "--export=vhost-user-blk,id=e,node-name=d,addr.type=inet,addr.host=a,addr.port=1",
        "--export=vhost-user-blk,id=e,node-name=d,addr.type=unix",
        "--export=fuse,id=e,node-name=d,mountpoint=/nope",
        "--export=fuse,id=e,node-name=d,mountpoint=/",
    ];
    for case in cases {
        let [got, want] = place.both().map(|program| {
            let output = run(&program, &["--blockdev", &blockdev, case], b"");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        });
        assert_eq!(got.0, want.0, "{case}");
        let tail = |text: &str| text.split_once("--").map(|(_, rest)| rest.to_owned());
        assert_eq!(tail(&got.1), tail(&want.1), "{case}");
    }
}

/// A client of NBD that holds an export open.
struct Client(std::process::Child);

impl Client {
    fn new(socket: &str, name: &str) -> Self {
        let uri = format!("nbd+unix:///{name}?socket={socket}");
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw", "-r", &uri]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = Self(command.spawn().expect("a process"));
        assert!(client.read().contains("read 512/512"), "it is served");
        client
    }

    /// Reads a sector; what it says about it.
    fn read(&mut self) -> String {
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(b"read 0 512\n").expect("it listens");
        let mut all = Vec::new();
        let mut byte = [0];
        let stdout = self.0.stdout.as_mut().expect("a pipe");
        while !all.ends_with(b"\n") && stdout.read(&mut byte).is_ok_and(|n| n == 1) {
            all.push(byte[0]);
            // The second line of a success comes with it.
            if all.ends_with(b"offset 0\n") {
                all.pop();
            }
        }
        String::from_utf8(all).expect("ASCII")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Exports that have clients: who keeps them, and who does not.
pub(crate) fn clients() {
    let place = Place::new();
    let said = [0, 1].map(|program| {
        let name = ["a", "b"][program];
        let path = place.path(&format!("{name}.qmp"));
        let mut monitor = Monitor::start(&place.both()[program], &path);
        let disk =
            json!({ "driver": "null-co", "node-name": "d", "size": 65536, "read-zeroes": true });
        monitor.done("blockdev-add", disk);
        let socket = place.path(&format!("{name}.sock"));
        let address = json!({ "type": "unix", "data": { "path": socket } });
        monitor.done("nbd-server-start", json!({ "addr": address }));
        for (id, name) in [("e", "d"), ("f", "other")] {
            let options = json!({ "type": "nbd", "id": id, "node-name": "d", "name": name });
            monitor.done("block-export-add", options);
        }
        let mut client = Client::new(&socket, "d");
        let mut said = Vec::new();
        let mut ask = |monitor: &mut Monitor, command: &str, arguments: Value| {
            let mut answer = monitor.ask(command, arguments);
            // What the lists say, without their texts of errors that are told elsewhere.
            answer.as_object_mut().expect("an object").remove("timestamp");
            said.push(answer);
        };
        ask(&mut monitor, "block-export-del", json!({ "id": "e" }));
        ask(&mut monitor, "nbd-server-remove", json!({ "name": "e", "mode": "safe" }));
        ask(&mut monitor, "query-block-exports", json!({}));
        ask(&mut monitor, "block-export-del", json!({ "id": "e", "mode": "hard" }));
        assert_eq!(monitor.event("BLOCK_EXPORT_DELETED")["data"], json!({ "id": "e" }));
        ask(&mut monitor, "query-block-exports", json!({}));
        ask(&mut monitor, "block-export-del", json!({ "id": "e", "mode": "hard" }));
        assert!(client.read().contains("read failed: Input/output error"));
        // The server takes clients along, and then the node is free.
        let other = Client::new(&socket, "other");
        ask(&mut monitor, "nbd-server-stop", json!({}));
        assert_eq!(monitor.event("BLOCK_EXPORT_DELETED")["data"], json!({ "id": "f" }));
        ask(&mut monitor, "query-block-exports", json!({}));
        ask(&mut monitor, "blockdev-del", json!({ "node-name": "d" }));
        drop(other);
        monitor.quit();
        said
    });
    assert_eq!(said[0], said[1]);
}

/// An authority, and certificates of a server and a client, in `folder`.
fn certificates(folder: &Path) {
    let openssl = |args: &str| {
        let mut command = Command::new("openssl");
        command.args(args.split_whitespace()).current_dir(folder).stderr(Stdio::null());
        assert!(command.status().expect("a process").success(), "openssl {args}");
    };
    let key = "ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 -newkey {key} -days 30 -keyout ca-key.pem -out ca-cert.pem -subj /CN=authority \
         -addext keyUsage=critical,keyCertSign"
    ));
    for (who, subject, use_) in [
        ("server", "/CN=localhost", "serverAuth\nsubjectAltName=DNS:localhost"),
        ("client", "/O=Example/CN=laptop", "clientAuth"),
    ] {
        let text = format!(
            "extendedKeyUsage={use_}\nkeyUsage=digitalSignature\nbasicConstraints=CA:FALSE\n"
        );
        std::fs::write(folder.join("extensions"), text).expect("a file");
        openssl(&format!("req -newkey {key} -keyout {who}-key.pem -out {who}.csr -subj {subject}"));
        openssl(&format!(
            "x509 -req -in {who}.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 30 \
             -out {who}-cert.pem -extfile extensions"
        ));
    }
}

/// Encryption, and who is let in: the reference's client at both daemons.
pub(crate) fn encrypted() {
    let place = Place::new();
    let folder = place.folder.path();
    certificates(folder);
    let dir = folder.to_str().expect("a path in UTF-8");
    let client = format!("tls-creds-x509,id=t,dir={dir},endpoint=client");
    for (identity, allowed) in [("O=Example,CN=laptop", true), ("CN=laptop", false)] {
        for program in [0, 1] {
            let path = place.path("qmp");
            let mut monitor = Monitor::start(&place.both()[program], &path);
            let credentials = json!({
                "qom-type": "tls-creds-x509", "id": "t", "dir": dir, "endpoint": "server",
                "verify-peer": true
            });
            monitor.done("object-add", credentials);
            let who = json!({ "qom-type": "authz-simple", "id": "a", "identity": identity });
            monitor.done("object-add", who);
            let disk = json!({ "driver": "null-co", "node-name": "d", "size": 65536 });
            monitor.done("blockdev-add", disk);
            let socket = place.path("socket");
            monitor.done(
                "nbd-server-start",
                json!({
                    "addr": { "type": "unix", "data": { "path": socket } },
                    "tls-creds": "t", "tls-authz": "a"
                }),
            );
            monitor.done("block-export-add", json!({ "type": "nbd", "id": "e", "node-name": "d" }));
            let list = ["-L", "-k", &socket];
            let tls = ["--object", &client, "--tls-creds", "t", "--tls-hostname", "localhost"];
            let run =
                |args: &[&str]| Command::new("qemu-nbd").args(args).output().expect("a process");
            let got = run(&[&list[..], &tls].concat());
            assert_eq!(got.status.success(), allowed, "{program} {identity} {got:?}");
            let text = String::from_utf8_lossy(&got.stdout).into_owned();
            assert_eq!(text.contains("size:  65536"), allowed, "{program} {identity} {text}");
            let plain = run(&list);
            let said = String::from_utf8_lossy(&plain.stderr).into_owned();
            assert!(said.contains("TLS negotiation required before option"), "{program} {said}");
            monitor.quit();
        }
    }
}

/// Sockets that whoever started the daemon has opened, and names of the abstract space.
pub(crate) fn sockets() {
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::write(&disk, vec![7; 1 << 20]).expect("a file");
    let blockdev = format!("file,node-name=d,filename={disk},locking=off");
    let listen = |name: &str| {
        let path = place.path(name);
        let listener = UnixListener::bind(&path).expect("a socket");
        rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).expect("it is kept");
        (path, listener)
    };
    for (i, program) in place.both().iter().enumerate() {
        let (nbd, nbd_listener) = listen(&format!("nbd{i}"));
        let (vhost, vhost_listener) = listen(&format!("vhost{i}"));
        let server = format!("addr.type=fd,addr.str={}", nbd_listener.as_raw_fd());
        let on_nbd = "nbd,id=n,node-name=d".to_owned();
        let on_vhost = format!(
            "vhost-user-blk,id=v,node-name=d,addr.type=fd,addr.str={}",
            vhost_listener.as_raw_fd()
        );
        let words = [
            "--blockdev",
            &blockdev,
            "--nbd-server",
            &server,
            "--export",
            &on_nbd,
            "--export",
            &on_vhost,
        ];
        let monitor = Monitor::start_with(program, &place.path(&format!("qmp{i}")), &words);
        let client = Client::new(&nbd, "d");
        let mut guest = Guest::new(&vhost, 1, Wanted::default());
        let (status, data, _) = guest.request(0, (virtio::IN, 0), &[], 512, 1);
        assert_eq!((status, data), (0, vec![7; 512]), "{program:?}");
        drop(guest);
        drop(client);
        monitor.quit();
        // A path that is not the daemon's own is not removed; the reference does not mind.
        let left = Path::new(&nbd).exists() && Path::new(&vhost).exists();
        assert!(left || i == 1, "{program:?}");
    }
    for (i, program) in place.both().iter().enumerate() {
        let mut monitor = Monitor::start(program, &place.path(&format!("abstract{i}.qmp")));
        let disk = json!({
            "driver": "file", "node-name": "d", "filename": disk, "locking": "off"
        });
        monitor.done("blockdev-add", disk);
        for tight in [true, false] {
            let name = format!("{}-{i}-{tight}", place.path("x"));
            let mut options = json!({ "type": "vhost-user-blk", "id": "e", "node-name": "d" });
            options["addr"] =
                json!({ "type": "unix", "path": name, "abstract": true, "tight": tight });
            monitor.done("block-export-add", options);
            let mut full = name.into_bytes();
            if !tight {
                full.resize(107, 0);
            }
            let address = SocketAddr::from_abstract_name(&full).expect("an address");
            let stream = UnixStream::connect_addr(&address);
            assert!(stream.is_ok(), "{program:?}, {tight}: {stream:?}");
            drop(stream);
            monitor.done("block-export-del", json!({ "id": "e" }));
        }
        monitor.quit();
    }
}
