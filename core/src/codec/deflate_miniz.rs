//! Raw deflate by miniz_oxide: for targets without std.

use super::Compression::Deflate as KIND;
use super::{damaged, too_short};
use crate::Result;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{
    CompressionStrategy, CompressorOxide, TDEFLFlush, TDEFLStatus, compress as deflate,
};
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress as inflate};

/// With a window of 12 bits the library has its fast mode only, whatever the level says.
const LEVEL: u8 = 1;
const WINDOW_BITS: u8 = 12;

pub(super) fn compress(data: &[u8]) -> Result<Option<Vec<u8>>> {
    let mut state = Box::new(CompressorOxide::with_params(
        DataFormat::Raw,
        LEVEL,
        CompressionStrategy::Default,
        WINDOW_BITS,
    ));
    // One byte less than the data: running out of room is the answer "not smaller".
    let mut out = vec![0; data.len().saturating_sub(1)];
    let (mut read, mut written) = (0, 0);
    loop {
        let (Some(rest), Some(room)) = (data.get(read..), out.get_mut(written..)) else {
            return Err(crate::Error::bug("deflate counted past its buffers"));
        };
        let (status, used, got) = deflate(&mut state, rest, room, TDEFLFlush::Finish);
        read += used;
        written += got;
        match status {
            TDEFLStatus::Done => {
                out.truncate(written);
                out.shrink_to_fit();
                return Ok(Some(out));
            }
            TDEFLStatus::Okay if written < out.len() && (used, got) != (0, 0) => {}
            TDEFLStatus::Okay => return Ok(None),
            TDEFLStatus::BadParam | TDEFLStatus::PutBufFailed => {
                return Err(crate::Error::bug("deflate failed"));
            }
        }
    }
}

pub(super) fn decompress(payload: &[u8], out_len: usize) -> Result<Vec<u8>> {
    let mut state = Box::<DecompressorOxide>::default();
    let mut out = vec![0; out_len];
    let (status, _, got) =
        inflate(&mut state, payload, &mut out, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    match status {
        // The stream may end here, go on, or have lost its end mark: the cluster is complete.
        TINFLStatus::Done
        | TINFLStatus::HasMoreOutput
        | TINFLStatus::NeedsMoreInput
        | TINFLStatus::FailedCannotMakeProgress
            if got == out_len =>
        {
            Ok(out)
        }
        TINFLStatus::Done | TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => {
            Err(too_short(KIND, got, out_len))
        }
        _ => Err(damaged(KIND, got, out_len, "data error")),
    }
}
