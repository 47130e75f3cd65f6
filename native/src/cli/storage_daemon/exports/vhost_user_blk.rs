//! Disks of virtual machines.

use super::{Exports, Running, Shown, address};
use crate::cli::nbd::listen::Listening;
use crate::export::RemoveMode;
use crate::export::nbd::Listener;
use crate::export::vhost_user_blk::{VhostUserBlk, VhostUserBlkOptions};
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{QmpError, QmpResult};
use sectora_core::qapi::{
    BlockExportOptions, BlockExportOptionsVhostUserBlk, BlockExportType, SocketAddress,
};
use std::sync::Arc;

#[derive(Debug)]
struct Served {
    export: Arc<VhostUserBlk>,
    /// Its socket is removed with it.
    _listening: Listening,
}

impl Running for Served {
    fn kind(&self) -> BlockExportType {
        BlockExportType::VhostUserBlk
    }

    fn remove(&self, mode: RemoveMode) -> BoxFuture<'_, sectora_core::Result<()>> {
        Box::pin(async move {
            self.export.remove(mode).await;
            Ok(())
        })
    }

    fn look(&self) {
        self.export.look();
    }
}

impl Exports {
    pub(super) async fn add_vhost_user_blk(
        &self,
        options: &BlockExportOptions,
        disk: &BlockExportOptionsVhostUserBlk,
        shown: &Shown,
    ) -> QmpResult<Arc<dyn Running>> {
        let address = disk.addr.clone();
        // Zero is what it is where nothing is said; the reference dies of the first request then.
        let block_size = disk.logical_block_size.unwrap_or(0);
        let options = VhostUserBlkOptions {
            block_size: if block_size == 0 { 512 } else { block_size.try_into().unwrap_or(1) },
            queues: disk.num_queues.unwrap_or(1),
            writable: options.writable == Some(true),
            writethrough: options.writethrough == Some(true),
        };
        options.check()?;
        if !matches!(address, SocketAddress::Unix(_) | SocketAddress::Fd(_)) {
            let what = "Only socket address types 'unix' and 'fd' are supported";
            return Err(QmpError::generic(what));
        }
        let mut listening = address::listen_on(address, self.descriptors()).await?;
        let Some(Listener::Unix(listener)) = listening.listeners.pop() else {
            return Err(QmpError::generic("the file descriptor is not a Unix socket"));
        };
        let export = VhostUserBlk::start(shown.device.clone(), options, listener)?;
        Ok(Arc::new(Served { export, _listening: listening }))
    }
}
