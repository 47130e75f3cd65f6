//! Opening: every check of the header against the file, before anything is used.

use super::bitmap::Persistent;
use super::cache::TableCache;
use super::claims::{Limbo, RangeLocks};
use super::discards::Discards;
use super::header::Header;
use super::layout::{self as l, Autoclear, Compatible, Incompatible};
use super::options::CacheSizes;
use super::overlap::Guard;
use super::snapshot::{self, Snapshot, SnapshotTable};
use super::{L1, Qcow2};
use crate::format::detect::OpenedFormat;
use crate::format::layer::{DataFile, DataSource};
use crate::format::{
    Backing, BackingRef, CheckReport, DriverEvent, Env, Events, OpenOptions, Repair,
};
use crate::io::{Access, Closed, DebugEvent, Device, Reference, ReferenceKind, raise};
use crate::sync::{Mutex, RwLock};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicBool;

/// What there is to say of bitmaps that nobody has kept true.
const STALE_BITMAPS: &str = "a program lacking bitmap support modified this file, so all bitmaps are \
                             now considered inconsistent\nSome clusters may be leaked, run \
                             'qemu-img check -r' on the image file to fix.";

pub(in crate::format) async fn open(
    env: &Env,
    file: &Device,
    filename: &str,
    options: &OpenOptions,
) -> Result<OpenedFormat> {
    let mut header = read_header(file).await?;
    let writable = options.access == Access::ReadWrite;
    if writable && !options.check {
        refuse_unsafe_writing(&header, filename)?;
    }
    if header.reftable_clusters == 0 && !options.check {
        let what = "Image does not contain a reference count table";
        return Err(Error::corrupt(what).in_format("qcow2"));
    }
    let cache_sizes = check_options(&header, options)?;
    let (encryption, secret) = super::encryption::unlock(env, file, &header, options).await?;
    let data = open_data_file(env, &header, filename, options).await?;
    let (mut snapshots, mut snapshot_table) = match snapshot::read_table(file, &header).await {
        Ok(found) => found,
        Err(_) if options.check => Default::default(),
        Err(e) => return Err(e),
    };
    let snapshot = match &options.snapshot {
        None => None,
        Some(wanted) => Some(snapshot::find(&snapshots, wanted)?.clone()),
    };
    if snapshot.is_some() && writable {
        return Err(Error::invalid("a snapshot can only be read").in_format("qcow2"));
    }
    let events = Events::default();
    if header.has_stale_bitmaps() {
        events.push(DriverEvent::Warning(STALE_BITMAPS.into()));
    }
    if writable && !options.check {
        if header.incompatible.contains(Incompatible::DIRTY) {
            let report = repair_dirty(file, filename).await?;
            events.push(DriverEvent::Repaired(Box::new(report)));
            header = read_header(file).await?;
            (snapshots, snapshot_table) = snapshot::read_table(file, &header).await?;
        }
        refuse_overlapping_tables(&header, snapshot_table)?;
    }
    let (l1_offset, l1_size) = match &snapshot {
        None => (header.l1_offset, header.l1_size),
        Some(s) => (s.l1_offset, s.l1_size),
    };
    let l1 = match read_table(file, "L1 table", l1_offset, l1_size.into()).await {
        Ok(l1) => l1,
        Err(_) if options.check => Vec::new(),
        Err(e) => return Err(e),
    };
    let virtual_size = snapshot.as_ref().map_or(header.size, |s| s.disk_size);
    let span_bits = header.l1_entry_span_bits();
    if !options.check && (l1.len() as u64) < virtual_size.div_ceil(1 << span_bits) {
        return Err(Error::corrupt(format!(
            "the L1 table of {} entries is too small for {virtual_size:#x} bytes",
            l1.len()
        ))
        .in_format("qcow2")
        .at(l1_offset));
    }
    let reftable = if writable && !options.check {
        let entries = u64::from(header.reftable_clusters) << header.cluster_bits >> 3;
        raise(&**file, DebugEvent::ReftableLoad).await;
        read_table(file, "refcount table", header.reftable_offset, entries).await?
    } else {
        Vec::new()
    };
    let backing = header
        .backing_name
        .clone()
        .map(|name| BackingRef { name, format: header.backing_format.clone() });
    if backing.is_some() && header.autoclear.contains(Autoclear::DATA_FILE_RAW) {
        return Err(Error::corrupt("a raw data file and a backing file exclude each other")
            .in_format("qcow2"));
    }
    let below: Option<Device> = match &options.backing {
        Backing::Device(device) => Some(device.clone()),
        Backing::Given(layer) => Some(layer.clone()),
        Backing::Follow | Backing::Ignore => None,
    };
    let driver = Qcow2 {
        runtime: env.runtime.clone(),
        file: file.clone(),
        encryption,
        secret,
        slots_lock: async_lock::Mutex::new(()),
        data: data.as_ref().map(|d| d.device.clone()),
        cluster_bits: header.cluster_bits,
        refcount_order: header.refcount_order,
        extended_l2: header.incompatible.contains(Incompatible::EXTENDED_L2),
        writable,
        snapshots: RwLock::new(SnapshotTable::new(snapshots, snapshot_table, header.cluster_bits)),
        backing: RwLock::new(backing.clone()),
        below,
        virtual_size: RwLock::new(virtual_size.next_multiple_of(l::SECTOR)),
        l1: RwLock::new(L1::new(l1_offset, l1, writable && !options.check, header.cluster_bits)),
        cache: TableCache::new(&env.runtime, file.clone(), cache_sizes),
        reftable: Mutex::new(super::alloc::Reftable::new(reftable, header.cluster_bits)),
        reftable_place: Mutex::new((header.reftable_offset, header.reftable_clusters)),
        alloc: super::alloc::AllocLock::default(),
        l2_lock: async_lock::Mutex::new(()),
        write_back_lock: async_lock::Mutex::new(()),
        exclusive: async_lock::RwLock::new(()),
        flags_stale: AtomicBool::new(false),
        range_locks: Arc::new(RangeLocks::default()),
        limbo: Arc::new(Limbo::new()),
        guard: Guard::new(options.qcow2.overlap_check),
        touched: async_lock::Mutex::new(false),
        prepared: AtomicBool::new(false),
        holes: async_lock::OnceCell::new(),
        poisoned: AtomicBool::new(false),
        for_check: options.check,
        lazy: writable
            && header.version >= 3
            && options
                .lazy_refcounts
                .unwrap_or(header.compatible.contains(Compatible::LAZY_REFCOUNTS)),
        discards: Discards::new(options),
        incompatible: Mutex::new(header.incompatible),
        marks_lock: async_lock::Mutex::new(()),
        seen_corrupt: Mutex::new(None),
        events,
        bitmaps: Persistent::new(&header, snapshot.is_some()),
        retired: AtomicBool::new(false),
        header,
    };
    if writable && !options.check {
        driver.load_bitmaps().await?;
    }
    Ok(OpenedFormat { driver: Box::new(driver), data, backing })
}

