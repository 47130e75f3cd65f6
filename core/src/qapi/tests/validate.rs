//! Refusals, word for word as QEMU's storage daemon (version 10.0.2) gives them.

use crate::qapi::schema::{Builtin, Qapi, Shape};
use crate::qapi::*;
use alloc::string::{String, ToString};
use serde_json::{Map, Value, json};

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("{other} is no object"),
    }
}

/// The refusal of the members of a `T`.
fn refusal<T: Qapi>(value: Value) -> String {
    let mut members = members(value);
    validate(T::schema(), &mut members).unwrap_err().to_string()
}

fn refused(cases: &[(Value, &str)]) {
    for (value, text) in cases {
        assert_eq!(refusal::<BlockdevOptions>(value.clone()), *text, "{value}");
    }
}

#[test]
fn what_is_missing_is_named_with_its_path() {
    refused(&[
        (json!({}), "Parameter 'driver' is missing"),
        (json!({"node-name": 6}), "Parameter 'driver' is missing"),
        (json!({"driver": "file"}), "Parameter 'filename' is missing"),
        (json!({"driver": "raw", "file": {}}), "Parameter 'file.driver' is missing"),
        (
            json!({"driver": "rbd", "pool": "v", "image": "p", "server": [{"host": "x"}]}),
            "Parameter 'server[0].port' is missing",
        ),
        (
            json!({"driver": "rbd", "pool": "x", "image": "i",
                "encrypt": {"format": "luks-any", "parent": {"format": "luks"}}}),
            "Parameter 'encrypt.parent.key-secret' is missing",
        ),
    ]);
}

#[test]
fn what_nobody_asked_for_is_found_last() {
    refused(&[
        (json!({"driver": "file", "filename": "x", "y": 5}), "Parameter 'y' is unexpected"),
        (json!({"driver": "null-co", "": 1}), "Parameter '' is unexpected"),
        (json!({"driver": "null-co", "cache": {"": 1}}), "Parameter 'cache.' is unexpected"),
        (
            json!({"driver": "raw", "file": {"driver": "file", "filename": "x", "y": 5}}),
            "Parameter 'file.y' is unexpected",
        ),
        (
            json!({"driver": "file", "filename": "x", "drop-cache": 1, "a": 1}),
            "Invalid parameter type for 'drop-cache', expected: boolean",
        ),
        // Members of another branch are no members.
        (json!({"driver": "null-co", "filename": "x"}), "Parameter 'filename' is unexpected"),
    ]);
}

#[test]
fn wrong_types_name_what_was_expected() {
    refused(&[
        (json!({"driver": 1}), "Invalid parameter type for 'driver', expected: string"),
        (json!({"driver": null}), "Invalid parameter type for 'driver', expected: string"),
        (
            json!({"driver": "null-co", "read-zeroes": 1}),
            "Invalid parameter type for 'read-zeroes', expected: boolean",
        ),
        (
            json!({"driver": "null-co", "cache": 1}),
            "Invalid parameter type for 'cache', expected: object",
        ),
        (
            json!({"driver": "null-co", "cache": {"direct": "on"}}),
            "Invalid parameter type for 'cache.direct', expected: boolean",
        ),
        (
            json!({"driver": "quorum", "children": {}, "vote-threshold": 1}),
            "Invalid parameter type for 'children', expected: array",
        ),
        (
            json!({"driver": "blkdebug", "image": "x", "inject-error": [5]}),
            "Invalid parameter type for 'inject-error[0]', expected: object",
        ),
        (
            json!({"driver": "blkdebug", "image": "x", "inject-error": [{"event": 5}]}),
            "Invalid parameter type for 'inject-error[0].event', expected: string",
        ),
        (
            json!({"driver": "blkdebug", "image": "x", "take-child-perms": [["a"]]}),
            "Invalid parameter type for 'take-child-perms[0]', expected: string",
        ),
    ]);
}

