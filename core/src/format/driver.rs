//! What a format is to the engine: maps, reservations and commits.

use super::compaction::Compaction;
use super::report::{CheckReport, DriverEvent, Listener, Repair};
use super::{Encryption, OpenOptions};
use crate::bitmap::{BitmapSet, DirtyBitmap};
use crate::codec::Compression;
use crate::crypto::luks::AmendOptions;
use crate::io::{BoxFuture, Capabilities, Hold, Preallocation, ZeroFlags};
use crate::qapi::{ImageInfoSpecific, SnapshotInfo};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::fmt;
use smallvec::SmallVec;

/// Which device of a layer a host offset counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Child {
    /// The image file itself.
    File,
    /// The external data file.
    Data,
}

/// Where the bytes of a guest range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// As they are, at `offset` of `child`.
    Raw {
        /// The device.
        child: Child,
        /// Host offset of the first byte.
        offset: u64,
    },
    /// Nowhere: they read as zeroes. Space may be reserved for them.
    Zero {
        /// The reserved space, if any.
        reserved: Option<(Child, u64)>,
    },
    /// Part of a compressed unit of the image file.
    Compressed {
        /// Host offset of the payload.
        offset: u64,
        /// Upper bound of the payload's length in bytes; what follows it in the last sector
        /// belongs to others.
        len: u32,
        /// The codec.
        kind: Compression,
        /// Guest offset of the unit's first byte (this piece may begin later).
        unit_start: u64,
        /// Length of the decompressed unit.
        unit_len: u32,
    },
    /// This layer does not say: ask the backing file, else zeroes.
    Unallocated {
        /// The space reserved for them, if any.
        reserved: Option<(Child, u64)>,
    },
}

/// A run of guest bytes with one [`Place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Length in bytes; never 0.
    pub len: u64,
    /// Where they are.
    pub place: Place,
}

impl Piece {
    /// Extends this piece by `next` where that continues it in guest and host. Returns false
    /// where it does not.
    pub fn merge(&mut self, next: &Self) -> bool {
        let joins = match (self.place, next.place) {
            (Place::Raw { child: a, offset: x }, Place::Raw { child: b, offset: y }) => {
                a == b && x + self.len == y
            }
            (Place::Zero { reserved: a }, Place::Zero { reserved: b })
            | (Place::Unallocated { reserved: a }, Place::Unallocated { reserved: b }) => {
                match (a, b) {
                    (None, None) => true,
                    (Some((a, x)), Some((b, y))) => a == b && x + self.len == y,
                    _ => false,
                }
            }
            _ => false,
        };
        if joins {
            self.len += next.len;
        }
        joins
    }
}

/// The answer of [`Driver::map`].
#[derive(Debug, Default)]
pub struct Mapping {
    /// The pieces in guest order; the first begins at the asked offset.
    pub pieces: SmallVec<[Piece; 4]>,
    /// Kept until the bytes have been read: the ranges are not given to others before.
    pub hold: Option<Hold>,
}

impl Mapping {
    /// Adds a piece, joined to the last one where it continues it.
    pub fn push(&mut self, piece: Piece) {
        if piece.len == 0 {
            return;
        }
        if !self.pieces.last_mut().is_some_and(|last| last.merge(&piece)) {
            self.pieces.push(piece);
        }
    }
}

/// Where a run of guest bytes goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Guest offset of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
    /// The device.
    pub child: Child,
    /// Host offset of the first byte.
    pub offset: u64,
    /// So many bytes directly before must be written too, with what the guest reads there now.
    pub before: u64,
    /// So many bytes directly after must be written too, with what the guest reads there now.
    pub after: u64,
    /// All of it, `before` and `after` included, is zeroes on the device now: zeroes need not be
    /// written.
    pub blank: bool,
}

