//! One client's conversation: bytes in, requests to execute, bytes out. No I/O, no clock.
//!
//! ```text
//! feed ─► Splitter ─► queue ─► next_request ─► (execute) ─► answer ─► output
//!                └► next_out_of_band ─► (execute) ─► answer ─┘
//! ```
//!
//! Requests are executed one after the other, and answered in their order. Where the client asked
//! for it, those by `exec-oob` overtake. What is wrong with a request is answered in its place.
//!
//! Invariants: how the bytes are cut into pieces changes nothing; nothing is taken in while
//! [`MAX_QUEUE`] requests or [`MAX_QUEUED_BYTES`] of them wait, or while [`MAX_OUTPUT`] bytes are
//! not read by the client, so that one that only writes, or never reads, costs that much.
//!
//! Source: the QMP specification, sections "Protocol Specification" and "Out-of-band execution".

use super::arguments::{Arguments, not_accepted, wrong_type};
use super::commands::{Call, Commands};
use super::error::{QapiErrorClass, QmpError, QmpResult};
use super::event::Event;
use super::limit::Limiter;
use crate::io::Instant;
use crate::json::{Found, Layout, Splitter, write};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::BytesMut;
use core::fmt;
use serde_json::{Map, Value, json};

/// So many requests wait at most.
pub const MAX_QUEUE: usize = 8;
/// With more bytes of requests waiting, no further one is taken in.
pub const MAX_QUEUED_BYTES: usize = 1 << 20;
/// With more bytes waiting for the client to read them, nothing more is taken in or executed.
pub const MAX_OUTPUT: usize = 1 << 20;

/// The program's version, as greetings and `query-version` tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major, minor and micro number of the release whose commands these are.
    pub qemu: [u32; 3],
    /// Which program it really is.
    pub package: String,
}

impl Version {
    /// The schema's `VersionInfo`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let [major, minor, micro] = self.qemu;
        json!({
            "qemu": { "micro": micro, "minor": minor, "major": major },
            "package": self.package,
        })
    }
}

/// How a session is held.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// What the greeting tells.
    pub version: Version,
    /// How answers are laid out.
    pub layout: Layout,
    /// Whether clients may ask for out-of-band execution.
    pub out_of_band: bool,
}

/// A command to be executed; its result goes to [`Session::answer`].
#[derive(Debug)]
pub struct Request {
    /// The command.
    pub name: String,
    /// Its arguments.
    pub call: Call,
    /// How the answer finds its way.
    pub ticket: Ticket,
}

/// Which request an answer belongs to.
#[derive(Debug)]
pub struct Ticket {
    id: Option<Value>,
    out_of_band: bool,
    quits: bool,
}

/// A request in the queue.
#[derive(Debug)]
struct Waiting {
    what: QmpResult<(String, Map<String, Value>)>,
    id: Option<Value>,
    size: usize,
}

/// One client's conversation.
pub struct Session {
    commands: Arc<dyn Commands>,
    options: SessionOptions,
    splitter: Splitter,
    /// `qmp_capabilities` was answered.
    negotiated: bool,
    /// Requests by `exec-oob` are taken.
    overtaking: bool,
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    overtakers: VecDeque<Request>,
    busy: bool,
    ended: bool,
    limiter: Limiter,
    output: BytesMut,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("negotiated", &self.negotiated).finish_non_exhaustive()
    }
}

impl Session {
    /// A client has come: the greeting is the first output.
    pub fn new(commands: Arc<dyn Commands>, options: SessionOptions) -> Self {
        let mut session = Self {
            commands,
            splitter: Splitter::new(),
            negotiated: false,
            overtaking: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            overtakers: VecDeque::new(),
            busy: false,
            ended: false,
            limiter: Limiter::default(),
            output: BytesMut::new(),
            options,
        };
        let offered: &[&str] = if session.options.out_of_band { &["oob"] } else { &[] };
        let version = session.options.version.to_json();
        session.say(&json!({ "QMP": { "version": version, "capabilities": offered } }));
        session
    }

    /// What executes the requests.
    #[must_use]
    pub fn commands(&self) -> &Arc<dyn Commands> {
        &self.commands
    }

