//! Block devices as nodes, against the reference.

use super::loop_device::{LoopDevice, skipped};
use super::monitor::Monitor;
use super::setup::Place;
use serde_json::{Value, json};
use std::path::Path;

const LEN: u64 = 1 << 20;

/// What is asked about the devices `A` and `B` and the file `F`.
fn script() -> Vec<(&'static str, Value)> {
    let add = |options: Value| ("blockdev-add", options);
    let device = |name: &str, at: &str| {
        add(json!({ "driver": "host_device", "node-name": name, "filename": at }))
    };
    let reopen = json!({ "options": [
        { "driver": "host_device", "node-name": "h", "filename": "A", "read-only": true }
    ] });
    let nodes = ("query-named-block-nodes", json!({ "flat": true }));
    let size = |name: &str, size: u64| ("block_resize", json!({ "node-name": name, "size": size }));
    vec![
        device("h", "A"),
        nodes.clone(),
        add(json!({ "driver": "raw", "node-name": "r", "file": "h" })),
        device("h2", "A"),
        add(json!({ "driver": "raw", "node-name": "r2", "file": "h2" })),
        size("h", LEN / 2),
        size("h", 2 * LEN),
        size("h", LEN),
        size("r", 2 * LEN),
        size("r", LEN / 2),
        add(json!({ "driver": "file", "node-name": "f", "filename": "B" })),
        device("m", "F"),
        add(json!({ "driver": "host_cdrom", "node-name": "c", "filename": "B" })),
        device("n", "F.missing"),
        device("null", "/dev/null"),
        add(json!({ "driver": "host_device", "node-name": "d", "filename": "B", "read-only": true,
            "cache": { "direct": true }, "aio": "native" })),
        ("blockdev-reopen", reopen.clone()),
        ("blockdev-del", json!({ "node-name": "r" })),
        ("blockdev-del", json!({ "node-name": "r2" })),
        ("blockdev-reopen", reopen),
        nodes,
        ("query-blockstats", json!({ "query-nodes": true })),
    ]
}

fn answers(program: &Path, socket: &str, names: &[(&str, &str)]) -> Vec<Value> {
    let mut monitor = Monitor::start(program, socket);
    let mut out = Vec::new();
    for (command, arguments) in script() {
        let mut text = arguments.to_string();
        for (short, name) in names {
            text = text.replace(&format!("\"{short}"), &format!("\"{name}"));
        }
        let arguments = serde_json::from_str(&text).expect("JSON");
        let mut answer = monitor.ask(command, arguments);
        let nodes = answer.get_mut("return").and_then(Value::as_array_mut);
        for node in nodes.into_iter().flatten() {
            // A member that is newer than the reference.
            if let Some(node) = node.as_object_mut() {
                node.remove("children");
            }
            // What the file system has made of it so far is not theirs.
            if let Some(image) = node.get_mut("image") {
                image["actual-size"] = Value::Null;
            }
        }
        out.push(json!([command, answer]));
    }
    monitor.quit();
    out
}

pub(crate) fn devices() {
    let place = Place::new();
    let device = |name: &str| {
        std::fs::write(place.path(name), vec![0; LEN as usize]).expect("a file");
        LoopDevice::over(place.path(name))
    };
    let (Some(a), Some(b)) = (device("a"), device("b")) else {
        return skipped("loops");
    };
    let file = place.path("file");
    std::fs::write(&file, vec![0; 4096]).expect("a file");
    let names = [("A", a.path()), ("B", b.path()), ("F", &*file)];
    let [ours, theirs] = place.both().map(|program| answers(&program, &place.path("qmp"), &names));
    for (got, want) in ours.iter().zip(&theirs) {
        assert_eq!(got, want);
    }
}
