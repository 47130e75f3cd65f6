//! Lines of `qemu-nbd` that end by themselves: the socket cannot be made, and nobody serves it.

use super::Value::{Flag, Of};
use super::img::{CACHE, FORMATS, OBJECT};
use super::names::{IMAGES, NO_IMAGES};
use super::{Choice, Value, Verb};

const SOCKET: (&[&str], &[&str]) =
    (&["--socket=/nowhere/socket", "-k/nowhere/socket"], &["-k", "-krelative"]);
const NO_FILES: &[&str] = &["sub/missing"];
const NUMBERS: Value = Of(&["1", "5", "0"], &["x", "-1", "", "99999999999"]);
const TEXT: Value = Of(&["a", "some text"], &[""]);

const SERVE: &[Choice] = &[
    (&["-f", "--format"], FORMATS),
    (&["-r", "--read-only"], Flag),
    (&["-s", "--snapshot"], Flag),
    (&["-n", "--nocache"], Flag),
    (&["-t", "--persistent"], Flag),
    (&["-v", "--verbose"], Flag),
    (&["--cache"], CACHE),
    (&["--aio"], Of(&["threads", "io_uring"], &["foo", ""])),
    (&["--discard"], Of(&["unmap", "ignore", "off", "on"], &["foo", ""])),
    (&["--detect-zeroes"], Of(&["off", "on", "unmap"], &["foo", ""])),
    (&["-e", "--shared"], NUMBERS),
    (&["-o", "--offset"], Of(&["0", "512", "1024"], &["x", "-1", "1k", "100M", ""])),
    (&["-p", "--port"], Of(&["10809"], &["0", "x", "65536", ""])),
    (&["-b", "--bind"], Of(&["127.0.0.1"], &[""])),
    (&["-x", "--export-name"], TEXT),
    (&["-D", "--description"], TEXT),
    (&["-l", "--load-snapshot"], Of(&["one", "snapshot.id=1"], &["foo", "snapshot.foo=1"])),
    (&["-A", "--allocation-depth"], Flag),
    (&["--handshake-limit"], NUMBERS),
    (&["--tls-creds"], Of(&["a"], &[""])),
    (&["--tls-authz"], Of(&["a"], &[""])),
    (&["--tls-hostname"], Of(&["a"], &[""])),
    (&["--fork"], Flag),
    (&["-L", "--list"], Flag),
    (&["-B", "--bitmap"], Of(&["b0", "b1"], &["foo", ""])),
    (&["--object"], OBJECT),
    (&["--pid-file"], Of(&["pid"], &["nowhere/pid", ""])),
    (&["--selinux-label"], Of(&["a"], &[""])),
    (&["-c", "--connect"], Of(&["/nowhere/nbd0"], &[""])),
    (&["-d", "--disconnect"], Flag),
    (&["-T", "--trace"], Of(&["foo"], &["enable=foo", "foo=1"])),
];

pub(super) const LINES: &[Verb] = &[
    Verb { name: "", options: SERVE, words: &[SOCKET, (IMAGES, NO_IMAGES)] },
    Verb { name: "", options: SERVE, words: &[SOCKET, (IMAGES, NO_IMAGES)] },
    Verb { name: "--list", options: SERVE, words: &[SOCKET] },
    // A socket that can be made, and an image that cannot be opened whatever the options.
    Verb {
        name: "",
        options: SERVE,
        words: &[(&["--socket=@/socket"], &["-k@/sub/socket"]), (&["missing", "sub"], NO_FILES)],
    },
];
