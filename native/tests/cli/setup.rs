//! Scratch folders with images, and running both programs in them.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// True where the reference tools are installed; says on standard error what is skipped if not.
#[expect(clippy::print_stderr, reason = "says what is skipped, where nobody looks for results")]
pub(crate) fn have_reference_tools() -> bool {
    let found = ["qemu-img", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success()));
    if !found {
        eprintln!("SKIPPED cli: qemu-img and qemu-io are not installed");
    }
    found
}

/// A scratch folder.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a scratch folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file with these contents at these offsets, holes between them.
    pub(crate) fn file(&self, name: &str, len: u64, runs: &[(u64, Vec<u8>)]) {
        let mut file = File::create(self.path().join(name)).expect("create");
        file.set_len(len).expect("set the length");
        for (offset, bytes) in runs {
            file.seek(SeekFrom::Start(*offset)).expect("seek");
            file.write_all(bytes).expect("write");
        }
    }

    /// Runs the reference, which must succeed.
    pub(crate) fn reference(&self, tool: &str, args: &str) -> String {
        let output = self.run(tool, args);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{tool} {args}: {}\n{text}{error}", output.status);
        text
    }

    /// Runs the reference's `qemu-img`.
    pub(crate) fn theirs(&self, args: &str) -> Output {
        self.run("qemu-img", args)
    }

    /// Runs ours under its name.
    pub(crate) fn ours(&self, args: &str) -> Output {
        let link = self.path().join(".bin/qemu-img");
        if !link.exists() {
            std::fs::create_dir_all(self.path().join(".bin")).expect("make a folder");
            std::os::unix::fs::symlink(program(), &link).expect("link");
        }
        self.run(link.to_str().expect("a name"), args)
    }

    /// Runs `sectora`.
    pub(crate) fn sectora(&self, args: &str) -> Output {
        self.run(program(), args)
    }

    /// `sectora`, ready to be started.
    pub(crate) fn command(&self, args: &str) -> Command {
        let mut command = Command::new(program());
        command.args(words(args)).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    fn run(&self, tool: &str, args: &str) -> Output {
        Command::new(tool)
            .args(words(args))
            .current_dir(self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{tool} does not start: {e}"))
    }

    /// The names in the folder, hidden ones too.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("list");
        let name = |entry: std::fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("entry"))).collect();
        names.retain(|name| name != ".bin");
        names.sort();
        names
    }

    /// Both programs do the same: standard output, exit status, and whether there is a message.
    pub(crate) fn agree(&self, args: &str, problems: &mut Vec<String>) {
        compare(args, &self.theirs(args), &self.ours(args), problems);
    }
}

/// Notes where two runs differ.
pub(crate) fn compare(args: &str, theirs: &Output, ours: &Output, problems: &mut Vec<String>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let differ = theirs.stdout != ours.stdout
        || theirs.status.code() != ours.status.code()
        || theirs.stderr.is_empty() != ours.stderr.is_empty();
    if differ {
        let show = |o: &Output| format!("{}{}{}", text(&o.stdout), text(&o.stderr), o.status);
        problems.push(format!("{args}\n--- theirs\n{}\n--- ours\n{}\n", show(theirs), show(ours)));
    }
}

/// Fails with all problems at once.
pub(crate) fn report(problems: &[String]) {
    assert!(problems.is_empty(), "{} differences:\n{}", problems.len(), problems.join("\n"));
}

pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_sectora")
}

/// The words of a command line; `''` is an empty one.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace().map(|word| if word == "''" { "" } else { word })
}

/// Bytes that do not compress and do not repeat.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        out.extend(next());
    }
    out.truncate(len);
    out
}

