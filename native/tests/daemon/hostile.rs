//! Peers that break the rules: refused or dropped; others go on, and memory stays bounded.

use super::backends::Talk;
use super::nbd::{GO, READ, WRITE, greeted, named, open, option, reply, request};
use super::setup::{PATIENCE, Place, Running, connect, start};
use sectora_core::io::testing::Rng;
use serde_json::json;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// The most memory that a process ever had, in MiB.
fn most(running: &Running) -> u64 {
    let path = format!("/proc/{}/status", running.0.id());
    let status = std::fs::read_to_string(path).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("its memory");
    let kib = line.split_ascii_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    kib.expect("a number") >> 10
}

/// Sends everything, as far as the other side takes it; reads meanwhile what is answered. True where
/// the other side ended the connection.
fn pour(stream: &UnixStream, pieces: impl Iterator<Item = Vec<u8>>) -> bool {
    let mut reader = stream.try_clone().expect("a socket");
    // What is answered is of no interest, only that it can be.
    let sink = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let mut writer = stream.try_clone().expect("a socket");
    writer.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    let ended = pieces.map(|piece| writer.write_all(&piece)).any(|sent| sent.is_err());
    // It may have been ended already.
    let _ = stream.shutdown(Shutdown::Both);
    drop(sink.join().expect("the reader"));
    ended
}

/// Pieces of one message: how it begins, what comes how often, and how it ends.
fn message(begin: &str, unit: &str, times: usize, end: &str) -> Vec<Vec<u8>> {
    let mut out = vec![begin.as_bytes().to_vec()];
    let per = (1 << 20) / unit.len();
    let whole = times / per;
    out.extend((0..whole).map(|_| unit.repeat(per).into_bytes()));
    out.push(unit.repeat(times % per).into_bytes());
    out.push(end.as_bytes().to_vec());
    out
}

/// Memory that one message may cost on top, in MiB: 64 of text, and its words.
const MESSAGE: u64 = 256;

