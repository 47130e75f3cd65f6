//! Copying the contents of one image into another.

use super::rate::RateLimit;
use super::{NewImage, Progress};
use crate::format::qcow2::{self, StreamOptions};
use crate::io::{
    Capabilities, Device, DeviceExt, Extent, ExtentFlags, Runtime, Segment, Segments, Sink,
    WriteFlags, ZeroFlags,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::pin;
use core::task::Poll;
use event_listener::Event;
use futures_util::future::{AbortHandle, abortable, join};

/// How to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertOptions {
    /// Write compressed clusters.
    pub compress: bool,
    /// Look for runs of zeroes of at least this many bytes in the data, and do not write them.
    /// 0: write everything, known zeroes too.
    pub sparse_size: u32,
    /// Requests in flight at a time.
    pub parallel: u16,
    /// The target reads as zeroes where nothing is written: true for one made just now.
    pub target_is_zero: bool,
    /// The target has a backing file with the contents of the source's: only what the source's
    /// top layer holds is copied.
    pub target_has_backing: bool,
    /// Bytes of the source that are copied in a second; 0: as many as possible.
    pub rate: u64,
}

impl Default for ConvertOptions {
    fn default() -> Self {
        Self {
            compress: false,
            sparse_size: 4096,
            parallel: 8,
            target_is_zero: true,
            target_has_backing: false,
            rate: 0,
        }
    }
}

/// One request copies so much …
const STEP: u64 = 2 << 20;

/// … or so much where the source is compressed: what is decompressed should still be in the
/// processor's cache when it is written.
const UNPACK_STEP: u64 = 512 << 10;

/// Copies the contents of `source` into `target`, which must be at least as long, and flushes it.
///
/// The copying runs in [spawned](Runtime::spawn) tasks; dropping the future ends them.
///
/// # Errors
/// Those of the devices; the first ends the copy. What the target holds then is undefined.
pub async fn convert(
    runtime: &Arc<dyn Runtime>,
    source: &Device,
    target: &Device,
    options: ConvertOptions,
    progress: Progress<'_>,
) -> Result<()> {
    if target.len() < source.len() {
        return Err(Error::invalid(format!(
            "the target is smaller than the source: {} and {} bytes",
            target.len(),
            source.len()
        )));
    }
    if options.compress && !target.capabilities().contains(Capabilities::COMPRESSED) {
        return Err(Error::unsupported("compression is not supported for this file format"));
    }
    let limit = RateLimit::new(runtime, options.rate);
    let job = Arc::new(Job::new(source.clone(), target.clone(), options, limit));
    let workers = Workers::start(runtime, &job);
    let total = source.len();
    let result = job.wait(|done| progress(done.min(total), total)).await;
    drop(workers);
    result?;
    progress(total, total);
    target.flush().await
}

/// The tasks of a copy; dropping them ends them.
struct Workers(Vec<AbortHandle>);

impl Workers {
    fn start(runtime: &Arc<dyn Runtime>, job: &Arc<Job>) -> Self {
        let count = usize::from(job.options.parallel.max(1));
        let mut handles = Vec::new();
        job.state.lock().running = count;
        for _ in 0..count {
            let worker = job.clone();
            let (task, handle) = abortable(async move { worker.work().await });
            handles.push(handle);
            let report = Report { job: job.clone(), outcome: None };
            runtime.spawn(Box::pin(async move {
                let mut report = report;
                report.outcome = Some(task.await.unwrap_or(Ok(())));
                drop(report);
            }));
        }
        Self(handles)
    }
}

/// Tells the job how a worker has ended, also where the host has lost it.
struct Report {
    job: Arc<Job>,
    outcome: Option<Result<()>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let lost = || Err(Error::bug("the host lost a worker of the copy"));
        self.job.finished(self.outcome.take().unwrap_or_else(lost));
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for handle in &self.0 {
            handle.abort();
        }
    }
}

