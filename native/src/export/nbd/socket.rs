//! A plain socket that a thread of its own reads and writes.
//!
//! The descriptor blocks; each call says whether it may. A read that finds less than it has room
//! for has emptied the socket, so that the next one is not tried before the socket was waited for.

use crate::protocol::nbd::receive;
use crate::runtime::spin::Spin;
use crate::storage::OsError;
use bytes::BytesMut;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sendmsg, shutdown};
use sectora_core::nbd::Stream;
use sectora_core::{Error, Result};
use std::cell::RefCell;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Slices in one system call.
const SLICES: usize = 64;

/// The thread's end of a connection.
#[derive(Debug)]
pub(super) struct ThreadSocket {
    fd: Arc<OwnedFd>,
    /// What was tried in vain since [`begin`](Self::begin).
    wanted: PollFlags,
    /// Nothing is left to read, as far as is known.
    empty: bool,
    /// The next read waits for bytes.
    waits: bool,
    spin: Spin,
}

impl ThreadSocket {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) fn new(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, false).map_err(failed)?;
        let fd = Arc::new(fd);
        let (wanted, spin) = (PollFlags::empty(), Spin::default());
        Ok(Self { fd, wanted, empty: false, waits: false, spin })
    }

    /// What ends the connection from another thread.
    pub(super) fn hangup(&self) -> Hangup {
        Hangup(self.fd.clone())
    }

    /// Forgets what was tried. `arrived`: there may be something to read.
    pub(super) fn begin(&mut self, arrived: bool) {
        self.wanted = PollFlags::empty();
        self.empty &= !arrived;
    }

    /// What has to be waited for before trying again makes sense.
    pub(super) fn wanted(&self) -> PollFlags {
        self.wanted
    }

    /// Has the next read wait until bytes arrive or the connection ends.
    pub(super) fn wait_for_bytes(&mut self) {
        self.waits = true;
    }

    /// The thread is about to sleep, or to do other things.
    pub(super) fn rest(&mut self) {
        self.spin.rest();
    }

    fn wait(&mut self, into: &mut BytesMut) -> rustix::io::Result<(usize, bool)> {
        let (fd, into) = (self.fd.as_fd(), RefCell::new(into));
        let look = || match receive(fd, &mut into.borrow_mut(), RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => None,
            found => Some(found),
        };
        self.spin.wait(look, || receive(fd, &mut into.borrow_mut(), RecvFlags::empty()))
    }
}

impl AsFd for ThreadSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Ends a connection from another thread: whoever waits for bytes finds that none come.
#[derive(Debug)]
pub(super) struct Hangup(Arc<OwnedFd>);

impl Hangup {
    pub(super) fn hang_up(&self) {
        // Fails where the peer was faster.
        let _ = shutdown(&self.0, Shutdown::Both);
    }
}

fn failed(errno: Errno) -> Error {
    // In words only: a peer that goes away is not the reader of our standard output.
    let error = std::io::Error::from(errno);
    Error::io(format!("the connection failed: {}", OsError::from(error)))
}

impl Stream for ThreadSocket {
    fn poll_read(&mut self, _: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>> {
        let waits = std::mem::take(&mut self.waits);
        if self.empty && !waits {
            self.wanted |= PollFlags::IN;
            return Poll::Pending;
        }
        loop {
            let received = match waits {
                true => self.wait(into),
                false => receive(self.fd.as_fd(), into, RecvFlags::DONTWAIT),
            };
            match received {
                Ok((n, empty)) => {
                    self.empty = empty;
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.empty = true;
                    self.wanted |= PollFlags::IN;
                    return Poll::Pending;
                }
                Err(e) => return Poll::Ready(Err(failed(e))),
            }
        }
    }

    fn poll_write(&mut self, _: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let mut none = SendAncillaryBuffer::default();
            match sendmsg(&self.fd, &slices[..count], &mut none, flags) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wanted |= PollFlags::OUT;
                    return Poll::Pending;
                }
                Err(e) => return Poll::Ready(Err(failed(e))),
            }
        }
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        // Fails where the peer was faster.
        let _ = shutdown(&self.fd, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
