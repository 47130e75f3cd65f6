//! The engine's own commands: nodes, bitmaps, snapshots, jobs (`block-core.json`, `job.json`).
//!
//! Each command is a method whose name is the command's; it reads its arguments by their type in
//! [`qapi`](crate::qapi), which refuses what the schema does not allow before anything happens.

mod bitmaps;
mod jobs;
mod nodes;
mod query;
mod snapshots;
mod transaction;

pub(super) use query::none;

use super::{Call, Commands, QmpResult};
use crate::backend::Backends;
use crate::graph::{Graph, Held, Options};
use crate::io::BoxFuture;
use crate::job::Jobs;
use crate::qapi::schema::Qapi;
use crate::qapi::validate;
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::Serialize;
use serde_json::{Map, Value};

/// The commands on a graph and its jobs.
#[derive(Debug)]
pub struct BlockCommands {
    graph: Arc<Graph>,
    jobs: Arc<Jobs>,
    backends: Arc<Backends>,
    /// Nodes of jobs that amend images, which stay until their jobs are dismissed.
    amended: Mutex<Vec<(String, Held)>>,
}

impl BlockCommands {
    /// Commands on `graph`; `jobs` has what they start.
    #[must_use]
    pub fn new(graph: Arc<Graph>, jobs: Arc<Jobs>) -> Self {
        let backends = Backends::new(graph.clone());
        Self { graph, jobs, backends, amended: Mutex::default() }
    }

    /// The named backends over the graph.
    #[must_use]
    pub fn backends(&self) -> &Arc<Backends> {
        &self.backends
    }

    /// The graph.
    #[must_use]
    pub fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    /// Ends all jobs and closes all nodes.
    ///
    /// # Errors
    /// Those of making everything durable.
    pub async fn close(&self) -> crate::Result<()> {
        self.jobs.close().await;
        self.amended.lock().clear();
        self.graph.close().await
    }
}

/// Gives the dispatch of a set: the name of each command and its method.
macro_rules! commands {
    ($($name:literal => $method:ident),+ $(,)?) => {
        impl BlockCommands {
            /// The names of its commands.
            pub const NAMES: &'static [&'static str] = &[$($name),+];
        }

        impl Commands for BlockCommands {
            fn names(&self) -> Vec<&'static str> {
                Self::NAMES.to_vec()
            }

            fn execute<'a>(
                &'a self,
                name: &'a str,
                call: Call,
            ) -> Option<BoxFuture<'a, QmpResult<Value>>> {
                match name {
                    $($name => Some(Box::pin(self.$method(call.arguments))),)+
                    _ => None,
                }
            }
        }
    };
}

commands! {
    "blockdev-add" => blockdev_add,
    "blockdev-reopen" => blockdev_reopen,
    "blockdev-del" => blockdev_del,
    "blockdev-set-active" => blockdev_set_active,
    "x-blockdev-change" => x_blockdev_change,
    "block_resize" => block_resize,
    "block-set-write-threshold" => block_set_write_threshold,
    "change-backing-file" => change_backing_file,
    "query-block" => query_block,
    "query-blockstats" => query_blockstats,
    "query-named-block-nodes" => query_named_block_nodes,
    "x-debug-query-block-graph" => x_debug_query_block_graph,
    "blockdev-snapshot" => blockdev_snapshot,
    "blockdev-snapshot-sync" => blockdev_snapshot_sync,
    "transaction" => transaction,
    "blockdev-snapshot-internal-sync" => blockdev_snapshot_internal_sync,
    "blockdev-snapshot-delete-internal-sync" => blockdev_snapshot_delete_internal_sync,
    "block-dirty-bitmap-add" => block_dirty_bitmap_add,
    "block-dirty-bitmap-remove" => block_dirty_bitmap_remove,
    "block-dirty-bitmap-clear" => block_dirty_bitmap_clear,
    "block-dirty-bitmap-enable" => block_dirty_bitmap_enable,
    "block-dirty-bitmap-disable" => block_dirty_bitmap_disable,
    "block-dirty-bitmap-merge" => block_dirty_bitmap_merge,
    "x-debug-block-dirty-bitmap-sha256" => x_debug_block_dirty_bitmap_sha256,
    "blockdev-create" => blockdev_create,
    "x-blockdev-amend" => x_blockdev_amend,
    "query-jobs" => query_jobs,
    "query-block-jobs" => query_block_jobs,
    "job-pause" => job_pause,
    "job-resume" => job_resume,
    "job-cancel" => job_cancel,
    "job-complete" => job_complete,
    "job-dismiss" => job_dismiss,
    "job-finalize" => job_finalize,
}

/// What a command returns that returns nothing.
fn nothing() -> Value {
    Value::Object(Map::new())
}

/// A value as it stands on the wire.
pub(super) fn told(value: &impl Serialize) -> QmpResult<Value> {
    serde_json::to_value(value)
        .map_err(|e| crate::Error::bug(alloc::format!("cannot be written as JSON: {e}")).into())
}

/// The members of a union of options as the graph takes them: dotted names.
fn options_of<T: Qapi>(mut members: Map<String, Value>) -> QmpResult<Options> {
    validate(T::schema(), &mut members)?;
    Ok(Options::from_json(&Value::Object(members)))
}
