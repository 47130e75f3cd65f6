//! Scripts from a seed: requests that are right, and some that are not.

use super::images::{Image, Pair};

/// A generator that gives the same numbers for the same seed (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_of<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }

    fn offset(&mut self) -> String {
        match self.below(10) {
            0 => self.below(5 << 20).to_string(),
            1..=3 => format!("{}k", self.below(4200)),
            4 => format!("{:#x}", self.below(4 << 20)),
            5..=7 => format!("{}k", self.below(66) * 64),
            8 => format!("{}", self.below(8192) * 512),
            _ => self.one_of(&["0", "4M", "4194303", "1.5M", "x", "-1", "9E", "4095k"]).to_owned(),
        }
    }

    fn length(&mut self) -> String {
        match self.below(10) {
            0 => self.below(200_000).to_string(),
            1..=3 => format!("{}k", self.below(300)),
            4..=6 => format!("{}k", (1 + self.below(8)) * 64),
            7 => format!("{}", self.below(100) * 512),
            8 => format!("{}", self.below(64)),
            _ => self.one_of(&["0", "4M", "x", "3G", "1"]).to_owned(),
        }
    }

    fn command(&mut self, unit: u64) -> String {
        let pattern = format!("-P {}", self.below(260));
        let (offset, len) = (self.offset(), self.length());
        match self.below(20) {
            0..=4 => {
                let flags = self.one_of(&["", "-q", "-f", "-p", "-x"]);
                format!("write {flags} {pattern} {offset} {len}")
            }
            5 | 6 => {
                let flags = self.one_of(&["-z", "-zu", "-z -f", "-zn", "-zq"]);
                format!("write {flags} {offset} {len}")
            }
            // One cluster of `unit` KiB: how much of more is written where one of them is refused
            // is a matter of luck in the reference.
            7 => format!("write -c {pattern} {}k {unit}k", self.below(60) * 64),
            8 | 9 => format!("discard {offset} {len}"),
            10 | 11 => {
                let flags = self.one_of(&["", "-q", "-C", "-P 7", "-P 0", "-P 9 -s 10 -l 20"]);
                format!("read {flags} {offset} {len}")
            }
            12 => format!("read -v {offset} {}", self.below(100)),
            13 => format!("writev {pattern} {offset} {len} {}", self.length()),
            14 => format!("readv {offset} {len} {}", self.length()),
            15 => format!("alloc {offset} {len}"),
            16 => "map".to_owned(),
            17 => format!("aio_write {pattern} {offset} {len} ;; aio_flush"),
            18 => format!("aio_read {offset} {len} ;; aio_flush"),
            _ => self
                .one_of(&["length", "flush", "reopen -r ;; reopen -w", "nothing", "read 1", "info"])
                .to_owned(),
        }
    }
}

/// The script without commands that tell of allocation: zeroes for parts of clusters lead to the
/// same contents in another way.
fn without_status(line: &str) -> String {
    let kept: Vec<&str> = line
        .split(" ;; ")
        .filter(|command| *command != "map" && !command.starts_with("alloc"))
        .collect();
    kept.join(" ;; ")
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

pub(crate) fn scripts(image: Image) -> Vec<String> {
    let (pair, mut problems) = (Pair::new(image), Vec::new());
    let all = super::images::ALL.len() as u64;
    let cases = number("SECTORA_CASES").unwrap_or(150).div_ceil(all);
    let seed = number("SECTORA_SEED").unwrap_or(1);
    let unit = if image.name == "small_clusters" { 4 } else { 64 };
    for case in 0..cases {
        let mut numbers = Numbers(seed.wrapping_mul(1 << 32).wrapping_add(case));
        let count = 1 + numbers.below(8);
        let line: Vec<String> = (0..count).map(|_| numbers.command(unit)).collect();
        let line = without_status(&line.join(" ;; ").replace("-zn", "-z"));
        let mut args: Vec<&str> = Vec::new();
        for command in line.split(" ;; ") {
            args.extend(["-c", command]);
        }
        args.extend(["-f", image.format, "disk"]);
        pair.agree(&args, "", image.format == "raw", &mut problems);
    }
    problems
}
