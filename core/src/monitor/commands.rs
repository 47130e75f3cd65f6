//! What executes commands.

use super::error::QmpResult;
use crate::io::BoxFuture;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::Future;
use serde_json::{Map, Value};

/// One command as a client sent it.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its arguments; empty where it has none.
    pub arguments: Map<String, Value>,
    /// Whether it may overtake others (`exec-oob`).
    pub out_of_band: bool,
}

/// A set of commands. Several sets together are what a monitor knows: a host adds its own (sockets,
/// character devices, exports) to those of the engine.
pub trait Commands: Send + Sync {
    /// The names of all commands.
    fn names(&self) -> Vec<&'static str>;

    /// True where the command may be called out of band.
    fn allows_out_of_band(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Executes a command of this set; `None` where it is not of this set. Arguments that the
    /// schema does not allow are refused before anything happens.
    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>>;
}

/// What [`Commands::execute`] answers for a set of the commands `names`: `None` where `name` is none of
/// them, else the future that `begin` makes, which is called at once.
pub fn begin<'a, F>(
    names: &[&str],
    name: &str,
    begin: impl FnOnce() -> F,
) -> Option<BoxFuture<'a, QmpResult<Value>>>
where
    F: Future<Output = QmpResult<Value>> + Send + 'a,
{
    names.contains(&name).then(|| -> BoxFuture<'a, _> { Box::pin(begin()) })
}
