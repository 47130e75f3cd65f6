//! `quorum` (the schema's driver, block-core.json, `BlockdevOptionsQuorum`): several devices with the
//! same contents, of which some may fail or lie.
//!
//! Invariants: a read returns what at least `vote-threshold` children agree on, and fails where
//! there is no such thing; a write succeeds where it did on so many. Changes of the same bytes go
//! to all children in the same order, and one that was begun reaches all of them, even if it is
//! given up, so that children do not come apart. Discards reach none, as each child may then read as it
//! likes.

mod vote;

use super::blkverify::difference;
use super::check_limits;
use super::settle::Settler;
use crate::io::{
    Aligned, BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, ExtentFlags, Limits,
    Preallocation, Runtime, Segments, Turns, WriteFlags, ZeroFlags, check_range,
};
use crate::sync::Mutex;
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::future::ready;
use futures_util::future::join_all;
use vote::winner;

/// Bytes of a sector, as reports count them.
const SECTOR: u64 = 512;

/// `QuorumReadPattern` (block-core.json).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuorumReadPattern {
    /// All children vote.
    #[default]
    Quorum,
    /// The first child that does not fail decides.
    Fifo,
}

/// `BlockdevOptionsQuorum` without the children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumOptions {
    /// A difference fails the read, whoever is right: for two children.
    pub blkverify: bool,
    /// So many children have to agree; at least 1.
    pub vote_threshold: i64,
    /// Children that were outvoted get the bytes of the others.
    pub rewrite_corrupted: bool,
    /// Who decides what is read.
    pub read_pattern: QuorumReadPattern,
}

impl QuorumOptions {
    /// So many have to agree, and all else as it is by default.
    #[must_use]
    pub fn new(vote_threshold: i64) -> Self {
        Self {
            blkverify: false,
            vote_threshold,
            rewrite_corrupted: false,
            read_pattern: QuorumReadPattern::Quorum,
        }
    }

    /// How many have to agree, of so many children.
    ///
    /// # Errors
    /// `InvalidInput` where that makes no sense.
    pub(crate) fn check(&self, children: usize) -> Result<usize> {
        let refuse = |what: &'static str| Err(Error::invalid(what));
        if children == 0 {
            return refuse("Number of provided children must be 1 or more");
        }
        let threshold = match usize::try_from(self.vote_threshold) {
            Ok(threshold) if threshold > 0 => threshold,
            _ => return refuse("Parameter 'vote-threshold' expects a value >= 1"),
        };
        if threshold > children {
            return refuse("threshold may not exceed children count");
        }
        if self.read_pattern == QuorumReadPattern::Fifo {
            return Ok(threshold);
        }
        if self.blkverify && (children != 2 || threshold != 2) {
            return refuse(
                "blkverify=on can only be set if there are exactly two files and vote-threshold \
                 is 2",
            );
        }
        if self.blkverify && self.rewrite_corrupted {
            return refuse("rewrite-corrupted=on cannot be used with blkverify=on");
        }
        Ok(threshold)
    }
}

/// `QuorumOpType` (block-core.json).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum QuorumOpType {
    Read,
    Write,
    Flush,
}

/// What a listener is told: the events of the schema, without the name of the device itself, which
/// it does not know. Sectors have 512 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuorumEvent {
    /// `QUORUM_FAILURE`: too few agree.
    Failure {
        /// The first sector.
        sector_num: u64,
        /// How many.
        sectors_count: u64,
    },
    /// `QUORUM_REPORT_BAD`: a child failed, or was outvoted.
    ReportBad {
        /// What was being done.
        op: QuorumOpType,
        /// What failed; `None` for one that was outvoted.
        error: Option<String>,
        /// The node name of the child.
        node_name: String,
        /// The first sector; 0 for a flush.
        sector_num: u64,
        /// How many; 0 for a flush.
        sectors_count: u64,
    },
}

/// Whoever is told of events.
pub type QuorumListener = Arc<dyn Fn(QuorumEvent) + Send + Sync>;

/// A child.
#[derive(Debug)]
struct Voter {
    /// `children.0` …
    name: String,
    node_name: String,
    device: Aligned,
}

/// Several devices with the same contents.
pub struct Quorum {
    shared: Arc<Shared>,
    len: u64,
}

struct Shared {
    settler: Arc<Settler>,
    options: QuorumOptions,
    threshold: usize,
    voters: Mutex<Voters>,
    listener: Mutex<Option<QuorumListener>>,
    /// Changes take turns where they overlap, and with reads of which the children disagreed.
    turns: Turns,
}

