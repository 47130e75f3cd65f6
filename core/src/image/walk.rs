//! Going through the extents of a device from its beginning to its end.

use crate::Result;
use crate::io::{Device, Extent};
use alloc::collections::VecDeque;

/// Tells the extent at a position; positions only go up.
#[derive(Debug)]
pub(super) struct Walker {
    device: Device,
    extents: VecDeque<Extent>,
}

impl Walker {
    pub(super) fn new(device: Device) -> Self {
        Self { device, extents: VecDeque::new() }
    }

    /// What is at `at`, which lies within the device; the extent begins there.
    pub(super) async fn at(&mut self, at: u64) -> Result<Extent> {
        loop {
            match self.extents.front() {
                Some(extent) if extent.end() > at => return Ok(extent.clip(at, extent.end())),
                Some(_) => {
                    self.extents.pop_front();
                }
                None => {
                    let len = self.device.len().saturating_sub(at);
                    self.extents = self.device.extents(at, len).await?.into();
                }
            }
        }
    }
}
