//! Bitmaps of the image into memory.

use super::super::Qcow2;
use super::super::header::{BitmapsExtension, Header};
use super::super::layout::{self as l, Autoclear, limits};
use super::super::open::read_table;
use super::{Bitmap, Flags};
use crate::bitmap::{BitmapSet, DirtyBitmap};
use crate::io::DeviceExt;
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;

/// The bitmaps of an image: in memory, and where the file has them.
#[derive(Debug)]
pub(in super::super) struct Persistent {
    pub(in super::super) set: Arc<BitmapSet>,
    pub(super) kept: Mutex<Kept>,
    /// Held while they are loaded; true when they are.
    pub(super) loaded: async_lock::Mutex<bool>,
    /// Bitmaps that recorded at this generation of the set are marked *in use*.
    pub(in super::super) marked: AtomicU32,
    /// The image shows a snapshot, which has no bitmaps.
    of_snapshot: bool,
}

/// What the file has.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept {
    /// The directory, where it is consistent.
    pub(super) directory: Option<BitmapsExtension>,
    pub(super) entries: Vec<Bitmap>,
}

impl Persistent {
    pub(in super::super) fn new(header: &Header, of_snapshot: bool) -> Self {
        let valid = header.autoclear.contains(Autoclear::BITMAPS);
        let kept = Kept { directory: header.bitmaps.filter(|_| valid), entries: Vec::new() };
        Self {
            set: Arc::default(),
            kept: Mutex::new(kept),
            loaded: async_lock::Mutex::new(false),
            marked: AtomicU32::new(0),
            of_snapshot,
        }
    }
}

fn broken(bitmap: &Bitmap, what: impl Into<String>) -> Error {
    let what = format!("bitmap '{}': {}", bitmap.name, what.into());
    Error::corrupt(what).in_format("qcow2").at(bitmap.at)
}

impl Qcow2 {
    /// Where the directory is, if the image has one that is consistent.
    pub(in super::super) fn bitmap_directory(&self) -> Option<BitmapsExtension> {
        self.bitmaps.kept.lock().directory
    }

    /// Loads all bitmaps, once.
    pub(in super::super) async fn load_bitmaps(&self) -> Result<()> {
        let mut loaded = self.bitmaps.loaded.lock().await;
        if *loaded || self.bitmaps.of_snapshot {
            return Ok(());
        }
        let entries = self.read_bitmaps().await?;
        // A data cluster belongs to one bitmap: memory follows the file, whatever the tables say.
        let mut room = self.file.len().div_ceil(self.cluster_size());
        let mut found: Vec<DirtyBitmap> = Vec::new();
        for entry in &entries {
            if found.iter().any(|other| other.name() == entry.name) {
                return Err(broken(entry, "the name is there twice"));
            }
            found.push(self.load_bitmap(entry, &mut room).await?);
        }
        for bitmap in found {
            self.bitmaps.set.add(bitmap)?;
        }
        self.bitmaps.kept.lock().entries = entries;
        *loaded = true;
        Ok(())
    }

    async fn load_bitmap(&self, entry: &Bitmap, room: &mut u64) -> Result<DirtyBitmap> {
        let size = *self.virtual_size.read();
        // At most 2^31, by the directory.
        let bitmap = DirtyBitmap::new(&entry.name, size, 1 << entry.granularity_bits)
            .map_err(|e| e.context(format!("bitmap '{}'", entry.name)).at(entry.at))?;
        bitmap.set_persistent(true);
        bitmap.set_recording(entry.flags.contains(Flags::AUTO));
        if entry.name.contains(char::REPLACEMENT_CHARACTER) {
            return Err(Error::unsupported("a bitmap's name is not UTF-8")
                .in_format("qcow2")
                .at(entry.at));
        }
        if !Flags::all().contains(entry.flags) {
            return Err(broken(entry, format!("unknown flags {:#x}", entry.flags.bits())));
        }
        if entry.flags.contains(Flags::IN_USE) {
            bitmap.set_inconsistent();
        } else {
            self.load_data(entry, &bitmap, room).await?;
        }
        if !self.writable {
            bitmap.set_readonly();
        }
        bitmap.stored();
        Ok(bitmap)
    }

    async fn load_data(&self, entry: &Bitmap, bitmap: &DirtyBitmap, room: &mut u64) -> Result<()> {
        let (len, cluster) = (bitmap.serialized_len(), self.cluster_size());
        if len > limits::MAX_BITMAP_BYTES {
            return Err(Error::limit(format!(
                "bitmap '{}' is too large: {len:#x} bytes",
                entry.name
            ))
            .in_format("qcow2")
            .at(entry.at));
        }
        if u64::from(entry.table_size) != len.div_ceil(cluster) {
            let what = format!(
                "a table of {} entries, {} are needed",
                entry.table_size,
                len.div_ceil(cluster)
            );
            return Err(broken(entry, what));
        }
        if !entry.table_offset.is_multiple_of(cluster) {
            return Err(broken(entry, "its table is not cluster aligned"));
        }
        let table =
            read_table(&self.file, "bitmap table", entry.table_offset, entry.table_size.into());
        for (i, value) in (0u64..).zip(table.await?) {
            let offset = value & l::OFFSET_MASK;
            let start = i * cluster;
            let bad = |what: &str| {
                let at = entry.table_offset + i * 8;
                Err(broken(entry, what.to_string()).at(at))
            };
            if value & !(l::OFFSET_MASK | l::ZERO) != 0 || (offset != 0 && value & l::ZERO != 0) {
                return bad("a table entry has reserved bits");
            }
            if offset == 0 {
                if value & l::ZERO != 0 {
                    bitmap.deserialize_ones(start, cluster);
                }
                continue;
            }
            if !offset.is_multiple_of(cluster) || offset >= self.file.len() {
                return bad("a table entry leads to no cluster of the file");
            }
            let Some(left) = room.checked_sub(1) else {
                return bad("the tables have more clusters than the file");
            };
            *room = left;
            let bytes = self.file.read_padded(offset, cluster.min(len - start)).await?;
            if !bytes.is_zero() {
                bitmap.deserialize(start, &bytes.to_bytes());
            }
        }
        Ok(())
    }
}
