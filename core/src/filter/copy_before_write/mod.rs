//! `copy-before-write` and `snapshot-access` (the schema's drivers, block-core.json,
//! `BlockdevOptionsCbw`): a device as it was at one point in time, while it goes on changing.
//!
//! Invariants: before a guest's change reaches a cluster that the point in time still needs, its old
//! bytes are in the target; a reader of the point in time who takes bytes from the device itself
//! keeps changes of them waiting; a change that is given up midway has copied a cluster or not, and
//! a cluster is only taken for copied when it is. What was copied need not be durable: the point in
//! time ends with the process.

mod snapshot_access;

pub use snapshot_access::SnapshotAccess;

use super::check_limits;
use crate::bitmap::DirtyBitmap;
use crate::io::{
    Aligned, BlockDevice, BoxFuture, Capabilities, DebugEvent, Device, DeviceInfo, Extent, Limits,
    Preallocation, Runtime, Segment, Segments, Turns, WriteFlags, ZeroFlags, check_range, is_zero,
};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::ready;
use core::time::Duration;
use futures_util::future::{Either, select};

/// The least that is copied as one.
const LEAST_CLUSTER: u64 = 64 << 10;
/// The largest unit that there is.
const MOST_CLUSTER: u64 = 2 << 30;
/// The most that is copied at once, and so held in memory; clusters may be larger.
const STEP: u64 = 1 << 20;

/// `OnCbwError` (block-core.json): what follows where old bytes cannot be copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCbwError {
    /// The guest's write fails, and the point in time stays whole.
    #[default]
    BreakGuestWrite,
    /// The guest's write goes on, and the point in time is lost.
    BreakSnapshot,
}

/// `BlockdevOptionsCbw` without the devices.
#[derive(Clone, Debug, Default)]
pub struct CopyBeforeWriteOptions {
    /// Only what is dirty in it now belongs to the point in time.
    pub bitmap: Option<Arc<DirtyBitmap>>,
    /// What follows where old bytes cannot be copied.
    pub on_cbw_error: OnCbwError,
    /// A copy that takes longer has failed; in seconds, 0 for no limit.
    pub cbw_timeout: u32,
    /// What is copied as one, at least: a power of two, in bytes.
    pub min_cluster_size: u64,
}

/// A device that is copied before it changes.
#[derive(Debug)]
pub struct CopyBeforeWrite {
    shared: Arc<Shared>,
}

