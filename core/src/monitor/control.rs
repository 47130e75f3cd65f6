//! The commands of `control.json` that need nothing but the monitor itself.

use super::arguments::Arguments;
use super::commands::{Call, Commands};
use super::error::QmpResult;
use super::session::Version;
use crate::io::BoxFuture;
use alloc::boxed::Box;
use alloc::vec::Vec;
use serde_json::{Value, json};

/// `query-version`, `query-commands`; `qmp_capabilities` is listed, and answered by the session.
#[derive(Clone, Debug)]
pub struct Control {
    version: Version,
    others: Vec<&'static str>,
}

const NAMES: [&str; 3] = ["query-commands", "query-version", "qmp_capabilities"];

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
            "query-commands" | "query-version" => {
                let answer = self.answer(name, call);
                Some(Box::pin(async move { answer }))
            }
            _ => None,
        }
    }
}
