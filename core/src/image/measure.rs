//! How large a new image will be.

use super::{Mapper, NewImage, Progress};
use crate::Result;
use crate::format::{Layer, qcow2};
use crate::io::BlockDevice;
use crate::qapi::{BlockMeasureInfo, ImageInfoSpecific, Qcow2BitmapInfoFlags};
use alloc::sync::Arc;

/// The size of a new, empty image.
///
/// # Errors
/// `InvalidInput` for impossible options.
pub fn measure_new(image: &NewImage) -> Result<BlockMeasureInfo> {
    image.check()?;
    measure(image, 0)
}

/// The size of a new image that holds the contents of `source`, by what is known of it without
/// reading its data. The image's virtual size is taken from `image`.
///
/// # Errors
/// `InvalidInput` for impossible options; those of the source.
pub async fn measure_source(
    image: &NewImage,
    source: &Arc<Layer>,
    progress: Progress<'_>,
) -> Result<BlockMeasureInfo> {
    // Nothing is computed from options that contradict themselves.
    image.check()?;
    let data = match image {
        // What the backing file holds already is not looked at: the estimate is the safe one.
        NewImage::Qcow2(options) if options.backing.is_some() => u64::MAX,
        NewImage::Qcow2(options) => data_of(source, options.cluster_size.into(), progress).await?,
        // It is as long as the disk, whatever is in it.
        NewImage::Raw(_) => 0,
    };
    let bitmaps = measure_bitmaps(image, source).await?;
    Ok(BlockMeasureInfo { bitmaps, ..measure(image, data)? })
}

/// Bytes of the clusters of this size in which `source` does not read as zeroes.
async fn data_of(source: &Arc<Layer>, cluster: u64, progress: Progress<'_>) -> Result<u64> {
    let size = source.len();
    let mut mapper = Mapper::new(source.clone(), 0, size);
    // End of the last cluster that was counted: two extents may share one.
    let (mut data, mut counted) = (0, 0);
    let failed = |e: crate::Error| e.during("Unable to get block status");
    while let Some(extent) = mapper.next_extent().await.map_err(failed)? {
        if !extent.is_zero() && extent.is_allocated() {
            let start = (extent.start - extent.start % cluster).max(counted);
            counted =
                extent.end().checked_next_multiple_of(cluster).unwrap_or(u64::MAX).max(counted);
            data += counted - start;
        }
        progress(extent.end(), size);
    }
    Ok(data)
}

/// What the bitmaps of `source` take; `None` where one of the formats has none.
async fn measure_bitmaps(image: &NewImage, source: &Layer) -> Result<Option<u64>> {
    let NewImage::Qcow2(options) = image else { return Ok(None) };
    if !options.has_bitmaps() {
        return Ok(None);
    }
    let described = source.driver().describe().await?;
    let Some(ImageInfoSpecific::Qcow2(specific)) = described.specific else { return Ok(None) };
    if specific.compat == "0.10" {
        return Ok(None);
    }
    let bitmaps = specific.bitmaps.unwrap_or_default();
    let copied = bitmaps.iter().filter(|b| !b.flags.contains(&Qcow2BitmapInfoFlags::InUse));
    let sizes = copied.map(|b| (b.granularity.into(), b.name.len()));
    qcow2::measure_bitmaps(options, source.len(), sizes).map(Some)
}

fn measure(image: &NewImage, data: u64) -> Result<BlockMeasureInfo> {
    match image {
        NewImage::Raw(options) => {
            let size = options.size.next_multiple_of(512);
            Ok(BlockMeasureInfo { required: size, fully_allocated: size, bitmaps: None })
        }
        NewImage::Qcow2(options) => {
            let sizes = qcow2::measure(options, data)?;
            Ok(BlockMeasureInfo {
                required: sizes.required,
                fully_allocated: sizes.fully_allocated,
                bitmaps: None,
            })
        }
    }
}
