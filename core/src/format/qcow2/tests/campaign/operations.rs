//! The table: operations, the kinds of images they are made on, what comes before, what is done.

use super::steps::{Damage, Step};
use super::world::{FIRST_KEY, Kind, World};
use crate::format::{Amendment, Repair};
use crate::io::testing::Rng;
use crate::io::{Preallocation, ZeroFlags};
use alloc::vec;
use alloc::vec::Vec;

use Kind::{
    Backed, BackedExtended, BackedV2, Chain, DataFile, Extended, Full, Large, Lazy, LazyExtended,
    Luks, Middle, Narrow, Plain, RawDataFile, V2, Wide, Zstd,
};
use Step::{
    AddBitmap, AddKey, Amend, Apply, Break, Close, Commit, Compact, Compressed, Create, Delete,
    Discard, EraseKey, Flush, MakeEmpty, MergeBitmap, Rebase, RemoveBitmap, Rename, Resize, Write,
    Zero,
};

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

fn bits(bits: u64) -> Step {
    Amend(Amendment { refcount_bits: Some(bits), ..Amendment::default() })
}

fn compat(compat: &str) -> Step {
    Amend(Amendment { compat: Some(compat.into()), ..Amendment::default() })
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
    DataFile,
    RawDataFile,
];

/// Kinds that have compressed clusters.
const COMPRESSED: &[Kind] = &[Plain, Narrow, Zstd, Backed, Lazy];

/// Kinds that differ in how tables are shared.
const SHARED: &[Kind] = &[Plain, V2, Wide, Extended, Backed];

const OPERATION: Operation =
    Operation { name: "", kinds: &[Plain], copied: false, steps: |_| (vec![], vec![]) };

