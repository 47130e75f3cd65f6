//! A daemon on standard input and output, in a folder of its own.

use super::client;
use super::compare::plain_line;
use sectora_tests::succeed;
use serde_json::Value;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// No command takes longer.
const PATIENCE: Duration = Duration::from_secs(8);

/// So long after an answer more of what belongs to it is waited for.
const QUIET: Duration = Duration::from_millis(4);

/// The folder that daemons get copies of.
pub(crate) struct World {
    template: TempDir,
    bin: TempDir,
}

/// What a daemon said.
#[derive(Debug)]
pub(crate) struct Talk {
    /// To each line: events before the answer, the answer, events that came at once after it.
    pub(crate) answers: Vec<Vec<Value>>,
    /// It ended before it was told to.
    pub(crate) died: bool,
    /// How it ended, where it was not killed by us.
    pub(crate) status: Option<ExitStatus>,
    /// What it complained of.
    pub(crate) complaints: String,
    /// The folder as it was left.
    folder: TempDir,
}

/// So long after a client has gone the daemon is given to notice it.
const GONE: Duration = Duration::from_millis(15);

impl World {
    /// Images `base`, `mid` (on `base`), `top` (on `mid`), `spare`, `ext` with a data file; files
    /// `raw` and `log`.
    pub(crate) fn new() -> Self {
        let template = tempfile::tempdir().expect("a scratch folder");
        let folder = template.path();
        let img = |args: &[&str]| succeed(folder, "qemu-img", args);
        img(&["create", "-q", "-f", "qcow2", "base", "4M"]);
        img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "mid"]);
        img(&["create", "-q", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top"]);
        img(&["create", "-q", "-f", "qcow2", "spare", "4M"]);
        img(&["create", "-q", "-f", "qcow2", "-o", "data_file=ext.raw", "ext", "4M"]);
        img(&["create", "-q", "-f", "raw", "raw", "4M"]);
        img(&["create", "-q", "-f", "raw", "log", "1M"]);
        for (image, pattern) in [("base", "1"), ("mid", "2"), ("top", "3")] {
            let write = format!("write -P {pattern} {pattern}00k 64k");
            succeed(folder, "qemu-io", &["-f", "qcow2", "-c", &write, image]);
        }
        let bin = tempfile::tempdir().expect("a scratch folder");
        let this = std::env::current_exe().expect("this program has a path");
        std::os::unix::fs::symlink(this, bin.path().join(super::NAME)).expect("a link");
        Self { template, bin }
    }

    /// The path under which this program is the daemon.
    pub(crate) fn ours(&self) -> String {
        self.bin.path().join(super::NAME).to_string_lossy().into_owned()
    }

    /// Sends each line when the one before has been answered.
    pub(crate) fn run(&self, program: &str, lines: &[String]) -> Talk {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let at = folder.path().to_owned();
        for entry in std::fs::read_dir(self.template.path()).expect("the folder is there") {
            let entry = entry.expect("a file");
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("a copy");
        }
        let mut complaints = tempfile::tempfile().expect("a scratch file");
        let mut daemon = Command::new(program)
            .args(["--chardev", "stdio,id=m", "--monitor", "chardev=m"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints.try_clone().expect("a second handle"))
            .spawn()
            .expect("the daemon starts");
        let output = daemon.stdout.take().expect("it is piped");
        let mut input = daemon.stdin.take().expect("it is piped");
        let (said, hear) = channel();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // What is printed for people is no message.
                if let Ok(value) = serde_json::from_str::<Value>(&line)
                    && said.send(value).is_err()
                {
                    return;
                }
            }
        });
        let mut talk = Talk {
            answers: Vec::new(),
            died: false,
            status: None,
            complaints: String::new(),
            folder,
        };
        talk.answers.push(listen(&hear).0);
        let mut late = false;
        let begin = r#"{"execute":"qmp_capabilities"}"#.to_owned();
        let end = r#"{"execute":"quit"}"#.to_owned();
        for line in [&begin].into_iter().chain(lines).chain([&end]) {
            if let Some(said) = client::run(&at, line, &mut late) {
                let mut answers = vec![said];
                while let Ok(event) = hear.recv_timeout(GONE) {
                    answers.push(event);
                }
                talk.answers.push(answers);
                continue;
            }
            // At once: a daemon that has read all of `quit` but the end of its line may be gone before
            // that is written.
            if input.write_all(format!("{line}\n").as_bytes()).is_err() {
                talk.died = true;
                break;
            }
            let (mut answers, alive) = listen(&hear);
            if alive && is_job(line) && answers.iter().any(|value| value.get("return").is_some()) {
                await_job(&hear, &mut answers);
            }
            talk.died |= !alive && *line != end;
            talk.answers.push(answers);
            if !alive {
                break;
            }
        }
        drop(input);
        let end = Instant::now() + PATIENCE;
        talk.status = loop {
            if let Some(status) = daemon.try_wait().expect("it was started") {
                break Some(status);
            }
            if Instant::now() > end {
                // It hangs: only this one is ended.
                talk.died = true;
                let _ = daemon.kill();
                daemon.wait().expect("it was started");
                break None;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        // There may be nothing, or no text.
        let _ = complaints.rewind().and_then(|()| complaints.read_to_string(&mut talk.complaints));
        reader.join().expect("the reader ends with the daemon");
        talk
    }
}

