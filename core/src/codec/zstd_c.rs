//! Zstd by the C library.

use super::Compression::Zstd as KIND;
use super::damaged;
use super::zstd_frame::{Frame, first};
use crate::{Error, Result};
use alloc::vec::Vec;
use core::cell::RefCell;
use zstd_safe::{CCtx, DCtx, get_error_name};

/// The library's default, and the reference implementation's only one.
const LEVEL: i32 = 3;

/// `ZSTD_error_dstSize_tooSmall` of the stable error list; functions return it negated.
const NO_ROOM: usize = 0usize.wrapping_sub(70);

std::thread_local! {
    static COMPRESS: RefCell<Option<CCtx<'static>>> = const { RefCell::new(None) };
    static DECOMPRESS: RefCell<Option<DCtx<'static>>> = const { RefCell::new(None) };
}

pub(super) fn compress(data: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut out = Vec::with_capacity(data.len().saturating_sub(1));
    let status = COMPRESS.with_borrow_mut(|state| {
        let state = match state {
            Some(state) => state,
            None => state.insert(CCtx::try_create().ok_or_else(no_memory)?),
        };
        Ok::<_, Error>(state.compress(&mut out, data, LEVEL))
    })?;
    match status {
        Ok(len) if len < data.len() => {
            out.shrink_to_fit();
            Ok(Some(out))
        }
        // The vector may have been given more room than it asked for.
        Ok(_) | Err(NO_ROOM) => Ok(None),
        Err(code) => {
            Err(Error::bug(alloc::format!("zstd cannot compress: {}", get_error_name(code))))
        }
    }
}

pub(super) fn decompress(payload: &[u8], out_len: usize) -> Result<Vec<u8>> {
    DECOMPRESS.with_borrow_mut(|state| {
        let state = match state {
            Some(state) => state,
            None => state.insert(DCtx::try_create().ok_or_else(no_memory)?),
        };
        let mut rest = payload;
        let mut out = Vec::new();
        while out.len() < out_len {
            let got = out.len();
            let used = match first(rest, got, out_len)? {
                Frame::Skip(len) => len,
                Frame::Data(frame) => {
                    // The usual single frame goes into fresh memory; another one behind it.
                    let status = if got == 0 {
                        out = Vec::with_capacity(out_len);
                        state.decompress(&mut out, frame)
                    } else {
                        out.resize(out_len, 0);
                        let room = out.get_mut(got..).unwrap_or_default();
                        let status = state.decompress(room, frame);
                        out.truncate(got + status.unwrap_or(0));
                        status
                    };
                    if let Err(code) = status {
                        return Err(damaged(KIND, got, out_len, get_error_name(code)));
                    }
                    // The vector may have been given more room than it asked for.
                    if out.len() > out_len {
                        return Err(damaged(KIND, got, out_len, "more than the cluster holds"));
                    }
                    frame.len()
                }
            };
            rest = rest.get(used..).unwrap_or_default();
        }
        Ok(out)
    })
}

fn no_memory() -> Error {
    Error::limit("no memory for the zstd library's state")
}
