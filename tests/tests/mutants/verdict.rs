//! Both tools on copies of one image, and whether they come to the same.

use sectora_tests::STRICTER;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Seconds after which a tool hangs.
const PATIENCE: &str = "60";

/// What is done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Read,
    Check,
    Repair,
    ReadAgain,
}

impl Step {
    pub(crate) const ALL: [Self; 4] = [Self::Read, Self::Check, Self::Repair, Self::ReadAgain];
}

/// What both came to.
#[derive(Debug)]
pub(crate) struct Done {
    /// They read it, or it is sound.
    pub(crate) success: bool,
    /// They cannot even check it.
    pub(crate) hopeless: bool,
    /// The most memory that ours had at once, in KiB.
    pub(crate) peak: u64,
}

/// What they do not agree on.
#[derive(Debug)]
pub(crate) enum Difference {
    ReferenceCrashed,
    /// On purpose.
    Named(&'static str),
    Unexplained(String),
}

/// Says how much memory this process had at most, where that is asked for.
pub(crate) fn tell_peak() {
    if let Some(file) = std::env::var_os("SECTORA_PEAK") {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.split_whitespace().next()).unwrap_or("0");
        fs::write(file, peak).expect("write");
    }
}

/// The tools, and a folder for each with what images refer to.
pub(crate) struct Tools {
    top: TempDir,
    program: PathBuf,
    secret: String,
}

impl Tools {
    pub(crate) fn new(secret: &str) -> Self {
        let top = tempfile::tempdir().expect("a scratch folder");
        for name in ["theirs", "ours", "bin"] {
            fs::create_dir(top.path().join(name)).expect("make a folder");
        }
        let program = top.path().join("bin/qemu-img");
        symlink(std::env::current_exe().expect("this program"), &program).expect("link");
        Self { top, program, secret: format!("secret,id=s,data={secret}") }
    }

    /// Where bases are made.
    pub(crate) fn folder(&self) -> &Path {
        self.top.path()
    }

    /// Copies of an image for both.
    pub(crate) fn pair(&self, bytes: &[u8], encrypted: bool) -> Pair<'_> {
        for name in ["theirs", "ours"] {
            let folder = self.top.path().join(name);
            for entry in fs::read_dir(&folder).expect("list") {
                fs::remove_file(entry.expect("entry").path()).expect("remove");
            }
            fs::write(folder.join("image.qcow2"), bytes).expect("write");
            // The data file of the bases that have one.
            let data = self.top.path().join("data.raw");
            if data.exists() {
                fs::copy(&data, folder.join("data.raw")).expect("copy");
            }
        }
        let field = |at: usize| {
            let bytes = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
            bytes.map_or(0, u64::from_be_bytes)
        };
        let (incompatible, autoclear) = (field(72), field(88));
        Pair { tools: self, encrypted, directory: bitmap_directory(bytes), incompatible, autoclear }
    }
}

/// Copies of one image.
pub(crate) struct Pair<'a> {
    tools: &'a Tools,
    encrypted: bool,
    /// Where the directory of its bitmaps lies.
    directory: Option<u64>,
    /// Its features.
    incompatible: u64,
    autoclear: u64,
}

/// One tool's answer.
struct Answer {
    output: Output,
    words: String,
    peak: u64,
}

/// The beginning of what a tool has said.
fn head(words: &str) -> String {
    words.chars().take(600).collect()
}

impl Answer {
    /// The exit status; `None` where it ended by a signal or was ended.
    fn code(&self) -> Option<i32> {
        self.output.status.code().filter(|code| *code < 124)
    }
}

