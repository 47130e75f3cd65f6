//! The monitor: QMP, the schema's commands and events as JSON. No transport: a socket, standard
//! input or a promise carry what a [`Session`] reads and says.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `error` | what a command answers when it fails: the schema's error classes |
//! | `block` | the commands on nodes, bitmaps, snapshots and jobs |
//! | `commands` | what executes commands: a name and arguments in, a value out |
//! | `event` | what happened, and everybody who wants to be told |

mod block;
mod commands;
mod error;
mod event;

pub use block::BlockCommands;
pub use commands::{Call, Commands};
pub use error::{QapiErrorClass, QmpError, QmpResult};
pub use event::{Event, Events, Subscription};
