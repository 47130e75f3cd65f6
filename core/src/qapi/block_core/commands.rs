//! The commands, and the arguments of those that have no type of the schema.

use crate::qapi::tables::Command;
use crate::qapi::{
    BlockDeviceInfo, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge,
    BlockDirtyBitmapSha256, BlockInfo, BlockJobChangeOptions, BlockJobInfo, BlockStats,
    BlockdevAmendOptions, BlockdevBackup, BlockdevCreateOptions, BlockdevOnError, BlockdevOptions,
    BlockdevSnapshot, BlockdevSnapshotInternal, BlockdevSnapshotSync, DriveBackup, DriveMirror,
    MirrorCopyMode, MirrorSyncMode, SnapshotInfo, StrOrNull, XDbgBlockGraph,
};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// `query-blockstats`: what devices or nodes have done.
#[qapi]
#[derive(Default)]
pub struct QueryBlockstats {
    /// All nodes, not only devices.
    pub query_nodes: Option<bool>,
}

/// `block_resize`: changes the length of a node.
#[qapi]
pub struct BlockResize {
    /// The node or device.
    pub device: Option<String>,
    /// The name of the node.
    pub node_name: Option<String>,
    /// The length in bytes.
    pub size: i64,
}

/// `change-backing-file`: what an image says of its backing file.
#[qapi]
pub struct ChangeBackingFile {
    /// The device or top of the chain.
    pub device: String,
    /// The node of the image.
    pub image_node_name: String,
    /// The name that the image gets for its backing file.
    pub backing_file: String,
}

/// `block-commit`: writes an image into one below.
#[qapi]
pub struct BlockCommit {
    /// The name of the job.
    pub job_id: Option<String>,
    /// The node or device.
    pub device: String,
    /// The node that is written into; else the lowest.
    pub base_node: Option<String>,
    /// The file that is written into.
    #[qapi(deprecated)]
    pub base: Option<String>,
    /// The node that is written; else the topmost.
    pub top_node: Option<String>,
    /// The file that is written.
    #[qapi(deprecated)]
    pub top: Option<String>,
    /// The name that the image gets for its backing file.
    pub backing_file: Option<String>,
    /// Whether names of protocols are left out of that name.
    pub backing_mask_protocol: Option<bool>,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Option<i64>,
    /// What an error leads to.
    pub on_error: Option<BlockdevOnError>,
    /// The name of the filter that the job puts in.
    pub filter_node_name: Option<String>,
    /// Whether the job makes its changes without being told to.
    pub auto_finalize: Option<bool>,
    /// Whether the job is gone when it is over.
    pub auto_dismiss: Option<bool>,
}

/// `query-named-block-nodes`: all nodes.
#[qapi]
#[derive(Default)]
pub struct QueryNamedBlockNodes {
    /// Whether backing images are left out of what is told of an image.
    pub flat: Option<bool>,
}

/// `blockdev-mirror`: copies, and keeps the copy like the original.
#[qapi]
pub struct BlockdevMirror {
    /// The name of the job.
    pub job_id: Option<String>,
    /// The node or device.
    pub device: String,
    /// Where it goes.
    pub target: String,
    /// The node that the target takes the place of.
    pub replaces: Option<String>,
    /// What is copied.
    pub sync: MirrorSyncMode,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Option<i64>,
    /// Bytes that a bit stands for.
    pub granularity: Option<u32>,
    /// Bytes in flight at most.
    pub buf_size: Option<i64>,
    /// What an error of the source leads to.
    pub on_source_error: Option<BlockdevOnError>,
    /// What an error of the target leads to.
    pub on_target_error: Option<BlockdevOnError>,
    /// The name of the filter that the job puts in.
    pub filter_node_name: Option<String>,
    /// Whether writes go to both at once.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Whether the job makes its changes without being told to.
    pub auto_finalize: Option<bool>,
    /// Whether the job is gone when it is over.
    pub auto_dismiss: Option<bool>,
    /// Whether the target reads as zeroes already.
    pub target_is_zero: Option<bool>,
}

