//! Internal snapshots (section "Snapshots"): their table, and making, applying and removing them.
//!
//! Each change is one write of the header, before which everything it points to is durable; counts
//! go up before it and down after it (`docs/formats/qcow2.md`, "Snapshots").

use super::Qcow2;
use super::claims::{Release, Reserved, Why};
use super::header::Header;
use super::layout::{COPIED, SECTOR, be16, be32, be64, limits};
use super::overlap::InactiveTables;
use crate::format::{NewSnapshot, Snapshots};
use crate::io::{BoxFuture, Device, DeviceExt, Segments, WriteFlags};
use crate::qapi::SnapshotInfo;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// Length of a table entry before its variable parts.
const FIXED_LEN: usize = 40;
/// Length of the extra data of new entries: size of the machine's state, of the disk, and count of
/// instructions.
const EXTRA_LEN: u32 = 24;
/// Where an entry says how long its extra data is, and how long that is at least where it tells the
/// size of the disk.
const EXTRA_LEN_FIELD: usize = 36;
const DISK_SIZE_END: u32 = 16;
/// Longer names are cut, as the reference implementation does.
const MAX_NAME: usize = 255;

/// An entry of the snapshot table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) l1_offset: u64,
    pub(super) l1_size: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) date_sec: u32,
    pub(super) date_nsec: u32,
    pub(super) vm_clock_nsec: u64,
    pub(super) vm_state_size: u64,
    /// Virtual size at the time; the image's own where the entry does not say.
    pub(super) disk_size: u64,
    pub(super) icount: Option<u64>,
    /// The entry as it is in the table.
    entry: Vec<u8>,
}

/// Reads the whole table. Also gives its offset and length.
pub(super) async fn read_table(
    file: &Device,
    header: &Header,
) -> Result<(Vec<Snapshot>, (u64, u64))> {
    let start = header.snapshots_offset;
    let mut out = Vec::new();
    let mut at = start;
    for index in 0..header.nb_snapshots {
        let broken = |what: String| {
            Error::corrupt(format!("snapshot table entry {index}: {what}"))
                .in_format("qcow2")
                .at(at)
        };
        if at.checked_add(FIXED_LEN as u64).is_none_or(|end| end > file.len()) {
            return Err(broken(format!("the file ends before it, at {:#x}", file.len())));
        }
        let fixed: [u8; FIXED_LEN] = file.read_array(at).await?;
        let (id_len, name_len) = (usize::from(be16(&fixed, 12)), usize::from(be16(&fixed, 14)));
        let extra_len = be32(&fixed, 36);
        if extra_len > limits::MAX_SNAPSHOT_EXTRA {
            return Err(broken(format!("{extra_len} bytes of extra data; 1024 are possible")));
        }
        let extra_len = extra_len as usize;
        let rest_len = extra_len + id_len + name_len;
        let rest_at = at + FIXED_LEN as u64;
        if rest_at + rest_len as u64 > file.len() {
            return Err(broken(format!("the file ends within it, at {:#x}", file.len())));
        }
        let rest = file.read(rest_at, rest_len as u64).await?.to_bytes();
        let (extra, names) = rest.split_at(extra_len);
        let (id, name) = names.split_at(id_len);
        let extra_field = |from: usize| (extra.len() >= from + 8).then(|| be64(extra, from));
        let snapshot = Snapshot {
            l1_offset: be64(&fixed, 0),
            l1_size: be32(&fixed, 8),
            id: String::from_utf8_lossy(id).into_owned(),
            name: String::from_utf8_lossy(name).into_owned(),
            date_sec: be32(&fixed, 16),
            date_nsec: be32(&fixed, 20),
            vm_clock_nsec: be64(&fixed, 24),
            vm_state_size: extra_field(0).unwrap_or(be32(&fixed, 32).into()),
            disk_size: extra_field(8).unwrap_or(header.size),
            icount: extra_field(16).filter(|n| *n != u64::MAX),
            entry: [&fixed, &rest[..]].concat(),
        };
        if snapshot.disk_size > limits::MAX_VIRTUAL_SIZE {
            return Err(broken(format!(
                "virtual size {:#x} exceeds {:#x}",
                snapshot.disk_size,
                limits::MAX_VIRTUAL_SIZE
            )));
        }
        if !snapshot.has_plausible_l1(header) {
            return Err(broken(format!(
                "impossible L1 table at {:#x} with {} entries",
                snapshot.l1_offset, snapshot.l1_size
            )));
        }
        out.push(snapshot);
        at = (rest_at + rest_len as u64).next_multiple_of(8);
        if at - start > limits::MAX_SNAPSHOT_TABLE_BYTES {
            return Err(Error::limit("the snapshot table exceeds 64 MiB")
                .in_format("qcow2")
                .at(start));
        }
    }
    Ok((out, (start, at - start)))
}

