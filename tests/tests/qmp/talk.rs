//! A daemon on standard input and output, in a folder of its own.

use sectora_tests::succeed;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
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
    /// The contents of each image afterwards, as the reference reads them.
    pub(crate) images: Vec<(String, String)>,
}

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
            images: Vec::new(),
        };
        talk.answers.push(listen(&hear).0);
        let begin = r#"{"execute":"qmp_capabilities"}"#.to_owned();
        let end = r#"{"execute":"quit"}"#.to_owned();
        for line in [&begin].into_iter().chain(lines).chain([&end]) {
            if writeln!(input, "{line}").is_err() {
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
        if !talk.died {
            talk.images = images(folder.path());
        }
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

/// What the images show, and whether they are sound.
fn images(folder: &Path) -> Vec<(String, String)> {
    let mut names: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder is there")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file())
        .collect();
    names.sort();
    let mut out = Vec::new();
    for path in names {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        let head = std::fs::read(&path).unwrap_or_default();
        let told = match head.starts_with(b"QFI\xfb") {
            true => {
                let check = sectora_tests::run(folder, "qemu-img", &["check", "-q", &name]);
                let map = sectora_tests::run(folder, "qemu-img", &["map", "--output=json", &name]);
                let data = String::from_utf8_lossy(&map.stdout).lines().count();
                let info = sectora_tests::run(folder, "qemu-img", &["info", &name]);
                let info = String::from_utf8_lossy(&info.stdout).into_owned();
                let kept = |line: &&str| {
                    let skip = ["disk size", "Child node", "file length", "    disk size"];
                    !skip.iter().any(|start| line.trim_start().starts_with(start.trim_start()))
                };
                // Of a snapshot the name, not the times.
                let named = |line| str::split_once(line, " B 2").map_or(line, |(name, _)| name);
                let info: Vec<&str> = info.lines().filter(kept).map(named).collect();
                format!("check {:?}, {data} extents\n{}", check.status.code(), info.join("\n"))
            }
            false => format!("{} bytes", head.len()),
        };
        out.push((name, told));
    }
    out
}
