//! Power lost at every moment of every operation, with any part of what was not flushed surviving.
//!
//! | file | part |
//! | --- | --- |
//! | `operations` | the table: what is done to which kind of image |
//! | `steps` | single steps, what they do to an image, and what a crash may leave of them |
//! | `world` | the files of an image, as they are made, opened and watched |
//! | `points` | which changes survive a crash, and how torn |
//! | `clock` | a clock that key slots can be timed by |
//! | `judge` | what has to hold of what is left |
//! | `drops` | the same steps, dropped at any await |
//!
//! An operation is made once. Its files keep a copy of themselves before each change and flush: the
//! moments at which the power may go. Changes that no flush covers then survive in every class of
//! subsets: none, all, each alone, all but one, the first ones, and random ones; whole, or torn at
//! 512 or 4096 bytes. A *point* is one moment, one subset, one tearing: files, which are opened and
//! judged.
//!
//! Written against the public interface only, because the suite that shows a sample of the points
//! to the reference tool includes the same files.

mod clock;
mod drops;
mod judge;
mod operations;
mod points;
mod steps;
mod world;

use crate::io::MemoryDevice;
use crate::io::testing::{Rng, SimRuntime};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
pub(crate) use clock::with_clock;
pub(crate) use drops::drop_anywhere;
use operations::{Operation, operations, story};
use points::Points;
use world::{Kind, World};

/// What a campaign has looked at.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Points judged.
    pub(crate) points: u64,
    /// Moments they were taken from.
    pub(crate) moments: u64,
    /// Points of which a change was torn.
    pub(crate) torn: u64,
    /// Points where *copied* flags disagreed with counts, which an operation that the document
    /// names may leave.
    pub(crate) copied: u64,
    /// The first point of each operation that breaks a promise: its name, and what was found.
    pub(crate) broken: Vec<String>,
    /// Points of each operation.
    pub(crate) operations: BTreeMap<&'static str, u64>,
}

/// A point that was judged, for who wants to look at it too.
#[allow(dead_code, reason = "who does is in another crate")]
pub(crate) struct Sample<'a> {
    /// Operation, kind of image, moment and subset.
    pub(crate) name: &'a str,
    /// Its files by name; the image is the first.
    pub(crate) files: &'a [(&'static str, MemoryDevice)],
    /// Corruptions are possible: the image is dirty, was damaged before, or its copied flags may
    /// disagree.
    pub(crate) excused: bool,
    /// It takes a key to open it.
    pub(crate) encrypted: bool,
}

/// Judges `points` points or some more, drawn by `seed`: each operation on each of its kinds of
/// images gets the same share, as long as it has so many.
pub(crate) fn run(seed: u64, points: u64, sample: &mut dyn FnMut(&Sample<'_>)) -> Tally {
    run_some(|_| true, true, seed, points, sample)
}

/// The same over files that do nothing about flushes: most operations have to be found broken.
pub(crate) fn run_over_liars(seed: u64, points: u64) -> Tally {
    run_some(|_| true, false, seed, points, &mut |_| ())
}

/// The same of one operation.
pub(crate) fn run_one(
    name: &str,
    seed: u64,
    points: u64,
    sample: &mut dyn FnMut(&Sample<'_>),
) -> Tally {
    run_some(|operation| operation.name == name, true, seed, points, sample)
}

/// Every operation with each kind of its images.
fn jobs() -> Vec<(&'static Operation, Kind)> {
    let kinds =
        |operation: &'static Operation| operation.kinds.iter().map(move |kind| (operation, *kind));
    operations().flat_map(kinds).collect()
}

fn run_some(
    wanted: impl Fn(&Operation) -> bool,
    honest: bool,
    seed: u64,
    points: u64,
    sample: &mut dyn FnMut(&Sample<'_>),
) -> Tally {
    let mut rng = Rng::new(seed);
    let mut tally = Tally::default();
    let mut jobs = jobs();
    jobs.retain(|(operation, _)| wanted(operation));
    let count = jobs.len() as u64;
    while tally.points < points && tally.broken.is_empty() {
        let before = tally.points;
        for (done, (operation, kind)) in jobs.iter().enumerate() {
            // What earlier ones could not give, later ones get.
            let left = points.saturating_sub(tally.points).max(1);
            let share = left.div_ceil(count - done as u64);
            let made = Made { operation, kind: *kind, honest, seed: rng.next_u64() };
            made.judge_some(share, &mut tally, sample);
        }
        assert!(tally.points > before, "no operation has any moments");
    }
    tally
}

/// An operation that is made once.
struct Made<'a> {
    operation: &'a Operation,
    kind: Kind,
    honest: bool,
    seed: u64,
}

impl Made<'_> {
    /// Makes it, and judges up to `share` of its points.
    fn judge_some(&self, share: u64, tally: &mut Tally, sample: &mut dyn FnMut(&Sample<'_>)) {
        let Self { operation, kind, honest, seed } = *self;
        let runtime = SimRuntime::new(seed);
        let name = format!("{} ({kind:?}, {seed:#x})", operation.name);
        let mut rng = Rng::new(seed);
        runtime.block_on(async {
            let world = World::new(&runtime, kind, &mut rng).await;
            let (prepare, steps) = story(operation, &world, &mut rng);
            let made = match world.watch(&prepare, &steps, honest).await {
                Ok(made) => made,
                Err(what) => {
                    tally.broken.push(format!("{name}: nothing fails, and yet: {what}"));
                    return;
                }
            };
            tally.moments += made.moments.len() as u64;
            for point in Points::draw(&made.moments, share, &mut rng) {
                let moment = &made.moments[point.moment];
                let files = world.named(point.survivors(moment));
                let what = format!(
                    "{name}, {}, moment {} of {}, {point}",
                    made.told(moment.step),
                    point.moment,
                    made.moments.len()
                );
                let allowed = &made.allowed[moment.step];
                let verdict =
                    judge::judge(&world, &files, allowed, operation.copied, point.seed).await;
                tally.points += 1;
                let verdict = match verdict {
                    Ok(verdict) => verdict,
                    Err(why) => {
                        tally.broken.push(format!("{what}: {why}"));
                        return;
                    }
                };
                tally.torn += u64::from(point.is_torn());
                tally.copied += u64::from(verdict.copied);
                *tally.operations.entry(operation.name).or_default() += 1;
                let excused = verdict.copied || verdict.dirty || allowed.iter().any(|s| s.damaged);
                let encrypted = kind.is_encrypted();
                sample(&Sample { name: &what, files: &files, excused, encrypted });
            }
        });
    }
}
