//! A job's states, and what each takes.

use crate::monitor::{Events, QmpError, QmpResult};
use crate::qapi::{JobStatus, JobType, JobVerb};
use crate::sync::Mutex;
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use event_listener::Event;
use serde_json::{Map, Value};

impl JobVerb {
    /// True where a job of that status takes it.
    fn is_taken_by(self, status: JobStatus) -> bool {
        use JobStatus::{
            Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby,
        };
        match self {
            Self::Cancel => !matches!(status, Aborting | Concluded | Null),
            Self::Pause | Self::Resume | Self::SetSpeed | Self::Change => {
                matches!(status, Created | Running | Paused | Ready | Standby)
            }
            Self::Complete => matches!(status, Ready),
            Self::Finalize => matches!(status, Pending),
            Self::Dismiss => matches!(status, Concluded),
        }
    }
}

/// What becomes of a job as it runs.
#[derive(Debug)]
pub(super) struct State {
    pub(super) status: JobStatus,
    /// Somebody asked for a pause.
    pub(super) user_paused: bool,
    pub(super) cancelled: bool,
    pub(super) finalized: bool,
    /// How much is done and how much there is, in units of the job's own.
    pub(super) current: u64,
    pub(super) total: u64,
    pub(super) error: Option<String>,
}

/// A job.
pub struct Job {
    id: String,
    kind: JobType,
    pub(super) auto_finalize: bool,
    pub(super) auto_dismiss: bool,
    pub(super) state: Mutex<State>,
    /// Something of the state has changed that the work may wait for.
    pub(super) changed: Event,
    events: Arc<Events>,
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("id", &self.id).field("kind", &self.kind).finish()
    }
}

impl Job {
    pub(super) fn new(
        id: &str,
        kind: JobType,
        auto_finalize: bool,
        auto_dismiss: bool,
        events: Arc<Events>,
    ) -> Arc<Self> {
        let state = State {
            status: JobStatus::Created,
            user_paused: false,
            cancelled: false,
            finalized: false,
            current: 0,
            total: 0,
            error: None,
        };
        let state = Mutex::new(state);
        let (id, changed) = (id.to_owned(), Event::new());
        let job = Self { id, kind, auto_finalize, auto_dismiss, state, changed, events };
        job.tell(JobStatus::Created);
        Arc::new(job)
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it does.
    #[must_use]
    pub fn kind(&self) -> JobType {
        self.kind
    }

    /// Where it is.
    #[must_use]
    pub fn status(&self) -> JobStatus {
        self.state.lock().status
    }

    /// How much is done and how much there is, in units of its own.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.current, state.total)
    }

    /// Why it failed.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.state.lock().error.clone()
    }

    /// The work says how far it is.
    pub fn set_progress(&self, current: u64, total: u64) {
        let mut state = self.state.lock();
        (state.current, state.total) = (current, total);
    }

    /// True where it was asked to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.state.lock().cancelled
    }

    /// True where a pending job need wait no longer.
    pub(super) fn is_asked_to_go_on(&self) -> bool {
        let state = self.state.lock();
        state.finalized || state.cancelled
    }

    /// The work can pause here, and does for as long as it is asked to. False where it is to end.
    pub async fn breathe(&self) -> bool {
        loop {
            let changed = self.changed.listen();
            let (status, paused) = {
                let state = self.state.lock();
                if state.cancelled {
                    return false;
                }
                (state.status, state.user_paused)
            };
            match (status, paused) {
                (JobStatus::Running, true) => self.become_(JobStatus::Paused),
                (JobStatus::Ready, true) => self.become_(JobStatus::Standby),
                (JobStatus::Paused, false) => self.become_(JobStatus::Running),
                (JobStatus::Standby, false) => self.become_(JobStatus::Ready),
                (_, false) => return true,
                (_, true) => changed.await,
            }
        }
    }

    /// Asks something of it.
    ///
    /// # Errors
    /// `GenericError` where its state does not take the verb.
    pub fn ask(&self, verb: JobVerb) -> QmpResult<()> {
        {
            let mut state = self.state.lock();
            if verb == JobVerb::Resume && !state.user_paused {
                return Err(QmpError::generic("Can't resume a job that was not paused"));
            }
            if !verb.is_taken_by(state.status) {
                return Err(QmpError::generic(format!(
                    "Job '{}' in state '{}' cannot accept command verb '{}'",
                    self.id,
                    state.status.as_str(),
                    verb.as_str()
                )));
            }
            match verb {
                JobVerb::Pause if state.user_paused => {
                    return Err(QmpError::generic("Job is already paused"));
                }
                JobVerb::Pause => state.user_paused = true,
                JobVerb::Resume => state.user_paused = false,
                JobVerb::Cancel => (state.cancelled, state.user_paused) = (true, false),
                JobVerb::Finalize => state.finalized = true,
                JobVerb::SetSpeed | JobVerb::Complete | JobVerb::Dismiss | JobVerb::Change => {}
            }
        }
        self.changed.notify(usize::MAX);
        Ok(())
    }

    /// Goes to another status, and tells it.
    pub(super) fn become_(&self, status: JobStatus) {
        self.state.lock().status = status;
        self.tell(status);
        self.changed.notify(usize::MAX);
    }

    fn tell(&self, status: JobStatus) {
        let mut data = Map::new();
        data.insert("status".to_owned(), Value::from(status.as_str()));
        data.insert("id".to_owned(), Value::from(self.id.as_str()));
        self.events.emit("JOB_STATUS_CHANGE", data);
    }
}
