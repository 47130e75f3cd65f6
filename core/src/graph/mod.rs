//! Nodes: from options to a graph that changes while it is used. `docs/graph.md` tells how the parts
//! fit together.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `options` | a node's options as a flat list of dotted names, and how they are read as text |
//! | `open` | one image opened from them, with what stands below it |
//! | `drivers` | the options that only one format has |
//! | `reference` | backing files that images name by options |
//! | `live` | the graph: all nodes by name, and every change of them |
//! | `build` | nodes of the graph opened from options |
//! | `reopen` | nodes opened again with other options |
//! | `replication` | disks that are kept on two machines |
//! | `active` | nodes that another program has meanwhile |
//! | `children` | children that come and go |
//! | `commit` | what an image holds written into the one below it |
//! | `tell` | what nodes tell without being asked |
//! | `describe` | what nodes are, in the schema's words |
//! | `mount` | filters and test drivers for who opens one image |
//! | `snapshot` | one node put on top of another while it is used |
//! | `filters` | nodes of filters and test drivers |
//! | `point_in_time` | what a `snapshot-access` node shows |
//! | `node`, `edge`, `root` | a node, one use of a node, one use from outside |
//! | `name` | names of nodes that stand on others |
//! | `permission` | what users of a node do and let others do |
//!
//! A name that stands for a file, a socket or a server is the host's business: [`Protocols`].

mod active;
mod build;
mod children;
mod commit;
mod describe;
mod drivers;
mod edge;
mod filters;
mod live;
mod mount;
mod name;
mod node;
mod open;
mod options;
mod permission;
mod point_in_time;
mod reference;
mod reopen;
mod replication;
mod root;
mod snapshot;
mod tell;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use describe::{graph_info, node_info, node_of, snapshots_of, with_snapshots};
pub(crate) use reference::open_described;

pub use edge::Edge;
pub use filters::Filter;
pub use live::{Graph, Quiet};
pub use mount::WithFilters;
pub use node::{Body, Counts, Held, Locks, Node, Settings};
pub use open::{Inherited, OpenedNode, Protocols, open};
pub use options::{ChildOptions, OptionList, OptionValue, Options};
pub use permission::{Claim, Permissions, Role};
pub use reference::by_options;
pub use root::Root;
pub use snapshot::{NewOverlay, Overlaid};
