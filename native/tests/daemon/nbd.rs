//! A client of NBD, byte by byte, after the protocol's description (`doc/proto.md` of the reference
//! implementation): what follows the rules and what breaks them is made of the same pieces.

use std::io::{Read, Result, Write};
use std::os::unix::net::UnixStream;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const WRITE_ZEROES: u16 = 6;

/// The option that names an export and begins to use it.
pub(crate) const GO: u32 = 7;

/// Zeroes are written without giving up space.
pub(crate) const NO_HOLE: u16 = 2;

const OPTION: u64 = 0x4948_4156_454f_5054;
const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;

/// Where a server listens, what it says first, and what a client answers.
pub(crate) fn greeted(path: &str) -> UnixStream {
    let mut stream = super::setup::connect(path);
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).expect("a greeting");
    assert_eq!(greeting[..8], *b"NBDMAGIC");
    // Options have a fixed form, and nothing follows the last answer.
    stream.write_all(&3u32.to_be_bytes()).expect("the client's flags");
    stream
}

/// An option as it is sent.
pub(crate) fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).expect("it is short");
    let parts = [&OPTION.to_be_bytes()[..], &kind.to_be_bytes(), &len.to_be_bytes(), data];
    parts.concat()
}

/// What goes with [`GO`].
pub(crate) fn named(name: &str) -> Vec<u8> {
    let len = u32::try_from(name.len()).expect("it is short");
    [&len.to_be_bytes()[..], name.as_bytes(), &[0, 0]].concat()
}

/// A connection on which requests can be made.
pub(crate) fn open(path: &str, name: &str) -> UnixStream {
    let mut stream = greeted(path);
    stream.write_all(&option(GO, &named(name))).expect("a connection");
    loop {
        let mut head = [0; 20];
        stream.read_exact(&mut head).expect("an answer");
        let field =
            |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let (kind, len) = (field(12), field(16));
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data).expect("what goes with it");
        match kind {
            1 => return stream,
            3 => {}
            other => panic!("{name} was refused: {other:x}"),
        }
    }
}

/// The head of a request.
pub(crate) fn request(kind: u16, flags: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let parts: [&[u8]; 6] = [
        &REQUEST.to_be_bytes(),
        &flags.to_be_bytes(),
        &kind.to_be_bytes(),
        &cookie.to_be_bytes(),
        &offset.to_be_bytes(),
        &len.to_be_bytes(),
    ];
    parts.concat()
}

/// The next answer: the error, and whose it is. What is read follows, if there was none.
pub(crate) fn reply(stream: &mut impl Read) -> Result<(u32, u64)> {
    let mut head = [0; 16];
    stream.read_exact(&mut head)?;
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(word(0), REPLY, "an answer begins so");
    Ok((word(4), u64::from_be_bytes(head[8..].try_into().expect("eight bytes"))))
}
