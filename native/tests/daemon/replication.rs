//! A disk on two machines: what one guest writes reaches the other's disk, what each sees, and what
//! is there when the first machine is gone.

use super::backends::Talk;
use super::setup::{Place, Running, start};
use serde_json::{Value, json};
use std::process::Command;

const SIZE: usize = 1 << 20;
const CHECKPOINT: &str = "xen-colo-do-checkpoint";
const STATUS: &str = "query-xen-replication-status";

fn daemon(place: &Place, name: &str) -> (Running, Talk) {
    let (running, stream) = start(place.ours(), &place.path(name), &["--device", "none"]);
    (running, Talk::new(stream))
}

/// Carries out a command that succeeds.
#[track_caller]
fn done(talk: &mut Talk, command: &str, arguments: Value) -> Value {
    let mut answer = talk.ask(command, arguments);
    assert!(answer.get("return").is_some(), "{command}: {answer}");
    answer["return"].take()
}

/// Requests of a guest, as `qemu-io` has them, all of which succeed.
#[track_caller]
fn io(talk: &mut Talk, node: &str, commands: &[&str]) {
    for command in commands {
        let said = talk.people(&format!("qemu-io {node} \"{command}\""));
        let failed = said.contains("failed") || said.contains("Error");
        assert!(!failed, "{node}: {command}: {said}");
    }
}

fn file(place: &Place, name: &str) -> Value {
    json!({ "driver": "file", "filename": place.path(name) })
}

/// The secondary machine up to the start, with a quorum on top as the document has it.
fn secondary(place: &Place) -> (Running, Talk) {
    let (running, mut talk) = daemon(place, "secondary");
    for name in ["active", "hidden"] {
        let made = Command::new(env!("CARGO_BIN_EXE_sectora"))
            .args(["img", "create", "-q", "-f", "qcow2", &place.path(name), "1M"])
            .status();
        assert!(made.expect("a process").success());
    }
    let disk = json!({ "driver": "raw", "node-name": "disk", "file": file(place, "second.raw") });
    done(&mut talk, "blockdev-add", disk);
    let hidden = json!({
        "driver": "qcow2", "node-name": "hidden", "file": file(place, "hidden"), "backing": "disk",
    });
    let active = json!({ "driver": "qcow2", "file": file(place, "active"), "backing": hidden });
    let side = json!({
        "driver": "replication", "node-name": "side", "mode": "secondary", "top-id": "top",
        "file": active,
    });
    done(&mut talk, "blockdev-add", side);
    let top = json!({
        "driver": "quorum", "node-name": "top", "vote-threshold": 1, "read-pattern": "fifo",
        "children": ["side"],
    });
    done(&mut talk, "blockdev-add", top);
    let wanted = "The secondary disk doesn't have block backend";
    let refused = talk.ask("xen-set-replication", json!({ "enable": true, "primary": false }));
    assert_eq!(refused["error"]["desc"], wanted);
    let address = json!({ "type": "unix", "data": { "path": place.path("nbd") } });
    done(&mut talk, "nbd-server-start", json!({ "addr": address }));
    done(&mut talk, "nbd-server-add", json!({ "device": "disk", "writable": true }));
    assert_eq!(done(&mut talk, STATUS, json!({}))["error"], true);
    done(&mut talk, "xen-set-replication", json!({ "enable": true, "primary": false }));
    (running, talk)
}

fn primary(place: &Place) -> (Running, Talk) {
    let (running, mut talk) = daemon(place, "primary");
    let disk = json!({ "driver": "raw", "file": file(place, "first.raw") });
    let top = json!({
        "driver": "quorum", "node-name": "top", "vote-threshold": 1, "read-pattern": "fifo",
        "children": [disk],
    });
    done(&mut talk, "blockdev-add", top);
    let there = json!({
        "driver": "nbd", "export": "disk", "server": { "type": "unix", "path": place.path("nbd") },
    });
    let side = json!({
        "driver": "replication", "node-name": "side", "mode": "primary", "file": there,
    });
    done(&mut talk, "blockdev-add", side);
    done(&mut talk, "x-blockdev-change", json!({ "parent": "top", "node": "side" }));
    done(&mut talk, "xen-set-replication", json!({ "enable": true, "primary": true }));
    (running, talk)
}