/// The snapshot table in memory.
#[derive(Clone, Debug, Default)]
pub(super) struct SnapshotTable {
    pub(super) list: Vec<Snapshot>,
    /// Its offset and length in bytes.
    pub(super) place: (u64, u64),
    /// The L1 tables of the snapshots.
    pub(super) tables: InactiveTables,
    /// It lies in a new place, which is durable, and the header does not say so yet.
    pub(super) moved: bool,
}

impl SnapshotTable {
    /// The table at `place` (offset and length in bytes).
    pub(super) fn new(list: Vec<Snapshot>, place: (u64, u64), cluster_bits: u32) -> Self {
        let tables = InactiveTables::new(&list, cluster_bits);
        Self { list, place, tables, moved: false }
    }

    pub(super) fn infos(&self) -> Vec<SnapshotInfo> {
        self.list.iter().map(Snapshot::info).collect()
    }

    /// The table's bytes. Entries stay as they were read, what is not known in them included.
    fn emit(list: &[Snapshot]) -> Vec<u8> {
        let mut out = Vec::new();
        for snapshot in list {
            out.resize(out.len().next_multiple_of(8), 0);
            out.extend_from_slice(&snapshot.entry);
        }
        out
    }
}

impl Snapshots for Qcow2 {
    fn list(&self) -> Vec<SnapshotInfo> {
        self.snapshots.read().infos()
    }

    fn create(&self, new: NewSnapshot) -> BoxFuture<'_, Result<SnapshotInfo>> {
        Box::pin(self.create_snapshot(new))
    }

    fn apply<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.apply_snapshot(id))
    }

    fn delete<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.delete_snapshot(id))
    }
}

impl Qcow2 {
    async fn create_snapshot(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        self.refuse_snapshots()?;
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        let count = self.snapshots.read().list.len();
        if count as u64 >= limits::MAX_SNAPSHOTS.into() {
            return Err(
                Error::limit(format!("{count} snapshots; there cannot be more")).in_format("qcow2")
            );
        }
        let made = self.make_snapshot(new).await;
        self.after(made).await
    }

