//! The server's side of a connection: handshake, then requests until the client leaves.
//!
//! ```text
//! negotiate ─► Next::StartTls ─► (encryption) ─► negotiate ─► Next::Serve(Session) ─► serve
//! ```
//!
//! A connection is one task: it reads requests, runs up to [`MAX_REQUESTS`] of them at the same
//! time, and sends replies in the order in which they are done, as many as there are in one write.
//! It reads no further request while more than [`MAX_HELD`] bytes belong to requests in flight or
//! wait to be sent, so a peer that never reads costs that much and no more.
//!
//! Source: the protocol specification, sections "Handshake phase" and "Transmission phase".

use super::channel::{Channel, Stream};
use super::execute::{Answer, Order};
use super::export::{Export, Exports};
use super::layout::{
    CommandFlags, DIRTY_BITMAP, HandshakeFlags, INIT_MAGIC, MAX_CONTEXTS, MAX_OPTION, MAX_PAYLOAD,
    MAX_STRING, OPTION_MAGIC, OPTION_REPLY_MAGIC, RESERVED_LEN, chunk, command, errno, info,
    option, reply,
};
use super::message::{Mode, Request, chunk_header, simple_reply};
use super::wire::{Fields, violation};
use crate::io::Segment;
use crate::sync::BoxFuture;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::{BufMut, Bytes};
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

/// So many requests of a connection run at the same time.
pub const MAX_REQUESTS: usize = 64;
/// With more bytes than this in flight or waiting to be sent, no further request is read.
pub const MAX_HELD: u64 = MAX_PAYLOAD;

/// What encryption is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// There is none.
    Off,
    /// Nothing is told and nothing is opened without it.
    Required,
    /// It has been set up.
    Established,
}

/// How the handshake goes on.
#[derive(Debug)]
pub enum Next<S> {
    /// The client begins to set up encryption on this stream; then [`negotiate`] again.
    StartTls(S, Started),
    /// It opened an export: [`serve`] it.
    Serve(Box<Session<S>>),
    /// It took leave.
    Left,
}

/// What the client said before encryption.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    no_zeroes: bool,
}

/// A connection that has opened an export.
#[derive(Debug)]
pub struct Session<S> {
    channel: Channel<S>,
    export: Arc<Export>,
    mode: Mode,
    contexts: Arc<[u32]>,
}

impl<S> Session<S> {
    /// The same over what `change` makes of the stream, which is still the same connection.
    ///
    /// # Errors
    /// Those of `change`; the connection is gone then.
    pub fn over<T>(self, change: impl FnOnce(S) -> Result<T>) -> Result<Session<T>> {
        let Self { channel, export, mode, contexts } = self;
        Ok(Session { channel: channel.over(change)?, export, mode, contexts })
    }

    /// The stream it goes on over.
    pub fn stream(&self) -> &S {
        self.channel.stream()
    }

    /// What was opened.
    #[must_use]
    pub fn export(&self) -> &Arc<Export> {
        &self.export
    }

    /// How requests are framed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

struct Negotiation<'a, S> {
    channel: Channel<S>,
    exports: &'a Exports,
    tls: Tls,
    no_zeroes: bool,
    mode: Mode,
    /// The contexts chosen, and for which export.
    chosen: Option<(String, Vec<u32>)>,
}

/// Greets the client, or goes on where encryption was `started`, and answers its options.
///
/// # Errors
/// `Corrupt` where the client breaks the protocol, those of the stream. The connection is to be
/// dropped then.
pub async fn negotiate<S: Stream>(
    stream: S,
    exports: &[Arc<Export>],
    tls: Tls,
    started: Option<Started>,
) -> Result<Next<S>> {
    let mut channel = Channel::new(stream);
    let no_zeroes = match started {
        Some(started) => started.no_zeroes,
        None => {
            let offered = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
            let head = channel.head();
            head.put_u64(INIT_MAGIC);
            head.put_u64(OPTION_MAGIC);
            head.put_u16(offered.bits());
            channel.send().await?;
            let answer = channel.read(4).await?;
            let flags = Fields::new(&answer, "client flags").u32()?;
            let known = u16::try_from(flags).ok().and_then(HandshakeFlags::from_bits);
            let known = known
                .ok_or_else(|| violation(format!("Unknown client flags {flags:#x} received")))?;
            known.contains(HandshakeFlags::NO_ZEROES)
        }
    };
    let negotiation =
        Negotiation { channel, exports, tls, no_zeroes, mode: Mode::Simple, chosen: None };
    negotiation.run().await
}

