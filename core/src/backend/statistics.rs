//! What was done through a backend: the schema's `BlockDeviceStats`.

use crate::io::Instant;
use crate::qapi::{BlockDeviceStats, BlockDeviceTimedStats, BlockLatencyHistogramInfo};
use crate::sync::Mutex;
use crate::{Error, Result};
use alloc::vec::Vec;
use core::time::Duration;

/// The most inner borders of a histogram.
const MAX_BOUNDARIES: usize = 1024;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A read.
    Read,
    /// A write, of data or zeroes.
    Write,
    /// A flush.
    Flush,
    /// A discard.
    Discard,
}

const KINDS: usize = 4;

/// What is counted, and how.
#[derive(Clone, Debug)]
pub struct Accounting {
    /// Requests that could not be made count for the time of the last request.
    pub invalid: bool,
    /// Requests that failed count for times.
    pub failed: bool,
    /// The lengths of intervals of which means are told.
    pub intervals: Vec<Duration>,
}

impl Default for Accounting {
    fn default() -> Self {
        Self { invalid: true, failed: true, intervals: Vec::new() }
    }
}

/// The inner borders of histograms, in nanoseconds, for the kinds that are to have one.
#[derive(Clone, Debug, Default)]
pub struct Boundaries {
    /// Of reads.
    pub read: Option<Vec<u64>>,
    /// Of writes.
    pub write: Option<Vec<u64>>,
    /// Of flushes.
    pub flush: Option<Vec<u64>>,
}

/// Counters.
#[derive(Debug)]
pub struct Statistics {
    accounting: Accounting,
    counters: Mutex<Counters>,
}

#[derive(Debug)]
struct Counters {
    kinds: [Counter; KINDS],
    last_access: Option<Instant>,
    intervals: Vec<Interval>,
}

#[derive(Clone, Debug, Default)]
struct Counter {
    operations: u64,
    bytes: u64,
    failed: u64,
    invalid: u64,
    time: Duration,
    histogram: Option<Histogram>,
}

#[derive(Clone, Debug)]
struct Histogram {
    boundaries: Vec<u64>,
    bins: Vec<u64>,
}

impl Histogram {
    /// # Errors
    /// `InvalidInput` for borders that do not rise.
    fn new(boundaries: Vec<u64>) -> Result<Self> {
        let rising = boundaries.windows(2).all(|pair| pair[0] < pair[1]);
        if boundaries.first().is_none_or(|first| *first == 0) || !rising {
            return Err(Error::invalid("boundaries must be positive and ascending"));
        }
        if boundaries.len() > MAX_BOUNDARIES {
            return Err(Error::limit(alloc::format!("more than {MAX_BOUNDARIES} boundaries")));
        }
        let bins = alloc::vec![0; boundaries.len() + 1];
        Ok(Self { boundaries, bins })
    }

    fn count(&mut self, time: Duration) {
        let bin = self.boundaries.partition_point(|border| *border <= nanoseconds(time));
        if let Some(bin) = self.bins.get_mut(bin) {
            *bin += 1;
        }
    }

    fn told(&self) -> BlockLatencyHistogramInfo {
        let (boundaries, bins) = (self.boundaries.clone(), self.bins.clone());
        BlockLatencyHistogramInfo { boundaries, bins }
    }
}

/// Means over the last interval. Two windows of its length overlap by half, and the older one is
/// told: what is told spans between a half and the whole of it.
#[derive(Debug)]
struct Interval {
    length: Duration,
    windows: [[Window; KINDS]; 2],
    ends: [Instant; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    count: u64,
    sum: Duration,
    least: Option<Duration>,
    most: Duration,
}

impl Interval {
    fn new(length: Duration, now: Instant) -> Self {
        let windows = [[Window::default(); KINDS]; 2];
        Self { length, windows, ends: [Instant(now.0 + length), Instant(now.0 + length / 2)] }
    }

    fn turn(&mut self, now: Instant) {
        for (window, end) in self.windows.iter_mut().zip(&mut self.ends) {
            if end.0 <= now.0 {
                *window = [Window::default(); KINDS];
                // Windows keep their distance, however long nothing happened.
                let late = nanoseconds(now.0.saturating_sub(end.0));
                let length = nanoseconds(self.length).max(1);
                let turns = u32::try_from(late / length).unwrap_or(u32::MAX - 1) + 1;
                *end = Instant(end.0 + self.length.saturating_mul(turns));
            }
        }
    }

    fn count(&mut self, kind: Request, time: Duration, now: Instant) {
        self.turn(now);
        for window in &mut self.windows {
            let window = &mut window[kind as usize];
            window.count += 1;
            window.sum += time;
            window.least = Some(window.least.map_or(time, |least| least.min(time)));
            window.most = window.most.max(time);
        }
    }

