//! Nodes from options: what `--image-opts`, `json:` names and the schema's `BlockdevOptions` say.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `options` | a node's options as a flat list of dotted names, and how they are read as text |
//! | `open` | a tree of nodes opened from them |
//! | `drivers` | the options that only one format has |
//! | `reference` | backing files that images name by options |
//!
//! A name that stands for a file, a socket or a server is the host's business: [`Protocols`].

mod drivers;
mod open;
mod options;
mod reference;
#[cfg(test)]
mod tests;

pub(crate) use reference::open_described;

pub use open::{Inherited, Located, Protocols, open};
pub use options::{ChildOptions, OptionList, OptionValue, Options};
pub use reference::by_options;