impl<S: Stream> Negotiation<'_, S> {
    async fn run(mut self) -> Result<Next<S>> {
        loop {
            // What was answered is sent before anything more is read: a client that pipelines
            // options without reading gets no further than its socket's buffers.
            self.channel.send().await?;
            let head = self.channel.read(16).await?;
            let mut fields = Fields::new(&head, "an option");
            let (magic, number, len) = (fields.u64()?, fields.u32()?, fields.u32()?);
            if magic != OPTION_MAGIC {
                return Err(violation(format!("Bad magic received: {magic:#x}")));
            }
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if len > MAX_OPTION {
                return Err(violation(format!(
                    "option {number} with {len:#x} bytes, more than {MAX_OPTION:#x}"
                )));
            }
            let data = self.channel.read(len).await?;
            if self.tls == Tls::Required {
                match number {
                    option::STARTTLS if data.is_empty() => {
                        self.reply(number, reply::ACK, &[]);
                        self.channel.send().await?;
                        let started = Started { no_zeroes: self.no_zeroes };
                        return Ok(Next::StartTls(self.channel.into_stream()?, started));
                    }
                    option::EXPORT_NAME => {
                        return Err(violation("Option 1 (export name) not permitted before TLS"));
                    }
                    option::ABORT | option::STARTTLS => {}
                    _ => {
                        let text = format!("Option {number:#x} not permitted before TLS");
                        self.refuse(number, reply::ERR_TLS_REQD, &text);
                        continue;
                    }
                }
            }
            match number {
                option::EXPORT_NAME => {
                    let name = core::str::from_utf8(&data).unwrap_or_default();
                    let Some(export) = self.find(name).filter(|_| data.len() <= MAX_STRING) else {
                        return Err(violation(format!("export '{name}' not found")));
                    };
                    let head = self.channel.head();
                    head.put_u64(export.size());
                    head.put_u16(export.flags(self.mode).bits());
                    if !self.no_zeroes {
                        head.put_bytes(0, RESERVED_LEN);
                    }
                    return self.open(export).await;
                }
                option::ABORT => {
                    self.reply(number, reply::ACK, &[]);
                    // The client may have gone already.
                    let _ = self.channel.close().await;
                    return Ok(Next::Left);
                }
                option::LIST if data.is_empty() => {
                    for export in self.exports {
                        let mut body = Vec::new();
                        // Bounded by `MAX_STRING`, as every name is.
                        body.put_u32(export.name.len() as u32);
                        body.extend_from_slice(export.name.as_bytes());
                        let description = export.options.description.as_deref();
                        body.extend_from_slice(description.unwrap_or_default().as_bytes());
                        self.reply(number, reply::SERVER, &body);
                    }
                    self.reply(number, reply::ACK, &[]);
                }
                option::INFO | option::GO => {
                    if let Some(export) = self.info(number, &data)? {
                        return self.open(export).await;
                    }
                }
                option::STARTTLS if data.is_empty() => match self.tls {
                    Tls::Established => {
                        self.refuse(number, reply::ERR_INVALID, "TLS already enabled");
                    }
                    _ => self.refuse(number, reply::ERR_POLICY, "TLS not configured"),
                },
                option::STRUCTURED_REPLY if data.is_empty() => match self.mode {
                    Mode::Simple => self.choose(number, Mode::Structured),
                    Mode::Structured => self.refuse(
                        number,
                        reply::ERR_INVALID,
                        "structured reply already negotiated",
                    ),
                    Mode::Extended => self.refuse(
                        number,
                        reply::ERR_EXT_HEADER_REQD,
                        "extended headers already negotiated",
                    ),
                },
                option::EXTENDED_HEADERS if data.is_empty() => match self.mode {
                    Mode::Extended => self.refuse(
                        number,
                        reply::ERR_INVALID,
                        "extended headers already negotiated",
                    ),
                    _ => self.choose(number, Mode::Extended),
                },
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
                    self.contexts(number, &data)?;
                }
                option::LIST
                | option::STARTTLS
                | option::STRUCTURED_REPLY
                | option::EXTENDED_HEADERS => {
                    let text = format!("option {number} should have zero length");
                    self.refuse(number, reply::ERR_INVALID, &text);
                }
                _ => {
                    let text = format!("Unsupported option {number:#x}");
                    self.refuse(number, reply::ERR_UNSUP, &text);
                }
            }
        }
    }

    fn choose(&mut self, number: u32, mode: Mode) {
        self.mode = mode;
        self.reply(number, reply::ACK, &[]);
    }

    async fn open(mut self, export: Arc<Export>) -> Result<Next<S>> {
        self.channel.send().await?;
        let contexts = match self.chosen {
            Some((name, contexts)) if name == export.name => contexts,
            _ => Vec::new(),
        };
        Ok(Next::Serve(Box::new(Session {
            channel: self.channel,
            export,
            mode: self.mode,
            contexts: contexts.into(),
        })))
    }

    fn find(&self, name: &str) -> Option<Arc<Export>> {
        self.exports.iter().find(|export| export.name == name).cloned()
    }

    fn reply(&mut self, number: u32, kind: u32, data: &[u8]) {
        let head = self.channel.head();
        head.put_u64(OPTION_REPLY_MAGIC);
        head.put_u32(number);
        head.put_u32(kind);
        // Never longer than a string and a few numbers.
        head.put_u32(data.len() as u32);
        head.extend_from_slice(data);
    }

    fn refuse(&mut self, number: u32, kind: u32, text: &str) {
        let mut end = text.len().min(MAX_STRING);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.reply(number, kind, &text.as_bytes()[..end]);
    }

    fn no_such_export(&mut self, number: u32, name: &str) {
        self.refuse(number, reply::ERR_UNKNOWN, &format!("export '{name}' not present"));
    }

    /// `OPT_INFO` and `OPT_GO`; the export where the transmission phase begins.
    fn info(&mut self, number: u32, data: &[u8]) -> Result<Option<Arc<Export>>> {
        let mut fields = Fields::new(data, "an option");
        let parsed = (|| {
            let name = fields.counted_text(MAX_STRING, "an export's name")?.to_string();
            let count = fields.u16()?;
            let mut wanted = Vec::new();
            for _ in 0..count {
                wanted.push(fields.u16()?);
            }
            fields.end()?;
            Ok((name, wanted))
        })();
        let (name, wanted) = match parsed {
            Ok(parsed) => parsed,
            Err(e) => {
                let e: Error = e;
                self.refuse(number, reply::ERR_INVALID, e.what());
                return Ok(None);
            }
        };
        let Some(export) = self.find(&name) else {
            self.no_such_export(number, &name);
            return Ok(None);
        };
        let sizes = export.block_sizes();
        if number == option::GO && sizes.minimum > 1 && !wanted.contains(&info::BLOCK_SIZE) {
            self.refuse(
                number,
                reply::ERR_BLOCK_SIZE_REQD,
                "request NBD_INFO_BLOCK_SIZE to use this export",
            );
            return Ok(None);
        }
        let mut body = Vec::new();
        if wanted.contains(&info::NAME) {
            body.put_u16(info::NAME);
            body.extend_from_slice(export.name.as_bytes());
            self.reply(number, reply::INFO, &body);
        }
        if let Some(description) = &export.options.description
            && wanted.contains(&info::DESCRIPTION)
        {
            body.clear();
            body.put_u16(info::DESCRIPTION);
            body.extend_from_slice(description.as_bytes());
            self.reply(number, reply::INFO, &body);
        }
        body.clear();
        body.put_u16(info::BLOCK_SIZE);
        body.put_u32(sizes.minimum);
        body.put_u32(sizes.preferred);
        body.put_u32(sizes.maximum);
        self.reply(number, reply::INFO, &body);
        body.clear();
        body.put_u16(info::EXPORT);
        body.put_u64(export.size());
        body.put_u16(export.flags(self.mode).bits());
        self.reply(number, reply::INFO, &body);
        self.reply(number, reply::ACK, &[]);
        Ok((number == option::GO).then_some(export))
    }

    fn contexts(&mut self, number: u32, data: &[u8]) -> Result<()> {
        let set = number == option::SET_META_CONTEXT;
        if set {
            self.chosen = None;
        }
        if self.mode == Mode::Simple {
            self.refuse(
                number,
                reply::ERR_INVALID,
                "request option 10 when structured reply is not negotiated",
            );
            return Ok(());
        }
        let mut fields = Fields::new(data, "an option");
        let parsed = (|| {
            let name = fields.counted_text(MAX_STRING, "an export's name")?.to_string();
            let count = fields.u32()?;
            let mut queries = Vec::new();
            // Each takes four bytes or more: no more than the option has room for.
            for _ in 0..count {
                queries.push(fields.counted_text(MAX_STRING, "a context's name")?);
            }
            fields.end()?;
            Ok((name, queries))
        })();
        let (name, queries) = match parsed {
            Ok(parsed) => parsed,
            Err(e) => {
                let e: Error = e;
                self.refuse(number, reply::ERR_INVALID, e.what());
                return Ok(());
            }
        };
        let Some(export) = self.find(&name) else {
            self.no_such_export(number, &name);
            return Ok(());
        };
        let (mut chosen, mut names) = (Vec::new(), Vec::new());
        for (id, context) in export.contexts.iter().enumerate().take(MAX_CONTEXTS) {
            let context = context.name();
            let all = !set && queries.is_empty();
            // Of two that are called the same the first one is chosen.
            if set && names.contains(&context) {
                continue;
            }
            if all || queries.iter().any(|query| matches_query(query, context, set)) {
                let id = id as u32;
                let mut body = Vec::new();
                body.put_u32(if set { id } else { 0 });
                body.extend_from_slice(context.as_bytes());
                self.reply(number, reply::META_CONTEXT, &body);
                chosen.push(id);
                names.push(context);
            }
        }
        self.reply(number, reply::ACK, &[]);
        if set {
            self.chosen = Some((name, chosen));
        }
        Ok(())
    }
}

