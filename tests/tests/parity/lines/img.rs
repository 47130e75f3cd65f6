//! Lines of `qemu-img`.

use super::Value::{Flag, Of};
use super::names::{IMAGES, NO_IMAGES, OVERLAYS};
use super::{Value, Verb};

const IMAGES_AND_NONE: &[&str] = &["odd.raw", "v2.qcow2", "missing", "sub"];
const NEW: &[&str] = &["new", "sub/new", "top.qcow2", "odd.raw"];
const OVERWRITTEN: &[&str] =
    &["top.qcow2", "short.qcow2", "ext.qcow2", "v2.qcow2", "data.qcow2", "marks.qcow2", "base.raw"];
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
        "data_file=new.data",
        "encrypt.format=luks,encrypt.key-secret=a,encrypt.iter-time=10",
        "help",
    ],
    &[
        "foo=1",
        "encrypt.format=luks",
        "encrypt.format=luks,encrypt.key-secret=nobody",
        "encrypt.format=luks,encrypt.key-secret=a,encrypt.cipher-alg=foo",
        "encryption=x",
        "data_file_raw=on",
        "data_file=nowhere/new.data",
        "data_file=new.data,data_file_raw=x",
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
pub(super) const OBJECT: Value = Of(
    &[
        "secret,id=a,data=x",
        "secret,id=b,data=eHg=,format=base64",
        "throttle-group,id=t,x-iops-total=1000",
        "throttle-group,id=t,limits.bps-total=1000000000",
    ],
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
        "throttle-group",
        "throttle-group,id=u,x-iops-total=-1",
        "throttle-group,id=u,limits.iops-total=1,limits.iops-read=1",
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
        "backing_file=base.raw,backing_fmt=raw",
        "data_file=split.raw",
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
const BACKING: Value = Of(
    &[
        "base.raw",
        "short.qcow2",
        "file:short.qcow2",
        "mid.qcow2",
        "",
        "json:{'driver':'qcow2','file':{'driver':'file','filename':'mid.qcow2'},'backing':null}",
        r#"json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}"#,
        "json:{'driver':'qcow2','file':{'driver':'file','filename':'short.qcow2'}}",
        "json:{'driver':'qcow2','file':{'driver':'file','filename':'short.qcow2'},'backing':null}",
    ],
    &[
        "missing",
        "sub",
        "json:{",
        "json:{}",
        "json:{'driver':'raw','file':{'driver':'file','filename':'missing'}}",
        "json:{'driver':'foo','file':{'driver':'file','filename':'base.raw'}}",
        "nbd:unix:/nowhere/socket",
    ],
);
/// The backing file of described.qcow2.
const DESCRIBED: &str =
    r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"mid.qcow2"}}"#;
/// What cannot be read, or not all of it.
const UNREADABLE: &[&str] =
    &["missing", "orphan.qcow2", "foo:bar", "torn.qcow2", "lost.qcow2", "mangled.qcow2"];
