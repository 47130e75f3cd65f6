//! Bytes in, answers out.

use super::*;
use crate::io::Instant;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use core::time::Duration;

const NEGOTIATE: &str = r#"{"execute":"qmp_capabilities"}"#;
const OUT_OF_BAND: &str = r#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#;

fn generic(text: &str) -> Value {
    value(format!(r#"{{"error": {{"class": "GenericError", "desc": "{text}"}}}}"#))
}

fn not_found(text: &str) -> Value {
    value(format!(r#"{{"error": {{"class": "CommandNotFound", "desc": "{text}"}}}}"#))
}

#[test]
fn a_client_is_greeted_and_negotiates_once() {
    let mut session = session();
    let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "test"}, "capabilities": ["oob"]}}"#;
    assert_eq!(said(&mut session), [value(greeting)]);
    let expecting = not_found("Expecting capabilities negotiation with 'qmp_capabilities'");
    for (input, want) in [
        (r#"{"execute":"echo"}"#, expecting.clone()),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":["x"]}}"#,
            generic("Parameter 'null' does not accept value 'x'"),
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}"#,
            generic("Invalid parameter type for 'enable', expected: array"),
        ),
        (
            r#"{"execute":"qmp_capabilities","arguments":{"x":1}}"#,
            generic("Parameter 'x' is unexpected"),
        ),
        (NEGOTIATE, value(r#"{"return": {}}"#)),
        (NEGOTIATE, not_found("Capabilities negotiation is already complete, command ignored")),
        (r#"{"execute":"echo","id":[1]}"#, value(r#"{"return": {}, "id": [1]}"#)),
    ] {
        assert_eq!(talk(&mut session, input.as_bytes(), 1000), [want], "{input}");
    }
}

/// Requests, and the texts that the reference has for them.
fn mistakes() -> Vec<(&'static str, Value)> {
    let unexpected = |name: &str| generic(&format!("QMP input member '{name}' is unexpected"));
    vec![
        ("[1]", generic("QMP input must be a JSON object")),
        ("{}", generic("QMP input lacks member 'execute'")),
        (r#"{"execute":"echo","x":1}"#, unexpected("x")),
        (r#"{"exec-oob":"echo"}"#, unexpected("exec-oob")),
        (r#"{"execute":1,"x":1}"#, generic("QMP input member 'execute' must be a string")),
        (
            r#"{"execute":"echo","arguments":[]}"#,
            generic("QMP input member 'arguments' must be an object"),
        ),
        (r#"{"execute":"nope"}"#, not_found("The command nope has not been found")),
        (r#"{"execute":"echo" "x"}"#, generic("JSON parse error, expected separator in dict")),
        ("'a\u{e4}'", generic("QMP input must be a JSON object")),
    ]
}

#[test]
fn mistakes_are_answered_in_their_place_however_bytes_are_cut() {
    let cases = mistakes();
    let mut input = String::from(NEGOTIATE);
    let mut want = vec![value(r#"{"return": {}}"#)];
    for (text, answer) in &cases {
        input.push_str(text);
        input.push_str(r#"{"execute":"echo","arguments":{"a":"b"},"id":7}"#);
        want.push(answer.clone());
        want.push(value(r#"{"return": {"a": "b"}, "id": 7}"#));
    }
    for piece in 1..input.len() {
        let mut session = session();
        said(&mut session);
        assert_eq!(talk(&mut session, input.as_bytes(), piece), want, "pieces of {piece}");
    }
}

#[test]
fn requests_out_of_band_overtake() {
    let mut session = session();
    said(&mut session);
    assert_eq!(talk(&mut session, OUT_OF_BAND.as_bytes(), 100), [json!({ "return": {} })]);
    let mut input = String::new();
    for i in 0..8 {
        input.push_str(&format!(r#"{{"execute":"echo","id":{i}}}"#));
    }
    let (first, rest) = input.split_at(input.len() / 8);
    assert_eq!(session.feed(first.as_bytes()), first.len());
    let slow = session.next_request().expect("the first of them");
    assert!(session.next_request().is_none(), "one at a time");
    assert_eq!(session.feed(rest.as_bytes()), rest.len());
    let fast = br#"{"exec-oob":"fast","id":"f"}{"exec-oob":"echo","id":"e"}{"exec-oob":"nope"}{"execute":"echo","exec-oob":"echo"}"#;
    assert_eq!(session.feed(fast), fast.len());
    let request = session.next_out_of_band().expect("it overtakes");
    execute(&mut session, request);
    assert_eq!(
        said(&mut session),
        [
            json!({ "id": "e", "error": {
                "class": "GenericError", "desc": "The command echo does not support OOB",
            } }),
            not_found("The command nope has not been found"),
            json!({ "return": {}, "id": "f" }),
        ]
    );
    // Eight wait besides the one under way: nothing more is taken.
    assert!(!session.wants_input());
    assert_eq!(session.feed(b"{}"), 0);
    execute(&mut session, slow);
    let rest = talk(&mut session, b"", 1);
    assert_eq!(rest.len(), 9);
    assert_eq!(rest[8], generic("QMP input member 'execute' clashes with 'exec-oob'"));
}

#[test]
fn nothing_follows_quit() {
    let mut session = session();
    said(&mut session);
    let input = br#"{"execute":"qmp_capabilities"}{"execute":"quit","id":1}{"execute":"echo"}"#;
    let got = talk(&mut session, input, 5);
    assert_eq!(got, [json!({ "return": {} }), json!({ "return": {}, "id": 1 })]);
    assert!(session.has_ended() && !session.wants_input());
}

#[test]
fn a_client_that_never_reads_costs_little() {
    let mut session = session();
    session.feed(NEGOTIATE.as_bytes());
    assert!(session.next_request().is_none());
    let request = format!(r#"{{"execute":"echo","arguments":{{"a":"{}"}}}}"#, "x".repeat(10_000));
    let (mut sent, mut stuck) = (0, false);
    for _ in 0..10_000 {
        let mut rest = request.as_bytes();
        while !rest.is_empty() {
            let taken = session.feed(rest);
            rest = &rest[taken..];
            sent += taken;
            while let Some(request) = session.next_request() {
                execute(&mut session, request);
            }
            if taken == 0 {
                stuck = true;
                break;
            }
        }
        if stuck {
            break;
        }
    }
    assert!(stuck && sent < 2 * MAX_OUTPUT, "{sent}");
    assert!(session.output().len() < 2 * MAX_OUTPUT);
    // It goes on once it is read.
    said(&mut session);
    assert!(session.wants_input());
}

#[test]
fn a_long_text_costs_no_more_than_its_limit() {
    let mut session = session();
    said(&mut session);
    session.feed(NEGOTIATE.as_bytes());
    session.next_request();
    said(&mut session);
    session.feed(br#"{"execute":""#);
    let piece = vec![b'x'; 1 << 20];
    let mut told = Vec::new();
    for _ in 0..100 {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let taken = session.feed(rest);
            rest = &rest[taken..];
            session.next_request();
            for line in said(&mut session) {
                assert!(line.to_string().len() < 100);
                told.push(line);
            }
        }
    }
    assert_eq!(told[0], generic("JSON token size limit exceeded"));
}

fn event(name: &'static str, node: &str, at: u64) -> Event {
    let data = json!({ "node-name": node }).as_object().cloned().unwrap_or_default();
    Event { name, data, time: Duration::from_millis(at) }
}

#[test]
fn events_are_told_to_those_who_negotiated_and_not_too_often() {
    let mut session = session();
    said(&mut session);
    let at = |ms| Instant(Duration::from_millis(ms));
    session.tell(event("JOB_STATUS_CHANGE", "a", 0), at(0));
    assert!(said(&mut session).is_empty());
    session.feed(NEGOTIATE.as_bytes());
    session.next_request();
    said(&mut session);
    session.tell(event("JOB_STATUS_CHANGE", "a", 1_500), at(0));
    session.tell(event("JOB_STATUS_CHANGE", "a", 1_501), at(0));
    let got = said(&mut session);
    assert_eq!(got.len(), 2);
    let want = json!({
        "timestamp": { "seconds": 1, "microseconds": 500_000 },
        "event": "JOB_STATUS_CHANGE", "data": { "node-name": "a" },
    });
    assert_eq!(got[0], want);
    for (node, ms) in [("a", 0), ("a", 10), ("b", 20), ("a", 30)] {
        session.tell(event("QUORUM_REPORT_BAD", node, ms), at(ms));
    }
    assert_eq!(said(&mut session).len(), 2, "the first of each node");
    assert_eq!(session.deadline(), Some(at(1000)));
    session.tick(at(999));
    assert!(said(&mut session).is_empty());
    session.tick(at(1000));
    let got = said(&mut session);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0]["timestamp"]["microseconds"], 30_000, "the last one");
    // Quiet for the whole time: the next one goes out at once.
    session.tick(at(3000));
    assert!(said(&mut session).is_empty() && session.deadline().is_none());
    session.tell(event("QUORUM_REPORT_BAD", "a", 3001), at(3001));
    assert_eq!(said(&mut session).len(), 1);
}

#[test]
fn the_sets_are_one() {
    let sets = commands();
    let names = sets.names();
    for name in ["echo", "quit", "query-version", "query-commands", "qmp_capabilities"] {
        assert!(names.contains(&name), "{name}");
    }
    let refuse = |name: &str, _: &serde_json::Map<String, Value>| match name {
        "echo" => Err(QmpError::generic("no")),
        _ => Ok(()),
    };
    let checked = CommandSets::clone(&sets).checked_by(Arc::new(refuse));
    let runtime = SimRuntime::new(1);
    let call = || Call { arguments: serde_json::Map::new(), out_of_band: false };
    runtime.block_on(async move {
        assert_eq!(checked.call("echo", call()).await, Err(QmpError::generic("no")));
        assert!(checked.call("query-version", call()).await.is_ok());
        let known = checked.call("query-commands", call()).await.unwrap();
        assert_eq!(known.as_array().map(Vec::len), Some(7));
        assert_eq!(checked.call("x", call()).await, Err(QmpError::command_not_found("x")));
    });
}
