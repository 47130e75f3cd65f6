//! A connection, and the task that keeps it.
//!
//! Requests come through a queue, are sent as they come, and their replies are sorted by cookie.
//! The task does that; a request that comes alone is sent, and its reply looked for, by its own
//! thread where that has nothing else to do ([`Shared::drive`]).
//!
//! When the connection is lost the task connects again. Requests wait for that for the time of
//! `reconnect-delay` and are then sent once more; after that time they fail at once until the
//! connection is back.

use super::address::NbdOptions;
use super::reply::{InFlight, Reply, violation};
use super::stream::{NbdStream, handshake};
use crate::runtime::spin::Spin;
use crate::storage::settle::Completer;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sectora_core::io::Segments;
use sectora_core::nbd::Channel;
use sectora_core::nbd::client::{Context, ExportInfo, Greeted};
use sectora_core::nbd::layout::{MAX_PAYLOAD, TransmissionFlags, command};
use sectora_core::nbd::message::{Mode, ReplyHeader, Request};
use sectora_core::sync::Mutex;
use sectora_core::{Error, ErrorKind, Result};
use slab::Slab;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// So many requests are on their way at the same time; others wait here.
const MAX_IN_FLIGHT: usize = 256;
/// No further request is put behind more bytes than this that wait to be sent.
const MAX_WAITING: usize = 4 << 20;
/// A thread waits no longer than this for a reply.
const LONGEST_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// The longest pause between two attempts to connect.
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// A request and who waits for it.
pub(super) struct Command {
    pub(super) request: Request,
    pub(super) payload: Segments,
    pub(super) done: Completer<Result<Reply>>,
}

enum State {
    /// Requests are sent, or wait for a connection.
    Open,
    /// There is no connection; requests fail with these words.
    Down(String),
    /// The device was dropped.
    Closed,
}

struct Queue {
    commands: VecDeque<Command>,
    state: State,
}

/// What the device and the task share.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    /// `None` while there is no connection.
    link: Mutex<Option<Link>>,
    waker: AtomicWaker,
    /// Writes were confirmed that no flush covers.
    pub(super) dirty: AtomicBool,
    /// Such writes may be lost: the server went away with them, or a flush failed.
    pub(super) lost: AtomicBool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        let queue = Queue { commands: VecDeque::new(), state: State::Open };
        Self {
            queue: Mutex::new(queue),
            link: Mutex::new(None),
            waker: AtomicWaker::new(),
            dirty: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        }
    }

    /// Puts a request into the queue, and has the task send it.
    pub(super) fn submit(&self, command: Command) {
        self.put(command);
        self.waker.wake();
    }

    /// Puts a request into the queue.
    pub(super) fn put(&self, command: Command) {
        let mut queue = self.queue.lock();
        let error = match &queue.state {
            State::Open => return queue.commands.push_back(command),
            State::Down(why) => Error::io(why.clone()),
            State::Closed => Error::bug("a request to a device that was dropped"),
        };
        drop(queue);
        command.done.complete(Err(error));
    }

    /// Sends what is in the queue and takes in replies, on this thread, until `is_done` or that
    /// takes longer than a thread should wait; the task goes on with the rest.
    pub(super) fn drive(&self, is_done: impl Fn() -> bool) {
        if let Some(mut link) = self.link.try_lock()
            && let Some(link) = link.as_mut()
        {
            link.drive(self, &is_done);
        }
        if !is_done() {
            self.waker.wake();
        }
    }

    fn poll(&self, cx: &mut std::task::Context<'_>) -> Poll<Result<()>> {
        self.waker.register(cx.waker());
        match self.link.lock().as_mut() {
            Some(link) => link.poll(self, cx),
            None => Poll::Ready(Err(Error::bug("there is no connection to go on with"))),
        }
    }

    pub(super) fn close(&self) {
        self.queue.lock().state = State::Closed;
        self.waker.wake();
    }

    fn is_closed(&self) -> bool {
        matches!(self.queue.lock().state, State::Closed)
    }

    /// Fails all that waits, and what comes, until the connection is back.
    fn go_down(&self, why: &str) {
        let mut queue = self.queue.lock();
        if let State::Open = queue.state {
            queue.state = State::Down(why.to_owned());
        }
        let failed = std::mem::take(&mut queue.commands);
        drop(queue);
        for command in failed {
            command.done.complete(Err(Error::io(why.to_owned())));
        }
    }

    fn come_up(&self) {
        let mut queue = self.queue.lock();
        if let State::Down(_) = queue.state {
            queue.state = State::Open;
        }
    }
}

