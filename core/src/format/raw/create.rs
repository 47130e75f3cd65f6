//! Making a raw image.

use super::SECTOR;
use crate::io::{Device, DeviceExt, Preallocation};
use crate::{Error, Result};
use alloc::format;

/// What a new raw image is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CreateOptions {
    /// Virtual size in bytes; the file gets whole sectors of 512 bytes.
    pub size: u64,
    /// How its space is prepared.
    pub preallocation: Preallocation,
}

impl CreateOptions {
    /// Refuses what no file can be.
    ///
    /// # Errors
    /// `Limit` for a size that a file's length cannot have.
    pub fn check(&self) -> Result<()> {
        let most = i64::MAX.unsigned_abs();
        if self.size > most {
            let what =
                format!("size {:#x} is too large, a file has at most {most:#x} bytes", self.size);
            return Err(Error::limit(what).in_format("raw"));
        }
        Ok(())
    }
}

/// Makes `file` a raw image. What it held is gone.
///
/// # Errors
/// Those of the device.
pub async fn create(file: &Device, options: &CreateOptions) -> Result<()> {
    options.check()?;
    file.make_empty().await?;
    let size = options.size.next_multiple_of(SECTOR);
    file.set_len(size, options.preallocation).await
}
