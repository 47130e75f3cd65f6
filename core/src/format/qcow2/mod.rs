//! `qcow2`, versions 2 and 3 (`docs/formats/qcow2.md` has the layout and the write ordering).
//!
//! | file | part |
//! | --- | --- |
//! | `layout` | offsets, constants, limits |
//! | `header` | header cluster: bytes to a checked value and back |
//! | `options` | what can be said when an image is opened |
//! | `open` | checks at opening; builds [`Qcow2`] |
//! | `map` | guest to host: L1, L2, subclusters |
//! | `write` | reservations, commits |
//! | `zeroes` | zeroes and discards |
//! | `alloc`, `refcount` | host clusters and their counts |
//! | `cache` | L2 tables and refcount blocks in memory |
//! | `order` | write-back: what must be durable before what |
//! | `claims` | who may use which range |
//! | `overlap` | what must not be written over |
//! | `discards` | what the file below is told to give up |
//! | `amend` | version, refcount width and the like of an image |
//! | `rewrite` | changes of the header |
//! | `empty` | giving up all guest data |
//! | `compact` | giving up what nobody needs |
//! | `pack` | moving clusters from the end of the file into free ones |
//! | `snapshot` | internal snapshots |
//! | `vm_state` | the state of a machine, behind the disk |
//! | `shared` | references of whole tables; the image to oneself |
//! | `bitmap` | persistent bitmaps: loaded, marked, stored |
//! | `check` | consistency check and repair |
//! | `marks` | the features *dirty* and *corrupt* |
//! | `encryption` | keys, key slots, the LUKS header's place |
//! | `create`, `measure`, `stream` | new images |

mod alloc;
mod amend;
mod bitmap;
mod cache;
mod check;
mod claims;
mod compact;
mod create;
mod discards;
mod empty;
mod encryption;
pub(super) mod header;
mod info;
mod layout;
mod map;
mod marks;
mod measure;
mod open;
mod options;
mod order;
mod overlap;
mod pack;
mod refcount;
mod resize;
mod rewrite;
mod shared;
mod snapshot;
mod sparse;
mod stream;
#[cfg(test)]
mod tests;
mod vm_state;
mod write;
mod zeroes;

pub use create::{
    CreateOptions, DataFileOptions, EncryptionMethod, EncryptionOptions, Version, create,
};
pub use measure::{Measured, measure, measure_bitmaps};
pub use options::{CacheOptions, DiscardOptions, OpenOptions, OverlapCheckMode, OverlapChecks};
pub use stream::{StreamOptions, stream};

pub(super) use open::open;

use super::{
    Amendment, BackingRef, CheckReport, Child, Compaction, Driver, DriverEvent, Encryption, Events,
    FormatInfo, Geometry, Listener, Mapping, Repair, Reservation, Snapshots, Token, ZeroPlan,
};
use crate::bitmap::{BitmapSet, DirtyBitmap};
use crate::crypto::Secret;
use crate::crypto::luks::AmendOptions;
use crate::io::{BoxFuture, Capabilities, Device, Preallocation, Runtime, ZeroFlags};
use crate::sync::{Mutex, RwLock};
use crate::{Error, Result};
use ::alloc::boxed::Box;
use ::alloc::collections::BTreeSet;
use ::alloc::sync::Arc;
use ::alloc::vec::Vec;
use alloc::{AllocLock, Reftable, ReftablePlace};
use bitmap::Persistent;
use cache::TableCache;
use claims::{Limbo, RangeLocks};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use discards::Discards;
use header::Header;
use layout::{Autoclear, Incompatible};
use overlap::{Guard, Leads};
use snapshot::SnapshotTable;

