//! Named backends: what follows errors, what is counted, and commands for people.

use super::setup::{Place, connect, lines, start};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

/// A conversation that has negotiated.
pub(crate) struct Talk {
    stream: UnixStream,
    events: Vec<Value>,
}

impl Talk {
    pub(crate) fn new(mut stream: UnixStream) -> Self {
        assert!(lines(&mut stream, 1)[0].contains("QMP"));
        let mut talk = Self { stream, events: Vec::new() };
        assert_eq!(talk.ask("qmp_capabilities", json!({})), json!({ "return": {} }));
        talk
    }

    fn next(&mut self) -> Value {
        let line = lines(&mut self.stream, 1).pop().expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    /// The answer; events that come before it are kept.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        // In one piece: what follows `quit` would find nobody.
        self.stream.write_all(format!("{request}\n").as_bytes()).expect("a write");
        loop {
            match self.next() {
                event if event.get("event").is_some() => self.events.push(event),
                answer => return answer,
            }
        }
    }

    /// The next event.
    pub(crate) fn event(&mut self) -> Value {
        match self.events.is_empty() {
            true => self.next(),
            false => self.events.remove(0),
        }
    }

    /// What a command for people says.
    pub(crate) fn people(&mut self, line: &str) -> String {
        let answer = self.ask("human-monitor-command", json!({ "command-line": line }));
        answer["return"].as_str().unwrap_or_else(|| panic!("{line}: {answer}")).to_owned()
    }
}

fn words(place: &Place, policy: &str) -> Vec<String> {
    let disk = place.path("disk");
    std::fs::write(&disk, vec![0; 1 << 20]).expect("a file");
    [
        "--blockdev",
        &format!("file,node-name=f,filename={disk}"),
        "--blockdev",
        "blkdebug,node-name=n,image=f,inject-error.0.event=none,inject-error.0.iotype=write,\
         inject-error.0.errno=28,inject-error.0.once=on",
        "--device",
        &format!("n,id=d0,{policy}"),
        "--nbd-server",
        &format!("addr.type=unix,addr.path={}", place.path("nbd")),
        "--export",
        "nbd,id=e,node-name=d0,name=x,writable=on",
    ]
    .map(str::to_owned)
    .into()
}

fn begin(place: &Place, policy: &str) -> (super::setup::Running, Talk) {
    let words = words(place, policy);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (running, stream) = start(place.ours(), &place.path("qmp"), &words);
    (running, Talk::new(stream))
}

/// Our `io` on the export.
fn client(place: &Place, command: &str) -> Command {
    let address = format!("nbd+unix:///x?socket={}", place.path("nbd"));
    let mut client = Command::new(env!("CARGO_BIN_EXE_sectora"));
    client.args(["io", "-f", "raw", "-c", command, &address]).stdout(Stdio::piped());
    client
}

/// A full disk stops the machine; the client's write waits, and is made when somebody says `cont`.
pub(crate) fn stopped() {
    let place = Place::new();
    let (_running, mut talk) = begin(&place, "werror=stop");
    let mut writing = client(&place, "write -P 7 0 64k").spawn().expect("a client");
    let error = talk.event();
    assert_eq!(error["event"], "BLOCK_IO_ERROR");
    let data = &error["data"];
    assert_eq!(
        (&data["device"], &data["node-name"], &data["operation"], &data["action"]),
        (&json!("d0"), &json!("n"), &json!("write"), &json!("stop"))
    );
    assert_eq!(data["nospace"], true);
    assert_eq!(talk.event()["event"], "STOP");
    let status = talk.ask("query-status", json!({}));
    assert_eq!(status["return"], json!({ "running": false, "status": "io-error" }));
    assert_eq!(talk.ask("query-block", json!({}))["return"][0]["io-status"], "nospace");
    assert!(talk.people("info block").contains("I/O status:       nospace\r\n"));
    assert!(writing.try_wait().expect("a state").is_none(), "the client waits");
    // The graph changes all the same.
    let reopened = json!({ "options": [{ "driver": "blkdebug", "node-name": "n", "image": "f",
        "inject-error": [{ "event": "none", "iotype": "write", "errno": 28, "once": true }] }] });
    assert_eq!(talk.ask("blockdev-reopen", reopened), json!({ "return": {} }));
    assert_eq!(talk.ask("cont", json!({})), json!({ "return": {} }));
    assert_eq!(talk.event()["event"], "RESUME");
    assert!(writing.wait().expect("an end").success(), "nothing is lost");
    let read = client(&place, "read -P 7 0 64k").output().expect("a client");
    assert!(read.status.success());
    assert_eq!(talk.ask("query-block", json!({}))["return"][0]["io-status"], "ok");
    let stats = talk.ask("query-blockstats", json!({}));
    let stats = &stats["return"][0]["stats"];
    let count = |name: &str| stats[name].as_u64().expect("a number");
    assert_eq!((count("failed_wr_operations"), count("wr_bytes")), (1, 64 << 10));
    assert!(count("rd_bytes") >= 64 << 10 && count("wr_total_time_ns") > 0);
    assert_eq!(count("wr_highest_offset"), 64 << 10);
}

