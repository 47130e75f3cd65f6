//! Requests and replies of the transmission phase as bytes. Pure functions of what arrived.
//!
//! | mode | request | reply |
//! | --- | --- | --- |
//! | simple | 28 bytes | 16 bytes, then data |
//! | structured | 28 bytes | chunks with headers of 20 bytes; simple replies where there is no data |
//! | extended | 32 bytes | chunks with headers of 32 bytes |
//!
//! Source: the protocol specification, sections "Transmission phase" to "Extended replies".

use super::layout::{
    CommandFlags, EXTENDED_REPLY_LEN, EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_LEN,
    EXTENDED_REQUEST_MAGIC, MAX_CONTEXTS, MAX_PAYLOAD, MAX_STATUS_EXTENTS, MAX_STRING, REQUEST_LEN,
    REQUEST_MAGIC, SIMPLE_REPLY_LEN, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_LEN,
    STRUCTURED_REPLY_MAGIC, chunk, command, errno,
};
use super::wire::{Fields, violation};
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};

/// How requests and replies are framed: what the handshake agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Simple replies only.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers both ways: 64-bit lengths.
    Extended,
}

impl Mode {
    /// Bytes of a request's header.
    #[must_use]
    pub fn request_len(self) -> usize {
        match self {
            Self::Simple | Self::Structured => REQUEST_LEN,
            Self::Extended => EXTENDED_REQUEST_LEN,
        }
    }
}

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The flags as they were sent, known or not.
    pub flags: CommandFlags,
    /// One of [`command`].
    pub command: u16,
    /// What the reply is recognised by.
    pub cookie: u64,
    /// Offset in the export.
    pub offset: u64,
    /// Length in bytes of the range, or of the payload.
    pub len: u64,
}

impl Request {
    /// Adds the header to `out`. Without extended headers the length must fit into 32 bits.
    pub fn encode(&self, mode: Mode, out: &mut BytesMut) {
        debug_assert!(mode == Mode::Extended || u32::try_from(self.len).is_ok());
        out.put_u32(match mode {
            Mode::Extended => EXTENDED_REQUEST_MAGIC,
            Mode::Simple | Mode::Structured => REQUEST_MAGIC,
        });
        out.put_u16(self.flags.bits());
        out.put_u16(self.command);
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        match mode {
            Mode::Extended => out.put_u64(self.len),
            Mode::Simple | Mode::Structured => {
                out.put_u32(u32::try_from(self.len).unwrap_or(u32::MAX));
            }
        }
    }

    /// Reads a header of [`Mode::request_len`] bytes.
    ///
    /// # Errors
    /// `Corrupt` for a wrong magic or too few bytes: nothing after it can be understood.
    pub fn decode(mode: Mode, bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes, "a request");
        let magic = fields.u32()?;
        let wanted = match mode {
            Mode::Extended => EXTENDED_REQUEST_MAGIC,
            Mode::Simple | Mode::Structured => REQUEST_MAGIC,
        };
        if magic != wanted {
            return Err(violation(format!("a request begins with {magic:#x}, not {wanted:#x}")));
        }
        Ok(Self {
            flags: CommandFlags::from_bits_retain(fields.u16()?),
            command: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: match mode {
                Mode::Extended => fields.u64()?,
                Mode::Simple | Mode::Structured => fields.u32()?.into(),
            },
        })
    }

    /// Bytes that follow the header.
    ///
    /// # Errors
    /// `Limit` where they are more than anybody may send.
    pub fn payload_len(&self, mode: Mode) -> Result<usize> {
        let payload = self.command == command::WRITE
            || (mode == Mode::Extended && self.flags.contains(CommandFlags::PAYLOAD_LEN));
        match usize::try_from(self.len) {
            _ if !payload => Ok(0),
            Ok(len) if self.len <= MAX_PAYLOAD => Ok(len),
            _ => Err(Error::limit(format!(
                "a request with {:#x} bytes of payload, more than {MAX_PAYLOAD:#x}",
                self.len
            ))
            .in_format("nbd")),
        }
    }
}

/// A reply's header, or that of one chunk of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHeader {
    /// All there is, but for the data of a successful read.
    Simple {
        /// One of [`errno`], or 0.
        error: u32,
        /// The request's.
        cookie: u64,
    },
    /// A chunk.
    Chunk {
        /// No other chunk follows for this request.
        done: bool,
        /// One of [`chunk`].
        kind: u16,
        /// The request's.
        cookie: u64,
        /// Bytes of payload that follow; at most 32 MiB and a header.
        len: usize,
    },
}

