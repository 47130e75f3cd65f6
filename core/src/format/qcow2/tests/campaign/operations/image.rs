//! What happens to an image as a whole: snapshots, sizes, bitmaps, chains, repairs, amendments.

use super::super::steps::Damage;
use super::super::steps::Step::{
    self, AddBitmap, AddKey, Amend, Apply, Break, Close, Commit, Compact, Create, Delete, Discard,
    EraseKey, Flush, Keep, MakeEmpty, MergeBitmap, Rebase, RemoveBitmap, Rename, ReplaceKey,
    Resize, Write,
};
use super::super::world::FIRST_KEY;
use super::super::world::Kind::{
    Aes, Backed, BackedExtended, BackedV2, Chain, DataFile, Extended, Full, Large, Lazy,
    LazyBacked, LazyChain, LazyExtended, LazyFull, Luks, Middle, Narrow, NoUnref, NoUnrefBacked,
    NoUnrefExtended, NotPassing, Passing, Plain, RawDataFile, V2, Wide,
};
use super::{MACHINES, OPERATION, Operation, SHARED};
use crate::format::{Amendment, Repair};
use crate::io::Preallocation;
use alloc::vec;

fn bits(bits: u64) -> Step {
    Amend(Amendment { refcount_bits: Some(bits), ..Amendment::default() })
}

fn compat(compat: &str) -> Step {
    Amend(Amendment { compat: Some(compat.into()), ..Amendment::default() })
}

