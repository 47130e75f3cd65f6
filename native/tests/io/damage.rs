//! Damaged qcow2 images: what a write that would go over metadata leads to, and the options that have
//! to do with it.

use super::images::{Image, Pair};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

const CLUSTER: u64 = 64 << 10;
/// An entry of a table that says that nobody shares what it leads to.
const COPIED: u64 = 1 << 63;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Where the header has its features, and offsets of tables.
const INCOMPATIBLE: usize = 72;
/// The last byte of the features of an image that is marked corrupt.
const CORRUPT: u8 = 2;
const L1: u64 = 40;
const REFTABLE: u64 = 48;

/// The image that is to be damaged, and where its tables are.
struct Damaged {
    pair: Pair,
    sound: Vec<u8>,
    tables: [(&'static str, u64); 4],
    l2: u64,
    refblock: u64,
}

impl Damaged {
    fn new(image: Image) -> Self {
        let pair = Pair::new(image);
        let sound = std::fs::read(pair.path("source/disk")).expect("the image");
        let at = |offset: u64| {
            let at = offset as usize;
            u64::from_be_bytes(sound[at..at + 8].try_into().expect("8 bytes")) & OFFSET
        };
        let (l1, reftable) = (at(L1), at(REFTABLE));
        let (l2, refblock) = (at(l1), at(reftable));
        let tables =
            [("L1", l1), ("L2", l2), ("refcount table", reftable), ("refcount block", refblock)];
        Self { pair, sound, tables, l2, refblock }
    }

    /// The image with other bytes at one place.
    fn forge(&self, at: u64, bytes: &[u8]) {
        let path = self.pair.path("source/disk");
        std::fs::write(&path, &self.sound).expect("restore");
        let file = OpenOptions::new().write(true).open(path).expect("open");
        file.write_all_at(bytes, at).expect("forge");
    }

    /// The second cluster of the disk lies at `host`.
    fn lead_to(&self, host: u64) {
        self.forge(self.l2 + 8, &(host | COPIED).to_be_bytes());
    }

    /// The cluster at `host` counts as free.
    fn call_free(&self, host: u64) {
        self.forge(self.refblock + 2 * (host / CLUSTER), &[0, 0]);
    }

    fn agree(&self, tool: &str, args: &[&str], problems: &mut Vec<String>) {
        self.pair.agree_in_words(tool, args, "", problems);
        let [theirs, ours] = ["theirs", "ours"]
            .map(|side| std::fs::read(self.pair.path(side).join("disk")).expect("the image"));
        let field = INCOMPATIBLE..INCOMPATIBLE + 8;
        if theirs[field.clone()] != ours[field.clone()] {
            problems.push(format!("{tool} {args:?}: features {:?}", &ours[field]));
        } else if ours[field.end - 1] == CORRUPT {
            // Marked in time: nothing was written over the tables.
            let forged = std::fs::read(self.pair.path("source/disk")).expect("the image");
            for (name, at) in self.tables {
                let table = at as usize..(at + CLUSTER) as usize;
                // Clusters may have been taken before it was noticed.
                if ours[table.clone()] != forged[table] && at != self.refblock {
                    problems.push(format!("{tool} {args:?}: the {name} has changed"));
                }
            }
        }
    }

    fn script(&self, options: &str, commands: &[&str], problems: &mut Vec<String>) {
        let name = match options {
            "" => "driver=qcow2,file.filename=disk".to_owned(),
            _ => format!("driver=qcow2,file.filename=disk,{options}"),
        };
        let mut args = vec!["--image-opts", &name];
        commands.iter().for_each(|command| args.extend(["-c", command]));
        self.agree("qemu-io", &args, problems);
    }
}

const fn qcow2(name: &'static str, create: &'static str) -> Image {
    Image { name, format: "qcow2", create, fill: &["write -P 90 0 64k"] }
}

/// Every command there is after the drive is gone. Not closed here: the reference would crash.
const AFTERWARDS: [&str; 15] = [
    "write 64k 512",
    "read 0 512",
    "write 0 512",
    "length",
    "map",
    "alloc 0",
    "info",
    "truncate 2M",
    "flush",
    "aio_write 0 512",
    "aio_flush",
    "readv 0 512",
    "writev 0 512",
    "write -z 0 64k",
    "discard 0 64k",
];

pub(crate) fn tables() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [qcow2("damaged", ""), qcow2("damaged_version_2", "-o compat=0.10")] {
        let damaged = Damaged::new(image);
        for (_, host) in damaged.tables {
            damaged.lead_to(host);
            damaged.script("", &AFTERWARDS, &mut problems);
            for options in [
                "overlap-check=none",
                "overlap-check=constant",
                "overlap-check=all",
                "overlap-check.template=constant,overlap-check.active-l2=on",
                "overlap-check.active-l1=off,overlap-check.refcount-table=off",
            ] {
                damaged.script(options, &["write 64k 512"], &mut problems);
            }
            damaged.script("", &["write 0 192k", "read 0 512", "write 64k 1"], &mut problems);
            damaged.call_free(host);
            let commands = ["write 64k 512", "write 128k 512", "write 192k 512", "read 0 512"];
            damaged.script("", &commands, &mut problems);
        }
        // Told once, and an image that is only read is not marked.
        for at in [damaged.l2 + 8, damaged.tables[0].1] {
            damaged.forge(at, &((damaged.l2 + 512) | COPIED).to_be_bytes());
            damaged.script("", &["read 64k 512", "read 0 512", "write 0 512"], &mut problems);
            damaged.script("", &["write 64k 512", "read 0 512"], &mut problems);
            let args = ["-r", "-f", "qcow2", "-c", "read 64k 1", "-c", "read 64k 1", "disk"];
            damaged.agree("qemu-io", &args, &mut problems);
        }
        damaged.call_free(0);
        damaged.script("", &["write 64k 512", "read 0 512", "write -z 0 512"], &mut problems);
        for table in &damaged.tables[2..] {
            let l1 = damaged.tables[0].1;
            damaged.forge(l1, &(table.1 | COPIED).to_be_bytes());
            damaged.script("", &["write 512k 512", "flush", "write 0 512"], &mut problems);
        }
    }
    let damaged = Damaged::new(qcow2("damaged", ""));
    damaged.lead_to(damaged.l2);
    let args = ["bench", "-w", "-c", "2", "-d", "1", "-o", "64k", "-f", "qcow2", "disk"];
    damaged.agree("qemu-img", &args, &mut problems);
    damaged.call_free(damaged.l2);
    damaged.agree("qemu-img", &["snapshot", "-c", "s", "disk"], &mut problems);
    damaged.agree("qemu-img", &["resize", "disk", "600G"], &mut problems);
    problems
}

/// Options that are wrong, and some that are right.
pub(crate) fn options() -> Vec<String> {
    let mut problems = Vec::new();
    let damaged = Damaged::new(qcow2("sound", ""));
    for options in [
        "overlap-check=foo",
        "overlap-check=",
        "overlap-check.template=foo",
        "overlap-check=cached,overlap-check.template=cached",
        "overlap-check=cached,overlap-check.template=all",
        "overlap-check.main-header=maybe",
        "overlap-check.foo=on",
        "overlap-check.inactive-l2=on,overlap-check.bitmap-directory=off",
        "cache-size=1M,l2-cache-size=512k,refcount-cache-size=512k",
        "cache-size=1M,l2-cache-size=2M",
        "cache-size=1M,l2-cache-size=1M",
        "cache-size=1M,refcount-cache-size=2M",
        "cache-size=0",
        "cache-size=8E",
        "cache-size=16E",
        "cache-size=",
        "l2-cache-size=0,refcount-cache-size=0",
        "l2-cache-size=7",
        "l2-cache-size=x",
        "l2-cache-size=-1",
        "refcount-cache-size=8E",
        "l2-cache-entry-size=0",
        "l2-cache-entry-size=512",
        "l2-cache-entry-size=768",
        "l2-cache-entry-size=64k",
        "l2-cache-entry-size=128k",
        "l2-cache-entry-size=4294967808",
        "l2-cache-entry-size=3,cache-size=1M,l2-cache-size=2M",
        "cache-clean-interval=0",
        "cache-clean-interval=0x10",
        "cache-clean-interval=-1",
        "cache-clean-interval=4294967295",
        "cache-clean-interval=4294967296",
        "cache-clean-interval=18446744073709551616",
        "cache-clean-interval=1k",
        "cache-clean-interval=",
    ] {
        damaged.script(options, &["write 64k 64k", "read -P 90 0 64k"], &mut problems);
        let reopen = format!("reopen -o {options}");
        damaged.script("", &[&reopen, "write 64k 64k", "read -P 90 0 64k"], &mut problems);
    }
    problems
}
