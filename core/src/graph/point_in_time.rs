//! The body of a `snapshot-access` node: what the `copy-before-write` node below it keeps.

use super::edge::Edge;
use super::filters::Filter;
use crate::filter::SnapshotAccess;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, Limits, Preallocation, Segments,
    WriteFlags, ZeroFlags,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// A point in time of the node that an edge points to. Where that is no `copy-before-write` node,
/// nothing can be read, as in the reference.
#[derive(Debug)]
pub(super) struct PointInTime(Arc<Edge>);

impl PointInTime {
    pub(super) fn new(edge: Arc<Edge>) -> Self {
        Self(edge)
    }

    fn access(&self) -> Result<SnapshotAccess> {
        match self.0.target().map(|node| node.body().filter) {
            Some(Some(Filter::CopyBeforeWrite(filter))) => Ok(filter.snapshot_access()),
            _ => {
                let below = self.0.target();
                let below = below.as_ref().map(|node| node.name()).unwrap_or_default();
                Err(Error::unsupported(format!(
                    "node '{below}' keeps no point in time: only copy-before-write nodes do"
                )))
            }
        }
    }
}

impl BlockDevice for PointInTime {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn limits(&self) -> Limits {
        self.access().map_or_else(|_| Limits::default(), |access| access.limits())
    }

    fn capabilities(&self) -> Capabilities {
        // Writes are refused one by one, as are reads where nothing is kept.
        let own = self.access().map(|access| access.capabilities());
        own.unwrap_or(Capabilities::empty()) | Capabilities::WRITE
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move { self.access()?.read(offset, len).await })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.access()?.write(offset, data, flags).await })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.access()?.write_zeroes(offset, len, flags).await })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.access()?.discard(offset, len).await })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { Ok(()) })
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        let _ = (len, preallocation);
        let refused = Error::unsupported("Image format driver does not support resize");
        Box::pin(core::future::ready(Err(refused)))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.0.info()
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move { self.access()?.extents(offset, len).await })
    }
}