/// What the workers of one copy share.
struct Job {
    source: Device,
    target: Device,
    options: ConvertOptions,
    limit: RateLimit,
    /// Offsets and lengths of requests are multiples of it, where the image's end allows.
    granularity: u64,
    cursor: async_lock::Mutex<Cursor>,
    state: crate::sync::Mutex<State>,
    /// Something in `state` changed.
    changed: Event,
}

#[derive(Default)]
struct Cursor {
    extents: VecDeque<Extent>,
    /// The next byte of the source to look at.
    at: u64,
    /// The end of the last request: what lies before is not copied again.
    copied: u64,
    /// The number of the next request.
    ticket: u64,
}

#[derive(Default)]
struct State {
    running: usize,
    failed: Option<Error>,
    /// The request that may begin its write.
    turn: u64,
    /// Bytes of the source that are dealt with.
    done: u64,
}

/// One request: copy `len` bytes at `start`; `zero`: they are known to be zeroes.
struct Request {
    ticket: u64,
    start: u64,
    len: u64,
    zero: bool,
}

impl Job {
    fn new(source: Device, target: Device, options: ConvertOptions, limit: RateLimit) -> Self {
        let granularity = u64::from(target.limits().granularity.max(1));
        Self {
            source,
            target,
            options,
            limit,
            granularity,
            cursor: async_lock::Mutex::new(Cursor::default()),
            state: crate::sync::Mutex::new(State::default()),
            changed: Event::new(),
        }
    }

    /// Waits for the workers, telling progress in between.
    async fn wait(&self, tell: impl Fn(u64)) -> Result<()> {
        loop {
            let listener = self.changed.listen();
            let done = {
                let mut state = self.state.lock();
                if let Some(e) = state.failed.take() {
                    return Err(e);
                }
                if state.running == 0 {
                    return Ok(());
                }
                state.done
            };
            tell(done);
            listener.await;
        }
    }

    fn finished(&self, outcome: Result<()>) {
        let mut state = self.state.lock();
        state.running -= 1;
        if let Err(e) = outcome {
            state.failed.get_or_insert(e);
        }
        drop(state);
        self.changed.notify(usize::MAX);
    }

    async fn work(&self) -> Result<()> {
        while let Some(request) = self.next().await? {
            self.copy(&request).await?;
            self.state.lock().done += request.len;
            self.changed.notify(usize::MAX);
        }
        Ok(())
    }

    /// The next request. What need not be touched is passed over.
    async fn next(&self) -> Result<Option<Request>> {
        let mut cursor = self.cursor.lock().await;
        let end = self.source.len();
        loop {
            if cursor.at >= end {
                return Ok(None);
            }
            let Some(extent) = cursor.extents.front().cloned() else {
                cursor.extents = self.extents(cursor.at).await?.into();
                continue;
            };
            if extent.end() <= cursor.at {
                cursor.extents.pop_front();
                continue;
            }
            if self.can_skip(&extent) {
                let skipped = extent.end() - cursor.at;
                cursor.at = extent.end();
                self.state.lock().done += skipped;
                continue;
            }
            // A cluster whose first bytes were passed over is written whole.
            let start = (cursor.at - cursor.at % self.granularity).max(cursor.copied);
            let zeroes = match extent.is_zero() && self.options.sparse_size > 0 {
                // Whole clusters of zeroes cost nothing; let long runs go in one request.
                true => self.whole_clusters(extent.end(), end).saturating_sub(start),
                false => 0,
            };
            let zero = zeroes > 0;
            let len = match zero {
                true => zeroes,
                false => self.data_len(&mut cursor, start, end).await?,
            };
            (cursor.at, cursor.copied) = (start + len, start + len);
            let ticket = cursor.ticket;
            cursor.ticket += 1;
            return Ok(Some(Request { ticket, start, len, zero }));
        }
    }