    fn told(&mut self, now: Instant) -> BlockDeviceTimedStats {
        self.turn(now);
        let older = usize::from(self.ends[1].0 < self.ends[0].0);
        let window = &self.windows[older];
        let began = self.ends[older].0.saturating_sub(self.length);
        let elapsed = now.0.saturating_sub(began);
        let least = |kind: Request| nanoseconds(window[kind as usize].least.unwrap_or_default());
        let most = |kind: Request| nanoseconds(window[kind as usize].most);
        let mean = |kind: Request| {
            let window = window[kind as usize];
            nanoseconds(window.sum).checked_div(window.count).unwrap_or(0)
        };
        let depth = |kind: Request| match elapsed.is_zero() {
            true => 0.0,
            false => window[kind as usize].sum.as_secs_f64() / elapsed.as_secs_f64(),
        };
        BlockDeviceTimedStats {
            interval_length: self.length.as_secs(),
            min_rd_latency_ns: least(Request::Read),
            max_rd_latency_ns: most(Request::Read),
            avg_rd_latency_ns: mean(Request::Read),
            min_wr_latency_ns: least(Request::Write),
            max_wr_latency_ns: most(Request::Write),
            avg_wr_latency_ns: mean(Request::Write),
            min_zone_append_latency_ns: 0,
            max_zone_append_latency_ns: 0,
            avg_zone_append_latency_ns: 0,
            min_flush_latency_ns: least(Request::Flush),
            max_flush_latency_ns: most(Request::Flush),
            avg_flush_latency_ns: mean(Request::Flush),
            avg_rd_queue_depth: depth(Request::Read),
            avg_wr_queue_depth: depth(Request::Write),
            avg_zone_append_queue_depth: 0.0,
        }
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct Counting<'a> {
    statistics: &'a Statistics,
    kind: Request,
    bytes: u64,
    began: Instant,
}

impl Statistics {
    pub(super) fn new(accounting: Accounting) -> Self {
        let counters =
            Counters { kinds: Default::default(), last_access: None, intervals: Vec::new() };
        Self { accounting, counters: Mutex::new(counters) }
    }

    /// Counts intervals from `now` on.
    pub(super) fn begin(&self, kind: Request, bytes: u64, now: Instant) -> Counting<'_> {
        let mut counters = self.counters.lock();
        if counters.intervals.len() < self.accounting.intervals.len() {
            let lengths = self.accounting.intervals.iter();
            counters.intervals = lengths.map(|length| Interval::new(*length, now)).collect();
        }
        Counting { statistics: self, kind, bytes, began: now }
    }

    /// Begins histograms anew, for those kinds that have borders; without any, none are kept.
    ///
    /// # Errors
    /// `InvalidInput` for borders that do not rise; nothing has changed then.
    pub fn set_boundaries(&self, new: Boundaries) -> Result<()> {
        let make = |borders: Option<Vec<u64>>| borders.map(Histogram::new).transpose();
        let (read, write, flush) = (make(new.read)?, make(new.write)?, make(new.flush)?);
        let none = read.is_none() && write.is_none() && flush.is_none();
        let mut counters = self.counters.lock();
        for (kind, new) in [(Request::Read, read), (Request::Write, write), (Request::Flush, flush)]
        {
            if new.is_some() || none {
                counters.kinds[kind as usize].histogram = new;
            }
        }
        Ok(())
    }

    /// What was counted; `highest` is the end of the write that reached farthest.
    #[must_use]
    pub fn told(&self, now: Instant, highest: u64) -> BlockDeviceStats {
        let mut counters = self.counters.lock();
        let kinds = counters.kinds.clone();
        let of = |kind: Request| kinds[kind as usize].clone();
        let (rd, wr) = (of(Request::Read), of(Request::Write));
        let (flush, unmap) = (of(Request::Flush), of(Request::Discard));
        let histogram = |counter: &Counter| counter.histogram.as_ref().map(Histogram::told);
        BlockDeviceStats {
            rd_bytes: rd.bytes,
            wr_bytes: wr.bytes,
            unmap_bytes: unmap.bytes,
            rd_operations: rd.operations,
            wr_operations: wr.operations,
            flush_operations: flush.operations,
            unmap_operations: unmap.operations,
            rd_total_time_ns: nanoseconds(rd.time),
            wr_total_time_ns: nanoseconds(wr.time),
            flush_total_time_ns: nanoseconds(flush.time),
            unmap_total_time_ns: nanoseconds(unmap.time),
            wr_highest_offset: highest,
            idle_time_ns: counters
                .last_access
                .map(|last| nanoseconds(now.0.saturating_sub(last.0))),
            failed_rd_operations: rd.failed,
            failed_wr_operations: wr.failed,
            failed_flush_operations: flush.failed,
            failed_unmap_operations: unmap.failed,
            invalid_rd_operations: rd.invalid,
            invalid_wr_operations: wr.invalid,
            invalid_flush_operations: flush.invalid,
            invalid_unmap_operations: unmap.invalid,
            account_invalid: self.accounting.invalid,
            account_failed: self.accounting.failed,
            timed_stats: counters.intervals.iter_mut().map(|interval| interval.told(now)).collect(),
            rd_latency_histogram: histogram(&rd),
            wr_latency_histogram: histogram(&wr),
            flush_latency_histogram: histogram(&flush),
            ..BlockDeviceStats::default()
        }
    }
}

impl Counting<'_> {
    pub(super) fn done(self, now: Instant) {
        let mut counters = self.statistics.counters.lock();
        let counter = &mut counters.kinds[self.kind as usize];
        counter.operations += 1;
        counter.bytes += self.bytes;
        self.took(&mut counters, now);
    }

    pub(super) fn failed(self, now: Instant) {
        let mut counters = self.statistics.counters.lock();
        counters.kinds[self.kind as usize].failed += 1;
        if self.statistics.accounting.failed {
            self.took(&mut counters, now);
        }
    }

    pub(super) fn invalid(self, now: Instant) {
        let mut counters = self.statistics.counters.lock();
        counters.kinds[self.kind as usize].invalid += 1;
        if self.statistics.accounting.invalid {
            counters.last_access = Some(now);
        }
    }

    fn took(&self, counters: &mut Counters, now: Instant) {
        let time = now.0.saturating_sub(self.began.0);
        let counter = &mut counters.kinds[self.kind as usize];
        counter.time += time;
        if let Some(histogram) = &mut counter.histogram {
            histogram.count(time);
        }
        for interval in &mut counters.intervals {
            interval.count(self.kind, time, now);
        }
        counters.last_access = Some(now);
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
