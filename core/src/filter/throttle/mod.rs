//! `throttle` (the schema's driver, block-core.json, and throttle.txt): requests wait so that all
//! devices of a group together stay within its limits.
//!
//! Invariants: over any time a group exceeds a rate by no more than one burst and the requests that
//! were let in last; flushes, and whatever transfers nothing, pass; requests go on at once while
//! somebody drains, and are counted all the same.

mod bucket;
mod group;
mod limits;

pub use crate::qapi::ThrottleLimits;
pub use group::ThrottleGroup;

use super::check_limits;
use super::forward::forward;
use crate::Result;
use crate::io::{
    BlockDevice, BoxFuture, Capabilities, Device, Segments, WriteFlags, ZeroFlags, check_range,
};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::sync::Arc;
use group::Direction;

/// A device whose requests wait for their turn.
#[derive(Debug)]
pub struct Throttle {
    inner: Device,
    member: Mutex<Arc<Member>>,
}

/// A place in a group, left with the last request.
#[derive(Debug)]
struct Member {
    group: Arc<ThrottleGroup>,
    id: u64,
}

impl Member {
    fn new(group: Arc<ThrottleGroup>) -> Arc<Self> {
        let id = group.join();
        Arc::new(Self { group, id })
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.leave(self.id);
    }
}

impl Throttle {
    /// Passes on to `inner` what `group` lets through.
    #[must_use]
    pub fn new(inner: Device, group: Arc<ThrottleGroup>) -> Self {
        Self { inner, member: Mutex::new(Member::new(group)) }
    }

    /// The group whose limits hold.
    #[must_use]
    pub fn group(&self) -> Arc<ThrottleGroup> {
        self.member.lock().group.clone()
    }

    /// Moves the device into another group. Requests that wait stay in the old one.
    pub fn set_group(&self, group: Arc<ThrottleGroup>) {
        *self.member.lock() = Member::new(group);
    }

    /// Lets all requests go, those that wait and those that come (`true`), until as many calls with
    /// `false` have been made.
    pub fn release(&self, release: bool) {
        let member = self.member.lock().clone();
        member.group.release(member.id, release);
    }

    async fn admit(&self, direction: Direction, offset: u64, len: u64) {
        // What the device below refuses anyway takes nothing from the others.
        let grow =
            direction == Direction::Write && self.inner.capabilities().contains(Capabilities::GROW);
        let end = if grow { u64::MAX } else { self.inner.len() };
        if len == 0 || check_range(offset, len, end).is_err() {
            return;
        }
        let member = self.member.lock().clone();
        member.group.admit(member.id, direction, len).await;
    }
}

impl BlockDevice for Throttle {
    forward!(len limits capabilities flush set_len extents info event);

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            self.admit(Direction::Read, offset, len).await;
            self.inner.read(offset, len).await
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if check_limits(offset, data.len(), &self.inner.limits()).is_ok() {
                self.admit(Direction::Write, offset, data.len()).await;
            }
            self.inner.write(offset, data, flags).await
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.admit(Direction::Write, offset, len).await;
            self.inner.write_zeroes(offset, len, flags).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if check_range(offset, len, self.inner.len()).is_ok() {
                self.admit(Direction::Write, offset, len).await;
            }
            self.inner.discard(offset, len).await
        })
    }
}

#[cfg(test)]
mod tests;
