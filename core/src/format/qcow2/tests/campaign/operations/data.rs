//! What happens to data: writes, zeroes, discards, and the state of a machine.

use super::super::steps::Step::{Compressed, Create, Discard, Flush, Write};
use super::super::world::Kind::{
    Aes, Backed, BackedExtended, BackedV2, Chain, DataFile, Extended, LazyBacked, Luks, Plain,
};
use super::{COMPRESSED, DATA, FREEING, MACHINES, OPERATION, Operation, SHARED};
use alloc::vec;

/// In the order in which they are made.
pub(super) static OPERATIONS: &[Operation] = &[
    Operation {
        name: "allocating write",
        kinds: DATA,
        steps: |d| (vec![], vec![d.write(), d.write(), Flush, d.write(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "write in place",
        kinds: &[Plain, Extended, DataFile, Luks, Aes],
        steps: |d| (vec![d.fill()], vec![d.write(), d.write(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "copy on write over a backing file",
        kinds: &[Backed, BackedV2, BackedExtended, Chain, LazyBacked],
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
        name: "zero where space is freed otherwise",
        kinds: FREEING,
        steps: |d| (vec![d.fill()], vec![d.zero(), Flush, d.zero(), d.zero(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "discard where space is freed otherwise",
        kinds: FREEING,
        steps: |d| (vec![d.fill()], vec![d.discard(), Flush, d.discard(), d.discard(), Flush]),
        ..OPERATION
    },
    Operation {
        name: "space discarded and used again where it is freed otherwise",
        kinds: FREEING,
        steps: |d| {
            let (at, len) = d.clusters();
            let again = |tag| Write(at, len, tag);
            let mut steps = vec![Discard(at, len), again(d.tag()), Flush, Discard(at, len), Flush];
            steps.extend([again(d.tag()), d.discard(), Flush, d.zero(), d.write(), Flush]);
            (vec![d.fill()], steps)
        },
        ..OPERATION
    },
    Operation {
        name: "a mixture where space is freed otherwise",
        kinds: FREEING,
        steps: |d| (d.writes(2), d.mixed(8, false)),
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
        name: "machine state",
        kinds: MACHINES,
        steps: |d| {
            let steps = vec![d.save(), d.write(), Flush, d.save(), d.save(), Flush, d.save()];
            (vec![d.write(), d.save()], steps)
        },
        ..OPERATION
    },
];
