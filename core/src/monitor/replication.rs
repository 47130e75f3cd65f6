//! Commands on disks that are kept on two machines.

use super::commands::{Call, Commands, begin};
use super::error::{QmpError, QmpResult};
use crate::filter::ReplicationMode;
use crate::graph::Graph;
use crate::io::BoxFuture;
use crate::qapi::{ReplicationStatus, XenSetReplication, parse};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// The commands `xen-set-replication`, `query-xen-replication-status` and `xen-colo-do-checkpoint`,
/// on all nodes of the driver `replication`.
#[derive(Debug)]
pub struct ReplicationCommands {
    graph: Arc<Graph>,
}

impl ReplicationCommands {
    /// The names of its commands.
    pub const NAMES: [&'static str; 3] =
        ["xen-set-replication", "query-xen-replication-status", "xen-colo-do-checkpoint"];

    /// Commands on the nodes of `graph`.
    #[must_use]
    pub fn new(graph: Arc<Graph>) -> Self {
        Self { graph }
    }

    async fn answer(&self, name: &str, arguments: Map<String, Value>) -> QmpResult<Value> {
        match name {
            "xen-set-replication" => self.set(parse(arguments)?).await?,
            "xen-colo-do-checkpoint" => {
                super::block::none(arguments)?;
                self.graph.checkpoint_replication().await?;
            }
            _ => {
                super::block::none(arguments)?;
                let found = self.graph.replication_error().err();
                let desc = found.map(|error| error.what().to_string());
                let status = ReplicationStatus { error: desc.is_some(), desc };
                return super::block::told(&status);
            }
        }
        Ok(Value::Object(Map::new()))
    }

    async fn set(&self, args: XenSetReplication) -> QmpResult<()> {
        let XenSetReplication { enable, primary, failover } = args;
        if enable && failover.is_some() {
            let what = "Parameter 'failover' is only for stopping replication";
            return Err(QmpError::generic(what));
        }
        match (enable, primary) {
            (true, true) => self.graph.start_replication(ReplicationMode::Primary).await?,
            (true, false) => self.graph.start_replication(ReplicationMode::Secondary).await?,
            (false, _) => self.graph.stop_replication(failover == Some(true)).await?,
        }
        Ok(())
    }
}

impl Commands for ReplicationCommands {
    fn names(&self) -> Vec<&'static str> {
        Self::NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&Self::NAMES, name, || self.answer(name, call.arguments))
    }
}
