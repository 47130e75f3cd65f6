//! `job.json`: what all jobs have in common.

use crate::qapi::schema::Natural;
use crate::qapi::tables::{Command, Event};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// A kind of job.
#[qapi]
pub enum JobType {
    /// Writes an image into one below.
    Commit,
    /// Reads the images below into one.
    Stream,
    /// Copies, and keeps the copy like the original.
    Mirror,
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

/// The state of a job.
#[qapi]
pub enum JobStatus {
    /// None yet.
    Undefined,
    /// It is there.
    Created,
    /// It works.
    Running,
    /// It stands still.
    Paused,
    /// It can be completed.
    Ready,
    /// It could, and stands still.
    Standby,
    /// It waits for others of its transaction.
    Waiting,
    /// It waits to be finalized.
    Pending,
    /// It undoes what it did.
    Aborting,
    /// It is over.
    Concluded,
    /// It is gone.
    Null,
}

/// What can be asked of a job.
#[qapi]
pub enum JobVerb {
    /// To end.
    Cancel,
    /// To stand still.
    Pause,
    /// To go on.
    Resume,
    /// To keep to a speed.
    SetSpeed,
    /// To come to its end.
    Complete,
    /// To be forgotten.
    Dismiss,
    /// To make its changes.
    Finalize,
    /// To work in another way.
    Change,
}

/// A job.
#[qapi]
pub struct JobInfo {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub r#type: JobType,
    /// Its state.
    pub status: JobStatus,
    /// How far it is; the unit is its own.
    pub current_progress: Natural,
    /// Where it will be at the end.
    pub total_progress: Natural,
    /// Why it failed.
    pub error: Option<String>,
}

/// `job-pause`: a job stands still.
#[qapi]
pub struct JobPause {
    /// Its name.
    pub id: String,
}

/// `job-resume`: it goes on.
#[qapi]
pub struct JobResume {
    /// Its name.
    pub id: String,
}

/// `job-cancel`: it ends.
#[qapi]
pub struct JobCancel {
    /// Its name.
    pub id: String,
}

/// `job-complete`: it comes to its end.
#[qapi]
pub struct JobComplete {
    /// Its name.
    pub id: String,
}

/// `job-dismiss`: it is forgotten.
#[qapi]
pub struct JobDismiss {
    /// Its name.
    pub id: String,
}

/// `job-finalize`: it makes its changes.
#[qapi]
pub struct JobFinalize {
    /// Its name.
    pub id: String,
}

/// `JOB_STATUS_CHANGE`: a job has another state.
#[qapi]
pub struct JobStatusChange {
    /// Its name.
    pub id: String,
    /// Its state.
    pub status: JobStatus,
}

/// The commands of `job.json`.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("job-pause").takes::<JobPause>(),
    Command::new("job-resume").takes::<JobResume>(),
    Command::new("job-cancel").takes::<JobCancel>(),
    Command::new("job-complete").takes::<JobComplete>(),
    Command::new("job-dismiss").takes::<JobDismiss>(),
    Command::new("job-finalize").takes::<JobFinalize>(),
    Command::new("query-jobs").gives::<Vec<JobInfo>>(),
];

/// The events of `job.json`.
pub(crate) static EVENTS: &[Event] = &[Event::new("JOB_STATUS_CHANGE").has::<JobStatusChange>()];
