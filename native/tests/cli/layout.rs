//! What only some file systems can be told of a new file: the same as qemu-img tells them. The file
//! systems are loop devices, which need the superuser and a kernel that has them.

use super::setup::{Folder, compare, report};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system in a file, until dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// A new one at `name` of the folder; `None` where there can be none.
    fn new(folder: &Folder, name: &str, kind: &str) -> Option<Self> {
        let (image, at) = (folder.path().join(format!("{name}.img")), folder.path().join(name));
        // XFS takes no less.
        File::create(&image).and_then(|file| file.set_len(300 << 20)).expect("a file");
        std::fs::create_dir(&at).expect("a folder");
        let done = |command: &mut Command| command.output().is_ok_and(|o| o.status.success());
        let made = done(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))
            && done(Command::new("mount").args(["-o", "loop"]).args([&image, &at]));
        made.then_some(Self(at))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Runs both and compares what they say, and what `told` is of the files they leave.
fn same(folder: &Folder, lines: &[&str], files: &[PathBuf], told: impl Fn(&Path) -> String) {
    let mut problems = Vec::new();
    for line in lines {
        let run = |ours: bool| {
            files.iter().for_each(|file| drop(std::fs::remove_file(file)));
            let output = if ours { folder.ours(line) } else { folder.theirs(line) };
            (output, files.iter().map(|file| told(file)).collect::<Vec<_>>())
        };
        let ((theirs, their_files), (ours, our_files)) = (run(false), run(true));
        compare(line, &theirs, &ours, &mut problems);
        if their_files != our_files {
            problems.push(format!("{line}: files {our_files:?} instead of {their_files:?}"));
        }
    }
    report(&problems);
}

/// What a program says of a file, without its name.
fn words(program: &mut Command) -> String {
    let output = program.output().expect("the program of the file system");
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}

#[expect(clippy::print_stderr, reason = "says what is skipped")]
fn skipped(what: &str) {
    eprintln!("SKIPPED layout: there can be no {what}");
}

pub(crate) fn is_as_asked() {
    let folder = Folder::new();
    folder.reference("qemu-img", "create -q -f raw small 1M");
    match Mounted::new(&folder, "x", "xfs") {
        None => skipped("XFS"),
        Some(xfs) => {
            let lines = [
                "create -f raw x/new 1M",
                "create -f raw -o extent_size_hint=0 x/new 1M",
                "create -f raw -o extent_size_hint=64k x/new 1M",
                "create -f raw -o extent_size_hint=3 x/new 1M",
                "create -f raw -o extent_size_hint=3G x/new 1M",
                "create -f raw -o extent_size_hint=4G x/new 1M",
                "create -f raw -o extent_size_hint=some x/new 1M",
                "create -f qcow2 -o extent_size_hint=2M x/new 1M",
                "create -f qcow2 -o data_file=x/data,extent_size_hint=128k new 1M",
                "convert -O raw small x/new",
                "convert -O qcow2 -o extent_size_hint=8k small x/new",
                "dd if=small of=x/new",
            ];
            let hint =
                |file: &Path| words(Command::new("xfs_io").args(["-r", "-c", "extsize"]).arg(file));
            let files = [xfs.path("new"), xfs.path("data"), folder.path().join("new")];
            same(&folder, &lines, &files, hint);
            folder.reference(
                "qemu-img",
                "create -q -f raw -o preallocation=full,extent_size_hint=256k x/full 1M",
            );
            let info = folder.ours("info x/full");
            assert!(
                String::from_utf8_lossy(&info.stdout).contains("extent size hint: 262144"),
                "{info:?}"
            );
            same(&folder, &["info x/full", "info --output=json x/full"], &[], |_| String::new());
        }
    }
    match Mounted::new(&folder, "b", "btrfs") {
        None => skipped("btrfs"),
        Some(btrfs) => {
            let lines = [
                "create -f raw b/new 1M",
                "create -f raw -o nocow=on b/new 1M",
                "create -f raw -o nocow=off b/new 1M",
                "create -f qcow2 -o nocow=on,preallocation=metadata b/new 1M",
                "convert -O qcow2 -o nocow=on small b/new",
            ];
            let flags = |file: &Path| words(Command::new("lsattr").arg(file));
            same(&folder, &lines, &[btrfs.path("new")], flags);
            folder.ours("create -q -f raw -o nocow=on b/new 1M");
            assert!(flags(&btrfs.path("new")).contains('C'));
        }
    }
    // Where there is no such thing, nobody minds.
    let lines = ["create -f raw -o nocow=on,extent_size_hint=64k new 1M"];
    same(&folder, &lines, &[folder.path().join("new")], |file| file.exists().to_string());
}
