//! Block jobs and snapshots.

use crate::qapi::schema::{Natural, Size};
use crate::qapi::{
    BlockDeviceIoStatus, BlockGraphInfo, BlockdevQcow2EncryptionFormat, JobStatus, JobType,
    OnCbwError,
};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// What all encrypted qcow2 images have.
#[qapi]
pub struct ImageInfoSpecificQCow2EncryptionBase {
    /// The format of the encryption.
    pub format: BlockdevQcow2EncryptionFormat,
}

/// What an error leads to.
#[qapi]
pub enum BlockdevOnError {
    /// The request fails, or the job.
    Report,
    /// The job goes on and ends as failed.
    Ignore,
    /// The machine stops for lack of space; other errors are reported.
    Enospc,
    /// The machine or the job stops.
    Stop,
    /// What the device's own setting is.
    Auto,
}

/// What is copied.
#[qapi]
pub enum MirrorSyncMode {
    /// What the topmost image has.
    Top,
    /// All.
    Full,
    /// Only what is written from now on.
    None,
    /// What a bitmap has, which is then cleared.
    Incremental,
    /// What a bitmap has.
    Bitmap,
}

/// When a bitmap is brought up to date.
#[qapi]
pub enum BitmapSyncMode {
    /// When the job has succeeded.
    OnSuccess,
    /// Never.
    Never,
    /// When the job is over, however it ended.
    Always,
}

/// When a mirror copies what is written.
#[qapi]
pub enum MirrorCopyMode {
    /// Later.
    Background,
    /// At once, and the write waits for it.
    WriteBlocking,
}

/// What is told of a mirror besides.
#[qapi]
pub struct BlockJobInfoMirror {
    /// Whether the target is like the source and stays so.
    pub actively_synced: bool,
}

/// A block job.
#[qapi]
pub struct BlockJobInfo {
    /// The type, and what goes with it.
    #[qapi(branches)]
    pub r#type: BlockJobInfoBranch,
    /// Its name.
    pub device: String,
    /// Where it ends; the unit is the job's.
    pub len: Natural,
    /// How far it is.
    pub offset: Natural,
    /// Whether it is at work.
    pub busy: bool,
    /// Whether it stands still or shall.
    pub paused: bool,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Natural,
    /// Whether requests go well.
    pub io_status: BlockDeviceIoStatus,
    /// Whether it can be completed.
    pub ready: bool,
    /// Its state.
    pub status: JobStatus,
    /// Whether the job makes its changes without being told to.
    pub auto_finalize: bool,
    /// Whether the job is gone when it is over.
    pub auto_dismiss: bool,
    /// Why it failed.
    pub error: Option<String>,
}

/// What goes with each `type` of [`BlockJobInfo`].
#[qapi(tag = "type", by = JobType)]
pub enum BlockJobInfoBranch {
    /// Writes an image into one below.
    Commit,
    /// Reads the images below into one.
    Stream,
    /// Copies, and keeps the copy like the original.
    Mirror(BlockJobInfoMirror),
    /// Copies what was there when it began.
    Backup,
    /// Makes an image.
    Create,
    /// Changes an image.
    Amend,
    /// Goes back to a machine's snapshot.
    SnapshotLoad,
    /// Takes a machine's snapshot.
    SnapshotSave,
    /// Deletes one.
    SnapshotDelete,
}

/// Whether an image is made.
#[qapi]
pub enum NewImageMode {
    /// It is there.
    Existing,
    /// It is made.
    AbsolutePaths,
}

/// A new image on top of a node.
#[qapi]
pub struct BlockdevSnapshotSync {
    /// The node or device.
    pub device: Option<String>,
    /// The name of the node.
    pub node_name: Option<String>,
    /// The file of the new image.
    pub snapshot_file: String,
    /// The name of its node.
    pub snapshot_node_name: Option<String>,
    /// Its format.
    pub format: Option<String>,
    /// Whether it is made.
    pub mode: Option<NewImageMode>,
}

/// A node on top of another.
#[qapi]
pub struct BlockdevSnapshot {
    /// The node.
    pub node: String,
    /// The node that comes on top.
    pub overlay: String,
}

/// How a backup works.
#[qapi]
#[derive(Default)]
pub struct BackupPerf {
    /// Whether the host may copy by itself.
    pub use_copy_range: Option<bool>,
    /// Requests in flight at most.
    pub max_workers: Option<i64>,
    /// Bytes of a request at most; 0 is no limit.
    pub max_chunk: Option<i64>,
    /// The least unit of copying, in bytes.
    pub min_cluster_size: Option<Size>,
}

