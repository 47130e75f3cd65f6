//! Image formats: one folder each, one engine for all.
//!
//! A format is a [`Driver`]: tables and rules. It says where bytes are ([`Driver::map`]), where
//! they may go ([`Driver::reserve`]) and makes that true ([`Driver::commit`]); it never moves
//! them. [`Layer`] is the one engine that does: it reads raw pieces, fills zeroes, decompresses,
//! follows the backing chain, copies on write, for every format alike, and is itself a
//! [`BlockDevice`](crate::io::BlockDevice).
//!
//! [`detect`] is the one place that knows all formats: probing and dispatch. Adding a format
//! touches its folder, that file and one feature.

mod compaction;
pub mod detect;
mod driver;
mod encryption;
mod layer;
#[cfg(feature = "qcow2")]
pub mod qcow2;
mod ranges;
#[cfg(feature = "raw")]
pub mod raw;
mod report;
mod transfer;
mod vm_state;

pub use compaction::{Compaction, Instead, Packed, Still};
pub use detect::{ByOptions, FormatName, open, probe};
pub(crate) use detect::{Described, infinite_loop, open_chain};
pub use driver::{
    Amendment, BackingRef, Child, Driver, FormatInfo, Geometry, Mapping, NewSnapshot, Piece, Place,
    Reservation, Snapshots, Target, Token, ZeroPlan,
};
pub(crate) use encryption::no_secret;
pub use encryption::{Encryption, EncryptionFormat, EncryptionOptions, Key, KeySource, Numbering};
pub use layer::{Backing, DataFile, DataSource, DetectZeroes, Env, Layer, OpenOptions};
use report::Events;
pub use report::{
    CheckReport, DriverEvent, Finding, FindingKind, ImageCorrupted, Listener, NotFreed, Remedy,
    Repair,
};
