//! Running operations on a device and its model side by side.

use super::super::call::overlaps;
use super::super::caught::caught;
use super::super::transfer::{Stray, check_answer, read_all, walk_extents};
use super::flat::Kept;
use super::{Flat, Op, Plan, Subject, payload};
use crate::io::{
    BoxFuture, Capabilities, Device, Extent, MemoryDevice, Preallocation, Segments, WriteFlags,
    ZeroFlags,
};
use crate::{Error, ErrorKind};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

/// What a session does when an operation fails that should not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// It is a failure.
    #[default]
    Fail,
    /// The bytes concerned may be old or new, and the session goes on: for injected faults.
    Continue,
    /// The same, but no further operation is made: for a device that has crashed.
    Stop,
}

/// A device with its model.
pub struct Session<'a> {
    subject: &'a dyn Subject,
    device: Device,
    model: Flat,
    /// The model covers the whole device, so its length is checked and may change.
    whole: bool,
    /// States that are kept, in order.
    kept: Vec<(u32, Kept)>,
    steps: usize,
    on_error: OnError,
    stopped: Option<Error>,
}

/// What a device answered.
enum Answer {
    Done,
    Data(Segments),
    Extents(Vec<Extent>),
    /// A rule was broken on the way.
    Broken(String),
}

impl<'a> Session<'a> {
    /// Makes a device, and reads its first `window` bytes into the model.
    ///
    /// # Errors
    /// Where there is no device, or it cannot be read.
    pub async fn start(subject: &'a dyn Subject, window: u64) -> Result<Self, String> {
        let device =
            subject.make().await.map_err(|error| format!("cannot make a device: {error:?}"))?;
        let align = u64::from(device.limits().request_alignment).max(1);
        let whole = device.len() <= window;
        let len = if whole { device.len() } else { window / align * align };
        let bytes = caught(read_all(&*device, 0, len)).await??;
        let model = Flat::new(bytes);
        Ok(Self {
            subject,
            device,
            model,
            whole,
            kept: Vec::new(),
            steps: 0,
            on_error: OnError::Fail,
            stopped: None,
        })
    }

