//! Nodes come, go and are opened anew while several clients have many requests in flight: what is
//! read is always what was written, and nothing waits for ever.
//!
//! `SECTORA_SECONDS` says for how long, `SECTORA_SEED` gives other changes.

use super::backends::Talk;
use super::nbd::{FLUSH, NO_HOLE, READ, WRITE, WRITE_ZEROES, open, reply, request};
use super::setup::{Place, start};
use sectora_core::io::testing::Rng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Connections, and requests that each has in flight.
const CONNECTIONS: u64 = 4;
const IN_FLIGHT: usize = 32;

/// Each connection has a range of its own, in parts that one request at a time touches.
const PARTS: u64 = 64;
const PART: u64 = 64 << 10;
const RANGE: u64 = PARTS * PART;

/// The disk's least length; what is beyond the ranges comes and goes, as much as there is below.
const LEAST: u64 = CONNECTIONS * RANGE;
const MORE: u64 = 4 << 20;

/// So many images on top of each other at most.
const OVERLAYS: u64 = 24;

/// An answer takes no longer, with everything that goes on beside.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A client with a model of its range.
struct Client {
    stream: UnixStream,
    rng: Rng,
    base: u64,
    model: Vec<u8>,
    /// Parts that are in use, and where in the range a read of one begins.
    pending: HashMap<u64, u64>,
}

impl Client {
    /// Makes a request on a part that none is in flight for. Its cookie is the part, and how much is
    /// read.
    fn send(&mut self) {
        let part = loop {
            let part = self.rng.below(PARTS);
            if !self.pending.contains_key(&part) {
                break part;
            }
        };
        let from = self.rng.below(PART);
        let most = if self.rng.chance(70) { (PART - from).min(8192) } else { PART - from };
        let at = part * PART + from;
        let len = 1 + self.rng.below(most);
        let (place, length) = (self.base + at, u32::try_from(len).expect("it is short"));
        let there = at as usize..(at + len) as usize;
        let cookie = part << 32;
        let mut data = Vec::new();
        let head = match self.rng.below(10) {
            0..=3 => request(READ, 0, cookie | len, place, length),
            4..=8 => {
                data = vec![0; len as usize];
                self.rng.fill(&mut data);
                self.model[there].copy_from_slice(&data);
                request(WRITE, 0, cookie, place, length)
            }
            9 if self.rng.chance(20) => request(FLUSH, 0, cookie, 0, 0),
            _ => {
                self.model[there].fill(0);
                let flags = if self.rng.chance(50) { NO_HOLE } else { 0 };
                request(WRITE_ZEROES, flags, cookie, place, length)
            }
        };
        self.pending.insert(part, at);
        self.stream.write_all(&[head, data].concat()).expect("a connection");
    }

    /// Takes an answer, and holds what was read against the model.
    fn take(&mut self, answers: &Receiver<(u64, Vec<u8>)>) {
        let (part, data) = answers.recv_timeout(PATIENCE).expect("an answer in time");
        let at = self.pending.remove(&part).expect("it was asked for");
        let want = &self.model[at as usize..at as usize + data.len()];
        let wrong = data.iter().zip(want).position(|(a, b)| a != b);
        let len = data.len();
        assert!(wrong.is_none(), "byte {wrong:?} of {len} at {:#x} differs", self.base + at);
    }

    /// Keeps requests in flight until it is over; the answers to all of them are taken.
    fn work(mut self, over: &AtomicBool, count: &AtomicU64) -> Vec<u8> {
        let mut reader = self.stream.try_clone().expect("a socket");
        reader.set_read_timeout(None).expect("no timeout");
        let (tell, answers) = channel();
        let listener = std::thread::spawn(move || {
            while let Ok((error, cookie)) = reply(&mut reader) {
                assert_eq!(error, 0, "the request {cookie:#x} failed");
                let mut data = vec![0; (cookie & 0xffff_ffff) as usize];
                reader.read_exact(&mut data).expect("what was read");
                if tell.send((cookie >> 32, data)).is_err() {
                    return;
                }
            }
        });
        while !over.load(Ordering::Relaxed) {
            while self.pending.len() < IN_FLIGHT {
                self.send();
            }
            self.take(&answers);
            count.fetch_add(1, Ordering::Relaxed);
        }
        while !self.pending.is_empty() {
            self.take(&answers);
        }
        self.stream.shutdown(std::net::Shutdown::Both).expect("a connection");
        listener.join().expect("every request succeeded");
        self.model
    }
}

