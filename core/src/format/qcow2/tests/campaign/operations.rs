//! The table: operations, the kinds of images they are made on, what comes before, what is done.
//!
//! `data` has what happens to data, `image` what happens to an image as a whole.

mod data;
mod image;

use super::steps::{MACHINE, Step};
use super::world::{Kind, World};
use crate::io::ZeroFlags;
use crate::io::testing::Rng;
use alloc::vec;
use alloc::vec::Vec;

use Kind::{
    Aes, Backed, BackedExtended, BackedV2, DataFile, Extended, Large, Lazy, LazyBacked,
    LazyExtended, Luks, Narrow, NoUnref, NoUnrefBacked, NoUnrefDataFile, NoUnrefExtended,
    NotPassing, Passing, Plain, RawDataFile, V2, Wide, Zstd,
};
use Step::{Break, Close, Compressed, Discard, Flush, Save, Write, Zero};

/// What comes before, and what is watched.
type Steps = (Vec<Step>, Vec<Step>);

/// One line of the table.
pub(crate) struct Operation {
    /// Its name.
    pub(crate) name: &'static str,
    /// The kinds of images it is made on.
    pub(crate) kinds: &'static [Kind],
    /// *Copied* flags may disagree with counts after a crash ("Crash cases").
    pub(crate) copied: bool,
    steps: fn(&mut Draw<'_>) -> Steps,
}

/// The steps of an operation on a world.
pub(crate) fn story(operation: &Operation, world: &World, rng: &mut Rng) -> Steps {
    let size = world.start.disk.len();
    let mut draw = Draw { rng, cluster: world.cluster, size, tag: 0 };
    let (mut prepare, steps) = (operation.steps)(&mut draw);
    if !matches!(prepare.last(), Some(Break(_))) {
        prepare.push(Close);
    }
    (prepare, steps)
}

/// Ranges and bytes.
struct Draw<'a> {
    rng: &'a mut Rng,
    cluster: u64,
    size: u64,
    tag: u8,
}

impl Draw<'_> {
    fn tag(&mut self) -> u8 {
        self.tag += 1;
        self.tag
    }

    /// Any range: a part of a cluster, or up to some clusters.
    fn range(&mut self) -> (u64, u64) {
        let longest = if self.rng.chance(50) { self.cluster } else { self.size / 8 };
        let len = self.rng.between(1, longest);
        (self.rng.below(self.size - len), len)
    }

    /// Whole clusters.
    fn clusters(&mut self) -> (u64, u64) {
        let all = self.size / self.cluster;
        let count = self.rng.between(1, (all / 8).max(1));
        (self.rng.below(all - count + 1) * self.cluster, count * self.cluster)
    }

    fn write(&mut self) -> Step {
        let (at, len) = self.range();
        Write(at, len, self.tag())
    }

    fn compressed(&mut self) -> Step {
        let (at, len) = self.clusters();
        Compressed(at, len, self.tag())
    }

    fn zero(&mut self) -> Step {
        let (at, len) = if self.rng.chance(50) { self.range() } else { self.clusters() };
        let flags = if self.rng.chance(50) { ZeroFlags::MAY_UNMAP } else { ZeroFlags::empty() };
        Zero(at, len, flags)
    }

    fn discard(&mut self) -> Step {
        let (at, len) = self.clusters();
        Discard(at, len)
    }

    /// The whole disk.
    fn fill(&mut self) -> Step {
        Write(0, self.size, self.tag())
    }

    /// A part of the state of the machine: of a cluster, or more.
    fn save(&mut self) -> Step {
        let longest = if self.rng.chance(50) { self.cluster } else { MACHINE / 4 };
        let len = self.rng.between(1, longest.min(MACHINE / 4));
        Save(self.rng.below(MACHINE - len), len, self.tag())
    }

    fn writes(&mut self, count: usize) -> Vec<Step> {
        (0..count).map(|_| self.write()).collect()
    }

    /// Changes of every kind of data, and flushes.
    fn mixed(&mut self, count: usize, compressed: bool) -> Vec<Step> {
        (0..count)
            .map(|_| match self.rng.below(10) {
                0..=3 => self.write(),
                4 if compressed => self.compressed(),
                4 | 5 => self.zero(),
                6 | 7 => self.discard(),
                _ => Flush,
            })
            .chain([Flush])
            .collect()
    }
}

/// Kinds that differ in how data is written.
const DATA: &[Kind] = &[
    Plain,
    V2,
    Large,
    Extended,
    Narrow,
    Backed,
    BackedV2,
    BackedExtended,
    Lazy,
    LazyExtended,
    LazyBacked,
    DataFile,
    RawDataFile,
    Luks,
    Aes,
];

/// Kinds that differ in what becomes of the space of freed clusters.
const FREEING: &[Kind] =
    &[NoUnref, NoUnrefExtended, NoUnrefBacked, NoUnrefDataFile, Passing, NotPassing];

/// Kinds that have compressed clusters.
const COMPRESSED: &[Kind] =
    &[Plain, Narrow, Zstd, Backed, Lazy, LazyBacked, NoUnref, Passing, NotPassing];

/// Kinds that differ in how tables are shared.
const SHARED: &[Kind] = &[Plain, V2, Wide, Extended, Backed, Lazy, NoUnref, Passing, NotPassing];

/// Kinds in which the state of a machine lies differently, or is changed differently.
const MACHINES: &[Kind] = &[Plain, V2, Large, Extended, Backed, Lazy, Luks, Aes, NoUnref];

const OPERATION: Operation =
    Operation { name: "", kinds: &[Plain], copied: false, steps: |_| (vec![], vec![]) };

/// Every operation that changes an image.
pub(crate) fn operations() -> impl Iterator<Item = &'static Operation> {
    data::OPERATIONS.iter().chain(image::OPERATIONS)
}