impl ReplyHeader {
    /// Reads a header from the front of `bytes`, and tells its length; `None` where more bytes
    /// are needed.
    ///
    /// # Errors
    /// `Corrupt` for what may not come in this mode, `Limit` for a payload that is too long.
    pub fn decode(mode: Mode, bytes: &[u8]) -> Result<Option<(Self, usize)>> {
        let Some(magic) = bytes.first_chunk().map(|b| u32::from_be_bytes(*b)) else {
            return Ok(None);
        };
        let len = match (mode, magic) {
            (Mode::Simple | Mode::Structured, SIMPLE_REPLY_MAGIC) => SIMPLE_REPLY_LEN,
            (Mode::Structured, STRUCTURED_REPLY_MAGIC) => STRUCTURED_REPLY_LEN,
            (Mode::Extended, EXTENDED_REPLY_MAGIC) => EXTENDED_REPLY_LEN,
            _ => return Err(violation(format!("a reply begins with {magic:#x}"))),
        };
        let Some(header) = bytes.get(4..len) else { return Ok(None) };
        let mut fields = Fields::new(header, "a reply");
        if len == SIMPLE_REPLY_LEN {
            let header = Self::Simple { error: fields.u32()?, cookie: fields.u64()? };
            return Ok(Some((header, len)));
        }
        let flags = fields.u16()?;
        let kind = fields.u16()?;
        let cookie = fields.u64()?;
        let payload = match mode {
            Mode::Extended => {
                let _offset = fields.u64()?;
                fields.u64()?
            }
            _ => fields.u32()?.into(),
        };
        let limit = MAX_PAYLOAD + 16;
        let payload =
            usize::try_from(payload).ok().filter(|n| *n as u64 <= limit).ok_or_else(|| {
                Error::limit(format!("a reply with {payload:#x} bytes, more than {limit:#x}"))
                    .in_format("nbd")
            })?;
        let done = flags & chunk::FLAG_DONE != 0;
        Ok(Some((Self::Chunk { done, kind, cookie, len: payload }, len)))
    }
}

/// Adds a simple reply's header.
pub fn simple_reply(out: &mut BytesMut, cookie: u64, error: u32) {
    out.put_u32(SIMPLE_REPLY_MAGIC);
    out.put_u32(error);
    out.put_u64(cookie);
}

/// Adds the header of a chunk with `len` bytes of payload. `offset` is the request's.
pub fn chunk_header(
    out: &mut BytesMut,
    mode: Mode,
    (done, kind): (bool, u16),
    (cookie, offset): (u64, u64),
    len: u64,
) {
    let flags = if done { chunk::FLAG_DONE } else { 0 };
    match mode {
        Mode::Extended => out.put_u32(EXTENDED_REPLY_MAGIC),
        Mode::Simple | Mode::Structured => out.put_u32(STRUCTURED_REPLY_MAGIC),
    }
    out.put_u16(flags);
    out.put_u16(kind);
    out.put_u64(cookie);
    match mode {
        Mode::Extended => {
            out.put_u64(offset);
            out.put_u64(len);
        }
        // Payloads are bounded far below that.
        Mode::Simple | Mode::Structured => out.put_u32(u32::try_from(len).unwrap_or(u32::MAX)),
    }
}

/// The payload of a chunk, but for the data itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkBody {
    /// Nothing more to tell.
    None,
    /// Data: the offset; the bytes follow the first 8 of the payload.
    Data {
        /// Offset in the export.
        offset: u64,
    },
    /// Zeroes.
    Hole {
        /// Offset in the export.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Lengths and status of extents in one context.
    Status {
        /// The context's number.
        context: u32,
        /// Length in bytes and flags of each.
        extents: Vec<(u64, u64)>,
    },
    /// The request failed.
    Error {
        /// One of [`errno`].
        error: u32,
        /// For people.
        message: String,
    },
}