    /// What the source has from `at` on.
    async fn extents(&self, at: u64) -> Result<Vec<Extent>> {
        let found = self.source.extents(at, self.source.len() - at).await;
        found.map_err(|e| e.during(format!("error while reading block status at offset {at}")))
    }

    /// True where the target already has what the source's extent would give it.
    fn can_skip(&self, extent: &Extent) -> bool {
        if self.options.target_has_backing {
            return extent.depth > 0 || !extent.is_allocated();
        }
        extent.is_zero() && self.options.target_is_zero && self.options.sparse_size > 0
    }

    /// Where the last cluster that lies before `at` as a whole ends.
    fn whole_clusters(&self, at: u64, end: u64) -> u64 {
        if at == end { end } else { at - at % self.granularity }
    }

    /// The length of a request for data at `start`: neighbouring data extents together, up to
    /// [`STEP`] or [`UNPACK_STEP`], ending on a cluster of the target.
    async fn data_len(&self, cursor: &mut Cursor, start: u64, end: u64) -> Result<u64> {
        let limit_of = |step: u64| {
            let step = step.next_multiple_of(self.granularity);
            end.min(start - start % step + step)
        };
        let mut limit = limit_of(STEP);
        let mut at = start;
        while at < limit {
            let Some(extent) = cursor.extents.iter().find(|e| e.end() > at).cloned() else {
                let more = self.extents(at).await?;
                cursor.extents.extend(more);
                continue;
            };
            let passable =
                self.can_skip(&extent) || (extent.is_zero() && self.options.sparse_size > 0);
            if passable {
                break;
            }
            if extent.flags.contains(ExtentFlags::COMPRESSED) {
                limit = limit_of(UNPACK_STEP);
            }
            at = extent.end();
        }
        // A cluster that is only partly data is written whole: its rest is at hand.
        Ok(at.max(start + 1).next_multiple_of(self.granularity).min(limit) - start)
    }

    async fn copy(&self, request: &Request) -> Result<()> {
        let turn = Turn { job: self, ticket: request.ticket };
        if request.zero {
            return self.write(turn, Vec::from([Part::Zero(request.start, request.len)])).await;
        }
        self.limit.pass(request.len).await;
        let data = match self.source.read(request.start, request.len).await {
            Ok(data) => data,
            Err(e) => {
                let (at, e) = self.unreadable(request, e).await;
                return Err(e.during(format!("error while reading at byte {at}")));
            }
        };
        let parts = self.parts(request.start, data);
        self.write(turn, parts).await
    }

    /// Where a request fails for `error`, and why: of what is compressed, the cluster.
    async fn unreadable(&self, request: &Request, error: Error) -> (u64, Error) {
        let unit = u64::from(self.source.limits().granularity);
        let end = request.start + request.len;
        let mut at = request.start;
        let found = self.source.extents(at, request.len).await.unwrap_or_default();
        if unit > 1 && found.iter().any(|e| e.flags.contains(ExtentFlags::COMPRESSED)) {
            while at < end {
                let next = (at - at % unit).saturating_add(unit).min(end);
                if let Err(e) = self.source.read(at, next - at).await {
                    return (at, e);
                }
                at = next;
            }
        }
        (request.start, error)
    }

    /// Divides data into runs that are written and runs of zeroes. All of them begin and end on
    /// a granule, where the request does.
    fn parts(&self, start: u64, data: Segments) -> Vec<Part> {
        let sparse_size = u64::from(self.options.sparse_size);
        if sparse_size == 0 {
            // Zeroes as bytes: a target would know what to make of them otherwise.
            return Vec::from([Part::Data(start, data.to_bytes().into())]);
        }
        let granule = sparse_size.next_multiple_of(self.granularity);
        let sparse = data.sparsify(start, usize::try_from(granule).unwrap_or(usize::MAX));
        match sparse.as_slice() {
            [Segment::Zero(len)] => return Vec::from([Part::Zero(start, *len)]),
            [Segment::Data(_)] => return Vec::from([Part::Data(start, sparse)]),
            _ => {}
        }
        let (end, mut at) = (start + sparse.len(), start);
        let mut parts = Vec::new();
        let mut run: Option<(u64, bool)> = None;
        let mut close = |run: Option<(u64, bool)>, end: u64| match run {
            Some((from, true)) => parts.push(Part::Zero(from, end - from)),
            Some((from, false)) => {
                parts.push(Part::Data(from, sparse.slice(from - start, end - from)));
            }
            None => {}
        };
        while at < end {
            let next = (at - at % granule + granule).min(end);
            let zero = sparse.slice(at - start, next - at).is_zero();
            if run.is_none_or(|(_, kind)| kind != zero) {
                close(run.replace((at, zero)), at);
            }
            at = next;
        }
        close(run, end);
        parts
    }

