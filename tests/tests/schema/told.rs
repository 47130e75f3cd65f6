//! What we tell clients of the schema (`query-qmp-schema`) against what the reference daemon tells.
//!
//! Types have numbers on both sides, so they are compared by what they are, from every command and
//! event down.

use super::daemon::Daemon;
use sectora_core::qapi;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const NEWER: &str = "the schema is newer than the installed daemon (10.0.2)";

/// Where the two differ, and why. One that is not found any more must not be listed.
const DIFFERENCES: &[(&str, &str)] = &[
    ("block-job-complete: features [\"deprecated\"], theirs none", NEWER),
    ("block-job-dismiss: features [\"deprecated\"], theirs none", NEWER),
    ("block-job-finalize: features [\"deprecated\"], theirs none", NEWER),
    ("block-job-pause: features [\"deprecated\"], theirs none", NEWER),
    ("block-job-resume: features [\"deprecated\"], theirs none", NEWER),
    ("blockdev-backup.on-cbw-error: only ours", NEWER),
    ("blockdev-mirror.target-is-zero: only ours", NEWER),
    ("drive-backup.on-cbw-error: only ours", NEWER),
    ("query-block ->[].inserted.children: only ours", NEWER),
];

/// Objects that belong to machines: the daemon tells of them, and cannot make them.
const MACHINE_OBJECTS: [&str; 35] = [
    "acpi-generic-initiator",
    "acpi-generic-port",
    "can-bus",
    "can-host-socketcan",
    "colo-compare",
    "cryptodev-backend",
    "cryptodev-backend-builtin",
    "cryptodev-backend-lkcf",
    "cryptodev-vhost-user",
    "dbus-vmstate",
    "filter-buffer",
    "filter-dump",
    "filter-mirror",
    "filter-redirector",
    "filter-replay",
    "filter-rewriter",
    "input-barrier",
    "input-linux",
    "iommufd",
    "memory-backend-epc",
    "memory-backend-file",
    "memory-backend-memfd",
    "memory-backend-ram",
    "memory-backend-shm",
    "pef-guest",
    "qtest",
    "rng-builtin",
    "rng-egd",
    "rng-random",
    "s390-pv-guest",
    "sev-guest",
    "sev-snp-guest",
    "tls-cipher-suites",
    "x-remote-object",
    "x-vfio-user-server",
];

type Types = BTreeMap<String, Value>;

pub(crate) fn check() -> Vec<String> {
    match run() {
        Ok(findings) => findings,
        Err(e) => vec![e],
    }
}

fn run() -> Result<Vec<String>, String> {
    let theirs = Daemon::start()?.execute("query-qmp-schema", &json!({}));
    let theirs = theirs.map_err(|e| e.to_string())?;
    let ours = qapi::describe(qapi::commands().map(|c| (c, false)), qapi::events());
    let ours = serde_json::to_value(ours).map_err(|e| e.to_string())?;
    let (ours, theirs) = (by_name(&ours), by_name(&theirs));
    let mut comparison =
        Comparison { ours: &ours, theirs: &theirs, seen: BTreeSet::new(), found: Vec::new() };
    let is_top = |v: &&Value| ["command", "event"].contains(&text(v, "meta-type"));
    let names: BTreeSet<&str> =
        ours.values().chain(theirs.values()).filter(is_top).map(|v| text(v, "name")).collect();
    if names.len() < 80 {
        return Err(format!("only {} commands and events", names.len()));
    }
    for name in names {
        comparison.compare(name, name, name);
    }
    let found: BTreeSet<String> = comparison.found.into_iter().collect();
    let mut listed: BTreeSet<String> = DIFFERENCES.iter().map(|(d, _)| (*d).to_owned()).collect();
    for object in MACHINE_OBJECTS {
        listed.insert(format!("object-add.qom-type.{object}: only theirs"));
        listed.insert(format!("object-add={object}: only theirs"));
    }
    let stale = listed.difference(&found).map(|d| format!("listed, and not found: {d}"));
    Ok(found.difference(&listed).cloned().chain(stale).collect())
}

