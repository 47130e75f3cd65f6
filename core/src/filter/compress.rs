//! `compress` (the schema's driver, block-core.json): every write is stored compressed.
//!
//! Invariants: whole clusters are compressed, so a write that covers a cluster in part reads the
//! rest of it first and stores it anew; writes of the same cluster take turns, so none brings back
//! what another has replaced; zero writes and discards of whole clusters stay what they are.

use super::forward::forward;
use crate::io::{
    Aligned, BlockDevice, BoxFuture, Capabilities, Device, Limits, Segments, WriteFlags,
};
use crate::{Error, Result};
use alloc::format;
use alloc::sync::Arc;

/// An image into which everything is written compressed.
#[derive(Debug)]
pub struct Compress {
    inner: Aligned,
}

impl Compress {
    /// Compresses what is written to `image`, whose driver is called `driver`.
    ///
    /// # Errors
    /// `Unsupported` where its format does not compress.
    pub fn new(image: Device, driver: &str) -> Result<Self> {
        if !image.capabilities().contains(Capabilities::COMPRESSED) {
            return Err(Error::unsupported(format!(
                "Compression is not supported for underlying format: {driver}"
            )));
        }
        Ok(Self { inner: Aligned::new(Arc::new(Whole { inner: image })) })
    }
}

impl BlockDevice for Compress {
    forward!(len limits capabilities read write write_zeroes discard flush set_len extents info event);
}

/// The image as it takes whole clusters only.
#[derive(Debug)]
struct Whole {
    inner: Device,
}

impl BlockDevice for Whole {
    forward!(len capabilities read write_zeroes discard flush set_len extents info event);

    fn limits(&self) -> Limits {
        let limits = self.inner.limits();
        Limits { request_alignment: limits.request_alignment.max(limits.granularity), ..limits }
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        // An empty one asks only whether the image can be written to.
        let compressed = if data.is_empty() { WriteFlags::empty() } else { WriteFlags::COMPRESSED };
        self.inner.write(offset, data, flags | compressed)
    }
}

#[cfg(test)]
mod tests;
