//! Changing the bitmaps that are stored with an image.

use crate::Result;
use crate::bitmap::{DirtyBitmap, default_granularity};
use crate::format::Layer;
use crate::io::BlockDevice;
use alloc::format;

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
