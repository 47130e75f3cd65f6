//! The contract of [`BlockDevice`](crate::io::BlockDevice) as a suite that any implementation can
//! run, on any host.
//!
//! ```
//! use sectora_core::io::testing::{SimRuntime, contract};
//! use sectora_core::io::{BoxFuture, Device, MemoryDevice};
//! use sectora_core::Result;
//! use std::sync::Arc;
//!
//! let make = || -> BoxFuture<'static, Result<Device>> {
//!     Box::pin(async { Ok(Arc::new(MemoryDevice::new(0)) as Device) })
//! };
//! let runtime = SimRuntime::new(1);
//! let options = contract::ContractOptions::default();
//! let case = contract::cases().iter().find(|case| case.name() == "set_len").expect("a case");
//! let outcome = runtime.block_on(case.run(&make, &runtime, &options));
//! assert_eq!(outcome, contract::Outcome::Passed);
//! ```
//!
//! [`run`] runs all cases; a harness that wants each as a test of its own takes [`cases`]. Each
//! case makes its own devices. A case that does not apply to the device (no growth, nothing to
//! drop because every call completes at once …) is reported as skipped, never as passed.

mod bench;
mod cases;
mod flight;
#[cfg(test)]
mod tests;

use super::caught::caught;
use super::model::Subject;
use crate::io::{BoxFuture, Runtime};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bench::{Bench, Stop};
use core::fmt;
use core::time::Duration;
use futures_util::future::{Either, select};

/// What the suite may do.
#[derive(Clone)]
pub struct ContractOptions {
    /// Decides all random choices.
    pub seed: u64,
    /// At most so many bytes at the beginning of a device are used; fewer than four times its
    /// granularity leave corners untested. A device that can grow is set to the length that the
    /// suite wants.
    pub window: u64,
    /// So many runs of random operations, each with a seed of its own.
    pub rounds: u64,
    /// So many operations in each of them.
    pub ops: usize,
    /// How long to wait for something that must not happen any more: an abandoned write that
    /// lands late.
    pub linger: Duration,
    /// A case that takes longer than this has failed.
    pub timeout: Duration,
    /// Makes a device of the same kind that refuses changes.
    pub read_only: Option<Arc<dyn Subject>>,
    /// Cases not to run, each with the reason, which the report shows.
    pub skip: Vec<(&'static str, &'static str)>,
}

impl Default for ContractOptions {
    fn default() -> Self {
        Self {
            seed: 1,
            window: 16 << 20,
            rounds: 8,
            ops: 150,
            linger: Duration::from_millis(5),
            timeout: Duration::from_secs(120),
            read_only: None,
            skip: Vec::new(),
        }
    }
}

impl fmt::Debug for ContractOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContractOptions")
            .field("seed", &self.seed)
            .field("window", &self.window)
            .field("rounds", &self.rounds)
            .field("ops", &self.ops)
            .field("linger", &self.linger)
            .field("timeout", &self.timeout)
            .field("read_only", &self.read_only.is_some())
            .field("skip", &self.skip)
            .finish()
    }
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The device obeys.
    Passed,
    /// It does not apply to this device, for this reason.
    Skipped(String),
    /// The device does not obey.
    Failed(String),
}

/// One rule of the contract, or a few that belong together.
pub struct Case {
    name: &'static str,
    about: &'static str,
    run: for<'a> fn(&'a Bench<'a>) -> BoxFuture<'a, Result<(), Stop>>,
}

/// All cases.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases::ALL
}

impl Case {
    /// Its name, in lower case with underscores.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The rule, in a sentence.
    #[must_use]
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// Runs it on devices of `subject`: a closure that makes a fresh one (empty, or of any length
    /// if it cannot grow; its contents do not matter).
    pub async fn run(
        &self,
        subject: &dyn Subject,
        runtime: &dyn Runtime,
        options: &ContractOptions,
    ) -> Outcome {
        if let Some((_, reason)) = options.skip.iter().find(|(name, _)| *name == self.name) {
            return Outcome::Skipped((*reason).to_string());
        }
        let bench = Bench { subject, runtime, options };
        let case = Box::pin(caught((self.run)(&bench)));
        match select(case, runtime.sleep(options.timeout)).await {
            Either::Left((Ok(Ok(())), _)) => Outcome::Passed,
            Either::Left((Ok(Err(Stop::Skip(reason))), _)) => Outcome::Skipped(reason),
            Either::Left((Ok(Err(Stop::Fail(what))) | Err(what), _)) => Outcome::Failed(what),
            Either::Right(_) => Outcome::Failed(format!(
                "no end after {:?}: a call never completes",
                options.timeout
            )),
        }
    }
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What came of all cases, in their order.
#[derive(Clone, Debug)]
#[must_use = "a report may hold failures"]
pub struct Report {
    /// Name and outcome of each.
    pub outcomes: Vec<(&'static str, Outcome)>,
}

/// Runs all cases; see [`Case::run`]. One that fails does not keep others from running.
pub async fn run(
    subject: &dyn Subject,
    runtime: &dyn Runtime,
    options: &ContractOptions,
) -> Report {
    let mut outcomes = Vec::new();
    for case in cases() {
        outcomes.push((case.name, case.run(subject, runtime, options).await));
    }
    Report { outcomes }
}

impl Report {
    /// The cases that failed, with what went wrong.
    pub fn failures(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.outcomes.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Failed(what) => Some((*name, what.as_str())),
            _ => None,
        })
    }

    /// The cases that were skipped, with the reason.
    pub fn skipped(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.outcomes.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Skipped(reason) => Some((*name, reason.as_str())),
            _ => None,
        })
    }

    /// For tests.
    ///
    /// # Panics
    /// Where a case failed; the message lists all of them.
    #[track_caller]
    pub fn assert_ok(&self) {
        assert!(self.failures().next().is_none(), "the device breaks the contract:\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, outcome) in &self.outcomes {
            match outcome {
                Outcome::Passed => writeln!(f, "  passed   {name}")?,
                Outcome::Skipped(reason) => writeln!(f, "  skipped  {name}: {reason}")?,
                Outcome::Failed(what) => writeln!(f, "  FAILED   {name}: {what}")?,
            }
        }
        Ok(())
    }
}