    /// True where [`feed`](Self::feed) takes bytes.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        // Without overtaking, what follows a request cannot matter before it is answered.
        let most = if self.overtaking { MAX_QUEUE } else { 1 };
        let waiting = self.queue.len() + usize::from(self.busy && !self.overtaking);
        !self.ended
            && waiting < most
            && self.queued_bytes < MAX_QUEUED_BYTES
            && self.overtakers.len() < MAX_QUEUE
            && self.output.len() < MAX_OUTPUT
    }

    /// Takes bytes that the client sent, and tells how many: the others come again, once the
    /// session wants input.
    pub fn feed(&mut self, input: &[u8]) -> usize {
        let mut taken = 0;
        while taken < input.len() && self.wants_input() {
            let (n, found) = self.splitter.take(&input[taken..]);
            taken += n;
            match found {
                Some(Found::Value(value, size)) => self.take_in(value, size),
                Some(Found::Broken(text)) => self.enqueue(Err(QmpError::generic(text)), None, 0),
                None => {}
            }
        }
        taken
    }

    fn take_in(&mut self, value: Value, size: usize) {
        let Value::Object(mut members) = value else {
            let text = "QMP input must be a JSON object";
            return self.enqueue(Err(QmpError::generic(text)), None, size);
        };
        let id = members.remove("id");
        match Asked::read(members, self.overtaking) {
            Ok(asked) if asked.out_of_band => self.overtake(asked, id),
            Ok(asked) => self.enqueue(Ok((asked.name, asked.arguments)), id, size),
            Err(error) => self.enqueue(Err(error), id, size),
        }
    }

    fn overtake(&mut self, asked: Asked, id: Option<Value>) {
        let name = &*asked.name;
        let error = if !self.knows(name) {
            QmpError::command_not_found(name)
        } else if !self.commands.allows_out_of_band(name) {
            QmpError::generic(format!("The command {name} does not support OOB"))
        } else {
            let ticket = Ticket { id, out_of_band: true, quits: false };
            let call = Call { arguments: asked.arguments, out_of_band: true };
            self.overtakers.push_back(Request { name: asked.name, call, ticket });
            return;
        };
        self.reply(id, Err(error));
    }

    fn knows(&self, name: &str) -> bool {
        name == "qmp_capabilities" || self.commands.names().contains(&name)
    }

    fn enqueue(
        &mut self,
        what: QmpResult<(String, Map<String, Value>)>,
        id: Option<Value>,
        size: usize,
    ) {
        self.queued_bytes += size;
        self.queue.push_back(Waiting { what, id, size });
    }

    /// The next request to execute: none while one is under way.
    pub fn next_request(&mut self) -> Option<Request> {
        while !self.busy && !self.ended && self.output.len() < MAX_OUTPUT {
            let waiting = self.queue.pop_front()?;
            self.queued_bytes -= waiting.size;
            let (name, arguments) = match waiting.what {
                Ok(asked) => asked,
                Err(error) => {
                    self.reply(waiting.id, Err(error));
                    continue;
                }
            };
            if name == "qmp_capabilities" || !self.negotiated {
                let result = self.negotiate(&name, arguments);
                self.reply(waiting.id, result);
                continue;
            }
            if !self.knows(&name) {
                self.reply(waiting.id, Err(QmpError::command_not_found(&name)));
                continue;
            }
            self.busy = true;
            let ticket = Ticket { id: waiting.id, out_of_band: false, quits: name == "quit" };
            return Some(Request { name, call: Call { arguments, out_of_band: false }, ticket });
        }
        None
    }

    /// The next request that overtakes the others.
    pub fn next_out_of_band(&mut self) -> Option<Request> {
        self.overtakers.pop_front()
    }

    /// A request has been executed.
    pub fn answer(&mut self, ticket: Ticket, result: QmpResult<Value>) {
        if !ticket.out_of_band {
            self.busy = false;
        }
        self.ended |= ticket.quits && result.is_ok();
        self.reply(ticket.id, result);
    }

    /// `quit` was answered: nothing more is taken in.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Something happened. Clients that have not negotiated are told nothing.
    pub fn tell(&mut self, event: Event, now: Instant) {
        if self.negotiated
            && let Some(event) = self.limiter.admit(event, now)
        {
            self.say_event(&event);
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.limiter.deadline()
    }

    /// Says what was held back until now.
    pub fn tick(&mut self, now: Instant) {
        while let Some(event) = self.limiter.due(now) {
            self.say_event(&event);
        }
    }

    /// What the client has to be sent; the sender takes from its front what it has sent.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    fn negotiate(&mut self, name: &str, arguments: Map<String, Value>) -> QmpResult<Value> {
        let refuse = |desc: &str| {
            Err(QmpError { class: QapiErrorClass::CommandNotFound, desc: desc.into() })
        };
        if name != "qmp_capabilities" {
            return refuse("Expecting capabilities negotiation with 'qmp_capabilities'");
        }
        if self.negotiated {
            return refuse("Capabilities negotiation is already complete, command ignored");
        }
        let mut arguments = Arguments::new(arguments);
        let enable = match arguments.take("enable") {
            None => Vec::new(),
            Some(Value::Array(names)) => names,
            Some(_) => return Err(wrong_type("enable", "array")),
        };
        let mut overtaking = false;
        for (i, name) in enable.iter().enumerate() {
            match name.as_str() {
                None => return Err(wrong_type(&format!("enable[{i}]"), "string")),
                Some("oob") if self.options.out_of_band => overtaking = true,
                Some("oob") => return Err(QmpError::generic("Capability 'oob' not available")),
                // The reference has lost the name of the list here.
                Some(other) => return Err(not_accepted("null", other)),
            }
        }
        arguments.end()?;
        (self.negotiated, self.overtaking) = (true, overtaking);
        Ok(json!({}))
    }

    fn reply(&mut self, id: Option<Value>, result: QmpResult<Value>) {
        let mut message = Map::new();
        match result {
            Ok(value) => {
                message.insert("return".into(), value);
                message.extend(id.map(|id| ("id".into(), id)));
            }
            Err(error) => {
                message.extend(id.map(|id| ("id".into(), id)));
                let error = json!({ "class": class_name(error.class), "desc": error.desc });
                message.insert("error".into(), error);
            }
        }
        self.say(&Value::Object(message));
    }

    fn say_event(&mut self, event: &Event) {
        let timestamp = json!({
            "seconds": event.time.as_secs(),
            "microseconds": event.time.subsec_micros(),
        });
        let mut message = Map::new();
        message.insert("timestamp".into(), timestamp);
        message.insert("event".into(), event.name.into());
        if !event.data.is_empty() {
            message.insert("data".into(), event.data.clone().into());
        }
        self.say(&Value::Object(message));
    }

    fn say(&mut self, message: &Value) {
        self.output.extend_from_slice(write(message, self.options.layout).as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }
}