    /// Sets what happens when an operation fails.
    #[must_use]
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }

    /// The device, as it is now.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the device has to contain.
    #[must_use]
    pub fn model(&self) -> &Flat {
        &self.model
    }

    /// How many operations were made without a failure; a batch is one.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The error that ended a session with [`OnError::Stop`].
    #[must_use]
    pub fn stopped(&self) -> Option<&Error> {
        self.stopped.as_ref()
    }

    /// Makes the operations one after the other.
    ///
    /// # Errors
    /// Where an answer is not what the model allows. [`steps`](Self::steps) tells which.
    pub async fn run(&mut self, plan: &Plan) -> Result<(), String> {
        for op in &plan.0 {
            if self.stopped.is_some() {
                break;
            }
            caught(self.step(op)).await??;
            self.steps += 1;
        }
        Ok(())
    }

    /// Compares everything: bytes, extents, length, invariants, and every state that is kept, to
    /// which the device goes back.
    ///
    /// # Errors
    /// Where an answer is not what the model allows.
    pub async fn finish(&mut self) -> Result<(), String> {
        caught(async {
            self.model.verify(&*self.device).await?;
            let all = 0..self.model.len();
            let extents = walk_extents(&*self.device, 0, all.end).await?;
            self.check_zeroes(&extents)?;
            self.check_device().await?;
            for (number, _) in self.kept.clone() {
                let result = async {
                    self.change_state(&Op::GoBack(number)).await?;
                    self.model.verify(&*self.device).await?;
                    self.check_device().await
                };
                result.await.map_err(|what| format!("the state {number}: {what}"))?;
            }
            Ok(())
        })
        .await?
    }

    async fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Batch(ops) => self.batch(ops).await?,
            Op::Keep(_) | Op::GoBack(_) | Op::Throw(_) => self.change_state(op).await?,
            Op::Reopen => {
                let device = self.device.clone();
                // The old handle must not keep the image open while it is opened again.
                self.device = Arc::new(MemoryDevice::new(0));
                match self.subject.reopen(device).await {
                    Ok(device) => self.device = device,
                    // Without a device there is nothing to go on with.
                    Err(error) if self.on_error != OnError::Fail => self.stopped = Some(error),
                    Err(error) => return Err(format!("cannot open again: {error:?}")),
                }
            }
            op => {
                let result = issue(&self.device, op).await;
                if matches!(op, Op::Flush) && result.is_ok() {
                    self.model.flush();
                }
                self.judge(op, result)?;
            }
        }
        // While calls fail, an inspection would say so rather than find anything.
        if self.on_error == OnError::Fail { self.check_device().await } else { Ok(()) }
    }

    /// Makes a change of the state of the whole disk, with device and model.
    async fn change_state(&mut self, op: &Op) -> Result<(), String> {
        let (Op::Keep(number) | Op::GoBack(number) | Op::Throw(number)) = op else { return Ok(()) };
        let place = self.kept.iter().position(|(other, _)| other == number);
        if place.is_some() == matches!(op, Op::Keep(_)) {
            // Of a plan from which something was left out.
            return Ok(());
        }
        let changed = self.subject.change_state(&self.device, op).await;
        changed.map_err(|error| format!("it fails: {error:?}"))?;
        match (op, place) {
            (Op::GoBack(_), Some(place)) => self.model.go_back(&self.kept[place].1),
            (Op::Throw(_), Some(place)) => drop(self.kept.remove(place)),
            _ => self.kept.push((*number, self.model.keep())),
        }
        Ok(())
    }

    async fn batch(&mut self, ops: &[Op]) -> Result<(), String> {
        let mut chosen: Vec<&Op> = Vec::new();
        for op in ops {
            let fits = match op {
                Op::SetLen(_) | Op::Reopen | Op::Batch(_) => false,
                Op::Keep(_) | Op::GoBack(_) | Op::Throw(_) => false,
                op => op.range().is_none_or(|range| {
                    range.end <= self.model.len()
                        && chosen
                            .iter()
                            .filter_map(|other| other.range())
                            .all(|other| !overlaps(other, range))
                }),
            };
            if fits {
                chosen.push(op);
            }
        }
        let device = self.device.clone();
        let mut calls: FuturesUnordered<_> = chosen
            .iter()
            .enumerate()
            .map(|(place, op)| {
                let call = issue(&device, op);
                async move { (place, call.await) }
            })
            .collect();
        let mut results = Vec::new();
        while let Some(result) = calls.next().await {
            results.push(result);
        }
        // A flush among them covers what was complete before the batch began.
        if results.iter().any(|(place, r)| matches!(chosen[*place], Op::Flush) && r.is_ok()) {
            self.model.flush();
        }
        results.sort_by_key(|(place, _)| *place);
        for (place, result) in results {
            let op = chosen[place];
            self.judge(op, result).map_err(|what| format!("{op}: {what}"))?;
        }
        Ok(())
    }

    /// Compares one answer with the model, and makes the change there.
    fn judge(&mut self, op: &Op, result: Result<Answer, Error>) -> Result<(), String> {
        let empty_walk = matches!(op, Op::Extents(range) if range.is_empty());
        let exceeds = self.whole && self.refuses(op) && !empty_walk;
        match result {
            Ok(Answer::Broken(what)) => Err(what),
            Ok(_) if exceeds => {
                Err(format!("it succeeds, though it exceeds the length {:#x}", self.model.len()))
            }
            Ok(answer) => self.apply(op, &answer),
            Err(error) if exceeds && error.kind() == ErrorKind::InvalidInput => Ok(()),
            // The one failure that a flag asks for; nothing has changed.
            Err(error)
                if matches!(op, Op::Zero { flags, .. } if flags.contains(ZeroFlags::NO_FALLBACK))
                    && error.kind() == ErrorKind::Unsupported =>
            {
                Ok(())
            }
            Err(error) if self.on_error == OnError::Fail => Err(format!("it fails: {error:?}")),
            Err(error) => {
                self.loosen(op)?;
                if self.on_error == OnError::Stop {
                    self.stopped.get_or_insert(error);
                }
                Ok(())
            }
        }
    }

    /// True for a range that the device has to refuse.
    fn refuses(&self, op: &Op) -> bool {
        let grows = self.device.capabilities().contains(Capabilities::GROW)
            && matches!(op, Op::Write { .. } | Op::Zero { .. });
        !grows && op.range().is_some_and(|range| range.end > self.model.len())
    }

    fn apply(&mut self, op: &Op, answer: &Answer) -> Result<(), String> {
        match (op, answer) {
            (Op::Read(range), Answer::Data(data)) => {
                check_answer(range.start, range.end - range.start, data)?;
                return self.model.check(range.start, &data.to_bytes());
            }
            (Op::Extents(_), Answer::Extents(extents)) => return self.check_zeroes(extents),
            (Op::Write { range, tag, flags }, _) => {
                let len = range.end - range.start;
                self.model.write(range.start, payload(*tag, range.start, len).to_bytes());
                if flags.contains(WriteFlags::FUA) {
                    self.model.harden(range.start, len);
                }
            }
            (Op::Zero { range, .. }, _) => self.model.zero(range.start, range.end - range.start),
            (Op::Discard(range), _) => self.model.discard(range.start, range.end - range.start),
            (Op::SetLen(len), _) => self.model.set_len(*len),
            _ => {}
        }
        Ok(())
    }

    /// A failed operation may have had any part of its effect.
    fn loosen(&mut self, op: &Op) -> Result<(), String> {
        let len = self.device.len();
        match op {
            Op::Write { range, tag, .. } => {
                let size = range.end - range.start;
                self.resized(len, range.end.max(self.model.len()))?;
                let data = payload(*tag, range.start, size).to_bytes();
                self.model.may_write(range.start, data);
            }
            Op::Zero { range, .. } => {
                self.resized(len, range.end.max(self.model.len()))?;
                self.model.may_zero(range.start, range.end - range.start);
            }
            Op::Discard(range) => self.model.discard(range.start, range.end - range.start),
            Op::SetLen(wanted) => self.resized(len, *wanted)?,
            _ => {}
        }
        Ok(())
    }

    fn resized(&mut self, len: u64, wanted: u64) -> Result<(), String> {
        if self.whole { self.model.resized(len, wanted) } else { Ok(()) }
    }

    /// An extent that claims to be zero must be.
    fn check_zeroes(&self, extents: &[Extent]) -> Result<(), String> {
        for extent in extents.iter().filter(|extent| extent.is_zero()) {
            self.model
                .check_zero(extent.start, extent.len)
                .map_err(|_| format!("an extent claims to be zero and is not: {extent:?}"))?;
        }
        Ok(())
    }

    async fn check_device(&self) -> Result<(), String> {
        let len = self.device.len();
        if self.whole && len != self.model.len() {
            return Err(format!("the length is {len:#x}, should be {:#x}", self.model.len()));
        }
        let inspected = self.subject.inspect(&*self.device).await;
        inspected.map_err(|error| format!("an invariant is broken: {error:?}"))
    }
}

