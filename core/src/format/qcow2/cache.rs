//! The metadata cache: slices of L2 tables and refcount blocks.
//!
//! Tables are cached in slices, so that memory follows what is used and not the cluster size; how long
//! a slice is and how much there may be is said when the image is opened. A slice is found under one short lock and changed under its own. Changed slices
//! stay until [`write_back`](super::Qcow2::write_back) has written them, in the order of the
//! format's document; nothing here writes.

use super::options::CacheSizes;
use crate::io::{DebugEvent, Device, DeviceExt, Instant, Runtime, raise};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use event_listener::Event;
use futures_util::future::{Either, select};
use hashbrown::HashMap;

/// What a slice is part of; the order of write-back depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Refcount = 0,
    L2 = 1,
}

/// Changed slices beyond this share of the budget ask for a write-back …
const DIRTY_SHARE: u64 = 4;
/// … or beyond so many bytes.
const MAX_DIRTY: u64 = 8 << 20;
/// So many changed slices are no reason to write any back.
const MIN_DIRTY_SLICES: u64 = 4;

/// Part of a table.
#[derive(Debug)]
pub(super) struct Slice {
    offset: u64,
    class: Class,
    /// Looked at since the eviction clock last passed.
    used: AtomicBool,
    /// The period in which it was last looked at.
    period: AtomicU32,
    state: Mutex<SliceState>,
}

#[derive(Debug)]
struct SliceState {
    bytes: Box<[u8]>,
    /// Counts changes: write-back sees whether a slice changed while it was written.
    version: u64,
    dirty: bool,
}

/// A copy of a changed slice, to be written.
#[derive(Debug)]
pub(super) struct Dirty {
    slice: Arc<Slice>,
    version: u64,
    /// Where it goes.
    pub(super) offset: u64,
    /// What goes there.
    pub(super) bytes: Bytes,
}

#[derive(Debug)]
enum Slot {
    Loading,
    Ready(Arc<Slice>),
}

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<u64, Slot>,
    /// Eviction order: a clock over the ready slices of each class.
    clocks: [VecDeque<u64>; 2],
    dirty: [BTreeMap<u64, Arc<Slice>>; 2],
}

/// The cache of one image.
#[derive(Debug)]
pub(super) struct TableCache {
    file: Device,
    sizes: CacheSizes,
    inner: Mutex<Inner>,
    loaded: Event,
    cleaning: Cleaning,
    /// Told when there is no cache any more, so that nobody waits for the next cleaning.
    gone: Event,
}

impl Drop for TableCache {
    fn drop(&mut self) {
        self.gone.notify(usize::MAX);
    }
}

/// When slices that nobody looks at are dropped.
struct Cleaning {
    runtime: Arc<dyn Runtime>,
    /// Counts cleanings.
    period: AtomicU32,
    last: Mutex<Instant>,
}

impl fmt::Debug for Cleaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cleaning").field("period", &self.period).finish_non_exhaustive()
    }
}

impl TableCache {
    /// The cache of the tables in `file`.
    ///
    /// Where an interval of cleaning was asked for, a task cleans for as long as there is the cache;
    /// where there is one because nobody said anything, only who reads tables cleans on the way.
    pub(super) fn new(runtime: &Arc<dyn Runtime>, file: Device, sizes: CacheSizes) -> Arc<Self> {
        let cleaning = Cleaning {
            runtime: runtime.clone(),
            period: AtomicU32::new(0),
            last: Mutex::new(runtime.now()),
        };
        let (inner, loaded) = (Mutex::new(Inner::default()), Event::new());
        let gone = Event::new();
        let mut ended = gone.listen();
        let cache = Arc::new(Self { file, sizes, inner, loaded, cleaning, gone });
        if let Some(interval) = sizes.clean_interval.filter(|_| sizes.clean_unasked) {
            let (weak, timer) = (Arc::downgrade(&cache), runtime.clone());
            runtime.spawn(Box::pin(async move {
                while let Either::Left(_) = select(timer.sleep(interval), &mut ended).await {
                    let Some(cache) = weak.upgrade() else { return };
                    cache.clean();
                }
            }));
        }
        cache
    }