/// A connection in its transmission phase.
#[derive(Debug)]
pub(super) struct Connected {
    channel: Channel<NbdStream>,
    pub(super) info: ExportInfo,
    pub(super) mode: Mode,
    /// The context that status is taken from.
    pub(super) context: Option<Context>,
}

impl Connected {
    /// True where it is not encrypted.
    pub(super) fn is_plain(&self) -> bool {
        self.channel.stream().is_plain()
    }
}

/// Connects, once.
pub(super) async fn establish(options: &NbdOptions) -> Result<Connected> {
    let mut client = match handshake(options).await? {
        Greeted::Newstyle(client) => client,
        Greeted::Oldstyle(channel, info) if options.export.is_empty() => {
            return Ok(Connected { channel, info, mode: Mode::Simple, context: None });
        }
        Greeted::Oldstyle(..) => {
            return Err(Error::new(
                ErrorKind::NotFound,
                "Server does not support non-empty export names",
            ));
        }
    };
    let mode = client.choose_mode(Mode::Extended).await?;
    let wanted =
        options.x_dirty_bitmap.as_deref().unwrap_or(sectora_core::nbd::layout::BASE_ALLOCATION);
    let context = match mode {
        Mode::Simple => None,
        _ => {
            let mut contexts = client.set_contexts(&options.export, &[wanted]).await?;
            contexts.retain(|context| context.name == wanted);
            contexts.pop()
        }
    };
    if let (Some(wanted), None) = (&options.x_dirty_bitmap, &context) {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("requested x-dirty-bitmap {wanted} not found"),
        ));
    }
    let (channel, info) = client.go(&options.export).await?;
    Ok(Connected { channel, info, mode, context })
}

/// What came of waiting.
enum Step {
    /// There are bytes to look at.
    Arrived,
    /// What was waited for is there, or will not come.
    Ended,
    /// It is time to do something else.
    TooLong,
}

struct Link {
    connected: Connected,
    in_flight: Slab<InFlight>,
    sequence: u64,
    header: Option<ReplyHeader>,
    spin: Spin,
    /// What a thread found that was not the task's; the connection is of no use any more.
    failed: Option<Error>,
}

/// Serves the queue until the device is dropped.
pub(super) async fn run(shared: Arc<Shared>, connected: Connected, options: NbdOptions) {
    let info = connected.info.clone();
    let context = connected.context.clone();
    *shared.link.lock() = Some(Link::new(connected));
    loop {
        let ended = poll_fn(|cx| shared.poll(cx)).await;
        let Some(mut link) = shared.link.lock().take() else { return };
        let error = match ended {
            Ok(()) => return link.take_leave().await,
            Err(error) => error,
        };
        let why = format!("the connection to '{}' is lost: {error}", options.server);
        if shared.dirty.load(Ordering::SeqCst) && options.reconnect_delay.is_zero() {
            shared.lost.store(true, Ordering::SeqCst);
        }
        // They go first again, in the order in which they came.
        let mut again: Vec<_> = link.in_flight.drain().collect();
        again.sort_by_key(|one| one.cookie);
        {
            let mut queue = shared.queue.lock();
            for one in again.into_iter().rev() {
                queue.commands.push_front(one.command);
            }
        }
        match reconnect(&shared, &options, &why).await {
            Some(connected)
                if connected.info.size == info.size
                    && connected.info.flags == info.flags
                    && connected.context.is_some() == context.is_some() =>
            {
                shared.come_up();
                *shared.link.lock() = Some(Link::new(connected));
            }
            Some(_) => {
                shared.go_down(&format!(
                    "the export '{}' of '{}' is another one than before the connection was lost",
                    options.export, options.server
                ));
                return;
            }
            None => return,
        }
    }
}

