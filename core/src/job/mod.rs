//! Background jobs: the schema's states and verbs (`job.json`).
//!
//! A [`Job`] is a state machine; the work itself is a future that the host runs beside everything
//! else. The work looks at its job where it can pause or end early ([`Job::breathe`]); the job owns
//! no thread. What a job would change at its end happens between `pending` and `concluded`.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `state` | states, verbs, and which verb a state takes |
//! | `table` | all jobs by name: what commands talk to |

mod state;
mod table;
#[cfg(test)]
mod tests;

pub use crate::qapi::{JobStatus, JobType, JobVerb};
pub use state::Job;
pub use table::{JobOptions, Jobs};