/// What [`Driver::commit`] needs to make a reservation true. Dropping it gives the reserved space
/// back, once no operation can reach it any more.
pub struct Token(pub Box<dyn Any + Send>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The answer of [`Driver::reserve`].
#[derive(Debug)]
pub struct Reservation {
    /// Where the bytes go, in guest order; the first begins at the asked offset. They may cover
    /// less than was asked: reserve again from there.
    pub targets: SmallVec<[Target; 2]>,
    /// The metadata change that makes the bytes visible; `None` where they are visible as soon
    /// as they are written.
    pub token: Option<Token>,
    /// Tied to every write: see [`Segments::hold`](crate::io::Segments::hold).
    pub hold: Option<Hold>,
}

/// The answer of [`Driver::zero`]: what the format could not do by metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZeroPlan {
    /// Guest ranges (start, length) whose zeroes must be written as data.
    pub explicit: SmallVec<[(u64, u64); 2]>,
}

/// Sizes of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// The unit of allocation; 1 where there is none.
    pub cluster_size: u32,
    /// The unit of copy-on-write, a divisor of the cluster size.
    pub subcluster_size: u32,
    /// The codec of compressed writes; `None` where the format has none.
    pub compression: Option<Compression>,
}

/// The backing file as the image names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackingRef {
    /// The name, as written in the image.
    pub name: String,
    /// The format, where the image states it.
    pub format: Option<String>,
}

/// What a format tells of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FormatInfo {
    /// Cluster size, where the format has clusters.
    pub cluster_size: Option<u64>,
    /// Not closed cleanly.
    pub dirty: bool,
    /// The guest's data is encrypted.
    pub encrypted: bool,
    /// The backing file.
    pub backing: Option<BackingRef>,
    /// Internal snapshots, in the order of their table.
    pub snapshots: Vec<SnapshotInfo>,
    /// The schema's format-specific part.
    pub specific: Option<ImageInfoSpecific>,
}

/// What a new internal snapshot is like. The id is the format's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Its name; others may have the same.
    pub name: String,
    /// When it is made: seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds of that second.
    pub date_nsec: u32,
    /// How long the guest has run, in nanoseconds.
    pub vm_clock_nsec: u64,
    /// How many bytes of the area past the end of the disk are the machine's state.
    pub vm_state_size: u64,
    /// The instruction count, where the machine counts.
    pub icount: Option<u64>,
}

/// What is to change of an image: what is `None` stays. Names and values are those of the options
/// of creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Compatibility level.
    pub compat: Option<String>,
    /// Whether refcount updates may be postponed.
    pub lazy_refcounts: Option<bool>,
    /// Width of a refcount in bits.
    pub refcount_bits: Option<u64>,
    /// Virtual size in bytes.
    pub size: Option<u64>,
    /// Name of the external data file.
    pub data_file: Option<String>,
    /// Whether the external data file is a raw image of its own.
    pub data_file_raw: Option<bool>,
    /// The backing file and its format, where one of them was named: they are changed elsewhere, and
    /// can only be what they are.
    pub backing: Option<BackingRef>,
    /// Options of the encryption, names without `encrypt.`, and values.
    pub encryption: Vec<(String, String)>,
}

/// Internal snapshots: states of the whole disk inside its image.
///
/// Each method makes one change that is durable when it returns, and that a crash leaves done or
/// not done. It waits until every operation under way, mappings that somebody keeps included, has
/// ended, and holds up others meanwhile: do not call it while you keep a mapping or a reservation.
pub trait Snapshots: Send + Sync {
    /// All of them, in the order of their table.
    fn list(&self) -> Vec<SnapshotInfo>;

    /// Keeps the disk as it is now. Gives what the table says of it.
    ///
    /// # Errors
    /// `Unsupported` where the image cannot have snapshots, `Limit` where it cannot have more.
    fn create(&self, new: NewSnapshot) -> BoxFuture<'_, Result<SnapshotInfo>>;

    /// Makes the disk what it was when the snapshot with this id was made, its size included. What
    /// it is now is lost; the snapshot stays.
    ///
    /// # Errors
    /// `NotFound`.
    fn apply<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Removes the snapshot with this id.
    ///
    /// # Errors
    /// `NotFound`.
    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;
}

/// An opened format: tables and rules over the layer's devices.
///
/// Invariants every driver keeps: a range is mapped only after the bytes in it were written
/// ([`commit`](Driver::commit) comes after the transfer); a host range is given to somebody else
/// only when the change that freed it is durable and every hold on it is gone; a failed metadata
/// write or flush poisons the driver for writing until it is opened again.
pub trait Driver: Send + Sync + fmt::Debug {
    /// The schema's driver name.
    fn name(&self) -> &'static str;