/// The nodes below the one that is exported.
struct Graph {
    talk: Talk,
    rng: Rng,
    /// The image on top, and how many there are.
    image: String,
    overlays: u64,
    /// How long what is exported is.
    size: u64,
    /// Filters between the image and what is exported, the last one on top.
    filters: Vec<String>,
    /// Names that were given.
    named: u64,
    done: HashMap<&'static str, u64>,
}

impl Graph {
    fn run(&mut self, command: &str, arguments: Value) {
        let answer = self.talk.ask(command, arguments.clone());
        assert_eq!(answer, json!({ "return": {} }), "{command} {arguments}");
    }

    fn name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}{}", self.named)
    }

    /// What is exported gets this child, and its length.
    fn point(&mut self, below: &str) {
        let options =
            json!([{ "driver": "raw", "node-name": "root", "file": below, "size": self.size }]);
        self.run("blockdev-reopen", json!({ "options": options }));
    }

    fn top(&self) -> String {
        self.filters.last().unwrap_or(&self.image).clone()
    }

    fn insert(&mut self, kind: &'static str) {
        let name = self.name("filter");
        let mut node = json!({ "driver": kind, "node-name": name, "file": self.top() });
        if kind == "throttle" {
            node["throttle-group"] = json!("g");
        }
        self.run("blockdev-add", node);
        self.point(&name);
        self.filters.push(name);
    }

    fn remove(&mut self) {
        let Some(name) = self.filters.pop() else { return };
        let below = self.top();
        self.point(&below);
        self.run("blockdev-del", json!({ "node-name": name }));
    }

    fn snapshot(&mut self, folder: &str) {
        let name = self.name("overlay");
        let file = format!("{folder}/{name}");
        let image = json!({ "node-name": self.image, "snapshot-file": file,
            "snapshot-node-name": name, "format": "qcow2" });
        self.run("blockdev-snapshot-sync", image);
        self.image = name;
        self.overlays += 1;
    }

    /// The image is opened with other options.
    fn reopen(&mut self) {
        let nodes = self.talk.ask("query-named-block-nodes", json!({ "flat": true }));
        let nodes = nodes["return"].as_array().expect("a list").clone();
        let graph = self.talk.ask("x-debug-query-block-graph", json!({}));
        let number = |name: &str| {
            let all = graph["return"]["nodes"].as_array().into_iter().flatten();
            all.into_iter().find(|node| node["name"] == name).map(|node| node["id"].clone())
        };
        let below = |kind: &str| {
            let image = number(&self.image).expect("the image is there");
            let edges = graph["return"]["edges"].as_array().into_iter().flatten();
            let mut edges = edges.filter(|edge| edge["parent"] == image && edge["name"] == kind);
            let child = edges.next()?["child"].clone();
            let names = nodes.iter().filter_map(|node| node["node-name"].as_str());
            names.filter(|name| number(name).as_ref() == Some(&child)).map(ToOwned::to_owned).next()
        };
        let mut image = json!({ "driver": "qcow2", "node-name": self.image,
            "file": below("file").expect("its file"),
            "lazy-refcounts": self.rng.chance(50),
            "l2-cache-size": (1 + self.rng.below(8)) << 17 });
        if let Some(backing) = below("backing") {
            image["backing"] = json!(backing);
        }
        self.run("blockdev-reopen", json!({ "options": [image] }));
    }

    fn change(&mut self, folder: &str) {
        let what = match self.rng.below(20) {
            0 if self.overlays < OVERLAYS => "snapshot",
            0..=4 => "reopen",
            5..=7 => "throttle",
            8..=10 => "copy-on-read",
            11..=15 => "remove",
            16 => "refused",
            _ => "resize",
        };
        match what {
            "snapshot" => self.snapshot(folder),
            "reopen" => self.reopen(),
            "remove" => self.remove(),
            "resize" => {
                self.size = LEAST + (self.rng.below(MORE >> 9) << 9);
                let below = self.top();
                self.point(&below);
            }
            "refused" => {
                let size = json!({ "node-name": "root", "size": LEAST });
                let answer = self.talk.ask("block_resize", size);
                let reason = answer["error"]["desc"].as_str().unwrap_or_default();
                assert!(reason.starts_with("Permission conflict on node 'root'"), "{answer}");
            }
            kind if self.filters.len() < 3 => self.insert(kind),
            _ => self.remove(),
        }
        *self.done.entry(what).or_default() += 1;
    }
}

