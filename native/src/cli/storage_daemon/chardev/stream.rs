//! Bytes both ways.
//!
//! A file may block: a thread of its own reads it, and another one writes it.

use super::ring::Ring;
use crate::cli::storage_daemon::descriptors::Inbox;
use crate::storage::OsError;
use bytes::BytesMut;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use sectora_core::nbd::Stream;
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use std::fs::File;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, Interest};
use tokio::net::UnixStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// So many bytes are on their way between a file and its reader.
const BETWEEN: usize = 64 << 10;
/// The most descriptors that come at once; the kernel closes more.
const MOST_DESCRIPTORS: usize = 16;
/// No more writers than this.
const MOST: u32 = 1 << 20;

/// Both ways, of any kind.
pub(super) trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

/// A client's stream.
pub(in crate::cli::storage_daemon) struct ByteStream(Kind);

enum Kind {
    Any(Box<dyn Both>),
    /// Descriptors may come with the bytes.
    Unix(UnixStream, Arc<Inbox>),
    /// Nothing comes, and what is written is kept by a ring, or by nobody.
    Sink(Option<Arc<Mutex<Ring>>>),
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByteStream")
    }
}

/// Counts the threads that still have something to write.
#[derive(Clone, Debug)]
pub(in crate::cli::storage_daemon) struct Flushed(Arc<Semaphore>);

impl Flushed {
    pub(in crate::cli::storage_daemon) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MOST as usize)))
    }

    /// Waits until all of them are done, or for `most`.
    pub(in crate::cli::storage_daemon) async fn wait(&self, most: Duration) {
        // Whether they are done in time or not, there is nothing more to do.
        let _ = tokio::time::timeout(most, self.0.acquire_many(MOST)).await;
    }
}

impl ByteStream {
    pub(super) fn null() -> Self {
        Self(Kind::Sink(None))
    }

    pub(super) fn into_ring(ring: Arc<Mutex<Ring>>) -> Self {
        Self(Kind::Sink(Some(ring)))
    }

    pub(super) fn of(stream: impl Both + 'static) -> Self {
        Self(Kind::Any(Box::new(stream)))
    }

    pub(super) fn of_unix(stream: UnixStream) -> Self {
        Self(Kind::Unix(stream, Arc::default()))
    }

    /// Where descriptors are that came with the bytes; `None` where none can come.
    pub(in crate::cli::storage_daemon) fn inbox(&self) -> Option<Arc<Inbox>> {
        match &self.0 {
            Kind::Unix(_, inbox) => Some(inbox.clone()),
            Kind::Any(_) | Kind::Sink(_) => None,
        }
    }

    /// Standard input and output.
    pub(super) fn stdio(flushed: &Flushed) -> Self {
        Self::bridge(Some(std::io::stdin()), std::io::stdout(), flushed)
    }

    pub(super) fn over_files(input: Option<File>, output: File, flushed: &Flushed) -> Self {
        Self::bridge(input, output, flushed)
    }

    fn bridge(
        input: Option<impl Read + Send + 'static>,
        output: impl Write + Send + 'static,
        flushed: &Flushed,
    ) -> Self {
        let (ours, theirs) = tokio::io::duplex(BETWEEN);
        let (from, into) = tokio::io::split(theirs);
        let handle = Handle::current();
        if let Some(input) = input {
            let handle = handle.clone();
            // Without a thread nothing is read; what is missing then is the client.
            let _ = std::thread::Builder::new()
                .name("chardev-in".into())
                .spawn(move || copy_in(input, into, &handle));
        }
        let permit = flushed.0.clone().try_acquire_owned();
        let _ = std::thread::Builder::new().name("chardev-out".into()).spawn(move || {
            copy_out(from, output, &handle);
            drop(permit);
        });
        Self::of(ours)
    }
}

fn copy_in(mut input: impl Read, mut into: tokio::io::WriteHalf<DuplexStream>, handle: &Handle) {
    let mut buffer = [0; 4096];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) if handle.block_on(into.write_all(&buffer[..n])).is_ok() => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
    // The other side sees the end.
    let _ = handle.block_on(into.shutdown());
}

fn copy_out(mut from: tokio::io::ReadHalf<DuplexStream>, mut output: impl Write, handle: &Handle) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = handle.block_on(from.read(&mut buffer)) {
        if output.write_all(&buffer[..n]).and_then(|()| output.flush()).is_err() {
            break;
        }
    }
}

/// Receives bytes, and descriptors that come with them.
fn poll_receive(
    stream: &UnixStream,
    inbox: &Inbox,
    cx: &mut Context<'_>,
    into: &mut BytesMut,
) -> Poll<std::io::Result<usize>> {
    let mut bytes = [0; 4096];
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let receive = || {
            let mut room = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            recvmsg(stream, &mut room, &mut control, flags).map_err(std::io::Error::from)
        };
        let n = match stream.try_io(Interest::READABLE, receive) {
            Ok(received) => received.bytes,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Poll::Ready(Err(e)),
        };
        let came: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if !came.is_empty() {
            inbox.put(came);
        }
        into.extend_from_slice(&bytes[..n]);
        return Poll::Ready(Ok(n));
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io(format!("the connection failed: {}", OsError::from(error)))
}

impl Stream for ByteStream {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>> {
        match &mut self.0 {
            Kind::Any(stream) => pin!(stream.read_buf(into)).poll(cx).map_err(failed),
            Kind::Unix(stream, inbox) => poll_receive(stream, inbox, cx, into).map_err(failed),
            Kind::Sink(_) => Poll::Pending,
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>> {
        let part = parts.first().copied().unwrap_or_default();
        match &mut self.0 {
            Kind::Any(stream) => Pin::new(stream).poll_write(cx, part).map_err(failed),
            Kind::Unix(stream, _) => Pin::new(stream).poll_write(cx, part).map_err(failed),
            Kind::Sink(ring) => {
                if let Some(ring) = ring {
                    ring.lock().write(part);
                }
                Poll::Ready(Ok(part.len()))
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.0 {
            Kind::Any(stream) => Pin::new(stream).poll_flush(cx).map_err(failed),
            Kind::Unix(stream, _) => Pin::new(stream).poll_flush(cx).map_err(failed),
            Kind::Sink(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        match &mut self.0 {
            Kind::Any(stream) => Pin::new(stream).poll_shutdown(cx).map_err(failed),
            Kind::Unix(stream, _) => Pin::new(stream).poll_shutdown(cx).map_err(failed),
            Kind::Sink(_) => Poll::Ready(Ok(())),
        }
    }
}