    /// Ends an operation: what was not done is undone.
    async fn after<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() && !self.is_poisoned() {
            // The error that is told is the one that came first.
            let _ = self.settle_abandoned_alone().await;
        }
        result
    }

    async fn make_snapshot(&self, new: NewSnapshot) -> Result<SnapshotInfo> {
        let active = self.l1.read().entries.clone();
        let mut copy = Reserved::new(&self.limbo);
        let mut offset = 0;
        if !active.is_empty() {
            let clusters = (active.len() as u64 * 8).div_ceil(self.cluster_size());
            let taken = self.allocate_run(clusters).await?;
            copy.releases.push_back(taken);
            offset = taken.first << self.cluster_bits;
            let bytes: Vec<u8> = active.iter().flat_map(|e| (e & !COPIED).to_be_bytes()).collect();
            self.write_table(offset, bytes).await?;
        }

        let snapshot = self.new_snapshot(new, offset, active.len())?;
        let info = snapshot.info();
        let mut raised = Reserved::new(&self.limbo);
        self.flags_are_stale();
        self.raise_all(&active, true, &mut raised).await?;
        let mut list = self.snapshots.read().list.clone();
        list.push(snapshot);
        self.store_snapshots(list, || {
            raised.linked();
            copy.linked();
        })
        .await?;
        // Flags and counts went up together.
        self.flags_stale.store(false, Ordering::Release);
        if info.vm_state_size > 0 {
            // It belongs to the snapshot alone now.
            self.drop_state(Why::Snapshot).await?;
        }
        self.settle_metadata().await?;
        Ok(info)
    }

    fn new_snapshot(&self, new: NewSnapshot, l1_offset: u64, l1_size: usize) -> Result<Snapshot> {
        let id = self.snapshots.read().list.iter().map(|s| leading_number(&s.id)).max();
        let id = id.unwrap_or(0).saturating_add(1).to_string();
        let mut end = new.name.len().min(MAX_NAME);
        while !new.name.is_char_boundary(end) {
            end -= 1;
        }
        let mut snapshot = Snapshot {
            l1_offset,
            l1_size: u32::try_from(l1_size)
                .map_err(|_| Error::limit("L1 table size").in_format("qcow2"))?,
            id,
            name: new.name[..end].into(),
            date_sec: new.date_sec,
            date_nsec: new.date_nsec,
            vm_clock_nsec: new.vm_clock_nsec,
            vm_state_size: new.vm_state_size,
            disk_size: *self.virtual_size.read(),
            icount: new.icount,
            entry: Vec::new(),
        };
        snapshot.entry = snapshot.emit();
        Ok(snapshot)
    }

    async fn delete_snapshot(&self, id: &str) -> Result<()> {
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        let mut list = self.snapshots.read().list.clone();
        let index = position(&list, id)?;
        let gone = list.remove(index);
        let table = self.read_l1(gone.l1_offset, gone.l1_size.into()).await?;
        self.inspect_all(0, &table).await?;
        let deleted = self.remove_snapshot(&gone, &table, list).await;
        self.after(deleted).await
    }

    async fn remove_snapshot(
        &self,
        gone: &Snapshot,
        table: &[u64],
        rest: Vec<Snapshot>,
    ) -> Result<()> {
        self.store_snapshots(rest, || self.flags_are_stale()).await?;
        self.lower_all(Why::Snapshot, 0, table).await?;
        let count = (table.len() as u64 * 8).div_ceil(self.cluster_size());
        let first = gone.l1_offset >> self.cluster_bits;
        if count > 0 {
            self.limbo.abandon(Why::Snapshot, [Release { first, count }]);
        }
        self.settle_flags().await
    }

    async fn apply_snapshot(&self, id: &str) -> Result<()> {
        self.refuse_snapshots()?;
        if !self.bitmaps.set.all().is_empty() {
            // They tell of the disk as it is.
            let what = "Device has active dirty bitmaps";
            return Err(Error::new(ErrorKind::InUse, what).in_format("qcow2"));
        }
        self.prepare_write().await?;
        let _alone = self.alone().await?;
        let list = self.snapshots.read().list.clone();
        let wanted = &list[position(&list, id)?];
        let applied = self.return_to(wanted).await;
        self.after(applied).await
    }

    async fn return_to(&self, wanted: &Snapshot) -> Result<()> {
        let size = wanted.disk_size.next_multiple_of(SECTOR);
        let mut table = self.read_l1(wanted.l1_offset, wanted.l1_size.into()).await?;
        let needed = size.div_ceil(1 << self.header.l1_entry_span_bits());
        if (table.len() as u64) < needed {
            return Err(Error::corrupt(format!(
                "the snapshot's L1 table of {} entries is too small for {size:#x} bytes",
                table.len()
            ))
            .in_format("qcow2")
            .at(wanted.l1_offset));
        }
        let old = self.l1.read().entries.clone();
        self.inspect_all(0, &old).await?;
        self.inspect_all(0, &table).await?;
        let mut raised = Reserved::new(&self.limbo);
        self.flags_are_stale();
        self.raise_all(&table, false, &mut raised).await?;
        for entry in &mut table {
            *entry &= !COPIED;
        }
        table.resize(table.len().max(1), 0);
        self.swap_l1(table, size, || raised.linked()).await?;
        self.lower_all(Why::Snapshot, 0, &old).await?;
        self.settle_flags().await
    }

    /// Puts a table of snapshots in the place of the one there is. It is durable before the header
    /// points to it; `linked` is called when there is no way back.
    async fn store_snapshots(&self, list: Vec<Snapshot>, linked: impl FnOnce()) -> Result<()> {
        let bytes = SnapshotTable::emit(&list);
        let len = bytes.len() as u64;
        if len > limits::MAX_SNAPSHOT_TABLE_BYTES {
            return Err(Error::limit("the snapshot table would exceed 64 MiB").in_format("qcow2"));
        }
        let mut reserved = Reserved::new(&self.limbo);
        let mut offset = 0;
        if len > 0 {
            let taken = self.allocate_run(len.div_ceil(self.cluster_size())).await?;
            reserved.releases.push_back(taken);
            offset = taken.first << self.cluster_bits;
        }
        // The counts of the new place, and everything the new entries refer to, go first.
        self.write_back_all(true, false).await?;
        let _order = self.write_back_lock.lock().await;
        if len > 0 {
            self.write_table(offset, bytes).await?;
            self.barrier().await?;
        }
        // Nothing has changed so far. From here on the new table is the one in use, and if this
        // future is dropped before the header says so, the next write-back makes it.
        linked();
        reserved.linked();
        let mut table = SnapshotTable::new(list, (offset, len), self.cluster_bits);
        table.moved = true;
        let old = core::mem::replace(&mut *self.snapshots.write(), table).place;
        self.guard.snapshots_changed();
        let count = old.1.div_ceil(self.cluster_size());
        let first = old.0 >> self.cluster_bits;
        self.limbo.free_later(Why::Snapshot, (count > 0).then_some(Release { first, count }));
        let result = self.write_table_pointers().await;
        self.poison_on_error(result)
    }

    /// Writes a table that nothing refers to yet to its clusters.
    pub(super) async fn write_table(&self, offset: u64, bytes: Vec<u8>) -> Result<()> {
        self.cache.forget(offset, (bytes.len() as u64).next_multiple_of(self.cluster_size()));
        let mut data = Segments::from(bytes);
        data.push_zero(data.len().next_multiple_of(self.cluster_size()) - data.len());
        self.file.write(offset, data, WriteFlags::empty()).await
    }

    /// Lets every snapshot say how large the disk was: those that do not mean the size as it is.
    /// The caller has the image to himself, and is going to change it.
    pub(super) async fn complete_snapshots(&self) -> Result<()> {
        let mut list = self.snapshots.read().list.clone();
        let silent = |s: &Snapshot| be32(&s.entry, EXTRA_LEN_FIELD) < DISK_SIZE_END;
        if !list.iter().any(silent) {
            return Ok(());
        }
        for snapshot in list.iter_mut().filter(|s| silent(s)) {
            snapshot.add_extra();
        }
        self.store_snapshots(list, || ()).await
    }

    fn refuse_snapshots(&self) -> Result<()> {
        match self.data {
            Some(_) => Err(Error::unsupported("snapshots of images with an external data file")
                .in_format("qcow2")),
            None => Ok(()),
        }
    }
}

