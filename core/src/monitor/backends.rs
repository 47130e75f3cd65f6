//! Commands on named backends and the machine whose disks they are.

use super::commands::{Call, Commands, begin};
use super::error::{QmpError, QmpResult};
use crate::ErrorKind;
use crate::backend::{Accounting, Backend, Backends, Boundaries, ErrorPolicy, NewBackend};
use crate::io::BoxFuture;
use crate::monitor::Events;
use crate::qapi::{
    BlockLatencyHistogramSet, BlockdevOnError, DeviceAdd, DeviceDel, DeviceDeleted, is_id, parse,
};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;
use serde_json::{Map, Value};

type Arguments = Map<String, Value>;

/// The commands `stop`, `cont`, `query-status`, `device_add`, `device_del` and
/// `block-latency-histogram-set`.
#[derive(Debug)]
pub struct BackendCommands {
    backends: Arc<Backends>,
    events: Arc<Events>,
}

impl BackendCommands {
    /// The names of its commands.
    pub const NAMES: [&'static str; 6] =
        ["stop", "cont", "query-status", "device_add", "device_del", "block-latency-histogram-set"];

    /// Commands on `backends`.
    #[must_use]
    pub fn new(backends: Arc<Backends>, events: Arc<Events>) -> Self {
        Self { backends, events }
    }

    async fn answer(&self, name: &str, arguments: Arguments) -> QmpResult<Value> {
        match name {
            "device_add" => self.device_add(parse(arguments)?).await?,
            "device_del" => self.device_del(parse(arguments)?).await?,
            "block-latency-histogram-set" => self.histogram_set(parse(arguments)?)?,
            _ => {
                super::block::none(arguments)?;
                match name {
                    "stop" => self.backends.machine().stop(),
                    "cont" => self.backends.resume(),
                    _ => return super::block::told(&self.backends.machine().status()),
                }
            }
        }
        Ok(Value::Object(Map::new()))
    }

    async fn device_add(&self, new: DeviceAdd) -> QmpResult<()> {
        if !is_id(&new.id) {
            return Err(QmpError::generic("Parameter 'id' expects an identifier"));
        }
        if new.rerror == Some(BlockdevOnError::Enospc) {
            return Err(QmpError::generic("'enospc' is not a valid action for 'rerror'"));
        }
        let seconds = new.stats_intervals.unwrap_or_default();
        if seconds.contains(&0) {
            return Err(QmpError::generic("Invalid interval length: 0"));
        }
        let old = Accounting::default();
        let accounting = Accounting {
            invalid: new.account_invalid.unwrap_or(old.invalid),
            failed: new.account_failed.unwrap_or(old.failed),
            intervals: seconds.into_iter().map(|s| Duration::from_secs(s.into())).collect(),
        };
        let policy = ErrorPolicy {
            read: new.rerror.unwrap_or(BlockdevOnError::Auto),
            write: new.werror.unwrap_or(BlockdevOnError::Auto),
        };
        let new = NewBackend {
            id: new.id,
            node_name: new.node_name,
            policy,
            read_only: new.read_only == Some(true),
            share_rw: new.share_rw == Some(true),
            accounting,
        };
        self.backends.add(new).await?;
        Ok(())
    }

    async fn device_del(&self, args: DeviceDel) -> QmpResult<()> {
        let DeviceDel { id } = args;
        self.backends.remove(&id).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => QmpError::device_not_found(&id),
            _ => error.into(),
        })?;
        let told = DeviceDeleted { path: id.clone(), device: Some(id) };
        self.events.tell("DEVICE_DELETED", &told);
        Ok(())
    }

    fn histogram_set(&self, args: BlockLatencyHistogramSet) -> QmpResult<()> {
        let backend = self.find(&args.id)?;
        let all = args.boundaries;
        let new = Boundaries {
            read: args.boundaries_read.or_else(|| all.clone()),
            write: args.boundaries_write.or_else(|| all.clone()),
            flush: args.boundaries_flush.or(all),
        };
        let set = backend.statistics().set_boundaries(new);
        set.map_err(|e| QmpError::generic(format!("Device '{}': {}", args.id, e.what())))
    }

    fn find(&self, id: &str) -> QmpResult<Arc<Backend>> {
        self.backends.find(id).ok_or_else(|| QmpError::device_not_found(id))
    }
}

impl Commands for BackendCommands {
    fn names(&self) -> Vec<&'static str> {
        Self::NAMES.into()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&Self::NAMES, name, || self.answer(name, call.arguments))
    }
}
