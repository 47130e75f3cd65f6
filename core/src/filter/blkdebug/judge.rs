//! The device itself, as it takes aligned requests.

use super::breakpoints::Breakpoints;
use super::rules::Rules;
use super::{BlkdebugIoType, BlkdebugOptions};
use crate::filter::forward::forward;
use crate::filter::release::Release;
use crate::io::{
    BlockDevice, BoxFuture, DebugEvent, Device, Extent, Limits, Segments, WriteFlags, ZeroFlags,
    check_range, raise,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::future::ready;
use futures_util::future::select;

/// Lets rules and breakpoints decide about each request.
pub(super) struct Judge {
    inner: Device,
    rules: Mutex<Rules>,
    options: BlkdebugOptions,
    unit: u64,
    pub(super) breakpoints: Breakpoints,
    pub(super) release: Release,
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Judge").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// A part of a request: where, how long, and whether it keeps to the alignment that is preferred.
#[derive(Clone, Copy)]
struct Piece {
    offset: u64,
    len: u64,
    whole: bool,
}

/// `offset` and `len` in pieces: what lies before and behind units of `unit`, and between them
/// whole units of at most `most` bytes each.
fn pieces(offset: u64, len: u64, unit: u64, most: u64) -> impl Iterator<Item = Piece> {
    let (unit, end) = (unit.max(1), offset.saturating_add(len));
    let most = if most == 0 { u64::MAX } else { most };
    let mut at = offset;
    core::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let in_unit = at % unit;
        let (len, whole) = match in_unit {
            0 if end - at >= unit => {
                let len = (end - at).min(most);
                (if len > unit { len - len % unit } else { len }, true)
            }
            _ => ((unit - in_unit).min(end - at), false),
        };
        let piece = Piece { offset: at, len, whole };
        at += len;
        Some(piece)
    })
}

impl Judge {
    pub(super) fn new(inner: Device, mut options: BlkdebugOptions, unit: u64) -> Self {
        let errors = core::mem::take(&mut options.inject_error);
        let changes = core::mem::take(&mut options.set_state);
        Self {
            inner,
            rules: Mutex::new(Rules::new(errors, changes)),
            options,
            unit,
            breakpoints: Breakpoints::default(),
            release: Release::default(),
        }
    }

    fn check(&self, kind: BlkdebugIoType, offset: u64, len: u64) -> Result<()> {
        self.rules.lock().check(kind, offset, len)
    }

    async fn write_pieces(&self, offset: u64, data: Segments, flags: WriteFlags) -> Result<()> {
        if data.is_empty() {
            return self.inner.write(offset, data, flags).await;
        }
        let most = self.options.max_transfer;
        for piece in pieces(offset, data.len(), 1, most) {
            self.check(BlkdebugIoType::Write, piece.offset, piece.len)?;
            let part = data.slice(piece.offset - offset, piece.len);
            self.inner.write(piece.offset, part, flags).await?;
        }
        Ok(())
    }

    async fn zero_pieces(&self, offset: u64, len: u64, flags: ZeroFlags) -> Result<()> {
        if len == 0 {
            return self.inner.write_zeroes(offset, len, flags).await;
        }
        let (unit, most) = (self.options.opt_write_zero, self.options.max_write_zero);
        if flags.contains(ZeroFlags::NO_FALLBACK)
            && pieces(offset, len, unit, most).any(|piece| !piece.whole)
        {
            return Err(Error::unsupported("zeroes that are not aligned are written as data"));
        }
        for piece in pieces(offset, len, unit, most) {
            if piece.whole {
                self.check(BlkdebugIoType::WriteZeroes, piece.offset, piece.len)?;
                self.inner.write_zeroes(piece.offset, piece.len, flags).await?;
            } else {
                let zeroes = Segments::zero(piece.len);
                self.write_pieces(piece.offset, zeroes, WriteFlags::empty()).await?;
            }
        }
        Ok(())
    }
}

impl BlockDevice for Judge {
    forward!(len capabilities set_len info);

    fn limits(&self) -> Limits {
        let limits = self.inner.limits();
        // Checked to be below 32 bits.
        let unit = u32::try_from(self.unit).unwrap_or(limits.request_alignment);
        Limits { request_alignment: unit, ..limits }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        let fits = check_range(offset, len, self.inner.len());
        if fits.is_err() || len == 0 {
            return self.inner.read(offset, len);
        }
        Box::pin(async move {
            let mut data = Segments::new();
            for piece in pieces(offset, len, 1, self.options.max_transfer) {
                self.check(BlkdebugIoType::Read, piece.offset, piece.len)?;
                data.append(self.inner.read(piece.offset, piece.len).await?);
            }
            Ok(data)
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let limits = self.inner.limits();
        let fits = check_range(offset, data.len(), u64::MAX);
        if fits.is_err() || data.len() > u64::from(limits.max_transfer) {
            return self.inner.write(offset, data, flags);
        }
        Box::pin(async move {
            raise(self, DebugEvent::Pwritev).await;
            let result = self.write_pieces(offset, data, flags).await;
            raise(self, DebugEvent::PwritevDone).await;
            result
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        if check_range(offset, len, u64::MAX).is_err() {
            return self.inner.write_zeroes(offset, len, flags);
        }
        Box::pin(async move {
            raise(self, DebugEvent::PwritevZero).await;
            let result = self.zero_pieces(offset, len, flags).await;
            raise(self, DebugEvent::PwritevDone).await;
            result
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        if check_range(offset, len, self.inner.len()).is_err() || len == 0 {
            return self.inner.discard(offset, len);
        }
        Box::pin(async move {
            let BlkdebugOptions { opt_discard, max_discard, .. } = self.options;
            for piece in pieces(offset, len, opt_discard, max_discard) {
                self.check(BlkdebugIoType::Discard, piece.offset, piece.len)?;
                self.inner.discard(piece.offset, piece.len).await?;
            }
            Ok(())
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check(BlkdebugIoType::Flush, 0, 0)?;
            self.inner.flush().await
        })
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        match self.check(BlkdebugIoType::BlockStatus, offset, len) {
            Ok(()) => self.inner.extents(offset, len),
            Err(error) => Box::pin(ready(Err(error))),
        }
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.rules.lock().event(event);
        if self.release.is_wanted() {
            return None;
        }
        let stopped = self.breakpoints.hit(event)?;
        Some(Box::pin(async move {
            let wanted = core::pin::pin!(self.release.wanted());
            let resumed = core::pin::pin!(stopped.resumed());
            select(resumed, wanted).await;
        }))
    }
}
