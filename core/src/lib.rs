//! A portable disk-image engine.
//!
//! **Whatever can be read and written by offset is a [`BlockDevice`](io::BlockDevice).** A browser
//! `File`, an io_uring file, a qcow2 image over either: all have the same interface, and compose.
//! A host supplies devices, time, randomness and CPU ([`io::Runtime`]); this crate supplies
//! everything else.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`io`] | the device trait, buffers, extents, open policy, runtime, memory and middleware devices |
//! | [`bitmap`] | dirty bitmaps: in memory, their states, merging, serialising |
//! | [`codec`] | compression and decompression of clusters; no I/O |
//! | [`crypto`] | encryption of images; no I/O |
//! | [`filter`] | devices that change what happens on the way |
//! | [`format`](mod@format) | one folder an on-disk format, detection, and the one engine that moves the bytes |
//! | [`graph`] | nodes: opened from options, changed while they are used |
//! | [`image`] | whole-image operations: info, map, check, measure, create, convert, compare |
//! | [`job`] | background jobs: states, verbs, progress |
//! | [`json`] | JSON as QEMU's programs read and write it, also as it arrives |
//! | [`monitor`] | QMP: the schema's commands and events as JSON, without a transport |
//! | [`nbd`] | the NBD protocol, both sides; no I/O but through a host's stream |
//! | [`qapi`] | the wire types of the block layer's schema |
//!
//! Invariants: this crate never performs I/O itself, reads a clock, spawns a thread, sleeps, opens
//! a path or logs to a terminal; formats do not know the graph; no synchronous lock lives across
//! an await; no input makes it panic or allocate without bound.

#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(any(test, feature = "std", feature = "zlib-rs", feature = "zstd-c", feature = "zrip-std"))]
extern crate std;

pub mod backend;
pub mod bitmap;
pub mod codec;
pub mod crypto;
mod error;
pub mod filter;
pub mod format;
pub mod graph;
pub mod image;
pub mod io;
pub mod job;
pub mod json;
pub mod monitor;
pub mod nbd;
pub mod qapi;
pub mod sync;

pub use error::{Error, ErrorKind, Result};
