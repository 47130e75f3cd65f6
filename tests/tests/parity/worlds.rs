//! Two copies of one folder, and what differs in them after a command line.

use crate::lines::Program;
use crate::lines::names::OVERLAYS;
use sectora_tests::succeed;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// What came of a command line.
pub(crate) enum Verdict {
    Same {
        success: bool,
    },
    /// Where it is meant to differ, and why.
    Known(&'static str),
    /// It ended by a signal, or not at all: there is nothing to compare with.
    ReferenceCrashed,
    Differ(String),
}

/// The folder before, and where its copies are made.
pub(crate) struct Worlds {
    top: TempDir,
    program: Program,
    /// What the files of a copy were like when it was made.
    fresh: BTreeMap<&'static str, Marks>,
}

/// What changes with a file: length, inode, time.
type Marks = BTreeMap<String, (u64, u64, i64, i64)>;

impl Worlds {
    pub(crate) fn new(program: Program) -> Self {
        let top = tempfile::tempdir().expect("a scratch folder");
        let before = top.path().join("before");
        fs::create_dir_all(before.join("sub")).expect("make a folder");
        for line in [
            "create -q -f raw base.raw 2M",
            "create -q -f qcow2 -b base.raw -F raw mid.qcow2",
            "create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 3M",
            "create -q -f qcow2 -o compat=0.10,cluster_size=4k -b base.raw -F raw v2.qcow2",
            "create -q -f qcow2 -o extended_l2=on -b base.raw -F raw ext.qcow2 2500k",
            "create -q -f qcow2 short.qcow2 1M",
            "create -q -f qcow2 -b short.qcow2 -F qcow2 over.qcow2 2M",
            "create -q -f qcow2 sub/short.qcow2 1M",
            "create -q -f qcow2 -b ../short.qcow2 -F qcow2 sub/low.qcow2",
            "create -q -u -f qcow2 -b gone.raw -F raw orphan.qcow2 1M",
            "create -q -f qcow2 snaps.qcow2 1M",
            "snapshot -c one snaps.qcow2",
            "create -q -f qcow2 marks.qcow2 1M",
            "bitmap --add marks.qcow2 b0",
            "bitmap --add -g 4k marks.qcow2 b1",
            "create -q -f qcow2 -o data_file=data.raw,data_file_raw=on data.qcow2 1M",
            "create -q -f qcow2 -o data_file=split.raw split.qcow2 1M",
            "create -q -f qcow2 -b json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\
             \"filename\":\"mid.qcow2\"}} -F qcow2 described.qcow2",
            "create -q --object secret,id=a,data=x -f qcow2 -o encrypt.format=luks,\
             encrypt.key-secret=a,encrypt.iter-time=10 enc.qcow2 1M",
        ] {
            succeed(&before, "qemu-img", &line.split(' ').collect::<Vec<_>>());
        }
        fs::write(before.join("odd.raw"), [7; 1000]).expect("write");
        for (image, commands) in [
            ("base.raw", &["write -P 1 0 1M", "write -P 2 1500k 9k"][..]),
            ("mid.qcow2", &["write -P 9 500k 100k", "write -z 900k 100k", "write -P 6 2040k 1k"]),
            ("top.qcow2", &["write -P 3 0 64k", "write -P 4 2500k 64k", "write -z 1M 512k"]),
            ("top.qcow2", &["write -P 7 499k 3k", "write -z 2900k 100k"]),
            ("v2.qcow2", &["write -P 3 0 64k", "write -P 7 999k 3k"]),
            ("ext.qcow2", &["write -P 3 0 64k", "write -P 7 999k 3k", "write -z 100k 10k"]),
            ("short.qcow2", &["write -P 5 0 300k"]),
            ("sub/short.qcow2", &["write -P 9 0 64k"]),
            ("sub/low.qcow2", &["write -P 3 500k 100k"]),
            ("snaps.qcow2", &["write -P 8 0 100k"]),
            ("marks.qcow2", &["write -P 8 0 100k"]),
            ("data.qcow2", &["write -P 3 100k 64k", "write -z 500k 64k"]),
            ("split.qcow2", &["write -P 3 900k 64k", "write -P 4 100k 4k"]),
            ("described.qcow2", &["write -P 3 900k 64k", "write -P 4 100k 4k"]),
            ("over.qcow2", &["write -P 3 900k 64k", "write -P 4 1500k 4k"]),
        ] {
            let format = if image.ends_with("raw") { "raw" } else { "qcow2" };
            let mut args = vec!["-f", format];
            args.extend(commands.iter().flat_map(|command| ["-c", command]));
            args.push(image);
            succeed(&before, "qemu-io", &args);
        }
        succeed(&before, "qemu-img", &["snapshot", "-c", "two", "snaps.qcow2"]);
        let encrypted = by_options("enc.qcow2");
        let args = [&ENCRYPTED[..], &[&encrypted, "-c", "write -P 6 64k 128k"]].concat();
        succeed(&before, "qemu-io", &args);
        let args = ["convert", "-c", "-O", "qcow2", "base.raw", "comp.qcow2"];
        succeed(&before, "qemu-img", &args);
        damaged(&before);
        let bin = top.path().join("bin");
        fs::create_dir(&bin).expect("make a folder");
        link(program, &bin);
        Self { top, program, fresh: BTreeMap::new() }
    }

