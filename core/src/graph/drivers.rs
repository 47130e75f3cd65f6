//! The options that only one format has, as the schema names them.

use super::options::Options;
use crate::Result;
use crate::format::{FormatName, OpenOptions};

/// Takes the options of `format` out of `options`. True where one of them decides what the image's
/// contents are, so that the name of the file alone does not say it.
pub(super) fn take(
    format: FormatName,
    options: &mut Options,
    base: &mut OpenOptions,
) -> Result<bool> {
    match format {
        #[cfg(feature = "raw")]
        FormatName::Raw => take_raw(options, base),
        _ => Ok(false),
    }
}

/// `BlockdevOptionsRaw`.
#[cfg(feature = "raw")]
fn take_raw(options: &mut Options, base: &mut OpenOptions) -> Result<bool> {
    let (offset, size) = (options.take_size("offset")?, options.take_size("size")?);
    base.raw.offset = offset.unwrap_or(0);
    base.raw.size = size;
    Ok(offset.is_some() || size.is_some())
}
