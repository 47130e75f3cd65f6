//! Messages of the vhost-user protocol: bytes and descriptors of a socket.

use super::layout::{HEADER_LEN, MAX_FDS, MAX_PAYLOAD, MessageFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags,
};
use sectora_core::{Error, Result};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// What the other side says.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) request: u32,
    pub(super) flags: MessageFlags,
    payload: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl Message {
    /// Reads the next one; `None` where the other side has gone between two.
    pub(super) async fn receive(stream: &UnixStream) -> Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        let mut fds = VecDeque::new();
        if !fill(stream, &mut header, &mut fds).await? {
            return Ok(None);
        }
        let field = |at: usize| {
            let mut four = [0; 4];
            four.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(four)
        };
        let (request, flags) = (field(0), MessageFlags::from_bits_truncate(field(4)));
        let len = field(8) as usize;
        if flags & (MessageFlags::VERSION | MessageFlags::VERSION_HIGH) != MessageFlags::VERSION {
            return Err(Error::io(format!("vhost-user request {request} is not of version 1")));
        }
        if len > MAX_PAYLOAD {
            return Err(Error::limit(format!(
                "vhost-user request {request} has {len} bytes, more than {MAX_PAYLOAD}"
            )));
        }
        let mut payload = vec![0; len];
        if len > 0 && !fill(stream, &mut payload, &mut fds).await? {
            return Err(Error::io(format!("vhost-user request {request} lacks its end")));
        }
        Ok(Some(Self { request, flags, payload, fds }))
    }

    /// The bytes from `at` on; refused where there are fewer.
    pub(super) fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let found = self.payload.get(at..).and_then(|rest| rest.first_chunk::<N>());
        found.copied().ok_or_else(|| {
            let (request, len) = (self.request, self.payload.len());
            Error::invalid(format!("vhost-user request {request} has only {len} bytes"))
        })
    }

    pub(super) fn u32(&self, at: usize) -> Result<u32> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&self, at: usize) -> Result<u64> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// The next descriptor that came with it.
    pub(super) fn fd(&mut self) -> Result<OwnedFd> {
        let request = self.request;
        self.fds.pop_front().ok_or_else(|| {
            Error::invalid(format!("vhost-user request {request} lacks a file descriptor"))
        })
    }

    /// True where someone waits for what becomes of it.
    pub(super) fn needs_reply(&self) -> bool {
        self.flags.contains(MessageFlags::NEED_REPLY)
    }
}

/// Sends a message without descriptors.
pub(super) async fn send(
    stream: &UnixStream,
    request: u32,
    flags: MessageFlags,
    payload: &[u8],
) -> Result<()> {
    let len = u32::try_from(payload.len()).map_err(|_| Error::bug("a message is too long"))?;
    let flags = flags | MessageFlags::VERSION;
    let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
    for field in [request, flags.bits(), len] {
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(payload);
    let mut sent = 0;
    while sent < bytes.len() {
        let one = || {
            let pieces = [IoSlice::new(&bytes[sent..])];
            let mut nothing = SendAncillaryBuffer::default();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            Ok(rustix::net::sendmsg(stream, &pieces, &mut nothing, flags)?)
        };
        sent += stream.async_io(Interest::WRITABLE, one).await.map_err(broken)?;
    }
    Ok(())
}

fn broken(error: std::io::Error) -> Error {
    Error::io(format!("the vhost-user connection broke: {error}"))
}

/// Fills `out`, and keeps descriptors that come along; false where the end comes first, before any
/// byte.
async fn fill(stream: &UnixStream, out: &mut [u8], fds: &mut VecDeque<OwnedFd>) -> Result<bool> {
    let mut at = 0;
    while at < out.len() {
        let rest = &mut out[at..];
        let one = || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut pieces = [IoSliceMut::new(rest)];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let got = rustix::net::recvmsg(stream, &mut pieces, &mut control, flags)?;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            Ok(got.bytes)
        };
        match stream.async_io(Interest::READABLE, one).await.map_err(broken)? {
            0 if at == 0 => return Ok(false),
            0 => return Err(Error::io("the vhost-user connection ended within a message")),
            n => at += n,
        }
        if fds.len() > MAX_FDS {
            return Err(Error::limit("too many descriptors came with one vhost-user message"));
        }
    }
    Ok(true)
}
