//! Comparing the contents of two images.

use super::{Mapper, Progress};
use crate::io::{Device, Extent, ExtentFlags, Segment, Segments};
use crate::{Error, Result};
use alloc::format;
use futures_util::future::join;

/// Bytes compared at a time.
const STEP: u64 = 2 << 20;

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

/// Which of two images cannot be compared, and why.
#[derive(Debug)]
pub struct CompareError {
    /// It is the second image.
    pub second: bool,
    /// How far they were the same.
    pub offset: u64,
    /// Its bytes cannot be read there; otherwise it does not tell what is allocated there.
    pub reading: bool,
    /// What it said.
    pub error: Error,
}

impl From<CompareError> for Error {
    fn from(failed: CompareError) -> Self {
        let which = if failed.second { "second" } else { "first" };
        let what = if failed.reading { "read" } else { "tell what is allocated in" };
        let offset = failed.offset;
        failed.error.during(format!("cannot {what} the {which} image at offset {offset:#x}"))
    }
}

/// One of the two images.
#[derive(Clone, Copy)]
struct Side<'a> {
    device: &'a Device,
    second: bool,
}

impl Side<'_> {
    fn len(self) -> u64 {
        self.device.len()
    }

    /// An error of looking for what is allocated.
    fn unknown(self, offset: u64) -> impl Fn(Error) -> CompareError {
        move |error| CompareError { second: self.second, offset, reading: false, error }
    }

    /// The units that what is compressed is read by.
    fn unit(self, extent: &Extent) -> Option<u64> {
        let unit = u64::from(self.device.limits().granularity);
        (extent.flags.contains(ExtentFlags::COMPRESSED) && unit > 1).then_some(unit)
    }

    async fn read(self, offset: u64, len: u64) -> Result<Segments, CompareError> {
        let failed = |error| CompareError { second: self.second, offset, reading: true, error };
        self.device.read(offset, len).await.map_err(failed)
    }
}

/// Compares two images. The shorter one counts as followed by zeroes, unless `strict`. `None`:
/// they are the same.
///
/// # Errors
/// Those of the devices, with the image they are about.
pub async fn compare(
    a: &Device,
    b: &Device,
    options: CompareOptions,
    progress: Progress<'_>,
) -> Result<Option<Difference>, CompareError> {
    let (a, b) = (Side { device: a, second: false }, Side { device: b, second: true });
    if options.strict && a.len() != b.len() {
        return Ok(Some(Difference::Size));
    }
    let (common, total) = (a.len().min(b.len()), a.len().max(b.len()));
    let walk = |side: Side<'_>| Walk::new(side.device, common, options.strict);
    let (mut left, mut right) = (walk(a), walk(b));
    let mut at = 0;
    while at < common {
        let x = left.at(at).await.map_err(a.unknown(at))?;
        let y = right.at(at).await.map_err(b.unknown(at))?;
        let end = x.end().min(y.end());
        if options.strict && status(&x, common) != status(&y, common) {
            return Ok(Some(Difference::Status(at)));
        }
        let what = match (x.is_zero(), y.is_zero()) {
            (true, true) => Compared::Nothing,
            (true, false) => Compared::WithZeroes(b),
            (false, true) => Compared::WithZeroes(a),
            (false, false) => Compared::Both(a, b),
        };
        let unit = [(a, &x), (b, &y)].iter().filter_map(|(side, extent)| side.unit(extent)).min();
        if let Some(offset) = what.first_difference(at, end, unit, progress, total).await? {
            return Ok(Some(Difference::Content(offset)));
        }
        at = end;
        progress(at, total);
    }
    let longer = if a.len() > b.len() { a } else { b };
    let mut tail = Mapper::in_parts(longer.device.clone(), common, total - common);
    while at < total {
        let Some(extent) = tail.next_extent().await.map_err(longer.unknown(at))? else { break };
        at = extent.end();
        if !extent.is_zero() {
            let (what, unit) = (Compared::WithZeroes(longer), longer.unit(&extent));
            let found = what.first_difference(extent.start, at, unit, progress, total).await?;
            if let Some(offset) = found {
                return Ok(Some(Difference::Content(offset)));
            }
        }
        progress(at, total);
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
    /// `whole`: extents as long as possible, which what is known of their ends depends on.
    fn new(device: &Device, len: u64, whole: bool) -> Self {
        let mapper = match whole {
            true => Mapper::new(device.clone(), 0, len),
            false => Mapper::in_parts(device.clone(), 0, len),
        };
        Self { mapper, current: None }
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

/// What is compared in a range where both images are of one kind.
#[derive(Clone, Copy)]
enum Compared<'a> {
    Nothing,
    /// One image with zeroes.
    WithZeroes(Side<'a>),
    Both(Side<'a>, Side<'a>),
}

impl Compared<'_> {
    /// Where the first difference in `[start, end)` is. What cannot be read is told as of the
    /// `unit` of it that cannot be, where there are units.
    async fn first_difference(
        self,
        start: u64,
        end: u64,
        unit: Option<u64>,
        progress: Progress<'_>,
        total: u64,
    ) -> Result<Option<u64>, CompareError> {
        if matches!(self, Self::Nothing) {
            return Ok(None);
        }
        let mut at = start;
        while at < end {
            let len = STEP.min(end - at);
            let found = match (self.in_one(at, len).await, unit) {
                (Err(_), Some(unit)) => self.by_units(at, at + len, unit).await?,
                (found, _) => found?,
            };
            if found.is_some() {
                return Ok(found);
            }
            at += len;
            progress(at, total);
        }
        Ok(None)
    }

    async fn by_units(self, start: u64, end: u64, unit: u64) -> Result<Option<u64>, CompareError> {
        let mut at = start;
        while at < end {
            let next = (at - at % unit).saturating_add(unit).min(end);
            if let Some(offset) = self.in_one(at, next - at).await? {
                return Ok(Some(offset));
            }
            at = next;
        }
        Ok(None)
    }

    async fn in_one(self, at: u64, len: u64) -> Result<Option<u64>, CompareError> {
        let found = match self {
            Self::Nothing => None,
            Self::WithZeroes(side) => position_of_nonzero(&side.read(at, len).await?),
            Self::Both(a, b) => {
                let (x, y) = join(a.read(at, len), b.read(at, len)).await;
                let (x, y) = (x?.to_bytes(), y?.to_bytes());
                let first = || x.iter().zip(y.iter()).position(|(x, y)| x != y).unwrap_or(0);
                (x != y).then(|| first() as u64)
            }
        };
        Ok(found.map(|i| at + i))
    }
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
