//! `blkreplay` (the schema's driver, block-core.json): the place where a machine that records and
//! replays its run decides the order of requests. There is no such machine here, and without one
//! the driver passes everything on.

use super::forward::forward;
use crate::io::{BlockDevice, Device};

/// A device as it is.
#[derive(Debug)]
pub struct Blkreplay {
    inner: Device,
}

impl Blkreplay {
    /// Passes everything on to `image`.
    #[must_use]
    pub fn new(image: Device) -> Self {
        Self { inner: image }
    }
}

impl BlockDevice for Blkreplay {
    forward!(len limits capabilities read write write_zeroes discard flush set_len extents info event);
}