impl Pair<'_> {
    fn run(&self, name: &str, step: Step) -> Answer {
        let folder = self.tools.top.path().join(name);
        let program = match name {
            "ours" => self.tools.program.as_os_str(),
            _ => "qemu-img".as_ref(),
        };
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", PATIENCE]).arg(program).current_dir(&folder);
        command.stdin(Stdio::null()).env("SECTORA_PEAK", folder.join("peak"));
        let verb: &[&str] = match step {
            Step::Read | Step::ReadAgain => &["convert", "-O", "raw"],
            Step::Check => &["check"],
            Step::Repair => &["check", "-r", "all"],
        };
        command.args(verb);
        match self.encrypted {
            true => {
                let image = "driver=qcow2,encrypt.key-secret=s,file.filename=image.qcow2";
                command.args(["--object", &self.tools.secret, "--image-opts", image]);
            }
            false => drop(command.args(["-f", "qcow2", "image.qcow2"])),
        }
        if verb[0] == "convert" {
            command.arg("out.raw");
        }
        let output = command.output().expect("it starts");
        let words = String::from_utf8_lossy(&output.stderr).into_owned()
            + &String::from_utf8_lossy(&output.stdout);
        let peak = fs::read_to_string(folder.join("peak")).unwrap_or_default();
        Answer { output, words, peak: peak.trim().parse().unwrap_or(0) }
    }

    /// Makes a step with both. `broken`: what was broken in the image.
    pub(crate) fn compare(&self, step: Step, broken: &str) -> Result<Done, Difference> {
        let (theirs, ours) = (self.run("theirs", step), self.run("ours", step));
        let show = |how: &str| {
            Difference::Unexplained(format!(
                "{how}\nreference, {}: {}\nours, {}: {}",
                theirs.output.status,
                head(&theirs.words),
                ours.output.status,
                head(&ours.words)
            ))
        };
        let Some(our_code) = ours.code() else {
            return Err(show("ours ends by a signal, or not at all"));
        };
        let Some(their_code) = theirs.code() else { return Err(Difference::ReferenceCrashed) };
        if ours.words.contains("panicked") {
            return Err(show("ours panics"));
        }
        let same = match step {
            Step::Read | Step::ReadAgain => (their_code == 0) == (our_code == 0),
            // Sound, not completed, damaged, leaking.
            Step::Check | Step::Repair => their_code == our_code,
        };
        if !same && step == Step::Repair && our_code == 0 {
            let judge = Command::new("qemu-img")
                .args(["check", "-f", "qcow2", "image.qcow2"])
                .current_dir(self.tools.top.path().join("ours"))
                .output();
            if !self.encrypted && judge.expect("it starts").status.success() {
                return Err(Difference::Named("ours repairs what the reference leaves"));
            }
        }
        if !same && step == Step::Repair && their_code == 0 && self.loses_snapshots() {
            return Err(Difference::Named(
                "the reference loses the snapshots of an image with autoclear bits, broken ones too",
            ));
        }
        if !same && step == Step::Repair && their_code == 0 && self.only_ours_keeps_the_disk() {
            return Err(Difference::Named("the reference's repair changes what the disk shows"));
        }
        if !same {
            return Err(match reason(step, broken, &theirs, &ours) {
                Some(reason) => Difference::Named(reason),
                None => show("they do not agree"),
            });
        }
        let success = our_code == 0;
        if success && matches!(step, Step::Read | Step::ReadAgain) && !self.read_the_same() {
            return Err(match self.lengths() {
                // It is one of sectors, and what is less than one at the end has to be somewhere.
                (theirs, ours) if ours == theirs + 512 => {
                    Difference::Named("the reference leaves out what follows the last sector")
                }
                _ if step == Step::ReadAgain && self.shows_directory(broken) => Difference::Named(
                    "the reference marks bitmaps in a cluster that the disk has too",
                ),
                _ if step == Step::ReadAgain && self.keeps_the_disk() => {
                    Difference::Named("the reference's repair changes what the disk shows")
                }
                _ if step == Step::ReadAgain && self.lacks_data_file(broken) => {
                    Difference::Named("a disk that shows the image's own structures")
                }
                _ => show("they read other data"),
            });
        }
        if success && step == Step::Read {
            let ours = self.tools.top.path().join("ours");
            fs::rename(ours.join("out.raw"), ours.join("before.raw")).expect("rename");
        }
        let hopeless = step == Step::Check && our_code == 1;
        Ok(Done { success, hopeless, peak: ours.peak })
    }

    /// True where a cluster of the disk was made the directory of bitmaps.
    fn shows_directory(&self, broken: &str) -> bool {
        let place = |value: u64| value & 0x00ff_ffff_ffff_fe00;
        self.directory.is_some_and(|at| broken_entries(broken).any(|value| place(value) == at))
    }

    /// True where ours reads what it, and the reference, read before the repair.
    fn keeps_the_disk(&self) -> bool {
        let ours = self.tools.top.path().join("ours");
        let (before, now) = (ours.join("before.raw"), ours.join("out.raw"));
        before.exists() && are_the_same(&before, &now)
    }

    /// True where the disk reads otherwise after the reference's repair, and after ours as before.
    fn only_ours_keeps_the_disk(&self) -> bool {
        let top = self.tools.top.path();
        let (theirs, ours) =
            (self.run("theirs", Step::ReadAgain), self.run("ours", Step::ReadAgain));
        let read = theirs.code() == Some(0) && ours.code() == Some(0);
        read && self.keeps_the_disk()
            && !are_the_same(&top.join("ours/before.raw"), &top.join("theirs/out.raw"))
    }

    /// True where the header of an image with a data file says that it has none: the places of
    /// the disk are those of tables then, which a repair changes.
    fn lacks_data_file(&self, broken: &str) -> bool {
        const DATA_FILE: u64 = 1 << 2;
        broken.contains("data_file=") && self.incompatible & DATA_FILE == 0
    }

    /// True where the reference writes the header anew before it knows of the snapshots, for
    /// bitmaps or bits that it does not know, and only ours has some left.
    fn loses_snapshots(&self) -> bool {
        let count = |name: &str| {
            let image = fs::read(self.tools.top.path().join(name).join("image.qcow2"));
            let image = image.unwrap_or_default();
            image.get(60..64).is_some_and(|field| field.iter().any(|byte| *byte != 0))
        };
        self.autoclear != 0 && count("ours") && !count("theirs")
    }

    /// How much both have read.
    fn lengths(&self) -> (u64, u64) {
        let len = |name: &str| {
            let file = self.tools.top.path().join(name).join("out.raw");
            fs::metadata(file).map_or(0, |found| found.len())
        };
        (len("theirs"), len("ours"))
    }

    /// Compares what both have read.
    fn read_the_same(&self) -> bool {
        let top = self.tools.top.path();
        are_the_same(&top.join("theirs/out.raw"), &top.join("ours/out.raw"))
    }
}

