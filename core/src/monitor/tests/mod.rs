//! Sessions: what clients send, and what they are told.

mod serve;
mod session;

use super::*;
use crate::io::BoxFuture;
use crate::io::testing::SimRuntime;
use crate::json::Layout;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Value, json};

/// Two commands that do little.
#[derive(Debug)]
struct Few;

impl Commands for Few {
    fn names(&self) -> Vec<&'static str> {
        Vec::from(["echo", "fast", "quit"])
    }

    fn allows_out_of_band(&self, name: &str) -> bool {
        name == "fast"
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        match name {
            "echo" => Some(Box::pin(async move { Ok(call.arguments.into()) })),
            "fast" | "quit" => Some(Box::pin(async move { Ok(json!({})) })),
            _ => None,
        }
    }
}

fn version() -> Version {
    Version { qemu: [10, 0, 2], package: "test".into() }
}

fn commands() -> Arc<CommandSets> {
    let few: Arc<dyn Commands> = Arc::new(Few);
    let control = Control::new(version(), few.names());
    Arc::new(CommandSets::new().with(few).with(Arc::new(control)))
}

fn session() -> Session {
    let options = SessionOptions { version: version(), layout: Layout::Line, out_of_band: true };
    Session::new(commands(), options)
}

/// Takes what waits to be sent.
fn said(session: &mut Session) -> Vec<Value> {
    let all = session.output().split();
    let text = String::from_utf8(all.to_vec()).expect("ASCII");
    assert!(text.is_empty() || text.ends_with("\r\n"));
    text.split_terminator("\r\n").map(value).collect()
}

/// A message; the order of its members means nothing.
fn value(text: impl AsRef<str>) -> Value {
    serde_json::from_str(text.as_ref()).expect("JSON")
}

/// Executes a request of [`Few`] or [`Control`]: they wait for nothing.
fn execute(session: &mut Session, request: Request) {
    let commands = session.commands().clone();
    let runtime = SimRuntime::new(1);
    let result = runtime.block_on(async move {
        commands.execute(&request.name, request.call).expect("a command").await
    });
    session.answer(request.ticket, result);
}

/// Sends `input` in pieces of `piece` bytes; what is said to it.
fn talk(session: &mut Session, input: &[u8], piece: usize) -> Vec<Value> {
    let mut out = Vec::new();
    for mut piece in input.chunks(piece) {
        while !piece.is_empty() {
            let taken = session.feed(piece);
            piece = &piece[taken..];
            while let Some(request) = session.next_out_of_band() {
                execute(session, request);
            }
            let next = session.next_request();
            let waits = next.is_none();
            if let Some(request) = next {
                execute(session, request);
            }
            out.extend(said(session));
            if session.has_ended() {
                return out;
            }
            assert!(taken > 0 || !waits || session.wants_input(), "it stands still");
        }
    }
    while let Some(request) = session.next_request() {
        execute(session, request);
    }
    out.extend(said(session));
    out
}
