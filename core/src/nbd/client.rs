//! The client's side of the handshake: oldstyle, newstyle and fixed newstyle.
//!
//! ```text
//! greet ─► [start_tls ─► encrypted] ─► choose_mode ─► list, info, contexts … ─► go ─► Channel
//!      └─► oldstyle ─► Channel
//! ```
//!
//! Source: the protocol specification, section "Handshake phase".

use super::channel::{Channel, Stream};
use super::layout::{
    HandshakeFlags, INIT_MAGIC, MAX_CONTEXTS, MAX_EXPORTS, MAX_OPTION, MAX_PAYLOAD, MAX_STRING,
    OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, RESERVED_LEN, TransmissionFlags, info,
    option, reply,
};
use super::message::Mode;
use super::wire::{Fields, violation};
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bytes::{BufMut, Bytes, BytesMut};

/// Sizes that a server wants requests to have ("Block size constraints").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths must be multiples of it.
    pub minimum: u32,
    /// What works best.
    pub preferred: u32,
    /// The longest payload.
    pub maximum: u32,
}

impl BlockSizes {
    fn decode(fields: &mut Fields<'_>) -> Result<Self> {
        let sizes =
            Self { minimum: fields.u32()?, preferred: fields.u32()?, maximum: fields.u32()? };
        let Self { minimum, preferred, maximum } = sizes;
        let possible = minimum.is_power_of_two()
            && minimum <= 64 << 10
            && preferred.is_power_of_two()
            && preferred >= minimum
            && (maximum == u32::MAX || maximum.is_multiple_of(minimum) && maximum >= minimum);
        match possible {
            true => Ok(sizes),
            false => Err(violation(format!(
                "impossible block sizes: minimum {minimum:#x}, preferred {preferred:#x}, maximum \
                 {maximum:#x}"
            ))),
        }
    }
}

/// What a server tells of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Length in bytes.
    pub size: u64,
    /// What it can do.
    pub flags: TransmissionFlags,
    /// Its canonical name, where the server tells one.
    pub name: Option<String>,
    /// What it is, for people.
    pub description: Option<String>,
    /// Sizes of requests, where the server cares.
    pub block: Option<BlockSizes>,
}

impl ExportInfo {
    fn plain(size: u64, flags: u16) -> Result<Self> {
        if i64::try_from(size).is_err() {
            return Err(violation(format!("an export of {size:#x} bytes is too large")));
        }
        Ok(Self {
            size,
            flags: TransmissionFlags::from_bits_retain(flags),
            name: None,
            description: None,
            block: None,
        })
    }
}

/// A context of an export, with the number it has on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// What replies call it; 0 in lists.
    pub id: u32,
    /// Its name.
    pub name: String,
}

/// How a connection begins.
#[derive(Debug)]
pub enum Greeted<S> {
    /// The server negotiates.
    Newstyle(Client<S>),
    /// It has one export, and this is it: the transmission phase has begun.
    Oldstyle(Channel<S>, ExportInfo),
}

/// A connection on which options are negotiated.
#[derive(Debug)]
pub struct Client<S> {
    channel: Channel<S>,
    flags: HandshakeFlags,
    mode: Mode,
}

/// A reply to an option, whole.
struct OptionReply {
    kind: u32,
    data: Bytes,
}

/// Reads a server's greeting, and answers it.
///
/// # Errors
/// `Corrupt` where it is no NBD server, those of the stream.
pub async fn greet<S: Stream>(stream: S) -> Result<Greeted<S>> {
    let mut channel = Channel::new(stream);
    let head = channel.read(16).await?;
    let mut fields = Fields::new(&head, "a greeting");
    let (magic, style) = (fields.u64()?, fields.u64()?);
    if magic != INIT_MAGIC {
        return Err(violation(format!("Bad initial magic received: {magic:#x}")));
    }
    match style {
        OLDSTYLE_MAGIC => {
            let rest = channel.read(8 + 4 + RESERVED_LEN).await?;
            let mut fields = Fields::new(&rest, "a greeting");
            let size = fields.u64()?;
            let flags = fields.u32()?;
            // The upper half has flags of the handshake, of which oldstyle has none.
            let flags = u16::try_from(flags)
                .map_err(|_| violation(format!("unexpected export flags {flags:#x}")))?;
            Ok(Greeted::Oldstyle(channel, ExportInfo::plain(size, flags)?))
        }
        OPTION_MAGIC => {
            let bytes = channel.read(2).await?;
            let offered = Fields::new(&bytes, "a greeting").u16()?;
            let flags = HandshakeFlags::from_bits_truncate(offered);
            channel.head().put_u32(flags.bits().into());
            channel.send().await?;
            Ok(Greeted::Newstyle(Client { channel, flags, mode: Mode::Simple }))
        }
        _ => Err(violation(format!("Bad server magic received: {style:#x}"))),
    }
}