impl ChunkBody {
    /// Reads the payload of a chunk of `kind` that answers a request for `request_len` bytes.
    ///
    /// # Errors
    /// `Corrupt` where it breaks a rule of its kind, or the kind is not known.
    pub fn decode(kind: u16, payload: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(payload, "a chunk");
        match kind {
            chunk::NONE => {
                fields.end()?;
                Ok(Self::None)
            }
            chunk::OFFSET_DATA => {
                let offset = fields.u64()?;
                if fields.left() == 0 {
                    return Err(violation("a chunk of data without data"));
                }
                Ok(Self::Data { offset })
            }
            chunk::OFFSET_HOLE => {
                let (offset, len) = (fields.u64()?, fields.u32()?.into());
                fields.end()?;
                if len == 0 {
                    return Err(violation("a hole of no length"));
                }
                Ok(Self::Hole { offset, len })
            }
            chunk::BLOCK_STATUS | chunk::BLOCK_STATUS_EXT => {
                let context = fields.u32()?;
                let wide = kind == chunk::BLOCK_STATUS_EXT;
                let size = if wide { 16 } else { 8 };
                let announced = if wide { Some(fields.u32()?) } else { None };
                let count = fields.left() / size;
                let whole = fields.left() == count * size;
                let matches = announced.is_none_or(|n| n as usize == count);
                if count == 0 || !whole || !matches {
                    return Err(violation(format!(
                        "a block status of {:#x} bytes does not hold whole extents",
                        payload.len()
                    )));
                }
                let mut extents = Vec::new();
                for _ in 0..count.min(MAX_STATUS_EXTENTS) {
                    let (len, flags) = match wide {
                        true => (fields.u64()?, fields.u64()?),
                        false => (fields.u32()?.into(), fields.u32()?.into()),
                    };
                    if len == 0 {
                        return Err(violation("an extent of no length"));
                    }
                    extents.push((len, flags));
                }
                Ok(Self::Status { context, extents })
            }
            kind if kind & chunk::ERROR_BIT != 0 => {
                let error = match fields.u32()? {
                    0 => return Err(violation("an error with the number 0")),
                    error => error,
                };
                let len = usize::from(fields.u16()?);
                if len > fields.left() {
                    return Err(violation("an error's message is longer than its chunk"));
                }
                let text = payload.get(6..6 + len.min(MAX_STRING)).unwrap_or_default();
                let message = Fields::new(text, "a message").message();
                Ok(Self::Error { error, message })
            }
            kind => Err(violation(format!("a chunk of the unknown type {kind}"))),
        }
    }
}

/// What a `CMD_BLOCK_STATUS` with a payload asks for.
///
/// Returns the length of the range and the numbers of the contexts.
///
/// # Errors
/// `Corrupt` where the payload is malformed.
pub fn status_payload(payload: &[u8]) -> Result<(u64, Vec<u32>)> {
    let mut fields = Fields::new(payload, "a block status request");
    let len = fields.u64()?;
    let count = fields.left() / 4;
    if count > MAX_CONTEXTS {
        return Err(violation(format!("a block status request for {count} contexts")));
    }
    let mut contexts = Vec::new();
    for _ in 0..count {
        contexts.push(fields.u32()?);
    }
    fields.end()?;
    Ok((len, contexts))
}

/// The number that stands for an error on the wire.
#[must_use]
pub fn error_number(kind: ErrorKind) -> u32 {
    match kind {
        ErrorKind::Denied => errno::EPERM,
        ErrorKind::InvalidInput => errno::EINVAL,
        ErrorKind::NoSpace => errno::ENOSPC,
        ErrorKind::Unsupported => errno::ENOTSUP,
        ErrorKind::Limit => errno::EOVERFLOW,
        ErrorKind::Cancelled => errno::ESHUTDOWN,
        _ => errno::EIO,
    }
}

/// What a number on the wire means. Unknown ones are `EINVAL`, as the specification wants.
#[must_use]
pub fn error_kind(number: u32) -> (ErrorKind, &'static str) {
    match number {
        errno::EPERM => (ErrorKind::Denied, "Operation not permitted"),
        errno::EIO => (ErrorKind::Io, "Input/output error"),
        errno::ENOMEM => (ErrorKind::Io, "Cannot allocate memory"),
        errno::ENOSPC => (ErrorKind::NoSpace, "No space left on device"),
        errno::EOVERFLOW => (ErrorKind::Limit, "Value too large for defined data type"),
        errno::ENOTSUP => (ErrorKind::Unsupported, "Operation not supported"),
        errno::ESHUTDOWN => (ErrorKind::Io, "Cannot send after transport endpoint shutdown"),
        _ => (ErrorKind::InvalidInput, "Invalid argument"),
    }
}