/// Errors that are told and errors that are not.
pub(crate) fn told() {
    for (policy, succeeds, action) in
        [("werror=report", false, "report"), ("werror=ignore", true, "ignore")]
    {
        let place = Place::new();
        let (_running, mut talk) = begin(&place, policy);
        let written = client(&place, "write -P 7 0 64k").output().expect("a client");
        assert_eq!(written.status.success(), succeeds, "{policy}");
        let error = talk.event();
        assert_eq!(
            (&error["event"], &error["data"]["action"]),
            (&json!("BLOCK_IO_ERROR"), &json!(action))
        );
        assert_eq!(talk.ask("query-status", json!({}))["return"]["running"], true);
    }
}

/// Commands for people on live nodes; breakpoints stop requests of others.
pub(crate) fn people() {
    let place = Place::new();
    let (_running, mut talk) = begin(&place, "werror=report");
    assert_eq!(talk.people("info status"), "VM status: running\r\n");
    assert_eq!(talk.people("qemu-io f \"read -P 0 0 4k\"").lines().count(), 2);
    assert!(talk.people("qemu-io d0 \"write 0 4k\"").starts_with("write failed: No space left"));
    assert!(talk.people("qemu-io -d d0 \"write -P 3 4k 4k\"").starts_with("wrote 4096/4096"));
    assert_eq!(talk.people("qemu-io f \"length\""), "1 MiB\r\n");
    assert_eq!(
        talk.people("qemu-io x \"length\""),
        "Error: Cannot find device='' nor node-name='x'\r\n"
    );
    assert_eq!(talk.people("qemu-io d0 \"abort\""), "command \"abort\" not found\r\n");
    assert_eq!(talk.people("commit zz"), "Device 'zz' not found\r\n");
    assert_eq!(talk.people("block_resize d0 2"), "");
    assert_eq!(talk.people("qemu-io d0 length"), "2 MiB\r\n");
    assert_eq!(talk.people("stop"), "");
    assert_eq!(talk.event()["event"], "STOP");
    assert_eq!(talk.people("c"), "");
    assert_eq!(talk.event()["event"], "RESUME");
    let wrong = talk.ask("device_del", json!({ "id": "zz" }));
    assert_eq!(wrong["error"]["class"], "DeviceNotFound");
    // A second monitor sees the same machine.
    drop(talk);
    let mut again = Talk::new(connect(&place.path("qmp")));
    assert_eq!(again.ask("query-block", json!({}))["return"][0]["device"], "d0");
    assert_eq!(again.ask("quit", json!({})), json!({ "return": {} }));
    assert_eq!(again.event()["data"], json!({ "guest": false, "reason": "host-qmp-quit" }));
}

/// Without `--device` none of it is there, as in the reference.
pub(crate) fn absent() {
    let place = Place::new();
    let (_running, stream) = start(place.ours(), &place.path("qmp"), &[]);
    let mut talk = Talk::new(stream);
    for command in [
        "stop",
        "cont",
        "query-status",
        "device_add",
        "human-monitor-command",
        "xen-set-replication",
        "query-xen-replication-status",
        "xen-colo-do-checkpoint",
    ] {
        let answer = talk.ask(command, json!({}));
        assert_eq!(answer["error"]["class"], "CommandNotFound", "{command}");
    }
    let listed = talk.ask("query-commands", json!({})).to_string();
    assert!(!listed.contains("\"cont\""));
    assert!(!talk.ask("query-qmp-schema", json!({})).to_string().contains("\"RESUME\""));
}