/// The program that is the engine of the npm package as a daemon.
pub(crate) fn package() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/package/daemon.mjs").to_owned()
}

/// What is said until an answer, and at once after it; false where nothing more can come.
fn listen(hear: &Receiver<Value>) -> (Vec<Value>, bool) {
    let mut out = Vec::new();
    let mut answered = false;
    loop {
        match hear.recv_timeout(if answered { QUIET } else { PATIENCE }) {
            Ok(value) => {
                let keys = ["return", "error", "QMP"];
                answered |= keys.into_iter().any(|key| value.get(key).is_some());
                out.push(value);
            }
            Err(RecvTimeoutError::Timeout) => return (out, answered),
            Err(RecvTimeoutError::Disconnected) => return (out, false),
        }
    }
}

fn is_job(line: &str) -> bool {
    line.contains("blockdev-create") || line.contains("x-blockdev-amend")
}

/// Listens until the job that a command began is over, so that its end comes before the next command.
fn await_job(hear: &Receiver<Value>, answers: &mut Vec<Value>) {
    let over = |value: &Value| value["data"]["status"] == "concluded";
    while !answers.iter().any(over) {
        match hear.recv_timeout(PATIENCE) {
            Ok(value) => answers.push(value),
            Err(_) => return,
        }
    }
}

/// What the images of two folders show, and whether they are sound, as the reference reads them;
/// those that are the same to the last byte are not told.
pub(crate) fn images(theirs: &Talk, ours: &Talk) -> [Vec<(String, String)>; 2] {
    let [a, b] = [theirs, ours].map(|talk| talk.folder.path());
    let mut names: BTreeSet<String> = BTreeSet::new();
    for folder in [a, b] {
        let entries = std::fs::read_dir(folder).expect("the folder is there");
        let files =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file());
        names.extend(
            files.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
        );
    }
    let bytes = |folder: &Path, name: &str| std::fs::read(folder.join(name)).ok();
    names.retain(|name| bytes(a, name) != bytes(b, name));
    [a, b].map(|folder| {
        let told = |name: &String| {
            let bytes = bytes(folder, name);
            (
                name.clone(),
                bytes.map_or_else(|| "missing".to_owned(), |bytes| image(folder, name, &bytes)),
            )
        };
        names.iter().map(told).collect()
    })
}

/// What one image shows. The first line is what its maker decides, where it was made inside a disk.
fn image(folder: &Path, name: &str, bytes: &[u8]) -> String {
    if !bytes.starts_with(b"QFI\xfb") {
        return format!("{} bytes, digest {:x}", bytes.len(), digest(bytes));
    }
    let run = |args: &[&str]| sectora_tests::run(folder, "qemu-img", args);
    let check = run(&["check", "-q", name]);
    let map = run(&["map", "--output=json", name]);
    // Zeroes in a part of a cluster that reads as zeroes need no entry.
    let map = String::from_utf8_lossy(&map.stdout).into_owned();
    let data = map.lines().filter(|line| line.contains(r#""data": true"#)).count();
    let info = run(&["info", name]);
    let info = String::from_utf8_lossy(&info.stdout).into_owned();
    let kept = |line: &&str| {
        let skip = ["disk size", "Child node", "file length", "    disk size"];
        !skip.iter().any(|start| line.trim_start().starts_with(start.trim_start()))
    };
    // Of a snapshot the name, not the times.
    let named = |line| str::split_once(line, " B 2").map_or(line, |(name, _)| name);
    let info: Vec<String> = info.lines().filter(kept).map(named).map(plain_line).collect();
    let plain = folder.join("read-by-the-reference");
    run(&["convert", "-O", "raw", name, &plain.to_string_lossy()]);
    let contents = std::fs::read(&plain).map_or(0, |bytes| digest(&bytes));
    // Where it could not be read, nothing was made.
    let _ = std::fs::remove_file(&plain);
    let code = check.status.code();
    format!("check {code:?}, {data} extents, digest {contents:x}\n{}", info.join("\n"))
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
