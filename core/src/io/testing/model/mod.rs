//! Random operations against a flat vector of bytes.
//!
//! [`check`] draws operations from a seed, runs them on a device and on a [`Flat`] model side by
//! side, and compares every answer. When they disagree it drops operations as long as they still
//! do, and returns a [`Failure`] whose text can be pasted into a test that calls [`replay`].
//!
//! [`Session`] is the same without the drawing and the shrinking, for tests that bring faults or
//! crashes: it can take failures as they come, and its model says what a device may contain
//! afterwards ([`Flat::after_crash`]).

mod flat;
mod ops;
mod session;
mod shrink;

pub use flat::Flat;
pub use ops::{Op, Plan, payload};
pub use session::{OnError, Session};

use super::{CallKind, CallKinds, Rng};
use crate::Result;
use crate::io::{BlockDevice, BoxFuture, Capabilities, Device, WriteFlags, ZeroFlags};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::future::ready;
use core::ops::Range;

/// What is tested. Any closure that makes a device is one.
pub trait Subject: Send + Sync {
    /// A fresh device. Each run begins with one; all have to begin alike.
    fn make(&self) -> BoxFuture<'_, Result<Device>>;

    /// Closes `device` and opens it again; what was flushed or not must be there. The default
    /// hands it back as it is.
    fn reopen(&self, device: Device) -> BoxFuture<'_, Result<Device>> {
        Box::pin(ready(Ok(device)))
    }

    /// Keeps the state of the whole disk, goes back to one or throws one away; durably, and others
    /// stay as they are. Asked only with [`ModelOptions::states`].
    fn change_state<'a>(&'a self, device: &'a Device, change: &'a Op) -> BoxFuture<'a, Result<()>> {
        let _ = device;
        let what = alloc::format!("{change}: the subject keeps no states");
        Box::pin(ready(Err(crate::Error::unsupported(what))))
    }

    /// Looks for broken invariants (an allocator that differs from a fresh scan …). Asked after
    /// each step, while nothing is in flight. The default has none to look for.
    fn inspect<'a>(&'a self, _device: &'a dyn BlockDevice) -> BoxFuture<'a, Result<()>> {
        Box::pin(ready(Ok(())))
    }
}

impl<F> Subject for F
where
    F: Fn() -> BoxFuture<'static, Result<Device>> + Send + Sync,
{
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        self()
    }
}

/// How operations are drawn.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Decides everything.
    pub seed: u64,
    /// How many operations.
    pub ops: usize,
    /// At most so many bytes at the beginning of the device are used. Where the device is longer,
    /// its length is left alone.
    pub window: u64,
    /// Ranges begin and end near multiples of it. By default the device's granularity.
    pub edge: Option<u64>,
    /// The longest range.
    pub longest: u64,
    /// Which calls are made. Those the device is not capable of are left out.
    pub kinds: CallKinds,
    /// Length changes and growing writes go up to this length; without it there are none.
    pub max_len: Option<u64>,
    /// Length changes lead to multiples of it.
    pub len_unit: u64,
    /// At most so many states of the whole disk are kept at the same time.
    pub states: usize,
    /// At most so many operations at the same time.
    pub in_flight: usize,
    /// Compressed writes too, on devices that take them.
    pub compressed: bool,
    /// Closing and opening too.
    pub reopen: bool,
    /// At most so many runs to shrink a failure.
    pub shrink_runs: usize,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            ops: 100,
            window: 1 << 20,
            edge: None,
            longest: 128 << 10,
            kinds: CallKinds::all(),
            max_len: None,
            len_unit: 1,
            states: 0,
            in_flight: 8,
            compressed: false,
            reopen: false,
            shrink_runs: 300,
        }
    }
}

/// A device and its model disagree.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed the operations were drawn from, where they were.
    pub seed: Option<u64>,
    /// Operations that show it, few of them.
    pub plan: Plan,
    /// Which of them failed; as many as there are means the comparison at the end.
    pub step: usize,
    /// What went wrong.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, plan, step, what } = self;
        match plan.0.get(*step) {
            Some(op) => write!(f, "step {} of {}, {op}: {what}", step + 1, plan.0.len())?,
            None => write!(f, "after {} steps: {what}", plan.0.len())?,
        }
        if let Some(seed) = seed {
            write!(f, "\n  seed:   {seed:#x}")?;
        }
        write!(f, "\n  replay: \"{plan}\"")
    }
}

impl core::error::Error for Failure {}

