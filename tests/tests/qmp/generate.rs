//! Commands at random: mostly right, some wrong.

use sectora_core::io::testing::Rng;
use serde_json::{Value, json};

const NODES: [&str; 8] = ["n0", "n1", "n2", "n3", "f0", "f1", "nope", "1bad"];
const IMAGES: [&str; 6] = ["base", "mid", "top", "spare", "ext", "missing"];
const FILES: [&str; 4] = ["raw", "log", "spare", "missing"];

/// So many commands, as lines.
pub(crate) fn sequence(rng: &mut Rng, length: u64) -> Vec<String> {
    let mut out = Vec::new();
    for i in 0..length {
        let (name, arguments) = match i {
            // Something has to be there.
            0 | 1 => ("blockdev-add", add(rng)),
            _ => any(rng),
        };
        let mut command = json!({ "execute": name });
        if arguments != json!({}) || rng.chance(20) {
            command["arguments"] = arguments;
        }
        if rng.chance(10) {
            command["id"] = json!(i);
        }
        out.push(command.to_string());
    }
    out
}

/// The command that a line holds.
pub(crate) fn command(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(value.get("execute")?.as_str()?.to_owned())
}

/// False for commands on what only a host has: exports and threads.
pub(crate) fn is_portable(line: &str) -> bool {
    let name = command(line).unwrap_or_default();
    !name.starts_with("nbd-") && !name.contains("export") && !line.contains("\"iothread\"")
}

fn node(rng: &mut Rng) -> &'static str {
    // The last ones are there to be refused.
    match rng.chance(92) {
        true => NODES[rng.index(6)],
        false => NODES[rng.index(NODES.len())],
    }
}

fn flag(rng: &mut Rng) -> bool {
    rng.chance(50)
}

