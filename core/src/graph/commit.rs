//! Writing what an image holds into the one below it, in place (the human monitor's `commit`).

use super::live::Graph;
use super::node::{Node, Settings};
use crate::io::{BoxFuture, ExtentFlags, Preallocation, WriteFlags, ZeroFlags};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// So much is copied at a time.
const STEP: u64 = 1 << 20;

impl Graph {
    /// Writes what the image of `node` holds into what stands below it, and empties it. What `node`
    /// shows stays the same; requests wait meanwhile. The data is durable below before anything is
    /// given up.
    ///
    /// # Errors
    /// `Unsupported` for a node with nothing below it, `Denied` and `InUse` where that cannot be
    /// written to, and those of the devices: `node` shows what it showed.
    pub async fn commit(&self, node: &Arc<Node>) -> Result<()> {
        let _change = self.change().await;
        node.refuse_inactive()?;
        let (Some(image), Some(below)) = (node.image(), node.child("backing")) else {
            let what = format!("node '{}' has no backing file to commit to", node.name());
            return Err(Error::unsupported(what));
        };
        if node.settings().read_only {
            return Err(Error::denied("Block node is read-only"));
        }
        let drained = self.drain(&below).await;
        let mut opened = Vec::new();
        let mut result = self.open_for_writing(&below, &mut opened).await;
        if result.is_ok() {
            result = copy_down(node, &below, 0).await;
        }
        if result.is_ok() {
            result = image.driver().make_empty().await;
        }
        // The last that was opened is the first to be only read again.
        for node in opened.iter().rev() {
            result = result.and(self.write_or_not(node, true).await);
        }
        drop(drained);
        result
    }

    /// Opens a node and what its bytes come from for writing; `opened` gets those that were not.
    pub(super) fn open_for_writing<'a>(
        &'a self,
        node: &'a Arc<Node>,
        opened: &'a mut Vec<Arc<Node>>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for edge in node.children() {
                if edge.name() != "backing"
                    && let Some(below) = edge.target()
                {
                    self.open_for_writing(&below, opened).await?;
                }
            }
            if node.settings().read_only {
                self.write_or_not(node, false).await?;
                opened.push(node.clone());
            }
            Ok(())
        })
    }

    /// Opens a node for reading only, or for writing too.
    pub(super) async fn write_or_not(&self, node: &Arc<Node>, read_only: bool) -> Result<()> {
        if node.image().is_some() || !self.protocols().has_driver(node.driver()) {
            return self.set_read_only(node, read_only).await;
        }
        let old = node.settings();
        let new = Settings { read_only, ..old };
        self.open_protocol_again(node, node.options(), new).await?;
        node.set_settings(new);
        self.refresh()
    }
}

/// Writes what `node` holds, and so many images directly below it, to `below`, durably.
pub(super) async fn copy_down(node: &Arc<Node>, below: &Arc<Node>, depth: u32) -> Result<()> {
    let device = node.device();
    let (size, below_len) = (device.len(), below.device().len());
    if below_len < size {
        let shown = below.child("backing").map_or(0, |next| next.device().len());
        if shown > below_len {
            // Grown, it would show what stands below it there.
            return Err(Error::unsupported(format!(
                "node '{}' is shorter than '{}' and than its own backing file; resize it first",
                below.name(),
                node.name()
            )));
        }
        below.set_len(size, Preallocation::Off).await?;
    }
    let mut at = 0;
    while at < size {
        let extents = device.extents(at, size - at).await?;
        let Some(first) = extents.first() else {
            return Err(Error::bug("no extents where there are bytes"));
        };
        let end = first.start + first.len;
        let own = first.depth <= depth && first.is_allocated();
        at = match own {
            false => end,
            true if first.flags.contains(ExtentFlags::ZERO) => {
                below.write_zeroes(at, end - at, ZeroFlags::MAY_UNMAP).await?;
                end
            }
            true => {
                let end = end.min(at - at % STEP + STEP);
                let data = device.read(at, end - at).await?;
                below.write(at, data, WriteFlags::empty()).await?;
                end
            }
        };
    }
    below.flush().await
}
