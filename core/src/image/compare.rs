//! Comparing the contents of two images.

use super::{Mapper, Progress};
use crate::io::{Device, Extent, ExtentFlags, Segment, Segments};
use crate::{Error, Result};

/// Bytes compared at a time.
const STEP: u64 = 1 << 20;

/// How to compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompareOptions {
    /// Also differ where the sizes do, or what is known of a range without reading it.
    pub strict: bool,
}

/// The first difference of two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The sizes (strict only).
    Size,
    /// The byte at this offset.
    Content(u64),
    /// What is known of the bytes at this offset without reading them (strict only).
    Status(u64),
}

/// Compares two images. The shorter one counts as followed by zeroes, unless `strict`. `None`:
/// they are the same.
///
/// # Errors
/// Those of the devices.
pub async fn compare(
    a: &Device,
    b: &Device,
    options: CompareOptions,
    progress: Progress<'_>,
) -> Result<Option<Difference>> {
    if options.strict && a.len() != b.len() {
        return Ok(Some(Difference::Size));
    }
    let common = a.len().min(b.len());
    let total = a.len().max(b.len());
    let (mut left, mut right) = (Walk::new(a, common), Walk::new(b, common));
    let mut at = 0;
    while at < common {
        let (x, y) = (left.at(at).await?, right.at(at).await?);
        let end = x.end().min(y.end());
        if options.strict && status(&x, common) != status(&y, common) {
            return Ok(Some(Difference::Status(at)));
        }
        let found = match (x.is_zero(), y.is_zero()) {
            (true, true) => None,
            (true, false) => first_nonzero(b, at, end, progress, total).await?,
            (false, true) => first_nonzero(a, at, end, progress, total).await?,
            (false, false) => first_difference(a, b, at, end, progress, total).await?,
        };
        if let Some(offset) = found {
            return Ok(Some(Difference::Content(offset)));
        }
        at = end;
        progress(at, total);
    }
    let longer = if a.len() > b.len() { a } else { b };
    let mut tail = Mapper::new(longer.clone(), common, total - common);
    while let Some(extent) = tail.next_extent().await? {
        if !extent.is_zero() {
            let (start, end) = (extent.start, extent.end());
            let found = first_nonzero(longer, start, end, progress, total).await?;
            if let Some(offset) = found {
                return Ok(Some(Difference::Content(offset)));
            }
        }
        progress(extent.end(), total);
    }
    Ok(None)
}

/// What two images must have alike to be strictly the same: what an extent is, whether its bytes
/// lie somewhere as they are, and whether it reaches the end.
fn status(extent: &Extent, len: u64) -> (ExtentFlags, bool, bool) {
    (extent.flags, extent.host.is_some(), extent.end() == len)
}

/// The extents of one image, looked up in ascending order.
struct Walk {
    mapper: Mapper,
    current: Option<Extent>,
}

impl Walk {
    fn new(device: &Device, len: u64) -> Self {
        Self { mapper: Mapper::new(device.clone(), 0, len), current: None }
    }

    async fn at(&mut self, offset: u64) -> Result<Extent> {
        while self.current.as_ref().is_none_or(|e| e.end() <= offset) {
            self.current = self.mapper.next_extent().await?;
            if self.current.is_none() {
                return Err(Error::bug("the map of a device ends before the device does"));
            }
        }
        self.current.clone().ok_or_else(|| Error::bug("no extent"))
    }
}

async fn first_nonzero(
    device: &Device,
    start: u64,
    end: u64,
    progress: Progress<'_>,
    total: u64,
) -> Result<Option<u64>> {
    let mut at = start;
    while at < end {
        let len = STEP.min(end - at);
        let data = device.read(at, len).await?;
        if let Some(i) = position_of_nonzero(&data) {
            return Ok(Some(at + i));
        }
        at += len;
        progress(at, total);
    }
    Ok(None)
}

async fn first_difference(
    a: &Device,
    b: &Device,
    start: u64,
    end: u64,
    progress: Progress<'_>,
    total: u64,
) -> Result<Option<u64>> {
    let mut at = start;
    while at < end {
        let len = STEP.min(end - at);
        let (x, y) = futures_util::future::try_join(a.read(at, len), b.read(at, len)).await?;
        let (x, y) = (x.to_bytes(), y.to_bytes());
        if x != y {
            let i = x.iter().zip(y.iter()).position(|(x, y)| x != y).unwrap_or(0);
            return Ok(Some(at + i as u64));
        }
        at += len;
        progress(at, total);
    }
    Ok(None)
}

fn position_of_nonzero(data: &Segments) -> Option<u64> {
    let mut at = 0;
    for segment in data.as_slice() {
        if let Segment::Data(bytes) = segment
            && !crate::io::is_zero(bytes)
        {
            return bytes.iter().position(|b| *b != 0).map(|i| at + i as u64);
        }
        at += segment.len();
    }
    None
}
