//! Bitmaps of memory into the image (`docs/formats/qcow2.md`, "Bitmaps").

use super::super::Qcow2;
use super::super::claims::{Release, Reserved, Why};
use super::super::header::{BitmapsExtension, ExtensionArea};
use super::super::layout::{self as l, Autoclear, be64, extension, header, limits};
use super::super::open::read_table;
use super::super::options::OverlapChecks;
use super::{Bitmap, Flags, MAX_NAME};
use crate::bitmap::DirtyBitmap;
use crate::io::WriteFlags;
use crate::{Error, Result};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Offset of the flags in a directory entry.
const FLAGS: u64 = 12;
/// Takes the place of a bitmaps extension that is gone and cannot be cut off: an extension that
/// means nothing.
const PADDING: u32 = 0x7061_6464;

impl Qcow2 {
    /// Refuses a bitmap that the format cannot keep.
    pub(in super::super) fn can_store_bitmap(&self, bitmap: &DirtyBitmap) -> Result<()> {
        if self.header.version < 3 {
            return Err(Error::unsupported("Cannot store dirty bitmaps in qcow2 v2 files"));
        }
        if bitmap.name().len() > MAX_NAME {
            return Err(Error::invalid("Name length exceeds maximum (1023 characters)"));
        }
        if bitmap.serialized_len() > limits::MAX_BITMAP_BYTES {
            return Err(Error::limit(
                "Too much space will be occupied by the bitmap. Use larger granularity",
            ));
        }
        let persistent = self.bitmaps.set.all().iter().filter(|b| b.status().persistent).count();
        if persistent >= limits::MAX_BITMAPS as usize {
            return Err(Error::limit("Maximum number of persistent bitmaps is already reached"));
        }
        Ok(())
    }

    /// Marks bitmaps *in use*, durably, before what they record changes: those that record now or
    /// would when the image is next opened, or `all`. The caller holds `touched`.
    pub(in super::super) async fn mark_bitmaps(&self, all: bool) -> Result<()> {
        let set = &self.bitmaps.set;
        let mut entries = self.bitmaps.kept.lock().entries.clone();
        let mut marked = false;
        for entry in &mut entries {
            let records = || set.get(&entry.name).is_some_and(|b| b.status().recording);
            let wanted = all || entry.flags.contains(Flags::AUTO) || records();
            if wanted && !entry.flags.contains(Flags::IN_USE) {
                entry.flags |= Flags::IN_USE;
                let bytes = entry.flags.bits().to_be_bytes().to_vec();
                self.guard(entry.at, 8, OverlapChecks::BITMAP_DIRECTORY).await?;
                // Within 8 aligned bytes: whole or not at all.
                self.file.write(entry.at + FLAGS, bytes.into(), WriteFlags::empty()).await?;
                marked = true;
            }
        }
        if marked {
            self.file.flush().await?;
            self.bitmaps.kept.lock().entries = entries;
        }
        Ok(())
    }

    /// Writes what differs from the file: data and tables, then the directory, then the header's
    /// reference to it. The old ones are freed when that is durable.
    pub(in super::super) async fn store_bitmaps(&self) -> Result<bool> {
        let loaded = self.bitmaps.loaded.lock().await;
        if !*loaded {
            return Ok(false);
        }
        let kept = self.bitmaps.kept.lock().clone();
        // A change of length may have been given up halfway.
        self.bitmaps.set.resize(*self.virtual_size.read());
        let all = self.bitmaps.set.all();
        let bitmaps: Vec<_> = all.into_iter().filter(|b| b.status().persistent).collect();
        let same = kept.entries.len() == bitmaps.len()
            && kept.entries.iter().zip(&bitmaps).all(|(entry, bitmap)| {
                entry.name == bitmap.name()
                    && !differs(bitmap)
                    && entry.flags == flags(bitmap, entry.flags)
            });
        if same {
            return Ok(false);
        }
        self.prepare_header().await?;
        let mut reserved = Reserved::new(&self.limbo);
        let mut entries: Vec<Bitmap> = Vec::new();
        let mut gone = kept.entries;
        for bitmap in &bitmaps {
            let old = gone.iter().position(|entry| entry.name == bitmap.name());
            let unchanged = old.filter(|_| !differs(bitmap));
            // The same name may stand for a new bitmap, which counts as changed.
            let mut entry = match unchanged {
                Some(old) => gone.remove(old),
                None => self.store_bitmap(bitmap, &mut reserved).await?,
            };
            entry.flags = flags(bitmap, entry.flags);
            entries.push(entry);
        }
        let directory = self.store_directory(&mut entries, &mut reserved).await?;
        let mut freed = self.directory_clusters(kept.directory.as_ref());
        for entry in &gone {
            freed.extend(self.bitmap_clusters(entry).await);
        }
        // Refcounts, data, tables and directory.
        self.write_back(true).await?;
        let result = self.point_to_bitmaps(directory.as_ref()).await;
        self.poison_on_error(result)?;
        reserved.linked();
        self.limbo.free_later(Why::Other, freed);
        *self.bitmaps.kept.lock() = super::load::Kept { directory, entries };
        bitmaps.iter().for_each(|bitmap| bitmap.stored());
        Ok(true)
    }

