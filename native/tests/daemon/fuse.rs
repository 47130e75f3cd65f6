//! Disks as files: the same calls on the reference's file and on ours.

use super::monitor::Monitor;
use super::setup::Place;
use rustix::fs::{FallocateFlags, Mode, SeekFrom, Uid};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Where mounting needs neither a helper nor luck: the device is there, and the user may mount.
#[expect(clippy::print_stderr, reason = "says what is skipped, where nobody looks for results")]
pub(crate) fn can_mount(test: &str) -> bool {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let can = device.is_ok() && rustix::process::geteuid().is_root();
    if !can {
        eprintln!("SKIPPED {test}: no /dev/fuse, or no right to mount");
    }
    can
}

/// A file that lets go of what covers it, whatever becomes of the test.
struct Mountpoint(String);

impl Mountpoint {
    fn new(place: &Place, name: &str) -> Self {
        let path = place.path(name);
        std::fs::write(&path, b"").expect("a file");
        Self(path)
    }
}

impl Drop for Mountpoint {
    fn drop(&mut self) {
        let how = rustix::mount::UnmountFlags::DETACH;
        // It is uncovered where all went well.
        let _ = rustix::mount::unmount(&*self.0, how);
    }
}

fn daemon(place: &Place, program: usize, name: &str, format: &str) -> Monitor {
    let image = place.path(&format!("{name}.img"));
    let made = std::process::Command::new(env!("CARGO_BIN_EXE_sectora"))
        .args(["img", "create", "-q", "-f", format, &image, "1M"])
        .status();
    assert!(made.expect("a process").success());
    let mut monitor = Monitor::start(&place.both()[program], &place.path(&format!("{name}.qmp")));
    monitor.done(
        "blockdev-add",
        json!({ "driver": "file", "node-name": "f", "filename": image, "discard": "unmap" }),
    );
    monitor.done(
        "blockdev-add",
        json!({
            "driver": format, "node-name": "d", "file": "f", "discard": "unmap"
        }),
    );
    monitor
}

fn export(mountpoint: &str, more: &Value) -> Value {
    let mut options = json!({
        "type": "fuse", "id": "e", "node-name": "d", "mountpoint": mountpoint,
    });
    let map = options.as_object_mut().expect("an object");
    map.extend(more.as_object().expect("an object").clone());
    options
}

/// What a call says, in words.
fn words<T: std::fmt::Debug>(result: Result<T, Errno>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => format!("{error:?}"),
    }
}

fn of_std<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, b| sum.wrapping_mul(31).wrapping_add((*b).into()))
}

/// Everything that can be done with the file `path`, and what comes of it.
fn calls(path: &str, raw: bool) -> Vec<String> {
    let mut seen = Vec::new();
    let stat = std::fs::metadata(path).expect("a file");
    let plain = (stat.mode(), stat.nlink(), stat.uid(), stat.gid(), stat.ino(), stat.size());
    seen.push(format!("{plain:?}, unit {}", stat.blksize()));
    if raw {
        seen.push(format!("{} blocks", stat.blocks()));
    }
    // Root may open it whatever its mode is.
    let file = OpenOptions::new().read(true).write(true).open(path).expect("it opens");
    let read = |at: u64, len: usize| {
        let mut data = vec![0; len];
        let got = of_std(file.read_at(&mut data, at))?;
        Ok((got, sum(&data[..got])))
    };
    let size = || std::fs::metadata(path).expect("a file").size();
    let mut note = |what: &str, result: String| seen.push(format!("{what}: {result}, {}", size()));

    for (len, at) in [(4096, 0), (1000, 70001), (512, MIB - 512), (1, MIB - 1), (0, 5)] {
        let data: Vec<u8> = (0..len).map(|i| (i % 253) as u8 + 1).collect();
        note(&format!("write {len} at {at}"), words(of_std(file.write_at(&data, at))));
    }
    for (len, at) in [(200_000, 0), (8192, MIB - 4096), (512, 2 * MIB), (1, 70001)] {
        note(&format!("read {len} at {at}"), words(read(at, len)));
    }
    for mode in [0, 1, 2, 3, 8, 0x10, 0x11, 0x20, 0x40, 0x13] {
        for (at, len) in [(0, 4096), (70001, 1000), (65536, 65536), (MIB - 4096, 8192)] {
            let flags = FallocateFlags::from_bits_retain(mode);
            let result = rustix::fs::fallocate(&file, flags, at, len);
            note(&format!("fallocate {mode:#x} {at}+{len}"), words(result));
            // What is done to a page is seen through other doors only when it is read anew.
            note("read", words(read(at, len as usize)));
        }
    }
    for at in [0, 4096, 65536, 70001, MIB - 1, MIB, size(), 4 * MIB] {
        for (name, whence) in [("data", SeekFrom::Data(at)), ("hole", SeekFrom::Hole(at))] {
            note(&format!("{name} from {at}"), words(rustix::fs::seek(&file, whence)));
        }
    }
    for (before, len) in [(1024, 4096), (0, 4096)] {
        let at = size() - before;
        note(
            &format!("write over the end, {before} before"),
            words(of_std(file.write_at(&vec![7; len], at))),
        );
    }
    note("write past the end", words(of_std(file.write_at(&[8; 4096], size() + 100_000))));
    note(
        "fallocate past the end",
        words(rustix::fs::fallocate(&file, FallocateFlags::empty(), size() + 4096, 100)),
    );
    for mode in [0x3, 0x10, 0x11] {
        let flags = FallocateFlags::from_bits_retain(mode);
        let result = rustix::fs::fallocate(&file, flags, size() + 65536, 100);
        note(&format!("fallocate {mode:#x} past the end"), words(result));
    }
    note("sync", words(of_std(file.sync_all())));
    note("sync data", words(of_std(file.sync_data())));
    for len in [3 * MIB, MIB, MIB + 100] {
        note(&format!("truncate to {len}"), words(of_std(file.set_len(len))));
    }
    note("read", words(read(0, MIB as usize)));
    for mode in [0o600, 0o400, 0o644, 0o444, 0o700, 0o500, 0o200] {
        let result = rustix::fs::fchmod(&file, Mode::from_raw_mode(mode));
        note(&format!("chmod {mode:o}"), words(result));
        note("mode", format!("{:o}", std::fs::metadata(path).expect("a file").mode()));
    }
    let user = Some(Uid::from_raw(1000));
    note("chown", words(rustix::fs::fchown(&file, user, None)));
    note("owner", format!("{}", std::fs::metadata(path).expect("a file").uid()));
    note("times", words(of_std(file.set_modified(std::time::UNIX_EPOCH))));
    // A copy onto the file does not make it empty first.
    let emptied = OpenOptions::new().write(true).truncate(true).open(path);
    note("open with O_TRUNC", words(of_std(emptied.map(drop))));
    note("read", words(read(0, MIB as usize)));
    note("unlink", words(of_std(std::fs::remove_file(path))));
    note("a name below", words(of_std(File::open(format!("{path}/x")).map(drop))));
    seen
}

