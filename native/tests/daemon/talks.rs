//! Conversations.

use super::setup::{Place, connect, lines, plain, run, split, start};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const NEGOTIATE: &str = r#"{"execute":"qmp_capabilities"}"#;
const STDIO: [&str; 4] = ["--chardev", "stdio,id=m", "--monitor", "m"];

/// What a client may send; `quit` comes after each.
const SCRIPTS: &[&[u8]] = &[
    br#"{"execute":"query-version"}{"execute":"qmp_capabilities"}{"execute":"query-version","id":1}"#,
    br#"{"execute":"qmp_capabilities","arguments":{"enable":["foo"]}}{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}"#,
    br#"{"execute":"qmp_capabilities","arguments":{"x":1}}{"execute":"qmp_capabilities","arguments":{"enable":["oob","oob"]}}"#,
    br#"{"execute":"qmp_capabilities","arguments":{"enable":[1]}}{"execute":"qmp_capabilities"}{"execute":"qmp_capabilities"}"#,
    br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"exec-oob":"query-version","id":1}{"exec-oob":"foo","id":2}"#,
    br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"exec-oob":"quit"}{"exec-oob":1}{"exec-oob":"a","execute":"b"}"#,
    br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}{"exec-oob":"qmp_capabilities"}{"execute":"qmp_capabilities"}"#,
    br#"~1 "a" [] null true {} {"id":1} {"id":null}"#,
    br#"~{"execute":"query-version","foo":1,"id":[1,{"a":2}]}{"foo":1,"id":"x"}{"execute":1,"foo":1}{"arguments":1,"foo":1}"#,
    br#"~{"execute":null,"id":null}{"exec-oob":1}{"exec-oob":"query-version","execute":"query-version"}{"arguments":1,"execute":1}"#,
    br#"~{"execute":"query-version","arguments":[]}{"execute":"nope","arguments":[]}{"execute":"query-version","arguments":{"a":1}}"#,
    br#"~{"execute":"foo\u00e4\ud83d\ude00\"\\\n\u0001\u007f","id":"\u00e4\ud83d\ude00\"\\\n\u0001\u007f/"}"#,
    br#"~{"execute":"n","id":1.5}{"execute":"n","id":1e300}{"execute":"n","id":12345678901234567890123}{"execute":"n","id":-0}"#,
    br#"~{"execute":"n","id":18446744073709551615}{"execute":"n","id":-9223372036854775809}{"execute":"n","id":0.1}"#,
    br#"~{"execute":"n","id":1E2}{"execute":"n","id":-0.0}{"execute":"n","id":1e-7}{"execute":"n","id":{"b":[],"a":{}}}"#,
    br#"~{"execute":"n","execute":"n"}{"execute":"n","id":{"a":1,"a":2}}"#,
    br#"~{'execute':'a"\'',"id":'x'}"#,
    b"~foo\n{}", b"~}{}", b"~]\n{}", b"~{\"a\" \"b\"}{}", b"~{\"a\": }{}", b"~{\"a\":1 \"b\":2}{}", b"~[1 2]{}",
    b"~[1,]{}", b"~[,1]{}", b"~{,}{}", b"~{\"a\":1,}{}", b"~{1:2}{}", b"~{\"a\":1]}{}", b"~[1}]{}", b"~, {}", b"~: {}",
    b"~nul {}", b"~[nul] {}", b"~[truee,1] {}", b"~[%s] {}", b"~A{}\n{}", b"~AB{}\n{}", b"~[A{}\n{}", b"~[A 1 2 B] {}\n{}",
    b"~{\"a\":\"\x01b\"}{}", b"~{\"a\":\"x\nb\"}\n{}", b"~\x01{}", b"~\x7f{}", b"~\xc3\xa4{}", b"~\xff{}", b"~\xfe{}",
    b"~{\"execute\":\"a\xff\xc3\x28b\"}{}", b"~A\x01 1 2{}", b"~A\xff 1 2{}", b"~A\xc3 1{}", b"~A\n1 {}", b"~A\t1 {}",
    b"~A\r1 {}", b"~A\"abc\" 1{}", b"~A,1 {}", b"~A:1 {}", b"~\"a\xc3\x28b\"{}", b"~\"\xed\xa0\x80\"{}",
    b"~\"\xef\xbf\xbe\"{}", b"~\"\xef\xb7\x90\"{}", b"~\"\xf4\x90\x80\x80\"{}", b"~[\"a\xe2\x82\", 1 2]{}", b"~\"a\xfeb\"{}",
    b"~[1 \"\xc3\x28\"]{}", b"~\"\\\x01\"{}", b"~\"\\\xc3\xa4\"{}", b"~\"\\u12\"{}", b"~\"\\u+123\"{}", b"~\"\\ud800\"{}",
    b"~\"\\ud800\\ud800\"{}", b"~\"\\udc00\"{}", b"~\"\\ufffe\"{}", b"~\"\\ufdd0\"{}", b"~\"\\ud83f\\udffe\"{}",
    b"~{\"execute\":\"a\\u0000\"}{}", b"~\"\\x\"{}", b"~[01]{}", b"~[-]{}", b"~-a{}", b"~[1.]{}", b"~[1e]{}", b"~[1e+]{}",
    b"~[.5]{}", b"~[+5]{}", b"~[1a]{}", b"~tr1{}", b"~t_{}", b"~12\x01{}", b"~-01{}", b"~0x10{}", b"~1.5.5{}", b"~1e5e{}",
    b"~--1{}", b"~[0123 ,1]{}", b"~[1. ]{}", b"~nullnull{}", b"~{nul:1}{}", b"~{null:1}{}", b"~// x\n{}", b"~\xef\xbb\xbf{}",
    b"~\x0c{}", b"~{\"\":1}{}", b"~{\"a\\\"b\xc3\xa4\":1}{}", b"~[1e9999]{}", b"~\"a\xc0\x81\"{}",
];

