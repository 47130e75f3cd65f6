//! The named bitmaps of one disk.

use super::DirtyBitmap;
use crate::sync::RwLock;
use crate::{Error, ErrorKind, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};
use smallvec::SmallVec;

/// The named bitmaps of one disk, in the order in which they were made.
#[derive(Debug, Default)]
pub struct BitmapSet {
    list: RwLock<Vec<Arc<DirtyBitmap>>>,
    /// Grows whenever a bitmap may have begun to record.
    generation: AtomicU32,
}

impl BitmapSet {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<DirtyBitmap>> {
        self.list.read().clone()
    }

    /// The bitmap of that name.
    ///
    /// # Errors
    /// `NotFound` where there is none.
    pub fn find(&self, name: &str) -> Result<Arc<DirtyBitmap>> {
        self.get(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("Dirty bitmap '{name}' not found"))
        })
    }

    /// The bitmap of that name, where there is one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<DirtyBitmap>> {
        self.list.read().iter().find(|bitmap| bitmap.name() == name).cloned()
    }

    /// Adds a bitmap.
    ///
    /// # Errors
    /// `InvalidInput` where one of its name is there.
    pub fn add(&self, bitmap: DirtyBitmap) -> Result<Arc<DirtyBitmap>> {
        let bitmap = Arc::new(bitmap);
        self.adopt(bitmap.clone())?;
        Ok(bitmap)
    }

    /// Takes over a bitmap of another set that is of the same disk.
    ///
    /// # Errors
    /// `InvalidInput` where one of its name is there.
    pub fn adopt(&self, bitmap: Arc<DirtyBitmap>) -> Result<()> {
        let mut list = self.list.write();
        if list.iter().any(|other| other.name() == bitmap.name()) {
            return Err(Error::invalid(format!("Bitmap already exists: {}", bitmap.name())));
        }
        list.push(bitmap);
        self.started();
        Ok(())
    }

    /// Removes a bitmap; an inconsistent one too.
    ///
    /// # Errors
    /// `NotFound` where there is none of that name, `InUse` where it is busy, `Denied` where the
    /// image is only read.
    pub fn remove(&self, name: &str) -> Result<()> {
        let bitmap = self.find(name)?;
        bitmap.refuse_busy()?;
        if bitmap.status().readonly {
            return Err(Error::denied(format!(
                "Bitmap '{name}' is readonly and cannot be modified"
            )));
        }
        self.list.write().retain(|other| !Arc::ptr_eq(other, &bitmap));
        Ok(())
    }

    /// Marks everything in a bitmap as clean.
    ///
    /// # Errors
    /// `NotFound`, and those of [`DirtyBitmap::check_writable`].
    pub fn clear(&self, name: &str) -> Result<()> {
        let bitmap = self.find(name)?;
        bitmap.check_writable()?;
        bitmap.clear();
        Ok(())
    }

    /// Lets a bitmap record writes, or not.
    ///
    /// # Errors
    /// `NotFound`, and those of [`DirtyBitmap::check_writable`].
    pub fn set_recording(&self, name: &str, recording: bool) -> Result<()> {
        let bitmap = self.find(name)?;
        bitmap.check_writable()?;
        bitmap.set_recording(recording);
        self.started();
        Ok(())
    }

    /// Merges `source` into the bitmap of that name.
    ///
    /// # Errors
    /// `NotFound`, and those of [`DirtyBitmap::check_writable`], [`DirtyBitmap::check_usable`] of
    /// the source, and [`DirtyBitmap::merge`].
    pub fn merge(&self, name: &str, source: &DirtyBitmap) -> Result<()> {
        let target = self.find(name)?;
        target.check_writable()?;
        source.check_usable()?;
        target.merge(source)
    }

    /// Records a change of `[offset, offset + len)` that is about to begin, in all bitmaps that
    /// record. They are told once more when the answer is dropped: who cleared a bit meanwhile may
    /// have read the old bytes.
    #[must_use]
    pub fn record(&self, offset: u64, len: u64) -> Recording {
        let list = self.list.read();
        let bitmaps = list.iter().filter(|b| b.status().recording).cloned().collect();
        let recording = Recording { bitmaps, offset, len };
        recording.note();
        recording
    }

    /// The disk has another length: bitmaps end with it, and what is gained is clean.
    pub fn resize(&self, size: u64) {
        self.list.read().iter().for_each(|bitmap| bitmap.resize(size));
    }

    /// Another number whenever a bitmap may have begun to record.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    fn started(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

/// A change that is under way.
#[derive(Debug)]
pub struct Recording {
    bitmaps: SmallVec<[Arc<DirtyBitmap>; 2]>,
    offset: u64,
    len: u64,
}

impl Recording {
    fn note(&self) {
        self.bitmaps.iter().for_each(|bitmap| bitmap.record(self.offset, self.len));
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.note();
    }
}