    async fn write(&self, turn: Turn<'_>, parts: Vec<Part>) -> Result<()> {
        let failed =
            |start| move |e: Error| e.during(format!("error while writing at byte {start}"));
        let mut turn = Some(turn);
        for part in parts {
            match part {
                Part::Zero(start, len) => {
                    if !self.options.target_is_zero || self.options.target_has_backing {
                        let write = self.target.write_zeroes(start, len, ZeroFlags::MAY_UNMAP);
                        in_turn(&mut turn, write).await.map_err(failed(start))?;
                    }
                }
                Part::Data(start, data) => {
                    let flags = match self.options.compress {
                        true => WriteFlags::COMPRESSED,
                        false => WriteFlags::empty(),
                    };
                    let write = self.target.write(start, data, flags);
                    in_turn(&mut turn, write).await.map_err(failed(start))?;
                }
            }
        }
        Ok(())
    }
}

/// A piece of a request.
enum Part {
    Data(u64, Segments),
    Zero(u64, u64),
}

/// The right to begin writing, in the order of the requests. It passes on when it is dropped.
///
/// A format reserves space when a write begins: beginning in order keeps neighbours together in
/// the file, while the transfers run side by side.
struct Turn<'a> {
    job: &'a Job,
    ticket: u64,
}

impl Turn<'_> {
    async fn wait(&self) {
        loop {
            let listener = self.job.changed.listen();
            if self.job.state.lock().turn >= self.ticket {
                return;
            }
            listener.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.job.state.lock();
        state.turn = state.turn.max(self.ticket + 1);
        drop(state);
        self.job.changed.notify(usize::MAX);
    }
}

/// Waits for the turn, lets `write` take its first step, passes the turn on, and finishes.
async fn in_turn<T>(
    turn: &mut Option<Turn<'_>>,
    write: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut write = pin!(write);
    if let Some(own) = turn {
        own.wait().await;
        let first = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await;
        *turn = None;
        if let Poll::Ready(result) = first {
            return result;
        }
    }
    write.await
}

/// Writes the contents of `source` as a new image to `sink`, in one sequential pass.
///
/// # Errors
/// `Unsupported` for an image that cannot be written in sequence; those of source and sink.
pub async fn stream(
    source: &Device,
    image: &NewImage,
    sparse_size: u32,
    sink: &mut dyn Sink,
    progress: Progress<'_>,
) -> Result<()> {
    match image {
        NewImage::Qcow2(create) => {
            let options = StreamOptions { create: create.clone(), detect_zeroes: sparse_size > 0 };
            qcow2::stream(source, &options, sink, progress).await
        }
        NewImage::Raw(create) => {
            let len = create.size.max(source.len());
            let mut at = STEP.min(len);
            let mut data = source.read_padded(0, at).await?;
            while at < len {
                let step = STEP.min(len - at);
                // The next piece is read while this one is written.
                let next = source.read_padded(at, step);
                let (written, next) = join(sink.write(data), next).await;
                written?;
                progress(at, len);
                data = next?;
                at += step;
            }
            sink.write(data).await?;
            progress(len, len);
            Ok(())
        }
    }
}
