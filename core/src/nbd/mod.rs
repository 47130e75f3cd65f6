//! The NBD protocol: both sides, over any stream of bytes.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`layout`] | the specification's numbers, and the limits that keep a peer from costing memory |
//! | [`message`] | requests and replies as bytes; pure functions |
//! | [`Channel`], [`Stream`] | a host's stream with what was read ahead and what waits to be sent |
//! | [`client`] | the client's handshake, up to the transmission phase |
//! | [`Export`] | what a server offers: a device, what may be done to it, what is told of it |
//! | [`server`] | the server's handshake and transmission phase |
//!
//! Invariants: no length from the peer sizes anything before it was checked; a peer that breaks
//! the protocol loses its connection and nothing else; memory per connection is bounded, also for
//! a peer that never reads; no I/O but through [`Stream`] and
//! [`BlockDevice`](crate::io::BlockDevice).

mod channel;
pub mod client;
mod execute;
mod export;
#[allow(missing_docs)] // what has no words of its own is named by the specification
pub mod layout;
pub mod message;
pub mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use channel::{Channel, Stream};
pub use export::{
    AllocationDepth, BaseAllocation, BitmapContext, Export, ExportOptions, StatusProvider,
};
