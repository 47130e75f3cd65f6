//! Disks as files.

use super::{Exports, Running, Shown};
use crate::export::RemoveMode;
use crate::export::fuse::{AllowOther, FuseExport, FuseOptions, Resize};
use sectora_core::graph::{Graph, Root};
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{QmpError, QmpResult};
use sectora_core::qapi::{
    BlockExportOptions, BlockExportOptionsFuse, BlockExportType, FuseExportAllowOther,
};
use std::path::Path;
use std::sync::Arc;

impl Running for Arc<FuseExport> {
    fn kind(&self) -> BlockExportType {
        BlockExportType::Fuse
    }

    fn remove(&self, mode: RemoveMode) -> BoxFuture<'_, sectora_core::Result<()>> {
        // Whoever has the file open does not keep it, in either mode.
        let (RemoveMode::Safe | RemoveMode::Hard) = mode;
        Box::pin(async move {
            FuseExport::remove(self).await;
            Ok(())
        })
    }

    fn covers(&self, path: &Path) -> bool {
        self.path() == path
    }
}

/// Takes the right to change the length for as long as that takes.
#[derive(Debug)]
struct OfNode {
    graph: Arc<Graph>,
    root: Arc<Root>,
}

impl Resize for OfNode {
    fn resize(&self, len: u64) -> BoxFuture<'_, sectora_core::Result<()>> {
        Box::pin(async move {
            let node = self.root.node();
            let node = node.ok_or_else(|| sectora_core::Error::io("the export has no node"))?;
            // An image of a format refuses half a sector, a file has it made whole.
            let is_plain = node.image().is_none() || node.driver() == "raw";
            let len = match is_plain {
                true => len.checked_next_multiple_of(512).unwrap_or(len),
                false => len,
            };
            self.graph.resize(&node, len).await
        })
    }
}

impl Exports {
    pub(super) async fn add_fuse(
        &self,
        options: &BlockExportOptions,
        file: &BlockExportOptionsFuse,
        shown: &Shown,
    ) -> QmpResult<Arc<dyn Running>> {
        let mountpoint = Path::new(&file.mountpoint);
        let full = mountpoint.canonicalize().unwrap_or_else(|_| mountpoint.to_owned());
        if self.list.lock().iter().any(|served| served.running.covers(&full)) {
            let what = format!("There already is a FUSE export on '{}'", file.mountpoint);
            return Err(QmpError::generic(what));
        }
        let options = FuseOptions {
            mountpoint: mountpoint.to_owned(),
            growable: file.growable == Some(true),
            writable: options.writable == Some(true),
            allow_other: match file.allow_other {
                Some(FuseExportAllowOther::Off) => AllowOther::Off,
                Some(FuseExportAllowOther::On) => AllowOther::On,
                Some(FuseExportAllowOther::Auto) | None => AllowOther::Auto,
            },
            writethrough: options.writethrough == Some(true),
        };
        let resize = OfNode { graph: self.graph.clone(), root: shown.source.root().clone() };
        let export = FuseExport::start(shown.device.clone(), Arc::new(resize), options).await?;
        Ok(Arc::new(export))
    }
}
