//! Bitmaps against a plain list of granules.

use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

/// One flag a granule.
#[derive(Clone, Debug)]
struct Plain {
    size: u64,
    granularity: u64,
    dirty: Vec<bool>,
}

impl Plain {
    fn new(size: u64, granularity: u64) -> Self {
        let len = usize::try_from(size.div_ceil(granularity)).expect("small");
        Self { size, granularity, dirty: alloc::vec![false; len] }
    }

    fn byte(&self, offset: u64) -> bool {
        self.dirty[usize::try_from(offset / self.granularity).expect("small")]
    }

    fn granule(&self, i: usize) -> (u64, u64) {
        let start = i as u64 * self.granularity;
        (start, (start + self.granularity).min(self.size))
    }

    fn set(&mut self, start: u64, end: u64) {
        for i in 0..self.dirty.len() {
            let (from, to) = self.granule(i);
            self.dirty[i] |= start < end && from < end && start < to;
        }
    }

    fn reset(&mut self, start: u64, end: u64) {
        for i in 0..self.dirty.len() {
            let (from, to) = self.granule(i);
            self.dirty[i] &= !(start <= from && to <= end);
        }
    }

    fn resize(&mut self, size: u64) {
        self.size = size;
        let len = usize::try_from(size.div_ceil(self.granularity)).expect("small");
        self.dirty.resize(len, false);
    }

    fn assert_same(&self, bitmap: &DirtyBitmap) {
        let count = self.dirty.iter().filter(|d| **d).count() as u64;
        assert_eq!(bitmap.count(), count * self.granularity);
        assert_eq!(bitmap.size(), self.size);
        let (mut at, mut seen) = (0, Plain::new(self.size, self.granularity));
        while let Some((start, len)) = bitmap.next_dirty_area(at, u64::MAX, u64::MAX) {
            assert!(len > 0 && start >= at && start + len <= self.size);
            seen.set(start, start + len);
            at = start + len;
            assert!(at == self.size || !self.byte(at), "an area ends where it must");
        }
        assert_eq!(seen.dirty, self.dirty);
        for at in (0..self.size).step_by(usize::try_from(self.granularity / 2).expect("small")) {
            let first = |value| (at..self.size).step_by(256).find(|at| self.byte(*at) == value);
            // Offsets are multiples of 256 here.
            assert_eq!(bitmap.get(at), self.byte(at));
            if at % 0x4000 == 0 {
                assert_eq!(bitmap.next_dirty(at, u64::MAX), first(true));
                assert_eq!(bitmap.next_zero(at, u64::MAX), first(false));
            }
        }
        let bytes = bitmap.serialize(0, bitmap.serialized_len());
        let bits = |i: usize| bytes[i / 8] >> (i % 8) & 1 != 0;
        assert!((0..self.dirty.len()).all(|i| bits(i) == self.dirty[i]));
        assert!((self.dirty.len()..bytes.len() * 8).all(|i| !bits(i)), "the tail is zero");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u64, u64),
    Reset(u64, u64),
    Clear,
    Resize(u64),
    /// Serialised in parts and read back.
    Reload(u64),
    /// Merged from one of this granularity with this range dirty.
    Merge(u32, u64, u64),
    Successor(bool, u64, u64),
}

const SIZE: u64 = 3 * 4096 * 512 + 700;

