//! A job's way through the states of the schema.

use super::*;
use crate::io::testing::SimRuntime;
use crate::monitor::{Events, Subscription};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

const AUTO: JobOptions = JobOptions { auto_finalize: true, auto_dismiss: false };

struct World {
    sim: SimRuntime,
    jobs: Arc<Jobs>,
    heard: Subscription,
}

impl World {
    fn new() -> Self {
        let sim = SimRuntime::new(1);
        let events = Events::new(sim.handle());
        let heard = events.subscribe();
        Self { jobs: Jobs::new(sim.handle(), events), sim, heard }
    }

    fn start(&self, id: &str, options: JobOptions, result: Result<()>) -> Arc<Job> {
        let runtime = self.sim.handle();
        let work = move |job: Arc<Job>| {
            Box::pin(async move {
                for step in 0..3 {
                    if !job.breathe().await {
                        return Err(Error::new(crate::ErrorKind::Cancelled, "it was cancelled"));
                    }
                    runtime.sleep(Duration::from_secs(1)).await;
                    job.set_progress(step + 1, 3);
                }
                result
            }) as crate::io::BoxFuture<'static, Result<()>>
        };
        self.jobs.start(id, JobType::Create, options, work).unwrap()
    }

    /// The states that were told since the last call.
    fn told(&self) -> Vec<String> {
        core::iter::from_fn(|| self.heard.try_next())
            .map(|event| event.data["status"].as_str().unwrap_or_default().to_string())
            .collect()
    }
}

#[test]
fn a_job_goes_through_the_states_of_the_schema() {
    let world = World::new();
    let job = world.start("a", AUTO, Ok(()));
    assert_eq!(world.told(), ["created", "running"]);
    world.sim.run_until_idle();
    assert_eq!(world.told(), ["waiting", "pending", "concluded"]);
    assert_eq!((job.progress(), job.error()), ((3, 3), None));
    world.jobs.dismiss("a").unwrap();
    assert_eq!(world.told(), ["null"]);
    assert_eq!(world.jobs.dismiss("a").unwrap_err().desc, "Job not found");
}

#[test]
fn failure_and_dismissal_by_itself() {
    let world = World::new();
    let options = JobOptions { auto_dismiss: true, ..AUTO };
    let job = world.start("a", options, Err(Error::invalid("it cannot be")));
    world.sim.run_until_idle();
    assert_eq!(world.told(), ["created", "running", "aborting", "concluded", "null"]);
    assert_eq!(job.error().unwrap(), "it cannot be");
    assert!(world.jobs.all().is_empty());
}

#[test]
fn pause_resume_cancel_and_finalize() {
    let world = World::new();
    let options = JobOptions { auto_finalize: false, ..AUTO };
    let job = world.start("a", options, Ok(()));
    let refused = job.ask(JobVerb::Resume).unwrap_err().desc;
    assert_eq!(refused, "Can't resume a job that was not paused");
    job.ask(JobVerb::Pause).unwrap();
    world.sim.run_until_idle();
    assert_eq!(job.status(), JobStatus::Paused);
    assert_eq!(job.ask(JobVerb::Pause).unwrap_err().desc, "Job is already paused");
    job.ask(JobVerb::Resume).unwrap();
    world.sim.run_until_idle();
    assert_eq!(world.told(), ["created", "running", "paused", "running", "waiting", "pending"]);
    let refused = job.ask(JobVerb::Dismiss).unwrap_err().desc;
    assert_eq!(refused, "Job 'a' in state 'pending' cannot accept command verb 'dismiss'");
    job.ask(JobVerb::Finalize).unwrap();
    world.sim.run_until_idle();
    assert_eq!(world.told(), ["concluded"]);

    let job = world.start("b", AUTO, Ok(()));
    job.ask(JobVerb::Cancel).unwrap();
    world.sim.run_until_idle();
    assert_eq!(world.told(), ["created", "running", "aborting", "concluded"]);
}

#[test]
fn names_are_checked_and_all_jobs_end() {
    let world = World::new();
    world.start("a", AUTO, Ok(()));
    let start = |id| {
        let work =
            |_: Arc<Job>| Box::pin(async { Ok(()) }) as crate::io::BoxFuture<'static, Result<()>>;
        world.jobs.start(id, JobType::Create, AUTO, work).unwrap_err().desc
    };
    assert_eq!(start("a"), "Job ID 'a' already in use");
    assert_eq!(start("1a"), "Invalid job ID '1a'");
    world.sim.block_on(world.jobs.close());
    assert!(world.jobs.all().is_empty());
}
