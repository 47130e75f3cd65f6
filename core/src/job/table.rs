//! All jobs by name.

use super::state::Job;
use crate::Result;
use crate::io::{BoxFuture, Runtime};
use crate::monitor::{Events, QmpError, QmpResult};
use crate::qapi::{JobStatus, JobType, JobVerb, is_id};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

/// What a job is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobOptions {
    /// Its last changes are made as soon as it is done.
    pub auto_finalize: bool,
    /// It is forgotten as soon as it is over.
    pub auto_dismiss: bool,
}

/// The jobs of a program.
pub struct Jobs {
    runtime: Arc<dyn Runtime>,
    events: Arc<Events>,
    /// In the order in which they came.
    list: Mutex<Vec<Arc<Job>>>,
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("list", &*self.list.lock()).finish_non_exhaustive()
    }
}

impl Jobs {
    /// No job yet.
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, events: Arc<Events>) -> Arc<Self> {
        Arc::new(Self { runtime, events, list: Mutex::default() })
    }

    /// All of them, in the order in which they came.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.list.lock().clone()
    }

    /// The job of that name.
    ///
    /// # Errors
    /// `GenericError`.
    pub fn find(&self, id: &str) -> QmpResult<Arc<Job>> {
        let found = self.list.lock().iter().find(|job| job.id() == id).cloned();
        found.ok_or_else(|| QmpError::generic("Job not found"))
    }

    /// Starts `work` as a job of the type `kind`.
    ///
    /// # Errors
    /// `GenericError` for a name that is none, or that another job has.
    pub fn start(
        self: &Arc<Self>,
        id: &str,
        kind: JobType,
        options: JobOptions,
        work: impl FnOnce(Arc<Job>) -> BoxFuture<'static, Result<()>>,
    ) -> QmpResult<Arc<Job>> {
        if !is_id(id) {
            return Err(QmpError::generic(format!("Invalid job ID '{id}'")));
        }
        if self.find(id).is_ok() {
            return Err(QmpError::generic(format!("Job ID '{id}' already in use")));
        }
        let JobOptions { auto_finalize, auto_dismiss } = options;
        let job = Job::new(id, kind, auto_finalize, auto_dismiss, self.events.clone());
        self.list.lock().push(job.clone());
        job.become_(JobStatus::Running);
        let work = work(job.clone());
        let (table, running) = (self.clone(), job.clone());
        self.runtime.spawn(Box::pin(async move {
            let result = work.await;
            table.end(&running, result).await;
        }));
        Ok(job)
    }

    /// Forgets a job that is over.
    ///
    /// # Errors
    /// `GenericError` where there is none, or it is not over.
    pub fn dismiss(&self, id: &str) -> QmpResult<()> {
        let job = self.find(id)?;
        job.ask(JobVerb::Dismiss)?;
        self.forget(&job);
        Ok(())
    }

    /// Ends all jobs, and forgets them, the newest first.
    pub async fn close(&self) {
        for job in self.all().into_iter().rev() {
            // One that is over takes no verb.
            let _ = job.ask(JobVerb::Cancel);
            loop {
                let changed = job.changed.listen();
                if matches!(job.status(), JobStatus::Concluded | JobStatus::Null) {
                    break;
                }
                changed.await;
            }
            if job.status() == JobStatus::Concluded {
                self.forget(&job);
            }
        }
    }

    async fn end(&self, job: &Arc<Job>, result: Result<()>) {
        let cancelled = job.is_cancelled();
        match result {
            Ok(()) if !cancelled => {
                job.become_(JobStatus::Waiting);
                job.become_(JobStatus::Pending);
                if !job.auto_finalize {
                    loop {
                        let changed = job.changed.listen();
                        if job.is_asked_to_go_on() {
                            break;
                        }
                        changed.await;
                    }
                }
                if job.is_cancelled() {
                    job.become_(JobStatus::Aborting);
                }
            }
            ended => {
                if let Err(error) = ended {
                    job.state.lock().error = Some(QmpError::from(error).desc);
                }
                job.become_(JobStatus::Aborting);
            }
        }
        job.become_(JobStatus::Concluded);
        if job.auto_dismiss {
            self.forget(job);
        }
    }

    fn forget(&self, job: &Arc<Job>) {
        self.list.lock().retain(|other| !Arc::ptr_eq(other, job));
        job.become_(JobStatus::Null);
    }
}
