//! What two daemons said, held against each other.

use super::client;
use super::generate::command;
use super::talk::{self, Talk};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What came of it.
pub(crate) enum Verdict {
    /// No difference.
    Same,
    /// A difference that is meant.
    Known(&'static str),
    /// They differ.
    Differ(String),
}

/// Members that are times, or what one of the versions does not have.
const SKIPPED: [&str; 10] = [
    // Where in its file an image puts a cluster that is written.
    "amount-exceeded",
    // When tables reach the file, and with it the bitmaps of its node, is each program's own; nobody
    // writes to a disk here.
    "count",
    "wr_highest_offset",
    "timestamp",
    "actual-size",
    "date-sec",
    "date-nsec",
    "vm-clock-sec",
    "vm-clock-nsec",
    "package",
];

pub(crate) fn compare(lines: &[String], theirs: &Talk, ours: &Talk) -> Verdict {
    let (mut our_names, mut their_names) = (Names::default(), Names::default());
    // The greeting and the negotiation come first.
    let said = theirs.answers.iter().zip(&ours.answers).enumerate();
    for (i, (their, our)) in said {
        let line = i.checked_sub(2).and_then(|i| lines.get(i)).map_or("", String::as_str);
        let their: Vec<Value> = their.iter().map(|value| their_names.plain(value)).collect();
        let our: Vec<Value> = our.iter().map(|value| our_names.plain(value)).collect();
        if their == our || same_but_late(&their, &our) {
            continue;
        }
        let before = &lines[..i.saturating_sub(2).min(lines.len())];
        let reason = known(line, &their, &our).or_else(|| forgets(before, &their, &our));
        if let Some(reason) = reason.or_else(|| lengths(before, line, &their, &our)) {
            return Verdict::Known(reason);
        }
        let mut out = String::new();
        for line in before {
            out.push_str(&format!("  {line}\n"));
        }
        out.push_str(&format!("> {line}\n"));
        let (mut a, mut b) = (Value::Array(their), Value::Array(our));
        prune(&mut a, &mut b);
        out.push_str(&format!("reference {a}\nours      {b}"));
        return Verdict::Differ(out);
    }
    if ours.died || theirs.answers.len() != ours.answers.len() {
        let (here, there) = (ours.answers.len(), theirs.answers.len());
        let last = ours.answers.last();
        return Verdict::Differ(format!(
            "ours ended early ({:?}), after {here} answers of {there}, the last {last:?}\n{}\n{}",
            ours.status,
            ours.complaints,
            lines.join("\n")
        ));
    }
    // An image that was made inside a disk is laid out as its maker likes.
    let nested = lines.iter().any(|line| line.contains("blockdev-create"));
    // Zeroes in a part of a cluster become an entry or data, as each program likes.
    let zeroes = lines.iter().any(|line| client::writes_zeroes(line));
    let plain = |(name, text): (String, String)| match text.split_once('\n') {
        Some((_, rest)) if nested => (name, rest.to_owned()),
        None if nested => (name, String::new()),
        Some((first, rest)) if zeroes => {
            let kept = first.split(", ").filter(|part| !part.ends_with(" extents"));
            (name, format!("{}\n{rest}", kept.collect::<Vec<_>>().join(", ")))
        }
        _ => (name, text),
    };
    let mut told = talk::images(theirs, ours);
    leave_lengths_of_files(&mut told);
    let [theirs, ours] = told.map(|told| told.into_iter().map(plain).collect::<Vec<_>>());
    if theirs != ours {
        let differ: Vec<String> = theirs
            .iter()
            .zip(&ours)
            .filter(|(a, b)| a != b)
            .map(|(a, b)| format!("reference {}: {}\nours {}: {}", a.0, a.1, b.0, b.1))
            .collect();
        let text = format!("images differ\n{}\n{}", lines.join("\n"), differ.join("\n"));
        return Verdict::Differ(text);
    }
    Verdict::Same
}

/// How far a file reaches behind what is in it is each program's own, and so is the length of an image
/// that was put on top of the file itself.
fn leave_lengths_of_files(told: &mut [Vec<(String, String)>; 2]) {
    let over_file = |text: &str| text.lines().any(|line| line == "backing file format: file");
    let plain = |text: &str| {
        let kept = text.lines().filter(|line| !line.starts_with("virtual size: "));
        let sound = |line: &str| match line.starts_with("check ") {
            true => line.split(", ").next().unwrap_or_default().to_owned(),
            false => line.to_owned(),
        };
        kept.map(sound).collect::<Vec<_>>().join("\n")
    };
    let [theirs, ours] = told;
    for ((_, their), (_, our)) in theirs.iter_mut().zip(ours) {
        if over_file(their) && over_file(our) {
            (*their, *our) = (plain(their), plain(our));
        }
    }
}

/// Jobs run beside the monitor: their events come before or after the answer.
fn same_but_late(theirs: &[Value], ours: &[Value]) -> bool {
    let (mut a, mut b) = (theirs.to_vec(), ours.to_vec());
    let order = |value: &Value| value.get("event").is_none();
    a.sort_by_key(order);
    b.sort_by_key(order);
    a == b
}

/// The reference lets an image that was put on top of another one's file get longer than its header
/// says: what is written there is lost when it is opened again. Here such a write fails.
fn forgets(before: &[String], theirs: &[Value], ours: &[Value]) -> Option<&'static str> {
    let said = |list: &[Value]| {
        list.first().and_then(|value| value["client"][0].as_str().map(str::to_owned))
    };
    let (their, our) = (said(theirs)?, said(ours)?);
    let overlay = before.iter().filter_map(|line| command(line));
    let has_overlay = { overlay }.any(|name| name.starts_with("blockdev-snapshot"));
    let fails = our == "write failed: Invalid argument" && their.starts_with("wrote ");
    (has_overlay && fails)
        .then_some("the reference loses what is written past the end of an overlay")
}