/// Compares two disks. They may be long, with nothing in most of them.
fn are_the_same(a: &Path, b: &Path) -> bool {
    let args = ["compare", "-f", "raw", "-F", "raw"];
    let found = Command::new("timeout")
        .args(["-s", "KILL", PATIENCE, "qemu-img"])
        .args(args)
        .args([a, b])
        .output()
        .expect("it starts");
    found.status.success()
}

/// True where the entry of a compressed cluster was broken.
fn breaks_compressed(broken: &str) -> bool {
    broken_entries(broken).any(|value| value >> 62 & 1 == 1)
}

/// What L2 entries were made (`L2 entry at 0x…: 0x… -> 0x…`).
fn broken_entries(broken: &str) -> impl Iterator<Item = u64> {
    let entries = broken.split(", ").filter(|part| part.starts_with("L2 entry at "));
    entries.filter_map(|part| u64::from_str_radix(part.rsplit_once("-> 0x")?.1, 16).ok())
}

/// Where the header says that the directory of bitmaps lies: in its extension.
fn bitmap_directory(bytes: &[u8]) -> Option<u64> {
    let mut at = usize::try_from(u32::from_be_bytes(bytes.get(100..104)?.try_into().ok()?)).ok()?;
    loop {
        let head = bytes.get(at..at.checked_add(8)?)?;
        let (kind, len) = (&head[..4], u32::from_be_bytes(head[4..].try_into().ok()?));
        match kind {
            [0, 0, 0, 0] => return None,
            [0x23, 0x85, 0x28, 0x75] => {
                let offset = bytes.get(at + 24..at + 32)?.try_into().ok()?;
                return Some(u64::from_be_bytes(offset));
            }
            _ => {
                at = at
                    .checked_add(8)?
                    .checked_add(usize::try_from(len).ok()?.next_multiple_of(8))?
            }
        }
    }
}

