//! One request done to an export.

use super::export::Export;
use super::layout::{CommandFlags, MAX_PAYLOAD, command, errno};
use super::message::{Mode, Request, error_number, status_payload};
use crate::io::{Segment, Segments, WriteFlags, ZeroFlags};
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// What came of a request.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is done.
    Done,
    /// The bytes that were read.
    Data(Segments),
    /// Extents, in each context by its number.
    Status(Vec<(u32, Vec<(u64, u64)>)>),
    /// It failed, with one of [`errno`] and words for people.
    Failed(u32, String),
}

/// A request with what the connection agreed on.
pub(super) struct Order {
    pub(super) export: Arc<Export>,
    pub(super) mode: Mode,
    pub(super) request: Request,
    pub(super) payload: Bytes,
    /// The numbers of the contexts that status is told in.
    pub(super) contexts: Arc<[u32]>,
}

/// Reads for `CMD_CACHE` are done in pieces of this, and thrown away.
const CACHE_PIECE: u64 = 1 << 20;
/// The granularity at which written zeroes are looked for.
const ZERO_GRANULE: usize = 4096;

impl Order {
    pub(super) async fn execute(self) -> Answer {
        match self.run().await {
            Ok(answer) => answer,
            Err(error) => Answer::Failed(error_number(error.kind()), error.to_string()),
        }
    }

    async fn run(self) -> Result<Answer> {
        let Self { export, mode, request, .. } = &self;
        let device = &export.device;
        self.check_flags()?;
        let (len, contexts) = match request.command {
            command::BLOCK_STATUS => self.status_range()?,
            _ => (request.len, Vec::new()),
        };
        if request.command == command::FLUSH {
            if (request.offset, request.len) != (0, 0) {
                return Err(Error::invalid("a flush with a range"));
            }
            device.flush().await?;
            return Ok(Answer::Done);
        }
        if let Some(refused) = self.refuse(len) {
            return Ok(refused);
        }
        let start = export.options.offset + request.offset;
        let fua = export.options.writethrough || request.flags.contains(CommandFlags::FUA);
        match request.command {
            command::READ => Ok(Answer::Data(device.read(start, len).await?)),
            command::WRITE => {
                self.write(start, fua).await?;
                Ok(Answer::Done)
            }
            command::TRIM => {
                if export.options.discard && len > 0 {
                    device.discard(start, len).await?;
                }
                if fua {
                    device.flush().await?;
                }
                Ok(Answer::Done)
            }
            command::WRITE_ZEROES => {
                let mut flags = ZeroFlags::empty();
                let unmap =
                    export.options.discard && !request.flags.contains(CommandFlags::NO_HOLE);
                flags.set(ZeroFlags::MAY_UNMAP, unmap);
                let fast = request.flags.contains(CommandFlags::FAST_ZERO);
                flags.set(ZeroFlags::NO_FALLBACK, fast);
                if len > 0 {
                    device.write_zeroes(start, len, flags).await?;
                }
                if fua {
                    device.flush().await?;
                }
                Ok(Answer::Done)
            }
            command::CACHE => {
                let (mut at, end) = (start, start + len);
                while at < end {
                    let piece = (end - at).min(CACHE_PIECE);
                    device.read(at, piece).await?;
                    at += piece;
                }
                Ok(Answer::Done)
            }
            command::BLOCK_STATUS => {
                let most = match request.flags.contains(CommandFlags::REQ_ONE) {
                    true => 1,
                    false => usize::MAX,
                };
                let mut all = Vec::new();
                for id in contexts {
                    let Some(context) = export.contexts.get(id as usize) else { continue };
                    all.push((id, context.status(start, len, most).await?));
                }
                Ok(Answer::Status(all))
            }
            other => Err(Error::invalid(format!("unknown command {other} in mode {mode:?}"))),
        }
    }