/// A script as it is sent: `~` stands for negotiating first; then a byte that ends whatever was
/// begun, and `quit`.
fn whole(script: &[u8]) -> Vec<u8> {
    let body = script.strip_prefix(b"~");
    let begin = if body.is_some() { NEGOTIATE } else { "" };
    let end = b"\n\xff{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}";
    [begin.as_bytes(), body.unwrap_or(script), end].concat()
}

fn plainly(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| plain(line)).collect()
}

fn compare(script: &[u8], got: &[String], want: &[String]) -> Option<String> {
    let (ours, theirs) = (plainly(got), plainly(want));
    (ours != theirs).then(|| {
        let script = String::from_utf8_lossy(script);
        format!("{script}\n  ours   {got:#?}\n  theirs {want:#?}")
    })
}

pub(crate) fn protocol() {
    let place = Place::new();
    let [ours, theirs] = place.both();
    let mut different = Vec::new();
    let depth = |n: usize| [&b"~"[..], &b"[".repeat(n), &b"]".repeat(n)].concat();
    let scripts = SCRIPTS.iter().map(|script| script.to_vec());
    for script in scripts.chain([depth(1024), depth(1025)]) {
        let input = whole(&script);
        let talk = |program: &Path| {
            let output = run(program, &STDIO, &input);
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
            split(&output.stdout)
        };
        different.extend(compare(&script, &talk(&ours), &talk(&theirs)));
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    // The same, a line each member.
    let words = ["--chardev", "stdio,id=m", "--monitor", "m,pretty=on"];
    let input = whole(br#"~{"execute":"n","id":{"a":[],"b":{},"c":[1,[2]]}}"#);
    let [got, want] = [&ours, &theirs].map(|program| {
        let text = String::from_utf8(run(program, &words, &input).stdout).expect("ASCII");
        // Behind the greeting, which tells the program.
        text.split_once("\r\n}\r\n").map(|(_, rest)| rest.to_owned()).expect("a greeting")
    });
    assert_eq!(got, want);
}

/// Sends a script in small pieces, and reads until the other side ends.
fn over(program: &Path, path: &str, script: &[u8]) -> Vec<String> {
    let (mut running, mut stream) = start(program, path, &[]);
    let input = whole(script);
    let mut writer = stream.try_clone().expect("a socket");
    let sender = std::thread::spawn(move || {
        for piece in input.chunks(7) {
            // It may have ended already.
            if writer.write_all(piece).is_err() {
                break;
            }
        }
    });
    let mut all = Vec::new();
    stream.read_to_end(&mut all).expect("the end");
    sender.join().expect("the input");
    assert!(running.0.wait().expect("an end").success());
    assert!(!Path::new(path).exists(), "the socket goes with the daemon");
    split(&all)
}

pub(crate) fn over_socket() {
    let place = Place::new();
    let [ours, theirs] = place.both();
    let path = place.path("socket");
    let mut different = Vec::new();
    for script in SCRIPTS.iter().step_by(3) {
        let (got, want) = (over(&ours, &path, script), over(&theirs, &path, script));
        different.extend(compare(script, &got, &want));
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
}

/// Commands of the host, in one conversation; `@` is the scratch folder.
const COMMANDS: &[&str] = &[
    r#"{"execute":"query-chardev"}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"a","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"a","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"1a","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"r","backend":{"type":"ringbuf","data":{"size":1000}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"r","backend":{"type":"ringbuf","data":{"size":16}}}}"#,
    r#"{"execute":"ringbuf-write","arguments":{"device":"r","data":"hello"}}"#,
    r#"{"execute":"ringbuf-write","arguments":{"device":"r","data":"0123456789abcdefXYZ"}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":4}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":40}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":40}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":0}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":-1}}"#,
    r#"{"execute":"ringbuf-write","arguments":{"device":"r","data":"/wBhgA==","format":"base64"}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":40}}"#,
    r#"{"execute":"ringbuf-write","arguments":{"device":"r","data":"/wBhgA==","format":"base64"}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r","size":40,"format":"base64"}}"#,
    r#"{"execute":"ringbuf-write","arguments":{"device":"r","data":"/w!BhgA","format":"base64"}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"a","size":40}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"zz","size":40}}"#,
    r#"{"execute":"ringbuf-read","arguments":{"device":"r"}}"#,
    r#"{"execute":"chardev-remove","arguments":{"id":"zz"}}"#,
    r#"{"execute":"chardev-remove","arguments":{"id":"m"}}"#,
    r#"{"execute":"chardev-remove","arguments":{"id":"a"}}"#,
    r#"{"execute":"chardev-send-break","arguments":{"id":"r"}}"#,
    r#"{"execute":"chardev-send-break","arguments":{"id":"zz"}}"#,
    r#"{"execute":"chardev-change","arguments":{"id":"zz","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"chardev-change","arguments":{"id":"r","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"chardev-change","arguments":{"id":"m","backend":{"type":"null","data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"s","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{"path":"@/s"}}}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"s2","backend":{"type":"socket","data":{"server":false,"addr":{"type":"unix","data":{"path":"@/none"}}}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"f","backend":{"type":"file","data":{"out":"/nonexistent/x"}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"f","backend":{"type":"file","data":{"out":"@/file"}}}}"#,
    r#"{"execute":"query-chardev"}"#,
    r#"{"execute":"chardev-remove","arguments":{"id":"s"}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"t4","backend":{"type":"zz","data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"t4","backend":{"data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"t4","backend":{"type":"null"}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"t4","backend":{"type":"socket","data":{"addr":{"type":"unix","data":{}}}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"t4","backend":{"type":"ringbuf","data":{"size":"x"}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"t4","backend":{"type":"null","data":{"x":1}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"st","backend":{"type":"stdio","data":{}}}}"#,
    r#"{"execute":"chardev-add","arguments":{"id":"sk","backend":{"type":"socket","data":{"addr":{"type":"fd","data":{"str":"0"}}}}}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"secret","id":"sec","data":"x"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"secret","id":"sec","data":"x"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"secret","id":"s2"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"secret"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"zz","id":"s2"}}"#,
    r#"{"execute":"object-del","arguments":{"id":"sec"}}"#,
    r#"{"execute":"object-del","arguments":{"id":"sec"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"iothread","id":"io"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"main-loop","id":"ml"}}"#,
    r#"{"execute":"object-add","arguments":{"qom-type":"main-loop","id":"m2"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/objects"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/chardevs/m"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/objects/io"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"/objects/zz"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":"io"}}"#,
    r#"{"execute":"qom-list","arguments":{"path":""}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/objects/io","property":"poll-max-ns"}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/objects/io","property":"zz"}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/objects/zz","property":"zz"}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/objects/io","property":"type"}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/objects","property":"io"}}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/objects/io","property":"poll-max-ns","value":5}}"#,
    r#"{"execute":"qom-get","arguments":{"path":"/objects/io","property":"poll-max-ns"}}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/objects/io","property":"poll-max-ns","value":"5"}}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/objects/io","property":"type","value":"5"}}"#,
    r#"{"execute":"qom-set","arguments":{"path":"/objects/io","property":"zz","value":"5"}}"#,
    r#"{"execute":"qom-list-types","arguments":{"implements":"zz"}}"#,
    r#"{"execute":"qom-list-types","arguments":{"implements":"event-loop-base","abstract":true}}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"secret"}}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"iothread"}}"#,
    r#"{"execute":"qom-list-properties","arguments":{"typename":"zz"}}"#,
    r#"{"execute":"quit","arguments":{"x":1}}"#,
];

/// Lists whose order means nothing, in one order.
fn sorted(mut value: Value) -> Value {
    if let Some(items) = value.pointer_mut("/return").and_then(Value::as_array_mut) {
        items.sort_by_key(ToString::to_string);
    }
    value
}

pub(crate) fn devices() {
    let place = Place::new();
    let answers = place.both().map(|program| {
        let folder = tempfile::tempdir_in(place.folder.path()).expect("a folder");
        let at = folder.path().to_str().expect("a path in UTF-8");
        let input: String = COMMANDS.iter().map(|command| command.replace('@', at)).collect();
        let input = format!("{NEGOTIATE}{input}{{\"execute\":\"quit\"}}");
        let output = run(&program, &STDIO, input.as_bytes());
        let text = String::from_utf8(output.stdout).expect("ASCII").replace(at, "@");
        split(text.as_bytes()).iter().skip(2).map(|line| sorted(plain(line))).collect::<Vec<_>>()
    });
    let [got, want] = &answers;
    let mut different = Vec::new();
    for (i, command) in COMMANDS.iter().enumerate() {
        if got.get(i) != want.get(i) {
            let show = |of: &[Value]| of.get(i).map(ToString::to_string).unwrap_or_default();
            different.push(format!("{command}\n  ours   {}\n  theirs {}", show(got), show(want)));
        }
    }
    assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
    assert_eq!((got.len(), want.len()), (COMMANDS.len() + 1, COMMANDS.len() + 1));
}

fn ask(stream: &mut UnixStream, request: &str) -> Value {
    stream.write_all(request.as_bytes()).expect("a connection");
    let answer = lines(stream, 1);
    plain(answer.first().expect("an answer"))
}

pub(crate) fn come_and_go() {
    let place = Place::new();
    let path = place.path("socket");
    let (mut running, mut first) = start(place.ours(), &path, &[]);
    assert!(lines(&mut first, 1)[0].contains("\"capabilities\": [\"oob\"]"));
    assert_eq!(ask(&mut first, NEGOTIATE), json!({ "return": {} }));
    let chardevs = ask(&mut first, r#"{"execute":"query-chardev"}"#);
    let want = json!([{ "frontend-open": true, "filename": format!("unix:{path},server=on"), "label": "c" }]);
    assert_eq!(chardevs["return"], want);
    // The second client waits until the first one goes, in the middle of a request.
    let mut second = connect(&path);
    second.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    assert!(lines(&mut second, 1).is_empty());
    first.write_all(br#"{"execute":"#).expect("a connection");
    drop(first);
    second.set_read_timeout(Some(super::setup::PATIENCE)).expect("a timeout");
    assert_eq!(lines(&mut second, 1).len(), 1);
    let refused = ask(&mut second, r#"{"execute":"query-chardev"}"#);
    assert_eq!(refused["error"]["class"], "CommandNotFound", "it has not negotiated");
    assert_eq!(ask(&mut second, NEGOTIATE), json!({ "return": {} }));
    let remove = r#"{"execute":"chardev-remove","arguments":{"id":"c"}}"#;
    assert_eq!(ask(&mut second, remove)["error"]["desc"], "Chardev 'c' is busy");
    assert_eq!(ask(&mut second, r#"{"execute":"quit"}"#), json!({ "return": {} }));
    assert!(running.0.wait().expect("an end").success());
}

/// Memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    line.split_ascii_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

pub(crate) fn never_reads() {
    let place = Place::new();
    let path = place.path("socket");
    let (running, mut stream) = start(place.ours(), &path, &[]);
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    stream.write_all(NEGOTIATE.as_bytes()).expect("a connection");
    let before = resident(running.0.id());
    let request = r#"{"execute":"query-commands"}"#.repeat(1000);
    let mut sent = 0;
    while sent < 64 << 20 && stream.write_all(request.as_bytes()).is_ok() {
        sent += request.len();
    }
    assert!(sent < 16 << 20, "it was held up after {sent} bytes");
    let after = resident(running.0.id());
    assert!(after < before + (32 << 10), "{before} KiB, then {after} KiB");
}
