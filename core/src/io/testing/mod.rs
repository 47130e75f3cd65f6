//! What tests of devices and of everything above them are built on.
//!
//! | module or item | what it is for |
//! | --- | --- |
//! | [`SimRuntime`] | a deterministic runtime: virtual time, seeded order, deadlock detection |
//! | [`FaultDevice`] | calls fail by rule; [`fail_each_call`] does it to each call in turn |
//! | [`DelayDevice`] | calls take random time, so that they land in any order |
//! | [`YieldDevice`] | every call is suspended before and after its effect |
//! | [`CountDevice`] | counts and traces calls |
//! | [`HoldDevice`] | chosen calls stay in flight until released, even when abandoned |
//! | [`CrashDevice`] | loses power: any part of what was not flushed may be gone |
//! | [`drop_at_each_await`] | drops an operation at each await in turn |
//! | [`model`] | random operations against a flat copy, with shrinking |
//! | [`contract`] | the suite that every [`BlockDevice`](crate::io::BlockDevice) has to pass |
//!
//! Invariants: nothing here reads a clock or a random source but the
//! [`Runtime`](crate::io::Runtime) it is given; the same seed gives the same run. Middleware obeys
//! the device contract as long as the device below does.

#[cfg(test)]
mod broken;
mod call;
mod cancel;
mod caught;
pub mod contract;
mod count;
mod crash;
mod delay;
mod fault;
mod hold;
pub mod model;
mod rng;
mod sim;
mod transfer;
mod yielding;

pub use call::{Call, CallFilter, CallKind, CallKinds};
pub use cancel::{abandon_at, drop_at_each_await};
pub use count::CountDevice;
pub use crash::CrashDevice;
pub use delay::DelayDevice;
pub use fault::{Effect, Fault, FaultDevice, fail_each_call};
pub use hold::{Held, HoldDevice};
pub use rng::Rng;
pub use sim::{SimRuntime, Step};
pub use yielding::{YieldDevice, yield_now};