fn position(list: &[Snapshot], id: &str) -> Result<usize> {
    list.iter().position(|s| s.id == id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no snapshot with the id '{id}'"))
            .in_format("qcow2")
    })
}

/// The number that a text begins with; 0 where it does not.
fn leading_number(text: &str) -> u64 {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().unwrap_or(0)
}

/// The snapshot called `wanted`: by id, else by name.
pub(super) fn find<'a>(snapshots: &'a [Snapshot], wanted: &str) -> Result<&'a Snapshot> {
    let by_id = snapshots.iter().find(|s| s.id == wanted);
    by_id.or_else(|| snapshots.iter().find(|s| s.name == wanted)).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no snapshot '{wanted}'")).in_format("qcow2")
    })
}

impl Snapshot {
    /// The bytes of a new entry.
    fn emit(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let len16 = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes();
        out.extend_from_slice(&self.l1_offset.to_be_bytes());
        out.extend_from_slice(&self.l1_size.to_be_bytes());
        out.extend_from_slice(&len16(&self.id));
        out.extend_from_slice(&len16(&self.name));
        out.extend_from_slice(&self.date_sec.to_be_bytes());
        out.extend_from_slice(&self.date_nsec.to_be_bytes());
        out.extend_from_slice(&self.vm_clock_nsec.to_be_bytes());
        let short = u32::try_from(self.vm_state_size).unwrap_or(0);
        out.extend_from_slice(&short.to_be_bytes());
        out.extend_from_slice(&EXTRA_LEN.to_be_bytes());
        out.extend_from_slice(&self.vm_state_size.to_be_bytes());
        out.extend_from_slice(&self.disk_size.to_be_bytes());
        out.extend_from_slice(&self.icount.unwrap_or(u64::MAX).to_be_bytes());
        out.extend_from_slice(self.id.as_bytes());
        out.extend_from_slice(self.name.as_bytes());
        out
    }

    /// Adds the extra data of new entries to one that has less.
    fn add_extra(&mut self) {
        let told = be32(&self.entry, EXTRA_LEN_FIELD) as usize;
        let names = self.entry.split_off(FIXED_LEN + told);
        self.entry.truncate(EXTRA_LEN_FIELD);
        self.entry.extend_from_slice(&EXTRA_LEN.to_be_bytes());
        self.entry.extend_from_slice(&self.vm_state_size.to_be_bytes());
        self.entry.extend_from_slice(&self.disk_size.to_be_bytes());
        self.entry.extend_from_slice(&self.icount.unwrap_or(u64::MAX).to_be_bytes());
        self.entry.extend_from_slice(&names);
    }

    /// The schema's form.
    pub(super) fn info(&self) -> SnapshotInfo {
        SnapshotInfo {
            id: self.id.clone(),
            name: self.name.clone(),
            vm_state_size: self.vm_state_size,
            date_sec: self.date_sec.into(),
            date_nsec: self.date_nsec.into(),
            vm_clock_sec: self.vm_clock_nsec / 1_000_000_000,
            vm_clock_nsec: self.vm_clock_nsec % 1_000_000_000,
            icount: self.icount,
        }
    }
}
