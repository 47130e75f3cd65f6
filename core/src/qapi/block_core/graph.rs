//! Nodes and devices, and what they use of each other.

use crate::qapi::schema::Natural;
use crate::qapi::{BlockDirtyInfo, BlockdevDetectZeroesOptions, ImageInfo};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// What a user of a node may do, and what it lets others do.
#[qapi]
pub enum BlockPermission {
    /// Read, and trust what was read.
    ConsistentRead,
    /// Write.
    Write,
    /// Write what is there already.
    WriteUnchanged,
    /// Change the length.
    Resize,
}

/// What is in the graph.
#[qapi]
pub enum XDbgBlockGraphNodeType {
    /// A root that is no job.
    BlockBackend,
    /// A job.
    BlockJob,
    /// A node.
    BlockDriver,
}

/// Something in the graph.
#[qapi]
pub struct XDbgBlockGraphNode {
    /// Its name.
    pub id: u64,
    /// Which kind it is.
    pub r#type: XDbgBlockGraphNodeType,
    /// Its name.
    pub name: String,
}

/// One use of one node.
#[qapi]
pub struct XDbgBlockGraphEdge {
    /// Who uses.
    pub parent: u64,
    /// Who is used.
    pub child: u64,
    /// As what.
    pub name: String,
    /// What the user may do.
    pub perm: Vec<BlockPermission>,
    /// What it lets others do.
    pub shared_perm: Vec<BlockPermission>,
}

/// The graph.
#[qapi]
pub struct XDbgBlockGraph {
    /// Everything in it.
    pub nodes: Vec<XDbgBlockGraphNode>,
    /// Every use.
    pub edges: Vec<XDbgBlockGraphEdge>,
}

/// What is cached.
#[qapi]
#[derive(Default)]
pub struct BlockdevCacheInfo {
    /// Whether writes are done before they are stored.
    pub writeback: bool,
    /// Whether the host's cache is left out.
    pub direct: bool,
    /// Whether flushes are ignored; data may be lost.
    pub no_flush: bool,
}

/// What a node uses.
#[qapi]
pub struct BlockdevChild {
    /// As what.
    pub child: String,
    /// The node.
    pub node_name: String,
}

/// A node, and how it was opened.
#[qapi(snake)]
#[derive(Default)]
pub struct BlockDeviceInfo {
    /// The name of its file.
    pub file: String,
    /// The name of the node.
    #[qapi(name = "node-name")]
    pub node_name: Option<String>,
    /// Whether it can only be read.
    pub ro: bool,
    /// The driver.
    pub drv: String,
    /// The name of the backing file.
    pub backing_file: Option<String>,
    /// How many backing files there are below.
    pub backing_file_depth: Natural,
    /// What it uses.
    pub children: Vec<BlockdevChild>,
    /// Whether it can be used.
    pub active: bool,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// What becomes of zeroes that are written.
    pub detect_zeroes: BlockdevDetectZeroesOptions,
    /// Bytes a second, in both directions.
    pub bps: Natural,
    /// Bytes a second that are read.
    pub bps_rd: Natural,
    /// Bytes a second that are written.
    pub bps_wr: Natural,
    /// Requests a second.
    pub iops: Natural,
    /// Reads a second.
    pub iops_rd: Natural,
    /// Writes a second.
    pub iops_wr: Natural,
    /// What is told about the image.
    pub image: ImageInfo,
    /// Bytes a second in a burst.
    pub bps_max: Option<Natural>,
    /// Bytes a second that are read in a burst.
    pub bps_rd_max: Option<Natural>,
    /// Bytes a second that are written in a burst.
    pub bps_wr_max: Option<Natural>,
    /// Requests a second in a burst.
    pub iops_max: Option<Natural>,
    /// Reads a second in a burst.
    pub iops_rd_max: Option<Natural>,
    /// Writes a second in a burst.
    pub iops_wr_max: Option<Natural>,
    /// How long such a burst may last, in seconds.
    pub bps_max_length: Option<Natural>,
    /// The same for bytes that are read.
    pub bps_rd_max_length: Option<Natural>,
    /// The same for bytes that are written.
    pub bps_wr_max_length: Option<Natural>,
    /// The same for requests.
    pub iops_max_length: Option<Natural>,
    /// The same for reads.
    pub iops_rd_max_length: Option<Natural>,
    /// The same for writes.
    pub iops_wr_max_length: Option<Natural>,
    /// A longer request counts as several.
    pub iops_size: Option<Natural>,
    /// The group that limits it.
    pub group: Option<String>,
    /// What is cached.
    pub cache: BlockdevCacheInfo,
    /// A write above this offset is told; 0 is none.
    pub write_threshold: Natural,
    /// Its dirty bitmaps.
    #[qapi(name = "dirty-bitmaps")]
    pub dirty_bitmaps: Option<Vec<BlockDirtyInfo>>,
}

/// Whether requests go well.
#[qapi]
pub enum BlockDeviceIoStatus {
    /// They do.
    Ok,
    /// One failed.
    Failed,
    /// One failed for lack of space.
    Nospace,
}

/// A guest's drive.
#[qapi(snake)]
pub struct BlockInfo {
    /// Its name.
    pub device: String,
    /// The guest's device.
    pub qdev: Option<String>,
    /// Always `unknown`.
    pub r#type: String,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether the guest keeps it in.
    pub locked: bool,
    /// The medium.
    pub inserted: Option<BlockDeviceInfo>,
    /// Whether the tray is open.
    pub tray_open: Option<bool>,
    /// Whether requests go well.
    #[qapi(name = "io-status")]
    pub io_status: Option<BlockDeviceIoStatus>,
}