/// An opened qcow2 image.
pub struct Qcow2 {
    runtime: Arc<dyn Runtime>,
    file: Device,
    data: Option<Device>,
    header: Header,
    /// How raw clusters are encrypted, where they are.
    encryption: Option<Encryption>,
    /// What it was opened with: the default for changing key slots.
    secret: Option<Secret>,
    /// Serialises changes of key slots.
    slots_lock: async_lock::Mutex<()>,
    cluster_bits: u32,
    refcount_order: u32,
    extended_l2: bool,
    writable: bool,
    snapshots: RwLock<SnapshotTable>,
    /// The backing file as the header names it.
    backing: RwLock<Option<BackingRef>>,
    /// What stands below it by the word of whoever opened it.
    below: Option<Device>,
    virtual_size: RwLock<u64>,
    l1: RwLock<L1>,
    cache: Arc<TableCache>,
    reftable: Mutex<Reftable>,
    reftable_place: ReftablePlace,
    alloc: AllocLock,
    /// Serialises the making of L2 tables.
    l2_lock: async_lock::Mutex<()>,
    /// Serialises write-backs.
    write_back_lock: async_lock::Mutex<()>,
    range_locks: Arc<RangeLocks>,
    /// Whoever changes the active tables shares this; who swaps them has it alone.
    exclusive: async_lock::RwLock<()>,
    /// The copied flags may be wrong: something that changes counts of clusters in use was
    /// abandoned.
    flags_stale: AtomicBool,
    limbo: Arc<Limbo>,
    guard: Guard,
    /// The first real change has been prepared (autoclear bits).
    touched: async_lock::Mutex<bool>,
    /// `touched`, for a quick look.
    prepared: AtomicBool,
    /// The file may have holes where the tables say data; once it has been looked up.
    holes: async_lock::OnceCell<bool>,
    /// A metadata write or flush failed: nothing is written any more.
    poisoned: AtomicBool,
    /// Opened to be checked: its data is out of reach.
    for_check: bool,
    /// Refcounts are written only now and then; the image is marked dirty meanwhile.
    lazy: bool,
    /// What becomes of space that is not needed any more.
    discards: Discards,
    /// The incompatible features in the file now.
    incompatible: Mutex<Incompatible>,
    /// Serialises changes of these.
    marks_lock: async_lock::Mutex<()>,
    /// Damage was met; whether it was fatal.
    seen_corrupt: Mutex<Option<bool>>,
    events: Events,
    /// The image has become one that this does not describe.
    retired: AtomicBool,
    bitmaps: Persistent,
}

impl fmt::Debug for Qcow2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qcow2").field("header", &self.header).finish_non_exhaustive()
    }
}

/// The L1 table in memory.
#[derive(Debug, Default)]
struct L1 {
    offset: u64,
    entries: Vec<u64>,
    /// The L2 tables.
    leads: Leads,
    /// Groups of entries that differ from the file.
    dirty: BTreeSet<usize>,
    /// It lies in a new place, which is durable, or the disk has another size, and the header does not
    /// say so yet.
    moved: bool,
}

impl L1 {
    /// The table at `offset`. Only where it is `guarded` its L2 tables are known.
    fn new(offset: u64, entries: Vec<u64>, guarded: bool, cluster_bits: u32) -> Self {
        let leads = match guarded {
            true => Leads::new(&entries, layout::OFFSET_MASK, cluster_bits),
            false => Leads::default(),
        };
        Self { offset, entries, leads, ..Self::default() }
    }

    /// Changes one entry. False where there is none of that index.
    #[must_use]
    fn set(&mut self, index: usize, entry: u64) -> bool {
        let Some(slot) = self.entries.get_mut(index) else { return false };
        let old = core::mem::replace(slot, entry);
        self.leads.change(old & layout::OFFSET_MASK, entry & layout::OFFSET_MASK);
        self.dirty.insert(index / order::L1_GROUP);
        true
    }
}

impl Qcow2 {
    fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// log2 of the entries of an L2 table.
    fn l2_bits(&self) -> u32 {
        self.cluster_bits - self.header.l2_entry_bits()
    }

    /// The unit that is copied on write.
    fn subcluster_size(&self) -> u64 {
        if self.extended_l2 {
            self.cluster_size() / u64::from(layout::SUBCLUSTERS)
        } else {
            self.cluster_size()
        }
    }

    /// The device that holds the guest's clusters.
    fn data_child(&self) -> Child {
        if self.data.is_some() { Child::Data } else { Child::File }
    }

    /// Compressed payloads must end below this.
    fn max_compressed_offset(&self) -> u64 {
        let bits = 62 - (self.cluster_bits - 8);
        layout::MAX_HOST_OFFSET.min(1 << bits)
    }

    fn data_file_is_raw(&self) -> bool {
        self.header.autoclear.contains(Autoclear::DATA_FILE_RAW)
    }

    fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    /// After this nothing is written any more.
    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    fn refuse_poisoned(&self) -> Result<()> {
        if self.is_retired() {
            return Err(Error::invalid(
                "the image was amended; close and reopen it before it is written to",
            )
            .in_format("qcow2"));
        }
        if self.is_poisoned() {
            let what = match *self.seen_corrupt.lock() {
                Some(true) => {
                    "the image was found to be corrupt, and nothing is written to it any more; \
                     close and repair it"
                }
                _ => {
                    "an earlier metadata write failed; what the last flush confirmed is safe, \
                     close and reopen the image"
                }
            };
            return Err(Error::io(what).in_format("qcow2"));
        }
        Ok(())
    }

    /// An image that was opened to be checked gives no data and takes none.
    fn refuse_unusable(&self) -> Result<()> {
        match self.for_check {
            false => Ok(()),
            true => {
                Err(Error::invalid("the image was opened to be checked; open it again to use it")
                    .in_format("qcow2"))
            }
        }
    }

