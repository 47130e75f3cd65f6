//! Several sets of commands as one.

use super::commands::{Call, Commands};
use super::error::{QmpError, QmpResult};
use crate::io::BoxFuture;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use serde_json::{Map, Value};

/// Refuses arguments that a command does not have: its name, and what was given.
pub type Check = dyn Fn(&str, &Map<String, Value>) -> QmpResult<()> + Send + Sync;

/// What a monitor knows: sets of commands, asked in their order.
#[derive(Clone, Default)]
pub struct CommandSets {
    sets: Vec<Arc<dyn Commands>>,
    check: Option<Arc<Check>>,
}

impl fmt::Debug for CommandSets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

impl CommandSets {
    /// No commands.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with those of `set`.
    #[must_use]
    pub fn with(mut self, set: Arc<dyn Commands>) -> Self {
        self.sets.push(set);
        self
    }

    /// The same with a check that the arguments of every command have to pass before anything
    /// happens.
    #[must_use]
    pub fn checked_by(mut self, check: Arc<Check>) -> Self {
        self.check = Some(check);
        self
    }

    /// Executes a command.
    ///
    /// # Errors
    /// `CommandNotFound` where no set has it, those of the check and of the command.
    pub async fn call(&self, name: &str, call: Call) -> QmpResult<Value> {
        match self.execute(name, call) {
            Some(answer) => answer.await,
            None => Err(QmpError::command_not_found(name)),
        }
    }

    fn owner(&self, name: &str) -> Option<&Arc<dyn Commands>> {
        self.sets.iter().find(|set| set.names().contains(&name))
    }
}

impl Commands for CommandSets {
    fn names(&self) -> Vec<&'static str> {
        self.sets.iter().flat_map(|set| set.names()).collect()
    }

    fn allows_out_of_band(&self, name: &str) -> bool {
        self.owner(name).is_some_and(|set| set.allows_out_of_band(name))
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        let set = self.owner(name)?;
        if let Some(Err(error)) = self.check.as_ref().map(|check| check(name, &call.arguments)) {
            return Some(Box::pin(async move { Err(error) }));
        }
        set.execute(name, call)
    }
}
