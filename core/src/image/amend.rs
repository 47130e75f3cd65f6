//! Changing what an image is like.

use super::Progress;
use crate::Result;
use crate::format::{Amendment, Layer};
use crate::io::{BlockDevice, Preallocation};

/// Changes an image as `options` say; all of it is durable then. The image is to be closed after
/// it, and opened again before it is written to.
///
/// # Errors
/// `InvalidInput` for what contradicts the image, `Unsupported` where its format has nothing to
/// change: nothing has changed then. Those of the devices.
pub async fn amend(image: &Layer, options: &Amendment, progress: Progress<'_>) -> Result<()> {
    image.driver().check_amend(options)?;
    // The size is the layer's matter: what is gained must read as zeroes. No size, as elsewhere in
    // options, is 0.
    if let Some(size) = options.size.filter(|size| *size != 0 && *size != image.len()) {
        image.set_len(size, Preallocation::Off).await?;
    }
    let rest = Amendment { size: None, ..options.clone() };
    image.driver().amend(&rest, progress).await
}
