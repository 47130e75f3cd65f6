//! Whether requests of named backends go on: `stop`, `cont`, `query-status`.

use crate::monitor::Events;
use crate::qapi::{RunState, StatusInfo};
use crate::sync::Mutex;
use alloc::sync::Arc;
use core::fmt;
use event_listener::Event;
use serde_json::Map;

/// What the backends are disks of. It has no processor: stopped means that requests wait.
pub struct Machine {
    state: Mutex<RunState>,
    resumed: Event,
    events: Arc<Events>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

impl Machine {
    pub(super) fn new(events: Arc<Events>) -> Arc<Self> {
        let state = Mutex::new(RunState::Running);
        Arc::new(Self { state, resumed: Event::new(), events })
    }

    /// Waits until requests go on.
    pub(super) async fn running(&self) {
        loop {
            let resumed = self.resumed.listen();
            if *self.state.lock() == RunState::Running {
                return;
            }
            resumed.await;
        }
    }

    /// The schema's `StatusInfo`.
    #[must_use]
    pub fn status(&self) -> StatusInfo {
        let status = *self.state.lock();
        StatusInfo { running: status == RunState::Running, status }
    }

    /// Holds requests from now on (`stop`). Those that are under way end.
    pub fn stop(&self) {
        self.halt(RunState::Paused);
    }

    pub(super) fn stop_for_error(&self) {
        self.halt(RunState::IoError);
    }

    fn halt(&self, why: RunState) {
        {
            let mut state = self.state.lock();
            if *state != RunState::Running {
                return;
            }
            *state = why;
        }
        self.events.emit("STOP", Map::new());
    }

    /// Lets requests go on (`cont`).
    pub(super) fn resume(&self) {
        {
            let mut state = self.state.lock();
            if *state == RunState::Running {
                return;
            }
            *state = RunState::Running;
        }
        self.events.emit("RESUME", Map::new());
        self.resumed.notify(usize::MAX);
    }
}