    /// A copy of the folder as it was: the one there is, where nothing has changed in it.
    fn copy(&mut self, name: &'static str) -> PathBuf {
        let folder = self.top.path().join(name);
        if self.fresh.get(name).is_some_and(|fresh| *fresh == marks(&folder)) {
            return folder;
        }
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("remove");
        }
        // Sparse files stay sparse, which `map` and `info` tell.
        let before = self.top.path().join("before");
        let status = Command::new("cp").arg("-a").arg(before).arg(&folder).status().expect("cp");
        assert!(status.success(), "cp");
        self.fresh.insert(name, marks(&folder));
        folder
    }

    /// True after rebasing an overlay, which is not to change what it reads, where it has changed
    /// that there and has not here.
    fn only_ours_reads_as_before(&self, line: &[String]) -> bool {
        let asked = |word: &String| word == "-u" || word == "--backing-unsafe";
        if line.first().is_none_or(|verb| verb != "rebase") || line.iter().any(asked) {
            return false;
        }
        let reads_as_before = |folder: &Path| {
            OVERLAYS.iter().filter(|name| !name.starts_with("json:")).all(|name| {
                let before = self.top.path().join("before").join(name);
                let args = ["compare", "-U", &before.to_string_lossy(), name];
                sectora_tests::run(folder, "qemu-img", &args).status.success()
            })
        };
        let copy = |name: &str| self.top.path().join(name);
        reads_as_before(&copy("ours")) && !reads_as_before(&copy("theirs"))
    }