    /// Writes one bitmap to a new place.
    async fn store_bitmap(
        &self,
        bitmap: &Arc<DirtyBitmap>,
        reserved: &mut Reserved,
    ) -> Result<Bitmap> {
        let (len, cluster) = (bitmap.serialized_len(), self.cluster_size());
        if len > limits::MAX_BITMAP_BYTES {
            return Err(Error::limit(format!(
                "bitmap '{}' is too large to be stored: {len:#x} bytes",
                bitmap.name()
            ))
            .in_format("qcow2"));
        }
        let mut table = Vec::new();
        for start in (0..len).step_by(1 << self.cluster_bits) {
            let entry = match bitmap.uniform(start, cluster) {
                Some(false) => 0,
                Some(true) => l::ZERO,
                None => {
                    let taken = self.allocate(1).await?;
                    reserved.releases.push_back(taken);
                    let offset = taken.first << self.cluster_bits;
                    let bytes = bitmap.serialize(start, cluster);
                    self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
                    offset
                }
            };
            table.extend_from_slice(&u64::to_be_bytes(entry));
        }
        // At most 2^20 entries.
        let table_size = (table.len() / 8) as u32;
        let table_offset = self.store_table(table, reserved).await?;
        Ok(Bitmap {
            table_offset,
            table_size,
            flags: Flags::empty(),
            // At most 31.
            granularity_bits: bitmap.granularity().trailing_zeros() as u8,
            name: bitmap.name().to_string(),
            at: 0,
        })
    }