impl<S: Stream> Client<S> {
    /// True where the server answers options other than the name of an export.
    #[must_use]
    pub fn is_fixed(&self) -> bool {
        self.flags.contains(HandshakeFlags::FIXED_NEWSTYLE)
    }

    /// How requests will be framed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Asks for encryption. What comes next on the stream is the first message of TLS; over it
    /// the connection goes on with [`encrypted`](Client::encrypted).
    ///
    /// # Errors
    /// `Denied` where the server has none; those of the stream.
    pub async fn start_tls(mut self) -> Result<(S, Resume)> {
        if !self.is_fixed() {
            return Err(Error::denied("Server does not support STARTTLS"));
        }
        self.ask(option::STARTTLS, &[]).await?;
        let answer = self.answer(option::STARTTLS).await?;
        match answer.kind {
            reply::ACK => Ok((self.channel.into_stream()?, Resume(self.flags))),
            reply::ERR_UNSUP => Err(Error::denied("Server does not support STARTTLS")),
            _ => Err(refused(option::STARTTLS, &answer, "")),
        }
    }

    /// Goes on over an encrypted stream.
    pub fn encrypted(stream: S, resume: Resume) -> Self {
        Self { channel: Channel::new(stream), flags: resume.0, mode: Mode::Simple }
    }

    /// Agrees on the best framing up to `most` that the server has.
    ///
    /// # Errors
    /// Those of the stream, and `Corrupt` for nonsense.
    pub async fn choose_mode(&mut self, most: Mode) -> Result<Mode> {
        if !self.is_fixed() {
            return Ok(self.mode);
        }
        for (mode, number) in [
            (Mode::Extended, option::EXTENDED_HEADERS),
            (Mode::Structured, option::STRUCTURED_REPLY),
        ] {
            if mode > most {
                continue;
            }
            self.ask(number, &[]).await?;
            let answer = self.answer(number).await?;
            match answer.kind {
                reply::ACK => {
                    self.mode = mode;
                    break;
                }
                reply::ERR_TLS_REQD => return Err(refused(number, &answer, "")),
                kind if kind & reply::ERROR != 0 => {}
                _ => return Err(unexpected(number, answer.kind)),
            }
        }
        Ok(self.mode)
    }

    /// The names and descriptions of the server's exports.
    ///
    /// # Errors
    /// `Denied` where the server does not tell; `Limit` where they are too many.
    pub async fn list(&mut self) -> Result<Vec<(String, String)>> {
        self.ask(option::LIST, &[]).await?;
        let mut found = Vec::new();
        loop {
            let answer = self.answer(option::LIST).await?;
            match answer.kind {
                reply::ACK => return Ok(found),
                reply::SERVER => {
                    let mut fields = Fields::new(&answer.data, "an export's name");
                    let name = fields.counted_text(MAX_STRING, "an export's name")?.to_string();
                    found.push((name, fields.rest(MAX_STRING, "an export's description")?));
                    if found.len() > MAX_EXPORTS {
                        return Err(Error::limit(format!("more than {MAX_EXPORTS} exports")));
                    }
                }
                _ => return Err(refused(option::LIST, &answer, "")),
            }
        }
    }

    /// What the server tells of an export, without opening it; `None` where it cannot.
    ///
    /// # Errors
    /// `NotFound` where there is no such export.
    pub async fn info(&mut self, export: &str) -> Result<Option<ExportInfo>> {
        self.about(option::INFO, export).await
    }

    /// The contexts of an export: all, or those that match one of `queries`.
    ///
    /// # Errors
    /// `NotFound` where there is no such export.
    pub async fn list_contexts(&mut self, export: &str, queries: &[&str]) -> Result<Vec<Context>> {
        self.contexts(option::LIST_META_CONTEXT, export, queries).await
    }

    /// Chooses contexts; gives those that the server has.
    ///
    /// # Errors
    /// `NotFound` where there is no such export.
    pub async fn set_contexts(&mut self, export: &str, queries: &[&str]) -> Result<Vec<Context>> {
        self.contexts(option::SET_META_CONTEXT, export, queries).await
    }

