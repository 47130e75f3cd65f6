//! Making a raw image.

use super::SECTOR;
use crate::Result;
use crate::io::{Device, DeviceExt, Preallocation};

/// What a new raw image is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Virtual size in bytes; the file gets whole sectors of 512 bytes.
    pub size: u64,
    /// How its space is prepared.
    pub preallocation: Preallocation,
}

/// Makes `file` a raw image. What it held is gone.
///
/// # Errors
/// Those of the device.
pub async fn create(file: &Device, options: &CreateOptions) -> Result<()> {
    file.make_empty().await?;
    let size = options.size.next_multiple_of(SECTOR);
    file.set_len(size, options.preallocation).await
}