/// Clients of the monitor.
pub(crate) fn monitors() {
    let place = Place::new();
    let (path, other) = (place.path("qmp"), place.path("other"));
    let device = format!("socket,id=d,path={other},server=on,wait=off");
    let more = ["--chardev", device.as_str(), "--monitor", "d"];
    let (running, first) = start(place.ours(), &path, &more);
    drop(first);
    let mut good = Talk::new(connect(&other));
    let before = most(&running);
    let mut rng = Rng::new(1);
    let mut noise = vec![0; 4 << 20];
    rng.fill(&mut noise);
    let begin = r#"{"execute":"qmp_capabilities"}"#;
    let command = |rest: &str| format!("{begin}{rest}");
    let long = 100 << 20;
    let scripts: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("noise", noise.chunks(64 << 10).map(<[u8]>::to_vec).collect()),
        ("noise after negotiation", vec![begin.into(), noise]),
        ("half a message", vec![command(r#"{"execute":"block"#).into()]),
        ("half an escape", vec![command(r#"{"execute":"\u12"#).into()]),
        ("a long string", message(&command(r#"{"execute":""#), "x", long, r#""}"#)),
        ("a long string that never ends", message(r#"{"execute":""#, "x", long, "")),
        ("a long number", message(&command("["), "7", long / 10, "]")),
        ("a long name", message(&command("{\""), "x", long / 10, "\":1}")),
        ("a long word", message(&command(""), "x", long / 10, "")),
        ("deep lists", message(&command(""), "[", 2 << 20, "")),
        ("deep objects", message(&command(""), "{\"a\":", 1 << 20, "")),
        ("a long list", message(&command("["), "1,", 2 << 20, "1]")),
        ("many members", message(&command("{"), "\"a\":1,", 1 << 20, "\"b\":1}")),
        ("spaces", message(begin, " \n", 4 << 20, "")),
        ("many commands", message(begin, r#"{"execute":"query-version"}"#, 4000, "")),
        ("many wrong commands", message(begin, r#"{"execute":7}"#, 4000, "")),
    ];
    for (name, pieces) in scripts {
        pour(&connect(&path), pieces.into_iter());
        let answer = good.ask("query-version", json!({}));
        assert!(answer["return"].is_object(), "{name}: {answer}");
        let now = most(&running);
        assert!(now < before + MESSAGE, "{name}: {before} MiB, then {now} MiB");
    }
    // The one that was mistreated is as good as before.
    let mut again = Talk::new(connect(&path));
    assert!(again.ask("query-version", json!({}))["return"].is_object());
    assert_eq!(again.ask("quit", json!({})), json!({ "return": {} }));
}

/// The client that keeps to the rules: what it wrote is there, and each request is answered.
struct Good(UnixStream, u8);

impl Good {
    fn ask(&mut self, head: &[u8], data: &[u8]) {
        self.0.write_all(&[head, data].concat()).expect("a connection");
        let (error, cookie) = reply(&mut self.0).expect("an answer");
        assert_eq!((error, cookie), (0, 9));
    }

    fn works(&mut self, after: &str) {
        let mut found = [0; 4096];
        self.ask(&request(READ, 0, 9, 0, 4096), &[]);
        self.0.read_exact(&mut found).expect("what is read");
        assert_eq!(found, [self.1; 4096], "after {after}");
        self.1 += 1;
        self.ask(&request(WRITE, 0, 9, 0, 4096), &[self.1; 4096]);
    }
}

/// Where clients of NBD stay and do not read, each may cost so much, in MiB: what it has asked for.
const SILENT: u64 = 80;

/// Clients of an export.
pub(crate) fn clients() {
    let place = Place::new();
    let (disk, server) = (place.path("disk"), place.path("nbd"));
    std::fs::write(&disk, vec![0; 64 << 20]).expect("a file");
    let words = [
        "--blockdev",
        &format!("file,node-name=n,filename={disk}"),
        "--nbd-server",
        &format!("addr.type=unix,addr.path={server},max-connections=0"),
        "--export",
        "nbd,id=e,node-name=n,name=x,writable=on",
    ];
    let (running, stream) = start(place.ours(), &place.path("qmp"), &words);
    let mut talk = Talk::new(stream);
    let mut good = Good(open(&server, "x"), 0);
    good.works("nothing");
    let before = most(&running);
    let mut rng = Rng::new(2);
    let mut noise = vec![0; 1 << 20];
    rng.fill(&mut noise);
    let huge = u32::MAX;
    let head = |magic: u32, kind: u16, flags: u16, offset: u64, len: u32| {
        let mut head = request(kind, flags, 1, offset, len);
        head[..4].copy_from_slice(&magic.to_be_bytes());
        head
    };
    let right = 0x2560_9513;
    // Before an export has been named.
    let early: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("nothing", vec![]),
        ("noise", vec![noise.clone()]),
        ("half an option", vec![option(GO, &named("x"))[..11].to_vec()]),
        (
            "an option of 4 GiB",
            vec![[&option(GO, &[])[..12], &huge.to_be_bytes()].concat(), noise.clone()],
        ),
        ("a name longer than its option", vec![option(GO, &[0xff; 8])]),
        ("an empty option", vec![option(GO, &[])]),
        ("an unknown option with much data", vec![option(4711, &noise)]),
        ("a long name", vec![option(GO, &named(&"x".repeat(8000)))]),
        ("options without end", (0..5000).map(|_| option(3, &[])).collect()),
        ("metadata before an export", vec![option(10, &noise[..4096])]),
        ("a wrong magic", vec![vec![0x55; 16]]),
    ];
    for (name, pieces) in early {
        pour(&greeted(&server), pieces.into_iter());
        good.works(name);
    }
    // And after that.
    let late: Vec<(&str, Vec<Vec<u8>>)> = vec![
        ("a wrong magic of a request", vec![head(7, READ, 0, 0, 512)]),
        ("noise for requests", vec![noise.clone()]),
        ("half a request", vec![head(right, READ, 0, 0, 512)[..9].to_vec()]),
        ("a read of 4 GiB", vec![head(right, READ, 0, 0, huge)]),
        ("a write of 4 GiB", vec![head(right, WRITE, 0, 0, huge), noise.clone()]),
        (
            "a write that stops in the middle",
            vec![head(right, WRITE, 0, 1 << 20, 2 << 20), noise.clone()],
        ),
        ("a place beyond the end", vec![head(right, READ, 0, u64::MAX - 100, 4096)]),
        ("a write beyond the end", vec![head(right, WRITE, 0, 1 << 60, 512), vec![1; 512]]),
        ("an unknown command", vec![head(right, 4711, 0, 0, 512)]),
        ("unknown flags", vec![head(right, READ, 0xffff, 0, 512)]),
        ("zeroes beyond the end", vec![head(right, 6, 0, 63 << 20, huge)]),
        ("a trim of everything and more", vec![head(right, 4, 0, u64::MAX, huge)]),
        ("an option where a request is due", vec![option(GO, &named("x"))]),
        ("requests of no length", (0..5000).map(|_| head(right, READ, 0, 0, 0)).collect()),
        ("many reads and away", (0..500).map(|_| head(right, READ, 0, 4096, 1 << 20)).collect()),
    ];
    for (name, pieces) in late {
        pour(&open(&server, "x"), pieces.into_iter());
        good.works(name);
    }
    let now = most(&running);
    assert!(now < before + SILENT, "{before} MiB, then {now} MiB");
    silent(&running, &server, &mut good, head(right, READ, 0, 4096, 1 << 20));
    assert!(talk.ask("query-block-exports", json!({}))["return"][0]["node-name"] == "n");
    // Clients that are silent do not hold up the end.
    assert_eq!(
        talk.ask("block-export-del", json!({ "id": "e", "mode": "hard" })),
        json!({ "return": {} })
    );
    let deleted = talk.event();
    assert_eq!(deleted["event"], "BLOCK_EXPORT_DELETED");
    assert_eq!(talk.ask("quit", json!({})), json!({ "return": {} }));
}

/// Clients that ask and never read, several at a time.
fn silent(running: &Running, server: &str, good: &mut Good, read: Vec<u8>) {
    let before = most(running);
    let kept: Vec<UnixStream> = (0..4)
        .map(|_| {
            let mut stream = open(server, "x");
            stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            let many = read.repeat(100);
            // It is held up at some time; that is what is wanted.
            let sent = (0..200).take_while(|_| stream.write_all(&many).is_ok()).count();
            good.works("a client that never reads");
            assert!(sent < 200, "nobody held it up");
            stream
        })
        .collect();
    let now = most(running);
    let allowed = before + kept.len() as u64 * SILENT;
    assert!(now < allowed, "{before} MiB, then {now} MiB with {} silent clients", kept.len());
    // They vanish with all that they have asked for.
    drop(kept);
    good.works("silent clients");
}

/// An image's own file as its backing image: the first version followed the ring that came of it until
/// the stack was full.
pub(crate) fn rings() {
    let place = Place::new();
    let disk = place.path("disk");
    let made = Command::new(env!("CARGO_BIN_EXE_sectora"))
        .args(["img", "create", "-q", "-f", "qcow2", &disk, "4M"])
        .status();
    assert!(made.expect("our program").success());
    let (_running, stream) = start(place.ours(), &place.path("qmp"), &[]);
    let mut talk = Talk::new(stream);
    let file = json!({ "driver": "file", "filename": disk, "node-name": "f" });
    let image = json!({ "driver": "qcow2", "node-name": "n", "file": file });
    assert_eq!(talk.ask("blockdev-add", image), json!({ "return": {} }));
    let below = json!({ "node": "f", "overlay": "n" });
    assert_eq!(talk.ask("blockdev-snapshot", below), json!({ "return": {} }));
    let answer = talk.ask("x-debug-query-block-graph", json!({}));
    let edges = answer["return"]["edges"].as_array().expect("a list");
    let mut names: Vec<_> = edges.iter().filter_map(|edge| edge["name"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["backing", "file"]);
    assert_eq!(talk.ask("quit", json!({})), json!({ "return": {} }));
}
