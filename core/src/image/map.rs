//! The allocation map of an image and its backing chain.

use crate::io::{Device, Extent};
use crate::qapi::MapEntry;
use crate::{Error, Result};
use alloc::string::ToString;
use alloc::vec::Vec;

/// Walks the extents of a device, each as long as possible.
///
/// Memory is bounded whatever the image: entries come one at a time.
#[derive(Debug)]
pub struct Mapper {
    device: Device,
    at: u64,
    end: u64,
    /// Extents of the last answer not given out yet, in reverse.
    waiting: Vec<Extent>,
    current: Option<Extent>,
    /// Neighbours that are alike are one extent.
    joins: bool,
    /// Why nothing is known from here on; what comes before is given out first.
    failed: Option<Error>,
}

impl Mapper {
    /// Walks `[start, start + len)` of `device`, as far as the device reaches.
    pub fn new(device: Device, start: u64, len: u64) -> Self {
        let end = device.len().min(start.saturating_add(len));
        Self {
            device,
            at: start,
            end,
            waiting: Vec::new(),
            current: None,
            joins: true,
            failed: None,
        }
    }

    /// The same without looking further than the device tells at once: extents may be shorter.
    pub(super) fn in_parts(device: Device, start: u64, len: u64) -> Self {
        Self { joins: false, ..Self::new(device, start, len) }
    }

    /// The next extent; `None` at the end of the range.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn next_extent(&mut self) -> Result<Option<Extent>> {
        loop {
            let Some(next) = self.waiting.pop() else {
                if let Some(e) = self.failed.take() {
                    return Err(e);
                }
                if self.at >= self.end {
                    return Ok(self.current.take());
                }
                match self.device.extents(self.at, self.end - self.at).await {
                    Ok(found) => self.waiting = found,
                    Err(e) => match self.current.take() {
                        Some(current) => {
                            self.failed = Some(e);
                            return Ok(Some(current));
                        }
                        None => return Err(e),
                    },
                }
                self.waiting.reverse();
                continue;
            };
            self.at = next.end();
            if !self.joins {
                return Ok(Some(next));
            }
            match &mut self.current {
                None => self.current = Some(next),
                Some(current) => {
                    if let Some(next) = current.merge(next) {
                        return Ok(self.current.replace(next));
                    }
                }
            }
        }
    }

    /// The next extent in the schema's form.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn next_entry(&mut self) -> Result<Option<MapEntry>> {
        Ok(self.next_extent().await?.map(entry))
    }

    /// How far the walk has come.
    pub fn position(&self) -> u64 {
        self.at
    }
}

/// The whole map of a device.
///
/// # Errors
/// Those of the device.
pub async fn map(device: &Device) -> Result<Vec<MapEntry>> {
    let mut mapper = Mapper::new(device.clone(), 0, device.len());
    let mut out = Vec::new();
    while let Some(entry) = mapper.next_entry().await? {
        out.push(entry);
    }
    Ok(out)
}

fn entry(extent: Extent) -> MapEntry {
    use crate::io::ExtentFlags;
    MapEntry {
        start: extent.start,
        length: extent.len,
        data: extent.is_data(),
        zero: extent.is_zero(),
        compressed: extent.flags.contains(ExtentFlags::COMPRESSED),
        depth: extent.depth.into(),
        present: extent.is_allocated(),
        offset: extent.host.as_ref().map(|h| h.offset),
        filename: extent.host.map(|h| h.file.to_string()),
    }
}
