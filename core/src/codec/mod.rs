//! Compression of clusters: bytes in, bytes out, no I/O.
//!
//! [`compress`] and [`decompress`] work on one cluster (or chunk) at a time; the engine runs them
//! through [`Runtime::offload`](crate::io::Runtime::offload).
//!
//! | codec | implementation | feature | otherwise |
//! | --- | --- | --- | --- |
//! | deflate | zlib-rs, level 6 | `zlib-rs` | miniz_oxide (its 4 KiB window mode) |
//! | zstd | the C library, level 3 | `zstd-c` | zrip, level 4 (the same ratio) |
//!
//! Invariants, whichever implementation is built in:
//! - the result of [`compress`] is a function of its input alone, and strictly smaller than it;
//! - [`decompress`] gives exactly the bytes asked for or an error, and never allocates more than
//!   that plus a constant, whatever the payload says of itself;
//! - states that are costly to set up are kept, one a thread, where there are threads to keep
//!   them in (any of the features `std`, `zlib-rs`, `zstd-c`, `zrip-std`).

#[cfg(any(test, not(feature = "zlib-rs")))]
mod deflate_miniz;
#[cfg(any(test, feature = "zlib-rs"))]
mod deflate_zlib;
#[cfg(any(test, feature = "zstd-c"))]
mod zstd_c;
mod zstd_frame;
#[cfg(any(test, not(feature = "zstd-c")))]
mod zstd_zrip;

#[cfg(test)]
mod tests;

#[cfg(not(feature = "zlib-rs"))]
use deflate_miniz as deflate;
#[cfg(feature = "zlib-rs")]
use deflate_zlib as deflate;
#[cfg(feature = "zstd-c")]
use zstd_c as zstd;
#[cfg(not(feature = "zstd-c"))]
use zstd_zrip as zstd;

use crate::{Error, Result};
use alloc::format;
use alloc::vec::Vec;

/// The most bytes that [`compress`] takes and [`decompress`] gives in one call: 1 GiB.
///
/// Far above any cluster or chunk of a known format, and small enough for every counter of every
/// codec on every target.
pub const MAX_LEN: usize = 1 << 30;

/// How the bytes of a cluster are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Raw deflate (RFC 1951), without zlib header or checksum: the qcow2 compression type `zlib`.
    ///
    /// Written with a window of 12 bits (4 KiB), which every reader of qcow2 takes; read with any
    /// window.
    Deflate,
    /// Zstandard frames (RFC 8878): the qcow2 compression type `zstd`.
    ///
    /// Written as one frame with its content size and without a checksum.
    Zstd,
}

impl Compression {
    /// The name of the format, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Deflate => "deflate",
            Self::Zstd => "zstd",
        }
    }
}

/// Compresses `data`; `None` where the result would not be smaller than `data`.
///
/// # Errors
/// `Limit` for more than [`MAX_LEN`] bytes; `Bug` where the codec fails, which it should not.
pub fn compress(kind: Compression, data: &[u8]) -> Result<Option<Vec<u8>>> {
    check_len(kind, "data to compress", data.len())?;
    if data.len() < 2 {
        return Ok(None);
    }
    match kind {
        Compression::Deflate => deflate::compress(data),
        Compression::Zstd => zstd::compress(data),
    }
}

/// Decompresses the first `out_len` bytes of what `payload` holds.
///
/// Bytes after the end of the compressed stream are ignored: a format that counts payloads in
/// sectors cannot say where it ends. Several zstd frames, one after the other, are read until
/// `out_len` bytes are there. A deflate stream that would go on after `out_len` bytes is cut there;
/// a zstd frame that would is an error (so does the reference implementation).
///
/// # Errors
/// `Corrupt` where the stream is damaged or has fewer bytes; `Unsupported` for a zstd frame that
/// needs a dictionary; `Limit` for one with a window above 128 MiB, or more than [`MAX_LEN`]
/// bytes.
pub fn decompress(kind: Compression, payload: &[u8], out_len: usize) -> Result<Vec<u8>> {
    check_len(kind, "decompressed data", out_len)?;
    check_len(kind, "compressed payload", payload.len())?;
    if out_len == 0 {
        return Ok(Vec::new());
    }
    let out = match kind {
        Compression::Deflate => deflate::decompress(payload, out_len),
        Compression::Zstd => zstd::decompress(payload, out_len),
    }?;
    if out.len() != out_len {
        return Err(Error::bug(format!(
            "the {} decoder gave {} bytes instead of {out_len}",
            kind.name(),
            out.len()
        )));
    }
    Ok(out)
}

fn check_len(kind: Compression, what: &str, len: usize) -> Result<()> {
    if len > MAX_LEN {
        return Err(Error::limit(format!(
            "{}: {what} of {len} bytes, the limit is {MAX_LEN}",
            kind.name()
        )));
    }
    Ok(())
}

/// The error for a stream that ends before the cluster is full.
fn too_short(kind: Compression, got: usize, out_len: usize) -> Error {
    Error::corrupt(format!(
        "compressed data ({}) ends after {got:#x} of {out_len:#x} bytes",
        kind.name()
    ))
}

/// The error for a stream that breaks a rule of its format.
fn damaged(kind: Compression, got: usize, out_len: usize, why: &str) -> Error {
    Error::corrupt(format!(
        "compressed data ({}) is damaged after {got:#x} of {out_len:#x} bytes: {why}",
        kind.name()
    ))
}