/// Runs operations drawn from the options' seed on a device of `subject`.
///
/// # Errors
/// The failure, shrunk.
pub async fn check(subject: &dyn Subject, options: &ModelOptions) -> Result<(), Failure> {
    let fail = |what| Failure { seed: Some(options.seed), plan: Plan::default(), step: 0, what };
    let device = match subject.make().await {
        Ok(device) => device,
        Err(error) => return Err(fail(alloc::format!("cannot make a device: {error:?}"))),
    };
    let plan = generate(&*device, options);
    let align = u64::from(device.limits().request_alignment).max(1);
    drop(device);
    let Err(failure) = run(subject, options.window, &plan).await else { return Ok(()) };
    let mut failure = shrink::shrink(subject, options, align, failure).await;
    failure.seed = Some(options.seed);
    Err(failure)
}

/// Runs the operations in `plan`, as a [`Failure`] prints them, on a device of `subject` of which
/// they use the first `window` bytes.
///
/// # Errors
/// The failure, not shrunk; or that `plan` is not a plan.
pub async fn replay(subject: &dyn Subject, window: u64, plan: &str) -> Result<(), Failure> {
    match plan.parse() {
        Ok(plan) => run(subject, window, &plan).await,
        Err(what) => Err(Failure { seed: None, plan: Plan::default(), step: 0, what }),
    }
}

/// One run on a fresh device, with the comparison at the end.
async fn run(subject: &dyn Subject, window: u64, plan: &Plan) -> Result<(), Failure> {
    let mut session = match Session::start(subject, window).await {
        Ok(session) => session,
        Err(what) => return Err(Failure { seed: None, plan: plan.clone(), step: 0, what }),
    };
    let result = match session.run(plan).await {
        Ok(()) => session.finish().await,
        failed => failed,
    };
    result.map_err(|what| Failure { seed: None, plan: plan.clone(), step: session.steps(), what })
}

/// Draws operations for a device such as this one.
#[must_use]
pub fn generate(device: &dyn BlockDevice, options: &ModelOptions) -> Plan {
    let limits = device.limits();
    let can = device.capabilities();
    let align = u64::from(limits.request_alignment).max(1);
    let granularity = u64::from(limits.granularity).max(1);
    let whole = device.len() <= options.window;
    let max_len = options.max_len.filter(|_| whole).unwrap_or(0) / align * align;
    let mut kinds = options.kinds - CallKinds::INFO;
    if !can.contains(Capabilities::WRITE) {
        kinds -= CallKinds::CHANGES;
    }
    if max_len == 0 {
        kinds -= CallKinds::SET_LEN;
    }
    if kinds.is_empty() {
        return Plan::default();
    }
    let grow = can.contains(Capabilities::GROW);
    let mut draw = Draw {
        rng: Rng::new(options.seed),
        len: device.len().min(options.window) / align * align,
        align,
        granularity: granularity.max(align),
        edge: options.edge.unwrap_or(granularity.max(512)).max(align),
        longest: options.longest.min(u64::from(limits.max_transfer)).max(align) / align * align,
        // Without ZERO_INIT a growing write would leave bytes that could be anything.
        grow_to: if grow && can.contains(Capabilities::ZERO_INIT) { max_len } else { 0 },
        max_len,
        reads_overrun: whole,
        writes_overrun: whole && !grow,
        kinds,
        compressed: options.compressed && can.contains(Capabilities::COMPRESSED),
        reopen: options.reopen,
        len_unit: options.len_unit.max(1),
        states: options.states,
        kept: Vec::new(),
        numbers: 0,
        tag: 0,
    };
    let mut plan = Vec::new();
    while plan.len() < options.ops {
        if options.in_flight > 1 && draw.rng.chance(15) {
            let count = draw.rng.between(2, options.in_flight as u64);
            plan.push(Op::Batch((0..count).filter_map(|_| draw.op(true)).collect()));
        } else if let Some(op) = draw.op(false) {
            plan.push(op);
        }
    }
    Plan(plan)
}

struct Draw {
    rng: Rng,
    /// The length as it will be, if everything succeeds.
    len: u64,
    align: u64,
    granularity: u64,
    edge: u64,
    longest: u64,
    /// Growing writes go so far.
    grow_to: u64,
    /// Length changes go so far.
    max_len: u64,
    /// Now and then a range may exceed the length, where the device has to refuse that.
    reads_overrun: bool,
    writes_overrun: bool,
    kinds: CallKinds,
    compressed: bool,
    reopen: bool,
    len_unit: u64,
    states: usize,
    /// States that are kept: the number, and the length.
    kept: Vec<(u32, u64)>,
    numbers: u32,
    tag: u32,
}

