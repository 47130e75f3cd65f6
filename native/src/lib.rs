//! What only a server has: the runtime over threads and the kernel's clock, and storage on files.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`cli`] | the command line: `sectora img|io|nbd …`, also as `qemu-img`, `qemu-io` and `qemu-nbd` |
//! | [`export`] | devices served to others: NBD |
//! | [`protocol`] | devices that others serve: NBD |
//! | [`runtime`] | the host's clock, tasks, CPU threads and randomness |
//! | [`storage`] | files and block devices as [`BlockDevice`](sectora_core::io::BlockDevice)s, locks, targets |
//!
//! Invariants: no format logic here; formats and whole-image operations live in `sectora-core`.

#![warn(missing_docs)]

pub mod cli;
pub mod export;
pub mod protocol;
pub mod runtime;
pub mod storage;