/// True where `context` is what `query` asks for. In a list a namespace, and `qemu:dirty-bitmap:`,
/// stand for all that is in them.
fn matches_query(query: &str, context: &str, set: bool) -> bool {
    if query == context {
        return true;
    }
    let wildcard = match query {
        DIRTY_BITMAP => true,
        _ => query.find(':').is_some_and(|colon| colon + 1 == query.len()),
    };
    !set && wildcard && context.starts_with(query)
}

/// Why a connection ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said so.
    Disconnected,
    /// The client closed the connection between two requests.
    Closed,
}

/// Serves requests until the client leaves.
///
/// # Errors
/// `Corrupt` and `Limit` where the client breaks the protocol, those of the stream. Failed requests
/// are told to the client and end nothing.
pub async fn serve<S: Stream>(session: Session<S>) -> Result<End> {
    let mut serving = Serving::new(session);
    poll_fn(|cx| serving.poll(cx)).await
}

type Running = BoxFuture<'static, (Request, u64, Answer)>;

/// A connection that is served, for who drives it step by step. Dropped, it drops what is in
/// flight; [`serve`] drives it to its end.
pub struct Serving<S> {
    session: Session<S>,
    running: FuturesUnordered<Running>,
    /// Bytes that requests in flight hold.
    held: u64,
    /// A request of which the payload is missing.
    request: Option<Request>,
    /// No more requests come.
    end: Option<Result<End>>,
}