    /// The length of a slice in bytes.
    pub(super) fn slice_len(&self) -> usize {
        1 << self.sizes.entry_bits
    }

    /// The slice that holds the byte at host offset `at`, and where in it that byte is.
    pub(super) async fn get(&self, at: u64, class: Class) -> Result<(Arc<Slice>, usize)> {
        let within = at & ((1 << self.sizes.entry_bits) - 1);
        let offset = at - within;
        loop {
            let listener = {
                let mut inner = self.inner.lock();
                match inner.slots.get(&offset) {
                    Some(Slot::Ready(slice)) => {
                        if slice.class != class {
                            return Err(wrong_class(offset));
                        }
                        slice.used.store(true, Ordering::Relaxed);
                        slice.period.store(self.period(), Ordering::Relaxed);
                        // Smaller than a slice: fits.
                        return Ok((slice.clone(), within as usize));
                    }
                    Some(Slot::Loading) => self.loaded.listen(),
                    None => {
                        inner.slots.insert(offset, Slot::Loading);
                        break;
                    }
                }
            };
            listener.await;
        }
        let loading = Loading { cache: self, offset };
        self.clean_if_due();
        if offset >= self.file.len() {
            return Err(Error::corrupt("a table lies past the end of the file")
                .in_format("qcow2")
                .at(offset));
        }
        let event = match class {
            Class::L2 => DebugEvent::L2Load,
            Class::Refcount => DebugEvent::RefblockLoad,
        };
        raise(&*self.file, event).await;
        let bytes = self.file.read_padded(offset, 1 << self.sizes.entry_bits).await?.to_vec();
        let slice = loading.finish(bytes, class);
        Ok((slice, within as usize))
    }

    /// Puts a slice of zeroes where a table has just been made of a zeroed cluster.
    pub(super) fn insert_zeroed(&self, at: u64, class: Class) -> Arc<Slice> {
        let offset = at & !((1 << self.sizes.entry_bits) - 1);
        self.insert(offset, class, alloc::vec![0; self.slice_len()])
    }

    fn insert(&self, offset: u64, class: Class, bytes: Vec<u8>) -> Arc<Slice> {
        let slice = Arc::new(Slice::new(offset, class, bytes, self.period()));
        let budget = match class {
            Class::L2 => self.sizes.l2,
            Class::Refcount => self.sizes.refcount,
        };
        let most = usize::try_from(budget >> self.sizes.entry_bits).unwrap_or(usize::MAX);
        let mut inner = self.inner.lock();
        inner.make_room(class, most);
        inner.slots.insert(offset, Slot::Ready(slice.clone()));
        inner.clocks[class as usize].push_back(offset);
        drop(inner);
        slice
    }

    fn period(&self) -> u32 {
        self.cleaning.period.load(Ordering::Relaxed)
    }

    /// Drops what nobody has looked at since the cleaning before this one, except what is not
    /// written yet.
    fn clean(&self) {
        let ended = self.cleaning.period.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let Inner { slots, clocks, .. } = &mut *inner;
        slots.retain(|_, slot| match slot {
            Slot::Loading => true,
            Slot::Ready(slice) => {
                Arc::strong_count(slice) > 1 || slice.period.load(Ordering::Relaxed) == ended
            }
        });
        slots.shrink_to_fit();
        for clock in clocks {
            clock.retain(|offset| slots.contains_key(offset));
            clock.shrink_to_fit();
        }
    }

    /// Cleans where the interval has passed.
    fn clean_if_due(&self) {
        let Some(interval) = self.sizes.clean_interval else { return };
        let now = self.cleaning.runtime.now();
        {
            let mut last = self.cleaning.last.lock();
            if now.0.saturating_sub(last.0) < interval {
                return;
            }
            *last = now;
        }
        self.clean();
    }

    /// Forgets what is cached of a cluster that is no table any more.
    pub(super) fn forget(&self, offset: u64, len: u64) {
        let mut inner = self.inner.lock();
        for at in (offset..offset + len).step_by(self.slice_len()) {
            inner.slots.remove(&at);
            for dirty in &mut inner.dirty {
                dirty.remove(&at);
            }
        }
    }