const READ: (&[&str], &[&str]) = (IMAGES, UNREADABLE);
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
            (&["--object"], OBJECT),
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["-r", "--repair"], Of(&["leaks", "all"], &["foo", ""])),
            (&["-q", "--quiet"], Flag),
            (&["-T", "--cache"], CACHE),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "map",
        options: &[
            (&["--object"], OBJECT),
            (&["-f", "--format"], FORMATS),
            (&["--output"], OUTPUT),
            (&["-s", "--start-offset"], SIZE),
            (&["-l", "--max-length"], SIZE),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[READ],
    },
    Verb {
        name: "compare",
        options: &[
            (&["--object"], OBJECT),
            (&["-f", "--a-format", "--left-format"], FORMATS),
            (&["-F", "--b-format", "--right-format"], FORMATS),
            (&["-s", "--strict"], Flag),
            (&["-q", "--quiet"], Flag),
            (&["-p", "--progress"], Flag),
            (&["-T", "--cache"], CACHE),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[READ, READ],
    },
    Verb {
        name: "measure",
        options: &[
            (&["--object"], OBJECT),
            (&["-f", "--format"], FORMATS),
            (&["-O", "--target-format"], FORMATS),
            (&["-o", "--options"], OPTIONS),
            (&["--output"], OUTPUT),
            (&["-l", "--snapshot"], PARAM),
            (&["--size"], SIZE),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[READ],
    },
    Verb {
        name: "create",
        options: &[
            (&["--object"], OBJECT),
            (&["-f", "--format"], FORMATS),
            (&["-o", "--options"], OPTIONS),
            (&["-q", "--quiet"], Flag),
            (&["-b", "--backing"], BACKING),
            (&["-F", "--backing-format"], FORMATS),
            (&["-u", "--backing-unsafe"], Flag),
        ],
        words: &[(NEW, NOT_NEW), (SIZES, NO_SIZES)],
    },
    Verb {
        name: "convert",
        options: &[
            (&["-f", "--source-format"], FORMATS),
            (&["-O", "--output-format"], FORMATS),
            (&["-O"], FORMATS),
            (&["-o", "--options"], OPTIONS),
            (&["-c"], Flag),
            (&["-q", "--quiet"], Flag),
            (&["-p"], Flag),
            (&["-n"], Flag),
            (&["-t", "--output-cache"], CACHE),
            (&["-T", "--source-cache"], CACHE),
            (&["-S", "--sparse-size"], Of(&["0", "4k", "64k"], &["100", "x", "32M"])),
            (&["-m", "--parallel"], Of(&["1", "4", "16"], &["0", "17", "x", "-1"])),
            (&["-l", "--snapshot"], PARAM),
            (&["--object"], OBJECT),
            (&["-W", "--oob-writes"], Flag),
            (&["-C", "--copy-range-offloading"], Flag),
            (&["-r", "--rate"], RATE),
            (&["-B", "--backing"], BACKING),
            (&["-F", "--backing-format"], FORMATS),
            (&["-U", "--force-share"], Flag),
            (&["--target-is-zero"], Flag),
            (&["--salvage"], Flag),
            (&["--bitmaps"], Flag),
            (&["--skip-broken-bitmaps"], Flag),
            (&["--target-image-opts"], Flag),
        ],
        words: &[READ, (NEW, NOT_NEW)],
    },
    // Images that are there are written over.
    Verb {
        name: "convert",
        options: &[
            (&["-n"], Flag),
            (&["-n"], Flag),
            (&["-U", "--force-share"], Flag),
            (&["-O"], FORMATS),
            (&["-O"], Of(&["qcow2"], &["raw"])),
            (&["-f"], FORMATS),
            (&["-c"], Flag),
            (&["-t"], CACHE),
            (&["-S"], Of(&["0", "4k", "64k"], &["100"])),
            (&["--bitmaps"], Flag),
            (&["--salvage"], Flag),
        ],
        words: &[READ, (OVERWRITTEN, NOT_NEW)],
    },
    Verb {
        name: "commit",
        options: &[
            (&["--object"], OBJECT),
            (&["-f", "--format"], FORMATS),
            (&["-t", "--cache"], CACHE),
            (&["-d", "--drop"], Flag),
            (&["-q", "--quiet"], Flag),
            (&["-p", "--progress"], Flag),
            (&["-r", "--rate"], RATE),
            (
                &["-b", "--base"],
                Of(
                    &[
                        "base.raw",
                        "mid.qcow2",
                        "./base.raw",
                        "@/base.raw",
                        "../short.qcow2",
                        DESCRIBED,
                    ],
                    &["missing", "top.qcow2", "", "json:{", "file:base.raw", "sub/../base.raw"],
                ),
            ),
        ],
        words: &[(OVERLAYS, IMAGES)],
    },
    Verb {
        name: "rebase",
        options: &[
            (&["--object"], OBJECT),
            (&["-b", "--backing"], BACKING),
            (&["-b"], BACKING),
            (&["-F", "--backing-format"], FORMATS),
            (&["-f", "--format"], FORMATS),
            (&["-t", "--cache"], CACHE),
            (&["-T", "--backing-cache"], CACHE),
            (&["-u", "--backing-unsafe"], Flag),
            (&["-c", "--compress"], Flag),
            (&["-q", "--quiet"], Flag),
            (&["-p", "--progress"], Flag),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[(OVERLAYS, IMAGES)],
    },
    Verb {
        name: "dd",
        options: &[
            (&["-f", "--format"], FORMATS),
            (&["-O", "--output-format"], FORMATS),
            (&["-U", "--force-share"], Flag),
            (&["--object"], OBJECT),
            (&["--image-opts"], Flag),
        ],
        words: &[
            (
                &[
                    "if=base.raw",
                    "if=top.qcow2",
                    "if=odd.raw",
                    "if=comp.qcow2",
                    "if=json:{'driver':'raw','file.filename':'base.raw'}",
                    "if=driver=qcow2,file.filename=short.qcow2",
                ],
                &["if=missing", "if", "of=new", "if=sub", "if=torn.qcow2", "if=mangled.qcow2"],
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
            (&["-f", "--format"], FORMATS),
            (&["-t", "--cache"], CACHE),
            (&["-c", "--count"], Of(&["1", "10", "0x20"], &["0", "x", "1k", "-1"])),
            (&["-c"], Of(&["1", "10", "0x20"], &["0", "x", "1k", "-1"])),
            (&["-d", "--depth"], Of(&["1", "8", "64"], &["0", "x"])),
            (&["-o", "--offset"], Of(&["0", "4k", "1000"], NO_SIZES)),
            (&["-s", "--buffer-size"], Of(&["512", "4k", "1000"], NO_SIZES)),
            (&["-S", "--step-size"], Of(&["0", "4k", "64k"], NO_SIZES)),
            (&["-i", "--aio"], Of(&["threads", "io_uring"], &["foo"])),
            (&["-n", "--native"], Flag),
            (&["-w", "--write"], Flag),
            (&["--pattern"], Of(&["0", "0x41", "255"], &["256", "x"])),
            (&["--flush-interval"], Of(&["0", "64"], &["1", "x"])),
            (&["--no-drain"], Flag),
            (&["-q", "--quiet"], Flag),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[READ],
    },
    Verb {
        name: "amend",
        options: &[
            (&["--object"], OBJECT),
            (&["-o", "--options"], AMENDMENTS),
            (&["-o"], AMENDMENTS),
            (&["-f", "--format"], FORMATS),
            (&["-t", "--cache"], CACHE),
            (&["-q", "--quiet"], Flag),
            (&["-p", "--progress"], Flag),
            (&["--force"], Flag),
        ],
        words: &[IMAGE],
    },
    Verb {
        name: "bitmap",
        options: &[
            (&["--object"], OBJECT),
            (&["--add"], Flag),
            (&["--add"], Flag),
            (&["--remove"], Flag),
            (&["--clear"], Flag),
            (&["--enable", "--disable"], Flag),
            (&["--merge"], Of(&["b0", "b1"], &["foo", ""])),
            (&["-g", "--granularity"], Of(&["64k", "512", "1M"], &["1000", "256", "x", "4G"])),
            (&["-f", "--format"], FORMATS),
            (&["-b", "--source-file"], Of(&["marks.qcow2"], NO_IMAGES)),
            (&["-F", "--source-format"], FORMATS),
        ],
        words: &[
            (&["marks.qcow2", "short.qcow2", "top.qcow2"], IMAGES_AND_NONE),
            (&["b0", "b1", "new"], &["", "foo"]),
        ],
    },
    Verb {
        name: "resize",
        options: &[
            (&["--object"], OBJECT),
            (&["-f", "--format"], FORMATS),
            (&["-q", "--quiet"], Flag),
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
            (&["--object"], OBJECT),
            (&["-l", "--list"], Flag),
            (&["-c", "--create"], SNAPSHOT),
            (&["-a", "--apply"], SNAPSHOT),
            (&["-d", "--delete"], SNAPSHOT),
            (&["-f", "--format"], FORMATS),
            (&["-q", "--quiet"], Flag),
            (&["-U", "--force-share"], Flag),
        ],
        words: &[(&["snaps.qcow2", "snaps.qcow2", "short.qcow2", "odd.raw"], NO_IMAGES)],
    },
];