struct Voters {
    list: Vec<Arc<Voter>>,
    next: usize,
}

impl fmt::Debug for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quorum").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

impl Quorum {
    /// `children` with their node names vote.
    ///
    /// # Errors
    /// `InvalidInput` where the options make no sense, `Io` where the children are not equally long.
    pub fn new(
        children: Vec<(Device, String)>,
        options: QuorumOptions,
        runtime: Arc<dyn Runtime>,
    ) -> Result<Self> {
        let threshold = options.check(children.len())?;
        let len = children.first().map_or(0, |(device, _)| device.len());
        if children.iter().any(|(device, _)| device.len() != len) {
            // The children are not equally long; these are the words of the reference.
            return Err(Error::io("Could not refresh total sector count: Input/output error"));
        }
        let next = children.len();
        let list = children.into_iter().enumerate().map(|(n, child)| voter(n, child)).collect();
        let shared = Shared {
            settler: Settler::new(runtime),
            options,
            threshold,
            voters: Mutex::new(Voters { list, next }),
            listener: Mutex::new(None),
            turns: Turns::default(),
        };
        Ok(Self { shared: Arc::new(shared), len })
    }

    /// Tells `listener`, and nobody else, of events.
    pub fn on_event(&self, listener: QuorumListener) {
        *self.shared.listener.lock() = Some(listener);
    }

    /// The names of the children (`children.0` …) with their node names.
    #[must_use]
    pub fn children(&self) -> Vec<(String, String)> {
        let voters = self.shared.voters.lock();
        voters.list.iter().map(|v| (v.name.clone(), v.node_name.clone())).collect()
    }

    /// The name that the next child gets.
    #[must_use]
    pub fn next_child(&self) -> String {
        format!("children.{}", self.shared.voters.lock().next)
    }

    /// Adds a child with the same contents (`x-blockdev-change`), and gives its name. No request may
    /// be under way.
    ///
    /// # Errors
    /// `InvalidInput` with `blkverify`, or where it is shorter than the others.
    pub fn add_child(&self, device: Device, node_name: String) -> Result<String> {
        if self.shared.options.blkverify {
            return Err(Error::invalid("Cannot add a child to a quorum in blkverify mode"));
        }
        if device.len() < self.len {
            let what = "the new child of a quorum is shorter than the others";
            return Err(Error::invalid(what));
        }
        let mut voters = self.shared.voters.lock();
        let voter = voter(voters.next, (device, node_name));
        voters.next += 1;
        let name = voter.name.clone();
        voters.list.push(voter);
        Ok(name)
    }

    /// Removes a child by its name. No request may be under way.
    ///
    /// # Errors
    /// `NotFound` where there is none, `InvalidInput` where too few would be left.
    pub fn remove_child(&self, name: &str) -> Result<()> {
        let mut voters = self.shared.voters.lock();
        let Some(at) = voters.list.iter().position(|voter| voter.name == name) else {
            let what = format!("the quorum does not have child '{name}'");
            return Err(Error::new(ErrorKind::NotFound, what));
        };
        let threshold = self.shared.threshold;
        if voters.list.len() <= threshold {
            return Err(Error::invalid(format!(
                "The number of children cannot be lower than the vote threshold {threshold}"
            )));
        }
        voters.list.remove(at);
        Ok(())
    }

    /// A change of a range that all children make.
    fn change(
        &self,
        offset: u64,
        len: u64,
        make: impl Fn(Arc<Voter>) -> BoxFuture<'static, Result<()>> + Send + 'static,
    ) -> BoxFuture<'_, Result<()>> {
        let shared = self.shared.clone();
        Box::pin(self.shared.settler.run(async move {
            let turn = shared.turns.turn(offset..offset.saturating_add(len)).await;
            let voters = shared.voters();
            let results = join_all(voters.iter().map(|voter| make(voter.clone()))).await;
            let result = shared.judge(&voters, results, QuorumOpType::Write, offset, len);
            drop(turn);
            result.map(drop)
        }))
    }

    fn refuse(&self, offset: u64, len: u64) -> Result<()> {
        if !self.capabilities().contains(Capabilities::WRITE) {
            return Err(Error::denied("a child of the quorum is read-only"));
        }
        check_range(offset, len, self.len)
    }
}

