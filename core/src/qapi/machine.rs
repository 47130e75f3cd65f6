//! The commands and events around named backends, which stand in for a guest's disks: those of the
//! reference's system emulator, learned from its `query-qmp-schema`. A storage daemon without such
//! backends has none of them.
//!
//! Those on replicated disks are its too. `device_add` takes what a disk needs; the emulator's own has the properties of every device.

use crate::qapi::BlockdevOnError;
use crate::qapi::tables::{Command, Event};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// Whether a machine runs, and why not.
#[qapi]
pub enum RunState {
    /// It is looked into.
    Debug,
    /// It waits for another to migrate from.
    Inmigrate,
    /// Something in it does not work.
    InternalError,
    /// A request failed that was to stop it.
    IoError,
    /// Somebody stopped it.
    Paused,
    /// It has migrated.
    Postmigrate,
    /// It has not begun.
    Prelaunch,
    /// It is about to have migrated.
    FinishMigrate,
    /// Its state is being read.
    RestoreVm,
    /// It runs.
    Running,
    /// Its state is being written.
    SaveVm,
    /// It was shut down.
    Shutdown,
    /// It sleeps.
    Suspended,
    /// Its watchdog stopped it.
    Watchdog,
    /// Its guest gave up.
    GuestPanicked,
    /// It is one of two.
    Colo,
}

/// Whether a machine runs.
#[qapi]
pub struct StatusInfo {
    /// It does.
    pub running: bool,
    /// What it does.
    pub status: RunState,
}

/// `human-monitor-command`: a command of the monitor for people.
#[qapi]
pub struct HumanMonitorCommand {
    /// The command and its arguments.
    pub command_line: String,
    /// The processor that it is about.
    pub cpu_index: Option<i64>,
}

/// `block-latency-histogram-set`: begins histograms anew.
#[qapi]
#[derive(Default)]
pub struct BlockLatencyHistogramSet {
    /// The backend.
    pub id: String,
    /// The inner borders of the intervals, in nanoseconds, for all kinds of requests.
    pub boundaries: Option<Vec<u64>>,
    /// For reads.
    pub boundaries_read: Option<Vec<u64>>,
    /// For writes.
    pub boundaries_write: Option<Vec<u64>>,
    /// For appends to zones.
    pub boundaries_zap: Option<Vec<u64>>,
    /// For flushes.
    pub boundaries_flush: Option<Vec<u64>>,
}

/// `device_add`: makes a named backend. In the order in which mistakes are told.
#[qapi]
pub struct DeviceAdd {
    /// Its name.
    pub id: String,
    /// The name of its node.
    pub node_name: String,
    /// What follows a read that fails.
    pub rerror: Option<BlockdevOnError>,
    /// What follows anything else that fails.
    pub werror: Option<BlockdevOnError>,
    /// Nothing is written through it.
    pub read_only: Option<bool>,
    /// Others may write to its node.
    pub share_rw: Option<bool>,
    /// Whether requests that could not be count for the idle time.
    pub account_invalid: Option<bool>,
    /// Whether requests that failed count for times.
    pub account_failed: Option<bool>,
    /// The lengths in seconds of intervals of which means are told.
    pub stats_intervals: Option<Vec<u32>>,
}

/// `device_del`: removes a named backend.
#[qapi]
pub struct DeviceDel {
    /// Its name.
    pub id: String,
}

/// `xen-set-replication`: starts and stops the replication of all disks.
#[qapi]
pub struct XenSetReplication {
    /// To start it.
    pub enable: bool,
    /// The machine is the primary one.
    pub primary: bool,
    /// The secondary machine takes over.
    pub failover: Option<bool>,
}

/// What is known of the replication of disks.
#[qapi]
pub struct ReplicationStatus {
    /// Something is wrong.
    pub error: bool,
    /// What is wrong.
    pub desc: Option<String>,
}

/// Why a machine ends.
#[qapi]
pub enum ShutdownCause {
    /// Nobody said.
    None,
    /// The host failed.
    HostError,
    /// `quit`.
    HostQmpQuit,
    /// `system_reset`.
    HostQmpSystemReset,
    /// A signal.
    HostSignal,
    /// A window was closed.
    HostUi,
    /// The guest ended.
    GuestShutdown,
    /// The guest began anew.
    GuestReset,
    /// The guest gave up.
    GuestPanic,
    /// A part began anew.
    SubsystemReset,
    /// A snapshot was loaded.
    SnapshotLoad,
}

/// `SHUTDOWN`: the machine ends.
#[qapi]
pub struct Shutdown {
    /// The guest wanted it.
    pub guest: bool,
    /// Why.
    pub reason: ShutdownCause,
}

/// `DEVICE_DELETED`: a device is gone.
#[qapi]
pub struct DeviceDeleted {
    /// Its name.
    pub device: Option<String>,
    /// Where it was.
    pub path: String,
}

/// The commands of a machine.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("stop"),
    Command::new("cont"),
    Command::new("query-status").gives::<StatusInfo>(),
    Command::new("human-monitor-command").takes::<HumanMonitorCommand>().gives::<String>(),
    Command::new("block-latency-histogram-set").takes::<BlockLatencyHistogramSet>(),
    Command::new("device_add").takes::<DeviceAdd>(),
    Command::new("device_del").takes::<DeviceDel>(),
    Command::new("xen-set-replication").takes::<XenSetReplication>(),
    Command::new("query-xen-replication-status").gives::<ReplicationStatus>(),
    Command::new("xen-colo-do-checkpoint"),
];

/// The events of a machine.
pub(crate) static EVENTS: &[Event] = &[
    Event::new("STOP"),
    Event::new("RESUME"),
    Event::new("SHUTDOWN").has::<Shutdown>(),
    Event::new("DEVICE_DELETED").has::<DeviceDeleted>(),
];