/// How often a command comes, its name, and its arguments.
type Kind = (u64, &'static str, fn(&mut Rng) -> Value);

fn any(rng: &mut Rng) -> (&'static str, Value) {
    let table: [Kind; 34] = [
        (14, "blockdev-add", add),
        (7, "blockdev-del", |r| json!({ "node-name": node(r) })),
        (8, "blockdev-reopen", reopen),
        (6, "query-named-block-nodes", |r| match r.chance(50) {
            true => json!({ "flat": flag(r) }),
            false => json!({}),
        }),
        (5, "x-debug-query-block-graph", |_| json!({})),
        (2, "query-blockstats", |r| json!({ "query-nodes": flag(r) })),
        (1, "query-block", |_| json!({})),
        (4, "block_resize", resize),
        (
            2,
            "block-set-write-threshold",
            |r| json!({ "node-name": node(r), "write-threshold": r.below(1 << 20) }),
        ),
        (3, "change-backing-file", |r| {
            let name = r.pick(&["base", "mid", "other"]);
            json!({ "device": node(r), "image-node-name": node(r), "backing-file": name })
        }),
        (4, "blockdev-snapshot", |r| json!({ "node": node(r), "overlay": node(r) })),
        (3, "blockdev-snapshot-sync", snapshot_sync),
        (
            3,
            "blockdev-snapshot-internal-sync",
            |r| json!({ "device": node(r), "name": r.pick(&["s0", "s1", ""]) }),
        ),
        (
            2,
            "blockdev-snapshot-delete-internal-sync",
            |r| json!({ "device": node(r), "name": r.pick(&["s0", "s1"]) }),
        ),
        (5, "block-dirty-bitmap-add", bitmap_add),
        (2, "block-dirty-bitmap-remove", bitmap),
        (2, "block-dirty-bitmap-clear", bitmap),
        (2, "block-dirty-bitmap-enable", bitmap),
        (2, "block-dirty-bitmap-disable", bitmap),
        (3, "block-dirty-bitmap-merge", merge),
        (4, "transaction", transaction),
        (3, "blockdev-create", create),
        (3, "query-jobs", |_| json!({})),
        (1, "query-block-jobs", |_| json!({})),
        (2, "job-dismiss", job),
        (1, "job-cancel", job),
        (1, "job-finalize", job),
        (3, "object-add", object),
        (1, "object-del", |r| json!({ "id": r.pick(&["g", "h", "io0"]) })),
        (
            3,
            "nbd-server-start",
            |_| json!({ "addr": { "type": "unix", "data": { "path": "nbd.sock" } } }),
        ),
        (1, "nbd-server-stop", |_| json!({})),
        (7, "block-export-add", export),
        (3, "block-export-del", |r| json!({ "id": r.pick(&["e0", "e1", "n0"]) })),
        (2, "query-block-exports", |_| json!({})),
    ];
    let all: u64 = table.iter().map(|(weight, ..)| weight).sum();
    let mut at = rng.below(all);
    for (weight, name, make) in table {
        match at.checked_sub(weight) {
            None => return (name, make(rng)),
            Some(rest) => at = rest,
        }
    }
    ("query-version", json!({}))
}

/// Options that every node has.
fn common(rng: &mut Rng, node: &mut Value) {
    for (percent, name) in [(12, "read-only"), (4, "auto-read-only"), (2, "force-share")] {
        if rng.chance(percent) {
            node[name] = json!(flag(rng));
        }
    }
    if rng.chance(8) {
        node["discard"] = json!(rng.pick(&["ignore", "unmap"]));
    }
    if rng.chance(6) {
        node["detect-zeroes"] = json!(rng.pick(&["off", "on", "unmap"]));
    }
    if rng.chance(4) {
        node["cache"] = json!({ "no-flush": flag(rng) });
    }
    if rng.chance(2) {
        node[*rng.pick(&["foo", "size", "offset"])] = json!(rng.below(1 << 22));
    }
}

fn file(rng: &mut Rng, name: &str) -> Value {
    let mut file = json!({ "driver": "file", "filename": name });
    if rng.chance(15) {
        file["node-name"] = json!(rng.pick(&["f0", "f1"]));
    }
    common(rng, &mut file);
    file
}

/// A child: by name, or described.
fn child(rng: &mut Rng, images: bool) -> Value {
    match (rng.chance(45), images) {
        (true, _) => json!(node(rng)),
        (false, true) => image(rng, None),
        (false, false) => {
            let name = rng.pick(&FILES);
            file(rng, name)
        }
    }
}

fn image(rng: &mut Rng, name: Option<&str>) -> Value {
    let filename = rng.pick(&IMAGES);
    let below = match rng.chance(75) {
        true => file(rng, filename),
        false => json!(node(rng)),
    };
    let mut image = json!({ "driver": "qcow2", "file": below });
    if let Some(name) = name {
        image["node-name"] = json!(name);
    }
    match rng.below(10) {
        0 => image["backing"] = Value::Null,
        1 | 2 => image["backing"] = json!(node(rng)),
        _ => {}
    }
    if rng.chance(5) {
        image["lazy-refcounts"] = json!(flag(rng));
    }
    common(rng, &mut image);
    image
}

fn add(rng: &mut Rng) -> Value {
    let name = node(rng);
    let mut made = match rng.below(20) {
        0..=8 => return image(rng, Some(name)),
        9 | 10 => {
            let filename = rng.pick(&IMAGES);
            file(rng, filename)
        }
        11 | 12 => json!({ "driver": "raw", "file": child(rng, false) }),
        13 => {
            let size = rng.below(9) << 18;
            json!({ "driver": "raw", "file": child(rng, false), "offset": 512, "size": size })
        }
        14 => json!({ "driver": "null-co", "size": rng.below(4) << 20, "read-zeroes": true }),
        15 => json!({ "driver": "throttle", "file": child(rng, true), "throttle-group": "g" }),
        16 => json!({ "driver": "copy-on-read", "file": child(rng, true) }),
        17 => json!({ "driver": "blkdebug", "image": child(rng, false) }),
        18 => {
            let threshold = rng.below(3) + 1;
            let children = json!([child(rng, false), child(rng, false)]);
            json!({ "driver": "quorum", "vote-threshold": threshold, "children": children })
        }
        _ => json!({ "driver": rng.pick(&["preallocate", "compress"]), "file": child(rng, true) }),
    };
    made["node-name"] = json!(name);
    common(rng, &mut made);
    if rng.chance(2) {
        made["driver"] = json!(rng.pick(&["nonsense", "qcow2", "raw"]));
    }
    made
}

fn reopen(rng: &mut Rng) -> Value {
    let count = if rng.chance(80) { 1 } else { 2 };
    let list: Vec<Value> = (0..count)
        .map(|_| {
            let mut options = match rng.chance(70) {
                true => json!({
                    "driver": "qcow2", "node-name": node(rng), "file": node(rng),
                }),
                false => json!({ "driver": "raw", "node-name": node(rng), "file": node(rng) }),
            };
            if options["driver"] == "qcow2" {
                match rng.below(4) {
                    0 => options["backing"] = Value::Null,
                    1 => options["backing"] = json!(node(rng)),
                    _ => {}
                }
            }
            common(rng, &mut options);
            options
        })
        .collect();
    json!({ "options": list })
}

fn resize(rng: &mut Rng) -> Value {
    let size = (rng.below(16) << 19) as i64 - 512;
    match rng.chance(85) {
        true => json!({ "node-name": node(rng), "size": size }),
        false => json!({ "device": node(rng), "size": size }),
    }
}

fn snapshot_sync(rng: &mut Rng) -> Value {
    let name = rng.pick(&["n2", "n3", "overlay"]);
    let filename = rng.pick(&["new0", "new1"]);
    let mut out = json!({ "node-name": node(rng), "snapshot-file": filename });
    if rng.chance(85) {
        out["snapshot-node-name"] = json!(name);
    }
    if rng.chance(10) {
        out["format"] = json!(rng.pick(&["qcow2", "raw", "foo"]));
    }
    out
}

fn bitmap(rng: &mut Rng) -> Value {
    json!({ "node": node(rng), "name": rng.pick(&["b0", "b1", "b2"]) })
}

fn bitmap_add(rng: &mut Rng) -> Value {
    let mut out = bitmap(rng);
    if rng.chance(30) {
        out["persistent"] = json!(flag(rng));
    }
    if rng.chance(20) {
        out["disabled"] = json!(flag(rng));
    }
    if rng.chance(20) {
        out["granularity"] = json!(rng.pick(&[512u64, 4096, 65536, 100, 256]));
    }
    out
}

fn merge(rng: &mut Rng) -> Value {
    let from = match rng.chance(60) {
        true => json!(["b1", "b2"]),
        false => json!(["b0", { "node": node(rng), "name": "b1" }]),
    };
    json!({ "node": node(rng), "target": rng.pick(&["b0", "b1"]), "bitmaps": from })
}

fn transaction(rng: &mut Rng) -> Value {
    let count = rng.below(4);
    let actions: Vec<Value> = (0..count)
        .map(|_| {
            let (kind, data) = match rng.below(9) {
                0 => ("abort", json!({})),
                1 | 2 => ("block-dirty-bitmap-add", bitmap_add(rng)),
                3 => ("block-dirty-bitmap-remove", bitmap(rng)),
                4 => ("block-dirty-bitmap-clear", bitmap(rng)),
                5 => ("block-dirty-bitmap-disable", bitmap(rng)),
                6 => ("block-dirty-bitmap-merge", merge(rng)),
                7 => ("blockdev-snapshot", json!({ "node": node(rng), "overlay": node(rng) })),
                _ => (
                    "blockdev-snapshot-internal-sync",
                    json!({ "device": node(rng), "name": "t0" }),
                ),
            };
            json!({ "type": kind, "data": data })
        })
        .collect();
    json!({ "actions": actions })
}

fn job(rng: &mut Rng) -> Value {
    json!({ "id": rng.pick(&["j0", "j1"]) })
}

fn create(rng: &mut Rng) -> Value {
    let options = match rng.chance(50) {
        true => {
            json!({ "driver": "file", "filename": rng.pick(&["new0", "new1"]), "size": 1 << 20 })
        }
        false => json!({ "driver": "qcow2", "file": node(rng), "size": 2 << 20 }),
    };
    json!({ "job-id": rng.pick(&["j0", "j1", "1j"]), "options": options })
}

fn object(rng: &mut Rng) -> Value {
    match rng.below(3) {
        0 => json!({ "qom-type": "iothread", "id": "io0" }),
        1 => json!({ "qom-type": "throttle-group", "id": "h", "limits": { "iops-total": 1000 } }),
        _ => json!({ "qom-type": "throttle-group", "id": "g" }),
    }
}

fn export(rng: &mut Rng) -> Value {
    let mut out = json!({
        "type": "nbd", "id": rng.pick(&["e0", "e1", "1e"]), "node-name": node(rng),
    });
    if rng.chance(50) {
        out["writable"] = json!(flag(rng));
    }
    if rng.chance(30) {
        out["name"] = json!(rng.pick(&["x", "y"]));
    }
    if rng.chance(15) {
        out["bitmaps"] = json!([rng.pick(&["b0", "b1"])]);
    }
    if rng.chance(5) {
        out["iothread"] = json!("io0");
    }
    out
}