    /// Flags that do not belong to the command.
    fn check_flags(&self) -> Result<()> {
        let mut valid = match self.request.command {
            command::READ if self.mode >= Mode::Structured => CommandFlags::DF,
            command::WRITE_ZEROES => CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
            command::BLOCK_STATUS => CommandFlags::REQ_ONE,
            _ => CommandFlags::empty(),
        };
        // Harmless anywhere, and asked for by clients without looking.
        valid |= CommandFlags::FUA;
        if self.mode == Mode::Extended
            && matches!(self.request.command, command::WRITE | command::BLOCK_STATUS)
        {
            valid |= CommandFlags::PAYLOAD_LEN;
        }
        let given = self.request.flags;
        match (given - valid).is_empty() {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "unsupported flags for command {} (got {:#x})",
                self.request.command,
                given.bits()
            ))),
        }
    }

    /// The range and the contexts of a `CMD_BLOCK_STATUS`.
    fn status_range(&self) -> Result<(u64, Vec<u32>)> {
        if self.contexts.is_empty() {
            return Err(Error::invalid("CMD_BLOCK_STATUS not negotiated"));
        }
        if !self.request.flags.contains(CommandFlags::PAYLOAD_LEN) {
            return Ok((self.request.len, self.contexts.to_vec()));
        }
        let invalid = |e: Error| Error::invalid(e.what().to_string());
        let (len, wanted) = status_payload(&self.payload).map_err(invalid)?;
        let known = wanted
            .iter()
            .enumerate()
            .all(|(i, id)| self.contexts.contains(id) && !wanted[..i].contains(id));
        match known && !wanted.is_empty() {
            true => Ok((len, wanted)),
            false => Err(Error::invalid("a block status request names contexts it does not have")),
        }
    }

    /// What may not be done, or not there.
    fn refuse(&self, len: u64) -> Option<Answer> {
        let Self { export, request, .. } = self;
        let size = export.size();
        let failed = |number, text: String| Some(Answer::Failed(number, text));
        let changes =
            matches!(request.command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        if changes && export.is_read_only() {
            return failed(errno::EPERM, "Export is read-only".to_string());
        }
        if request.offset.checked_add(len).is_none_or(|end| end > size) {
            let full = matches!(request.command, command::WRITE | command::WRITE_ZEROES);
            let number = if full { errno::ENOSPC } else { errno::EINVAL };
            return failed(
                number,
                format!("operation past EOF; From: {}, Len: {len}, Size: {size}", request.offset),
            );
        }
        let alignment = u64::from(export.block_sizes().minimum);
        if !request.offset.is_multiple_of(alignment) || !len.is_multiple_of(alignment) {
            return failed(
                errno::EINVAL,
                format!("{:#x}+{len:#x} is not aligned to {alignment:#x}", request.offset),
            );
        }
        if request.command == command::READ && len > MAX_PAYLOAD {
            return failed(
                errno::EINVAL,
                format!("len ({len}) is larger than max len ({MAX_PAYLOAD})"),
            );
        }
        if request.command == command::BLOCK_STATUS && len == 0 {
            return failed(errno::EINVAL, "need non-zero length".to_string());
        }
        None
    }

    async fn write(&self, start: u64, fua: bool) -> Result<()> {
        let device = &self.export.device;
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::FUA, fua);
        let data = Segments::from(self.payload.clone());
        let Some(unmap) = self.export.options.detect_zeroes.filter(|_| !data.is_empty()) else {
            return match data.is_empty() {
                true => Ok(()),
                false => device.write(start, data, flags).await,
            };
        };
        let mut zero = ZeroFlags::empty();
        zero.set(ZeroFlags::MAY_UNMAP, unmap);
        let mut at = start;
        for segment in data.sparsify(start, ZERO_GRANULE).as_slice() {
            match segment {
                Segment::Zero(len) => device.write_zeroes(at, *len, zero).await?,
                Segment::Data(bytes) => {
                    device.write(at, Segments::from(bytes.clone()), WriteFlags::empty()).await?;
                }
            }
            at += segment.len();
        }
        if fua {
            device.flush().await?;
        }
        Ok(())
    }
}