/// How long an image's file gets, and where in it what is written goes, is each program's own: raw nodes
/// and overlays over such a file show its length, and its threshold is passed by one only.
fn lengths(
    before: &[String],
    line: &str,
    theirs: &[Value],
    ours: &[Value],
) -> Option<&'static str> {
    if command(line).is_some_and(|command| command == "query-named-block-nodes") {
        let plain = |list: &[Value]| {
            let mut list = list.to_vec();
            let nodes =
                list.iter_mut().filter_map(|answer| answer.get_mut("return")?.as_array_mut());
            for node in nodes.flatten().filter(|node| shows_a_file(node)) {
                node["image"]["virtual-size"] = Value::Null;
            }
            list
        };
        let same = plain(theirs) == plain(ours);
        return same.then_some("the length of an image's file is each program's own");
    }
    let passed = |value: &Value| {
        let name = value["data"]["node-name"].as_str().unwrap_or_default();
        value["event"] == "BLOCK_WRITE_THRESHOLD" && before.iter().any(|line| is_file(line, name))
    };
    let plain =
        |list: &[Value]| list.iter().filter(|value| !passed(value)).cloned().collect::<Vec<_>>();
    let is_request = command(line).is_none();
    let same = is_request && plain(theirs) == plain(ours);
    same.then_some("where in its file an image writes is each program's own")
}

/// True where a node may be as long as a file. (One whose file was made longer or shorter by itself
/// keeps its old length in the reference.)
fn shows_a_file(node: &Value) -> bool {
    const PASSING: [&str; 8] = [
        "raw",
        "snapshot-access",
        "blkdebug",
        "blklogwrites",
        "compress",
        "copy-on-read",
        "preallocate",
        "throttle",
    ];
    PASSING.iter().any(|driver| node["drv"] == *driver)
        || node["image"]["backing-filename-format"] == "file"
}

/// True where a line describes a file under that name.
fn is_file(line: &str, name: &str) -> bool {
    fn within(value: &Value, name: &str) -> bool {
        match value {
            Value::Object(members) => {
                let found = value["driver"] == "file" && value["node-name"] == name;
                found || members.values().any(|value| within(value, name))
            }
            _ => false,
        }
    }
    serde_json::from_str(line).is_ok_and(|value: Value| within(&value, name))
}

