//! Daemons in scratch folders.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// So long a daemon is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// True where a program is installed; says what is skipped if not.
#[expect(clippy::print_stderr, reason = "says what is skipped, where nobody looks for results")]
pub(crate) fn have(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("SKIPPED {test}: {program} is not installed");
    }
    found
}

/// A folder in which our program has the reference's name.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    ours: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        let ours = bin.join("qemu-storage-daemon");
        symlink(env!("CARGO_BIN_EXE_sectora"), &ours).expect("a link");
        Self { folder, ours }
    }

    /// Our program, and the reference.
    pub(crate) fn both(&self) -> [PathBuf; 2] {
        [self.ours.clone(), "qemu-storage-daemon".into()]
    }

    pub(crate) fn ours(&self) -> &Path {
        &self.ours
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path in UTF-8").to_owned()
    }
}

pub(crate) fn command(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a command that ends, with `input`. The input stays open until then: where it ends before its
/// commands are carried out, the reference may stop answering.
pub(crate) fn run(program: &Path, words: &[&str], input: &[u8]) -> Output {
    let mut child = command(program, words).spawn().expect("a process");
    if let Some(stdout) = &child.stdout {
        // What a pipe has no room for when it ends, the reference leaves unsaid.
        let _ = rustix::pipe::fcntl_setpipe_size(stdout, 1 << 20);
    }
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // It may have ended already.
        let _ = stdin.write_all(&input);
        stdin
    });
    let killer = Killer::after(&child, PATIENCE);
    let output = child.wait_with_output().expect("an end");
    killer.call_off();
    drop(writer.join().expect("the input"));
    output
}

/// Ends a process that does not end by itself, so that the test fails and does not hang.
struct Killer(std::sync::mpsc::Sender<()>);

impl Killer {
    fn after(child: &Child, time: Duration) -> Self {
        let (call_off, called_off) = std::sync::mpsc::channel();
        let pid = rustix::process::Pid::from_child(child);
        std::thread::spawn(move || {
            if called_off.recv_timeout(time).is_err() {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        });
        Self(call_off)
    }

    fn call_off(self) {
        // It may just have gone off.
        let _ = self.0.send(());
    }
}

/// A daemon in the background, ended when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a daemon with a monitor on the socket `path`, and connects.
pub(crate) fn start(program: &Path, path: &str, more: &[&str]) -> (Running, UnixStream) {
    let device = format!("socket,id=c,path={path},server=on,wait=off");
    let words = [&["--chardev", &device, "--monitor", "c"], more].concat();
    let mut command = Command::new(program);
    command.args(&words).stdin(Stdio::null());
    let running = Running(command.spawn().expect("a process"));
    (running, connect(path))
}

pub(crate) fn connect(path: &str) -> UnixStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                return stream;
            }
            Err(error) => assert!(Instant::now() < end, "{path}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads on until `count` lines have come, or the end.
pub(crate) fn lines(stream: &mut impl Read, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    let mut byte = [0];
    while all.iter().filter(|b| **b == b'\n').count() < count {
        match stream.read(&mut byte) {
            Ok(1) => all.push(byte[0]),
            _ => break,
        }
    }
    split(&all)
}

pub(crate) fn split(bytes: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(bytes).expect("ASCII");
    assert!(text.is_ascii(), "{text}");
    text.split_terminator("\r\n").map(ToOwned::to_owned).collect()
}

/// A message without what differs by right: times, the program's own version.
pub(crate) fn plain(line: &str) -> Value {
    let mut value: Value = serde_json::from_str(line).unwrap_or_else(|_| line.into());
    for path in ["/QMP/version/package", "/return/package", "/timestamp"] {
        if let Some(found) = value.pointer_mut(path) {
            *found = "*".into();
        }
    }
    value
}
