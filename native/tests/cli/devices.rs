//! Block devices: what qemu-img does with them, ours does.

use super::loop_device::{LoopDevice, skipped};
use super::setup::{Folder, compare, report};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::Output;

const LEN: usize = 1 << 20;

fn fill(device: &LoopDevice, byte: u8) {
    let mut device = File::options().write(true).open(device.path()).expect("the device");
    device.write_all(&vec![byte; LEN]).expect("room for all");
    device.sync_all().expect("written");
}

fn bytes(device: &LoopDevice) -> Vec<u8> {
    let mut device = File::open(device.path()).expect("the device");
    device.rewind().expect("the beginning");
    let mut bytes = Vec::new();
    device.read_to_end(&mut bytes).expect("its bytes");
    bytes
}

/// What is done to a device (`D`) that holds sevens, or an empty image of 512 KiB (`q:`).
const LINES: &[&str] = &[
    "info D",
    "info file:D",
    "info host_device:D",
    "info host_device:small",
    "info --output=json D",
    "info --image-opts driver=file,filename=D",
    "info --image-opts driver=raw,file.driver=file,file.filename=D",
    "info --image-opts driver=raw,file.filename=D",
    "create -f qcow2 D 512k",
    "create -f qcow2 D 4M",
    "create -f raw D 512k",
    "create -f raw D 2M",
    "create -f host_device D 512k",
    "create -f host_device D 4M",
    "create -f host_device new 512k",
    "create -f host_device small 512k",
    "create -f file new 512k",
    "convert -O qcow2 small D",
    "convert -O raw small D",
    "convert -O host_device small D",
    "convert -O host_device small new",
    "convert -n -f raw -O host_device small D",
    "convert -n -f raw -O host_device small new",
    "convert -n -f raw -O raw large D",
    "convert -f raw -O qcow2 large D",
    "resize -f raw D 2M",
    "resize -f raw D 1M",
    "resize -f raw --shrink D 512k",
    "dd if=D of=new bs=4k count=3",
    "measure -O qcow2 D",
    "map --output=json -f raw D",
    "compare -f raw D small",
    "q:info D",
    "q:check D",
    "q:map --output=json D",
    "q:compare -F raw D zeroes",
    "q:convert -n -f raw -O qcow2 small D",
    "q:convert -f qcow2 -O raw D new",
    "q:rebase -u -b small -F raw D",
    "q:snapshot -c one D",
    "q:resize D 2M",
    "q:resize --shrink D 128k",
    "q:bitmap --add D b",
    "q:amend -o lazy_refcounts=on D",
];

pub(crate) fn like_files() {
    let folder = Folder::new();
    folder.file("small", 256 << 10, &[(0, vec![5; 100 << 10])]);
    folder.file("zeroes", 512 << 10, &[]);
    folder.file("large", 4 << 20, &[(0, vec![6; 3 << 20])]);
    folder.file("below", LEN as u64, &[]);
    let Some(device) = LoopDevice::over(folder.path().join("below")) else {
        return skipped("devices");
    };
    let mut problems = Vec::new();
    for line in LINES {
        let (image, line) = match line.strip_prefix("q:") {
            Some(line) => (true, line),
            None => (false, *line),
        };
        // Not the letter within a word.
        let words = line.split(' ').map(|word| match word.strip_suffix('D') {
            Some(rest) if rest.is_empty() || rest.ends_with([':', '=']) => {
                format!("{rest}{}", device.path())
            }
            _ => word.to_owned(),
        });
        let line = words.collect::<Vec<_>>().join(" ");
        let run = |run: &dyn Fn(&str) -> Output, left: &str| {
            fill(&device, 7);
            if image {
                folder.reference("qemu-img", &format!("create -q -f qcow2 {} 512k", device.path()));
            }
            // Of the run before.
            let _ = std::fs::remove_file(folder.path().join("new"));
            let output = run(&line);
            std::fs::write(folder.path().join(left), bytes(&device)).expect("a copy");
            output
        };
        let theirs = run(&|line| folder.theirs(line), "theirs");
        let ours = run(&|line| folder.ours(line), "ours");
        compare(&line, &theirs, &ours, &mut problems);
        // What is on the device then; the places of clusters are each one's own.
        let same = folder.theirs("compare theirs ours");
        if !same.status.success() {
            problems.push(format!("{line}: {}", String::from_utf8_lossy(&same.stdout)));
        }
        let checked = |name: &str| folder.theirs(&format!("check -q {name}")).status.code();
        if checked("ours") != checked("theirs") {
            problems.push(format!("{line}: check of ours gives {:?}", checked("ours")));
        }
    }
    report(&problems);
    // What the device held before is not to be read through an image: there it would be.
    fill(&device, 7);
    let made =
        folder.ours(&format!("create -f qcow2 -o preallocation=metadata {} 512k", device.path()));
    assert!(made.status.success(), "{made:?}");
    folder.reference("qemu-img", &format!("compare -f qcow2 -F raw {} zeroes", device.path()));
}
