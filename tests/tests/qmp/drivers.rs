//! Descriptions of nodes, with every option of every driver that is there.

use sectora_core::io::testing::Rng;
use serde_json::{Value, json};
use std::collections::BTreeSet;

pub(crate) const NODES: [&str; 8] = ["n0", "n1", "n2", "n3", "f0", "f1", "nope", "1bad"];
const IMAGES: [&str; 6] = ["base", "mid", "top", "spare", "ext", "missing"];
const FILES: [&str; 4] = ["raw", "log", "spare", "missing"];

pub(crate) fn node(rng: &mut Rng) -> &'static str {
    // The last ones are there to be refused.
    match rng.chance(92) {
        true => NODES[rng.index(6)],
        false => NODES[rng.index(NODES.len())],
    }
}

pub(crate) fn flag(rng: &mut Rng) -> bool {
    rng.chance(50)
}

/// How often in a hundred an option is given, its name, and a value.
type Choice = (u64, &'static str, fn(&mut Rng) -> Value);

/// Drivers that get children of which kind, and their options besides.
type Driver = (&'static str, &'static [Child], &'static [Choice]);

/// A child.
enum Child {
    /// Of any kind, under this name.
    Any(&'static str),
    /// A file or a node.
    File(&'static str),
    /// Two or three in a list.
    List(&'static str),
}

const COMMON: &[Choice] = &[
    (12, "read-only", |r| json!(flag(r))),
    (4, "auto-read-only", |r| json!(flag(r))),
    (2, "force-share", |r| json!(flag(r))),
    (8, "discard", |r| json!(r.pick(&["ignore", "unmap"]))),
    (6, "detect-zeroes", |r| json!(r.pick(&["off", "on", "unmap"]))),
    (5, "cache", |r| match r.below(3) {
        0 => json!({ "direct": flag(r) }),
        _ => json!({ "no-flush": flag(r) }),
    }),
    (4, "active", |r| json!(flag(r))),
];

const FILE: &[Choice] = &[
    (1, "pr-manager", |_| json!("pr0")),
    (4, "locking", |r| json!(r.pick(&["auto", "on", "off"]))),
    (4, "aio", |r| json!(r.pick(&["threads", "native"]))),
    (3, "aio-max-batch", |r| json!(r.below(100))),
    (3, "drop-cache", |r| json!(flag(r))),
    (2, "x-check-cache-dropped", |r| json!(flag(r))),
];

const NULL: &[Choice] = &[
    (80, "size", |r| json!(r.below(4) << 20)),
    (90, "read-zeroes", |_| json!(true)),
    (15, "latency-ns", |r| json!(r.below(1000))),
];

const QCOW2: &[Choice] = &[
    (5, "lazy-refcounts", |r| json!(flag(r))),
    (4, "pass-discard-request", |r| json!(flag(r))),
    (3, "pass-discard-snapshot", |r| json!(flag(r))),
    (3, "pass-discard-other", |r| json!(flag(r))),
    (4, "discard-no-unref", |r| json!(flag(r))),
    (5, "overlap-check", |r| match r.below(3) {
        0 => json!({ "template": "cached", "main-header": flag(r), "inactive-l2": flag(r) }),
        1 => json!({ "active-l1": flag(r), "bitmap-directory": flag(r) }),
        _ => json!(r.pick(&["none", "constant", "cached", "all"])),
    }),
    (3, "cache-size", |r| json!(r.below(4) << 19)),
    (3, "l2-cache-size", |r| json!(r.below(4) << 18)),
    (3, "l2-cache-entry-size", |r| json!(r.pick(&[512, 4096, 65536, 1000, 131_072]))),
    (3, "refcount-cache-size", |r| json!(r.below(4) << 17)),
    (2, "cache-clean-interval", |r| json!(r.below(1000))),
    (2, "encrypt", |r| match flag(r) {
        true => json!({ "format": "luks", "key-secret": "sec" }),
        false => json!({ "format": "aes" }),
    }),
];

const BLKDEBUG: &[Choice] = &[
    (10, "align", |r| json!(r.pick(&[512, 4096, 1000]))),
    (8, "max-transfer", |r| json!(r.pick(&[4096, 65536, 1000]))),
    (6, "opt-write-zero", |r| json!(r.pick(&[4096, 65536, 1000]))),
    (6, "max-write-zero", |r| json!(r.pick(&[65536, 1 << 20, 1000]))),
    (6, "opt-discard", |r| json!(r.pick(&[4096, 65536, 1000]))),
    (6, "max-discard", |r| json!(r.pick(&[65536, 1 << 20, 1000]))),
    (1, "config", |_| json!("missing")),
    (25, "inject-error", |r| {
        let event = r.pick(&["none", "write_aio", "read_aio", "flush_to_disk", "pwritev"]);
        let kind = r.pick(&["read", "write", "write-zeroes", "discard", "flush"]);
        json!([{
            "event": event, "iotype": kind, "errno": r.pick(&[5, 28, 22]), "once": flag(r),
            "immediately": flag(r), "state": r.below(2),
        }])
    }),
    (8, "set-state", |r| json!([{ "event": "pwritev", "state": 1, "new_state": r.below(3) }])),
    (6, "take-child-perms", |r| json!([r.pick(&["write", "resize", "consistent-read"])])),
    (6, "unshare-child-perms", |r| json!([r.pick(&["write", "resize", "write-unchanged"])])),
];

/// What can be added. `filename`, `server` and the list of a quorum are given always.
const DRIVERS: &[Driver] = &[
    ("file", &[], FILE),
    ("host_device", &[], FILE),
    ("host_cdrom", &[], FILE),
    ("null-co", &[], NULL),
    ("null-aio", &[], NULL),
    (
        "raw",
        &[Child::File("file")],
        &[
            (25, "offset", |r| json!(r.pick(&[0, 512, 65536, 1000]))),
            (25, "size", |r| json!(r.below(9) << 18)),
        ],
    ),
    ("qcow2", &[], QCOW2),
    ("blkdebug", &[Child::File("image")], BLKDEBUG),
    ("blkverify", &[Child::File("test"), Child::File("raw")], &[]),
    ("blkreplay", &[Child::File("image")], &[]),
    (
        "blklogwrites",
        &[Child::File("file"), Child::File("log")],
        &[
            (20, "log-sector-size", |r| json!(r.pick(&[512, 4096, 1000]))),
            (20, "log-append", |r| json!(flag(r))),
            (20, "log-super-update-interval", |r| json!(r.below(5))),
        ],
    ),
    ("throttle", &[Child::Any("file")], &[(100, "throttle-group", |r| json!(r.pick(&["g", "h"])))]),
    ("copy-on-read", &[Child::Any("file")], &[(20, "bottom", |r| json!(node(r)))]),
    (
        "copy-before-write",
        &[Child::Any("file"), Child::Any("target")],
        &[
            (15, "bitmap", |r| json!({ "node": node(r), "name": r.pick(&["b0", "b1"]) })),
            (20, "on-cbw-error", |r| json!(r.pick(&["break-guest-write", "break-snapshot"]))),
            (15, "cbw-timeout", |r| json!(r.below(100))),
            (15, "min-cluster-size", |r| json!(r.pick(&[0, 4096, 1 << 20, 1000]))),
        ],
    ),
    ("snapshot-access", &[Child::Any("file")], &[]),
    (
        "preallocate",
        &[Child::File("file")],
        &[
            (25, "prealloc-align", |r| json!(r.pick(&[512, 1 << 16, 1 << 20, 1000]))),
            (25, "prealloc-size", |r| json!(r.below(4) << 20)),
        ],
    ),
    ("compress", &[Child::Any("file")], &[]),
    (
        "quorum",
        &[Child::List("children")],
        &[
            (98, "vote-threshold", |r| json!(r.below(3) + u64::from(r.chance(97)))),
            (10, "blkverify", |r| json!(flag(r))),
            (10, "rewrite-corrupted", |r| json!(flag(r))),
            (15, "read-pattern", |r| json!(r.pick(&["quorum", "fifo"]))),
        ],
    ),
    (
        "replication",
        &[Child::Any("file")],
        &[
            (97, "mode", |r| json!(r.pick(&["primary", "primary", "secondary", "other"]))),
            (35, "top-id", |r| json!(node(r))),
        ],
    ),
    (
        "nbd",
        &[],
        &[
            (50, "export", |_| json!("x")),
            (20, "tls-creds", |_| json!("creds")),
            (20, "tls-hostname", |_| json!("name")),
            (20, "reconnect-delay", |r| json!(r.below(2))),
            (20, "x-dirty-bitmap", |_| json!("qemu:dirty-bitmap:b0")),
            (10, "path", |_| json!("none.sock")),
            (10, "host", |_| json!("host")),
            (10, "port", |_| json!("10809")),
            (10, "open-timeout", |_| json!(0)),
        ],
    ),
];

/// Drivers of the schema that no description has, for they need what no test machine has, or what
/// ours lacks.
const LEFT_OUT: &[&str] = &[
    "bochs",
    "cloop",
    "dmg",
    "ftp",
    "ftps",
    "gluster",
    "http",
    "https",
    "iscsi",
    "luks",
    "nfs",
    "nvme",
    "parallels",
    "qcow",
    "qed",
    "rbd",
    "ssh",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
];

fn choose(rng: &mut Rng, options: &[Choice], out: &mut Value) {
    for (percent, name, value) in options {
        if rng.chance(*percent) {
            out[*name] = value(rng);
        }
    }
}

/// Options that every node has.
pub(crate) fn common(rng: &mut Rng, out: &mut Value) {
    choose(rng, COMMON, out);
    if rng.chance(2) {
        out[*rng.pick(&["foo", "size", "offset"])] = json!(rng.below(1 << 22));
    }
}

fn file(rng: &mut Rng, name: &str) -> Value {
    let mut file = json!({ "driver": "file", "filename": name });
    if rng.chance(15) {
        file["node-name"] = json!(rng.pick(&["f0", "f1"]));
    }
    choose(rng, FILE, &mut file);
    common(rng, &mut file);
    file
}

/// How children are given: described in `inline` of a hundred, else by name.
#[derive(Clone, Copy)]
pub(crate) struct Inline(pub(crate) u64);

fn child(rng: &mut Rng, inline: Inline, images: bool) -> Value {
    match (rng.chance(inline.0), images) {
        (false, _) => json!(node(rng)),
        (true, true) => image(rng, inline, None),
        (true, false) => {
            let name = rng.pick(&FILES);
            file(rng, name)
        }
    }
}

fn image(rng: &mut Rng, inline: Inline, name: Option<&str>) -> Value {
    let filename = rng.pick(&IMAGES);
    let below = match rng.chance(inline.0 + inline.0 / 3) {
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
    if rng.chance(3) {
        image["data-file"] = child(rng, inline, false);
    }
    choose(rng, QCOW2, &mut image);
    common(rng, &mut image);
    image
}

/// A node's description: images mostly.
pub(crate) fn described(rng: &mut Rng, inline: Inline) -> Value {
    let name = node(rng);
    if rng.chance(40) {
        return image(rng, inline, Some(name));
    }
    let (driver, children, options) = match rng.chance(20) {
        true => &DRIVERS[[0, 5][rng.index(2)]],
        false => &DRIVERS[rng.index(DRIVERS.len())],
    };
    let mut made = match *driver {
        "qcow2" => image(rng, inline, None),
        "file" => {
            let filename = rng.pick(&IMAGES);
            file(rng, filename)
        }
        "host_device" | "host_cdrom" => json!({ "filename": rng.pick(&FILES) }),
        "nbd" => json!({ "server": { "type": "unix", "path": "none.sock" } }),
        _ => json!({}),
    };
    made["driver"] = json!(driver);
    for below in *children {
        match below {
            Child::Any(name) => made[*name] = child(rng, inline, true),
            Child::File(name) => made[*name] = child(rng, inline, false),
            Child::List(name) => {
                let count = 2 + rng.below(2);
                made[*name] = (0..count).map(|_| child(rng, inline, false)).collect();
            }
        }
    }
    made["node-name"] = json!(name);
    if !matches!(*driver, "file" | "qcow2") {
        choose(rng, options, &mut made);
        common(rng, &mut made);
    }
    if rng.chance(2) {
        made["driver"] = json!(rng.pick(&["nonsense", "qcow2", "raw"]));
    }
    made
}

/// Drivers and their options that occur in a line.
pub(crate) fn occurring(value: &Value, seen: &mut BTreeSet<(String, String)>) {
    match value {
        Value::Object(members) => {
            if let Some(driver) = members.get("driver").and_then(Value::as_str) {
                seen.extend(members.keys().map(|key| (driver.to_owned(), key.clone())));
            }
            members.values().for_each(|value| occurring(value, seen));
        }
        Value::Array(items) => items.iter().for_each(|value| occurring(value, seen)),
        _ => {}
    }
}

/// The options of each driver that a daemon's schema tells, without those of drivers left out.
pub(crate) fn of_schema(schema: &Value) -> BTreeSet<(String, String)> {
    let entry = |name: &Value| {
        let entries = schema.as_array().into_iter().flatten();
        entries.into_iter().find(|entry| entry["name"] == *name).cloned().unwrap_or_default()
    };
    let names = |entry: &Value| -> Vec<String> {
        let members = entry["members"].as_array().into_iter().flatten();
        members.filter_map(|member| Some(member["name"].as_str()?.to_owned())).collect()
    };
    let options = entry(&entry(&json!("blockdev-add"))["arg-type"]);
    let mut out = BTreeSet::new();
    for variant in options["variants"].as_array().into_iter().flatten() {
        let driver = variant["case"].as_str().unwrap_or_default();
        if LEFT_OUT.contains(&driver) {
            continue;
        }
        for name in names(&options).into_iter().chain(names(&entry(&variant["type"]))) {
            out.insert((driver.to_owned(), name));
        }
    }
    out
}
