//! Commands at random: mostly right, some wrong.

use super::client;
use super::drivers::{Inline, common, described, flag, node};
use sectora_core::io::testing::Rng;
use serde_json::{Value, json};

/// So many lines: commands, and requests of a client. Half of them begin with an export that there
/// is, so that there is something to read and to write.
pub(crate) fn sequence(rng: &mut Rng, length: u64) -> Vec<String> {
    let mut out = if flag(rng) { begun(rng) } else { Vec::new() };
    let begun = !out.is_empty();
    for i in 0..length {
        if rng.chance(if begun { 30 } else { 4 }) {
            out.push(client::line(rng));
            continue;
        }
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

/// What chance brings too rarely: the first sequences begin with one of it each. (The reference ends
/// where a manager of reservations is missing for the second time.)
pub(crate) fn scripted(case: u64) -> Option<String> {
    let nbd = json!({ "type": "unix", "path": "none.sock" });
    let mut node = match case {
        0 => json!({ "driver": "host_device", "filename": "raw", "pr-manager": "pr0" }),
        1 => json!({ "driver": "host_cdrom", "filename": "raw", "pr-manager": "pr0" }),
        2 => json!({ "driver": "nbd", "server": nbd, "auto-read-only": true }),
        _ => return None,
    };
    node["node-name"] = json!("scripted");
    Some(json!({ "execute": "blockdev-add", "arguments": node }).to_string())
}

/// A server, a node and an export of it.
fn begun(rng: &mut Rng) -> Vec<String> {
    let file = |name: &str| json!({ "driver": "file", "filename": name, "node-name": "f0" });
    let mut node = match rng.below(4) {
        0 => json!({ "driver": "raw", "file": file("raw") }),
        1 => json!({ "driver": "qcow2", "file": file("ext"), "discard": "unmap" }),
        2 => json!({ "driver": "qcow2", "file": file("spare") }),
        _ => json!({ "driver": "qcow2", "file": file("top"), "discard": "unmap" }),
    };
    node["node-name"] = json!("n0");
    let mut export =
        json!({ "type": "nbd", "id": "e0", "node-name": "n0", "writable": true, "name": "x" });
    if rng.chance(20) {
        export["allow-inactive"] = json!(flag(rng));
    }
    let commands = [
        ("blockdev-add", node),
        ("nbd-server-start", json!({ "addr": { "type": "unix", "data": { "path": "nbd.sock" } } })),
        ("block-export-add", export),
    ];
    let line = |(name, arguments)| json!({ "execute": name, "arguments": arguments }).to_string();
    commands.into_iter().map(line).collect()
}

/// The command that a line holds.
pub(crate) fn command(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    Some(value.get("execute")?.as_str()?.to_owned())
}

/// What only a host has: threads, devices, servers, and files that drivers read by themselves.
const OF_HOSTS: [&str; 5] = ["iothread", "host_device", "host_cdrom", "nbd", "config"];

/// False for commands on what only a host has, exports among them, and for requests through exports.
pub(crate) fn is_portable(line: &str) -> bool {
    let Some(name) = command(line) else { return false };
    let named = |word: &str| line.contains(&format!("\"{word}\""));
    !name.starts_with("nbd-")
        && !name.contains("export")
        && !OF_HOSTS.iter().any(|word| named(word))
}

/// How often a command comes, its name, and its arguments.
type Kind = (u64, &'static str, fn(&mut Rng) -> Value);

fn any(rng: &mut Rng) -> (&'static str, Value) {
    let table: [Kind; 44] = [
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
        (4, "blockdev-set-active", |r| match r.chance(80) {
            true => json!({ "node-name": node(r), "active": flag(r) }),
            false => json!({ "active": flag(r) }),
        }),
        (4, "x-blockdev-change", |r| match r.chance(50) {
            true => json!({ "parent": node(r), "node": node(r) }),
            false => {
                json!({ "parent": node(r), "child": r.pick(&["children.0", "children.1", "file"]) })
            }
        }),
        (3, "x-blockdev-set-iothread", set_iothread),
        (3, "x-debug-block-dirty-bitmap-sha256", bitmap),
        (1, "job-pause", job),
        (1, "job-complete", job),
        (1, "job-resume", job),
        (1, "x-blockdev-amend", amend),
        (1, "nbd-server-add", |r| json!({ "device": node(r), "name": "y", "writable": flag(r) })),
        (1, "nbd-server-remove", |r| json!({ "name": r.pick(&["x", "y"]) })),
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

fn add(rng: &mut Rng) -> Value {
    described(rng, Inline(55))
}

fn reopen(rng: &mut Rng) -> Value {
    let count = if rng.chance(80) { 1 } else { 2 };
    let list: Vec<Value> = (0..count)
        .map(|_| {
            if rng.chance(35) {
                return described(rng, Inline(5));
            }
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

fn set_iothread(rng: &mut Rng) -> Value {
    let mut out = json!({ "node-name": node(rng), "iothread": "io0" });
    if flag(rng) {
        out["iothread"] = Value::Null;
    }
    if rng.chance(30) {
        out["force"] = json!(flag(rng));
    }
    out
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

fn amend(rng: &mut Rng) -> Value {
    let mut out = json!({ "job-id": rng.pick(&["j0", "j1"]), "node-name": node(rng),
        "options": { "driver": "qcow2" } });
    if rng.chance(20) {
        out["force"] = json!(flag(rng));
    }
    out
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
        out["bitmaps"] = match rng.chance(60) {
            true => json!([rng.pick(&["b0", "b1"])]),
            false => json!([{ "node": node(rng), "name": rng.pick(&["b0", "b1"]) }]),
        };
    }
    if rng.chance(12) {
        out["allow-inactive"] = json!(flag(rng));
    }
    if rng.chance(4) {
        out["allocation-depth"] = json!(flag(rng));
    }
    if rng.chance(4) {
        out["writethrough"] = json!(flag(rng));
    }
    if rng.chance(3) {
        out["fixed-iothread"] = json!(flag(rng));
    }
    if rng.chance(3) {
        out["description"] = json!("words");
    }
    if rng.chance(5) {
        out["iothread"] = json!("io0");
    }
    out
}
