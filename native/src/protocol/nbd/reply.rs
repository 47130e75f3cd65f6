//! What a request is told, piece by piece, and what it comes to.

use super::link::Command;
use bytes::Bytes;
use sectora_core::io::{Segment, Segments};
use sectora_core::nbd::client::Context;
use sectora_core::nbd::layout::command;
use sectora_core::nbd::message::{ChunkBody, error_kind};
use sectora_core::{Error, Result};

/// The most pieces that the reply to one read comes in.
const MAX_PIECES: usize = 1 << 17;

/// What a request comes to.
#[derive(Debug)]
pub(super) enum Reply {
    Done,
    Data(Segments),
    Status(Vec<(u64, u64)>),
}

/// A request on its way.
pub(super) struct InFlight {
    pub(super) command: Command,
    pub(super) cookie: u64,
    pieces: Vec<(u64, Segment)>,
    covered: u64,
    status: Option<Vec<(u64, u64)>>,
    error: Option<Error>,
}

impl InFlight {
    pub(super) fn new(command: Command, cookie: u64) -> Self {
        Self { command, cookie, pieces: Vec::new(), covered: 0, status: None, error: None }
    }

    /// Takes in a simple reply, which is all there is.
    pub(super) fn simple(&mut self, error: u32, payload: Bytes) {
        if error != 0 {
            self.error = Some(failed(error, ""));
        } else if !payload.is_empty() {
            self.covered = payload.len() as u64;
            self.pieces.push((self.command.request.offset, Segment::Data(payload)));
        }
    }

    /// Takes in one chunk of a structured reply.
    pub(super) fn chunk(
        &mut self,
        kind: u16,
        payload: &Bytes,
        context: Option<&Context>,
    ) -> Result<()> {
        let request = &self.command.request;
        let end = request.offset + request.len;
        let inside = |offset: u64, len: u64| {
            offset >= request.offset && offset.checked_add(len).is_some_and(|e| e <= end)
        };
        let body = ChunkBody::decode(kind, payload)?;
        let (offset, piece) = match (body, request.command) {
            (ChunkBody::None, _) => return Ok(()),
            (ChunkBody::Error { error, message }, _) => {
                self.error.get_or_insert_with(|| failed(error, &message));
                return Ok(());
            }
            (ChunkBody::Data { offset }, command::READ) => {
                (offset, Segment::Data(payload.slice(8..)))
            }
            (ChunkBody::Hole { offset, len }, command::READ) => (offset, Segment::Zero(len)),
            (ChunkBody::Status { context: id, extents }, command::BLOCK_STATUS) => {
                if context.is_none_or(|context| context.id != id) || self.status.is_some() {
                    return Err(violation(format!("a status in context {id}, not asked for")));
                }
                self.status = Some(extents);
                return Ok(());
            }
            _ => return Err(violation(format!("a chunk of type {kind} to another request"))),
        };
        self.covered = self.covered.saturating_add(piece.len());
        if !inside(offset, piece.len())
            || self.covered > request.len
            || self.pieces.len() >= MAX_PIECES
        {
            return Err(violation(format!(
                "{offset:#x}+{:#x} in reply to a read of {:#x}+{:#x}",
                piece.len(),
                request.offset,
                request.len
            )));
        }
        self.pieces.push((offset, piece));
        Ok(())
    }

    /// The result for whoever waits, or an error for which the connection has to end.
    pub(super) fn finish(mut self) -> Result<(Command, Result<Reply>)> {
        if let Some(error) = self.error.take() {
            return Ok((self.command, Err(error)));
        }
        let request = self.command.request;
        let reply = match request.command {
            command::READ => {
                self.pieces.sort_by_key(|(offset, _)| *offset);
                let mut data = Segments::new();
                for (offset, piece) in self.pieces {
                    if offset != request.offset + data.len() {
                        return Err(violation(format!(
                            "data at {offset:#x} overlaps or lacks some"
                        )));
                    }
                    data.push(piece);
                }
                if data.len() != request.len {
                    return Err(violation(format!(
                        "{:#x} bytes in reply to a read of {:#x}",
                        data.len(),
                        request.len
                    )));
                }
                Reply::Data(data)
            }
            command::BLOCK_STATUS => match self.status.take() {
                Some(extents) => Reply::Status(extents),
                None => return Err(violation("no status in reply to a request for it".to_owned())),
            },
            _ => Reply::Done,
        };
        Ok((self.command, Ok(reply)))
    }
}

/// The server does not keep to the protocol.
pub(super) fn violation(what: String) -> Error {
    Error::corrupt(what).in_format("nbd")
}

/// An error that the server told.
fn failed(number: u32, message: &str) -> Error {
    let (kind, words) = error_kind(number);
    match message.is_empty() {
        true => Error::new(kind, words),
        false => Error::new(kind, format!("{words} (server reported: {message})")),
    }
}
