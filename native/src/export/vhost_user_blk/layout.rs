//! Numbers of the vhost-user protocol and of virtio's block device. Sources: "Vhost-user Protocol"
//! of QEMU's interoperability documents; Virtual I/O Device (VIRTIO) 1.2, sections 2.7 and 5.2.

use bitflags::bitflags;

/// A sector of virtio, whatever the device's own are.
pub(super) const SECTOR: u64 = 512;

/// The longest queue.
pub(super) const MAX_QUEUE_SIZE: u16 = 1024;

/// The most queues that a device may have, of those that the schema's number can name.
pub(super) const MAX_QUEUES: u16 = 1024;

/// Parts of a transfer (`seg_max`): a queue of 128 less header and status.
const SEG_MAX: u32 = 128 - 2;

/// The longest discard or zero write, in sectors.
pub(super) const MAX_ZERO_SECTORS: u32 = 32 << 10;

bitflags! {
    /// What device and driver agree on; bits of `GET_FEATURES`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Features: u64 {
        const SIZE_MAX = 1 << 1;
        const SEG_MAX = 1 << 2;
        const RO = 1 << 5;
        const BLK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const TOPOLOGY = 1 << 10;
        const CONFIG_WCE = 1 << 11;
        const MQ = 1 << 12;
        const DISCARD = 1 << 13;
        const WRITE_ZEROES = 1 << 14;
        const INDIRECT_DESC = 1 << 28;
        const EVENT_IDX = 1 << 29;
        /// Vhost-user's own.
        const PROTOCOL_FEATURES = 1 << 30;
        const VERSION_1 = 1 << 32;
    }

    /// What frontend and backend agree on; bits of `GET_PROTOCOL_FEATURES`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct ProtocolFeatures: u64 {
        const MQ = 1;
        const REPLY_ACK = 1 << 3;
        const BACKEND_REQ = 1 << 5;
        const CONFIG = 1 << 9;
        const CONFIGURE_MEM_SLOTS = 1 << 15;
    }

    /// `flags` of a message.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct MessageFlags: u32 {
        /// Version 1, the only one.
        const VERSION = 1;
        /// The other bit of the version.
        const VERSION_HIGH = 2;
        const REPLY = 1 << 2;
        const NEED_REPLY = 1 << 3;
    }
}

/// A message's header: request, flags and the length of what follows, 32 bits each.
pub(super) const HEADER_LEN: usize = 12;

/// The longest payload: eight regions of memory, or a configuration.
pub(super) const MAX_PAYLOAD: usize = 512;

/// Descriptors that come with one message.
pub(super) const MAX_FDS: usize = 8;

/// Regions of memory at a time.
pub(super) const MAX_SLOTS: usize = 509;

/// Bytes of the device's configuration that can be asked for.
pub(super) const MAX_CONFIG: usize = 256;

/// Requests of the frontend.
pub(super) mod request {
    pub(crate) const GET_FEATURES: u32 = 1;
    pub(crate) const SET_FEATURES: u32 = 2;
    pub(crate) const SET_OWNER: u32 = 3;
    pub(crate) const RESET_OWNER: u32 = 4;
    pub(crate) const SET_MEM_TABLE: u32 = 5;
    pub(crate) const SET_VRING_NUM: u32 = 8;
    pub(crate) const SET_VRING_ADDR: u32 = 9;
    pub(crate) const SET_VRING_BASE: u32 = 10;
    pub(crate) const GET_VRING_BASE: u32 = 11;
    pub(crate) const SET_VRING_KICK: u32 = 12;
    pub(crate) const SET_VRING_CALL: u32 = 13;
    pub(crate) const SET_VRING_ERR: u32 = 14;
    pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
    pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
    pub(crate) const GET_QUEUE_NUM: u32 = 17;
    pub(crate) const SET_VRING_ENABLE: u32 = 18;
    pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
    pub(crate) const GET_CONFIG: u32 = 24;
    pub(crate) const SET_CONFIG: u32 = 25;
    pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
    pub(crate) const ADD_MEM_REG: u32 = 37;
    pub(crate) const REM_MEM_REG: u32 = 38;
}

/// The backend's only request: the configuration is another one now.
pub(super) const CONFIG_CHANGE_MSG: u32 = 2;

/// In the payload of `SET_VRING_KICK`, `_CALL` and `_ERR`: no descriptor comes with it.
pub(super) const NO_FD: u64 = 1 << 8;

/// Types of requests of the block device.
pub(super) mod kind {
    pub(crate) const IN: u32 = 0;
    pub(crate) const OUT: u32 = 1;
    pub(crate) const FLUSH: u32 = 4;
    pub(crate) const GET_ID: u32 = 8;
    pub(crate) const DISCARD: u32 = 11;
    pub(crate) const WRITE_ZEROES: u32 = 13;
}

/// The longest name of a device.
pub(super) const ID_LEN: usize = 20;

/// `flags` of a zero write: the space may be given back.
pub(super) const UNMAP: u32 = 1;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoErr = 1,
    Unsupported = 2,
}

/// Where `writeback` is in the configuration.
pub(super) const WRITEBACK: u32 = 32;

/// `struct virtio_blk_config`, as far as the features go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// In sectors of 512 bytes.
    pub(super) capacity: u64,
    /// In bytes.
    pub(super) block_size: u32,
    pub(super) queues: u16,
    /// The driver has to flush.
    pub(super) writeback: bool,
}

impl Config {
    /// All that can be asked for; behind the structure are zeroes.
    pub(super) fn emit(&self) -> [u8; MAX_CONFIG] {
        let mut out = [0; MAX_CONFIG];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.capacity.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &self.block_size.to_le_bytes());
        // The topology: a minimum and an optimum of one block.
        put(26, &1_u16.to_le_bytes());
        put(28, &1_u32.to_le_bytes());
        put(WRITEBACK as usize, &[u8::from(self.writeback)]);
        put(34, &self.queues.to_le_bytes());
        put(36, &MAX_ZERO_SECTORS.to_le_bytes());
        put(40, &1_u32.to_le_bytes());
        put(44, &(self.block_size / SECTOR as u32).to_le_bytes());
        put(48, &MAX_ZERO_SECTORS.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        out
    }
}
