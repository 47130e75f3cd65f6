//! How large a new image will be.

use super::{Mapper, NewImage, Progress};
use crate::Result;
use crate::format::qcow2;
use crate::io::Device;
use crate::qapi::BlockMeasureInfo;

/// The size of a new, empty image.
///
/// # Errors
/// `InvalidInput` for impossible options.
pub fn measure_new(image: &NewImage) -> Result<BlockMeasureInfo> {
    measure(image, 0)
}

/// The size of a new image that holds the contents of `source`, by what is known of it without
/// reading its data. The image's virtual size is taken from `image`.
///
/// # Errors
/// `InvalidInput` for impossible options; those of the source.
pub async fn measure_source(
    image: &NewImage,
    source: &Device,
    progress: Progress<'_>,
) -> Result<BlockMeasureInfo> {
    let cluster = match image {
        NewImage::Raw(_) => 1,
        NewImage::Qcow2(options) => u64::from(options.cluster_size),
    };
    image.check()?;
    let mut mapper = Mapper::new(source.clone(), 0, source.len());
    // End of the last cluster that was counted: two extents may share one.
    let (mut data, mut counted) = (0, 0);
    while let Some(extent) = mapper.next_extent().await? {
        if !extent.is_zero() {
            let start = (extent.start - extent.start % cluster).max(counted);
            counted = extent.end().next_multiple_of(cluster).max(counted);
            data += counted - start;
        }
        progress(extent.end(), source.len());
    }
    measure(image, data)
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
