//! Devices served to others.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`nbd`] | the NBD server: sockets, encryption and limits around the core's protocol |

pub mod nbd;

/// What becomes of the connections of an export that is removed (the schema's
/// `BlockExportRemoveMode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveMode {
    /// It is not removed while there are any.
    Safe,
    /// They are dropped, and with them what was not answered.
    Hard,
}
