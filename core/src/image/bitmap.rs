//! Changing the bitmaps that are stored with an image.

use crate::bitmap::{BitmapSet, DirtyBitmap, default_granularity};
use crate::format::Layer;
use crate::io::BlockDevice;
use crate::{Error, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What to do with a bitmap; the names are those of the schema's commands.
#[derive(Clone, Copy, Debug)]
pub enum BitmapAction<'a> {
    /// Makes it, to record from now on. The granularity is in bytes.
    Add {
        /// That of [`default_granularity`] where it is `None`.
        granularity: Option<u64>,
    },
    /// Removes it.
    Remove,
    /// Marks everything in it as clean.
    Clear,
    /// Lets it record.
    Enable,
    /// Lets it record no more.
    Disable,
    /// Adds what is dirty in another one.
    Merge {
        /// The image that has it; its bitmaps are loaded.
        source: &'a Layer,
        /// Its name.
        name: &'a str,
    },
}

impl BitmapAction<'_> {
    /// What it is called in messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "add",
            Self::Remove => "remove",
            Self::Clear => "clear",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Merge { .. } => "merge",
        }
    }
}

/// Does one thing to the persistent bitmap `name` of an image that is open for writing. It is
/// stored when the image is [closed](Layer::close).
///
/// # Errors
/// `NotFound` without a bitmap of that name, `InvalidInput` for one that cannot be made or is there
/// already, `Unsupported` and `Limit` for one that the format cannot keep, `Corrupt` for one whose
/// contents are not known. The bitmaps are as before then.
pub fn bitmap(layer: &Layer, name: &str, action: BitmapAction<'_>) -> Result<()> {
    let set = layer.bitmaps();
    match action {
        BitmapAction::Add { granularity } => {
            let default = || default_granularity(layer.driver().geometry().cluster_size);
            let size = granularity.filter(|g| *g != 0).unwrap_or_else(default);
            let bitmap = DirtyBitmap::new(name, layer.len(), size)?;
            if set.get(name).is_none() {
                layer.driver().can_store_bitmap(&bitmap).map_err(|e| {
                    let to = layer.filename();
                    e.context(match layer.driver().bitmaps() {
                        Some(_) => format!("Can't make bitmap '{name}' persistent in '{to}'"),
                        None => format!("Can't store persistent bitmaps to {to}"),
                    })
                })?;
            }
            bitmap.set_persistent(true);
            set.add(bitmap).map(|_| ())
        }
        BitmapAction::Remove => set.remove(name),
        BitmapAction::Clear => set.clear(name),
        BitmapAction::Enable => set.set_recording(name, true),
        BitmapAction::Disable => set.set_recording(name, false),
        BitmapAction::Merge { source, name: other } => {
            set.find(name)?;
            set.merge(name, &*source.bitmaps().find(other)?)
        }
    }
}

/// The bitmaps that are stored with an image, the latest first, as the reference goes through them.
#[must_use]
pub fn persistent_bitmaps(set: &BitmapSet) -> Vec<Arc<DirtyBitmap>> {
    set.all().into_iter().rev().filter(|bitmap| bitmap.status().persistent).collect()
}

/// Gives `target`, which is open for writing, the persistent bitmaps of `source`, whose bitmaps are
/// loaded: names, granularities, contents, and whether they record. Inconsistent ones are left
/// out. They are stored when the image is [closed](Layer::close).
///
/// # Errors
/// As [`bitmap`] has them for [`BitmapAction::Add`] and [`BitmapAction::Merge`]. Those copied before
/// the one that failed are there then.
pub fn copy_bitmaps(source: &Layer, target: &Layer) -> Result<()> {
    let mut copies = Vec::new();
    let mut result = Ok(());
    let originals = persistent_bitmaps(source.bitmaps());
    for original in originals.iter().filter(|bitmap| !bitmap.status().inconsistent) {
        match copy_of(original, target) {
            Ok(copy) => copies.push(copy),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    // In the order in which the source has them.
    for copy in copies.into_iter().rev() {
        target.bitmaps().add(copy)?;
    }
    result
}

fn copy_of(original: &DirtyBitmap, target: &Layer) -> Result<DirtyBitmap> {
    let name = original.name();
    let made = || {
        if target.bitmaps().get(name).is_some() {
            return Err(Error::invalid(format!("Bitmap already exists: {name}")));
        }
        let copy = DirtyBitmap::new(name, target.len(), original.granularity())?;
        target.driver().can_store_bitmap(&copy)?;
        Ok(copy)
    };
    let copy = made().map_err(|e| e.context(format!("Failed to create bitmap {name}")))?;
    copy.merge(original).map_err(|e| e.context(format!("Failed to populate bitmap {name}")))?;
    copy.set_persistent(true);
    copy.set_recording(original.status().recording);
    Ok(copy)
}