#[test]
fn values_and_alternates_are_named_without_their_path() {
    refused(&[
        (json!({"driver": "nope"}), "Parameter 'driver' does not accept value 'nope'"),
        // A driver that is not built in is no driver.
        (
            json!({"driver": "io_uring", "filename": "x"}),
            "Parameter 'driver' does not accept value 'io_uring'",
        ),
        (
            json!({"driver": "nbd", "server": {"type": "x", "host": "a"}}),
            "Parameter 'type' does not accept value 'x'",
        ),
        (
            json!({"driver": "blkdebug", "image": "x", "take-child-perms": ["a"]}),
            "Parameter 'null' does not accept value 'a'",
        ),
        (
            json!({"driver": "qcow2", "file": "x", "overlap-check": "x"}),
            "Parameter 'overlap-check' does not accept value 'x'",
        ),
        (
            json!({"driver": "raw", "file": 5}),
            "Invalid parameter type for 'file', expected: BlockdevRef",
        ),
        (
            json!({"driver": "raw", "file": null}),
            "Invalid parameter type for 'file', expected: BlockdevRef",
        ),
        (
            json!({"driver": "qcow2", "file": "x", "backing": 5}),
            "Invalid parameter type for 'backing', expected: BlockdevRefOrNull",
        ),
        (
            json!({"driver": "quorum", "children": ["x", 5], "vote-threshold": 1}),
            "Invalid parameter type for 'null', expected: BlockdevRef",
        ),
    ]);
}

#[test]
fn numbers_have_ranges() {
    let log = |sector: Value| json!({"driver": "blklogwrites", "file": "x", "log": "y", "log-sector-size": sector});
    let transfer = |n: Value| json!({"driver": "blkdebug", "image": "x", "max-transfer": n});
    let to = |n: Value| json!({"driver": "nbd", "server": {"type": "inet", "host": "a", "port": "1", "to": n}});
    refused(&[
        (
            json!({"driver": "null-co", "size": 1.5}),
            "Invalid parameter type for 'size', expected: integer",
        ),
        (
            json!({"driver": "null-co", "size": 9_223_372_036_854_775_808_u64}),
            "Invalid parameter type for 'size', expected: integer",
        ),
        (
            json!({"driver": "null-co", "latency-ns": 18_446_744_073_709_551_616_f64}),
            "Parameter 'latency-ns' expects uint64",
        ),
        (log(json!("a")), "Parameter 'log-sector-size' expects uint64"),
        (log(json!(-1)), "Parameter 'log-sector-size' expects uint32_t"),
        (log(json!(4_294_967_296_u64)), "Parameter 'log-sector-size' expects uint32_t"),
        (transfer(json!(2_147_483_648_u32)), "Parameter 'max-transfer' expects int32_t"),
        (transfer(json!("a")), "Invalid parameter type for 'max-transfer', expected: integer"),
        (to(json!(70000)), "Parameter 'to' expects uint16_t"),
        (to(json!("a")), "Parameter 'server.to' expects uint64"),
    ]);
}

#[test]
fn negative_numbers_count_back_from_the_end_of_64_bits() {
    let mut options = members(json!({"driver": "null-co", "latency-ns": -1}));
    validate(BlockdevOptions::schema(), &mut options).unwrap();
    assert_eq!(options["latency-ns"], json!(u64::MAX));
}

#[test]
fn what_is_accepted_becomes_the_type() {
    let value = json!({
        "driver": "qcow2",
        "node-name": "top",
        "backing": null,
        "overlap-check": {"template": "all", "main-header": false},
        "file": {"driver": "nbd", "server": {"type": "unix", "path": "/s"}, "export": "e"},
    });
    let options: BlockdevOptions = parse(members(value.clone())).unwrap();
    assert_eq!(options.node_name.as_deref(), Some("top"));
    let BlockdevOptionsBranch::Qcow2(qcow2) = &options.driver else { panic!() };
    assert_eq!(qcow2.base.backing, Some(BlockdevRefOrNull::Null));
    let BlockdevRef::Definition(file) = &qcow2.base.base.file else { panic!() };
    let BlockdevOptionsBranch::Nbd(nbd) = &file.driver else { panic!() };
    assert!(matches!(&nbd.server, SocketAddress::Unix(unix) if unix.path == "/s"));
    assert_eq!(serde_json::to_value(&options).unwrap(), value);
}

#[test]
fn members_come_in_the_order_of_the_schema() {
    let names: alloc::vec::Vec<_> =
        BlockdevOptionsQcow2::schema().members().iter().take(3).map(|m| m.name).collect();
    assert_eq!(names, ["file", "backing", "lazy-refcounts"]);
    let members = BlockdevOptions::schema().members();
    assert_eq!((members[0].name, members[1].name), ("driver", "node-name"));
    let size = (BlockdevOptionsCbw::schema().members()[5].kind)();
    assert!(matches!(size.shape, Shape::Builtin(Builtin::Size)));
}