    pub(crate) fn differences(&mut self, line: &[String]) -> Verdict {
        if let Some(reason) = known(line) {
            return Verdict::Known(reason);
        }
        let (theirs, ours) = (self.copy("theirs"), self.copy("ours"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut own_path = self.top.path().join("bin").into_os_string();
        own_path.push(":");
        own_path.push(&path);
        let program = self.program.name();
        let want = run(&theirs, &path, program, line);
        let got = run(&ours, &own_path, program, line);
        // 124: it did not end.
        let Some(status) = want.status.code().filter(|status| *status != 124) else {
            return Verdict::ReferenceCrashed;
        };
        let mut what = Vec::new();
        let (out, out_ours) = (text(&want.stdout), text(&got.stdout));
        let own = |bytes: &[u8], folder: &Path| {
            text(bytes).replace(folder.to_string_lossy().as_ref(), "@")
        };
        let (err, err_ours) = (own(&want.stderr, &theirs), own(&got.stderr, &ours));
        if let Some(reason) = known_complaint(line, &err, &err_ours) {
            return Verdict::Known(reason);
        }
        let compresses = line.iter().any(|word| word.contains("driver=compress"));
        if compresses && out.contains("write failed: Input/output error") {
            return Verdict::Known(
                "compressed clusters cannot replace what an image has there, and can here",
            );
        }
        if out != out_ours || Some(status) != got.status.code() {
            what.push("output or status".to_owned());
        }
        if err != err_ours {
            what.push("complaints".to_owned());
        }
        // A command that fails leaves what was there: that is promised here, and not there.
        let success = status == 0;
        let model = match success || self.program == Program::Io {
            true => theirs,
            false => self.top.path().join("before"),
        };
        if marks(&ours) != self.fresh["ours"] || success && marks(&model) != self.fresh["theirs"] {
            what.extend(images(&model, &ours));
        }
        if what.is_empty() {
            return Verdict::Same { success };
        }
        if success && self.program == Program::Img && self.only_ours_reads_as_before(line) {
            return Verdict::Known(
                "a member of the chain rebased onto in another format reads otherwise there",
            );
        }
        let preallocates = line.first().is_some_and(|verb| verb == "resize")
            && line.iter().any(|word| word == "metadata" || word == "--preallocation=metadata");
        let content =
            |what: &String| what.contains("Content mismatch") && !what.contains("described");
        let discards = line.iter().any(|word| word.contains("discard "))
            && line
                .iter()
                .any(|word| word.contains("'backing':null") || word.ends_with("backing="));
        // Its clusters are smaller than those of the new image.
        let of_small_clusters = line.first().is_some_and(|verb| verb == "convert")
            && line.iter().any(|word| word == "-B" || word.starts_with("--backing"))
            && line.iter().any(|word| word.contains("v2.qcow2"));
        if of_small_clusters && success && what.iter().all(content) {
            return Verdict::Known(
                "what is around a copied part of a cluster comes from the new backing file there",
            );
        }
        if discards && success && what.iter().all(content) {
            return Verdict::Known("a discard hides what is named below and is not open");
        }
        if preallocates && success && what.iter().all(content) {
            return Verdict::Known("there new space may show what was in that place before");
        }
        let show = |o: &Output| format!("{}{}{}", text(&o.stdout), text(&o.stderr), o.status);
        Verdict::Differ(format!(
            "{}\n--- theirs\n{}\n--- ours\n{}",
            what.join("; "),
            show(&want),
            show(&got)
        ))
    }
}

/// Makes images whose second cluster, or whose only table, is nowhere, and one whose second cluster is
/// no compressed data.
fn damaged(folder: &Path) {
    let sound = fs::read(folder.join("short.qcow2")).expect("read");
    let number = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().expect("eight"));
    let l1 = usize::try_from(number(40)).expect("fits");
    let l2 = usize::try_from(number(l1) & 0x00ff_ffff_ffff_fe00).expect("fits");
    let first = number(l2) & 0x00ff_ffff_ffff_fe00;
    for (name, at, value) in [
        ("torn.qcow2", l2 + 8, 1 << 63 | (first + 512)),
        ("lost.qcow2", l1, 1 << 63 | (l2 as u64 + 512)),
        ("mangled.qcow2", l2 + 8, 1 << 62 | first),
    ] {
        let mut bytes = sound.clone();
        bytes[at..at + 8].copy_from_slice(&u64::to_be_bytes(value));
        fs::write(folder.join(name), bytes).expect("write");
    }
}

/// How encrypted images are named.
const ENCRYPTED: [&str; 3] = ["--object", "secret,id=a,data=x", "--image-opts"];

fn by_options(path: &str) -> String {
    format!("driver=qcow2,encrypt.key-secret=a,file.filename={path}")
}

/// True where the header of the file says so.
fn is_encrypted(path: &Path) -> bool {
    let bytes = fs::read(path).expect("read");
    bytes.starts_with(b"QFI\xfb") && bytes.get(32..36).is_some_and(|kind| kind != [0; 4])
}

/// Makes ours appear under the name of the reference.
pub(crate) fn link(program: Program, folder: &Path) {
    let own = std::env::current_exe().expect("a name");
    std::os::unix::fs::symlink(own, folder.join(program.name())).expect("link");
}

/// Why a line is known to do something else here.
fn known(line: &[String]) -> Option<&'static str> {
    let has = |word: &str| line.iter().any(|given| given.contains(word));
    let target = line.last().map(String::as_str).unwrap_or_default();
    let sources = line.get(1..line.len().saturating_sub(1)).unwrap_or_default();
    match line.first().map(String::as_str) {
        Some("convert")
            if (has("-U") || has("--force-share"))
                && sources.iter().any(|source| stands_on(source, target)) =>
        {
            Some("a source that is its own target is overwritten there while it is read")
        }
        Some("create" | "convert") if has("data_file=") && target_folder(line) => Some(
            "a new data file is made where the image will look for it, not where the tool runs",
        ),
        Some("bench") if has("-w") => Some("writes until one fails, which may be any"),
        Some("measure") if has("data_file=") => {
            Some("data in a file of its own is no part of what is measured here")
        }
        Some("measure") if has("preallocation") => {
            Some("measuring raw with a preallocation that raw does not have is refused here")
        }
        _ => None,
    }
}