/// Connects again; `None` where the device was dropped meanwhile.
async fn reconnect(shared: &Arc<Shared>, options: &NbdOptions, why: &str) -> Option<Connected> {
    let deadline = Instant::now() + options.reconnect_delay;
    let mut pause = Duration::from_millis(100);
    let mut waits = true;
    loop {
        if waits && Instant::now() >= deadline {
            shared.go_down(why);
            waits = false;
        }
        if shared.is_closed() {
            shared.go_down(why);
            return None;
        }
        let attempt = establish(options);
        let next = match waits {
            true => timeout_at(deadline, attempt).await.ok(),
            false => Some(attempt.await),
        };
        match next {
            Some(Ok(connected)) => return Some(connected),
            Some(Err(_)) => {
                let until = Instant::now() + pause;
                let until = if waits { until.min(deadline) } else { until };
                until_closed(shared, until).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            None => {}
        }
    }
}

/// Waits for a moment, or for the end of the device.
async fn until_closed(shared: &Shared, until: Instant) {
    let mut pause = std::pin::pin!(sleep_until(until));
    poll_fn(|cx| {
        shared.waker.register(cx.waker());
        match shared.is_closed() {
            true => Poll::Ready(()),
            false => pause.as_mut().poll(cx),
        }
    })
    .await;
}

impl Link {
    fn new(connected: Connected) -> Self {
        let (in_flight, spin) = (Slab::new(), Spin::default());
        Self { connected, in_flight, sequence: 0, header: None, spin, failed: None }
    }

    /// As [`Shared::drive`].
    fn drive(&mut self, shared: &Shared, is_done: &impl Fn() -> bool) {
        let mut spin = std::mem::take(&mut self.spin);
        self.connected.channel.stream_mut().look(true);
        loop {
            let link = RefCell::new(&mut *self);
            let look = || link.borrow_mut().step(shared, is_done);
            let sleep = || link.borrow().wait_for_bytes().unwrap_or(Step::TooLong);
            match spin.wait(look, sleep) {
                Step::Arrived => {}
                Step::Ended | Step::TooLong => break,
            }
        }
        self.connected.channel.stream_mut().look(false);
        spin.rest();
        self.spin = spin;
    }

    /// Waits a little until bytes have arrived; `None` where none came.
    fn wait_for_bytes(&self) -> Option<Step> {
        let channel = &self.connected.channel;
        if !channel.is_sent() {
            return None;
        }
        let mut socket = [PollFd::from_borrowed_fd(channel.stream().plain_fd()?, PollFlags::IN)];
        // An interruption is no bytes either.
        (poll(&mut socket, Some(&LONGEST_WAIT)) == Ok(1)).then_some(Step::Arrived)
    }

    /// Goes on as far as it can without waiting; `None` where there is more to wait for.
    fn step(&mut self, shared: &Shared, is_done: &impl Fn() -> bool) -> Option<Step> {
        let polled = self.poll(shared, &mut std::task::Context::from_waker(Waker::noop()));
        if let Poll::Ready(Err(error)) = polled {
            self.failed = Some(error);
            return Some(Step::Ended);
        }
        is_done().then_some(Step::Ended)
    }

    /// Tells the server that nothing more comes. What goes wrong with that does not matter.
    async fn take_leave(&mut self) {
        let request = Request {
            flags: Default::default(),
            command: command::DISC,
            cookie: 0,
            offset: 0,
            len: 0,
        };
        self.connected.channel.put_request(&request, self.connected.mode);
        let _ = self.connected.channel.close().await;
    }

    fn poll(&mut self, shared: &Shared, cx: &mut std::task::Context<'_>) -> Poll<Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        loop {
            let closed = self.send_commands(shared);
            let sent = self.connected.channel.poll_send(cx)?;
            self.poll_replies(shared, cx)?;
            if closed && self.in_flight.is_empty() && sent.is_ready() {
                return Poll::Ready(Ok(()));
            }
            if sent.is_pending() || !self.has_room() || shared.queue.lock().commands.is_empty() {
                return Poll::Pending;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < MAX_IN_FLIGHT && self.connected.channel.waiting() < MAX_WAITING
    }

    /// Puts requests behind what waits to be sent. True where no more will come.
    fn send_commands(&mut self, shared: &Shared) -> bool {
        while self.has_room() {
            let mut queue = shared.queue.lock();
            let Some(mut command) = queue.commands.pop_front() else {
                return matches!(queue.state, State::Closed);
            };
            drop(queue);
            // Nobody waits any more, and the server does not know of it.
            if command.done.is_abandoned() {
                continue;
            }
            let entry = self.in_flight.vacant_entry();
            self.sequence += 1;
            let cookie = self.sequence << 16 | entry.key() as u64;
            command.request.cookie = cookie;
            let channel = &mut self.connected.channel;
            channel.put_request(&command.request, self.connected.mode);
            channel.put_data(&command.payload);
            entry.insert(InFlight::new(command, cookie));
        }
        false
    }

    fn key(&self, cookie: u64) -> Result<usize> {
        // The lower half of what was put together there.
        let key = (cookie & 0xffff) as usize;
        match self.in_flight.get(key) {
            Some(one) if one.cookie == cookie => Ok(key),
            _ => Err(violation(format!("a reply to {cookie:#x}, which was not asked"))),
        }
    }

    /// Takes in replies until there are no more bytes.
    fn poll_replies(&mut self, shared: &Shared, cx: &mut std::task::Context<'_>) -> Result<()> {
        let mode = self.connected.mode;
        loop {
            let header = match self.header {
                Some(header) => header,
                None => {
                    let channel = &mut self.connected.channel;
                    let mut wanted = 16;
                    let (header, len) = loop {
                        match channel.poll_fill(cx, wanted)? {
                            Poll::Pending => return Ok(()),
                            Poll::Ready(false) => {
                                return Err(Error::io("the server closed the connection"));
                            }
                            Poll::Ready(true) => {}
                        }
                        match ReplyHeader::decode(mode, channel.arrived())? {
                            Some(found) => break found,
                            None => wanted = channel.arrived().len() + 1,
                        }
                    };
                    drop(channel.take(len));
                    self.begin(&header)?;
                    *self.header.insert(header)
                }
            };
            let len = self.payload_len(&header)?;
            match self.connected.channel.poll_fill(cx, len)? {
                Poll::Pending => return Ok(()),
                Poll::Ready(false) => return Err(Error::io("the server closed the connection")),
                Poll::Ready(true) => {}
            }
            let payload = self.connected.channel.take(len).freeze();
            self.header = None;
            self.take_in(shared, &header, payload)?;
        }
    }

    /// Checks a header before its payload is read.
    fn begin(&self, header: &ReplyHeader) -> Result<()> {
        match *header {
            ReplyHeader::Simple { error, cookie } => {
                let request = &self.in_flight[self.key(cookie)?].command.request;
                let structured = matches!(request.command, command::READ | command::BLOCK_STATUS);
                if error == 0 && structured && self.connected.mode == Mode::Structured {
                    return Err(violation("a simple reply to a request for data".to_owned()));
                }
            }
            ReplyHeader::Chunk { cookie, .. } => {
                self.key(cookie)?;
            }
        }
        Ok(())
    }

    fn payload_len(&self, header: &ReplyHeader) -> Result<usize> {
        match *header {
            ReplyHeader::Chunk { len, .. } => Ok(len),
            ReplyHeader::Simple { error, cookie } => {
                let request = &self.in_flight[self.key(cookie)?].command.request;
                // A read is never longer than what fits.
                let read = error == 0 && request.command == command::READ;
                Ok(if read { request.len.min(MAX_PAYLOAD) as usize } else { 0 })
            }
        }
    }

    /// Takes in a whole reply or chunk.
    fn take_in(&mut self, shared: &Shared, header: &ReplyHeader, payload: Bytes) -> Result<()> {
        let (done, key) = match *header {
            ReplyHeader::Simple { error, cookie } => {
                let key = self.key(cookie)?;
                self.in_flight[key].simple(error, payload);
                (true, key)
            }
            ReplyHeader::Chunk { done, kind, cookie, .. } => {
                let key = self.key(cookie)?;
                self.in_flight[key].chunk(kind, &payload, self.connected.context.as_ref())?;
                (done, key)
            }
        };
        if done {
            let one = self.in_flight.remove(key);
            let changes = matches!(
                one.command.request.command,
                command::WRITE | command::WRITE_ZEROES | command::TRIM
            );
            let (command, result) = one.finish()?;
            if changes && result.is_ok() {
                shared.dirty.store(true, Ordering::SeqCst);
            }
            command.done.complete(result);
        }
        Ok(())
    }
}

/// True where the server told of flag `flag`.
pub(super) fn can(info: &ExportInfo, flag: TransmissionFlags) -> bool {
    info.flags.contains(TransmissionFlags::HAS_FLAGS) && info.flags.contains(flag)
}
