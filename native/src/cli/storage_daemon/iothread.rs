//! `x-blockdev-set-iothread`: where requests of a node run. Here that is every thread, so that
//! nothing moves: what the command is given is held against what there is.

use crate::cli::objects::Objects;
use sectora_core::graph::Graph;
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{Call, Commands, QmpError, QmpResult, begin};
use sectora_core::qapi::{StrOrNull, XBlockdevSetIothread, parse};
use serde_json::{Map, Value, json};
use std::future::ready;
use std::sync::Arc;

const NAMES: [&str; 1] = ["x-blockdev-set-iothread"];

/// The command.
pub(super) struct IothreadCommands {
    pub(super) graph: Arc<Graph>,
    pub(super) objects: Objects,
}

impl IothreadCommands {
    fn set(&self, arguments: Map<String, Value>) -> QmpResult<Value> {
        let XBlockdevSetIothread { node_name, iothread, force } = parse(arguments)?;
        let node = self.graph.find(&node_name).ok_or_else(|| {
            QmpError::generic(format!("Failed to find node with node-name='{node_name}'"))
        })?;
        if force != Some(true) && node.is_used_from_outside() {
            return Err(QmpError::generic(format!(
                "Node {node_name} is associated with a BlockBackend and could be in use (use \
                 force=true to override this check)"
            )));
        }
        match iothread {
            StrOrNull::S(id) if self.objects.numbers(&id).is_none() => {
                Err(QmpError::generic(format!("Cannot find iothread {id}")))
            }
            StrOrNull::S(_) | StrOrNull::N => Ok(json!({})),
        }
    }
}

impl Commands for IothreadCommands {
    fn names(&self) -> Vec<&'static str> {
        NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&NAMES, name, || ready(self.set(call.arguments)))
    }
}