impl<S> fmt::Debug for Serving<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("running", &self.running.len()).finish_non_exhaustive()
    }
}

impl<S: Stream> Serving<S> {
    /// Nothing is done before the first [`poll`](Self::poll).
    pub fn new(session: Session<S>) -> Self {
        Self { session, running: FuturesUnordered::new(), held: 0, request: None, end: None }
    }

    /// The connection's stream.
    pub fn stream(&mut self) -> &mut S {
        self.session.channel.stream_mut()
    }

    /// True where no request is in flight and nothing waits to be sent: only bytes that arrive
    /// give the next [`poll`](Self::poll) anything to do.
    pub fn is_idle(&self) -> bool {
        self.end.is_none() && self.running.is_empty() && self.session.channel.is_sent()
    }

    /// Takes in requests, starts them, and sends the replies of those that are done, until all
    /// that is left waits. Ready where the connection has ended.
    ///
    /// # Errors
    /// As [`serve`].
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<End>> {
        loop {
            let reading = self.poll_requests(cx)?;
            while let Poll::Ready(Some((request, held, answer))) = self.running.poll_next_unpin(cx)
            {
                self.held -= held;
                self.answer(&request, answer);
            }
            // Requests that arrived together are answered together.
            let sent = self.session.channel.poll_send(cx)?;
            if self.end.is_some() && self.running.is_empty() && sent.is_ready() {
                return Poll::Ready(self.end.take().unwrap_or(Ok(End::Closed)));
            }
            // All else wakes this task: more bytes, a request that is done, a socket with room.
            if reading == Reading::Waiting || !self.has_room() {
                return Poll::Pending;
            }
        }
    }

