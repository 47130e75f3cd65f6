//! A session over a stream of bytes.

use super::commands::Commands;
use super::error::QmpResult;
use super::event::Subscription;
use super::session::{MAX_OUTPUT, Request, Session, Ticket};
use crate::Result;
use crate::io::{BoxFuture, Instant, Runtime};
use crate::nbd::Stream;
use alloc::boxed::Box;
use alloc::sync::Arc;
use bytes::{Buf, BytesMut};
use core::future::poll_fn;
use core::task::{Context, Poll};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::Value;

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client went.
    Disconnected,
    /// It said `quit`, and was answered.
    Quit,
}

/// Bytes are read in pieces of this size.
const PIECE: usize = 16 << 10;

/// Holds `session` over `stream` until the client goes or says `quit`, and tells it of the events
/// of `events`. A command that is under way when the client goes is carried to its end.
///
/// # Errors
/// Those of the stream.
pub async fn serve<S: Stream>(
    stream: S,
    session: Session,
    events: &Subscription,
    runtime: &Arc<dyn Runtime>,
) -> Result<Ended> {
    let mut talk = Talk {
        stream,
        commands: session.commands().clone(),
        session,
        input: BytesMut::new(),
        running: FuturesUnordered::new(),
        flushed: true,
        silent: false,
        gone: false,
    };
    let mut event = Box::pin(events.next());
    let mut timer: Option<(Instant, BoxFuture<'static, ()>)> = None;
    poll_fn(|cx| {
        loop {
            let mut moved = talk.poll_requests(cx, events, runtime);
            if talk.session.output().len() < MAX_OUTPUT
                && let Poll::Ready(told) = event.as_mut().poll(cx)
            {
                talk.session.tell(told, runtime.now());
                event.set(events.next());
                moved = true;
            }
            let deadline = talk.session.deadline();
            if timer.as_ref().map(|(at, _)| *at) != deadline {
                let left = |at: Instant| at.0.saturating_sub(runtime.now().0);
                timer = deadline.map(|at| (at, runtime.sleep(left(at))));
            }
            if let Some((_, sleep)) = &mut timer
                && sleep.as_mut().poll(cx).is_ready()
            {
                talk.session.tick(runtime.now());
                timer = None;
                moved = true;
            }
            match talk.poll_stream(cx) {
                Err(error) if talk.running.is_empty() => return Poll::Ready(Err(error)),
                Err(_) => talk.gone = true,
                Ok(more) => moved |= more,
            }
            if talk.session.has_ended() && (talk.gone || talk.is_sent()) {
                return Poll::Ready(Ok(Ended::Quit));
            }
            if !moved && talk.running.is_empty() && (talk.gone || talk.silent) {
                return Poll::Ready(Ok(Ended::Disconnected));
            }
            if !moved {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// A conversation and what it is made over.
struct Talk<S> {
    stream: S,
    session: Session,
    commands: Arc<dyn Commands>,
    input: BytesMut,
    running: FuturesUnordered<BoxFuture<'static, (Ticket, QmpResult<Value>)>>,
    flushed: bool,
    /// The client has said all it will say.
    silent: bool,
    /// It cannot be reached any more.
    gone: bool,
}

impl<S: Stream> Talk<S> {
    fn start(&mut self, request: Request) {
        let commands = self.commands.clone();
        self.running.push(Box::pin(async move {
            let Request { name, call, ticket } = request;
            let result = match commands.execute(&name, call) {
                Some(answer) => answer.await,
                None => Err(super::QmpError::command_not_found(&name)),
            };
            (ticket, result)
        }));
    }

    /// True where something was begun or answered.
    fn poll_requests(
        &mut self,
        cx: &mut Context<'_>,
        events: &Subscription,
        runtime: &Arc<dyn Runtime>,
    ) -> bool {
        let mut moved = false;
        if !self.gone {
            let taken = self.session.feed(&self.input);
            self.input.advance(taken);
            moved |= taken > 0;
            while let Some(request) = self.session.next_out_of_band() {
                self.start(request);
            }
            while let Some(request) = self.session.next_request() {
                self.start(request);
            }
        }
        while let Poll::Ready(Some((ticket, result))) = self.running.poll_next_unpin(cx) {
            // What happened while the command ran is told before its answer.
            while let Some(event) = events.try_next() {
                self.session.tell(event, runtime.now());
            }
            self.session.answer(ticket, result);
            moved = true;
        }
        moved
    }

    /// True where bytes were moved.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Result<bool> {
        if self.gone {
            return Ok(false);
        }
        let mut moved = false;
        while !self.session.output().is_empty() {
            let Poll::Ready(n) = self.stream.poll_write(cx, &[&*self.session.output()])? else {
                break;
            };
            if n == 0 {
                return Err(crate::Error::io("the client takes no more data"));
            }
            self.session.output().advance(n);
            (self.flushed, moved) = (false, true);
        }
        if !self.flushed && self.stream.poll_flush(cx)?.is_ready() {
            self.flushed = true;
        }
        if self.input.is_empty() && !self.silent && self.session.wants_input() {
            self.input.reserve(PIECE);
            match self.stream.poll_read(cx, &mut self.input)? {
                Poll::Ready(0) => (self.silent, moved) = (true, true),
                Poll::Ready(_) => moved = true,
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    fn is_sent(&mut self) -> bool {
        self.flushed && self.session.output().is_empty()
    }
}