/// True where what is read of `image` is in the file `below` too.
fn stands_on(image: &str, below: &str) -> bool {
    let within = |names: &[&str]| names.iter().any(|name| image.contains(name));
    image.contains(below)
        || match below {
            "base.raw" => within(&["mid", "top", "v2", "ext", "described"]),
            "mid.qcow2" => within(&["top", "described"]),
            "short.qcow2" => within(&["over", "low"]),
            _ => false,
        }
}

/// True where the line is about an image in another folder.
fn target_folder(line: &[String]) -> bool {
    line.iter().any(|word| word == "sub/new")
}

/// Why what is complained of is known to read otherwise here.
fn known_complaint(line: &[String], theirs: &str, ours: &str) -> Option<&'static str> {
    let only_read = theirs.contains("Image is read-only");
    if ours.contains("is not supported yet") || only_read && line.iter().any(|f| f == "bochs") {
        return Some("a format that cannot be read here");
    }
    let warning = "WARNING: Image format was not specified";
    if theirs.matches(warning).count() == 2 && ours.matches(warning).count() == 1 {
        return Some("the reference opens an image twice to apply a snapshot, and warns twice");
    }
    let reopens = ours.contains("a temporary snapshot cannot be reopened");
    if theirs.contains("/var/tmp/vl.") || reopens {
        return Some("the reference looks for its temporary snapshot by name, which is gone");
    }
    if ours.contains("Name the snapshot with") {
        return Some("long names of snapshot's actions, which end the reference with a fault");
    }
    let onto_itself = |target: &String| {
        let others = &line[1..line.len() - 1];
        line[0] == "rebase" && others.iter().any(|word| word.contains(target.as_str()))
    };
    let refused = ours.contains("Could not open new backing file");
    if refused && theirs.is_empty() && line.last().is_some_and(onto_itself) {
        return Some("an image rebased onto its own file, which is refused here");
    }
    let converts = line.first().is_some_and(|verb| verb == "convert");
    let compressed = converts && line.iter().any(|word| word == "-c");
    let replaces = compressed && line.iter().any(|word| word == "-n");
    if replaces && theirs.contains("error while writing at byte") && ours.is_empty() {
        return Some("compressed clusters cannot replace what an image has there, and can here");
    }
    let keyless = matches!(line.first().map(String::as_str), Some("check" | "map" | "measure"));
    let mapped = ours.is_empty() || ours.contains("external, encrypted or compressed clusters");
    if keyless && theirs.contains("'encrypt.key-secret' is required for cipher") && mapped {
        return Some("an encrypted image can be mapped, checked and measured here without its key");
    }
    let has = |text: &str| line.iter().any(|word| word.contains(text));
    let commits = line.first().is_some_and(|verb| verb == "commit") && theirs.is_empty();
    if commits && has("throttle-group=") && ours.contains("does not have a backing file") {
        return Some("an image is committed through a filter there, and by itself here");
    }
    if theirs.contains("could not get block driver info") {
        return Some("a driver that tells the reference nothing, and has no overlay either");
    }
    if theirs.contains("#block") {
        return Some("the reference gives a node without a name one of its own, and tells it");
    }
    None
}

/// Runs the `program` that is found first in `path`.
fn run(folder: &Path, path: &OsStr, program: &str, line: &[String]) -> Output {
    // A command that hangs is a finding as well: `timeout` ends with a status of its own.
    Command::new("timeout")
        .args(["60", program])
        .args(line.iter().map(|word| word.replace('@', &folder.to_string_lossy())))
        .env("PATH", path)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("timeout starts")
}

