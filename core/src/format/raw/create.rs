//! Making a raw image.

use crate::Result;
use crate::io::{Device, Preallocation};

/// What a new raw image is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Virtual size in bytes.
    pub size: u64,
    /// How its space is prepared.
    pub preallocation: Preallocation,
}

/// Makes `file` a raw image. What it held is gone.
///
/// # Errors
/// Those of the device.
pub async fn create(file: &Device, options: &CreateOptions) -> Result<()> {
    file.set_len(0, Preallocation::Off).await?;
    file.set_len(options.size, options.preallocation).await
}
