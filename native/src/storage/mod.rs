//! Files and block devices of the host as [`BlockDevice`](sectora_core::io::BlockDevice)s.
//!
//! | what | |
//! | --- | --- |
//! | [`FileDevice`] | an open file; reads, writes and flushes by io_uring or threads ([`Aio`]) |
//! | [`FileOptions`] | how it is opened: access, cache, creation, locking |
//! | [`FileOpener`] | opens by name, for the engine ([`Opener`](sectora_core::io::Opener)) |
//! | [`FileLayout`] | what a file system is asked for when a file is made |
//! | [`Locking`] | locks that QEMU understands |
//! | [`Target`] | a new file that appears under its name only when it is complete |
//! | [`SequentialSink`] | a pipe or terminal, written in order |
//! | [`OsError`], [`os_error`] | what the operating system said |
//!
//! Inside: `handle` is one open file and its system calls, `settle` the life of an operation whose
//! future is dropped, `uring` and `threads` run operations, `buffer` is the memory they read into.
//!
//! Invariants: whatever the kernel may still look at is owned by the operation, not by its future;
//! `unsafe` is in `uring` (and the `ioctl`s of `handle` and `layout`) alone; nothing here knows image formats.

mod buffer;
pub(crate) mod error;
mod file;
mod handle;
mod layout;
mod lock;
mod opener;
mod raw;
pub(crate) mod settle;
mod sink;
pub(crate) mod solo;
mod target;
mod threads;
mod uring;
mod work;

pub use error::{OsError, is_broken_pipe, os_error};
pub use file::{Aio, Create, FileDevice, FileOptions};
pub(crate) use file::{FORCE_SHARE, fdset_number};
pub use layout::FileLayout;
pub use lock::Locking;
pub use opener::FileOpener;
pub(crate) use opener::{check_kind, is_device};
pub use sink::SequentialSink;
pub(crate) use solo::let_thread_wait;
pub use target::{Target, TargetOptions};
