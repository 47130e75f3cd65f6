//! Numbers of the protocol: magics, option, command, reply and error codes, header sizes.
//!
//! Source: the NBD protocol specification of the NetworkBlockDevice project (`doc/proto.md`),
//! section "Values". Names are the specification's, without the `NBD_` in front.

/// First word of every server: `NBDMAGIC`.
pub const INIT_MAGIC: u64 = u64::from_be_bytes(*b"NBDMAGIC");
/// Second word of a server that negotiates options: `IHAVEOPT`. Options begin with it as well.
pub const OPTION_MAGIC: u64 = u64::from_be_bytes(*b"IHAVEOPT");
/// Second word of a server that does not negotiate (oldstyle).
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// First word of a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Bytes of a compact request, without its payload.
pub const REQUEST_LEN: usize = 28;
/// Bytes of an extended request, without its payload.
pub const EXTENDED_REQUEST_LEN: usize = 32;
/// Bytes of a simple reply, without its data.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Bytes of the header of a structured chunk.
pub const STRUCTURED_REPLY_LEN: usize = 20;
/// Bytes of the header of an extended chunk.
pub const EXTENDED_REPLY_LEN: usize = 32;
/// Unused bytes at the end of the answer to `OPT_EXPORT_NAME` and of an oldstyle greeting.
pub const RESERVED_LEN: usize = 124;

/// The longest name, description, context or message ("Values", strings).
pub const MAX_STRING: usize = 4096;
/// The most bytes a read or write moves at once, and the longest payload that is accepted.
pub const MAX_PAYLOAD: u64 = 32 << 20;
/// The longest data of an option that is looked at; nothing sensible comes near.
pub const MAX_OPTION: usize = 64 << 10;
/// The most contexts that one connection may have.
pub const MAX_CONTEXTS: usize = 256;
/// The most exports of a list that a client takes in.
pub const MAX_EXPORTS: usize = 10_000;
/// The most extents that one reply to `CMD_BLOCK_STATUS` has for one context.
pub const MAX_STATUS_EXTENTS: usize = 64 << 10;

bitflags::bitflags! {
    /// What a server can do ("Handshake phase"), and what a client answers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct HandshakeFlags: u16 {
        /// Options that are not known are refused, not the end of the connection.
        const FIXED_NEWSTYLE = 1;
        /// The unused bytes after `OPT_EXPORT_NAME` may be left out.
        const NO_ZEROES = 1 << 1;
    }

    /// What an export can do ("Transmission flags").
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct TransmissionFlags: u16 {
        const HAS_FLAGS = 1;
        const READ_ONLY = 1 << 1;
        const SEND_FLUSH = 1 << 2;
        const SEND_FUA = 1 << 3;
        const ROTATIONAL = 1 << 4;
        const SEND_TRIM = 1 << 5;
        const SEND_WRITE_ZEROES = 1 << 6;
        const SEND_DF = 1 << 7;
        const CAN_MULTI_CONN = 1 << 8;
        const SEND_RESIZE = 1 << 9;
        const SEND_CACHE = 1 << 10;
        const SEND_FAST_ZERO = 1 << 11;
        const BLOCK_STATUS_PAYLOAD = 1 << 12;
    }

    /// How a command is to be done ("Command flags").
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CommandFlags: u16 {
        const FUA = 1;
        const NO_HOLE = 1 << 1;
        const DF = 1 << 2;
        const REQ_ONE = 1 << 3;
        const FAST_ZERO = 1 << 4;
        const PAYLOAD_LEN = 1 << 5;
    }

    /// Status of an extent in `base:allocation`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct AllocationState: u64 {
        /// No space is taken for it.
        const HOLE = 1;
        /// It reads as zeroes.
        const ZERO = 1 << 1;
    }
}

/// The context that tells holes and zeroes.
pub const BASE_ALLOCATION: &str = "base:allocation";
/// The context that tells which image of a chain an extent comes from.
pub const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
/// What stands before the name of a bitmap in the name of its context.
pub const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// Options ("Option types").
pub mod option {
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options ("Option reply types").
pub mod reply {
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    /// Set in every error.
    pub const ERROR: u32 = 1 << 31;
    pub const ERR_UNSUP: u32 = ERROR | 1;
    pub const ERR_POLICY: u32 = ERROR | 2;
    pub const ERR_INVALID: u32 = ERROR | 3;
    pub const ERR_PLATFORM: u32 = ERROR | 4;
    pub const ERR_TLS_REQD: u32 = ERROR | 5;
    pub const ERR_UNKNOWN: u32 = ERROR | 6;
    pub const ERR_SHUTDOWN: u32 = ERROR | 7;
    pub const ERR_BLOCK_SIZE_REQD: u32 = ERROR | 8;
    pub const ERR_TOO_BIG: u32 = ERROR | 9;
    pub const ERR_EXT_HEADER_REQD: u32 = ERROR | 10;
}

/// Pieces of information in replies to `OPT_INFO` and `OPT_GO`.
pub mod info {
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// Requests ("Request types").
pub mod command {
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Chunks of structured and extended replies ("Structured reply types").
pub mod chunk {
    /// The flag of the last chunk of a reply.
    pub const FLAG_DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const OFFSET_HOLE: u16 = 2;
    pub const BLOCK_STATUS: u16 = 5;
    pub const BLOCK_STATUS_EXT: u16 = 6;
    /// Set in every error.
    pub const ERROR_BIT: u16 = 1 << 15;
    pub const ERROR: u16 = ERROR_BIT | 1;
    pub const ERROR_OFFSET: u16 = ERROR_BIT | 2;
}

/// Errors of requests ("Error values"): Linux's numbers, whatever the host's are.
pub mod errno {
    pub const EPERM: u32 = 1;
    pub const EIO: u32 = 5;
    pub const ENOMEM: u32 = 12;
    pub const EINVAL: u32 = 22;
    pub const ENOSPC: u32 = 28;
    pub const EOVERFLOW: u32 = 75;
    pub const ENOTSUP: u32 = 95;
    pub const ESHUTDOWN: u32 = 108;
}