fn by_name(list: &Value) -> Types {
    let list = list.as_array().into_iter().flatten();
    list.map(|v| (text(v, "name").to_owned(), v.clone())).collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

struct Comparison<'a> {
    ours: &'a Types,
    theirs: &'a Types,
    /// Pairs of types that have been compared.
    seen: BTreeSet<(String, String)>,
    found: Vec<String>,
}

impl Comparison<'_> {
    fn note(&mut self, path: &str, what: impl std::fmt::Display) {
        self.found.push(format!("{path}: {what}"));
    }

    fn compare(&mut self, ours: &str, theirs: &str, path: &str) {
        if !self.seen.insert((ours.to_owned(), theirs.to_owned())) {
            return;
        }
        let (ours, theirs) = match (self.ours.get(ours), self.theirs.get(theirs)) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (Some(_), None) => return self.note(path, "only ours"),
            (None, _) => return self.note(path, "only theirs"),
        };
        let (kind, their_kind) = (text(ours, "meta-type"), text(theirs, "meta-type"));
        if kind != their_kind {
            return self.note(path, format!("{kind}, theirs {their_kind}"));
        }
        self.features(ours, theirs, path);
        for key in ["json-type", "tag", "allow-oob"] {
            if ours.get(key) != theirs.get(key) {
                self.note(path, format!("{key} differs"));
            }
        }
        for (key, step) in [("arg-type", ""), ("ret-type", " ->"), ("element-type", "[]")] {
            if ours.get(key).is_some() || theirs.get(key).is_some() {
                let path = format!("{path}{step}");
                self.compare(text(ours, key), text(theirs, key), &path);
            }
        }
        if ours.get("values") != theirs.get("values") && kind == "enum" {
            // In the order of the schema.
            let names = |v: &Value| -> Vec<String> {
                let list = v.get("values").and_then(Value::as_array).into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let (ours, theirs) = (names(ours), names(theirs));
            let left: Vec<_> = ours.iter().filter(|n| theirs.contains(n)).collect();
            let right: Vec<_> = theirs.iter().filter(|n| ours.contains(n)).collect();
            if left != right {
                self.note(path, "the order of values differs");
            }
        }
        for (key, name) in [("members", "name"), ("variants", "case")] {
            self.parts(ours, theirs, (key, name), path);
        }
    }

    fn features(&mut self, ours: &Value, theirs: &Value, path: &str) {
        if ours.get("features") != theirs.get("features") {
            let text =
                |v: &Value| v.get("features").map_or_else(|| "none".into(), Value::to_string);
            self.note(path, format!("features {}, theirs {}", text(ours), text(theirs)));
        }
    }

    /// Members of objects, enumerations and alternates, or branches.
    fn parts(&mut self, ours: &Value, theirs: &Value, (key, name): (&str, &str), path: &str) {
        let list = |v: &Value| -> Vec<Value> {
            v.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let (ours, theirs) = (list(ours), list(theirs));
        // Members of alternates have no names: they come in order.
        if ours.iter().chain(&theirs).any(|v| v.get(name).is_none()) {
            if ours.len() != theirs.len() {
                return self.note(path, format!("{} types, theirs {}", ours.len(), theirs.len()));
            }
            for (i, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                let path = format!("{path}|{i}");
                self.compare(text(ours, "type"), text(theirs, "type"), &path);
            }
            return;
        }
        let by_name = |list: &[Value]| -> Types {
            list.iter().map(|v| (text(v, name).to_owned(), v.clone())).collect()
        };
        let (ours, theirs) = (by_name(&ours), by_name(&theirs));
        let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for part in names {
            let sign = if key == "variants" { "=" } else { "." };
            let path = format!("{path}{sign}{part}");
            match (ours.get(part), theirs.get(part)) {
                (Some(ours), Some(theirs)) => {
                    self.features(ours, theirs, &path);
                    if ours.get("default") != theirs.get("default") {
                        self.note(&path, "optional on one side");
                    }
                    if ours.get("type").is_some() {
                        self.compare(text(ours, "type"), text(theirs, "type"), &path);
                    }
                }
                (Some(_), None) => self.note(&path, "only ours"),
                (None, _) => self.note(&path, "only theirs"),
            }
        }
    }
}