/// In the order in which they are made.
pub(super) static OPERATIONS: &[Operation] = &[
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
        name: "snapshots of an encrypted disk",
        kinds: &[Luks, Aes],
        copied: true,
        steps: |d| {
            let prepare = [d.writes(2), vec![Create("one"), d.write()]].concat();
            let steps = vec![d.write(), Create("two"), d.write(), Apply("one"), d.write(), Flush];
            (prepare, [steps, vec![Delete("one"), d.write(), Delete("two")]].concat())
        },
    },
    Operation {
        name: "snapshot create with machine state",
        kinds: MACHINES,
        copied: true,
        steps: |d| {
            let mut steps = vec![d.write(), d.save(), Keep("one"), d.save(), d.write()];
            steps.extend([Create("two"), d.save(), Flush]);
            (vec![d.write(), d.save()], steps)
        },
    },
    Operation {
        name: "snapshot apply with machine state",
        kinds: MACHINES,
        copied: true,
        steps: |d| {
            let mut prepare = vec![d.write(), Create("none"), d.save(), Keep("own"), d.write()];
            prepare.extend([d.save(), Create("shared"), d.save(), d.write()]);
            let steps = vec![d.save(), Apply("own"), d.save(), Apply("shared"), Apply("none")];
            (prepare, steps)
        },
    },
    Operation {
        name: "snapshot delete with machine state",
        kinds: MACHINES,
        copied: true,
        steps: |d| {
            let mut prepare = vec![d.write(), d.save(), Keep("own"), d.write(), d.save()];
            prepare.extend([Create("shared"), d.save()]);
            (prepare, vec![d.save(), Delete("own"), d.save(), Delete("shared"), d.save(), Flush])
        },
    },
    Operation {
        name: "shrink",
        kinds: &[Plain, V2, Extended, Backed, Lazy, DataFile, Luks, NoUnref, Passing, NotPassing],
        steps: |d| {
            let small = d.rng.between(1, d.size / 512 - 1) * 512;
            (vec![d.fill()], vec![d.write(), Resize(small, Preallocation::Off)])
        },
        ..OPERATION
    },
    Operation {
        name: "grow",
        kinds: &[Plain, V2, Extended, Backed, Lazy, LazyBacked, DataFile, Luks, Passing],
        steps: |d| {
            use Preallocation::{Falloc, Full, Metadata, Off};
            let how = *d.rng.pick(&[Off, Metadata, Falloc, Full]);
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
        name: "another size with machine state",
        kinds: MACHINES,
        steps: |d| {
            let small = d.rng.between(d.size / 1024, d.size / 512 - 1) * 512;
            let large = d.size + d.rng.between(1, 40) * 512;
            let prepare = vec![d.write(), d.save(), d.save()];
            let mut steps = vec![d.save(), Resize(large, Preallocation::Off), d.save(), Flush];
            steps.extend([d.save(), Resize(small, Preallocation::Off), d.save(), Flush]);
            (prepare, steps)
        },
        ..OPERATION
    },
    Operation {
        name: "grow with another L1 table",
        kinds: &[Narrow, Lazy],
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
        kinds: &[Full, LazyFull],
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
        name: "another size with bitmaps",
        kinds: &[Middle, Extended, LazyExtended],
        steps: |d| {
            let small = d.rng.between(d.size / 1024, d.size / 512 - 1) * 512;
            let large = d.size + d.rng.between(1, 40) * 512;
            let prepare = vec![d.write(), AddBitmap("a"), d.write()];
            let mut steps = vec![Resize(large, Preallocation::Off), d.write(), Close];
            steps.push(Resize(small, Preallocation::Off));
            d.size = small;
            steps.extend([d.write(), Close]);
            (prepare, steps)
        },
        ..OPERATION
    },
    Operation {
        name: "snapshots beside bitmaps",
        kinds: &[Middle, Extended, LazyExtended],
        copied: true,
        steps: |d| {
            let prepare = vec![d.write(), Create("one"), d.write(), AddBitmap("a"), d.write()];
            (prepare, vec![d.write(), Create("two"), d.write(), Close, Delete("one"), Close])
        },
    },
    Operation {
        name: "commit beside bitmaps",
        kinds: &[Chain, LazyChain],
        steps: |d| {
            let keep = d.rng.chance(50);
            let prepare = vec![d.write(), AddBitmap("a"), d.write()];
            (prepare, vec![d.write(), Commit(keep), d.write(), Close])
        },
        ..OPERATION
    },
    Operation {
        name: "rebase beside bitmaps",
        kinds: &[BackedExtended],
        steps: |d| {
            let prepare = vec![d.write(), AddBitmap("a"), d.write()];
            (prepare, vec![d.write(), Rebase(Some("new")), d.write(), Rebase(None), d.write()])
        },
        ..OPERATION
    },
    Operation {
        name: "amend beside bitmaps",
        kinds: &[Middle, Extended, LazyExtended],
        steps: |d| {
            let width = 1 << d.rng.below(7);
            let lazy = Amendment { lazy_refcounts: Some(d.rng.chance(50)), ..Amendment::default() };
            let prepare = vec![d.write(), AddBitmap("a"), d.write()];
            (prepare, vec![d.write(), bits(width), d.write(), Amend(lazy), d.write(), Close])
        },
        ..OPERATION
    },
    Operation {
        name: "repair beside bitmaps",
        kinds: &[Middle],
        steps: |d| {
            let damage = *d.rng.pick(&[Damage::Leaks, Damage::Uncounted, Damage::Copied]);
            let prepare = vec![d.fill(), AddBitmap("a"), d.write(), Close, Break(damage)];
            (prepare, vec![Step::Repair(Repair::All), d.write(), Close])
        },
        ..OPERATION
    },
    Operation {
        name: "commit",
        kinds: &[Chain, LazyChain],
        steps: |d| (d.writes(4), vec![Commit(false)]),
        ..OPERATION
    },
    Operation {
        name: "commit and keep",
        kinds: &[Chain, LazyChain],
        steps: |d| (vec![d.write(), d.zero(), d.write()], vec![Commit(true)]),
        ..OPERATION
    },
    Operation {
        name: "commit with machine state",
        kinds: &[Chain, LazyChain],
        steps: |d| {
            let keep = d.rng.chance(50);
            (vec![d.write(), d.save(), d.write()], vec![d.save(), Commit(keep), d.save(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "make empty",
        kinds: &[Backed, BackedV2, BackedExtended, Chain, LazyBacked, LazyChain, NoUnrefBacked],
        steps: |d| (vec![d.fill(), d.save()], vec![d.write(), MakeEmpty, d.write(), Flush]),
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
            LazyBacked,
            DataFile,
            Luks,
            Aes,
            NoUnref,
            NoUnrefExtended,
            NoUnrefBacked,
            Passing,
            NotPassing,
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
        name: "compact beside snapshots of an encrypted disk",
        kinds: &[Luks, Aes],
        steps: |d| {
            let prepare = vec![d.write(), Create("one"), d.fill(), d.discard(), d.discard()];
            (prepare, vec![Compact, d.write(), d.discard(), Compact, Delete("one"), Compact])
        },
        copied: true,
    },
    Operation {
        name: "compact with bitmaps",
        kinds: &[Middle, Extended, BackedExtended, LazyExtended],
        steps: |d| {
            let prepare = vec![d.fill(), AddBitmap("a"), d.discard(), d.discard(), d.zero()];
            let mut steps = vec![d.discard(), Compact, d.write(), AddBitmap("b"), Compact, Close];
            steps.extend([Compact, RemoveBitmap("a"), d.discard(), Compact, Close, Compact]);
            (prepare, steps)
        },
        ..OPERATION
    },
    Operation {
        name: "compact with machine state",
        kinds: MACHINES,
        steps: |d| {
            let prepare = vec![d.fill(), d.save(), d.save(), d.discard(), d.discard()];
            let mut steps = vec![d.save(), Compact, Keep("one"), d.save(), d.discard(), Compact];
            steps.extend([Delete("one"), Compact, d.save(), Flush]);
            (prepare, steps)
        },
        copied: true,
    },
    Operation {
        name: "compact with a refcount table at the end",
        kinds: &[Full, LazyFull],
        steps: |d| {
            let mut prepare = vec![Write(0, 0x1f_8000, d.tag()), Discard(0, 0x1e_0000)];
            prepare.push(d.write());
            (prepare, vec![Compact, Write(0x1e_8000, 0x9000, d.tag()), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "rebase",
        kinds: &[Backed, BackedV2, BackedExtended, LazyBacked, NoUnrefBacked],
        steps: |d| {
            (
                vec![d.write(), d.save(), d.write(), d.write()],
                vec![Rebase(Some("new")), d.write(), Rebase(None)],
            )
        },
        ..OPERATION
    },
    Operation {
        name: "repair leaks",
        kinds: &[Plain, Middle, Backed, Lazy, Luks, NoUnref],
        steps: |d| {
            (
                vec![d.fill(), d.save(), Close, Break(Damage::Leaks)],
                vec![Step::Repair(Repair::Leaks)],
            )
        },
        ..OPERATION
    },
    Operation {
        name: "repair all",
        kinds: &[Plain, Middle, Backed, Lazy, Luks, NoUnref],
        steps: |d| {
            let all = [Damage::Leaks, Damage::Uncounted, Damage::NoCounts, Damage::Copied];
            let damage = *d.rng.pick(&all);
            (vec![d.fill(), d.save(), Close, Break(damage)], vec![Step::Repair(Repair::All)])
        },
        ..OPERATION
    },
    Operation {
        name: "amend to version 2",
        kinds: &[Plain, Backed, Lazy, LazyBacked, Aes, Passing],
        copied: true,
        steps: |d| {
            let prepare = vec![d.fill(), d.save(), d.zero(), d.zero()];
            (prepare, vec![d.write(), compat("0.10"), d.write(), Flush])
        },
    },
    Operation {
        name: "amend to version 3",
        kinds: &[V2, BackedV2],
        steps: |d| (vec![d.fill(), Keep("one")], vec![d.write(), compat("1.1"), d.zero(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "amend refcount width",
        kinds: &[Plain, Narrow, Wide, Extended, Lazy, LazyExtended, Luks],
        steps: |d| {
            let width = 1 << d.rng.below(7);
            (vec![d.write(), d.save(), d.write()], vec![d.write(), bits(width), d.write(), Flush])
        },
        ..OPERATION
    },
    Operation {
        name: "amend lazy refcounts",
        kinds: &[Plain, Lazy, Extended, Backed, LazyBacked, LazyExtended, Luks],
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
        name: "key slot replaced",
        kinds: &[Luks],
        steps: |d| {
            let steps =
                vec![ReplaceKey("second"), d.write(), AddKey("third"), ReplaceKey("fourth")];
            (d.writes(1), steps)
        },
        ..OPERATION
    },
    Operation {
        name: "another name in the header",
        kinds: &[Backed, BackedV2, BackedExtended, LazyBacked],
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
        kinds: &[Lazy, LazyExtended, LazyBacked],
        steps: |d| {
            let steps = vec![d.write(), d.zero(), Flush, d.write(), Close, d.discard(), Close];
            (d.writes(2), steps)
        },
        ..OPERATION
    },
];
