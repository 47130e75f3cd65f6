//! Lines of `qemu-io`.

use super::Value::{Flag, Of};
use super::img::{CACHE, FORMATS, OBJECT};
use super::names::{IMAGES, NO_IMAGES};
use super::{Value, Verb};

const COMMANDS: Value = Of(
    &[
        "read 0 64k",
        "read -P 3 0 64k",
        "read -v 0 16",
        "read -q 1M 512",
        "write -P 5 0 64k",
        "write -z 64k 64k",
        "write -zu 1M 4k",
        "write 512 512",
        "writev 0 512 1024",
        "readv 0 512 512",
        "aio_flush",
        "discard 64k 64k",
        "flush",
        "length",
        "alloc 0 1M",
        "map",
        "truncate 2M",
        "help read",
        "q",
        "close",
        "reopen -r",
    ],
    &[
        "foo",
        "read",
        "read x 1",
        "read 0 x",
        "read -Z 0 1",
        "read 100M 512",
        "read -P 300 0 512",
        "read -P 77 0 512",
        "write -z -P 1 0 512",
        "write -c -z 0 64k",
        "write 1 -1",
        "write -P",
        "read -l 5 0 512",
        "read 0 3G",
        "discard x 1",
        "discard 0",
        "length 1",
        "truncate x",
        "truncate",
        "alloc x",
        "open missing",
        "open base.raw",
        "reopen -Z",
        "reopen -o foo=1",
        "help foo",
        "sleep x",
        "writev 0 x",
        "aio_write x 1",
        "",
        "sigraise x",
        "wait_break 1",
        "break a",
        "abort 1",
    ],
);
const DISCARD: Value = Of(&["ignore", "off", "unmap", "on"], &["foo", "", "Off"]);
const AIO: Value = Of(&["threads", "io_uring"], &["foo", "", "native"]);

pub(super) const LINES: &[Verb] = &[
    Verb {
        name: "",
        options: &[
            (&["-c", "--cmd"], COMMANDS),
            (&["-c", "--cmd"], COMMANDS),
            (&["-c"], COMMANDS),
            (&["-f", "--format"], FORMATS),
            (&["-r", "--read-only"], Flag),
            (&["-n", "--nocache"], Flag),
            (&["-s", "--snapshot"], Flag),
            (&["-C", "--copy-on-read"], Flag),
            (&["-m"], Flag),
            (&["-d", "--discard"], DISCARD),
            (&["-t", "--cache"], CACHE),
            (&["-i", "--aio"], AIO),
            (&["-U", "--force-share"], Flag),
            (&["-k", "--native-aio"], Flag),
            (&["--object"], OBJECT),
            (&["-T", "--trace"], Of(&["foo"], &["enable=foo", "foo=1"])),
        ],
        words: &[(IMAGES, NO_IMAGES)],
    },
    Verb {
        name: "",
        options: &[
            (&["-c"], COMMANDS),
            (&["-c"], COMMANDS),
            (&["-c"], COMMANDS),
            (&["-f"], Of(&["qcow2", "raw"], &["foo"])),
        ],
        words: &[(&["top.qcow2", "mid.qcow2", "base.raw"], NO_IMAGES)],
    },
];