/// Differences that are meant.
fn known(line: &str, theirs: &[Value], ours: &[Value]) -> Option<&'static str> {
    let text = |list: &[Value]| {
        let error = list.iter().find_map(|value| value.get("error")?.get("desc")?.as_str());
        error.unwrap_or_default().to_owned()
    };
    let (their, our) = (text(theirs), text(ours));
    let is = |name: &str| command(line).is_some_and(|command| command == name);
    let passed =
        |list: &[Value]| list.iter().any(|value| value["event"] == "BLOCK_WRITE_THRESHOLD");
    if is("blockdev-create") && passed(ours) && !passed(theirs) {
        return Some("what an image is made in is emptied first, all of it");
    }
    if is("blockdev-reopen") && their.is_empty() && our == "Image is not in qcow2 format" {
        return Some("an image is read anew from another file: the reference keeps its tables");
    }
    if their.is_empty() && our.ends_with("not supported yet, only 'nbd' is") {
        return Some("only exports by NBD are there");
    }
    if our == "Compression is not supported for underlying format: qcow2" {
        return Some(
            "a data file cannot hold compressed clusters: refused before it is written to",
        );
    }
    if their.is_empty() && our.starts_with("a rule makes the request fail") {
        return Some("a node that cannot keep what was written says so when it goes");
    }
    if their.is_empty() && our.ends_with("the node is inactive") {
        return Some("a persistent bitmap is not added to an inactive node");
    }
    for (begin, end, reason) in [
        ("Cannot change the option '", "'", "of several options that cannot change one is named"),
        (
            "Option '",
            "' cannot be reset to its default value",
            "of several options that cannot be reset one is named",
        ),
        ("Parameter '", "' is unexpected", "of several unexpected members the first is named"),
    ] {
        let alike = |text: &str| text.starts_with(begin) && text.ends_with(end);
        if alike(&their) && alike(&our) && their != our {
            return Some(reason);
        }
    }
    let uses_itself = ["Could not read qcow2 header", "Permission conflict on node "];
    if uses_itself.iter().any(|begin| their.starts_with(begin))
        && our.ends_with("would create a cycle")
    {
        return Some("the reference uses the node that is being opened");
    }
    if their.starts_with("Cannot meet constraints with ")
        && our.is_empty()
        && line.contains(r#""direct":true"#)
    {
        return Some("a file around the host's cache takes requests of any length");
    }
    if their == "Unknown driver 'blkreplay'" {
        return Some("the reference was built without a driver that ours has");
    }
    None
}

/// Leaves of two values only what differs.
fn prune(a: &mut Value, b: &mut Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let same: Vec<String> =
                a.iter().filter(|(k, v)| b.get(*k) == Some(v)).map(|(k, _)| k.clone()).collect();
            for key in same.iter().filter(|key| *key != "node-name") {
                a.remove(key);
                b.remove(key);
            }
            for (key, value) in a.iter_mut() {
                if let Some(other) = b.get_mut(key) {
                    prune(value, other);
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter_mut().zip(b).for_each(|(a, b)| prune(a, b));
        }
        _ => {}
    }
}

/// A line about an image, with the members of what is described in an order of their own.
pub(crate) fn plain_line(line: &str) -> String {
    let described = line.split_once("json:").and_then(|(begin, text)| {
        let value = serde_json::from_str::<Value>(text).ok()?;
        Some(format!("{begin}json:{}", Names::default().plain(&value)))
    });
    described.unwrap_or_else(|| line.to_owned())
}

/// Names that were made up, in the order in which they were met.
#[derive(Default)]
struct Names(BTreeMap<String, String>);

impl Names {
    fn plain(&mut self, value: &Value) -> Value {
        match value {
            Value::Object(members) => {
                // How far a file reaches behind what is in it is each program's own.
                let is_file = members.get("format").is_some_and(|format| format == "file");
                // A node tells its children from version 10.1 on.
                let is_node = members.contains_key("node-name");
                let kept = members.iter().filter(|(key, _)| {
                    !(SKIPPED.contains(&key.as_str())
                        || is_file && *key == "virtual-size"
                        || is_node && *key == "children")
                });
                // In one order: names that were made up are numbered as they are met.
                let mut kept: Vec<_> = kept.collect();
                kept.sort_by_key(|(key, _)| *key);
                let plain = kept.into_iter().map(|(key, value)| (key.clone(), self.plain(value)));
                plain.collect::<Map<_, _>>().into()
            }
            Value::Array(items) => items.iter().map(|item| self.plain(item)).collect(),
            Value::String(text) => self.text(text),
            other => other.clone(),
        }
    }

    fn text(&mut self, text: &str) -> Value {
        if let Some(described) = text.strip_prefix("json:")
            && let Ok(value) = serde_json::from_str::<Value>(described)
        {
            return self.plain(&value);
        }
        let mut out = String::new();
        // What is not attached is not there.
        let text = text.replace("nothing is attached under that name", "No such file or directory");
        let mut rest = &*text;
        while let Some(at) = rest.find("#block") {
            out.push_str(&rest[..at]);
            let digits = rest[at + 6..].find(|c: char| !c.is_ascii_digit());
            let end = digits.map_or(rest.len(), |n| at + 6 + n);
            let next = format!("#made-up-{}", self.0.len());
            out.push_str(self.0.entry(rest[at..end].to_owned()).or_insert(next));
            rest = &rest[end..];
        }
        out.push_str(rest);
        out.into()
    }
}
