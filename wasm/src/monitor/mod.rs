//! The monitor: QMP over nodes that stand on what JavaScript has attached.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `attached` | the protocol `file`: names under which storage is attached, and their locks |
//! | `objects` | `object-add`: secrets and groups of throttles |
//! | `answer` | answers and events as JavaScript objects |
//! | `node` | a node that JavaScript reads and writes |
//!
//! The conversation is the core's [`Session`]: what is wrong with a request, which events are held
//! back and what comes before what is the same as over a socket.

mod answer;
mod attached;
mod node;
mod objects;

use crate::runtime::runtime;
use crate::task::promise;
use attached::{Attached, Attachments};
use futures_util::future::{Either, select};
use js_sys::{Function, Promise};
use node::{NodeHandle, Used};
use objects::Objects;
use sectora_core::format::Env;
use sectora_core::graph::{Claim, Graph, Permissions};
use sectora_core::io::{Deny, Runtime};
use sectora_core::job::Jobs;
use sectora_core::json::{Found, Layout, Splitter};
use sectora_core::monitor::{
    BackendCommands, BlockCommands, CommandSets, Commands, Control, Events, QmpError,
    ReplicationCommands, Request, Session, SessionOptions, Subscription, Version,
};
use sectora_core::{Error, Result};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use wasm_bindgen::prelude::*;

/// A graph of nodes, and the one client that controls it.
#[wasm_bindgen]
pub struct Monitor(Rc<Inner>);

struct Inner {
    runtime: Arc<dyn Runtime>,
    blocks: Arc<BlockCommands>,
    session: RefCell<Session>,
    heard: Subscription,
    /// Is told of every event.
    tell: Function,
    closed: Cell<bool>,
    closing: event_listener::Event,
}

fn version() -> Version {
    let package = concat!("sectora ", env!("CARGO_PKG_VERSION"), " (WebAssembly)");
    Version { qemu: [10, 0, 2], package: package.into() }
}

#[wasm_bindgen]
impl Monitor {
    /// An empty graph. `attachments` has what nodes may stand on; `tell(event)` is called for every event.
    #[wasm_bindgen(constructor)]
    pub fn new(attachments: Attachments, tell: Function) -> Self {
        let runtime = runtime();
        let events = Events::new(runtime.clone());
        let heard = events.subscribe();
        let objects = Arc::new(Objects::new(runtime.clone()));
        let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
        let attached = Arc::new(Attached::new(attachments, objects.clone()));
        let graph = Graph::new(env, attached, events.clone());
        let jobs = Jobs::new(runtime.clone(), events.clone());
        let blocks = Arc::new(BlockCommands::new(graph, jobs));
        let backends = BackendCommands::new(blocks.backends().clone(), events);
        let replication = ReplicationCommands::new(blocks.graph().clone());
        let sets = CommandSets::new()
            .with(blocks.clone())
            .with(objects)
            .with(Arc::new(backends))
            .with(Arc::new(replication));
        let control = Control::new(version(), sets.names());
        let commands = Arc::new(sets.with(Arc::new(control)));
        let options =
            SessionOptions { version: version(), layout: Layout::Line, out_of_band: false };
        let mut session = Session::new(commands, options);
        // There is nothing to negotiate: nobody reads the greeting.
        session.feed(b"{\"execute\":\"qmp_capabilities\"}\n");
        session.next_request();
        session.output().clear();
        let inner = Rc::new(Inner {
            runtime,
            blocks,
            session: RefCell::new(session),
            heard,
            tell,
            closed: Cell::new(false),
            closing: event_listener::Event::new(),
        });
        wasm_bindgen_futures::spawn_local(inner.clone().listen());
        Self(inner)
    }

    /// Carries out one request, a JSON text: a promise of the answer as it stands on the wire. One at a time.
    pub fn execute(&self, request: String) -> Promise {
        let inner = self.0.clone();
        promise(async move { inner.execute(&request).await })
    }

