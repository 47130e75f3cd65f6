//! The images, and running both programs on copies of them.

use std::fs::{copy, create_dir_all};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// An image and how the reference makes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    pub(crate) name: &'static str,
    pub(crate) format: &'static str,
    /// Options of `qemu-img create`.
    pub(crate) create: &'static str,
    /// Commands that fill it.
    pub(crate) fill: &'static [&'static str],
}

pub(crate) const fn qcow2(
    name: &'static str,
    create: &'static str,
    fill: &'static [&'static str],
) -> Image {
    Image { name, format: "qcow2", create, fill }
}

pub(crate) const RAW: Image =
    Image { name: "raw", format: "raw", create: "", fill: &["write -P 7 1M 64k"] };
pub(crate) const OVERLAY: Image = qcow2("overlay", "-b base.raw -F raw", &["write -P 7 200k 70k"]);
pub(crate) const ALL: [Image; 7] = [
    RAW,
    qcow2("qcow2", "", &[]),
    qcow2("small_clusters", "-o cluster_size=4k", &["write -P 7 1M 70k"]),
    qcow2("subclusters", "-o extended_l2=on", &["write -P 7 100k 70k"]),
    OVERLAY,
    qcow2("compressed", "", &["write -c -P 7 64k 128k", "write -P 3 512k 64k", "write -z 1M 64k"]),
    qcow2("version_2", "-o compat=0.10", &["write -P 7 200k 70k"]),
];

/// True where the reference tools are installed; says what is skipped if not.
#[expect(clippy::print_stderr, reason = "says what is skipped, where nobody looks for results")]
pub(crate) fn have_reference_tools() -> bool {
    let found = ["qemu-img", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success()));
    if !found {
        eprintln!("SKIPPED io: qemu-img and qemu-io are not installed");
    }
    found
}

/// A folder with one image, and a folder each for the two programs.
pub(crate) struct Pair {
    folder: TempDir,
    pub(crate) image: Image,
}

