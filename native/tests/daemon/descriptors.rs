//! Open files and sockets that are handed to the daemon. The answers are those of the reference's
//! system emulator; its daemon has no such commands.

use super::setup::{Place, run, start};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

/// A client that may send descriptors along.
struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl Client {
    fn new(stream: UnixStream) -> Self {
        let reader = BufReader::new(stream.try_clone().expect("the same stream"));
        let mut client = Self { stream, reader };
        client.line();
        client.ask("qmp_capabilities", json!({}), &[]);
        client
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What the daemon returns, or the words of its error.
    fn ask(&mut self, command: &str, arguments: Value, along: &[BorrowedFd<'_>]) -> Value {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(along.is_empty() || control.push(SendAncillaryMessage::ScmRights(along)));
        let parts = [IoSlice::new(text.as_bytes())];
        let sent = sendmsg(&self.stream, &parts, &mut control, SendFlags::empty());
        assert_eq!(sent, Ok(text.len()));
        loop {
            let mut answer = self.line();
            if answer.get("return").is_some() {
                return answer["return"].take();
            }
            if answer.get("error").is_some() {
                return answer["error"]["desc"].take();
            }
        }
    }
}

/// The sets as `[[id, how many]]`.
fn sets(client: &mut Client) -> Value {
    let all = client.ask("query-fdsets", json!({}), &[]);
    let one = |set: &Value| json!([set["fdset-id"], set["fds"].as_array().map(Vec::len)]);
    all.as_array().expect("a list").iter().map(one).collect()
}

fn opened(path: &str, how: &str) -> File {
    let mut options = File::options();
    options.read(true).write(how != "read");
    options.custom_flags(if how == "append" { 0o2000 } else { 0 });
    options.open(path).expect("the disk")
}

pub(crate) fn over() {
    let place = Place::new();
    let (disk, socket) = (place.path("disk"), place.path("qmp"));
    std::fs::write(&disk, vec![7; 64 << 10]).expect("a disk");
    let (_daemon, stream) = start(place.ours(), &socket, &["--device", "none"]);
    let mut first = Client::new(stream);
    let client = &mut first;
    let (reads, writes) = (opened(&disk, "read"), opened(&disk, "write"));
    let none = "No file descriptor supplied via SCM_RIGHTS";
    let add = |client: &mut Client, id: Option<i64>, file: &File| {
        let arguments = id.map_or(json!({}), |id| json!({ "fdset-id": id }));
        client.ask("add-fd", arguments, &[file.as_fd()])
    };
    let open = |client: &mut Client, name: &str, set: &str, more: &[(&str, Value)]| {
        let mut options = json!({ "driver": "file", "node-name": name });
        options["filename"] = json!(format!("/dev/fdset/{set}"));
        more.iter().for_each(|(key, value)| options[*key] = value.clone());
        client.ask("blockdev-add", options, &[])
    };

    assert_eq!(client.ask("add-fd", json!({}), &[]), none);
    assert_eq!(add(client, None, &reads)["fdset-id"], 0);
    assert_eq!(add(client, None, &reads)["fdset-id"], 1);
    assert_eq!(add(client, Some(1), &writes)["fdset-id"], 1);
    assert_eq!(add(client, Some(7), &opened(&disk, "append"))["fdset-id"], 7);
    assert_eq!(add(client, None, &reads)["fdset-id"], 2, "the lowest that is free");
    let negative = add(client, Some(-1), &reads);
    assert_eq!(negative, "Parameter 'fdset-id' expects a non-negative value");
    assert_eq!(sets(client), json!([[7, 1], [2, 1], [1, 2], [0, 1]]));

    // A file is opened by what fits it, no more and no less.
    let unfit = "Failed to find file descriptor with matching flags=0x2";
    assert_eq!(open(client, "a", "0", &[]), unfit);
    assert_eq!(open(client, "a", "0", &[("read-only", json!(true))]), json!({}));
    assert_eq!(open(client, "b", "0", &[("auto-read-only", json!(true))]), json!({}));
    assert_eq!(open(client, "c", "1", &[("read-only", json!(true))]), json!({}));
    let reopened = json!({ "options": [
        { "driver": "file", "node-name": "c", "filename": "/dev/fdset/1" }
    ] });
    assert_eq!(client.ask("blockdev-reopen", reopened, &[]), json!({}), "by the other one");
    assert_eq!(open(client, "d", "7", &[]), json!({}));
    assert_eq!(open(client, "e", "99", &[]), "Failed to find fdset /dev/fdset/99");
    for wrong in ["", "x", "7x", "-1", "99999999999999999999"] {
        let text = format!("Could not parse fdset /dev/fdset/{wrong}");
        assert_eq!(open(client, "e", wrong, &[]), text);
    }

    // A set stays for as long as one of its files is open.
    assert_eq!(client.ask("remove-fd", json!({ "fdset-id": 7 }), &[]), json!({}));
    assert_eq!(sets(client), json!([[7, 0], [2, 1], [1, 2], [0, 1]]));
    assert_eq!(open(client, "e", "7", &[]), unfit);
    assert_eq!(client.ask("blockdev-del", json!({ "node-name": "d" }), &[]), json!({}));
    assert_eq!(sets(client), json!([[2, 1], [1, 2], [0, 1]]));
    let gone = client.ask("remove-fd", json!({ "fdset-id": 7 }), &[]);
    assert_eq!(gone, "File descriptor named 'fdset-id:7' not found");
    let other = client.ask("remove-fd", json!({ "fdset-id": 1, "fd": 9999 }), &[]);
    assert_eq!(other, "File descriptor named 'fdset-id:1, fd:9999' not found");

    // What comes with a command that does not want it is there for the next one that does.
    client.ask("query-version", json!({}), &[reads.as_fd()]);
    assert_eq!(client.ask("getfd", json!({ "fdname": "later" }), &[]), json!({}));
    assert_eq!(client.ask("getfd", json!({ "fdname": "more" }), &[]), none);
    let two = [reads.as_fd(), writes.as_fd()];
    assert_eq!(client.ask("getfd", json!({ "fdname": "first" }), &two), json!({}));
    assert_eq!(client.ask("getfd", json!({ "fdname": "second" }), &[]), none);
    let digit = client.ask("getfd", json!({ "fdname": "1st" }), &two);
    assert_eq!(digit, "Parameter 'fdname' expects a name not starting with a digit");
    assert_eq!(client.ask("closefd", json!({ "fdname": "first" }), &[]), json!({}));
    let closed = client.ask("closefd", json!({ "fdname": "first" }), &[]);
    assert_eq!(closed, "File descriptor named 'first' not found");

    // The next connection knows them as well; a server listens on a socket that has come.
    drop(first);
    let client = &mut Client::new(super::setup::connect(&socket));
    let serve = |client: &mut Client, name: &str| {
        let address = json!({ "addr": { "type": "fd", "data": { "str": name } } });
        client.ask("nbd-server-start", address, &[])
    };
    assert_eq!(serve(client, "77"), "File descriptor named '77' has not been found");
    assert_eq!(serve(client, "later"), "File descriptor 'later' is not a socket");
    let path = place.path("nbd");
    let listener = UnixListener::bind(&path).expect("a socket");
    assert_eq!(client.ask("getfd", json!({ "fdname": "l" }), &[listener.as_fd()]), json!({}));
    drop(listener);
    assert_eq!(serve(client, "l"), json!({}));
    let export = json!({ "type": "nbd", "id": "x", "node-name": "c", "name": "disk" });
    assert_eq!(client.ask("block-export-add", export, &[]), json!({}));
    drop(super::nbd::open(&path, "disk"));
}

pub(crate) fn asked() {
    let place = Place::new();
    let (disk, socket) = (place.path("disk"), place.path("qmp"));
    std::fs::write(&disk, vec![7; 64 << 10]).expect("a disk");
    // Nobody asked for it.
    let (_plain, stream) = start(place.ours(), &socket, &[]);
    let client = &mut Client::new(stream);
    let absent = client.ask("query-fdsets", json!({}), &[]);
    assert_eq!(absent, "The command query-fdsets has not been found");
    let options = json!({ "driver": "file", "node-name": "a", "filename": "/dev/fdset/1" });
    let refused = client.ask("blockdev-add", options.clone(), &[]);
    assert_eq!(refused, "Could not open '/dev/fdset/1': Function not implemented");

    // The shell opens the disk, and the daemon that it becomes has it under the same number.
    let script = format!(
        "exec 9<>'{disk}'; exec '{}' --add-fd fd=9,set=1,opaque=mine --add-fd fd=9,set=4 \
         --blockdev file,node-name=a,filename=/dev/fdset/1 \
         --chardev socket,id=c,path='{socket}2',server=on,wait=off --monitor c",
        place.ours().display()
    );
    let shell = std::process::Command::new("sh").args(["-c", &script]).spawn();
    let _daemon = super::setup::Running(shell.expect("a process"));
    let client = &mut Client::new(super::setup::connect(&format!("{socket}2")));
    assert_eq!(sets(client), json!([[4, 1], [1, 1]]));
    let all = client.ask("query-fdsets", json!({}), &[]);
    assert_eq!(all[1]["fds"][0]["opaque"], "mine");
    let again = client.ask("blockdev-add", options, &[]);
    assert_eq!(again, "Duplicate nodes with node-name='a'");

    for (given, text) in [
        ("fd=9", "set option is required and must be non-negative"),
        ("set=1", "fd option is required and must be non-negative"),
        ("fd=9,set=-1", "set option is required and must be non-negative"),
        ("fd=a,set=1", "Parameter 'fd' expects a number"),
        ("fd=99,set=1", "fd is not valid or already in use"),
        ("fd=0,set=1", "fd cannot be a standard I/O stream"),
        ("fd=99,set=1,x=y", "Parameter 'x' is unexpected"),
    ] {
        let output = run(place.ours(), &["--add-fd", given], b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said, format!("qemu-storage-daemon: --add-fd {given}: {text}\n"), "{given}");
        assert_eq!(output.status.code(), Some(1), "{given}");
    }
}
