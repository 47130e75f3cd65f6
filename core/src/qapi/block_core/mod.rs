//! Types, commands and events of `block-core.json`.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `info` | what is told about images |
//! | `graph` | nodes and devices, and what they use of each other |
//! | `stats` | what devices and nodes have done |
//! | `options` | what a node is opened by |
//! | `create` | what an image is made by, and what can be changed of it |
//! | `jobs` | block jobs and snapshots |
//! | `bitmaps` | dirty bitmaps |
//! | `throttle` | limits of speed |
//! | `commands` | the commands, and the arguments of those that have no type of the schema |
//! | `events` | events |

mod bitmaps;
mod commands;
mod create;
mod events;
mod graph;
mod info;
mod jobs;
mod options;
mod stats;
mod throttle;

pub use bitmaps::*;
pub use commands::*;
pub use create::*;
pub use events::*;
pub use graph::*;
pub use info::*;
pub use jobs::*;
pub use options::*;
pub use stats::*;
pub use throttle::*;