/// Images of many kinds, made by the reference.
pub(crate) fn images() -> (Folder, Vec<&'static str>) {
    let folder = Folder::new();
    let runs = [(0, vec![0x55; 1 << 20]), (3 << 20, noise(1, 64 << 10)), (7 << 20, noise(2, 3000))];
    folder.file("plain.raw", 10 << 20, &runs);
    folder.file("three.raw", 3, &[(0, b"abc".to_vec())]);
    folder.file("empty.raw", 0, &[]);
    folder.file("text.raw", 5 << 10, &[(0, vec![b'x'; 5 << 10])]);
    std::fs::create_dir(folder.path().join("sub")).expect("make a folder");
    for line in [
        "create -q -f qcow2 new.qcow2 10M",
        "create -q -f qcow2 -o compat=0.10,cluster_size=4k old.qcow2 300M",
        "create -q -f qcow2 empty.qcow2 0",
        "create -q -f qcow2 -o cluster_size=2M,refcount_bits=1 large.qcow2 1T",
        "create -q -f qcow2 -o extended_l2=on,compression_type=zstd,lazy_refcounts=on ext.qcow2 9M",
        "create -q -f qcow2 -o preallocation=metadata meta.qcow2 5M",
        "create -q -f qcow2 -o data_file=data.raw ext-data.qcow2 4M",
        "create -q -f qcow2 -o data_file=data2.raw,data_file_raw=on raw-data.qcow2 4M",
        "convert -O qcow2 -c plain.raw zlib.qcow2",
        "convert -O qcow2 -c -o compression_type=zstd plain.raw zstd.qcow2",
        "convert -O qcow2 -o cluster_size=512 plain.raw small.qcow2",
        "create -q -f qcow2 -b plain.raw -F raw over.qcow2",
        "create -q -f qcow2 -b ../over.qcow2 -F qcow2 sub/top.qcow2 20M",
        "create -q -u -f qcow2 -b gone.raw -F raw orphan.qcow2 10M",
        "create -q -f qcow2 leak.qcow2 10M",
        "create -q -f qcow2 torn.qcow2 10M",
        "create -q -f qcow2 marked.qcow2 10M",
    ] {
        folder.reference("qemu-img", line);
    }
    for (image, commands) in [
        ("ext.qcow2", &["write 100k 10k", "write -z 1M 3k", "write 5M 1M"][..]),
        ("ext-data.qcow2", &["write 1M 128k"]),
        ("raw-data.qcow2", &["write 1M 128k"]),
        ("over.qcow2", &["write -z 0 64k", "write 5M 100k", "discard 0 128k"]),
        ("sub/top.qcow2", &["write 5M 4k", "write 19M 1k"]),
        ("old.qcow2", &["write 200M 1M", "write 100M 4k"]),
        ("large.qcow2", &["write 500G 1k"]),
        ("leak.qcow2", &["write 1M 128k", "write 4M 64k"]),
        ("torn.qcow2", &["write 1M 128k", "write 4M 64k"]),
        ("marked.qcow2", &["write 1M 128k"]),
    ] {
        let io: String =
            commands.iter().map(|c| format!(" -c {}", c.replace(' ', "\u{1}"))).collect();
        let mut command = Command::new("qemu-io");
        let args = io.split_whitespace().map(|w| w.replace('\u{1}', " "));
        let run =
            command.args(args).arg(image).current_dir(folder.path()).output().expect("qemu-io");
        assert!(run.status.success(), "qemu-io {image}");
    }
    for line in [
        "snapshot -c one marked.qcow2",
        "snapshot -c second-snapshot-with-a-long-name marked.qcow2",
        "bitmap --add marked.qcow2 b0",
        "bitmap --add -g 32k --disable marked.qcow2 b1",
    ] {
        folder.reference("qemu-img", line);
    }
    // Entries of the L2 table, and one of the refcounts, as a crash might leave them.
    patch(&folder, "leak.qcow2", 0x40000 + 64 * 8, &[0; 8]);
    patch(&folder, "torn.qcow2", 0x20000 + 5 * 2, &[0; 2]);
    let images = vec![
        "plain.raw",
        "three.raw",
        "empty.raw",
        "text.raw",
        "new.qcow2",
        "old.qcow2",
        "empty.qcow2",
        "large.qcow2",
        "ext.qcow2",
        "meta.qcow2",
        "ext-data.qcow2",
        "raw-data.qcow2",
        "zlib.qcow2",
        "zstd.qcow2",
        "small.qcow2",
        "over.qcow2",
        "sub/top.qcow2",
        "sub/../over.qcow2",
        "orphan.qcow2",
        "leak.qcow2",
        "torn.qcow2",
        "marked.qcow2",
        "file:plain.raw",
        "missing",
        "sub",
    ];
    (folder, images)
}

fn patch(folder: &Folder, name: &str, offset: u64, bytes: &[u8]) {
    let path = folder.path().join(name);
    let mut file = File::options().write(true).open(path).expect("open");
    file.seek(SeekFrom::Start(offset)).expect("seek");
    file.write_all(bytes).expect("write");
}