    /// Virtual size in bytes.
    fn virtual_size(&self) -> u64;

    /// Sizes to work with.
    fn geometry(&self) -> Geometry;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// How the bytes of raw pieces are encrypted, where they are. Compressed units are not.
    fn encryption(&self) -> Option<&Encryption> {
        None
    }

    /// Changes the key slots of an encrypted image.
    fn amend_encryption<'a>(&'a self, options: &'a AmendOptions) -> BoxFuture<'a, Result<()>> {
        let _ = options;
        let name = self.name();
        Box::pin(
            async move { Err(Error::unsupported("the image has no key slots").in_format(name)) },
        )
    }

    /// True where the status of raw pieces is to be refined by the status of the file below
    /// (holes in it read as zeroes). Asked when there are raw pieces to tell of.
    fn refines_extents(&self) -> BoxFuture<'_, Result<bool>>;

    /// Where the bytes of `[start, start + len)` are. The range lies within the virtual size; the
    /// answer covers at least its first byte and may end early.
    fn map(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Mapping>>;

    /// Where to write `[start, start + len)`. May wait for other writers of the same cluster.
    fn reserve(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Reservation>>;

    /// Where to write compressed clusters: for each its guest offset and the length of its
    /// payload. The answer has one target a unit, whose length is the payload's.
    fn reserve_compressed<'a>(
        &'a self,
        units: &'a [(u64, u32)],
    ) -> BoxFuture<'a, Result<Reservation>> {
        let _ = units;
        let name = self.name();
        Box::pin(async move {
            Err(Error::unsupported("the format has no compressed clusters").in_format(name))
        })
    }

    /// Makes a reservation visible, after its bytes have been written.
    fn commit(&self, token: Token) -> BoxFuture<'_, Result<()>>;

    /// Makes a range read as zeroes, as far as metadata can.
    fn zero(&self, start: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<ZeroPlan>>;

    /// Marks the unit of copy-on-write at `start` as zeroes where it holds no bytes of its own: the
    /// caller knows that what it shows of the image below is to be zeroes. True where it reads as
    /// zeroes now.
    fn zero_unallocated(&self, start: u64) -> BoxFuture<'_, Result<bool>> {
        let _ = start;
        Box::pin(core::future::ready(Ok(false)))
    }

    /// Gives up the contents of a range, as far as metadata can.
    fn discard(&self, start: u64, len: u64) -> BoxFuture<'_, Result<()>>;

    /// Makes all completed writes durable: data first, then what refers to it.
    fn flush(&self) -> BoxFuture<'_, Result<()>>;

    /// Ends writing: makes everything durable and leaves the marks of an image that was closed
    /// cleanly, with all that is kept in memory until then. Nothing is written after it. An image
    /// that is only dropped is one that has crashed.
    fn close(&self) -> BoxFuture<'_, Result<()>>;

    /// Makes what lies past the end of the disk, up to `size`, a place that can be reserved and
    /// zeroed, before the disk becomes larger. The state of a machine that is in the way is lost.
    fn prepare_growth(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        let _ = size;
        Box::pin(core::future::ready(Ok(())))
    }

    /// Changes the virtual size.
    fn set_virtual_size(
        &self,
        size: u64,
        preallocation: Preallocation,
    ) -> BoxFuture<'_, Result<()>>;

