//! Requests that stop at an event until somebody lets them go.

use crate::io::DebugEvent;
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use event_listener::Event;

/// A request stopped, or goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BreakpointNotice {
    /// It stopped at the breakpoint with this tag.
    Suspended(String),
    /// It goes on from there.
    Resumed(String),
}

/// Whoever wants to know of breakpoints.
pub type BreakpointListener = Arc<dyn Fn(BreakpointNotice) + Send + Sync>;

#[derive(Default)]
pub(super) struct Breakpoints {
    state: Mutex<State>,
    changed: Event,
}

#[derive(Default)]
struct State {
    set: Vec<(DebugEvent, String)>,
    suspended: Vec<(u64, String)>,
    next: u64,
    listener: Option<BreakpointListener>,
}

fn not_found(tag: &str) -> Error {
    Error::new(crate::ErrorKind::NotFound, alloc::format!("no breakpoint has the tag '{tag}'"))
}

impl Breakpoints {
    pub(super) fn listen(&self, listener: BreakpointListener) {
        self.state.lock().listener = Some(listener);
    }

    pub(super) fn set(&self, event: DebugEvent, tag: &str) {
        self.state.lock().set.push((event, tag.to_string()));
    }

    /// Takes the breakpoints of `event` away, as each stops one request; the request has to wait
    /// for what this returns.
    pub(super) fn hit(&self, event: DebugEvent) -> Option<Stopped<'_>> {
        let mut state = self.state.lock();
        if !state.set.iter().any(|(at, _)| *at == event) {
            return None;
        }
        let (hit, rest) = core::mem::take(&mut state.set)
            .into_iter()
            .partition::<Vec<_>, _>(|(at, _)| *at == event);
        state.set = rest;
        let mut stopped = Stopped { breakpoints: self, numbers: Vec::new() };
        let mut notices = Vec::new();
        // The reference tells of the last one first.
        for (_, tag) in hit.into_iter().rev() {
            let number = state.next;
            state.next += 1;
            notices.push(BreakpointNotice::Suspended(tag.clone()));
            state.suspended.push((number, tag));
            stopped.numbers.push(number);
        }
        self.tell(state, notices);
        Some(stopped)
    }

    fn tell(&self, state: crate::sync::MutexGuard<'_, State>, notices: Vec<BreakpointNotice>) {
        let listener = state.listener.clone();
        drop(state);
        if let Some(listener) = listener {
            notices.into_iter().for_each(|notice| listener(notice));
        }
        self.changed.notify(usize::MAX);
    }

    pub(super) fn resume(&self, tag: &str) -> Result<()> {
        let mut state = self.state.lock();
        let at = state.suspended.iter().position(|(_, of)| of == tag);
        let Some(at) = at else { return Err(not_found(tag)) };
        state.suspended.remove(at);
        self.tell(state, alloc::vec![BreakpointNotice::Resumed(tag.to_string())]);
        Ok(())
    }

    pub(super) fn remove(&self, tag: &str) -> Result<()> {
        let mut state = self.state.lock();
        let (set, suspended) = (state.set.len(), state.suspended.len());
        state.set.retain(|(_, of)| of != tag);
        state.suspended.retain(|(_, of)| of != tag);
        let removed = set - state.set.len();
        let resumed = suspended - state.suspended.len();
        self.tell(state, alloc::vec![BreakpointNotice::Resumed(tag.to_string()); resumed]);
        if removed == 0 { Err(not_found(tag)) } else { Ok(()) }
    }

    pub(super) fn is_suspended(&self, tag: &str) -> bool {
        self.state.lock().suspended.iter().any(|(_, of)| of == tag)
    }

    pub(super) async fn wait_suspended(&self, tag: &str) {
        loop {
            // Listening begins before looking: what changes in between wakes it.
            let changed = self.changed.listen();
            if self.is_suspended(tag) {
                return;
            }
            changed.await;
        }
    }
}

/// A request that stopped. Dropping it takes it out of the list.
pub(super) struct Stopped<'a> {
    breakpoints: &'a Breakpoints,
    numbers: Vec<u64>,
}

impl Stopped<'_> {
    /// Waits until somebody has resumed all of its breakpoints.
    pub(super) async fn resumed(&self) {
        loop {
            let changed = self.breakpoints.changed.listen();
            if !self.is_listed() {
                return;
            }
            changed.await;
        }
    }

    fn is_listed(&self) -> bool {
        let state = self.breakpoints.state.lock();
        state.suspended.iter().any(|(number, _)| self.numbers.contains(number))
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let mut state = self.breakpoints.state.lock();
        state.suspended.retain(|(number, _)| !self.numbers.contains(number));
    }
}