    async fn contexts(
        &mut self,
        number: u32,
        export: &str,
        queries: &[&str],
    ) -> Result<Vec<Context>> {
        if self.mode == Mode::Simple {
            return Ok(Vec::new());
        }
        let mut data = BytesMut::new();
        put_text(&mut data, export)?;
        // At most MAX_CONTEXTS, checked by what a server answers; a longer list is the caller's.
        data.put_u32(u32::try_from(queries.len()).unwrap_or(u32::MAX));
        for query in queries {
            put_text(&mut data, query)?;
        }
        self.ask(number, &data).await?;
        let mut found = Vec::new();
        loop {
            let answer = self.answer(number).await?;
            match answer.kind {
                reply::ACK => return Ok(found),
                reply::META_CONTEXT => {
                    let mut fields = Fields::new(&answer.data, "a context");
                    let id = fields.u32()?;
                    found.push(Context { id, name: fields.rest(MAX_STRING, "a context's name")? });
                    if found.len() > MAX_CONTEXTS {
                        return Err(Error::limit(format!("more than {MAX_CONTEXTS} contexts")));
                    }
                }
                reply::ERR_UNSUP => return Ok(found),
                _ => return Err(refused(number, &answer, export)),
            }
        }
    }

    /// Opens an export: the transmission phase begins.
    ///
    /// # Errors
    /// `NotFound` where there is no such export, `Denied` where it may not be used.
    pub async fn go(mut self, export: &str) -> Result<(Channel<S>, ExportInfo)> {
        if self.is_fixed()
            && let Some(info) = self.about(option::GO, export).await?
        {
            return Ok((self.channel, info));
        }
        self.ask(option::EXPORT_NAME, export.as_bytes()).await?;
        let bytes = self.channel.read(10).await.map_err(|_| {
            Error::new(ErrorKind::NotFound, format!("no export '{export}': the server hung up"))
        })?;
        let mut fields = Fields::new(&bytes, "an export");
        let info = ExportInfo::plain(fields.u64()?, fields.u16()?)?;
        if !self.flags.contains(HandshakeFlags::NO_ZEROES) {
            self.channel.read(RESERVED_LEN).await?;
        }
        Ok((self.channel, info))
    }

    /// Takes leave without opening an export. What goes wrong with that does not matter.
    pub async fn abort(mut self) {
        if self.is_fixed() && self.ask(option::ABORT, &[]).await.is_ok() {
            let _ = self.channel.close().await;
        }
    }

    /// `OPT_INFO` and `OPT_GO`; `None` where the server knows neither.
    async fn about(&mut self, number: u32, export: &str) -> Result<Option<ExportInfo>> {
        const WANTED: [u16; 3] = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];
        let mut data = BytesMut::new();
        put_text(&mut data, export)?;
        data.put_u16(WANTED.len() as u16);
        WANTED.into_iter().for_each(|kind| data.put_u16(kind));
        self.ask(number, &data).await?;
        let mut told: Option<ExportInfo> = None;
        let (mut name, mut description, mut block) = (None, None, None);
        loop {
            let answer = self.answer(number).await?;
            let mut fields = Fields::new(&answer.data, "information about an export");
            match answer.kind {
                reply::ACK => break,
                reply::INFO => match fields.u16()? {
                    info::EXPORT => {
                        told = Some(ExportInfo::plain(fields.u64()?, fields.u16()?)?);
                        fields.end()?;
                    }
                    info::NAME => name = Some(fields.rest(MAX_STRING, "an export's name")?),
                    info::DESCRIPTION => {
                        description = Some(fields.rest(MAX_STRING, "an export's description")?);
                    }
                    info::BLOCK_SIZE => {
                        block = Some(BlockSizes::decode(&mut fields)?);
                        fields.end()?;
                    }
                    // The server may tell more than was asked for.
                    _ => {}
                },
                reply::ERR_UNSUP => return Ok(None),
                _ => return Err(refused(number, &answer, export)),
            }
        }
        let told =
            told.ok_or_else(|| violation("no size in what the server tells of an export"))?;
        if let Some(sizes) = block
            && !told.size.is_multiple_of(sizes.minimum.into())
        {
            return Err(violation(format!(
                "an export of {:#x} bytes is no multiple of its block size {:#x}",
                told.size, sizes.minimum
            )));
        }
        Ok(Some(ExportInfo { name, description, block, ..told }))
    }

    async fn ask(&mut self, number: u32, data: &[u8]) -> Result<()> {
        let head = self.channel.head();
        head.put_u64(OPTION_MAGIC);
        head.put_u32(number);
        head.put_u32(u32::try_from(data.len()).unwrap_or(u32::MAX));
        head.extend_from_slice(data);
        self.channel.send().await
    }

    async fn answer(&mut self, number: u32) -> Result<OptionReply> {
        let head = self.channel.read(20).await?;
        let mut fields = Fields::new(&head, "a reply to an option");
        let (magic, to) = (fields.u64()?, fields.u32()?);
        let (kind, len) = (fields.u32()?, fields.u32()?);
        if magic != OPTION_REPLY_MAGIC {
            return Err(violation(format!("a reply to an option begins with {magic:#x}")));
        }
        if to != number {
            return Err(violation(format!("a reply to option {to}, not to option {number}")));
        }
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= MAX_OPTION)
            .ok_or_else(|| violation(format!("a reply of {len:#x} bytes to option {number}")))?;
        let data = self.channel.read(len).await?.freeze();
        Ok(OptionReply { kind, data })
    }
}