    fn has_room(&self) -> bool {
        self.running.len() < MAX_REQUESTS
            && self.held + self.session.channel.waiting() as u64 <= MAX_HELD
    }

    /// Takes in requests and starts them.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Result<Reading> {
        let mode = self.session.mode;
        loop {
            if self.end.is_some() {
                return Ok(Reading::Waiting);
            }
            if !self.has_room() {
                return Ok(Reading::Full);
            }
            let request = match self.request {
                Some(request) => request,
                None => {
                    let len = mode.request_len();
                    match self.session.channel.poll_fill(cx, len)? {
                        Poll::Pending => return Ok(Reading::Waiting),
                        Poll::Ready(false) => {
                            let rest = self.session.channel.arrived().len();
                            self.end = Some(match rest {
                                0 => Ok(End::Closed),
                                _ => Err(Error::io("the connection ended within a request")),
                            });
                            continue;
                        }
                        Poll::Ready(true) => {}
                    }
                    let request = Request::decode(mode, &self.session.channel.take(len))?;
                    *self.request.insert(request)
                }
            };
            let len = request.payload_len(mode)?;
            match self.session.channel.poll_fill(cx, len)? {
                Poll::Pending => return Ok(Reading::Waiting),
                Poll::Ready(false) => {
                    self.end = Some(Err(Error::io("the connection ended within a request")));
                    continue;
                }
                Poll::Ready(true) => {}
            }
            self.request = None;
            let payload = self.session.channel.take(len).freeze();
            if request.command == command::DISC {
                self.end = Some(Ok(End::Disconnected));
                continue;
            }
            self.start(request, payload);
        }
    }

    fn start(&mut self, request: Request, payload: Bytes) {
        let mut held = payload.len() as u64;
        if request.command == command::READ {
            held += request.len.min(MAX_PAYLOAD);
        }
        self.held += held;
        let order = Order {
            export: self.session.export.clone(),
            mode: self.session.mode,
            request,
            payload,
            contexts: self.session.contexts.clone(),
        };
        self.running.push(Box::pin(async move { (request, held, order.execute().await) }));
    }

    /// Puts the reply behind what waits to be sent.
    fn answer(&mut self, request: &Request, answer: Answer) {
        let Session { channel, mode, .. } = &mut self.session;
        let mode = *mode;
        let to = (request.cookie, request.offset);
        let chunked = mode == Mode::Extended
            || mode == Mode::Structured
                && matches!(request.command, command::READ | command::BLOCK_STATUS);
        match answer {
            Answer::Failed(number, _) if !chunked => {
                simple_reply(channel.head(), request.cookie, simple_error(number));
            }
            Answer::Failed(number, text) => {
                let text = text.as_bytes();
                let len = text.len().min(MAX_STRING);
                let kind = (true, chunk::ERROR);
                chunk_header(channel.head(), mode, kind, to, 6 + len as u64);
                let head = channel.head();
                head.put_u32(number);
                head.put_u16(len as u16);
                head.extend_from_slice(&text[..len]);
            }
            Answer::Data(data) if !chunked => {
                simple_reply(channel.head(), request.cookie, 0);
                channel.put_data(&data);
            }
            Answer::Data(data) if data.is_empty() => {
                chunk_header(channel.head(), mode, (true, chunk::NONE), to, 0);
            }
            Answer::Data(data) => {
                let whole = request.flags.contains(CommandFlags::DF);
                let mut offset = request.offset;
                let segments = data.as_slice();
                if whole {
                    let kind = (true, chunk::OFFSET_DATA);
                    chunk_header(channel.head(), mode, kind, to, 8 + data.len());
                    channel.head().put_u64(offset);
                    channel.put_data(&data);
                    return;
                }
                for (i, segment) in segments.iter().enumerate() {
                    let done = i + 1 == segments.len();
                    match segment {
                        Segment::Data(bytes) => {
                            let len = 8 + bytes.len() as u64;
                            let kind = (done, chunk::OFFSET_DATA);
                            chunk_header(channel.head(), mode, kind, to, len);
                            channel.head().put_u64(offset);
                            channel.push(bytes.clone());
                        }
                        Segment::Zero(len) => {
                            let kind = (done, chunk::OFFSET_HOLE);
                            chunk_header(channel.head(), mode, kind, to, 12);
                            channel.head().put_u64(offset);
                            // Part of a read, which is bounded.
                            channel.head().put_u32(u32::try_from(*len).unwrap_or(u32::MAX));
                        }
                    }
                    offset += segment.len();
                }
            }
            Answer::Status(all) => {
                for (i, (context, extents)) in all.iter().enumerate() {
                    let done = i + 1 == all.len();
                    status(channel, mode, done, to, *context, extents);
                }
            }
            Answer::Done if chunked => {
                chunk_header(channel.head(), mode, (true, chunk::NONE), to, 0);
            }
            Answer::Done => simple_reply(channel.head(), request.cookie, 0),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The stream wakes the task when more arrives, or nothing more comes.
    Waiting,
    /// There is no room; the end of a request or of a write makes some.
    Full,
}

/// Errors that older clients know.
fn simple_error(number: u32) -> u32 {
    match number {
        errno::EOVERFLOW => errno::EINVAL,
        other => other,
    }
}

/// One context's extents as a chunk.
fn status<S: Stream>(
    channel: &mut Channel<S>,
    mode: Mode,
    done: bool,
    to: (u64, u64),
    context: u32,
    extents: &[(u64, u64)],
) {
    let count = extents.len() as u64;
    let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    if mode == Mode::Extended {
        let kind = (done, chunk::BLOCK_STATUS_EXT);
        chunk_header(channel.head(), mode, kind, to, 8 + 16 * count);
        let head = channel.head();
        head.put_u32(context);
        head.put_u32(narrow(count));
        for (len, state) in extents {
            head.put_u64(*len);
            head.put_u64(*state);
        }
        return;
    }
    chunk_header(channel.head(), mode, (done, chunk::BLOCK_STATUS), to, 4 + 8 * count);
    let head = channel.head();
    head.put_u32(context);
    for (len, state) in extents {
        // The range was 32 bits long.
        head.put_u32(narrow(*len));
        head.put_u32(narrow(*state));
    }
}