/// Refuses options that contradict one another or the image.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn check_options(header: &Header, options: &OpenOptions) -> Result<CacheSizes> {
    let sizes = options.qcow2.cache.sizes(header)?;
    if options.lazy_refcounts == Some(true) && header.version < 3 {
        return Err(Error::invalid(
            "Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level",
        ));
    }
    if let Some(mistake) = &options.qcow2.overlap_mistake {
        return Err(Error::invalid(mistake.clone()));
    }
    if options.qcow2.discard.no_unref && header.version < 3 {
        return Err(Error::invalid("discard-no-unref is only supported since qcow2 version 3"));
    }
    options.encryption.check(super::encryption::format_of(header))?;
    Ok(sizes)
}

/// Reads and checks the header cluster.
pub(super) async fn read_header(file: &Device) -> Result<Header> {
    let fixed = file.read(0, file.len().min(Header::FIXED_LEN)).await?.to_bytes();
    let bits = Header::peek_cluster_bits(&fixed)?;
    let cluster = file.read(0, file.len().min(1 << bits)).await?.to_bytes();
    Header::parse(&cluster)
}

/// Reads a table of big-endian 64-bit entries, which must lie within the file.
pub(super) async fn read_table(
    file: &Device,
    what: &str,
    offset: u64,
    entries: u64,
) -> Result<Vec<u64>> {
    // Callers have bounded `entries` by a limit of the format: no overflow.
    let len = entries * 8;
    if offset.checked_add(len).is_none_or(|end| end > file.len()) {
        return Err(Error::corrupt(format!(
            "{what} at {offset:#x}+{len:#x} exceeds the file of {:#x} bytes",
            file.len()
        ))
        .in_format("qcow2")
        .at(offset));
    }
    let bytes = file.read(offset, len).await?.to_bytes();
    Ok(bytes.chunks_exact(8).map(|entry| l::be64(entry, 0)).collect())
}

