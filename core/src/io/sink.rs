//! Bytes in order: pipes and streams.

use super::{BoxFuture, Segments};
use crate::Result;

/// Takes bytes in order. The counterpart of a [`BlockDevice`](super::BlockDevice) where nothing
/// can be written twice.
pub trait Sink: Send {
    /// Takes the next bytes.
    fn write(&mut self, data: Segments) -> BoxFuture<'_, Result<()>>;
}