    /// Changes `slice`; it is written at the next write-back.
    pub(super) fn modify<T>(&self, slice: &Arc<Slice>, change: impl FnOnce(&mut [u8]) -> T) -> T {
        let mut state = slice.state.lock();
        let out = change(&mut state.bytes);
        state.version += 1;
        if !state.dirty {
            state.dirty = true;
            let mut inner = self.inner.lock();
            inner.dirty[slice.class as usize].insert(slice.offset, slice.clone());
        }
        out
    }

    /// True where slices of a class differ from the file.
    pub(super) fn has_dirty(&self, class: Class) -> bool {
        !self.inner.lock().dirty[class as usize].is_empty()
    }

    /// Copies of all changed slices of a class, by offset.
    pub(super) fn dirty(&self, class: Class) -> Vec<Dirty> {
        let slices: Vec<Arc<Slice>> =
            self.inner.lock().dirty[class as usize].values().cloned().collect();
        slices
            .into_iter()
            .map(|slice| {
                let state = slice.state.lock();
                let (version, bytes) = (state.version, Bytes::copy_from_slice(&state.bytes));
                drop(state);
                Dirty { offset: slice.offset, version, bytes, slice }
            })
            .collect()
    }

    /// Notes that a copy has been written; a slice changed since stays dirty.
    pub(super) fn written(&self, copy: &Dirty) {
        let mut state = copy.slice.state.lock();
        if state.version == copy.version {
            state.dirty = false;
            let mut inner = self.inner.lock();
            inner.dirty[copy.slice.class as usize].remove(&copy.offset);
        }
    }

    /// True where changed slices take so much memory that they should be written now.
    pub(super) fn is_crowded(&self) -> bool {
        let changed: usize = self.inner.lock().dirty.iter().map(BTreeMap::len).sum();
        let least = MIN_DIRTY_SLICES << self.sizes.entry_bits;
        let share = self.sizes.l2.saturating_add(self.sizes.refcount) / DIRTY_SHARE;
        (changed as u64) << self.sizes.entry_bits > share.min(MAX_DIRTY).max(least)
    }
}

impl Slice {
    fn new(offset: u64, class: Class, bytes: Vec<u8>, period: u32) -> Self {
        let state = SliceState { bytes: bytes.into_boxed_slice(), version: 0, dirty: false };
        let (used, period) = (AtomicBool::new(true), AtomicU32::new(period));
        Self { offset, class, used, period, state: Mutex::new(state) }
    }

    /// Looks at the bytes; `look` must not wait for anything.
    pub(super) fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.state.lock().bytes)
    }
}

impl Inner {
    /// Drops slices of a class that nobody uses until there are less than `most`.
    fn make_room(&mut self, class: Class, most: usize) {
        let clock = &mut self.clocks[class as usize];
        // Two rounds: the first may only clear the `used` marks.
        let mut steps = 2 * clock.len();
        while clock.len() >= most && steps > 0 {
            steps -= 1;
            let Some(offset) = clock.pop_front() else { return };
            let Some(Slot::Ready(slice)) = self.slots.get(&offset) else { continue };
            // The map's own handle is the only one: not in use and not dirty.
            if Arc::strong_count(slice) == 1 && !slice.used.swap(false, Ordering::Relaxed) {
                self.slots.remove(&offset);
            } else {
                clock.push_back(offset);
            }
        }
    }
}

/// A slice being read. Dropped unfinished (an error, an abandoned future), others may try.
struct Loading<'a> {
    cache: &'a TableCache,
    offset: u64,
}

impl Loading<'_> {
    fn finish(self, bytes: Vec<u8>, class: Class) -> Arc<Slice> {
        self.cache.insert(self.offset, class, bytes)
        // Dropping `self` wakes those who wait.
    }
}

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        let mut inner = self.cache.inner.lock();
        if matches!(inner.slots.get(&self.offset), Some(Slot::Loading)) {
            inner.slots.remove(&self.offset);
        }
        drop(inner);
        self.cache.loaded.notify(usize::MAX);
    }
}

fn wrong_class(offset: u64) -> Error {
    Error::corrupt("one cluster is used as an L2 table and as a refcount block")
        .in_format("qcow2")
        .at(offset)
}
