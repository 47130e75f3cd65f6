//! What the suites that cross crates share: the reference tools, scratch folders, images moved
//! between memory and files.

use sectora_core::io::{BlockDevice, Device, MemoryDevice, Segment, WriteFlags};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Output};

/// True where the reference tools are installed; says on standard error what is skipped if not.
#[must_use]
#[allow(clippy::print_stderr)]
pub fn have_reference_tools(suite: &str) -> bool {
    let found = ["qemu-img", "qemu-io"]
        .iter()
        .all(|tool| Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success()));
    if !found {
        eprintln!("SKIPPED {suite}: qemu-img and qemu-io are not installed");
    }
    found
}

/// Runs a tool in `folder`.
///
/// # Panics
/// Where it cannot be started.
pub fn run(folder: &Path, tool: &str, args: &[&str]) -> Output {
    Command::new(tool)
        .args(args)
        .current_dir(folder)
        .output()
        .unwrap_or_else(|e| panic!("{tool} does not start: {e}"))
}

/// Runs a tool that must succeed, and gives its standard output.
///
/// # Panics
/// Where it fails; with its words.
pub fn succeed(folder: &Path, tool: &str, args: &[&str]) -> String {
    let output = run(folder, tool, args);
    assert!(
        output.status.success(),
        "{tool} {}: {}\n{}{}",
        args.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Writes what a device in memory holds into a file, holes as holes.
///
/// # Panics
/// Where the file system fails.
pub fn save(device: &MemoryDevice, path: &Path) {
    let mut file = File::create(path).expect("create");
    file.set_len(device.len()).expect("set the length");
    let contents = futures_util::FutureExt::now_or_never(device.read(0, device.len()))
        .expect("memory answers at once")
        .expect("within the device");
    for segment in contents.as_slice() {
        match segment {
            Segment::Data(bytes) => file.write_all(bytes).expect("write"),
            Segment::Zero(len) => {
                file.seek(SeekFrom::Current(i64::try_from(*len).expect("fits"))).expect("seek");
            }
        }
    }
}

/// A device in memory with the contents of a file.
///
/// # Panics
/// Where the file cannot be read.
#[must_use]
pub fn load(path: &Path) -> MemoryDevice {
    let mut file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("image");
    let device = MemoryDevice::new(file.metadata().expect("metadata").len()).named(name);
    let (mut buffer, mut at) = (vec![0; 1 << 16], 0);
    loop {
        let n = file.read(&mut buffer).expect("read");
        if n == 0 {
            return device;
        }
        if buffer[..n].iter().any(|b| *b != 0) {
            let write = device.write(at, buffer[..n].to_vec().into(), WriteFlags::empty());
            futures_util::FutureExt::now_or_never(write).expect("at once").expect("write");
        }
        at += n as u64;
    }
}

/// The contents of a device, all of them.
///
/// # Panics
/// Where it cannot be read.
pub async fn contents(device: &Device) -> Vec<u8> {
    device.read(0, device.len()).await.expect("read").to_vec()
}

/// What a check of ours says where it looks closer than the reference's.
pub const STRICTER: [&str; 10] = [
    // Nothing is read as a table where no table can be.
    "Table is not cluster aligned",
    "exceeds the end of the file or the 64 MiB",
    // A refcount block that cannot be one counts nothing.
    "refcount table entry corrupted",
    // The reference grows the file up to it.
    "is outside image",
    "ERROR bitmap",
    // The reference reads the header as an L2 table.
    "has no offset",
    // Offsets that no table entry could have.
    "is not a cluster of the image",
    // Counts that no image can have; the reference drops what is too much.
    "65536 are possible",
    "1 to 65535 are possible",
    "too many references",
];