    /// Writes the directory to a new place.
    async fn store_directory(
        &self,
        entries: &mut [Bitmap],
        reserved: &mut Reserved,
    ) -> Result<Option<BitmapsExtension>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for entry in &mut *entries {
            entry.at = bytes.len() as u64;
            entry.emit(&mut bytes);
        }
        let directory_size = bytes.len() as u64;
        let directory_offset = self.store_table(bytes, reserved).await?;
        entries.iter_mut().for_each(|entry| entry.at += directory_offset);
        let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        Ok(Some(BitmapsExtension { count, reserved: 0, directory_size, directory_offset }))
    }

    /// Writes bytes to new clusters in a row.
    async fn store_table(&self, mut bytes: Vec<u8>, reserved: &mut Reserved) -> Result<u64> {
        if bytes.is_empty() {
            return Ok(0);
        }
        bytes.resize(bytes.len().next_multiple_of(1 << self.cluster_bits), 0);
        let taken = self.allocate_run(bytes.len() as u64 >> self.cluster_bits).await?;
        reserved.releases.push_back(taken);
        let offset = taken.first << self.cluster_bits;
        self.file.write(offset, bytes.into(), WriteFlags::empty()).await?;
        Ok(offset)
    }

    fn directory_clusters(&self, directory: Option<&BitmapsExtension>) -> Vec<Release> {
        let run = |d: &BitmapsExtension| self.run(d.directory_offset, d.directory_size);
        directory.map(run).into_iter().collect()
    }

    fn run(&self, offset: u64, len: u64) -> Release {
        let first = offset >> self.cluster_bits;
        Release { first, count: len.div_ceil(self.cluster_size()) }
    }

    /// The clusters of a bitmap that is not wanted any more. Those of a table that cannot be one
    /// are left: a leak at worst.
    async fn bitmap_clusters(&self, entry: &Bitmap) -> Vec<Release> {
        let (offset, size) = (entry.table_offset, u64::from(entry.table_size));
        let aligned = |offset: u64| offset.is_multiple_of(self.cluster_size());
        if size == 0 || !aligned(offset) || size * 8 > limits::MAX_BITMAP_BYTES {
            return Vec::new();
        }
        let Ok(table) = read_table(&self.file, "bitmap table", offset, size).await else {
            return Vec::new();
        };
        let mut out = Vec::from([self.run(offset, size * 8)]);
        for value in table {
            let data = value & l::OFFSET_MASK;
            if data != 0 && aligned(data) && data < self.file.len() {
                out.push(self.run(data, 1));
            }
        }
        let mut counted = Vec::new();
        for run in out {
            if matches!(self.refcount_of(run.first).await, Ok(1..)) {
                counted.push(run);
            }
        }
        counted
    }

    /// Lets the header refer to a directory that is durable. Each step is one write that a crash
    /// leaves whole or undone, and is durable before the next.
    pub(in super::super) async fn point_to_bitmaps(
        &self,
        directory: Option<&BitmapsExtension>,
    ) -> Result<()> {
        let len = self.file.len().min(self.cluster_size());
        let bytes = self.file.read(0, len).await?.to_bytes();
        let area = ExtensionArea::find(&bytes)?;
        let bit = Autoclear::BITMAPS.bits();
        let others = be64(&bytes, header::AUTOCLEAR) & !bit;
        let mut valid = be64(&bytes, header::AUTOCLEAR) & bit != 0;
        match (directory, area.bitmaps) {
            (Some(directory), Some(at)) => {
                let data = at + extension::HEAD_LEN;
                let sector = |at: usize| at as u64 / l::SECTOR;
                if valid && sector(data) != sector(data + extension::BITMAPS_LEN - 1) {
                    self.put_header(header::AUTOCLEAR, &others.to_be_bytes()).await?;
                    valid = false;
                }
                self.put_header(data, &directory.emit()).await?;
            }
            (Some(directory), None) => self.add_extension(&area, directory, &bytes).await?,
            (None, Some(at)) => {
                self.put_header(header::AUTOCLEAR, &others.to_be_bytes()).await?;
                let last = at + extension::HEAD_LEN + extension::BITMAPS_LEN == area.end;
                let put: &[u8] = if last { &[0; 8] } else { &PADDING.to_be_bytes() };
                return self.put_header(at, put).await;
            }
            (None, None) => return Ok(()),
        }
        if !valid {
            self.put_header(header::AUTOCLEAR, &(others | bit).to_be_bytes()).await?;
        }
        Ok(())
    }

    /// Adds the bitmaps extension behind the others. The backing file's name, which may lie there,
    /// is copied to where it is not in the way first.
    async fn add_extension(
        &self,
        area: &ExtensionArea,
        directory: &BitmapsExtension,
        bytes: &[u8],
    ) -> Result<()> {
        let (at, data) = (area.end, area.end + extension::HEAD_LEN);
        let end = data + extension::BITMAPS_LEN + extension::HEAD_LEN;
        let full = || {
            Err(Error::limit("the first cluster has no room for the bitmaps extension")
                .in_format("qcow2"))
        };
        if end > bytes.len() || bytes[at..data] != [0; extension::HEAD_LEN] {
            return full();
        }
        let (name_at, name_end) = area.backing_name;
        if name_at < end && at < name_end {
            let place = end.max(name_end).next_multiple_of(8);
            if place + (name_end - name_at) > bytes.len() {
                return full();
            }
            self.put_header(place, &bytes[name_at..name_end]).await?;
            let field = (place as u64).to_be_bytes();
            self.put_header(header::BACKING_OFFSET, &field).await?;
        }
        let mut rest = directory.emit().to_vec();
        rest.resize(end - data, 0);
        // The end marker before it hides it until it is whole.
        self.put_header(data, &rest).await?;
        let mut head = extension::BITMAPS.to_be_bytes().to_vec();
        // 24.
        head.extend_from_slice(&(extension::BITMAPS_LEN as u32).to_be_bytes());
        self.put_header(at, &head).await
    }

    /// Changes bytes of the header cluster, durably.
    async fn put_header(&self, at: usize, bytes: &[u8]) -> Result<()> {
        self.file.write(at as u64, bytes.to_vec().into(), WriteFlags::empty()).await?;
        self.file.flush().await
    }
}

/// The flags that a bitmap is stored with. Those of an inconsistent one stay.
fn flags(bitmap: &DirtyBitmap, old: Flags) -> Flags {
    let status = bitmap.status();
    match (status.inconsistent, status.recording) {
        (true, _) => old,
        (false, true) => Flags::AUTO,
        (false, false) => Flags::empty(),
    }
}

/// True where the file does not have what is in memory. It stays as it is for an inconsistent one.
fn differs(bitmap: &DirtyBitmap) -> bool {
    bitmap.is_changed() && !bitmap.status().inconsistent
}