/// What all backups have.
#[qapi]
pub struct BackupCommon {
    /// The name of the job.
    pub job_id: Option<String>,
    /// The node or device.
    pub device: String,
    /// What is copied.
    pub sync: MirrorSyncMode,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Option<i64>,
    /// The bitmap.
    pub bitmap: Option<String>,
    /// What becomes of the bitmap.
    pub bitmap_mode: Option<BitmapSyncMode>,
    /// Whether the target is compressed.
    pub compress: Option<bool>,
    /// What an error of the source leads to.
    pub on_source_error: Option<BlockdevOnError>,
    /// What an error of the target leads to.
    pub on_target_error: Option<BlockdevOnError>,
    /// What it leads to when old data cannot be saved.
    pub on_cbw_error: Option<OnCbwError>,
    /// Whether the job makes its changes without being told to.
    pub auto_finalize: Option<bool>,
    /// Whether the job is gone when it is over.
    pub auto_dismiss: Option<bool>,
    /// The name of the filter that the job puts in.
    pub filter_node_name: Option<String>,
    /// Whether what has been copied is given up.
    pub discard_source: Option<bool>,
    /// How it works.
    #[qapi(unstable)]
    pub x_perf: Option<BackupPerf>,
}

/// A backup into a file.
#[qapi]
pub struct DriveBackup {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BackupCommon,
    /// Where it goes.
    pub target: String,
    /// Its format.
    pub format: Option<String>,
    /// Whether it is made.
    pub mode: Option<NewImageMode>,
}

/// A backup into a node.
#[qapi]
pub struct BlockdevBackup {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BackupCommon,
    /// Where it goes.
    pub target: String,
}

/// A mirror into a file.
#[qapi]
pub struct DriveMirror {
    /// The name of the job.
    pub job_id: Option<String>,
    /// The node or device.
    pub device: String,
    /// Where it goes.
    pub target: String,
    /// The format.
    pub format: Option<String>,
    /// The name of the target's node.
    pub node_name: Option<String>,
    /// The node that the target takes the place of.
    pub replaces: Option<String>,
    /// What is copied.
    pub sync: MirrorSyncMode,
    /// Whether the file is made.
    pub mode: Option<NewImageMode>,
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
    /// Whether zeroes may be unallocated in the target.
    pub unmap: Option<bool>,
    /// Whether writes go to both at once.
    pub copy_mode: Option<MirrorCopyMode>,
    /// Whether the job makes its changes without being told to.
    pub auto_finalize: Option<bool>,
    /// Whether the job is gone when it is over.
    pub auto_dismiss: Option<bool>,
}

/// What can be changed of a mirror.
#[qapi]
pub struct BlockJobChangeOptionsMirror {
    /// Whether writes go to both at once.
    pub copy_mode: MirrorCopyMode,
}

/// A change of a job at work.
#[qapi]
pub struct BlockJobChangeOptions {
    /// The job.
    pub id: String,
    /// The type, and what goes with it.
    #[qapi(branches)]
    pub r#type: BlockJobChangeOptionsBranch,
}

/// What goes with each `type` of [`BlockJobChangeOptions`].
#[qapi(tag = "type", by = JobType)]
pub enum BlockJobChangeOptionsBranch {
    /// Writes an image into one below.
    Commit,
    /// Reads the images below into one.
    Stream,
    /// Copies, and keeps the copy like the original.
    Mirror(BlockJobChangeOptionsMirror),
    /// Copies what was there when it began.
    Backup,
    /// Makes an image.
    Create,
    /// Changes an image.
    Amend,
    /// Goes back to a machine's snapshot.
    SnapshotLoad,
    /// Takes a machine's snapshot.
    SnapshotSave,
    /// Deletes one.
    SnapshotDelete,
}

/// A snapshot inside an image.
#[qapi]
pub struct BlockdevSnapshotInternal {
    /// The node or device.
    pub device: String,
    /// The snapshot's name.
    pub name: String,
}

/// Never on the wire: the reference's generator needs it.
#[qapi]
pub struct DummyBlockCoreForceArrays {
    /// Nothing.
    pub unused_block_graph_info: Vec<BlockGraphInfo>,
}