/// Differences on purpose ("Deviations" of `docs/formats/qcow2.md`), by what either says.
fn reason(step: Step, broken: &str, theirs: &Answer, ours: &Answer) -> Option<&'static str> {
    let they_say = |words: &[&str]| words.iter().any(|word| theirs.words.contains(word));
    let we_say = |words: &[&str]| words.iter().any(|word| ours.words.contains(word));
    let (they_fail, we_fail) = (theirs.code() != Some(0), ours.code() != Some(0));
    if matches!(step, Step::Read | Step::ReadAgain) {
        if we_fail && we_say(&["a table lies past the end of the file"]) {
            return Some("a table past the end of the file; the reference takes it for zeroes");
        }
        if we_fail && we_say(&["L1 table at"]) && we_say(&["exceeds the file"]) {
            return Some("a table past the end of the file; the reference takes it for zeroes");
        }
        if we_fail && we_say(&["the key material ends at"]) {
            return Some("an encryption header that is too short for its key slots");
        }
        if we_fail && we_say(&["1 to 65535 are possible"]) {
            return Some("a bitmaps extension that is impossible");
        }
        if we_fail && we_say(&["snapshot table"]) {
            return Some("a broken snapshot table; the reference opens the image all the same");
        }
        if we_fail && we_say(&["the bitmaps bit is set without a bitmaps extension"]) {
            return Some("the bitmaps bit without its extension, an error to the specification");
        }
        if they_fail && they_say(&["does not match guest cluster offset"]) {
            return Some("a place in a data file that nothing is read from");
        }
        if they_fail && they_say(&["Header extension too large"]) {
            return Some("an end of the header extensions that has a length");
        }
        if step == Step::ReadAgain && they_fail && !we_fail && they_say(&["Could not open"]) {
            return Some("the reference does not open what it has repaired");
        }
        if we_fail && we_say(&["table offset"]) && we_say(&["is not a cluster of the image"]) {
            return Some("a table past the end of the file; the reference takes it for zeroes");
        }
        if we_fail && we_say(&["header length"]) && we_say(&["is not a multiple of 8"]) {
            return Some("a header length that the specification forbids");
        }
        let unreadable = theirs.words.contains("error while reading at byte")
            && theirs.words.trim_end().ends_with(": Input/output error");
        if they_fail && !we_fail && unreadable && breaks_compressed(broken) {
            return Some("compressed data whose length is said to be more than there is");
        }
        if they_fail && they_say(&["itmap"]) {
            return Some("broken bitmaps; the disk is read by ours all the same");
        }
        return None;
    }
    if we_fail && we_say(&["the bitmaps bit is set without a bitmaps extension"]) {
        return Some("the bitmaps bit without its extension, an error to the specification");
    }
    if we_fail && we_say(&["the key material ends at"]) {
        return Some("an encryption header that is too short for its key slots");
    }
    if we_fail && we_say(&["reserved bits set"]) && !they_say(&["reserved bits set"]) {
        return Some("reserved bits of version 2, which the reference does not look at");
    }
    if we_fail && we_say(&STRICTER) {
        return Some("the check of ours looks closer");
    }
    if step == Step::Repair && we_say(&["too much is referred to past the end of the file"]) {
        return Some("too much past the end of the file for ours to write there");
    }
    let as_zeroes = "Preallocated cluster is not properly aligned";
    let corrected =
        theirs.words.contains("Repairing offset=") && !ours.words.contains("Repairing offset=");
    if step == Step::Repair && corrected && we_say(&[as_zeroes]) && broken.contains("L1 entry") {
        return Some("a table that is data too, into which ours does not write");
    }
    if theirs.code() == Some(1) && (we_fail || they_say(&["itmap", "xtension"])) {
        return Some("the reference cannot complete its check");
    }
    if theirs.code() == Some(1) && step == Step::Repair {
        return Some("the reference cannot complete its repair");
    }
    None
}
