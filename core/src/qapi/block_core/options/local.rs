//! Options of files and devices of the host.

use crate::qapi::OnOffAuto;
use alloc::string::String;
use sectora_derive::qapi;

/// How a file is read and written.
#[qapi]
pub enum BlockdevAioOptions {
    /// By threads.
    Threads,
    /// By Linux' older asynchronous calls.
    Native,
    /// By io_uring.
    #[qapi(name = "io_uring", cond = "CONFIG_LINUX_IO_URING")]
    IoUring,
}

/// A file, block device or drive of the host.
#[qapi(features = "dynamic-auto-read-only")]
pub struct BlockdevOptionsFile {
    /// The path of the file.
    pub filename: String,
    /// The object that handles persistent reservations.
    pub pr_manager: Option<String>,
    /// Whether the file is locked against other programs.
    pub locking: Option<OnOffAuto>,
    /// How it is read and written.
    pub aio: Option<BlockdevAioOptions>,
    /// Requests that are handed to the system at a time; 0 is the default.
    pub aio_max_batch: Option<i64>,
    /// Whether cached pages are given up when a machine moves here.
    #[qapi(cond = "CONFIG_LINUX")]
    pub drop_cache: Option<bool>,
    /// Whether that is checked.
    #[qapi(unstable)]
    pub x_check_cache_dropped: Option<bool>,
}

/// A disk that forgets what is written.
#[qapi]
#[derive(Default)]
pub struct BlockdevOptionsNull {
    /// The length in bytes.
    pub size: Option<i64>,
    /// How long a request takes, in nanoseconds.
    pub latency_ns: Option<u64>,
    /// Whether reads give zeroes; else what is in the buffer stays.
    pub read_zeroes: Option<bool>,
}

/// An NVMe device.
#[qapi]
pub struct BlockdevOptionsNVMe {
    /// Its PCI address.
    pub device: String,
    /// The number of the namespace, from 1.
    pub namespace: i64,
}

/// A file by io_uring.
#[qapi(cond = "CONFIG_BLKIO")]
pub struct BlockdevOptionsIoUring {
    /// The path of the file.
    pub filename: String,
}

/// An NVMe device by io_uring.
#[qapi(cond = "CONFIG_BLKIO")]
pub struct BlockdevOptionsNvmeIoUring {
    /// The path.
    pub path: String,
}

/// A virtio device by VFIO.
#[qapi(cond = "CONFIG_BLKIO")]
pub struct BlockdevOptionsVirtioBlkVfioPci {
    /// The path.
    pub path: String,
}

/// A virtio device of another program.
#[qapi(cond = "CONFIG_BLKIO")]
pub struct BlockdevOptionsVirtioBlkVhostUser {
    /// The path.
    pub path: String,
}

/// A virtio device by vDPA.
#[qapi(cond = "CONFIG_BLKIO", features = "fdset")]
pub struct BlockdevOptionsVirtioBlkVhostVdpa {
    /// The path.
    pub path: String,
}
