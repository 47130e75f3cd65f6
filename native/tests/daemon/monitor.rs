//! A client that gives commands one after the other.

use super::setup::{Running, lines, start};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A daemon, and a connection to it.
pub(crate) struct Monitor {
    running: Running,
    stream: UnixStream,
    events: VecDeque<Value>,
}

impl Monitor {
    /// Starts a daemon whose monitor is on the socket `path`.
    pub(crate) fn start(program: &Path, path: &str) -> Self {
        Self::start_with(program, path, &[])
    }

    /// The same with more words on its command line.
    pub(crate) fn start_with(program: &Path, path: &str, more: &[&str]) -> Self {
        let (running, mut stream) = start(program, path, more);
        assert_eq!(lines(&mut stream, 1).len(), 1, "a greeting");
        let mut monitor = Self { running, stream, events: VecDeque::new() };
        monitor.done("qmp_capabilities", json!({}));
        monitor
    }

    fn next(&mut self) -> Value {
        let line = lines(&mut self.stream, 1);
        let line = line.first().expect("a message");
        serde_json::from_str(line).expect("JSON")
    }

    /// The answer to a command. Events that come before it are kept.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(request.to_string().as_bytes()).expect("a connection");
        loop {
            let message = self.next();
            match message.get("event") {
                Some(_) => self.events.push_back(message),
                None => return message,
            }
        }
    }

    /// The same, with the events that came before the answer.
    pub(crate) fn ask_with_events(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> (Vec<Value>, Value) {
        self.events.clear();
        let answer = self.ask(command, arguments);
        (self.events.drain(..).collect(), answer)
    }

    /// Has a command carried out.
    pub(crate) fn done(&mut self, command: &str, arguments: Value) {
        let answer = self.ask(command, arguments.clone());
        assert!(answer.get("return").is_some(), "{command} {arguments}: {answer}");
    }

    /// The next event of that name.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.next(),
            };
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Ends the daemon.
    pub(crate) fn quit(mut self) {
        self.done("quit", json!({}));
        assert!(self.running.0.wait().expect("an end").success());
    }
}