/// `block-stream`: reads the images below into one.
#[qapi]
pub struct BlockStream {
    /// The name of the job.
    pub job_id: Option<String>,
    /// The node or device.
    pub device: String,
    /// The file below which nothing is read.
    pub base: Option<String>,
    /// The node below which nothing is read.
    pub base_node: Option<String>,
    /// The name that the image gets for its backing file.
    pub backing_file: Option<String>,
    /// Whether names of protocols are left out of that name.
    pub backing_mask_protocol: Option<bool>,
    /// The last node that is read.
    pub bottom: Option<String>,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Option<i64>,
    /// What an error leads to.
    pub on_error: Option<BlockdevOnError>,
    /// The name of the filter that the job puts in.
    pub filter_node_name: Option<String>,
    /// Whether the job makes its changes without being told to.
    pub auto_finalize: Option<bool>,
    /// Whether the job is gone when it is over.
    pub auto_dismiss: Option<bool>,
}

/// `block-job-set-speed`: how fast a block job may be.
#[qapi]
pub struct BlockJobSetSpeed {
    /// The job.
    pub device: String,
    /// Bytes a second at most; 0 is no limit.
    pub speed: i64,
}

/// `block-job-cancel`: ends a block job.
#[qapi]
pub struct BlockJobCancel {
    /// The job.
    pub device: String,
    /// Whether a mirror that is ready is broken off.
    pub force: Option<bool>,
}

/// `block-job-pause`: a block job stands still.
#[qapi]
pub struct BlockJobPause {
    /// The job.
    pub device: String,
}

/// `block-job-resume`: it goes on.
#[qapi]
pub struct BlockJobResume {
    /// The job.
    pub device: String,
}

/// `block-job-complete`: it comes to its end.
#[qapi]
pub struct BlockJobComplete {
    /// The job.
    pub device: String,
}

/// `block-job-dismiss`: it is forgotten.
#[qapi]
pub struct BlockJobDismiss {
    /// The job.
    pub id: String,
}

/// `block-job-finalize`: it makes its changes.
#[qapi]
pub struct BlockJobFinalize {
    /// The job.
    pub id: String,
}

/// `blockdev-reopen`: changes how nodes are open.
#[qapi]
pub struct BlockdevReopen {
    /// All options of each node.
    pub options: Vec<BlockdevOptions>,
}

/// `blockdev-del`: closes a node.
#[qapi]
pub struct BlockdevDel {
    /// The name of the node.
    pub node_name: String,
}

/// `blockdev-set-active`: takes nodes into use, or out of it.
#[qapi]
pub struct BlockdevSetActive {
    /// The node; else all.
    pub node_name: Option<String>,
    /// Whether it is in use.
    pub active: bool,
}

/// `blockdev-create`: makes an image.
#[qapi]
pub struct BlockdevCreate {
    /// The name of the job.
    pub job_id: String,
    /// How.
    pub options: BlockdevCreateOptions,
}

/// `x-blockdev-amend`: changes an image.
#[qapi]
pub struct XBlockdevAmend {
    /// The name of the job.
    pub job_id: String,
    /// The name of the node.
    pub node_name: String,
    /// What is changed.
    pub options: BlockdevAmendOptions,
    /// Whether keys may be lost.
    pub force: Option<bool>,
}

/// `block-set-write-threshold`: a write above an offset shall be told.
#[qapi]
pub struct BlockSetWriteThreshold {
    /// The name of the node.
    pub node_name: String,
    /// The offset; 0 is none.
    pub write_threshold: u64,
}

/// `x-blockdev-change`: changes what a quorum votes among.
#[qapi]
pub struct XBlockdevChange {
    /// The quorum.
    pub parent: String,
    /// The copy that goes.
    pub child: Option<String>,
    /// The node that comes.
    pub node: Option<String>,
}

/// `x-blockdev-set-iothread`: the thread of a node.
#[qapi]
pub struct XBlockdevSetIothread {
    /// The name of the node.
    pub node_name: String,
    /// The thread; null is the main one.
    pub iothread: StrOrNull,
    /// Whether also where somebody uses it.
    pub force: Option<bool>,
}

/// `blockdev-snapshot-delete-internal-sync`: deletes a snapshot inside an image.
#[qapi]
pub struct BlockdevSnapshotDeleteInternalSync {
    /// The node or device.
    pub device: String,
    /// The snapshot's number.
    pub id: Option<String>,
    /// The snapshot's name.
    pub name: Option<String>,
}