    /// Uses a node from outside of the graph, or a named backend: a promise of a `NodeHandle`.
    pub fn open(&self, name: String, writable: bool) -> Promise {
        let inner = self.0.clone();
        promise(async move {
            inner.alive()?;
            let graph = inner.blocks.graph().clone();
            if let Some(backend) = inner.blocks.backends().find(&name) {
                if writable && backend.is_read_only() {
                    return Err(Error::denied(format!("device '{name}' is read-only")));
                }
                let used = Used::Backend(backend.enter());
                return Ok(JsValue::from(NodeHandle::new(graph, used)));
            }
            let node = graph.lookup(None, Some(&name))?;
            if writable && node.settings().read_only {
                return Err(Error::denied(format!("node '{name}' is read-only")));
            }
            let read = Permissions::CONSISTENT_READ;
            let taken = if writable { read | Permissions::WRITE } else { read };
            // What is read or written does not end under its user's hands.
            let claim = Claim { taken, shared: Permissions::all() - Permissions::RESIZE };
            let root = graph.attach("", &node, claim).await?;
            Ok(JsValue::from(NodeHandle::new(graph, Used::Node(root))))
        })
    }

    /// Ends all jobs and closes all nodes: a promise of everything being durable.
    pub fn close(&self) -> Promise {
        let inner = self.0.clone();
        promise(async move {
            inner.closed.set(true);
            let closed = inner.blocks.close().await;
            // What happened at the end is told, and then nothing more.
            inner.drain();
            inner.say(None)?;
            inner.closing.notify(usize::MAX);
            closed.map(|()| JsValue::UNDEFINED)
        })
    }
}

impl Inner {
    fn alive(&self) -> Result<()> {
        match self.closed.get() {
            true => Err(Error::invalid("the engine is closed")),
            false => Ok(()),
        }
    }

    async fn execute(&self, request: &str) -> Result<JsValue> {
        self.alive()?;
        let request = self.begin(request)?;
        let Some(Request { name, call, ticket }) = request else {
            // What is wrong with it has been answered.
            return self.say(None)?.ok_or_else(unanswered);
        };
        let commands = self.session.borrow().commands().clone();
        let result = match commands.execute(&name, call) {
            Some(answer) => answer.await,
            None => Err(QmpError::command_not_found(&name)),
        };
        // What happened while it ran is told before its answer.
        self.drain();
        self.session.borrow_mut().answer(ticket, result);
        self.say(Some(&name))?.ok_or_else(unanswered)
    }

    /// Hands the request to the session; nothing where it is answered already.
    fn begin(&self, request: &str) -> Result<Option<Request>> {
        let mut session = self.session.borrow_mut();
        // An object ends with its brace, so nothing of it waits for what comes next.
        match request.starts_with('{') && session.feed(request.as_bytes()) == request.len() {
            true => Ok(session.next_request()),
            false => Err(Error::bug("a request is one JSON object, given when none is under way")),
        }
    }

    /// Tells events as they happen.
    async fn listen(self: Rc<Self>) {
        while !self.closed.get() {
            let deadline = self.session.borrow().deadline();
            let now = self.runtime.now();
            let held = async {
                match deadline {
                    Some(at) => self.runtime.sleep(at.0.saturating_sub(now.0)).await,
                    None => std::future::pending().await,
                }
            };
            let closing = self.closing.listen();
            if self.closed.get() {
                return;
            }
            let held = pin!(held);
            match select(pin!(self.heard.next()), select(held, closing)).await {
                Either::Left((event, _)) => {
                    self.session.borrow_mut().tell(event, self.runtime.now());
                }
                Either::Right(_) => self.session.borrow_mut().tick(self.runtime.now()),
            }
            // There is no answer among them, so there is nothing to be lost.
            let _ = self.say(None);
        }
    }

    /// Takes in all events that have happened.
    fn drain(&self) {
        while let Some(event) = self.heard.try_next() {
            self.session.borrow_mut().tell(event, self.runtime.now());
        }
    }

    /// Hands on what the session says: events to whoever listens, and gives the answer to the
    /// command `name`.
    fn say(&self, name: Option<&str>) -> Result<Option<JsValue>> {
        let output = std::mem::take(self.session.borrow_mut().output());
        let mut answer = None;
        let (mut splitter, mut at) = (Splitter::new(), 0);
        while at < output.len() {
            let (taken, found) = splitter.take(&output[at..]);
            at += taken;
            let Some(Found::Value(Value::Object(message), _)) = found else { continue };
            match message.contains_key("event") {
                // What a listener throws is its own trouble; the TypeScript side reports it.
                true => drop(self.tell.call1(&JsValue::NULL, &answer::event(&message))),
                false => answer = Some(answer::answer(name, &message)),
            }
        }
        Ok(answer)
    }
}

fn unanswered() -> Error {
    Error::bug("a request was not answered")
}
