//! What is exported, opened.

use super::args::Serve;
use crate::cli::failure::{Failure, told};
use crate::cli::host::{Host, Opening};
use crate::cli::overlay;
use crate::cli::snapshot::{SnapshotParam, open_snapshot};
use sectora_core::bitmap::DirtyBitmap;
use sectora_core::format::Layer;
use sectora_core::io::Access;
use std::sync::Arc;

/// An opened image, and its bitmaps that are to be served.
pub(super) struct Image {
    pub(super) layer: Arc<Layer>,
    /// The layers in which bitmaps are looked for, each with what it stands on.
    named: Arc<Layer>,
}

/// Opens the image.
pub(super) async fn open_image(host: &Host, how: &Serve) -> Result<Image, Failure> {
    let opening = || {
        let access = match how.read_only || how.snapshot {
            true => Access::ReadOnly,
            false => Access::ReadWrite,
        };
        Opening { access, shares_raw: false, ..Opening::to_read(how.format.as_deref(), how.cache) }
    };
    let active = host.open_named(&how.file, opening()).await.map_err(|e| {
        let text = told(&e);
        let known = format!("Could not open '{}': ", how.file);
        // A reason in full sentences needs no more.
        let text = text.strip_prefix(&known).filter(|text| text.starts_with('\'')).unwrap_or(&text);
        Failure::new(format!("Failed to blk_new_open '{}': {text}", how.file))
    })?;
    let layer = match &how.load_snapshot {
        None => active.clone(),
        Some(snapshot) => {
            let param = SnapshotParam::parse(snapshot)?;
            open_snapshot(host, &how.file, opening(), &active, &param).await?
        }
    };
    let layer = match how.snapshot && !how.read_only {
        true => overlay::above(&host.runtime, layer, Access::ReadWrite).await?,
        false => layer,
    };
    Ok(Image { layer, named: active })
}

impl Image {
    /// The bitmap called `name`, of the image or of what it stands on.
    pub(super) async fn bitmap(&self, name: &str) -> Result<Arc<DirtyBitmap>, Failure> {
        let mut next = Some(&self.named);
        while let Some(layer) = next {
            layer.driver().load_bitmaps().await?;
            if let Some(bitmap) = layer.bitmaps().get(name) {
                if bitmap.status().inconsistent {
                    let what = format!("Bitmap '{name}' is inconsistent and cannot be used");
                    return Err(Failure::new(what));
                }
                return Ok(bitmap);
            }
            next = layer.backing();
        }
        Err(not_found(name))
    }
}

/// There is no bitmap of that name.
pub(super) fn not_found(name: &str) -> Failure {
    Failure::new(format!("Bitmap '{name}' is not found"))
}
