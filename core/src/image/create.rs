//! Making images of any format.

use crate::Result;
use crate::format::{FormatName, qcow2, raw};
use crate::io::{Device, Runtime};
use alloc::sync::Arc;

/// What is said where an image is to be made with the name of its own backing file.
pub const OVER_ITSELF: &str =
    "Error: Trying to create an image with the same filename as the backing file";

/// A new image: its format and what it is like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewImage {
    /// A raw image.
    Raw(raw::CreateOptions),
    /// A qcow2 image.
    Qcow2(qcow2::CreateOptions),
}

impl NewImage {
    /// A new image of `format` with defaults; `None` where this build cannot make it.
    #[must_use]
    pub fn with_defaults(format: FormatName, size: u64) -> Option<Self> {
        match format {
            FormatName::Raw => Some(Self::Raw(raw::CreateOptions { size, ..Default::default() })),
            FormatName::Qcow2 => {
                Some(Self::Qcow2(qcow2::CreateOptions { size, ..Default::default() }))
            }
            _ => None,
        }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> FormatName {
        match self {
            Self::Raw(_) => FormatName::Raw,
            Self::Qcow2(_) => FormatName::Qcow2,
        }
    }

    /// Its virtual size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Raw(options) => options.size,
            Self::Qcow2(options) => options.size,
        }
    }

    /// Refuses options that contradict themselves or the format; nothing is written.
    ///
    /// # Errors
    /// `InvalidInput`, with the option's name.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Raw(options) => options.check(),
            Self::Qcow2(options) => options.check(),
        }
    }
}

/// Makes `file` a new image; what it held is gone. `data_file` is the external data file, where
/// the options want one.
///
/// # Errors
/// `InvalidInput` for impossible options, before anything is written; those of the devices.
pub async fn create(
    runtime: &Arc<dyn Runtime>,
    file: &Device,
    data_file: Option<&Device>,
    image: &NewImage,
) -> Result<()> {
    image.check()?;
    match image {
        NewImage::Raw(options) => raw::create(file, options).await,
        NewImage::Qcow2(options) => qcow2::create(runtime, file, data_file, options).await,
    }
}