impl Pair {
    pub(crate) fn new(image: Image) -> Self {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let source = folder.path().join("source");
        for name in ["source", "theirs", "ours", "bin"] {
            create_dir_all(folder.path().join(name)).expect("make a folder");
        }
        for tool in ["qemu-io", "qemu-img"] {
            let link = folder.path().join("bin").join(tool);
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sectora"), &link).expect("link");
        }
        succeed(&source, "qemu-img", &words("create -q -f raw base.raw 3M"));
        succeed(&source, "qemu-io", &["-f", "raw", "-c", "write -P 9 0 1M", "base.raw"]);
        let create = format!("create -q -f {} {} disk 4M", image.format, image.create);
        succeed(&source, "qemu-img", &words(&create));
        for command in image.fill {
            succeed(&source, "qemu-io", &["-f", image.format, "-c", command, "disk"]);
        }
        Self { folder, image }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes the bytes of the image that the copies are made of.
    pub(crate) fn forge(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.path("source/disk");
        let mut bytes = std::fs::read(&path).expect("read");
        change(&mut bytes);
        std::fs::write(&path, bytes).expect("write");
    }

    /// Copies the images afresh.
    fn reset(&self) {
        for side in ["theirs", "ours"] {
            for file in ["disk", "base.raw"] {
                let (from, to) = (self.path("source").join(file), self.path(side).join(file));
                copy(from, to).expect("copy");
            }
        }
    }

    fn run(&self, side: &str, tool: &str, args: &[&str], input: &str) -> Output {
        let ours = self.path("bin").join(tool);
        let program = if side == "ours" { ours.as_path() } else { Path::new(tool) };
        let mut child = Command::new(program)
            .args(args)
            .current_dir(self.path(side))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        // A program that ends before it has read all is no mistake of ours.
        let _ =
            std::io::Write::write_all(&mut child.stdin.take().expect("input"), input.as_bytes());
        child.wait_with_output().expect("wait")
    }

    /// Runs both on fresh copies and notes what differs. The images must be alike too, where
    /// `same_map` says so also in where they have their bytes.
    pub(crate) fn agree(
        &self,
        args: &[&str],
        input: &str,
        same_map: bool,
        problems: &mut Vec<String>,
    ) {
        let what = self.agree_on_words(args, input, problems);
        problems.extend(self.differences(same_map).map(|text| format!("{what}: {text}")));
    }

    /// Runs both qemu-io on fresh copies and notes what differs in what they say. Gives a name for it.
    pub(crate) fn agree_on_words(
        &self,
        args: &[&str],
        input: &str,
        problems: &mut Vec<String>,
    ) -> String {
        self.agree_in_words("qemu-io", args, input, problems)
    }

    /// The same of any of the programs.
    pub(crate) fn agree_in_words(
        &self,
        tool: &str,
        args: &[&str],
        input: &str,
        problems: &mut Vec<String>,
    ) -> String {
        self.reset();
        self.agree_as_it_is(tool, args, input, problems)
    }

    /// The same on the images as they are.
    pub(crate) fn agree_as_it_is(
        &self,
        tool: &str,
        args: &[&str],
        input: &str,
        problems: &mut Vec<String>,
    ) -> String {
        let theirs = self.run("theirs", tool, args, input);
        let ours = self.run("ours", tool, args, input);
        let what = format!("{} {args:?} {input:?}", self.image.name);
        let any_order = args.iter().any(|arg| arg.contains("aio_")) || input.contains("aio_");
        for (name, a, b) in
            [("stdout", &theirs.stdout, &ours.stdout), ("stderr", &theirs.stderr, &ours.stderr)]
        {
            let (a, b) = (plain(a, any_order), plain(b, any_order));
            if a != b {
                problems.push(format!("{what}: {name}\n--- theirs\n{a}\n--- ours\n{b}"));
            }
        }
        if theirs.status != ours.status {
            problems.push(format!("{what}: {} and {}", theirs.status, ours.status));
        }
        what
    }

    fn differences(&self, same_map: bool) -> Option<String> {
        let root = self.folder.path();
        let format = self.image.format;
        let compare = words("compare theirs/disk ours/disk -f").into_iter();
        let compare: Vec<&str> = compare.chain([format, "-F", format]).collect();
        let compared = output(root, "qemu-img", &compare);
        if !compared.status.success() {
            return Some(text(&compared.stdout) + &text(&compared.stderr));
        }
        if format == "qcow2" {
            let check = |disk| output(root, "qemu-img", &["check", "-f", "qcow2", disk]);
            let checked = check("ours/disk");
            if !checked.status.success() && check("theirs/disk").status.success() {
                return Some(text(&checked.stdout) + &text(&checked.stderr));
            }
        }
        let (theirs, ours) = (map(root, format, "theirs/disk"), map(root, format, "ours/disk"));
        (same_map && theirs != ours).then(|| format!("maps\n{theirs:?}\n{ours:?}"))
    }
}

/// A run of an image: start, length, layer, whether it is zero and data.
type Run = (u64, u64, u64, bool, bool);

fn map(root: &Path, format: &str, disk: &str) -> Vec<Run> {
    let out = output(root, "qemu-img", &["map", "--output=json", "-f", format, disk]);
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).expect("a map");
    let mut runs: Vec<Run> = Vec::new();
    for e in &entries {
        let number = |name: &str| e[name].as_u64().expect("a number");
        let flag = |name: &str| e[name].as_bool().expect("a flag");
        let next = (number("start"), number("length"), number("depth"), flag("zero"), flag("data"));
        match runs.last_mut() {
            Some(last) if (last.2, last.3, last.4) == (next.2, next.3, next.4) => last.1 += next.1,
            _ => runs.push(next),
        }
    }
    runs
}

pub(crate) fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(folder: &Path, tool: &str, args: &[&str]) -> Output {
    Command::new(tool)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{tool} does not start: {e}"))
}

fn succeed(folder: &Path, tool: &str, args: &[&str]) {
    let done = output(folder, tool, args);
    assert!(done.status.success(), "{tool} {args:?}: {}", text(&done.stderr));
}

/// What is printed, without what differs from run to run.
fn plain(bytes: &[u8], any_order: bool) -> String {
    let text = text(bytes);
    // Where to report a bug of theirs is not ours to say.
    let lines = text.lines().filter(|line| !line.contains("qemu.org"));
    let mut lines: Vec<String> = lines.map(without_times).collect();
    if any_order {
        lines.sort();
    }
    lines.join("\n").trim_end().to_owned()
}

fn without_times(line: &str) -> String {
    if let Some((start, _)) = line.split_once(" ops; ") {
        return format!("{start} ops;");
    }
    if let Some((start, rest)) = line.split_once("block node '")
        && let Some((_, end)) = rest.split_once('\'')
    {
        return format!("{start}block node{end}");
    }
    let fields: Vec<&str> = line.split(',').collect();
    match fields[..] {
        [bytes, count, _, _, _] if bytes.parse::<u64>().is_ok() => format!("{bytes},{count}"),
        _ => line.to_owned(),
    }
}