/// Makes one operation on the device.
fn issue<'d>(device: &'d Device, op: &Op) -> BoxFuture<'d, Result<Answer, Error>> {
    let op = op.clone();
    Box::pin(async move {
        match op {
            Op::Read(range) => {
                device.read(range.start, range.end - range.start).await.map(Answer::Data)
            }
            Op::Write { range, tag, flags } => {
                let data = payload(tag, range.start, range.end - range.start);
                device.write(range.start, data, flags).await.map(|()| Answer::Done)
            }
            Op::Zero { range, flags } => {
                let len = range.end - range.start;
                device.write_zeroes(range.start, len, flags).await.map(|()| Answer::Done)
            }
            Op::Discard(range) => {
                let len = range.end - range.start;
                device.discard(range.start, len).await.map(|()| Answer::Done)
            }
            Op::Flush => device.flush().await.map(|()| Answer::Done),
            Op::SetLen(len) => device.set_len(len, Preallocation::Off).await.map(|()| Answer::Done),
            Op::Extents(range) => {
                match walk_extents(&**device, range.start, range.end - range.start).await {
                    Ok(extents) => Ok(Answer::Extents(extents)),
                    Err(Stray::Failed(error)) => Err(error),
                    Err(Stray::Broken(what)) => Ok(Answer::Broken(what)),
                }
            }
            _ => Ok(Answer::Done),
        }
    })
}