fn range() -> impl Strategy<Value = (u64, u64)> {
    // Some end at the borders of chunks.
    let edge = prop_oneof![0..SIZE, (0..=3u64).prop_map(|n| n * 4096 * 512), Just(SIZE)];
    let near = prop_oneof![edge.clone(), edge.clone().prop_map(|at| at / 512 * 512)];
    (near.clone(), near).prop_map(|(a, b)| (a.min(b), a.max(b)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => range().prop_map(|(a, b)| Step::Set(a, b)),
        4 => range().prop_map(|(a, b)| Step::Reset(a, b)),
        1 => Just(Step::Clear),
        1 => (1..SIZE * 2).prop_map(Step::Resize),
        1 => (1..700u64).prop_map(Step::Reload),
        1 => (9..16u32, range()).prop_map(|(g, (a, b))| Step::Merge(g, a, b)),
        1 => (any::<bool>(), range()).prop_map(|(ok, (a, b))| Step::Successor(ok, a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_bitmap_is_a_list_of_granules(bits in 9..13u32, steps in prop::collection::vec(step(), 1..12)) {
        let mut bitmap = DirtyBitmap::new("b", SIZE, 1 << bits).expect("valid");
        let mut plain = Plain::new(SIZE, 1 << bits);
        for step in steps {
            match step {
                Step::Set(a, b) => {
                    bitmap.set(a, b - a);
                    plain.set(a, b);
                }
                Step::Reset(a, b) => {
                    bitmap.reset(a, b - a);
                    plain.reset(a, b);
                }
                Step::Clear => {
                    bitmap.clear();
                    plain.dirty.fill(false);
                }
                Step::Resize(size) => {
                    bitmap.resize(size);
                    plain.resize(size);
                }
                Step::Reload(part) => {
                    let copy = DirtyBitmap::new("b", bitmap.size(), 1 << bits).expect("valid");
                    for start in (0..bitmap.serialized_len()).step_by(part as usize) {
                        match bitmap.uniform(start, part) {
                            Some(false) => {}
                            Some(true) => copy.deserialize_ones(start, part),
                            None => copy.deserialize(start, &bitmap.serialize(start, part)),
                        }
                    }
                    bitmap = copy;
                }
                Step::Merge(other, a, b) => {
                    let source = DirtyBitmap::new("s", bitmap.size(), 1 << other).expect("valid");
                    source.set(a, b - a);
                    bitmap.merge(&source).expect("same size");
                    let mut seen = Plain::new(plain.size, 1 << other);
                    seen.set(a, b);
                    for i in 0..seen.dirty.len() {
                        if seen.dirty[i] {
                            let (from, to) = seen.granule(i);
                            plain.set(from, to);
                        }
                    }
                }
                Step::Successor(succeeded, a, b) => {
                    bitmap.create_successor().expect("not busy");
                    assert!(bitmap.status().busy && bitmap.create_successor().is_err());
                    bitmap.record(a, b - a);
                    plain.assert_same(&bitmap);
                    if succeeded {
                        bitmap.abdicate();
                        plain.dirty.fill(false);
                    } else {
                        bitmap.reclaim();
                    }
                    plain.set(a, b);
                }
            }
            plain.assert_same(&bitmap);
        }
    }
}

#[test]
fn stretches_of_any_length_cost_next_to_nothing() {
    let size = 64 << 40;
    let bitmap = DirtyBitmap::new("b", size, 512).expect("valid");
    assert_eq!(bitmap.spans(), 0);
    bitmap.set(0, size);
    assert_eq!((bitmap.spans(), bitmap.count()), (1, size));
    bitmap.reset(size / 2, 512);
    assert_eq!(bitmap.spans(), 3);
    assert_eq!(bitmap.next_zero(0, size), Some(size / 2));
    assert_eq!(bitmap.next_dirty_area(size / 2, size, 4096), Some((size / 2 + 512, 4096)));
    bitmap.set(size / 2, 1);
    assert_eq!(bitmap.spans(), 1, "whole again");
    bitmap.reset(0, size);
    assert_eq!(bitmap.spans(), 0);
}

#[test]
fn what_cannot_be_a_bitmap_is_refused() {
    for granularity in [0, 1, 256, 1000, 1 << 32] {
        assert!(DirtyBitmap::new("b", 1 << 20, granularity).is_err(), "{granularity}");
    }
    assert!(DirtyBitmap::new("", 1 << 20, 512).is_err());
    let (a, b) = (DirtyBitmap::new("a", 1 << 20, 512), DirtyBitmap::new("b", 1 << 21, 512));
    let (a, b) = (a.expect("valid"), b.expect("valid"));
    b.set(0, 512);
    assert!(a.merge(&b).is_err());
    assert_eq!(a.count(), 0, "nothing is merged");
}

#[test]
fn a_set_tells_the_bitmaps_that_record_before_and_after_a_change() {
    let set = BitmapSet::default();
    let on = set.add(DirtyBitmap::new("on", 1 << 20, 512).expect("valid")).expect("new");
    let off = set.add(DirtyBitmap::new("off", 1 << 20, 512).expect("valid")).expect("new");
    assert!(set.add(DirtyBitmap::new("on", 1, 512).expect("valid")).is_err());
    set.set_recording("off", false).expect("there");
    let recording = set.record(1000, 100);
    assert_eq!((on.count(), off.count()), (1024, 0), "before the change begins");
    on.clear();
    drop(recording);
    assert_eq!(on.count(), 1024, "and when it has ended");
    on.set_busy(true);
    assert_eq!(set.remove("on").expect_err("busy").kind(), crate::ErrorKind::InUse);
    on.set_busy(false);
    set.remove("on").expect("free");
    assert_eq!(set.find("on").expect_err("gone").kind(), crate::ErrorKind::NotFound);
    set.resize(1 << 10);
    assert_eq!(off.size(), 1 << 10);
}