struct Shared {
    file: Device,
    /// Reads and copies of any alignment.
    source: Aligned,
    target: Aligned,
    runtime: Arc<dyn Runtime>,
    len: u64,
    cluster: u64,
    /// What belongs to the point in time.
    access: DirtyBitmap,
    /// What of it is not in the target.
    missing: DirtyBitmap,
    /// Who copies, and who reads from the device what is missing.
    turns: Turns,
    on_error: OnCbwError,
    timeout: Duration,
    /// Why the point in time is lost.
    lost: Mutex<Option<alloc::string::String>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("file", &self.file)
            .field("target", &self.target)
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl CopyBeforeWrite {
    /// Keeps in `target` what `file` has now, as it changes.
    ///
    /// # Errors
    /// `InvalidInput` for a cluster size that is none, or a bitmap that does not fit.
    pub fn new(
        file: Device,
        target: Device,
        options: &CopyBeforeWriteOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Self> {
        let failed = |what| Error::invalid(format!("Cannot create block-copy-state: {what}"));
        let least = options.min_cluster_size;
        if least > 0 && !least.is_power_of_two() {
            return Err(failed("min-cluster-size needs to be a power of 2".to_string()));
        }
        let cluster = least.max(u64::from(target.limits().granularity)).max(LEAST_CLUSTER);
        if cluster > MOST_CLUSTER {
            let what = format!("min-cluster-size too large: {cluster} > {MOST_CLUSTER}");
            return Err(failed(what));
        }
        let len = file.len();
        let bits = |name| DirtyBitmap::new(name, len, cluster);
        let (access, missing) = (bits("access")?, bits("missing")?);
        match &options.bitmap {
            Some(bitmap) => access.merge(bitmap).map_err(|error| {
                error.context(format!(
                    "Cannot create block-copy-state: Failed to merge bitmap '{}' to internal \
                     copy-bitmap",
                    bitmap.name()
                ))
            })?,
            None => access.set(0, len),
        }
        missing.merge(&access)?;
        let shared = Shared {
            source: Aligned::new(file.clone()),
            file,
            target: Aligned::new(target),
            runtime,
            len,
            cluster,
            access,
            missing,
            turns: Turns::default(),
            on_error: options.on_cbw_error,
            timeout: Duration::from_secs(options.cbw_timeout.into()),
            lost: Mutex::new(None),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The device as it was at the point in time.
    #[must_use]
    pub fn snapshot_access(&self) -> SnapshotAccess {
        SnapshotAccess { shared: self.shared.clone() }
    }

    /// What is copied as one, in bytes.
    #[must_use]
    pub fn cluster_size(&self) -> u64 {
        self.shared.cluster
    }

    /// How many bytes belong to the point in time, are copied, and are not copied yet.
    #[must_use]
    pub fn progress(&self) -> (u64, u64, u64) {
        let (all, missing) = (self.shared.access.count(), self.shared.missing.count());
        (all, all.saturating_sub(missing), missing)
    }

    /// Why the point in time is lost, if it is.
    #[must_use]
    pub fn snapshot_error(&self) -> Option<alloc::string::String> {
        self.shared.lost.lock().clone()
    }

    /// What the device shows of a range stays where it is, in the device or in the target, until the
    /// answer is dropped; `None` where it is in the target already. For whoever reads the point in
    /// time through the target, with the device below it.
    pub(super) async fn keep(&self, offset: u64, len: u64) -> Option<impl Drop> {
        // What is in the target stays there.
        self.shared.missing.next_dirty(offset, len)?;
        let (from, to) = self.shared.clusters(offset, len);
        Some(self.shared.turns.turn(from..to).await)
    }

    /// The point in time is now, and the target is empty. Nothing may be under way.
    pub(super) fn begin_again(&self) {
        let shared = &*self.shared;
        shared.access.set(0, shared.len);
        shared.missing.set(0, shared.len);
        *shared.lost.lock() = None;
    }

    /// A change that `file` takes after the copy.
    fn changing<'a>(
        &'a self,
        offset: u64,
        len: u64,
        change: impl FnOnce() -> BoxFuture<'a, Result<()>> + Send + 'a,
    ) -> BoxFuture<'a, Result<()>> {
        if !self.shared.file.capabilities().contains(Capabilities::WRITE) {
            // The device says it in its words.
            return change();
        }
        if let Err(error) = check_range(offset, len, self.shared.len) {
            return Box::pin(ready(Err(error)));
        }
        Box::pin(async move {
            self.shared.before(offset, len).await?;
            change().await
        })
    }
}

impl Shared {
    /// Whole clusters around a range, as far as there are any.
    fn clusters(&self, offset: u64, len: u64) -> (u64, u64) {
        let up = (offset + len).checked_next_multiple_of(self.cluster).unwrap_or(u64::MAX);
        (offset - offset % self.cluster, up.min(self.len))
    }

    fn is_lost(&self) -> bool {
        self.lost.lock().is_some()
    }

    /// Old bytes of a range that the point in time needs are in the target when this returns.
    async fn before(&self, offset: u64, len: u64) -> Result<()> {
        if self.is_lost() || self.missing.next_dirty(offset, len).is_none() {
            return Ok(());
        }
        let (from, to) = self.clusters(offset, len);
        let turn = self.turns.turn(from..to).await;
        if self.is_lost() {
            return Ok(());
        }
        let result = self.copy_in_time(from, to).await;
        let result = match (result, self.on_error) {
            (Err(error), OnCbwError::BreakSnapshot) => {
                self.lost.lock().get_or_insert_with(|| error.to_string());
                Ok(())
            }
            (result, _) => result.map_err(|e| e.context("cannot copy before the write")),
        };
        drop(turn);
        result
    }

    async fn copy_in_time(&self, from: u64, to: u64) -> Result<()> {
        if self.timeout.is_zero() {
            return self.copy(from, to).await;
        }
        let copy = Box::pin(self.copy(from, to));
        match select(copy, self.runtime.sleep(self.timeout)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => {
                let seconds = self.timeout.as_secs();
                Err(Error::io(format!("the copy takes longer than {seconds} seconds")))
            }
        }
    }

    /// Copies what is missing, whole clusters, in the turn of the range.
    async fn copy(&self, from: u64, to: u64) -> Result<()> {
        let most = STEP.max(self.cluster);
        let mut at = from;
        while let Some((start, len)) = self.missing.next_dirty_area(at, to - at, most) {
            let mut done = 0;
            while done < len {
                let step = STEP.min(len - done);
                self.copy_step(start + done, step).await?;
                done += step;
            }
            // Nothing waits between the copy and this.
            self.missing.reset(start, len);
            at = start + len;
        }
        Ok(())
    }

    async fn copy_step(&self, offset: u64, len: u64) -> Result<()> {
        let data = self.source.read(offset, len).await?;
        let zero = data.as_slice().iter().all(|segment| match segment {
            Segment::Data(bytes) => is_zero(bytes),
            Segment::Zero(_) => true,
        });
        match zero {
            true => self.target.write_zeroes(offset, len, ZeroFlags::empty()).await,
            false => self.target.write(offset, data, WriteFlags::empty()).await,
        }
    }
}

impl BlockDevice for CopyBeforeWrite {
    fn len(&self) -> u64 {
        self.shared.len
    }

    fn limits(&self) -> Limits {
        self.shared.file.limits()
    }

    fn capabilities(&self) -> Capabilities {
        self.shared.file.capabilities() - Capabilities::GROW
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.shared.file.read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        if let Err(error) = check_limits(offset, data.len(), &self.limits()) {
            return Box::pin(ready(Err(error)));
        }
        let len = data.len();
        self.changing(offset, len, move || self.shared.file.write(offset, data, flags))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.changing(offset, len, move || self.shared.file.write_zeroes(offset, len, flags))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.changing(offset, len, move || self.shared.file.discard(offset, len))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.shared.file.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        if len == self.shared.len || !self.capabilities().contains(Capabilities::WRITE) {
            return self.shared.file.set_len(len, preallocation);
        }
        let what = "the length does not change while a point in time is kept";
        Box::pin(ready(Err(Error::unsupported(what))))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.shared.file.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.shared.file.info()
    }

    fn event(&self, event: DebugEvent) -> Option<BoxFuture<'_, ()>> {
        self.shared.file.event(event)
    }
}

#[cfg(test)]
mod tests;
