//! A byte stream with what was read ahead and what waits to be written.

use super::message::{Mode, Request};
use super::wire::violation;
use crate::Result;
use crate::io::{Segment, Segments};
use alloc::collections::VecDeque;
use bytes::{Bytes, BytesMut};
use core::future::poll_fn;
use core::task::{Context, Poll};

/// A stream of bytes both ways: a socket, a TLS session over one, a pipe in memory.
pub trait Stream: Send {
    /// Appends bytes that have arrived to `into`, about as many as it has room for. `Ok(0)` is the
    /// end of the stream.
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>>;

    /// Writes from the front of `parts`, and tells how many bytes it took.
    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>>;

    /// Sends on what the stream holds back.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;

    /// Says that nothing more will be written.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>>;
}

/// So many bytes are read ahead.
const AHEAD: usize = 64 << 10;
/// A read with less room than this is not worth its system call.
const LEAST_ROOM: usize = 4 << 10;
/// Room for a payload is made in steps of at most this, so that a peer has to send what it
/// announces before it costs memory.
const ROOM: usize = 2 << 20;
/// Data up to this length is copied behind its header rather than written from where it is.
const COPIED: usize = 512;
/// Slices in one write.
const SLICES: usize = 64;

/// A [`Stream`] with its buffers.
#[derive(Debug)]
pub struct Channel<S> {
    stream: S,
    input: BytesMut,
    /// What is to be written, `tail` last.
    output: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    flushed: bool,
}

impl<S> Channel<S> {
    /// The same over another form of the stream; what was read ahead and what waits stays.
    pub(super) fn over<T>(self, change: impl FnOnce(S) -> Result<T>) -> Result<Channel<T>> {
        let Self { stream, input, output, tail, waiting, flushed } = self;
        Ok(Channel { stream: change(stream)?, input, output, tail, waiting, flushed })
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// The stream.
    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// True where nothing waits to be written, here or in the stream.
    pub fn is_sent(&self) -> bool {
        self.waiting == 0 && self.tail.is_empty() && self.flushed
    }
}

impl<S: Stream> Channel<S> {
    /// A channel over a fresh stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            flushed: true,
        }
    }

    /// The stream, to put another one on top of it.
    ///
    /// # Errors
    /// `Corrupt` where bytes were read ahead that belong to what comes now: before encryption
    /// begins that is an attempt to slip something in.
    pub fn into_stream(self) -> Result<S> {
        match self.input.len() {
            0 => Ok(self.stream),
            n => Err(violation(alloc::format!("{n:#x} bytes sent before encryption began"))),
        }
    }

    /// Where headers go.
    pub(super) fn head(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Adds a request's header to what is to be written.
    pub fn put_request(&mut self, request: &Request, mode: Mode) {
        request.encode(mode, &mut self.tail);
    }

    /// Adds data to what is to be written; zeroes are slices of the same few bytes.
    pub fn put_data(&mut self, data: &Segments) {
        data.as_slice().iter().for_each(|segment| self.put_segment(segment));
    }

    /// Adds one segment to what is to be written.
    pub(super) fn put_segment(&mut self, segment: &Segment) {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        match segment {
            Segment::Data(bytes) => self.push(bytes.clone()),
            Segment::Zero(len) => {
                let mut left = *len;
                while left > 0 {
                    let part = left.min(ZEROES.len() as u64);
                    // Not longer than the array.
                    self.push(Bytes::from_static(&ZEROES[..part as usize]));
                    left -= part;
                }
            }
        }
    }

    /// Adds bytes to what is to be written.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPIED {
            self.tail.extend_from_slice(&data);
            return;
        }
        self.cut();
        self.waiting += data.len();
        self.output.push_back(data);
    }

    fn cut(&mut self) {
        if !self.tail.is_empty() {
            self.waiting += self.tail.len();
            self.output.push_back(self.tail.split().freeze());
        }
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.waiting + self.tail.len()
    }

    /// Writes all that waits.
    pub fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.cut();
        while self.waiting > 0 {
            let mut parts: [&[u8]; SLICES] = [&[]; SLICES];
            let mut count = 0;
            for (part, data) in parts.iter_mut().zip(&self.output) {
                *part = data;
                count += 1;
            }
            let Poll::Ready(wrote) = self.stream.poll_write(cx, &parts[..count])? else {
                return Poll::Pending;
            };
            if wrote == 0 {
                return Poll::Ready(Err(crate::Error::io("the connection takes no more data")));
            }
            self.flushed = false;
            self.wrote(wrote);
        }
        if !self.flushed {
            let Poll::Ready(()) = self.stream.poll_flush(cx)? else { return Poll::Pending };
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, mut n: usize) {
        self.waiting -= n.min(self.waiting);
        while n > 0 {
            let Some(first) = self.output.front_mut() else { return };
            if n < first.len() {
                bytes::Buf::advance(first, n);
                return;
            }
            n -= first.len();
            self.output.pop_front();
        }
    }

    /// Reads on until `wanted` bytes are there; `Ok(false)` where the stream ended before.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<bool>> {
        while self.input.len() < wanted {
            let missing = (wanted - self.input.len()).min(ROOM);
            if self.input.capacity() - self.input.len() < missing.max(LEAST_ROOM) {
                self.input.reserve(missing.max(AHEAD));
            }
            match self.stream.poll_read(cx, &mut self.input)? {
                Poll::Ready(0) => return Poll::Ready(Ok(false)),
                Poll::Ready(_) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// What has arrived and was not taken.
    pub fn arrived(&self) -> &[u8] {
        &self.input
    }

    /// Takes `n` bytes that have arrived.
    pub fn take(&mut self, n: usize) -> BytesMut {
        self.input.split_to(n)
    }

    /// Takes exactly `n` bytes as they arrive.
    pub(super) async fn read(&mut self, n: usize) -> Result<BytesMut> {
        match poll_fn(|cx| self.poll_fill(cx, n)).await? {
            true => Ok(self.take(n)),
            false => Err(crate::Error::io("Unexpected end-of-file before all data were read")),
        }
    }

    /// Writes all that waits.
    pub(super) async fn send(&mut self) -> Result<()> {
        poll_fn(|cx| self.poll_send(cx)).await
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn close(&mut self) -> Result<()> {
        self.send().await?;
        poll_fn(|cx| self.stream.poll_close(cx)).await
    }
}
