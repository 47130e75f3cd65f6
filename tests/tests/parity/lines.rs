//! Makes up command lines.

use sectora_core::io::testing::Rng;

/// What an option takes.
#[derive(Clone, Copy)]
enum Value {
    Flag,
    /// One of these; the second list is for mistakes.
    Of(&'static [&'static str], &'static [&'static str]),
}

use Value::{Flag, Of};

type Choice = (&'static [&'static str], Value);

const IMAGES: &[&str] = &[
    "base.raw",
    "mid.qcow2",
    "top.qcow2",
    "v2.qcow2",
    "ext.qcow2",
    "short.qcow2",
    "comp.qcow2",
    "over.qcow2",
    "odd.raw",
];
const OVERLAYS: &[&str] = &["mid.qcow2", "top.qcow2", "v2.qcow2", "ext.qcow2", "over.qcow2"];
const NO_IMAGES: &[&str] = &["missing", "sub", "sub/missing", "orphan.qcow2"];
const NEW: &[&str] = &["new", "sub/new", "top.qcow2", "odd.raw"];
const NOT_NEW: &[&str] = &["nowhere/new", "sub"];
const SIZES: &[&str] =
    &["0", "1", "512", "1000", "64k", "1M", "1.5M", "0x10000", "3145728", "2097153"];
const NO_SIZES: &[&str] = &["-1", "x", "1kk", "", "9999999999999999999", "8E", "1.2.3", "0xg", "k"];
const FORMATS: Value = Of(&["raw", "qcow2"], &["foo", "bochs", "QCOW2"]);
const SIZE: Value = Of(SIZES, NO_SIZES);
const CACHE: Value =
    Of(&["none", "writeback", "unsafe", "writethrough", "directsync"], &["foo", "", "None"]);
const OUTPUT: Value = Of(&["human", "json"], &["foo", "JSON"]);
const RATE: Value = Of(&["0", "100M", "1G"], NO_SIZES);
const OPTIONS: Value = Of(
    &[
        "cluster_size=4k",
        "cluster_size=64k,compat=0.10",
        "compat=1.1",
        "extended_l2=on",
        "preallocation=metadata",
        "lazy_refcounts=on",
        "refcount_bits=8",
        "compression_type=zstd",
    ],
    &[
        "foo=1",
        "",
        "cluster_size=3",
        "compat=9",
        "size=x",
        ",",
        "refcount_bits=3",
        "preallocation=x",
    ],
);
const BACKING: Value = Of(&["base.raw", "short.qcow2", ""], &["missing", "sub"]);