/// Repairs an image that was not closed cleanly, before it is written to.
async fn repair_dirty(file: &Device, filename: &str) -> Result<CheckReport> {
    let report = super::check::check(file, Repair::All, &|_, _| {}).await?;
    let left = read_header(file).await?.incompatible.contains(Incompatible::DIRTY);
    if let Some(why) = &report.failed {
        return Err(Error::corrupt(format!("Could not repair dirty image '{filename}': {why}"))
            .in_format("qcow2"));
    }
    if left || report.check_errors > 0 {
        return Err(Error::corrupt(format!(
            "'{filename}' was not closed cleanly and could not be repaired: {} errors are left; \
             it can be read",
            report.corruptions + report.check_errors
        ))
        .in_format("qcow2"));
    }
    Ok(report)
}

/// States in which a write could do harm.
fn refuse_unsafe_writing(header: &Header, filename: &str) -> Result<()> {
    let refuse = |error: Error| Err(error.in_format("qcow2"));
    if header.incompatible.contains(Incompatible::CORRUPT) {
        return refuse(Error::corrupt("Image is corrupt; cannot be opened read/write"));
    }
    if header.reftable_clusters == 0 && !header.incompatible.contains(Incompatible::DIRTY) {
        return refuse(Error::corrupt(format!("'{filename}' has no refcount table")));
    }
    Ok(())
}

/// Tables that share a cluster would be written over one another.
fn refuse_overlapping_tables(header: &Header, snapshot_table: (u64, u64)) -> Result<()> {
    let cluster = 1u64 << header.cluster_bits;
    let reftable_len = u64::from(header.reftable_clusters) << header.cluster_bits;
    let tables = [
        ("header", 0, cluster),
        ("active L1 table", header.l1_offset, u64::from(header.l1_size) * 8),
        ("refcount table", header.reftable_offset, reftable_len),
        ("snapshot table", snapshot_table.0, snapshot_table.1),
    ];
    // Offsets of tables that are not empty are below 2^56, lengths have limits: no overflow.
    let tables = tables.map(|(what, at, len)| {
        (what, at, if len > 0 { (at + len).next_multiple_of(cluster) } else { at })
    });
    for (i, (what, at, end)) in tables.iter().enumerate() {
        for (other, other_at, other_end) in &tables[..i] {
            if at.max(other_at) < end.min(other_end) {
                return Err(Error::corrupt(format!(
                    "the {what} overlaps the {other}; the image can only be read"
                ))
                .in_format("qcow2")
                .at(*at));
            }
        }
    }
    Ok(())
}

async fn open_data_file(
    env: &Env,
    header: &Header,
    filename: &str,
    options: &OpenOptions,
) -> Result<Option<DataFile>> {
    if !header.incompatible.contains(Incompatible::DATA_FILE) {
        if matches!(options.data_file, DataSource::Given(_)) {
            return Err(Error::invalid(
                "'data-file' can only be set for images with an external data file",
            ));
        }
        let looks_only = matches!(options.data_file, DataSource::Ignore);
        return match header.stray_raw_bit && !looks_only {
            true => Err(Error::invalid("data-file-raw requires a data file")),
            false => Ok(None),
        };
    }
    match &options.data_file {
        DataSource::Given(given) => return Ok(Some(given.clone())),
        DataSource::Ignore => {
            let device = Arc::new(Closed::new("the external data file"));
            return Ok(Some(DataFile { device, filename: Arc::from("") }));
        }
        DataSource::Follow => {}
    }
    let Some(name) = &header.data_file else {
        return Err(Error::invalid(format!(
            "'{filename}' keeps its data in an external file and does not name it; name it when \
             opening the image"
        ))
        .in_format("qcow2"));
    };
    let reference = Reference {
        kind: ReferenceKind::DataFile,
        name,
        referrer: filename,
        access: options.access,
    };
    let found = env.policy.open(reference).await?;
    Ok(Some(DataFile { device: found.device, filename: Arc::from(found.filename.as_str()) }))
}

impl Snapshot {
    /// True where its L1 table can be one, wherever the file ends.
    pub(super) fn has_plausible_l1(&self, header: &Header) -> bool {
        u64::from(self.l1_size) * 8 <= l::limits::MAX_L1_BYTES
            && self.l1_offset.is_multiple_of(1 << header.cluster_bits)
            && self.l1_offset < l::MAX_HOST_OFFSET
    }
}
