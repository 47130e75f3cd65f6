//! The commands of `control.json` that need nothing but the monitor itself.

use super::arguments::Arguments;
use super::commands::{Call, Commands};
use super::error::{QmpError, QmpResult};
use super::session::Version;
use crate::io::BoxFuture;
use crate::qapi;
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::vec::Vec;
use serde_json::{Value, json};

/// `query-version`, `query-commands`, `query-qmp-schema`; `qmp_capabilities` is listed, and answered by the session.
#[derive(Clone, Debug)]
pub struct Control {
    version: Version,
    others: Vec<&'static str>,
}

const NAMES: [&str; 4] =
    ["query-qmp-schema", "query-commands", "query-version", "qmp_capabilities"];

impl Control {
    /// Next to the commands called `others`.
    #[must_use]
    pub fn new(version: Version, others: Vec<&'static str>) -> Self {
        Self { version, others }
    }

    fn answer(&self, name: &str, call: Call) -> QmpResult<Value> {
        Arguments::new(call.arguments).end()?;
        Ok(match name {
            "query-version" => self.version.to_json(),
            "query-qmp-schema" => {
                let names = NAMES.iter().chain(&self.others);
                // None of them may be called out of band.
                let known = names.filter_map(|name| Some((qapi::command(name)?, false)));
                let machine = self.others.contains(&"cont").then(qapi::machine_events);
                let events = qapi::events().chain(machine.into_iter().flatten());
                let schema = qapi::describe(known, events);
                serde_json::to_value(&schema).map_err(|e| QmpError::generic(e.to_string()))?
            }
            _ => NAMES.iter().chain(&self.others).map(|name| json!({ "name": name })).collect(),
        })
    }
}

impl Commands for Control {
    fn names(&self) -> Vec<&'static str> {
        NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        match name {
            "query-commands" | "query-version" | "query-qmp-schema" => {
                let answer = self.answer(name, call);
                Some(Box::pin(async move { answer }))
            }
            _ => None,
        }
    }
}