fn voter(number: usize, (device, node_name): (Device, String)) -> Arc<Voter> {
    let name = format!("children.{number}");
    Arc::new(Voter { name, node_name, device: Aligned::new(device) })
}

/// The first sector of a range, and how many it touches.
fn sectors(offset: u64, len: u64) -> (u64, u64) {
    let first = offset / SECTOR;
    (first, offset.saturating_add(len).div_ceil(SECTOR) - first)
}

impl Shared {
    fn voters(&self) -> Vec<Arc<Voter>> {
        self.voters.lock().list.clone()
    }

    fn tell(&self, event: QuorumEvent) {
        let listener = self.listener.lock().clone();
        if let Some(listener) = listener {
            listener(event);
        }
    }

    fn report(&self, voter: &Voter, op: QuorumOpType, error: Option<&Error>, at: (u64, u64)) {
        let (sector_num, sectors_count) = sectors(at.0, at.1);
        let node_name = voter.node_name.clone();
        let error = error.map(ToString::to_string);
        self.tell(QuorumEvent::ReportBad { op, error, node_name, sector_num, sectors_count });
    }

    fn fail(&self, offset: u64, len: u64) {
        let (sector_num, sectors_count) = sectors(offset, len);
        self.tell(QuorumEvent::Failure { sector_num, sectors_count });
    }

    /// The answers of those who had one, if there are enough; else the error of most.
    fn judge<T>(
        &self,
        voters: &[Arc<Voter>],
        results: Vec<Result<T>>,
        op: QuorumOpType,
        offset: u64,
        len: u64,
    ) -> Result<Vec<(Arc<Voter>, T)>> {
        let (mut answers, mut errors) = (Vec::new(), Vec::new());
        for (voter, result) in voters.iter().zip(results) {
            match result {
                Ok(answer) => answers.push((voter.clone(), answer)),
                Err(error) => {
                    self.report(voter, op, Some(&error), (offset, len));
                    errors.push(error);
                }
            }
        }
        if answers.len() >= self.threshold {
            return Ok(answers);
        }
        if op != QuorumOpType::Flush {
            self.fail(offset, len);
        }
        let most = winner(&errors, |a, b| a.kind() == b.kind());
        Err(match most {
            Some((index, _)) => errors.swap_remove(index),
            None => Error::bug("a quorum without answers and without errors"),
        })
    }

