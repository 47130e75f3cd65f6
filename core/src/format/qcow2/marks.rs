//! The marks that say how far an image can be trusted: the incompatible features *dirty* and
//! *corrupt*, durable before what they warn of.

use super::Qcow2;
use super::layout::{Incompatible, header};
use crate::format::{DriverEvent, ImageCorrupted, NotFreed};
use crate::io::WriteFlags;
use crate::{Error, ErrorKind, Result};
use alloc::string::{String, ToString};

impl Qcow2 {
    /// The refcounts on disk are about to fall behind: whoever opens the image after a crash has
    /// to count references. Durable when this returns.
    pub(super) async fn mark_dirty(&self) -> Result<()> {
        self.change_marks(|marks| marks | Incompatible::DIRTY).await
    }

    /// The refcounts on disk are right, and durable.
    pub(super) async fn mark_clean(&self) -> Result<()> {
        self.change_marks(|marks| marks - Incompatible::DIRTY).await
    }

    /// Damage was met, at `offset` of the image file where it is known. If `fatal` and the image is
    /// open for writing, the mark *corrupt* is set, durably, and nothing else is written any more.
    ///
    /// The first damage that is not fatal and the first that is become events; there is nothing to
    /// do about others.
    pub(super) async fn mark_corrupt(
        &self,
        msg: String,
        offset: Option<u64>,
        size: Option<u64>,
        fatal: bool,
    ) {
        let fatal = fatal && self.writable;
        {
            let mut seen = self.seen_corrupt.lock();
            if *seen == Some(true) || *seen == Some(fatal) {
                return;
            }
            *seen = Some(fatal);
        }
        let event = ImageCorrupted { msg, offset, size, fatal };
        self.events.push(DriverEvent::Corrupted(event));
        if fatal {
            // Nothing else is written, whether the mark gets there or not.
            self.poison();
            // Version 2 has no mark.
            if self.header.version >= 3 {
                let _ = self.change_marks(|marks| marks | Incompatible::CORRUPT).await;
            }
        }
    }

    /// Passes a result on; damage that it tells of is marked.
    pub(super) async fn noting_damage<T>(
        &self,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let result = call.await;
        if let Err(e) = &result
            && e.kind() == ErrorKind::Corrupt
        {
            self.mark_corrupt(e.what().to_string(), e.offset(), None, true).await;
        }
        result
    }

    /// Clusters of a damaged image could not be freed: nothing is lost by that.
    pub(super) fn tell_not_freed(&self, why: NotFreed, count: u64) {
        self.events.push(DriverEvent::NotFreed { why, clusters: count });
    }

    async fn change_marks(&self, change: impl FnOnce(Incompatible) -> Incompatible) -> Result<()> {
        // Held across the write: one field, and two who want to change it.
        let _order = self.marks_lock.lock().await;
        let old = *self.incompatible.lock();
        let new = change(old);
        if new == old {
            return Ok(());
        }
        if self.header.version < 3 {
            return Err(Error::bug("version 2 has no feature bits").in_format("qcow2"));
        }
        let field = new.bits().to_be_bytes().to_vec();
        let result = async {
            self.file.write(header::INCOMPATIBLE as u64, field.into(), WriteFlags::empty()).await?;
            self.file.flush().await
        };
        self.poison_on_error(result.await)?;
        *self.incompatible.lock() = new;
        Ok(())
    }
}
