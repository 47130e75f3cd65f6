//! `block-export.json`: what is served to others.

use crate::qapi::schema::Size;
use crate::qapi::tables::{Command, Event};
use crate::qapi::{BlockDirtyBitmapOrStr, SocketAddress, SocketAddressLegacy};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// What all NBD servers have.
#[qapi]
#[derive(Default)]
pub struct NbdServerOptionsBase {
    /// Seconds that a handshake may take; 0 is any time.
    pub handshake_max_seconds: Option<u32>,
    /// The credentials object.
    pub tls_creds: Option<String>,
    /// The object that decides who may connect.
    pub tls_authz: Option<String>,
    /// Clients at a time; 0 is any number.
    pub max_connections: Option<u32>,
}

/// An NBD server.
#[qapi]
pub struct NbdServerOptions {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: NbdServerOptionsBase,
    /// The address.
    pub addr: SocketAddress,
}

/// An NBD server, its address in the older form.
#[qapi]
pub struct NbdServerOptionsLegacy {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: NbdServerOptionsBase,
    /// The address.
    pub addr: SocketAddressLegacy,
}

/// What all NBD exports have.
#[qapi]
#[derive(Default)]
pub struct BlockExportOptionsNbdBase {
    /// The name of the export.
    pub name: Option<String>,
    /// A text that clients can read.
    pub description: Option<String>,
}

/// An NBD export.
#[qapi]
#[derive(Default)]
pub struct BlockExportOptionsNbd {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockExportOptionsNbdBase,
    /// Bitmaps that clients can read.
    pub bitmaps: Option<Vec<BlockDirtyBitmapOrStr>>,
    /// Whether clients can ask how deep data lie.
    pub allocation_depth: Option<bool>,
}

/// A device for another program.
#[qapi]
pub struct BlockExportOptionsVhostUserBlk {
    /// The address.
    pub addr: SocketAddress,
    /// The length of its sectors in bytes.
    pub logical_block_size: Option<Size>,
    /// How many queues it has.
    pub num_queues: Option<u16>,
}

/// Whether other users see a file.
#[qapi]
pub enum FuseExportAllowOther {
    /// No.
    Off,
    /// Yes.
    On,
    /// If the system lets it.
    Auto,
}

/// A file.
#[qapi(cond = "CONFIG_FUSE")]
pub struct BlockExportOptionsFuse {
    /// The file that it covers.
    pub mountpoint: String,
    /// Whether writes behind the end make it longer.
    pub growable: Option<bool>,
    /// Whether other users see it.
    pub allow_other: Option<FuseExportAllowOther>,
}

/// A device of the host.
#[qapi]
pub struct BlockExportOptionsVduseBlk {
    /// The name of the device.
    pub name: String,
    /// How many queues it has.
    pub num_queues: Option<u16>,
    /// Requests of a queue.
    pub queue_size: Option<u16>,
    /// The length of its sectors in bytes.
    pub logical_block_size: Option<Size>,
    /// The serial number.
    pub serial: Option<String>,
}

/// An NBD export, in the older form.
#[qapi]
pub struct NbdServerAddOptions {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: BlockExportOptionsNbdBase,
    /// The device or node.
    pub device: String,
    /// Whether clients can write.
    pub writable: Option<bool>,
    /// A bitmap that clients can read.
    pub bitmap: Option<String>,
}

/// How an export ends.
#[qapi]
pub enum BlockExportRemoveMode {
    /// Only if no client is connected.
    Safe,
    /// Clients are disconnected.
    Hard,
}

/// A kind of export.
#[qapi]
pub enum BlockExportType {
    /// NBD.
    Nbd,
    /// A device for another program.
    #[qapi(cond = "CONFIG_VHOST_USER_BLK_SERVER")]
    VhostUserBlk,
    /// A file.
    #[qapi(cond = "CONFIG_FUSE")]
    Fuse,
    /// A device of the host.
    #[qapi(cond = "CONFIG_VDUSE_BLK_EXPORT")]
    VduseBlk,
}

/// An export.
#[qapi]
pub struct BlockExportOptions {
    /// The type, and what goes with it.
    #[qapi(branches)]
    pub r#type: BlockExportOptionsBranch,
    /// Its name.
    pub id: String,
    /// Whether it must stay in its thread.
    pub fixed_iothread: Option<bool>,
    /// The thread that serves it.
    pub iothread: Option<String>,
    /// The node.
    pub node_name: String,
    /// Whether clients can write.
    pub writable: Option<bool>,
    /// Whether every write is followed by a flush.
    pub writethrough: Option<bool>,
    /// Whether the node may be out of use.
    pub allow_inactive: Option<bool>,
}

/// What goes with each `type` of [`BlockExportOptions`].
#[qapi(tag = "type", by = BlockExportType)]
pub enum BlockExportOptionsBranch {
    /// NBD.
    Nbd(BlockExportOptionsNbd),
    /// A device for another program.
    #[qapi(cond = "CONFIG_VHOST_USER_BLK_SERVER")]
    VhostUserBlk(BlockExportOptionsVhostUserBlk),
    /// A file.
    #[qapi(cond = "CONFIG_FUSE")]
    Fuse(BlockExportOptionsFuse),
    /// A device of the host.
    #[qapi(cond = "CONFIG_VDUSE_BLK_EXPORT")]
    VduseBlk(BlockExportOptionsVduseBlk),
}

/// An export.
#[qapi]
pub struct BlockExportInfo {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub r#type: BlockExportType,
    /// Its node.
    pub node_name: String,
    /// Whether it is about to end.
    pub shutting_down: bool,
}

/// `nbd-server-remove`: an NBD export ends.
#[qapi]
pub struct NbdServerRemove {
    /// Its name.
    pub name: String,
    /// How.
    pub mode: Option<BlockExportRemoveMode>,
}

/// `block-export-del`: an export ends.
#[qapi]
pub struct BlockExportDel {
    /// Its name.
    pub id: String,
    /// How.
    pub mode: Option<BlockExportRemoveMode>,
}

/// `BLOCK_EXPORT_DELETED`: an export has ended.
#[qapi]
pub struct BlockExportDeleted {
    /// Its name.
    pub id: String,
}

/// The commands of `block-export.json`.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("nbd-server-start").takes::<NbdServerOptionsLegacy>(),
    Command::new("nbd-server-add").takes::<NbdServerAddOptions>().with(&["deprecated"]),
    Command::new("nbd-server-remove").takes::<NbdServerRemove>().with(&["deprecated"]),
    Command::new("nbd-server-stop"),
    Command::new("block-export-add").takes::<BlockExportOptions>(),
    Command::new("block-export-del").takes::<BlockExportDel>(),
    Command::new("query-block-exports").gives::<Vec<BlockExportInfo>>(),
];

/// The events of `block-export.json`.
pub(crate) static EVENTS: &[Event] =
    &[Event::new("BLOCK_EXPORT_DELETED").has::<BlockExportDeleted>()];
