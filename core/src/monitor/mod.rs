//! The monitor: QMP, the schema's commands and events as JSON. No transport: a socket, standard
//! input or a promise carry what a [`Session`] reads and says.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `error` | what a command answers when it fails: the schema's error classes |
//! | `block` | the commands on nodes, bitmaps, snapshots and jobs |
//! | `backends` | the commands on named backends |
//! | `replication` | the commands on disks that two machines have |
//! | `commands` | what executes commands: a name and arguments in, a value out |
//! | `arguments` | a command's arguments, taken one by one |
//! | `texts` | values that a command line gives as texts |
//! | `sets` | several sets of commands as one |
//! | `control` | the commands of `control.json` |
//! | `event` | what happened, and everybody who wants to be told |
//! | `limit` | events that may come too often |
//! | `session` | one client's conversation: bytes in, requests to execute, bytes out |
//! | `serve` | a session over a stream of bytes |

mod arguments;
mod backends;
mod block;
mod commands;
mod control;
mod error;
mod event;
mod limit;
mod replication;
mod serve;
mod session;
mod sets;
#[cfg(all(test, feature = "testing"))]
mod tests;
mod texts;

pub use arguments::{Arguments, not_accepted, wrong_type};
pub use backends::BackendCommands;
pub use block::BlockCommands;
pub use commands::{Call, Commands, begin};
pub use control::Control;
pub use error::{QapiErrorClass, QmpError, QmpResult};
pub use event::{Event, Events, Subscription};
pub use replication::ReplicationCommands;
pub use serve::{Ended, serve};
pub use session::{
    MAX_OUTPUT, MAX_QUEUE, MAX_QUEUED_BYTES, Request, Session, SessionOptions, Ticket, Version,
};
pub use sets::{Check, CommandSets};
pub use texts::read_texts;
