//! Devices served to others.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`fuse`] | disks as files |
//! | [`nbd`] | the NBD server: sockets, encryption and limits around the core's protocol |
//! | [`vhost_user_blk`] | disks of virtual machines, through memory that they share |

pub mod fuse;
pub mod nbd;
pub mod vhost_user_blk;

/// What becomes of the connections of an export that is removed (the schema's
/// `BlockExportRemoveMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveMode {
    /// It is not removed while there are any.
    Safe,
    /// They are dropped, and with them what was not answered.
    Hard,
}
