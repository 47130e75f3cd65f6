//! Lines of `qemu-img`.

use super::Value::{Flag, Of};
use super::{Value, Verb};

pub(super) const IMAGES: &[&str] = &[
    "base.raw",
    "mid.qcow2",
    "top.qcow2",
    "v2.qcow2",
    "ext.qcow2",
    "short.qcow2",
    "comp.qcow2",
    "over.qcow2",
    "odd.raw",
    "snaps.qcow2",
    "marks.qcow2",
];
const OVERLAYS: &[&str] = &["mid.qcow2", "top.qcow2", "v2.qcow2", "ext.qcow2", "over.qcow2"];
pub(super) const NO_IMAGES: &[&str] = &["missing", "sub", "sub/missing", "orphan.qcow2"];
const IMAGES_AND_NONE: &[&str] = &["odd.raw", "v2.qcow2", "missing", "sub"];
const NEW: &[&str] = &["new", "sub/new", "top.qcow2", "odd.raw"];
const NOT_NEW: &[&str] = &["nowhere/new", "sub"];
const SIZES: &[&str] =
    &["0", "1", "512", "1000", "64k", "1M", "1.5M", "0x10000", "3145728", "2097153"];
const NO_SIZES: &[&str] = &["-1", "x", "1kk", "", "9999999999999999999", "8E", "1.2.3", "0xg", "k"];
pub(super) const FORMATS: Value = Of(&["raw", "qcow2"], &["foo", "bochs", "QCOW2"]);
pub(super) const SIZE: Value = Of(SIZES, NO_SIZES);
pub(super) const CACHE: Value =
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
        "help",
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
        "cluster_size=4k,help",
        "?",
        "compat=0.10,lazy_refcounts=on",
        "extended_l2=on,cluster_size=4k",
        "compression_type=foo",
        "nofoo",
        "lazy_refcounts=x",
        "backing_fmt=raw",
        "refcount_bits=x",
        "encrypt.format=foo",
    ],
);
const OBJECT: Value = Of(
    &["secret,id=a,data=x", "secret,id=b,data=eHg=,format=base64"],
    &[
        "foo",
        "secret",
        "secret,id=a",
        "secret,id=a,data=x,foo=1",
        "secret,id=1,data=x",
        "secret,id=c,file=missing",
        "secret,id=d,data=x,file=y",
        "",
        "secret,id=e,data=?,format=base64",
        "secret,id=f,data=x,format=hex",
    ],
);
const SNAPSHOT: Value = Of(&["one", "two", "1", "2"], &["foo", ""]);
const PARAM: Value = Of(
    &["one", "snapshot.id=1", "snapshot.name=two", "snapshot.id=1,snapshot.name=one"],
    &["foo", "snapshot.foo=1", "snapshot.id=7", "snapshot.id=1,snapshot.name=two"],
);
const AMENDMENTS: Value = Of(
    &[
        "compat=0.10",
        "compat=1.1",
        "help",
        "lazy_refcounts=on",
        "refcount_bits=8",
        "compat=v3",
        "size=4M",
    ],
    &[
        "foo=1",
        "",
        ",",
        "compat=9",
        "cluster_size=4k",
        "size=x",
        "refcount_bits=3",
        "lazy_refcounts=x",
        "preallocation=full",
        "backing_file=base.raw",
    ],
);
const BACKING: Value = Of(&["base.raw", "short.qcow2", ""], &["missing", "sub"]);

const IMAGE: (&[&str], &[&str]) = (IMAGES, NO_IMAGES);

pub(super) const VERBS: &[Verb] = &[
    Verb {
        name: "info",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["-b", "--backing-chain", "--backing"], Flag),
            (&["--object"], OBJECT),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "check",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["-r", "--repair"], Of(&["leaks", "all"], &["foo", ""])),
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
            (&["-l", "--snapshot"], PARAM),
            (&["--size"], SIZE),
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
            (&["-l"], PARAM),
            (&["--object"], OBJECT),
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
    Verb {
        name: "amend",
        options: &[
            (&["-o", "--options"], AMENDMENTS),
            (&["-o"], AMENDMENTS),
            (&["-f", "--format"], FORMATS),
            (&["-t", "--cache"], CACHE),
            (&["-q"], Flag),
            (&["--force"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "bitmap",
        options: &[
            (&["--add"], Flag),
            (&["--add"], Flag),
            (&["--remove"], Flag),
            (&["--clear"], Flag),
            (&["--enable", "--disable"], Flag),
            (&["--merge"], Of(&["b0", "b1"], &["foo", ""])),
            (&["-g", "--granularity"], Of(&["64k", "512", "1M"], &["1000", "256", "x", "4G"])),
            (&["-f"], FORMATS),
            (&["-b", "--source-file"], Of(&["marks.qcow2"], NO_IMAGES)),
            (&["-F"], FORMATS),
        ],
        words: &[
            (&["marks.qcow2", "short.qcow2", "top.qcow2"], IMAGES_AND_NONE),
            (&["b0", "b1", "new"], &["", "foo"]),
        ],
    },
    Verb {
        name: "resize",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["-q"], Flag),
            (&["--shrink"], Flag),
            (&["--shrink"], Flag),
            (&["--preallocation"], Of(&["off", "metadata", "falloc", "full"], &["foo", "", "Off"])),
        ],
        words: &[
            IMAGE,
            (&["4M", "+1M", "-512k", "1M", "+512", "2097152"], &["x", "+x", "-9G", "0", "+-1", ""]),
        ],
    },
    Verb {
        name: "snapshot",
        options: &[
            (&["-l", "--list"], Flag),
            (&["-c", "--create"], SNAPSHOT),
            (&["-a", "--apply"], SNAPSHOT),
            (&["-d", "--delete"], SNAPSHOT),
            (&["-f"], FORMATS),
            (&["-q"], Flag),
            (&["-U"], Flag),
        ],
        words: &[(&["snaps.qcow2", "snaps.qcow2", "short.qcow2", "odd.raw"], NO_IMAGES)],
    },
];
