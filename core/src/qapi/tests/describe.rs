//! What clients are told of the schema.

use crate::qapi::{command, commands, describe, event, events, types};
use alloc::collections::BTreeSet;
use alloc::string::ToString;
use alloc::vec::Vec;
use serde_json::{Value, json};

fn told(names: &[&str]) -> Value {
    let commands = names.iter().map(|n| (command(n).unwrap(), *n == "qmp_capabilities"));
    serde_json::to_value(describe(commands, [])).unwrap()
}

#[test]
fn a_command_without_arguments_takes_and_returns_the_empty_object() {
    assert_eq!(
        told(&["quit"]),
        json!([
            {"name": "quit", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
            {"name": "0", "meta-type": "object", "members": []},
        ])
    );
}

#[test]
fn types_are_numbered_as_they_are_referred_to() {
    assert_eq!(
        told(&["block_resize", "qmp_capabilities"]),
        json!([
            {"name": "block_resize", "meta-type": "command", "arg-type": "0", "ret-type": "1"},
            {"name": "qmp_capabilities", "meta-type": "command", "arg-type": "2", "ret-type": "1",
             "allow-oob": true},
            {"name": "0", "meta-type": "object", "members": [
                {"name": "device", "type": "str", "default": null},
                {"name": "node-name", "type": "str", "default": null},
                {"name": "size", "type": "int"},
            ]},
            {"name": "1", "meta-type": "object", "members": []},
            {"name": "2", "meta-type": "object", "members": [
                {"name": "enable", "type": "[3]", "default": null},
            ]},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "[3]", "meta-type": "array", "element-type": "3"},
            {"name": "3", "meta-type": "enum", "members": [{"name": "oob"}], "values": ["oob"]},
        ])
    );
}

#[test]
fn branches_without_members_are_the_empty_object() {
    let list = told(&["block-job-change"]);
    let union = list.as_array().unwrap().iter().find(|v| v.get("variants").is_some()).unwrap();
    assert_eq!(union["tag"], "type");
    let names: Vec<_> = union["members"].as_array().unwrap().iter().map(|m| &m["name"]).collect();
    assert_eq!(names, ["id", "type"]);
    let variants = union["variants"].as_array().unwrap();
    assert_eq!(variants.len(), 9);
    let of = |case: &str| &variants.iter().find(|v| v["case"] == case).unwrap()["type"];
    assert_eq!(of("commit"), of("stream"));
    assert_ne!(of("commit"), of("mirror"));
}

#[test]
fn what_is_not_held_is_not_told() {
    // Neither as a value of the tag nor as a branch, even one without members.
    let text = told(&["blockdev-add", "blockdev-create"]).to_string();
    assert!(text.contains("host_device") && text.contains("drop-cache"));
    assert!(!text.contains("virtio-blk-vfio-pci"));
}

#[test]
fn every_type_that_is_referred_to_is_described_once() {
    let all = describe(commands().map(|c| (c, false)), events());
    let names: BTreeSet<_> = all.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names.len(), all.len());
    let text = serde_json::to_value(&all).unwrap();
    let mut checked = 0;
    walk(&text, &mut |key, value| {
        if ["type", "arg-type", "ret-type", "element-type"].contains(&key) {
            assert!(names.contains(value), "{value}");
            checked += 1;
        }
    });
    assert!(checked > 1000, "{checked}");
}

fn walk(value: &Value, each: &mut dyn FnMut(&str, &str)) {
    match value {
        Value::Array(list) => list.iter().for_each(|v| walk(v, each)),
        Value::Object(members) => {
            for (key, value) in members {
                match value.as_str() {
                    Some(text) => each(key, text),
                    None => walk(value, each),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn names_are_there_once() {
    let names: BTreeSet<_> = commands().map(|c| c.name).collect();
    assert_eq!(names.len(), commands().count());
    let names: BTreeSet<_> = events().map(|e| e.name).collect();
    assert_eq!(names.len(), events().count());
    let names: BTreeSet<_> = types().iter().map(|t| t.name).collect();
    assert_eq!(names.len(), types().len());
    assert!(command("block_resize").is_some() && command("block-resize").is_none());
    assert!(event("BLOCK_JOB_READY").is_some() && event("block_job_ready").is_none());
}
