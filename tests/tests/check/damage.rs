//! Images by the reference, and the ways to break them: where each structure lies, and what is
//! written there.

use sectora_core::io::testing::Rng;
use sectora_tests::succeed;
use std::path::Path;

/// Bits of table entries that are an offset.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An image, and where its structures lie.
pub(crate) struct Base {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_v2: bool,
    cluster: u64,
    /// Where there are fields of 8 bytes: what they are, and the offset.
    fields: Vec<(&'static str, u64)>,
}

fn be64(bytes: &[u8], at: u64) -> u64 {
    let at = at as usize;
    bytes.get(at..at + 8).map_or(0, |b| u64::from_be_bytes(b.try_into().expect("8 bytes")))
}

fn be32(bytes: &[u8], at: u64) -> u32 {
    (be64(bytes, at) >> 32) as u32
}

impl Base {
    /// Every kind.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let mut out = Vec::new();
        for (options, size) in [
            ("cluster_size=512", "400k"),
            ("cluster_size=512,refcount_bits=1", "200k"),
            ("cluster_size=512,refcount_bits=64", "200k"),
            ("cluster_size=512,compat=0.10", "200k"),
            ("cluster_size=4k", "1M"),
            ("cluster_size=4k,lazy_refcounts=on,refcount_bits=8", "1M"),
            ("cluster_size=16k,extended_l2=on", "1M"),
            ("cluster_size=64k", "4M"),
            ("cluster_size=64k,refcount_bits=2", "4M"),
            ("cluster_size=4k,data_file=data.raw", "1M"),
        ] {
            for extra in ["", "snapshot", "bitmap", "compressed"] {
                let impossible = match extra {
                    "compressed" | "snapshot" => options.contains("data_file"),
                    "bitmap" => options.contains("0.10"),
                    _ => false,
                };
                if !(impossible || extra == "snapshot" && options.contains("refcount_bits=1")) {
                    out.push(Self::make(folder, options, size, extra));
                }
            }
        }
        out
    }

