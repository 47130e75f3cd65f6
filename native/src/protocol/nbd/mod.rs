//! The NBD client: an export of a server as a [`BlockDevice`](sectora_core::io::BlockDevice).
//!
//! | module | what it holds |
//! | --- | --- |
//! | `address` | names and URIs, and what they mean |
//! | `options` | the same as the schema's options |
//! | `stream` | sockets and encrypted sockets as the core's streams; connecting |
//! | `tls` | certificates from a directory as QEMU lays them out |
//! | `link` | a connection: sends requests, sorts replies, connects again |
//! | `reply` | what a request is told, piece by piece |
//! | `device` | the device |
//!
//! Requests are pipelined: as many as the callers have. Names and options are the schema's
//! (`BlockdevOptionsNbd`).

mod address;
mod device;
mod link;
mod options;
mod reply;
mod stream;
pub mod tls;

pub use address::{NbdOptions, Server};
pub use device::NbdDevice;
pub(crate) use stream::receive;
pub use stream::{NbdStream, connect, handshake};

/// The port where none is said.
pub const DEFAULT_PORT: u16 = 10809;