#[expect(clippy::print_stdout, reason = "what a long test has done is worth a line")]
pub(crate) fn changes() {
    let place = Place::new();
    let folder = place.path("");
    let (disk, server) = (place.path("disk"), place.path("nbd"));
    let made = Command::new(env!("CARGO_BIN_EXE_sectora"))
        .args(["img", "create", "-q", "-f", "qcow2", &disk, &(LEAST + MORE).to_string()])
        .status();
    assert!(made.expect("our program").success());
    let words = [
        "--object",
        "throttle-group,id=g",
        "--blockdev",
        &format!("qcow2,node-name=first,file.driver=file,file.filename={disk}"),
        "--blockdev",
        &format!("raw,node-name=root,file=first,size={LEAST}"),
        "--nbd-server",
        &format!("addr.type=unix,addr.path={server}"),
        "--export",
        "nbd,id=e,node-name=root,name=x,writable=on",
    ];
    let (mut running, stream) = start(place.ours(), &place.path("qmp"), &words);
    let seed = number("SECTORA_SEED", 1);
    let mut graph = Graph {
        talk: Talk::new(stream),
        rng: Rng::new(seed),
        image: "first".to_owned(),
        overlays: 0,
        size: LEAST,
        filters: Vec::new(),
        named: 0,
        done: HashMap::new(),
    };
    let (over, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(number("SECTORA_SECONDS", 10));
    let models: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let (over, count) = (&over, &count);
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|i| {
                let client = Client {
                    stream: open(&server, "x"),
                    rng: Rng::new(seed.wrapping_mul(100) + i),
                    base: i * RANGE,
                    model: vec![0; RANGE as usize],
                    pending: HashMap::new(),
                };
                scope.spawn(move || client.work(over, count))
            })
            .collect();
        // Where a change fails the clients are told to end, and the test fails with the reason.
        let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < end && !clients.iter().any(|client| client.is_finished()) {
                graph.change(&folder);
            }
        }));
        over.store(true, Ordering::Relaxed);
        let models = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        changed.expect("every change succeeds");
        models
    });
    // Everything is there, through the export and in the images.
    let mut stream = open(&server, "x");
    let mut whole = vec![0; LEAST as usize];
    for (i, piece) in whole.chunks_mut(PART as usize).enumerate() {
        let length = u32::try_from(PART).expect("it is short");
        stream.write_all(&request(READ, 0, 0, i as u64 * PART, length)).expect("a connection");
        assert_eq!(reply(&mut stream).expect("an answer"), (0, 0));
        stream.read_exact(piece).expect("what is read");
    }
    assert!(whole == models.concat(), "what is exported differs from the model");
    drop(stream);
    let image = match graph.overlays {
        0 => disk,
        _ => place.path(&graph.image),
    };
    assert_eq!(graph.talk.ask("quit", json!({})), json!({ "return": {} }));
    assert!(running.0.wait().expect("an end").success());
    let check =
        Command::new(env!("CARGO_BIN_EXE_sectora")).args(["img", "check", "-q", &image]).status();
    assert!(check.expect("our program").success(), "the image on top is sound");
    let mut done: Vec<_> = graph.done.into_iter().collect();
    done.sort_unstable();
    println!("seed {seed}: {} requests, {done:?}", count.load(Ordering::Relaxed));
    assert_eq!(done.len(), 7, "every kind of change occurs");
}