/// What has to be remembered while encryption is set up.
#[derive(Clone, Copy, Debug)]
pub struct Resume(HandshakeFlags);

fn put_text(out: &mut BytesMut, text: &str) -> Result<()> {
    let len = u32::try_from(text.len()).ok().filter(|_| text.len() <= MAX_STRING);
    let len = len.ok_or_else(|| {
        Error::invalid(format!("a name of {} bytes, more than {MAX_STRING}", text.len()))
    })?;
    out.put_u32(len);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn option_name(number: u32) -> &'static str {
    match number {
        option::EXPORT_NAME => "export name",
        option::ABORT => "abort",
        option::LIST => "list",
        option::STARTTLS => "starttls",
        option::INFO => "info",
        option::GO => "go",
        option::STRUCTURED_REPLY => "structured reply",
        option::LIST_META_CONTEXT => "list meta context",
        option::SET_META_CONTEXT => "set meta context",
        option::EXTENDED_HEADERS => "extended headers",
        _ => "<unknown>",
    }
}

fn unexpected(number: u32, kind: u32) -> Error {
    violation(format!(
        "the reply {kind:#x} does not belong to option {number} ({})",
        option_name(number)
    ))
}

/// The server said no.
fn refused(number: u32, answer: &OptionReply, export: &str) -> Error {
    let name = option_name(number);
    let (kind, text) = match answer.kind {
        reply::ERR_UNSUP => {
            (ErrorKind::Unsupported, format!("Unsupported option type {number} ({name})"))
        }
        reply::ERR_POLICY => {
            (ErrorKind::Denied, format!("Denied by server for option {number} ({name})"))
        }
        reply::ERR_INVALID => {
            (ErrorKind::InvalidInput, format!("Invalid parameters for option {number} ({name})"))
        }
        reply::ERR_PLATFORM => {
            (ErrorKind::Unsupported, format!("Server lacks support for option {number} ({name})"))
        }
        reply::ERR_TLS_REQD => {
            let what = format!("TLS negotiation required before option {number} ({name})");
            (ErrorKind::Denied, format!("{what}\nDid you forget a valid tls-creds?"))
        }
        reply::ERR_UNKNOWN => (ErrorKind::NotFound, "Requested export not available".to_string()),
        reply::ERR_SHUTDOWN => {
            (ErrorKind::Io, format!("Server shutting down before option {number} ({name})"))
        }
        reply::ERR_BLOCK_SIZE_REQD => {
            (ErrorKind::Unsupported, "Server requires INFO_BLOCK_SIZE for option".to_string())
        }
        reply::ERR_TOO_BIG => {
            (ErrorKind::Limit, format!("Option {number} ({name}) is too large for the server"))
        }
        kind if kind & reply::ERROR != 0 => {
            (ErrorKind::Io, format!("Unknown error code when asking for option {number} ({name})"))
        }
        kind => return unexpected(number, kind),
    };
    let said = Fields::new(&answer.data, "a message").message();
    let text = match said.is_empty() {
        true if answer.kind == reply::ERR_UNKNOWN => format!("{text} ('{export}')"),
        true => text,
        false => format!("{text}\nserver reported: {said}"),
    };
    Error::new(kind, text)
}

/// The longest read or write that a server with these sizes takes.
#[must_use]
pub fn longest_transfer(block: Option<BlockSizes>) -> u32 {
    let most = MAX_PAYLOAD as u32;
    block.map_or(most, |sizes| sizes.maximum.min(most))
}
