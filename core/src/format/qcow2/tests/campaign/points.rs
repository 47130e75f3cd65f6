//! What survives a crash.

use crate::io::MemoryDevice;
use crate::io::testing::{CrashDevice, Rng};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::fmt;

/// So many random subsets of each moment.
const RANDOM: usize = 4;

/// A moment at which the power may go: all files as they are then.
pub(crate) struct Moment {
    /// The step under way; as many as there are: all are done.
    pub(crate) step: usize,
    /// The files.
    pub(crate) files: Vec<CrashDevice>,
}

impl Moment {
    fn unflushed(&self) -> usize {
        self.files.iter().map(|file| file.unflushed().len()).sum()
    }
}

/// How survivors have landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tearing {
    Whole,
    At(u64),
}

/// One crash: when, what survives, how torn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Point {
    /// Index of the moment.
    pub(crate) moment: usize,
    /// For each change that is not flushed, over all files: whether it survives.
    kept: Vec<bool>,
    tearing: Tearing,
    /// Decides what is torn, and how the judge goes about it.
    pub(crate) seed: u64,
}

impl Point {
    pub(crate) fn is_torn(&self) -> bool {
        self.tearing != Tearing::Whole
    }

    /// What is left of the files.
    pub(crate) fn survivors(&self, moment: &Moment) -> Vec<MemoryDevice> {
        let mut first = 0;
        let mut out = Vec::new();
        for file in &moment.files {
            let count = file.unflushed().len();
            let kept = &self.kept[first..first + count];
            out.push(match self.tearing {
                Tearing::Whole => file.crash_keeping(|place| kept[place]),
                Tearing::At(unit) => file.crash_tearing(unit, self.seed, |place| kept[place]),
            });
            first += count;
        }
        out
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("survivors ")?;
        for kept in &self.kept {
            f.write_str(if *kept { "1" } else { "0" })?;
        }
        if let Tearing::At(unit) = self.tearing {
            write!(f, " torn at {unit}")?;
        }
        write!(f, ", seed {:#x}", self.seed)
    }
}

/// Points, drawn.
pub(crate) struct Points;

impl Points {
    /// Up to `share` different points of the moments; all of them where there are not so many.
    pub(crate) fn draw(moments: &[Moment], share: u64, rng: &mut Rng) -> Vec<Point> {
        let mut all: Vec<Point> = Vec::new();
        for (index, moment) in moments.iter().enumerate() {
            for kept in subsets(moment.unflushed(), rng) {
                let some = kept.contains(&true);
                for tearing in [Tearing::Whole, Tearing::At(512), Tearing::At(4096)] {
                    if tearing == Tearing::Whole || some {
                        let seed = rng.next_u64();
                        all.push(Point { moment: index, kept: kept.clone(), tearing, seed });
                    }
                }
            }
        }
        let share = usize::try_from(share).unwrap_or(usize::MAX).min(all.len());
        // The first of a random order.
        for place in 0..share {
            let other = place + rng.index(all.len() - place);
            all.swap(place, other);
        }
        all.truncate(share);
        all
    }
}

/// Every class of subsets of so many changes, each subset once.
fn subsets(count: usize, rng: &mut Rng) -> BTreeSet<Vec<bool>> {
    let mut out = BTreeSet::new();
    let mut add = |keep: &mut dyn FnMut(usize) -> bool| {
        out.insert((0..count).map(keep).collect::<Vec<bool>>());
    };
    add(&mut |_| false);
    add(&mut |_| true);
    for one in 0..count {
        add(&mut |place| place == one);
        add(&mut |place| place != one);
        add(&mut |place| place < one);
    }
    for _ in 0..RANDOM {
        let percent = *rng.pick(&[20, 50, 80]);
        add(&mut |_| rng.chance(percent));
    }
    out
}
