//! Tests of the format as a whole, over memory.
//!
//! | file | kind |
//! | --- | --- |
//! | `bitmaps` | persistent bitmaps, with crashes of their own |
//! | `blank` | zeroes around small writes |
//! | `builder` | images written byte by byte, for the other kinds |
//! | `unit` | headers and tables: round trips, and each rule with the smallest image that breaks it |
//! | `options` | what can be said when an image is opened |
//! | `overlap` | what must not be written over |
//! | `model` | every kind of image against a flat disk |
//! | `discards` | what the file below is told to give up |
//! | `disks` | images in every state, with operations, for the next three |
//! | `campaign` | power goes at each call of every operation there is, in thousands of ways |
//! | `events` | what the file below is told of |
//! | `faults` | each call of the file fails once |
//! | `crash` | power goes at each call |
//! | `compact` | giving space back, whatever happens midway |
//! | `pack` | clusters that move to where the file has room |
//! | `interleave` | futures dropped at each await, writes that land late, several threads |
//! | `known_failures` | what other writers have got wrong |
//! | `repair` | repairs, and the marks that call for them |
//! | `rewrite` | changes of the header |
//! | `states` | snapshots, sizes and amendments, whatever fails |
//! | `vm_state` | the state of a machine |
//! | `hostile` | truncated, flipped and forged images |
//!
//! `SECTORA_TEST_ROUNDS=n` makes the random ones `n` times as long.
#![cfg(feature = "testing")]

mod bitmaps;
mod blank;
mod builder;
mod campaign;
mod compact;
mod crash;
mod discards;
mod disks;
mod events;
mod faults;
mod headers;
mod hostile;
mod interleave;
mod known_failures;
mod model;
mod options;
mod overlap;
mod pack;
mod repair;
mod rewrite;
mod states;
mod unit;
mod vm_state;

use crate::format::{Env, Finding, Layer, Repair};
use crate::image::no_progress;
use crate::io::testing::SimRuntime;
use crate::io::{BoxFuture, Device, OpenPolicy, Opened, Reference};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Hands out one device for every reference.
struct Always(Device);

impl OpenPolicy for Always {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, Result<Opened>> {
        let opened = Opened { device: self.0.clone(), filename: reference.name.to_string() };
        Box::pin(core::future::ready(Ok(opened)))
    }
}

/// Surroundings in which every reference leads to `device`.
fn env(runtime: &SimRuntime, device: &Device) -> Env {
    Env { runtime: runtime.handle(), policy: Arc::new(Always(device.clone())) }
}

/// What the check has to say of an image.
async fn findings(layer: &Layer) -> Result<Vec<Finding>> {
    let report = layer.driver().check(Repair::Nothing, &no_progress).await?;
    let report = report.ok_or_else(|| Error::bug("qcow2 has a check"))?;
    assert_eq!(
        report.findings.is_empty(),
        report.corruptions + report.leaks + report.check_errors == 0,
        "the counts and the words disagree"
    );
    Ok(report.findings)
}

/// How often the random tests repeat themselves: once, unless somebody has the time.
fn rounds() -> u64 {
    std::env::var("SECTORA_TEST_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}