/// What is printed, without what time and place decide.
fn text(bytes: &[u8]) -> String {
    let mut out = String::new();
    // How often progress is told is not compared, and so not whether its line ends.
    let told = String::from_utf8_lossy(bytes).replace('\r', "\n");
    let progress = told.contains("/100%)");
    let step = |line: &str| progress && (line.is_empty() || line.ends_with("/100%)"));
    for line in told.lines().filter(|line| !step(line)) {
        let measured = ["Run completed in", "disk size:", "\"actual-size\":"];
        if let Some((counted, _)) = line.split_once(" ops; ") {
            out.push_str(counted);
            out.push('\n');
            continue;
        }
        // Whoever finds a mistake here tells it to somebody else.
        if line.contains("qemu.org") {
            continue;
        }
        match measured.iter().find(|start| line.trim_start().starts_with(**start)) {
            Some(start) => out.push_str(start),
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out.truncate(out.trim_end().len());
    out
}

fn marks(folder: &Path) -> Marks {
    let marks = files(folder).into_iter().map(|(name, path)| {
        let found = fs::metadata(path).expect("metadata");
        (name, (found.len(), found.ino(), found.mtime(), found.mtime_nsec()))
    });
    marks.collect()
}

fn files(folder: &Path) -> BTreeMap<String, PathBuf> {
    let mut out = BTreeMap::new();
    for part in ["", "sub"] {
        for entry in fs::read_dir(folder.join(part)).expect("list") {
            let path = entry.expect("entry").path();
            if !path.is_dir() {
                let name = path.strip_prefix(folder).expect("within").to_string_lossy();
                out.insert(name.into_owned(), path.clone());
            }
        }
    }
    out
}

/// Where the images of two folders differ.
fn images(model: &Path, ours: &Path) -> Vec<String> {
    let (want, got) = (files(model), files(ours));
    let mut what = Vec::new();
    for name in got.keys().filter(|name| !want.contains_key(*name)) {
        what.push(format!("{name} should not be there"));
    }
    for (name, path) in &want {
        let Some(found) = got.get(name) else {
            what.push(format!("{name} is missing"));
            continue;
        };
        // Nothing can be read of a socket.
        let file = path.is_file() && found.is_file();
        if !file || fs::read(path).expect("read") == fs::read(found).expect("read") {
            continue;
        }
        let info = |folder: &Path| {
            let args = ["info", "-U", "--output=json", name.as_str()];
            let output = sectora_tests::run(folder, "qemu-img", &args);
            let kept = ["virtual-size", "\"format\"", "backing", "cluster-size", "compat", "bits"];
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            // Not of the file below, which is as long as its clusters happen to lie.
            let own = |line: &&str| !line.starts_with("         ") || line.contains("compat");
            let kept = |line: &&str| kept.iter().any(|word| line.contains(word));
            let lines = text.lines().filter(own).filter(kept);
            lines.collect::<Vec<_>>().join("\n")
        };
        let (a, b) = (info(model), info(ours));
        if a != b {
            what.push(format!("{name} is described as\n{b}\nand not as\n{a}"));
        }
        let (mut a, mut b) =
            (path.to_string_lossy().into_owned(), found.to_string_lossy().into_owned());
        let mut args = vec!["compare", "-U"];
        if is_encrypted(found) {
            args.extend(ENCRYPTED);
            (a, b) = (by_options(&a), by_options(&b));
        }
        args.extend([&*a, &*b]);
        let same = sectora_tests::run(ours, "qemu-img", &args);
        if !same.status.success() {
            what.push(format!("{name}: {}", String::from_utf8_lossy(&same.stdout)));
        }
        let mut args = vec!["check", "-U"];
        if is_encrypted(found) {
            args.extend(ENCRYPTED);
        }
        args.push(&b);
        let check = sectora_tests::run(ours, "qemu-img", &args);
        // 63: there is nothing to check.
        if !matches!(check.status.code(), Some(0 | 63)) {
            what.push(format!("{name}: {}", String::from_utf8_lossy(&check.stdout)));
        }
    }
    what
}