    /// Asks the children in order until one answers.
    async fn read_first(&self, offset: u64, len: u64) -> Result<Segments> {
        let mut last = Error::bug("a quorum without children");
        for voter in self.voters() {
            match voter.device.read(offset, len).await {
                Ok(data) => return Ok(data),
                Err(error) => {
                    self.report(&voter, QuorumOpType::Read, Some(&error), (offset, len));
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn ask_all(&self, offset: u64, len: u64) -> Result<Vec<(Arc<Voter>, Segments)>> {
        let voters = self.voters();
        let reads = voters.iter().map(|voter| voter.device.read(offset, len));
        let results = join_all(reads).await;
        self.judge(&voters, results, QuorumOpType::Read, offset, len)
    }

    /// Lets the children vote about what is there.
    async fn read_vote(&self, offset: u64, len: u64) -> Result<Segments> {
        if let Some(data) = unanimous(&self.ask_all(offset, len).await?) {
            return Ok(data);
        }
        // A write in flight may be there and not yet here: once more, while nobody writes.
        let turn = self.turns.turn(offset..offset.saturating_add(len.max(1))).await;
        let answers = self.ask_all(offset, len).await?;
        if let Some(data) = unanimous(&answers) {
            return Ok(data);
        }
        if self.options.blkverify
            && let [(_, a), (_, b), ..] = answers.as_slice()
        {
            let at = offset + difference(a, b).unwrap_or(0);
            return Err(Error::io(format!(
                "quorum: offset={offset} bytes={len} contents mismatch at offset {at}"
            )));
        }
        let same = |a: &(Arc<Voter>, Segments), b: &(Arc<Voter>, Segments)| {
            difference(&a.1, &b.1).is_none()
        };
        let Some((best, votes)) = winner(&answers, same) else {
            return Err(Error::bug("a vote without voters"));
        };
        if votes < self.threshold {
            self.fail(offset, len);
            return Err(Error::io(format!(
                "{votes} children of the quorum agree, {} have to",
                self.threshold
            )));
        }
        let data = answers[best].1.clone();
        for (voter, answer) in &answers {
            if difference(answer, &data).is_none() {
                continue;
            }
            self.report(voter, QuorumOpType::Read, None, (offset, len));
            if self.options.rewrite_corrupted {
                // Whether it works or not, what the others say is known.
                let rewrite = voter.device.write(offset, data.clone(), WriteFlags::empty());
                let _ = rewrite.await;
            }
        }
        drop(turn);
        Ok(data)
    }

    async fn flush_all(&self) -> Result<()> {
        self.settler.quiet().await;
        let voters = self.voters();
        let results = join_all(voters.iter().map(|voter| voter.device.flush())).await;
        self.judge(&voters, results, QuorumOpType::Flush, 0, 0).map(drop)
    }
}

/// What all of them say.
fn unanimous(answers: &[(Arc<Voter>, Segments)]) -> Option<Segments> {
    let (_, first) = answers.first()?;
    let all = answers[1..].iter().all(|(_, other)| difference(first, other).is_none());
    all.then(|| first.clone())
}

impl BlockDevice for Quorum {
    fn len(&self) -> u64 {
        self.len
    }

    fn limits(&self) -> Limits {
        let mut out = Limits::default();
        for voter in self.shared.voters() {
            let limits = voter.device.limits();
            out.granularity = out.granularity.max(limits.granularity);
            out.max_transfer = out.max_transfer.min(limits.max_transfer);
        }
        out
    }

    fn capabilities(&self) -> Capabilities {
        let all = Capabilities::all() - Capabilities::GROW - Capabilities::COMPRESSED;
        self.shared.voters().iter().fold(all, |all, voter| all & voter.device.capabilities())
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        if let Err(error) = check_range(offset, len, self.len)
            .and_then(|()| check_limits(offset, len, &self.limits()))
        {
            return Box::pin(ready(Err(error)));
        }
        match self.shared.options.read_pattern {
            QuorumReadPattern::Fifo => Box::pin(self.shared.read_first(offset, len)),
            QuorumReadPattern::Quorum => Box::pin(self.shared.read_vote(offset, len)),
        }
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        let len = data.len();
        let refused =
            self.refuse(offset, len).and_then(|()| check_limits(offset, len, &self.limits()));
        if let Err(error) = refused {
            return Box::pin(ready(Err(error)));
        }
        let flags = flags - WriteFlags::COMPRESSED;
        self.change(offset, len, move |voter| {
            let data = data.clone();
            Box::pin(async move { voter.device.write(offset, data, flags).await })
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        if let Err(error) = self.refuse(offset, len) {
            return Box::pin(ready(Err(error)));
        }
        if flags.contains(ZeroFlags::NO_FALLBACK) {
            let what = "zeroes are written to all children, by whatever way they have";
            return Box::pin(ready(Err(Error::unsupported(what))));
        }
        self.change(offset, len, move |voter| {
            Box::pin(async move { voter.device.write_zeroes(offset, len, flags).await })
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(self.refuse(offset, len)))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.shared.flush_all())
    }

    fn set_len(&self, len: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        let result = match len == self.len {
            true => self.refuse(0, 0),
            false if !self.capabilities().contains(Capabilities::WRITE) => self.refuse(0, 0),
            false => Err(Error::unsupported("Image format driver does not support resize")),
        };
        Box::pin(ready(result))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            check_range(offset, len, self.len)?;
            if len == 0 {
                return Ok(Vec::new());
            }
            // Zeroes are what all children say to be zeroes; where one cannot tell, it is data.
            let (mut zero, mut len) = (true, len);
            for voter in self.shared.voters() {
                let extents = voter.device.extents(offset, len).await;
                match extents.as_deref().map(<[Extent]>::first) {
                    Ok(Some(first)) => {
                        len = len.min(first.len);
                        zero &= first.is_zero();
                    }
                    _ => zero = false,
                }
            }
            let kind = if zero { ExtentFlags::ZERO } else { ExtentFlags::DATA };
            let flags = kind | ExtentFlags::ALLOCATED;
            Ok(alloc::vec![Extent { start: offset, len, flags, depth: 0, host: None }])
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        Box::pin(async move {
            // All that its children take, where every one of them can tell.
            let mut actual_size = Some(0_u64);
            for voter in self.shared.voters() {
                let taken = voter.device.info().await?.actual_size;
                actual_size = actual_size.zip(taken).map(|(all, one)| all.saturating_add(one));
            }
            Ok(DeviceInfo { driver: "quorum", actual_size, ..DeviceInfo::default() })
        })
    }
}

#[cfg(test)]
mod tests;