    /// Nothing is written to an encrypted image that was opened without its key.
    fn refuse_locked(&self) -> Result<()> {
        self.refuse_unusable()?;
        match &self.encryption {
            Some(encryption) => encryption.cipher().map(drop),
            None => Ok(()),
        }
    }
}

impl Driver for Qcow2 {
    fn name(&self) -> &'static str {
        "qcow2"
    }

    fn virtual_size(&self) -> u64 {
        *self.virtual_size.read()
    }

    fn geometry(&self) -> Geometry {
        Geometry {
            // At most 2^21.
            cluster_size: 1 << self.cluster_bits,
            subcluster_size: self.subcluster_size() as u32,
            compression: self.data.is_none().then_some(self.header.compression),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::ZERO_INIT;
        if self.header.version >= 3 && !self.data_file_is_raw() {
            all |= Capabilities::FAST_ZERO;
        }
        if self.writable {
            all |= Capabilities::WRITE;
        }
        if self.data.is_none() {
            all |= Capabilities::COMPRESSED;
        }
        all
    }

    fn encryption(&self) -> Option<&Encryption> {
        self.encryption.as_ref()
    }

    fn amend_encryption<'a>(&'a self, options: &'a AmendOptions) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.amend_slots(options))
    }

    fn refines_extents(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.has_holes())
    }

    fn map(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Mapping>> {
        Box::pin(self.noting_damage(self.map_range(start, len)))
    }

    fn reserve(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Reservation>> {
        Box::pin(self.noting_damage(self.reserve_range(start, len)))
    }

    fn reserve_compressed<'a>(
        &'a self,
        units: &'a [(u64, u32)],
    ) -> BoxFuture<'a, Result<Reservation>> {
        Box::pin(self.noting_damage(self.reserve_units(units)))
    }

    fn commit(&self, token: Token) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.noting_damage(self.commit_token(token)))
    }

    fn zero(&self, start: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<ZeroPlan>> {
        Box::pin(self.noting_damage(self.zero_range(start, len, flags)))
    }

    fn zero_unallocated(&self, start: u64) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.noting_damage(self.zero_unit(start)))
    }

    fn discard(&self, start: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.noting_damage(self.discard_range(start, len)))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.flush_all())
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.close_all())
    }

    fn prepare_growth(&self, size: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(Self::prepare_growth(self, size))
    }

    fn set_virtual_size(
        &self,
        size: u64,
        preallocation: Preallocation,
    ) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            // The stored ones are of the old length.
            {
                let _touched = self.touched.lock().await;
                self.refuse_poisoned()?;
                self.poison_on_error(self.mark_bitmaps(true).await)?;
            }
            self.resize(size, preallocation).await
        })
    }

    fn bitmaps(&self) -> Option<Arc<BitmapSet>> {
        Some(self.bitmaps.set.clone())
    }

    fn load_bitmaps(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(Self::load_bitmaps(self))
    }

    fn supports_bitmaps(&self) -> bool {
        self.header.version >= 3
    }

    fn can_store_bitmap(&self, bitmap: &DirtyBitmap) -> Result<()> {
        Self::can_store_bitmap(self, bitmap)
    }

    fn snapshots(&self) -> Option<&dyn Snapshots> {
        Some(self)
    }

    fn check_options(&self, options: &crate::format::OpenOptions) -> Result<()> {
        open::check_options(&self.header, options).map(drop)
    }

    fn check_amend(&self, options: &Amendment) -> Result<()> {
        self.check_amendment(options)
    }

    fn amend<'a>(
        &'a self,
        options: &'a Amendment,
        progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.amend_image(options, progress))
    }

    fn set_backing(&self, backing: Option<BackingRef>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.rename_backing(backing))
    }

    fn make_empty(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.empty())
    }

    fn compaction(&self) -> Option<&dyn Compaction> {
        Some(self)
    }

    fn vm_state_offset(&self) -> Option<u64> {
        Some(self.state_index() << self.header.l1_entry_span_bits())
    }

    fn prepare_vm_state(&self, end: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.noting_damage(self.prepare_state(end)))
    }

    fn describe(&self) -> BoxFuture<'_, Result<FormatInfo>> {
        Box::pin(self.info())
    }

    fn check<'a>(
        &'a self,
        repair: Repair,
        progress: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<CheckReport>>> {
        Box::pin(async move { self.check_all(repair, progress).await.map(Some) })
    }

    fn take_events(&self) -> Vec<DriverEvent> {
        self.events.take()
    }

    fn listen(&self, listener: Listener) {
        self.events.listen(listener);
    }
}