/// From the start over checkpoints to the failover.
pub(crate) fn failover() {
    let place = Place::new();
    for name in ["first.raw", "second.raw"] {
        std::fs::write(place.path(name), vec![0xaa; SIZE]).expect("a file");
    }
    let (second, mut two) = secondary(&place);
    let (first, mut one) = primary(&place);
    // What the first guest writes is in both disks; the second guest does not see it yet.
    io(&mut one, "top", &["write -P 1 0 100k", "write -P 2 500k 10k", "flush", "read -P 1 0 100k"]);
    io(&mut two, "top", &["read -P 0xaa 0 1M", "write -P 9 40k 8k", "read -P 9 40k 8k"]);
    let written = std::fs::read(place.path("second.raw")).expect("a file");
    assert!(written[..100 << 10].iter().all(|byte| *byte == 1), "it arrives at once");
    done(&mut two, CHECKPOINT, json!({}));
    done(&mut one, CHECKPOINT, json!({}));
    for talk in [&mut one, &mut two] {
        assert_eq!(done(talk, STATUS, json!({})), json!({ "error": false }));
    }
    io(&mut two, "top", &["read -P 1 0 100k", "read -P 2 500k 10k", "read -P 0xaa 100k 400k"]);
    // After the last checkpoint both go on, in part in the same places.
    io(&mut one, "top", &["write -P 3 0 30k", "write -P 4 700k 20k", "flush"]);
    io(&mut two, "top", &["write -P 5 20k 20k", "write -P 6 900k 10k"]);

    // The first machine is gone.
    drop((first, one));
    let over = json!({ "enable": false, "primary": false, "failover": true });
    done(&mut two, "xen-set-replication", over);
    assert_eq!(done(&mut two, STATUS, json!({})), json!({ "error": false }));
    let wanted = |at: usize| match at >> 10 {
        20..40 => 5,
        0..100 => 1,
        500..510 => 2,
        900..910 => 6,
        _ => 0xaa,
    };
    let check = |what: &str| {
        let found = std::fs::read(place.path("second.raw")).expect("a file");
        let differs = found.iter().enumerate().position(|(at, byte)| *byte != wanted(at));
        assert_eq!(differs, None, "{what}");
    };
    check("what was confirmed is in the disk");
    drop(second);
    check("and stays there whatever becomes of the daemon");
}

/// The second machine is gone: the guest of the first is not told.
pub(crate) fn alone() {
    let place = Place::new();
    for name in ["first.raw", "second.raw"] {
        std::fs::write(place.path(name), vec![0; SIZE]).expect("a file");
    }
    let (second, two) = secondary(&place);
    let (_first, mut one) = primary(&place);
    io(&mut one, "top", &["write -P 1 0 64k"]);
    assert_eq!(done(&mut one, STATUS, json!({})), json!({ "error": false }));
    drop((second, two));
    io(&mut one, "top", &["write -P 2 64k 64k", "read -P 1 0 64k", "read -P 2 64k 64k"]);
    let told = json!({ "error": true, "desc": "I/O error occurred" });
    assert_eq!(done(&mut one, STATUS, json!({})), told);
    let over = json!({ "enable": false, "primary": true, "failover": true });
    done(&mut one, "xen-set-replication", over);
    done(&mut one, "x-blockdev-change", json!({ "parent": "top", "child": "children.1" }));
    done(&mut one, "blockdev-del", json!({ "node-name": "side" }));
    io(&mut one, "top", &["write -P 3 128k 64k", "flush"]);
    let found = std::fs::read(place.path("first.raw")).expect("a file");
    let value = |at: usize| [1, 2, 3].get(at >> 16).copied().unwrap_or(0);
    assert!(found.iter().enumerate().all(|(at, byte)| *byte == value(at)));
    // The second disk has what had been sent.
    let found = std::fs::read(place.path("second.raw")).expect("a file");
    assert!(found[..64 << 10].iter().all(|byte| *byte == 1));
}