/// Every operation that changes an image.
pub(crate) static OPERATIONS: &[Operation] = &[
    Operation {
        name: "allocating write",
        kinds: DATA,
        steps: |d| (vec![], vec![d.write(), d.write(), Flush, d.write(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "write in place",
        kinds: &[Plain, Extended, DataFile, Luks],
        steps: |d| (vec![d.fill()], vec![d.write(), d.write(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "copy on write over a backing file",
        kinds: &[Backed, BackedV2, BackedExtended, Chain],
        steps: |d| (vec![], vec![d.write(), Flush, d.write(), d.write(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "copy on write over a snapshot",
        kinds: SHARED,
        steps: |d| {
            (vec![d.fill(), Create("one")], vec![d.write(), Flush, d.write(), d.write(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "zero",
        kinds: DATA,
        steps: |d| (vec![d.fill()], vec![d.zero(), Flush, d.zero(), d.zero(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "discard",
        kinds: DATA,
        steps: |d| (vec![d.fill()], vec![d.discard(), Flush, d.discard(), d.discard(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "space freed and used again",
        kinds: DATA,
        steps: |d| {
            let mut steps = vec![d.discard(), d.write(), Flush, d.discard(), Flush];
            steps.extend([d.write(), d.zero(), Flush, d.write(), Flush]);
            (d.writes(4), steps)
        },
        ..OPERATION
    },
    Operation {
        name: "compressed write",
        kinds: COMPRESSED,
        steps: |d| {
            let steps = vec![d.compressed(), d.compressed(), Flush, d.compressed(), Flush];
            (d.writes(1), steps)
        },
        ..OPERATION
    },
    Operation {
        name: "overwrite of compressed clusters",
        kinds: COMPRESSED,
        steps: |d| {
            let all = Compressed(0, d.size, d.tag());
            let steps = vec![d.write(), Flush, d.compressed(), d.zero(), Flush, d.discard(), Flush];
            (vec![all], steps)
        },
        ..OPERATION
    },
    Operation {
        name: "a mixture",
        kinds: DATA,
        steps: |d| (d.writes(2), d.mixed(8, false)),
        ..OPERATION
    },
    Operation {
        name: "a mixture with compressed clusters",
        kinds: COMPRESSED,
        steps: |d| (d.writes(2), d.mixed(8, true)),
        ..OPERATION
    },
    Operation {
        name: "snapshot create",
        kinds: SHARED,
        copied: true,
        steps: |d| (d.writes(3), vec![d.write(), Create("one"), d.write(), Create("two"), Flush]),
    },
    Operation {
        name: "snapshot apply",
        kinds: SHARED,
        copied: true,
        steps: |d| {
            let (a, b, c) = (d.writes(2), d.write(), d.write());
            let prepare = [a, vec![Create("one"), b, Create("two"), c]].concat();
            (prepare, vec![d.write(), Apply("one"), d.write(), Apply("two")])
        },
    },
    Operation {
        name: "snapshot delete",
        kinds: SHARED,
        copied: true,
        steps: |d| {
            let (a, b, c) = (d.writes(2), d.write(), d.write());
            let prepare = [a, vec![Create("one"), b, Create("two"), c]].concat();
            (prepare, vec![d.write(), Delete("one"), Delete("two"), d.write(), Flush])
        },
    },
    Operation {
        name: "shrink",
        kinds: &[Plain, V2, Extended, Backed, Lazy, DataFile],
        steps: |d| {
            let small = d.rng.between(1, d.size / 512 - 1) * 512;
            (vec![d.fill()], vec![d.write(), Resize(small, Preallocation::Off)])
        },
        ..OPERATION
    },
    Operation {
        name: "grow",
        kinds: &[Plain, V2, Extended, Backed, Lazy, DataFile],
        steps: |d| {
            let how = match d.rng.chance(50) {
                true => Preallocation::Off,
                false => Preallocation::Metadata,
            };
            let prepare = d.writes(2);
            let large = d.size + d.rng.between(1, 40) * 512;
            let mut steps = vec![d.write(), Resize(large, how)];
            d.size = large;
            steps.extend([d.write(), Flush]);
            (prepare, steps)
        },
        ..OPERATION
    },
    Operation {
        name: "grow with another L1 table",
        kinds: &[Narrow],
        steps: |d| {
            let at = d.size;
            let mut steps = vec![d.write(), Resize(5 << 20, Preallocation::Off)];
            steps.extend([Write((5 << 20) - 900, 800, d.tag()), Flush]);
            (vec![Write(at - 700, 600, d.tag())], steps)
        },
        ..OPERATION
    },
    Operation {
        name: "another refcount table",
        kinds: &[Full],
        steps: |d| {
            let mut steps = vec![Write(0x1e_8000, 0x8000, d.tag()), Flush];
            steps.extend([Write(0x1f_0000, 0x9000, d.tag()), Flush, d.write(), Flush]);
            (vec![Write(0, 0x1e_8000, d.tag())], steps)
        },
        ..OPERATION
    },
    Operation {
        name: "bitmap store",
        kinds: &[Middle, Extended, BackedExtended, LazyExtended],
        steps: |d| {
            let mut steps = vec![d.write(), AddBitmap("b"), Close, d.write(), Close, d.write()];
            steps.push(Flush);
            ([d.writes(2), vec![AddBitmap("a")]].concat(), steps)
        },
        ..OPERATION
    },
    Operation {
        name: "bitmap remove",
        kinds: &[Middle, Extended, LazyExtended],
        steps: |d| {
            let mut prepare = d.writes(2);
            prepare.extend([AddBitmap("a"), AddBitmap("b"), d.write()]);
            let steps = vec![RemoveBitmap("a"), Close, d.write(), RemoveBitmap("b"), Close];
            (prepare, steps)
        },
        ..OPERATION
    },
    Operation {
        name: "bitmap merge",
        kinds: &[Middle, Extended, LazyExtended],
        steps: |d| {
            let mut prepare = d.writes(2);
            prepare.extend([AddBitmap("a"), d.write(), AddBitmap("b"), d.write()]);
            (prepare, vec![MergeBitmap("b", "a"), Close, d.write(), Close])
        },
        ..OPERATION
    },
    Operation {
        name: "commit",
        kinds: &[Chain],
        steps: |d| (d.writes(4), vec![Commit(false)]),
        ..OPERATION
    },
    Operation {
        name: "commit and keep",
        kinds: &[Chain],
        steps: |d| (vec![d.write(), d.zero(), d.write()], vec![Commit(true)]),
        ..OPERATION
    },
    Operation {
        name: "make empty",
        kinds: &[Backed, BackedV2, BackedExtended, Chain],
        steps: |d| (vec![d.fill()], vec![d.write(), MakeEmpty, d.write(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "compact",
        kinds: &[
            Plain,
            V2,
            Large,
            Extended,
            Narrow,
            Backed,
            BackedExtended,
            Lazy,
            LazyExtended,
            DataFile,
            Luks,
        ],
        steps: |d| {
            let prepare = vec![d.fill(), d.discard(), d.discard(), d.zero(), d.write()];
            (prepare, vec![d.discard(), Compact, d.write(), d.discard(), Compact, d.write(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "compact beside snapshots and compressed clusters",
        kinds: SHARED,
        steps: |d| {
            let mut prepare = vec![d.write(), d.compressed(), Create("one"), d.fill()];
            prepare.extend([d.compressed(), d.discard(), d.discard()]);
            (prepare, vec![Compact, d.write(), d.discard(), Compact, Delete("one"), Compact])
        },
        copied: true,
    },
    Operation {
        name: "compact with a refcount table at the end",
        kinds: &[Full],
        steps: |d| {
            let mut prepare = vec![Write(0, 0x1f_8000, d.tag()), Discard(0, 0x1e_0000)];
            prepare.push(d.write());
            (prepare, vec![Compact, Write(0x1e_8000, 0x9000, d.tag()), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "rebase",
        kinds: &[Backed, BackedV2, BackedExtended],
        steps: |d| (d.writes(3), vec![Rebase(Some("new")), d.write(), Rebase(None)]),
        ..OPERATION
    },
    Operation {
        name: "repair leaks",
        kinds: &[Plain, Middle, Backed, Lazy],
        steps: |d| (vec![d.fill(), Close, Break(Damage::Leaks)], vec![Step::Repair(Repair::Leaks)]),
        ..OPERATION
    },
    Operation {
        name: "repair all",
        kinds: &[Plain, Middle, Backed, Lazy],
        steps: |d| {
            let all = [Damage::Leaks, Damage::Uncounted, Damage::NoCounts, Damage::Copied];
            let damage = *d.rng.pick(&all);
            (vec![d.fill(), Close, Break(damage)], vec![Step::Repair(Repair::All)])
        },
        ..OPERATION
    },
    Operation {
        name: "amend to version 2",
        kinds: &[Plain, Backed],
        copied: true,
        steps: |d| {
            (vec![d.fill(), d.zero(), d.zero()], vec![d.write(), compat("0.10"), d.write(), Flush])
        },
    },
    Operation {
        name: "amend to version 3",
        kinds: &[V2, BackedV2],
        steps: |d| (vec![d.fill(), Create("one")], vec![d.write(), compat("1.1"), d.zero(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "amend refcount width",
        kinds: &[Plain, Narrow, Wide, Extended],
        steps: |d| {
            let width = 1 << d.rng.below(7);
            (d.writes(3), vec![d.write(), bits(width), d.write(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "amend lazy refcounts",
        kinds: &[Plain, Lazy],
        steps: |d| {
            let lazy = |on| Amend(Amendment { lazy_refcounts: Some(on), ..Amendment::default() });
            (d.writes(2), vec![lazy(true), d.write(), Flush, lazy(false), d.write(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "amend data file",
        kinds: &[RawDataFile],
        steps: |d| {
            let raw = Amendment { data_file_raw: Some(false), ..Amendment::default() };
            (d.writes(2), vec![d.write(), Amend(raw), d.discard(), Flush, d.write(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "key slots",
        kinds: &[Luks],
        steps: |d| {
            (d.writes(1), vec![AddKey("second"), d.write(), EraseKey(FIRST_KEY), AddKey("third")])
        },
        ..OPERATION
    },
    Operation {
        name: "another name in the header",
        kinds: &[Backed, BackedV2, BackedExtended],
        steps: |d| {
            let mut name = |most: u64| {
                let len = d.rng.between(1, most) as usize;
                Some(core::iter::once("base-").chain(core::iter::repeat_n("n", len)).collect())
            };
            let steps = vec![Rename(name(200)), Rename(name(20)), Rename(name(200))];
            (d.writes(1), steps)
        },
        ..OPERATION
    },
    Operation {
        name: "closing with postponed refcounts",
        kinds: &[Lazy, LazyExtended],
        steps: |d| {
            let steps = vec![d.write(), d.zero(), Flush, d.write(), Close, d.discard(), Close];
            (d.writes(2), steps)
        },
        ..OPERATION
    },
];
