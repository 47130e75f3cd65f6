//! What only qcow2 has: its options, and images that somebody has damaged.

use super::images::{Image, Pair, qcow2};

const PLAIN: Image = qcow2("plain", "", &["write -P 7 0 256k"]);
const LUKS: Image = qcow2(
    "luks",
    "--object secret,id=s,data=abc -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
    &[],
);
const AES: Image =
    qcow2("aes", "--object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s", &[]);

/// The number of `len` bytes at `at`.
fn number(bytes: &[u8], at: usize, len: usize) -> usize {
    bytes[at..at + len].iter().fold(0, |all, byte| all << 8 | usize::from(*byte))
}

pub(crate) fn encryption_options() -> Vec<String> {
    let mut problems = Vec::new();
    for image in [PLAIN, LUKS, AES] {
        let pair = Pair::new(image);
        for options in [
            "encrypt.format=luks",
            "encrypt.format=aes",
            "encrypt.format=foo",
            "encrypt.format=luks,encrypt.key-secret=s",
            "encrypt.format=aes,encrypt.key-secret=s",
            "encrypt.format=luks,encrypt.key-secret=none",
            "encrypt.key-secret=s",
            "encrypt.key-secret=none",
            "encrypt.foo=1",
            "encrypt.format=luks,encrypt.key-secret=s,encrypt.foo=1",
        ] {
            let options = format!("driver=qcow2,file.filename=disk,{options}");
            let args = ["--object", "secret,id=s,data=abc", "-c", "read 0 1k", "--image-opts"];
            let args: Vec<&str> = args.into_iter().chain([&*options]).collect();
            pair.agree_on_words(&args, "", &mut problems);
        }
    }
    problems
}

/// A bitmaps extension whose bit is not set says nothing, and its bitmaps are lost.
pub(crate) fn stale_bitmaps() -> Vec<String> {
    let (pair, mut problems) = (Pair::new(PLAIN), Vec::new());
    pair.forge(|bytes| {
        let mut at = number(bytes, 100, 4);
        while number(bytes, at, 4) != 0 {
            at += 8 + number(bytes, at + 4, 4).next_multiple_of(8);
        }
        bytes[at..at + 8].copy_from_slice(&[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]);
    });
    for args in [&["-r", "-c", "read 0 1k", "disk"][..], &["-c", "write 0 1k", "disk"]] {
        pair.agree(args, "", true, &mut problems);
    }
    problems
}
