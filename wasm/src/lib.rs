//! The engine for browsers and Node: bindings behind the npm package.
//!
//! Everything here is a thin layer: JavaScript objects in, calls of the core, JavaScript objects
//! out. What people import is the hand-written TypeScript in `ts/`; it never shows a type of this
//! crate.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `host` | what JavaScript provides: clock, turns of the event loop, randomness |
//! | `runtime` | the engine's `Runtime` over that |
//! | `storage` | devices over storage that JavaScript reads and writes |
//! | `policy` | backing and data files, by asking JavaScript |
//! | `task` | cancelling and progress |
//! | `image` | the exported calls |
//! | `monitor` | QMP over nodes on storage that JavaScript has attached |
//!
//! Invariants: there is one thread, so handles of JavaScript are wrapped to count as `Send`, and a
//! use from elsewhere would panic; long work gives the event loop a turn every few milliseconds;
//! no call borrows an exported object across an await, so that it can be freed at any time.

// Of what both modules share, each uses its part.
#![cfg_attr(not(all(feature = "image", feature = "monitor")), allow(dead_code))]

mod error;
pub mod host;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "monitor")]
pub mod monitor;
#[cfg(feature = "image")]
mod options;
mod pending;
#[cfg(feature = "image")]
mod policy;
mod runtime;
#[cfg(feature = "image")]
mod sink;
pub mod storage;
pub mod task;

#[cfg(feature = "contract")]
pub mod contract;