/// The commands of `block-core.json`.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("query-block").gives::<Vec<BlockInfo>>(),
    Command::new("query-blockstats").takes::<QueryBlockstats>().gives::<Vec<BlockStats>>(),
    Command::new("query-block-jobs").gives::<Vec<BlockJobInfo>>(),
    Command::new("block_resize").takes::<BlockResize>(),
    Command::new("blockdev-snapshot-sync").takes::<BlockdevSnapshotSync>(),
    Command::new("blockdev-snapshot")
        .takes::<BlockdevSnapshot>()
        .with(&["allow-write-only-overlay"]),
    Command::new("change-backing-file").takes::<ChangeBackingFile>(),
    Command::new("block-commit").takes::<BlockCommit>(),
    Command::new("drive-backup").takes::<DriveBackup>().with(&["deprecated"]),
    Command::new("blockdev-backup").takes::<BlockdevBackup>(),
    Command::new("query-named-block-nodes")
        .takes::<QueryNamedBlockNodes>()
        .gives::<Vec<BlockDeviceInfo>>(),
    Command::new("x-debug-query-block-graph").gives::<XDbgBlockGraph>().with(&["unstable"]),
    Command::new("drive-mirror").takes::<DriveMirror>(),
    Command::new("block-dirty-bitmap-add").takes::<BlockDirtyBitmapAdd>(),
    Command::new("block-dirty-bitmap-remove").takes::<BlockDirtyBitmap>(),
    Command::new("block-dirty-bitmap-clear").takes::<BlockDirtyBitmap>(),
    Command::new("block-dirty-bitmap-enable").takes::<BlockDirtyBitmap>(),
    Command::new("block-dirty-bitmap-disable").takes::<BlockDirtyBitmap>(),
    Command::new("block-dirty-bitmap-merge").takes::<BlockDirtyBitmapMerge>(),
    Command::new("x-debug-block-dirty-bitmap-sha256")
        .takes::<BlockDirtyBitmap>()
        .gives::<BlockDirtyBitmapSha256>()
        .with(&["unstable"]),
    Command::new("blockdev-mirror").takes::<BlockdevMirror>(),
    Command::new("block-stream").takes::<BlockStream>(),
    Command::new("block-job-set-speed").takes::<BlockJobSetSpeed>(),
    Command::new("block-job-cancel").takes::<BlockJobCancel>(),
    Command::new("block-job-pause").takes::<BlockJobPause>().with(&["deprecated"]),
    Command::new("block-job-resume").takes::<BlockJobResume>().with(&["deprecated"]),
    Command::new("block-job-complete").takes::<BlockJobComplete>().with(&["deprecated"]),
    Command::new("block-job-dismiss").takes::<BlockJobDismiss>().with(&["deprecated"]),
    Command::new("block-job-finalize").takes::<BlockJobFinalize>().with(&["deprecated"]),
    Command::new("block-job-change").takes::<BlockJobChangeOptions>(),
    Command::new("blockdev-add").takes::<BlockdevOptions>(),
    Command::new("blockdev-reopen").takes::<BlockdevReopen>(),
    Command::new("blockdev-del").takes::<BlockdevDel>(),
    Command::new("blockdev-set-active").takes::<BlockdevSetActive>(),
    Command::new("blockdev-create").takes::<BlockdevCreate>(),
    Command::new("x-blockdev-amend").takes::<XBlockdevAmend>().with(&["unstable"]),
    Command::new("block-set-write-threshold").takes::<BlockSetWriteThreshold>(),
    Command::new("x-blockdev-change").takes::<XBlockdevChange>().with(&["unstable"]),
    Command::new("x-blockdev-set-iothread").takes::<XBlockdevSetIothread>().with(&["unstable"]),
    Command::new("blockdev-snapshot-internal-sync").takes::<BlockdevSnapshotInternal>(),
    Command::new("blockdev-snapshot-delete-internal-sync")
        .takes::<BlockdevSnapshotDeleteInternalSync>()
        .gives::<SnapshotInfo>(),
];