    /// The image's internal snapshots; `None` where the format has none.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    /// Changes what the image says of its backing file (`None`: it has none any more), durably
    /// and all at once. Only the name: what an image reads of a file that is open under it stays.
    ///
    /// # Errors
    /// `Unsupported` where the format has no backing files, `InvalidInput` for a name it cannot
    /// hold, `Limit` where there is no room; nothing has changed then.
    fn set_backing(&self, backing: Option<BackingRef>) -> BoxFuture<'_, Result<()>> {
        let _ = backing;
        let name = self.name();
        Box::pin(async move {
            Err(Error::unsupported("the format has no backing files").in_format(name))
        })
    }

    /// Gives up all guest data, durably: everything reads as what lies below from then on. The
    /// file gets as short as it can.
    ///
    /// # Errors
    /// `Unsupported` where the format has no backing files, those of the devices. Parts of the
    /// disk may be emptied then.
    fn make_empty(&self) -> BoxFuture<'_, Result<()>> {
        let name = self.name();
        Box::pin(async move {
            Err(Error::unsupported("the format has no backing files").in_format(name))
        })
    }

    /// How the image gives back what it need not keep; `None` where the format has nothing of the
    /// kind.
    fn compaction(&self) -> Option<&dyn Compaction> {
        None
    }

    /// Guest offset at which the state of a machine would be stored, behind the disk; `None` where
    /// the format has no place for it.
    fn vm_state_offset(&self) -> Option<u64> {
        None
    }

    /// Makes a place for state up to the guest offset `end`.
    fn prepare_vm_state(&self, end: u64) -> BoxFuture<'_, Result<()>> {
        let _ = end;
        let name = self.name();
        Box::pin(async move {
            Err(Error::unsupported("the format has no place for the state of a machine")
                .in_format(name))
        })
    }

    /// The named bitmaps that this format loads and [`close`](Driver::close) stores; `None` where it
    /// keeps none. They are there when the image was opened for writing, or after
    /// [`load_bitmaps`](Driver::load_bitmaps).
    fn bitmaps(&self) -> Option<Arc<BitmapSet>> {
        None
    }

    /// Loads the bitmaps of an image that is only read; where they are loaded, does nothing.
    fn load_bitmaps(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(core::future::ready(Ok(())))
    }

    /// True where bitmaps can be stored with the image.
    fn supports_bitmaps(&self) -> bool {
        false
    }

    /// Says whether a new bitmap could be stored with the image.
    ///
    /// # Errors
    /// `Unsupported`, `Limit` or `InvalidInput` where it could not.
    fn can_store_bitmap(&self, bitmap: &DirtyBitmap) -> Result<()> {
        let _ = bitmap;
        Err(Error::unsupported("Operation not supported"))
    }

    /// Refuses options with which the image could not be opened again, as far as the options and the
    /// image's header decide that.
    ///
    /// # Errors
    /// `InvalidInput`.
    fn check_options(&self, options: &OpenOptions) -> Result<()> {
        let _ = options;
        Ok(())
    }

    /// Refuses changes that [`amend`](Self::amend) would refuse; nothing changes.
    ///
    /// # Errors
    /// `InvalidInput` for what contradicts the image; `Unsupported` where the format has nothing
    /// to change.
    fn check_amend(&self, options: &Amendment) -> Result<()> {
        let _ = options;
        let name = self.name();
        Err(Error::unsupported(alloc::format!(
            "Format driver '{name}' does not support option amendment"
        )))
    }

    /// Changes what the image is like, but for its size and its encryption. `progress` is told
    /// steps done and in all. Afterwards the image may have to be opened again before it is
    /// written to.
    ///
    /// # Errors
    /// Those of [`check_amend`](Self::check_amend), before anything has changed.
    fn amend<'a>(
        &'a self,
        options: &'a Amendment,
        progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>> {
        let _ = progress;
        Box::pin(core::future::ready(self.check_amend(options)))
    }

    /// What the format tells of itself.
    fn describe(&self) -> BoxFuture<'_, Result<FormatInfo>>;

    /// Checks every structure of the image, and repairs what `repair` allows; `None` where the
    /// format has nothing to check. `progress` is told bytes done and in all. Nobody else may use
    /// the image while it is repaired.
    fn check<'a>(
        &'a self,
        repair: Repair,
        progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<CheckReport>>>;

    /// What happened to the image since the last call that somebody should be told of, oldest
    /// first. Nothing where somebody [listens](Self::listen).
    fn take_events(&self) -> Vec<DriverEvent> {
        Vec::new()
    }

    /// Tells `listener` of what happened and nobody took, and from now on of everything when it
    /// happens. There is one listener, the last.
    fn listen(&self, listener: Listener) {
        let _ = listener;
    }
}
