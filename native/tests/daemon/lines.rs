//! Command lines.

use super::setup::{Place, command, run};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

/// Lines that end at once. What opens nodes is held elsewhere.
fn all() -> Vec<Vec<String>> {
    let mut out: Vec<Vec<String>> = Vec::new();
    let mut add = |words: &[&str]| out.push(words.iter().map(|w| (*w).to_owned()).collect());
    for words in [
        "--foo",
        "-x",
        "foo",
        "-",
        "--object",
        "--pidfile",
        "--daemonize=1",
        "-T",
        "--ver=1",
        "--p",
        "--e",
        "--m",
        "--n",
        "--o",
        "--c",
        "--t",
        "--object foo extra",
        "extra --object foo",
        "--monitor a",
        "--monitor chardev=a",
        "--monitor mode=control",
        "--monitor help",
        "--blockdev help",
        "--export help",
        "--nbd-server help",
        "--blockdev ?",
        "--chardev=foo,id=a",
        "--object=foo",
        "-Tfoo=1",
        "-T foo=1",
        "--trace=foo=1",
        "--chardev stdio,id=m --monitor m,mode=foo",
        "--chardev stdio,id=m --monitor m,mode=readline",
        "--chardev stdio,id=m --monitor m,pretty=x",
        "--chardev stdio,id=m --monitor m,foo=x",
        "--chardev null,id=m --monitor m --monitor m",
        "--chardev stdio,id=m --chardev stdio,id=m",
        "--chardev null,id=m --chardev null,id=m",
        "--chardev stdio,id=m --chardev stdio,id=n",
        "--monitor {\"chardev\":\"x\"}",
        "--chardev null,id=m --monitor {\"chardev\":\"m\",\"pretty\":1}",
        "--pidfile /nonexistent/x",
        "--pidfile a --pidfile /nonexistent/b",
        "--object secret,help extra",
        "--chardev backend=help",
        "--chardev ? extra",
        "--nbd-server foo",
        "--blockdev file,filename",
        "--blockdev file,file.a=1,file=2",
        "--blockdev {",
        "--export {",
        "--nbd-server {",
        "--monitor {",
    ] {
        add(&words.split(' ').collect::<Vec<_>>());
    }
    for device in [
        "",
        "foo",
        "stdio",
        "foo,id=a",
        "id=a",
        "id=a,stdio",
        "stdio,id=1",
        "stdio,id=a,foo=1",
        "stdio,id=a,signal=x",
        "file,id=a",
        "file,id=a,path=/nonexistent/b",
        "pipe,id=a",
        "pipe,id=a,path=/nonexistent/f",
        "ringbuf,id=a,size=3",
        "ringbuf,id=a,size=x",
        "socket,id=a",
        "socket,id=a,path=/tmp/x,host=b",
        "socket,id=a,path=/nonexistent/a/b,server=on,wait=off",
        "socket,id=a,path=/nonexistent/a/b",
        "socket,id=a,host=localhost",
        "socket,id=a,port=1",
        "socket,id=a,host=localhost,port=1",
        "socket,id=a,fd=99",
        "socket,id=a,fd=x",
        "socket,id=a,fd=0",
        "socket,id=a,path=/tmp/q,server=off,wait=off",
        "socket,id=a,path=/tmp/q,server=on,reconnect=1",
        "socket,id=a,path=/tmp/q,reconnect=1,reconnect-ms=5",
        "socket,id=a,path=/tmp/q,websocket=on",
        "vc,id=a",
        "null,help",
        "null,id=a,help",
        "{\"id\":\"a\"}",
        "socket,id=a,path=/tmp/q,wait=x",
        "null,id=",
        "null,id=a b",
        "socket,id=a,host=nosuchhost.invalid,port=1",
    ] {
        add(&["--chardev", device]);
    }
    for object in [
        "",
        "foo",
        "secret",
        "secret,id=a",
        "secret,help",
        "secret,id=a,help",
        "secret,id=a,help=1",
        "qom-type=help",
        "help=1",
        "{\"qom-type\":\"secret\"}",
        "{",
        "[1]",
        "{\"qom-type\":\"help\"}",
        "secret,id=s,data=x,bla=1",
        "id=s,data=x",
        "secret,=a",
        "secret,a.=b",
        "secret,.a=b",
        "secret,a..b=c",
        "secret,1a=b",
        "secret,a b=c",
        ",",
        "secret,help,foo",
        "secret,foo,help",
        "secret,a=1,a=2,id=x",
        "authz-list,id=a,rules.1.match=x",
        "authz-list,id=a,rules.0.match=x",
        "authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.2.match=x",
        "iothread,id=a,poll-max-ns=x",
        "iothread,id=a,poll-max-ns=-1",
        "iothread,id=a,thread-pool-min=5,thread-pool-max=2",
        "tls-creds-x509,id=a",
        "can-bus,id=a",
        "rng-random,id=a",
        "authz-list-file,id=a",
        "iothread,id=1",
        "iothread,help",
        "authz-list,help",
        "authz-simple,help",
        "main-loop,help",
        "tls-creds-x509,help",
        "secret,id=a,data=x,file=y",
        "{\"qom-type\":\"secret\",\"id\":\"a\",\"data\":\"x\"} x",
        "authz-simple,id=a",
        "secret,id=a,data=x,format=y",
    ] {
        add(&["--object", object]);
    }
    add(&["--object", "secret,id=a,data=x", "--object", "secret,id=a,data=y"]);
    add(&["--object", "main-loop,id=a", "--object", "main-loop,id=b"]);
    // A device or an object, and then what ends the program.
    for first in ["null,id=a", "ringbuf,id=a", "ringbuf,id=a,size=4k"] {
        for then in [
            &["extra"][..],
            &["--chardev", "null,id=a"],
            &["--monitor", "b"],
            &["--monitor", "a,x=1"],
        ] {
            add(&[&["--chardev", first], then].concat());
        }
    }
    out
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Lists tell what there is: ours, which is less.
fn is_list(words: &[String]) -> bool {
    let lists = ["--chardev backend=help", "--chardev ? extra"];
    lists.contains(&&*words.join(" "))
}

pub(crate) fn the_same() {
    let place = Place::new();
    let [ours, theirs] = place.both();
    let mut different = Vec::new();
    for words in all() {
        let given: Vec<&str> = words.iter().map(|word| &**word).collect();
        let (got, want) = (told(&run(&ours, &given, b"")), told(&run(&theirs, &given, b"")));
        let same = match is_list(&words) {
            true => {
                let known = |line: &str| want.1.lines().any(|other| other == line);
                got.0 == want.0 && got.1.lines().all(known)
            }
            false => got == want,
        };
        if !same {
            different.push(format!("{given:?}\n  ours   {got:?}\n  theirs {want:?}"));
        }
    }
    assert!(different.is_empty(), "{} lines differ:\n{}", different.len(), different.join("\n"));
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + super::setup::PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn pid_in(path: &str) -> Option<Pid> {
    let text = std::fs::read_to_string(path).ok()?;
    text.strip_suffix('\n')?.parse().ok().and_then(Pid::from_raw)
}

pub(crate) fn pid_file() {
    let place = Place::new();
    let path = place.path("pid");
    let mut first = command(place.ours(), &["--pidfile", &path]).spawn().expect("a process");
    until("the pid file", || pid_in(&path).is_some());
    assert_eq!(pid_in(&path), Some(Pid::from_child(&first)));
    let second = run(place.ours(), &["--pidfile", &path], b"");
    let text = "qemu-storage-daemon: cannot create PID file: Cannot lock pid file: Resource temporarily unavailable\n";
    assert_eq!(told(&second), (Some(1), String::new(), text.into()));
    assert_eq!(pid_in(&path), Some(Pid::from_child(&first)), "it was left alone");
    kill_process(Pid::from_child(&first), Signal::TERM).expect("a signal");
    assert!(first.wait().expect("an end").success());
    assert!(!Path::new(&path).exists());
}

pub(crate) fn background() {
    let place = Place::new();
    let (path, socket) = (place.path("pid"), place.path("socket"));
    let device = format!("socket,id=c,path={socket},server=on,wait=off");
    let words = ["--daemonize", "--pidfile", &path, "--chardev", &device, "--monitor", "c"];
    let parent = run(place.ours(), &words, b"");
    assert_eq!(told(&parent), (Some(0), String::new(), String::new()));
    assert!(pid_in(&path).is_some(), "it is ready when the parent ends");
    let mut stream = super::setup::connect(&socket);
    stream.write_all(br#"{"execute":"qmp_capabilities"}{"execute":"quit"}"#).expect("a client");
    assert_eq!(super::setup::lines(&mut stream, 3).len(), 3);
    until("the end", || !Path::new(&path).exists() && !Path::new(&socket).exists());
    let wrong = run(place.ours(), &["--daemonize", "--chardev", "stdio,id=a"], b"");
    let text = "qemu-storage-daemon: --chardev stdio,id=a: cannot use stdio with -daemonize\n";
    assert_eq!(told(&wrong), (Some(1), String::new(), text.into()));
}