pub(crate) fn differential() {
    for format in ["raw", "qcow2"] {
        for more in [
            json!({}),
            json!({ "growable": true }),
            json!({ "writable": true }),
            json!({ "writable": true, "growable": true, "allow-other": "on" }),
            json!({ "writable": true, "allow-other": "off", "writethrough": true }),
        ] {
            let place = Place::new();
            let [ours, theirs] = [0, 1].map(|program| {
                let name = ["a", "b"][program];
                let mut monitor = daemon(&place, program, name, format);
                let at = Mountpoint::new(&place, name);
                monitor.done("block-export-add", export(&at.0, &more));
                let seen = calls(&at.0, format == "raw");
                let open = File::open(&at.0).expect("it opens");
                monitor.done("block-export-del", json!({ "id": "e" }));
                assert_eq!(monitor.event("BLOCK_EXPORT_DELETED")["data"], json!({ "id": "e" }));
                assert_eq!(std::fs::metadata(&at.0).expect("the file below").size(), 0);
                let error = open.read_at(&mut [0], 0).expect_err("nobody answers");
                assert_eq!(Errno::from_io_error(&error), Some(Errno::NOTCONN));
                monitor.quit();
                seen
            });
            for (got, want) in ours.iter().zip(&theirs) {
                assert_eq!(got, want, "{format}, {more}");
            }
            assert_eq!(ours.len(), theirs.len());
        }
    }
}

/// The same disk through a file and by NBD's commands; a file over its own image; ends under load.
pub(crate) fn life() {
    let place = Place::new();
    let mut monitor = daemon(&place, 0, "l", "raw");
    let image = place.path("l.img");
    // The image's own name shows the disk while it is exported.
    let covered = Mountpoint(image.clone());
    monitor
        .done("block-export-add", export(&image, &json!({ "writable": true, "growable": true })));
    let told = monitor.ask("query-block-exports", json!({}));
    let want = json!([{ "id": "e", "type": "fuse", "node-name": "d", "shutting-down": false }]);
    assert_eq!(told["return"], want);
    let again = monitor.ask("block-export-add", {
        let mut options = export(&image, &json!({}));
        options["id"] = "g".into();
        options
    });
    let want = format!("There already is a FUSE export on '{image}'");
    assert_eq!(again["error"]["desc"], want);
    let file = Arc::new(OpenOptions::new().read(true).write(true).open(&image).expect("it opens"));
    std::thread::scope(|scope| {
        for part in 0..4_u64 {
            let file = file.clone();
            scope.spawn(move || {
                for i in 0..32 {
                    let at = (i * 4 + part) * 65536;
                    file.write_all_at(&vec![part as u8 + 1; 65536], at).expect("a write");
                }
            });
        }
    });
    file.sync_all().expect("a flush");
    assert_eq!(std::fs::metadata(&image).expect("a file").len(), 8 * MIB, "it has grown");
    // A disk that becomes longer below is longer, after what the kernel believes is over.
    monitor.done("block_resize", json!({ "node-name": "d", "size": 9 * MIB }));
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(&image).expect("a file").len() != 9 * MIB {
        assert!(std::time::Instant::now() < end, "it is as long as before");
        std::thread::sleep(Duration::from_millis(50));
    }
    // It ends under load, and what was synced is there.
    let busy = file.clone();
    let load = std::thread::spawn(move || while busy.write_at(&[9; 4096], 8 * MIB).is_ok() {});
    monitor.done("block-export-del", json!({ "id": "e", "mode": "hard" }));
    load.join().expect("it ends");
    drop(covered);
    monitor.quit();
    let bytes = std::fs::read(&image).expect("the image");
    assert_eq!(bytes.len() as u64, 9 * MIB);
    for part in 0..4 {
        for i in 0..32 {
            let at = (i * 4 + part) * 65536;
            assert!(bytes[at..at + 65536].iter().all(|b| usize::from(*b) == part + 1));
        }
    }
    // A daemon that ends takes its files along.
    let mut monitor = daemon(&place, 0, "m", "qcow2");
    let at = Mountpoint::new(&place, "m");
    monitor.done("block-export-add", export(&at.0, &json!({})));
    assert_eq!(std::fs::metadata(&at.0).expect("a file").len(), MIB);
    monitor.quit();
    assert_eq!(std::fs::metadata(&at.0).expect("a file").len(), 0);
    assert!(Path::new(&at.0).exists());
}