struct Verb {
    name: &'static str,
    options: &'static [Choice],
    /// Good and bad words for each position.
    words: &'static [(&'static [&'static str], &'static [&'static str])],
}

const IMAGE: (&[&str], &[&str]) = (IMAGES, NO_IMAGES);

const VERBS: &[Verb] = &[
    Verb {
        name: "info",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["--backing-chain"], Flag),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "check",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["-q", "--quiet"], Flag),
            (&["-T"], CACHE),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "map",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["-s", "--start-offset"], SIZE),
            (&["-l", "--max-length"], SIZE),
            (&["-U"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "compare",
        options: &[
            (&["-f", "--a-format"], FORMATS),
            (&["-F", "--b-format"], FORMATS),
            (&["-s", "--strict"], Flag),
            (&["-q"], Flag),
            (&["-T"], CACHE),
            (&["-U"], Flag),
        ],
        words: &[IMAGE, IMAGE],
    },
    Verb {
        name: "measure",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["-O"], FORMATS),
            (&["-o"], OPTIONS),
            (&["--output"], OUTPUT),
            (&["-s", "--size"], SIZE),
            (&["-U"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "create",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["-o"], OPTIONS),
            (&["-q"], Flag),
            (&["-b", "--backing"], BACKING),
            (&["-F"], FORMATS),
            (&["-u"], Flag),
        ],
        words: &[(NEW, NOT_NEW), (SIZES, NO_SIZES)],
    },
    Verb {
        name: "convert",
        options: &[
            (&["-f"], FORMATS),
            (&["-O"], FORMATS),
            (&["-O"], FORMATS),
            (&["-o"], OPTIONS),
            (&["-c", "--compress"], Flag),
            (&["-q"], Flag),
            (&["-n"], Flag),
            (&["-t"], CACHE),
            (&["-T"], CACHE),
            (&["-S"], Of(&["0", "4k", "64k"], &["100", "x", "32M"])),
            (&["-m", "--parallel"], Of(&["1", "4", "16"], &["0", "17", "x", "-1"])),
            (&["-W"], Flag),
            (&["-C"], Flag),
            (&["-r"], RATE),
            (&["-B"], BACKING),
            (&["-F"], FORMATS),
            (&["-U"], Flag),
            (&["--target-is-zero"], Flag),
            (&["--salvage"], Flag),
        ],
        words: &[IMAGE, (NEW, NOT_NEW)],
    },
    Verb {
        name: "commit",
        options: &[
            (&["-f"], FORMATS),
            (&["-t"], CACHE),
            (&["-d"], Flag),
            (&["-q"], Flag),
            (&["-r"], RATE),
            (&["-b"], Of(&["base.raw", "mid.qcow2", "./base.raw"], &["missing", "top.qcow2"])),
        ],
        words: &[(OVERLAYS, IMAGES)],
    },
    Verb {
        name: "rebase",
        options: &[
            (&["-b"], BACKING),
            (&["-b"], BACKING),
            (&["-F"], FORMATS),
            (&["-f"], FORMATS),
            (&["-t"], CACHE),
            (&["-T"], CACHE),
            (&["-u"], Flag),
            (&["-c"], Flag),
            (&["-q"], Flag),
            (&["-U"], Flag),
        ],
        words: &[(OVERLAYS, IMAGES)],
    },
    Verb {
        name: "dd",
        options: &[(&["-f"], FORMATS), (&["-O"], FORMATS), (&["-U"], Flag)],
        words: &[
            (
                &["if=base.raw", "if=top.qcow2", "if=odd.raw", "if=comp.qcow2"],
                &["if=missing", "if", "of=new", "if=sub"],
            ),
            (&["of=new", "of=sub/new"], &["of=nowhere/new", "of"]),
            (&["bs=512", "bs=64k", "bs=1000", "bs=1M"], &["bs=0", "bs=x", "bs=", "bs=2G"]),
            (&["count=1", "count=3", "count=100000"], &["count=x", "count=-1", "count=1k"]),
            (&["skip=0", "skip=1", "skip=100000"], &["skip=x", "foo=1", "skip=1k"]),
        ],
    },
    Verb {
        name: "bench",
        options: &[
            (&["-f"], FORMATS),
            (&["-t"], CACHE),
            (&["-c"], Of(&["1", "10", "0x20"], &["0", "x", "1k", "-1"])),
            (&["-c"], Of(&["1", "10", "0x20"], &["0", "x", "1k", "-1"])),
            (&["-d"], Of(&["1", "8", "64"], &["0", "x"])),
            (&["-o"], Of(&["0", "4k", "1000"], NO_SIZES)),
            (&["-s"], Of(&["512", "4k", "1000"], NO_SIZES)),
            (&["-S"], Of(&["0", "4k", "64k"], NO_SIZES)),
            (&["-i"], Of(&["threads"], &["foo"])),
            (&["-w"], Flag),
            (&["--pattern"], Of(&["0", "0x41", "255"], &["256", "x"])),
            (&["--flush-interval"], Of(&["0", "64"], &["1", "x"])),
            (&["--no-drain"], Flag),
            (&["-q"], Flag),
            (&["-U"], Flag),
        ],
        words: &[IMAGE],
    },
];

/// One command line. Most are right; the others have a mistake or two.
pub(crate) fn random(rng: &mut Rng) -> Vec<String> {
    let verb = rng.pick(VERBS);
    // One in so many words is wrong.
    let mistakes = *rng.pick(&[0, 0, 0, 5, 20]);
    let mut words: Vec<String> = Vec::new();
    let wanted = rng.below(5);
    for _ in 0..wanted {
        let (names, value) = rng.pick(verb.options);
        let name = *rng.pick(names);
        match value {
            Flag => words.push(name.to_owned()),
            Of(good, bad) => {
                let value = choose(rng, mistakes, good, bad);
                if name.starts_with("--") && rng.chance(50) {
                    words.push(format!("{name}={value}"));
                } else {
                    words.extend([name.to_owned(), value.to_owned()]);
                }
            }
        }
    }
    for (good, bad) in verb.words {
        if rng.chance(mistakes) && rng.chance(40) {
            continue;
        }
        let word = choose(rng, mistakes, good, bad);
        words.push(word.to_owned());
    }
    if rng.chance(mistakes) {
        let extra = *rng.pick(&["--foo", "-Z", "base.raw", "-f", "--output", "extra"]);
        let at = rng.index(words.len() + 1);
        words.insert(at, extra.to_owned());
    }
    words.insert(0, verb.name.to_owned());
    words
}

/// A word from `good`, or in `mistakes` of a hundred cases from `bad`.
fn choose(
    rng: &mut Rng,
    mistakes: u64,
    good: &'static [&'static str],
    bad: &'static [&'static str],
) -> &'static str {
    match rng.chance(mistakes) {
        true => bad[rng.index(bad.len())],
        false => good[rng.index(good.len())],
    }
}