    fn make(folder: &Path, options: &str, size: &str, extra: &str) -> Self {
        let tool = |name: &str, args: &[&str]| drop(succeed(folder, name, args));
        let io = |commands: &[&str]| {
            let mut args = Vec::new();
            commands.iter().for_each(|command| args.extend(["-c", command]));
            args.push("base.qcow2");
            tool("qemu-io", &args);
        };
        tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "base.qcow2", size]);
        io(&["write -P 1 0 40k", "write -P 2 100k 20k", "discard 8k 8k", "write -z 64k 8k"]);
        match extra {
            "snapshot" => {
                tool("qemu-img", &["snapshot", "-c", "first", "base.qcow2"]);
                io(&["write -P 3 4k 20k"]);
                tool("qemu-img", &["snapshot", "-c", "second", "base.qcow2"]);
                io(&["write -P 4 110k 4k"]);
            }
            "bitmap" => {
                tool("qemu-img", &["bitmap", "--add", "-g", "64k", "base.qcow2", "one"]);
                io(&["write -P 5 30k 10k"]);
                tool("qemu-img", &["bitmap", "--add", "base.qcow2", "two"]);
            }
            "compressed" => io(&["write -c -P 6 128k 64k"]),
            _ => {}
        }
        let bytes = std::fs::read(folder.join("base.qcow2")).expect("read");
        Self::map(format!("{options} {extra}"), bytes)
    }

    /// An encrypted one, with the fields of the LUKS header.
    #[allow(dead_code, reason = "one of the suites that use this file needs no keys")]
    pub(crate) fn encrypted(folder: &Path, secret: &str) -> Self {
        let object = format!("secret,id=s,data={secret}");
        let options =
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10,cluster_size=4k";
        let create = ["create", "-q", "-f", "qcow2", "--object", &object, "-o", options];
        succeed(folder, "qemu-img", &[&create[..], &["base.qcow2", "300k"]].concat());
        let image = "driver=qcow2,encrypt.key-secret=s,file.filename=base.qcow2";
        let write = ["--object", &object, "--image-opts", image, "-c", "write -P 3 10k 90k"];
        succeed(folder, "qemu-io", &write);
        let bytes = std::fs::read(folder.join("base.qcow2")).expect("read");
        let mut base = Self::map(options.to_string(), bytes);
        let at = base.bytes.windows(6).position(|window| window == b"LUKS\xba\xbe");
        let at = at.expect("a LUKS header") as u64;
        // Magic and version, cipher, mode, hash, lengths, digest, salt, and a slot. Not the counts
        // of iterations: most of them just take their time, a minute at most.
        base.fields.extend((0..24).map(|i| ("LUKS names", at + 8 * i)));
        base.fields.extend([("LUKS lengths", at + 104), ("LUKS digest", at + 112)]);
        base.fields.push(("LUKS salt", at + 132));
        base.fields.extend((1..6).map(|i| ("LUKS slot", at + 208 + 8 * i)));
        base.fields.extend([("crypt method", 32), ("key material", at + 4096)]);
        base
    }

    /// The same with the fields of the header that a check does not care for.
    #[must_use]
    #[allow(dead_code, reason = "one of the suites that use this file does without")]
    pub(crate) fn with_whole_header(mut self) -> Self {
        let end = if self.is_v2 { 72 } else { 104 };
        let known = self.fields.clone();
        self.fields.extend((0..end / 4).map(|i| ("header", 4 * i)).filter(|f| !known.contains(f)));
        let mut at = if self.is_v2 { 72 } else { u64::from(be32(&self.bytes, 100)) };
        while be32(&self.bytes, at) != 0 && at < self.cluster {
            let len = u64::from(be32(&self.bytes, at + 4));
            self.fields.extend([("extension", at), ("extension length", at + 4)]);
            self.fields.extend((0..len / 8).map(|i| ("extension data", at + 8 + 8 * i)));
            at += 8 + len.next_multiple_of(8);
        }
        self
    }

    fn map(name: String, bytes: Vec<u8>) -> Self {
        let cluster = 1u64 << be32(&bytes, 20);
        let is_v2 = be32(&bytes, 4) == 2;
        let extended = !is_v2 && be64(&bytes, 72) & 16 != 0;
        let mut fields = vec![
            ("size", 24),
            ("L1 offset", 40),
            ("refcount table offset", 48),
            ("refcount table clusters and snapshots", 56),
            ("snapshot table offset", 64),
        ];
        if !is_v2 {
            fields.extend([("incompatible", 72), ("compatible", 80), ("autoclear", 88)]);
        }
        let mut l1_tables = vec![(be64(&bytes, 40), u64::from(be32(&bytes, 36)))];
        let mut at = be64(&bytes, 64);
        for _ in 0..be32(&bytes, 60) {
            l1_tables.push((be64(&bytes, at), u64::from(be32(&bytes, at + 8))));
            fields.extend([("snapshot L1 offset", at), ("snapshot L1 size", at + 8)]);
            fields.extend([("snapshot lengths", at + 32), ("snapshot extra", at + 48)]);
            let names = (be32(&bytes, at + 12) >> 16) + (be32(&bytes, at + 12) & 0xffff);
            at =
                (at + 40 + u64::from(be32(&bytes, at + 36)) + u64::from(names)).next_multiple_of(8);
        }
        for (index, (offset, entries)) in l1_tables.into_iter().enumerate() {
            for i in 0..entries {
                fields.push((if index == 0 { "L1 entry" } else { "old L1 entry" }, offset + 8 * i));
                let table = be64(&bytes, offset + 8 * i) & OFFSET;
                let width = if extended { 16 } else { 8 };
                for place in (table..table + cluster).step_by(width) {
                    let mut used = |at, name| {
                        if table != 0 && be64(&bytes, at) != 0 {
                            fields.push((name, at));
                        }
                    };
                    used(place, "L2 entry");
                    if extended {
                        used(place + 8, "subclusters");
                    }
                }
            }
        }
        let table = be64(&bytes, 48);
        for i in 0..4 {
            fields.push(("refcount table entry", table + 8 * i));
            let block = be64(&bytes, table + 8 * i);
            if block != 0 {
                fields.extend((0..8).map(|i| ("refcounts", block + 8 * i)));
            }
        }
        let extensions = if is_v2 { 72 } else { u64::from(be32(&bytes, 100)) };
        fields.push(("extension", extensions));
        let magic = 0x2385_2875u32.to_be_bytes();
        let found = bytes[..cluster as usize].windows(4).position(|window| window == magic);
        if let Some(at) = found.map(|at| at as u64) {
            fields.extend([("bitmap count", at + 8), ("bitmap directory length", at + 16)]);
            fields.push(("bitmap directory offset", at + 24));
            let directory = be64(&bytes, at + 24);
            fields.extend([("bitmap table offset", directory), ("bitmap entry", directory + 8)]);
            fields.extend([("bitmap name", directory + 16)]);
            fields.push(("bitmap table entry", be64(&bytes, directory)));
        }
        Self { name, bytes, is_v2, cluster, fields }
    }
}

/// Breaks one field; gives what it did.
pub(crate) fn break_it(rng: &mut Rng, base: &Base, bytes: &mut [u8]) -> String {
    // Structures first, then one of its fields: there are many L2 entries and one header.
    // Most headers that are broken are just refused: one case in eight is enough.
    let header = rng.below(8) == 0;
    let wanted = |at: u64| (at < 112) == header;
    let mut kinds: Vec<&str> =
        base.fields.iter().filter(|(_, at)| wanted(*at)).map(|(kind, _)| *kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kind = kinds[rng.below(kinds.len() as u64) as usize];
    let places: Vec<u64> =
        base.fields.iter().filter(|(k, _)| *k == kind).map(|(_, at)| *at).collect();
    let at = places[rng.below(places.len() as u64) as usize];
    let old = be64(bytes, at);
    let flags = old & !OFFSET;
    let clusters = base.bytes.len() as u64 / base.cluster;
    let new = match rng.below(9) {
        0 => 0,
        1 => flags | (rng.below(clusters + 1) * base.cluster),
        2 => (old & OFFSET).wrapping_add(512) & OFFSET | flags,
        3 => flags | ((clusters + rng.below(100)) * base.cluster),
        4 => old ^ (1 << rng.below(64)),
        5 => old ^ (1 << [0, 1, 9, 32, 40, 55, 56, 61, 62, 63][rng.below(10) as usize]),
        6 => be64(bytes, places[rng.below(places.len() as u64) as usize]),
        7 => old.wrapping_add(1 << rng.below(16)),
        _ => rng.next_u64() >> rng.below(64),
    };
    if let Some(slot) = bytes.get_mut(at as usize..at as usize + 8) {
        slot.copy_from_slice(&new.to_be_bytes());
    }
    format!("{kind} at {at:#x}: {old:#x} -> {new:#x}")
}