impl Draw {
    /// One operation; none where the one drawn is not wanted.
    fn op(&mut self, in_batch: bool) -> Option<Op> {
        if self.states > 0 && !in_batch && self.rng.chance(8) {
            return self.state();
        }
        let kind = match self.rng.below(100) {
            0..25 => CallKind::Read,
            25..62 => CallKind::Write,
            62..75 => CallKind::WriteZeroes,
            75..83 => CallKind::Discard,
            83..88 => CallKind::Flush,
            88..92 => CallKind::SetLen,
            92..98 => CallKind::Extents,
            _ if self.reopen && !in_batch => return Some(Op::Reopen),
            _ => CallKind::Read,
        };
        if !self.kinds.contains(kind.into()) || (in_batch && kind == CallKind::SetLen) {
            return None;
        }
        // Within a batch the length stays: which of two writes grows it would be open.
        let grows = self.grow_to > self.len && !in_batch && self.rng.chance(20);
        let limit = if grows { self.grow_to } else { self.len };
        Some(match kind {
            CallKind::Read => Op::Read(self.range(self.len, self.align, self.reads_overrun)),
            CallKind::Discard => Op::Discard(self.range(self.len, 1, self.reads_overrun)),
            CallKind::Extents => Op::Extents(self.range(self.len, 1, self.reads_overrun)),
            CallKind::Write => self.write(limit),
            CallKind::WriteZeroes => self.zero(limit),
            CallKind::SetLen => {
                let len = self.range(self.max_len, self.align, false).end;
                self.len = len / self.len_unit * self.len_unit;
                Op::SetLen(self.len)
            }
            CallKind::Flush | CallKind::Info => Op::Flush,
        })
    }

    /// A change of the state of the whole disk.
    fn state(&mut self) -> Option<Op> {
        if self.kept.is_empty() || self.kept.len() < self.states && self.rng.chance(40) {
            self.numbers += 1;
            self.kept.push((self.numbers, self.len));
            return Some(Op::Keep(self.numbers));
        }
        let place = self.rng.index(self.kept.len());
        if self.rng.chance(50) {
            let (number, _) = self.kept.remove(place);
            return Some(Op::Throw(number));
        }
        let (number, len) = *self.kept.get(place)?;
        self.len = len;
        Some(Op::GoBack(number))
    }

    fn write(&mut self, limit: u64) -> Op {
        self.tag += 1;
        let mut flags = WriteFlags::empty();
        flags.set(WriteFlags::FUA, self.rng.chance(5));
        flags.set(WriteFlags::COMPRESSED, self.compressed && self.rng.chance(30));
        let range = if flags.contains(WriteFlags::COMPRESSED) {
            self.range(self.len, self.granularity, false)
        } else {
            self.range(limit, self.align, self.writes_overrun)
        };
        self.grown(range.end);
        Op::Write { range, tag: self.tag, flags }
    }

    fn zero(&mut self, limit: u64) -> Op {
        // Zero writes and discards are exact whatever their bounds, but the length they leave
        // must be one that requests can reach.
        let mut range = self.range(limit, 1, self.writes_overrun);
        if range.end > self.len {
            range.end = range.end.next_multiple_of(self.align);
        }
        self.grown(range.end);
        let flags = *self.rng.pick(&[
            ZeroFlags::empty(),
            ZeroFlags::MAY_UNMAP,
            ZeroFlags::MAY_UNMAP,
            ZeroFlags::NO_FALLBACK,
            ZeroFlags::all(),
        ]);
        Op::Zero { range, flags }
    }

    fn grown(&mut self, end: u64) {
        if end <= self.grow_to {
            self.len = self.len.max(end);
        }
    }

    /// A range of multiples of `align` with its bounds near edges, below `limit` (now and then
    /// beyond it, where it may overrun).
    fn range(&mut self, limit: u64, align: u64, overrun: bool) -> Range<u64> {
        let rng = &mut self.rng;
        let past = if overrun && rng.chance(2) { self.edge } else { 0 };
        let limit = limit.saturating_add(past) / align * align;
        let longest = self.longest.max(align);
        let near = |rng: &mut Rng, at: u64| match rng.below(4) {
            0 => at.saturating_sub(rng.between(1, 3) * align),
            1 => at + rng.between(1, 3) * align,
            _ => at,
        };
        let start = match rng.below(10) {
            0 => 0,
            1 => limit,
            2..=4 => rng.below(limit + 1),
            _ => {
                let edge = rng.below(limit / self.edge + 1) * self.edge;
                near(rng, edge)
            }
        };
        let start = start.min(limit) / align * align;
        let len = match rng.below(10) {
            0 => rng.below(2) * align,
            1..=3 => rng.between(1, 64) * align,
            4 => rng.between(1, longest),
            5..=7 => near(rng, self.edge),
            // Up to an edge.
            _ => {
                let edges = rng.between(1, 3) * self.edge;
                (start + edges) / self.edge * self.edge - start
            }
        };
        // Both bounds are multiples of `align`, so rounding up stays below them.
        let most = (limit - start).min(longest / align * align);
        start..start + len.min(most).next_multiple_of(align)
    }
}

#[cfg(test)]
mod tests;
