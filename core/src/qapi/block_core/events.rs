//! Events.

use crate::qapi::schema::Natural;
use crate::qapi::tables::Event;
use crate::qapi::{IoOperationType, JobType};
use alloc::string::String;
use sectora_derive::qapi;

/// What was done about an error.
#[qapi]
pub enum BlockErrorAction {
    /// Nothing.
    Ignore,
    /// It was reported to the guest.
    Report,
    /// The machine or the job was stopped.
    Stop,
}

/// The request of a quorum that failed.
#[qapi]
pub enum QuorumOpType {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Flushes.
    Flush,
}

/// `BLOCK_IMAGE_CORRUPTED`: an image breaks its format's rules.
#[qapi]
pub struct BlockImageCorrupted {
    /// The node or device.
    pub device: String,
    /// The name of the node.
    pub node_name: Option<String>,
    /// What is wrong.
    pub msg: String,
    /// Where, in bytes.
    pub offset: Option<Natural>,
    /// How many bytes.
    pub size: Option<Natural>,
    /// Whether it is marked as damaged and no longer used.
    pub fatal: bool,
}

/// `BLOCK_IO_ERROR`: a request failed.
#[qapi]
pub struct BlockIoError {
    /// The guest's device.
    pub qom_path: String,
    /// The node or device.
    pub device: String,
    /// The name of the node.
    pub node_name: Option<String>,
    /// The direction of the request.
    pub operation: IoOperationType,
    /// What was done about it.
    pub action: BlockErrorAction,
    /// Whether for lack of space.
    pub nospace: Option<bool>,
    /// Why.
    pub reason: String,
}

/// `BLOCK_JOB_COMPLETED`: a block job is over.
#[qapi]
pub struct BlockJobCompleted {
    /// Its kind.
    pub r#type: JobType,
    /// The job.
    pub device: String,
    /// Where it ends; the unit is the job's.
    pub len: Natural,
    /// How far it is.
    pub offset: Natural,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Natural,
    /// Why it failed.
    pub error: Option<String>,
}

/// `BLOCK_JOB_CANCELLED`: it was ended before.
#[qapi]
pub struct BlockJobCancelled {
    /// Its kind.
    pub r#type: JobType,
    /// The job.
    pub device: String,
    /// Where it ends; the unit is the job's.
    pub len: Natural,
    /// How far it is.
    pub offset: Natural,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Natural,
}

/// `BLOCK_JOB_ERROR`: one of its requests failed.
#[qapi]
pub struct BlockJobError {
    /// The job.
    pub device: String,
    /// The direction of the request.
    pub operation: IoOperationType,
    /// What was done about it.
    pub action: BlockErrorAction,
}

/// `BLOCK_JOB_READY`: it can be completed.
#[qapi]
pub struct BlockJobReady {
    /// Its kind.
    pub r#type: JobType,
    /// The job.
    pub device: String,
    /// Where it ends; the unit is the job's.
    pub len: Natural,
    /// How far it is.
    pub offset: Natural,
    /// Bytes a second at most; 0 is no limit.
    pub speed: Natural,
}

/// `BLOCK_JOB_PENDING`: it waits to be finalized.
#[qapi]
pub struct BlockJobPending {
    /// Its kind.
    pub r#type: JobType,
    /// Its name.
    pub id: String,
}

/// `BLOCK_WRITE_THRESHOLD`: a write went above the offset.
#[qapi]
pub struct BlockWriteThreshold {
    /// The name of the node.
    pub node_name: String,
    /// By how many bytes.
    pub amount_exceeded: u64,
    /// The offset.
    pub write_threshold: u64,
}

/// `QUORUM_FAILURE`: copies could not agree.
#[qapi]
pub struct QuorumFailure {
    /// The quorum.
    pub reference: String,
    /// The first sector.
    pub sector_num: Natural,
    /// How many sectors.
    pub sectors_count: Natural,
}

/// `QUORUM_REPORT_BAD`: a copy failed or lost a vote.
#[qapi]
pub struct QuorumReportBad {
    /// The kind of request.
    pub r#type: QuorumOpType,
    /// Why it failed.
    pub error: Option<String>,
    /// The copy.
    pub node_name: String,
    /// The first sector.
    pub sector_num: Natural,
    /// How many sectors.
    pub sectors_count: Natural,
}

/// The events of `block-core.json`.
pub(crate) static EVENTS: &[Event] = &[
    Event::new("BLOCK_IMAGE_CORRUPTED").has::<BlockImageCorrupted>(),
    Event::new("BLOCK_IO_ERROR").has::<BlockIoError>(),
    Event::new("BLOCK_JOB_COMPLETED").has::<BlockJobCompleted>(),
    Event::new("BLOCK_JOB_CANCELLED").has::<BlockJobCancelled>(),
    Event::new("BLOCK_JOB_ERROR").has::<BlockJobError>(),
    Event::new("BLOCK_JOB_READY").has::<BlockJobReady>(),
    Event::new("BLOCK_JOB_PENDING").has::<BlockJobPending>(),
    Event::new("BLOCK_WRITE_THRESHOLD").has::<BlockWriteThreshold>(),
    Event::new("QUORUM_FAILURE").has::<QuorumFailure>(),
    Event::new("QUORUM_REPORT_BAD").has::<QuorumReportBad>(),
];