fn class_name(class: QapiErrorClass) -> &'static str {
    match class {
        QapiErrorClass::GenericError => "GenericError",
        QapiErrorClass::CommandNotFound => "CommandNotFound",
        QapiErrorClass::DeviceNotActive => "DeviceNotActive",
        QapiErrorClass::DeviceNotFound => "DeviceNotFound",
        QapiErrorClass::KVMMissingCap => "KVMMissingCap",
    }
}

/// A request's members, without its `id`.
struct Asked {
    name: String,
    arguments: Map<String, Value>,
    out_of_band: bool,
}

impl Asked {
    /// Mistakes are found in the order in which the reference looks at the members.
    fn read(mut members: Map<String, Value>, overtaking: bool) -> QmpResult<Self> {
        let error = |text: &str| Err(QmpError::generic(text));
        let must_be = |name: &str, what: &str| {
            QmpError::generic(format!("QMP input member '{name}' must be {what}"))
        };
        let mut command = |name: &str| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(command)) => Ok(Some(command)),
            Some(_) => Err(must_be(name, "a string")),
        };
        let in_band = command("execute")?;
        let out_of_band = if overtaking { command("exec-oob")? } else { None };
        let arguments = match members.remove("arguments") {
            None => Map::new(),
            Some(Value::Object(arguments)) => arguments,
            Some(_) => return Err(must_be("arguments", "an object")),
        };
        if let Some(name) = members.keys().next() {
            return error(&format!("QMP input member '{name}' is unexpected"));
        }
        let (name, out_of_band) = match (in_band, out_of_band) {
            (Some(name), None) => (name, false),
            (None, Some(name)) => (name, true),
            (Some(_), Some(_)) => {
                return error("QMP input member 'execute' clashes with 'exec-oob'");
            }
            (None, None) => return error("QMP input lacks member 'execute'"),
        };
        Ok(Self { name, arguments, out_of_band })
    }
}
