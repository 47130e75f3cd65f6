//! Devices over storage that JavaScript reads and writes.
//!
//! Storage is one of two kinds. *Synchronous* storage (a descriptor in Node, a sync access handle
//! in a browser) reads straight into the module's memory and writes straight out of it. Any other
//! answers with promises, and its bytes are copied once.
//!
//! A synchronous operation is done before anybody can drop its future. Another goes on, as a task
//! of its own that keeps data and hold, until it has settled.

use crate::pending::{Pending, detached};
use crate::{error, host};
use bytes::Bytes;
use js_sys::{Promise, Uint8Array};
use sectora_core::io::{
    BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, ExtentFlags, HostRange, Limits,
    Preallocation, Segment, Segments, WriteFlags, ZeroFlags,
};
use sectora_core::{Error, ErrorKind, Result};
use send_wrapper::SendWrapper;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::ready;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = r"
/** Storage as the engine sees it. Lengths and offsets are exact to 2^53. */
export interface Storage {
  readonly name: string;
  readonly writable: boolean;
  /** True where `readSync` and `writeSync` are to be used, else `fill` and `write`. */
  readonly sync: boolean;
  /** Length in bytes, when it is opened. */
  size(): number;
  /** Space taken, in bytes; -1 where that is not known. */
  allocated(): number;
  /** Reads into `out`; returns how many bytes, 0 only at the end. */
  readSync?(out: Uint8Array, offset: number): number;
  /** Writes all of `data`. Both must not keep the array. */
  writeSync?(data: Uint8Array, offset: number): void;
  /** Reads `length` bytes: gives all of them to `put`, in order, before it resolves. */
  fill?(offset: number, length: number, put: (bytes: Uint8Array) => void): Promise<void>;
  write?(offset: number, data: Uint8Array): Promise<void>;
  truncate?(size: number): Promise<void> | void;
  flush?(): Promise<void> | void;
}
";

#[wasm_bindgen]
extern "C" {
    /// Storage of the host.
    #[wasm_bindgen(typescript_type = "Storage")]
    #[derive(Clone)]
    pub type Storage;

    #[wasm_bindgen(method, getter)]
    fn name(this: &Storage) -> String;
    #[wasm_bindgen(method, getter)]
    fn writable(this: &Storage) -> bool;
    #[wasm_bindgen(method, getter)]
    fn sync(this: &Storage) -> bool;
    #[wasm_bindgen(method, catch)]
    fn size(this: &Storage) -> Result<f64, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn allocated(this: &Storage) -> Result<f64, JsValue>;
    #[wasm_bindgen(method, catch, js_name = readSync)]
    fn read_sync(this: &Storage, out: &Uint8Array, offset: f64) -> Result<f64, JsValue>;
    #[wasm_bindgen(method, catch, js_name = writeSync)]
    fn write_sync(this: &Storage, data: &Uint8Array, offset: f64) -> Result<(), JsValue>;
    #[wasm_bindgen(method, catch)]
    fn fill(this: &Storage, offset: f64, length: f64, put: &JsValue) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn write(this: &Storage, offset: f64, data: &Uint8Array) -> Result<Promise, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn truncate(this: &Storage, size: f64) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(method, catch)]
    fn flush(this: &Storage) -> Result<JsValue, JsValue>;
}

/// Numbers of JavaScript count exactly so far.
const MAX_LEN: u64 = 1 << 53;

/// One call of a host's write takes so many bytes at most.
const MAX_WRITE: u64 = 1 << 20;

/// Neighbouring pieces of a write are joined up to this length: a call of a browser's write costs
/// as much as copying this.
const JOIN: u64 = 1 << 20;

/// Storage of JavaScript as a device. Several devices may share one storage: they agree on its length
/// and keep their changes apart.
pub(crate) struct HostDevice {
    shared: SendWrapper<Rc<Shared>>,
    name: String,
    sync: bool,
    writable: bool,
}

struct Shared {
    storage: Storage,
    len: Cell<u64>,
    /// Why nothing works any more.
    ended: Cell<Option<Ended>>,
    pending: Rc<Pending>,
    /// Called when no device uses the storage any more and nothing is in flight there.
    on_drop: Option<Box<dyn FnOnce()>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(call) = self.on_drop.take() {
            call();
        }
    }
}

/// Storage that devices use; it does not keep them.
pub(crate) struct InUse(Weak<Shared>);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Closed,
    FlushFailed,
}

impl HostDevice {
    /// The device over `storage`, called `name`.
    pub(crate) fn new(storage: Storage, name: Option<String>) -> Result<Self> {
        Self::released_by(storage, name, None)
    }

    /// The same; `on_drop` is called when the last device over this storage is gone.
    pub(crate) fn released_by(
        storage: Storage,
        name: Option<String>,
        on_drop: Option<Box<dyn FnOnce()>>,
    ) -> Result<Self> {
        let name = name.unwrap_or_else(|| storage.name());
        let size = storage.size().map_err(|e| error::from_js(&e))?;
        if !(0.0..=MAX_LEN as f64).contains(&size) || size.fract() != 0.0 {
            return Err(Error::invalid(format!("the size of '{name}' is {size}")));
        }
        Ok(Self {
            sync: storage.sync(),
            writable: storage.writable(),
            name,
            shared: SendWrapper::new(Rc::new(Shared {
                storage,
                len: Cell::new(size as u64),
                ended: Cell::new(None),
                pending: Rc::default(),
                on_drop,
            })),
        })
    }

    /// What it stands on.
    pub(crate) fn in_use(&self) -> InUse {
        InUse(Rc::downgrade(&self.shared))
    }

    /// Another device over storage that is in use; none where it no longer is.
    pub(crate) fn over(storage: &InUse, name: String) -> Option<Self> {
        let shared = storage.0.upgrade()?;
        Some(Self {
            sync: shared.storage.sync(),
            writable: shared.storage.writable(),
            name,
            shared: SendWrapper::new(shared),
        })
    }

    /// The same, read only.
    pub(crate) fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    /// True where it can be written to.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// The name it was opened by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// True where operations complete without the event loop.
    pub(crate) fn is_sync(&self) -> bool {
        self.sync
    }

    /// Ends all use, and waits until nothing is in flight any more: the storage can be closed.
    pub(crate) async fn retire(&self) {
        if self.shared.ended.get().is_none() {
            self.shared.ended.set(Some(Ended::Closed));
        }
        self.shared.pending.settled().await;
    }

    /// Refuses a change of `len` bytes at `offset` that cannot be.
    fn changeable(&self, offset: u64, len: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::denied(format!("'{}' cannot be written to", self.name)));
        }
        match offset.checked_add(len) {
            Some(end) if end <= MAX_LEN => Ok(()),
            Some(_) => {
                Err(Error::limit(format!("'{}' cannot be longer than 2^53 bytes", self.name)))
            }
            None => {
                Err(Error::invalid(format!("request {offset:#x}+{len:#x} ends past every device")))
            }
        }
    }

    /// A write of nothing behind the end still makes the device longer.
    async fn reach(&self, end: u64) -> Result<()> {
        if end <= self.len() {
            return Ok(());
        }
        self.change(end, end, |shared| async move { shared.truncate(end).await }).await
    }

    async fn read_range(&self, offset: u64, len: u64) -> Result<Segments> {
        within(offset, len, self.len())?;
        let size = usize::try_from(len)
            .ok()
            .filter(|size| *size <= self.limits().max_transfer as usize)
            .ok_or_else(|| Error::invalid(format!("a read of {len:#x} bytes is too long")))?;
        if size == 0 {
            return Ok(Segments::new());
        }
        let data = match self.sync {
            true => {
                host::breathe().await;
                self.shared.alive(&self.name)?;
                self.shared.read_now(offset, size)
            }
            false => {
                self.shared.alive(&self.name)?;
                detached((*self.shared).clone().read_later(offset, size)).await
            }
        };
        let failed = || format!("cannot read '{}'", self.name);
        Ok(Segments::from(data.map_err(|e| e.context(failed()).at(offset))?))
    }

    /// Makes a change of `[offset, end)`, which lasts until `change` completes.
    async fn change<F>(
        &self,
        offset: u64,
        end: u64,
        change: impl FnOnce(Rc<Shared>) -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + 'static,
    {
        let failed = |e: Error| e.context(format!("cannot write '{}'", self.name)).at(offset);
        // Where it ends behind the end it changes the length, and whatever depends on that.
        let end = if end > self.len() { u64::MAX } else { end };
        let begun = self.shared.pending.begin(offset..end).await;
        if self.sync {
            host::breathe().await;
            self.shared.alive(&self.name)?;
            // It does not wait for anything, so nobody can drop it half way.
            return change((*self.shared).clone()).await.map_err(failed);
        }
        self.shared.alive(&self.name)?;
        let work = change((*self.shared).clone());
        detached(async move {
            let result = work.await;
            drop(begun);
            result
        })
        .await
        .map_err(failed)
    }
}

/// Refuses a range that does not lie within `device_len`.
fn within(offset: u64, len: u64, device_len: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= device_len) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "request {offset:#x}+{len:#x} exceeds the device length {device_len:#x}"
    )))
}

/// A read that the storage answers piece by piece.
#[derive(Default)]
struct Filling {
    out: Vec<u8>,
    size: usize,
    /// Bytes that were given; more than `size` are not kept.
    got: usize,
}

impl Filling {
    fn put(&mut self, part: &Uint8Array) {
        let len = part.length() as usize;
        self.got = self.got.saturating_add(len);
        if self.got > self.size {
            return;
        }
        part.copy_to_uninit(&mut self.out.spare_capacity_mut()[..len]);
        // SAFETY: that has written the `len` bytes behind what there was.
        unsafe { self.out.set_len(self.out.len() + len) };
    }
}

impl Shared {
    fn alive(&self, name: &str) -> Result<()> {
        match self.ended.get() {
            None => Ok(()),
            Some(Ended::Closed) => {
                Err(Error::new(ErrorKind::Cancelled, format!("'{name}' was closed")))
            }
            Some(Ended::FlushFailed) => Err(Error::io(format!(
                "a flush of '{name}' has failed: what it holds is not known any more"
            ))),
        }
    }

    fn read_now(&self, offset: u64, size: usize) -> Result<Vec<u8>> {
        let mut out = Vec::<u8>::with_capacity(size);
        let mut done = 0;
        while done < size {
            let free = &mut out.spare_capacity_mut()[done..size];
            // SAFETY: the view covers spare capacity of `out`, which stays where it is: the callee
            // writes to it, keeps nothing of it, and runs no code of this module meanwhile that
            // could make the memory grow.
            let view = unsafe { Uint8Array::view_mut_raw(free.as_mut_ptr().cast(), free.len()) };
            let got = self.storage.read_sync(&view, (offset + done as u64) as f64);
            let got = got.map_err(|e| error::from_js(&e))?;
            // The comparison refuses what is no number, too.
            if !(got >= 1.0 && got <= (size - done) as f64) {
                return Err(short(size, done));
            }
            done += got as usize;
        }
        // SAFETY: the host has written all `size` bytes.
        unsafe { out.set_len(size) };
        Ok(out)
    }

    /// To be run to its end: the storage holds on to what it fills.
    async fn read_later(self: Rc<Self>, offset: u64, size: usize) -> Result<Vec<u8>> {
        let filling =
            Rc::new(RefCell::new(Filling { out: Vec::with_capacity(size), size, got: 0 }));
        let filled = filling.clone();
        let put = Closure::<dyn FnMut(Uint8Array)>::new(move |part| filled.borrow_mut().put(&part));
        let promise = self.storage.fill(offset as f64, size as f64, put.as_ref());
        let promise = promise.map_err(|e| error::from_js(&e))?;
        JsFuture::from(promise).await.map_err(|e| error::from_js(&e))?;
        let Filling { out, got, .. } = filling.take();
        match got == size {
            true => Ok(out),
            false => Err(short(size, got)),
        }
    }

    async fn write_all(&self, sync: bool, offset: u64, data: Segments) -> Result<()> {
        let mut at = offset;
        if data.as_slice().len() > 1 && data.len() <= JOIN {
            self.write_bytes(sync, at, &data.to_bytes()).await?;
        } else {
            for segment in data.as_slice() {
                match segment {
                    Segment::Data(bytes) => self.write_bytes(sync, at, bytes).await?,
                    Segment::Zero(len) => self.zero(sync, at, *len).await?,
                }
                at += segment.len();
            }
        }
        self.len.set(self.len.get().max(offset + data.len()));
        Ok(())
    }

    async fn write_bytes(&self, sync: bool, offset: u64, bytes: &Bytes) -> Result<()> {
        let mut at = offset;
        for part in bytes.chunks(MAX_WRITE as usize) {
            if sync {
                // SAFETY: the callee reads from the view, keeps nothing of it, and runs no code of
                // this module meanwhile that could make the memory grow.
                let view = unsafe { Uint8Array::view(part) };
                self.storage.write_sync(&view, at as f64).map_err(|e| error::from_js(&e))?;
            } else {
                let written = self.storage.write(at as f64, &Uint8Array::from(part));
                settle(written.map(JsValue::from)).await?;
            }
            at += part.len() as u64;
        }
        Ok(())
    }

    /// Writes zeroes where there are bytes, and grows where there are none.
    async fn zero(&self, sync: bool, offset: u64, len: u64) -> Result<()> {
        const STEP: u64 = 1 << 20;
        let (end, inside) = (offset + len, self.len.get().min(offset + len));
        let zeroes = Bytes::from(vec![0; STEP.min(inside.saturating_sub(offset)) as usize]);
        let mut at = offset;
        while at < inside {
            let step = STEP.min(inside - at);
            self.write_bytes(sync, at, &zeroes.slice(..step as usize)).await?;
            at += step;
        }
        match end > self.len.get() {
            true => self.truncate(end).await,
            false => Ok(()),
        }
    }

    async fn truncate(&self, len: u64) -> Result<()> {
        // Not only for speed: ext4 takes a file that was truncated for one that is being replaced,
        // and waits for its data when it is closed.
        if len == self.len.get() {
            return Ok(());
        }
        settle(self.storage.truncate(len as f64)).await?;
        self.len.set(len);
        Ok(())
    }
}

/// Waits for what a call returned, if it is a promise.
async fn settle(called: Result<JsValue, JsValue>) -> Result<()> {
    let value = called.map_err(|e| error::from_js(&e))?;
    if let Some(promise) = value.dyn_ref::<Promise>() {
        JsFuture::from(promise.clone()).await.map_err(|e| error::from_js(&e))?;
    }
    Ok(())
}

fn short(wanted: usize, got: usize) -> Error {
    Error::io(format!("the storage gave {got:#x} bytes instead of {wanted:#x}"))
}

impl BlockDevice for HostDevice {
    fn len(&self) -> u64 {
        self.shared.len.get()
    }

    fn limits(&self) -> Limits {
        Limits { max_transfer: 256 << 20, ..Limits::default() }
    }

    fn capabilities(&self) -> Capabilities {
        match self.writable {
            true => Capabilities::WRITE | Capabilities::GROW | Capabilities::ZERO_INIT,
            false => Capabilities::ZERO_INIT,
        }
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(SendWrapper::new(self.read_range(offset, len)))
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(SendWrapper::new(async move {
            if data.len() > self.limits().max_transfer.into() {
                let len = data.len();
                return Err(Error::invalid(format!("a write of {len:#x} bytes is too long")));
            }
            self.changeable(offset, data.len())?;
            if data.is_empty() {
                return self.reach(offset).await;
            }
            let sync = self.sync;
            self.change(offset, offset + data.len(), |shared| async move {
                shared.write_all(sync, offset, data).await
            })
            .await?;
            match flags.contains(WriteFlags::FUA) {
                true => self.flush().await,
                false => Ok(()),
            }
        }))
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(SendWrapper::new(async move {
            self.changeable(offset, len)?;
            if len == 0 {
                return self.reach(offset).await;
            }
            if flags.contains(ZeroFlags::NO_FALLBACK) && offset < self.len() {
                return Err(Error::unsupported(format!(
                    "'{}' has zeroes only as bytes that are written",
                    self.name
                )));
            }
            let sync = self.sync;
            self.change(offset, offset + len, |shared| async move {
                shared.zero(sync, offset, len).await
            })
            .await
        }))
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        // Giving up contents is allowed to keep them.
        let checked = self.changeable(0, 0).and_then(|()| within(offset, len, self.len()));
        Box::pin(ready(checked))
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(SendWrapper::new(async move {
            if !self.writable {
                return Ok(());
            }
            self.shared.pending.settled().await;
            self.shared.alive(&self.name)?;
            let shared = (*self.shared).clone();
            let flushed = detached(async move {
                let result = settle(shared.storage.flush()).await;
                if result.is_err() {
                    shared.ended.set(Some(Ended::FlushFailed));
                }
                result
            });
            flushed.await.map_err(|e| e.context(format!("cannot flush '{}'", self.name)))
        }))
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        Box::pin(SendWrapper::new(async move {
            self.changeable(0, len)?;
            let (old, sync) = (self.len(), self.sync);
            let full = match preallocation {
                Preallocation::Off => false,
                Preallocation::Full => true,
                Preallocation::Metadata | Preallocation::Falloc => {
                    let what = "space can only be reserved by writing it here (full)";
                    return Err(Error::unsupported(what));
                }
            };
            self.change(old.min(len), u64::MAX, |shared| async move {
                shared.truncate(len).await?;
                match full && len > old {
                    true => shared.zero(sync, old, len - old).await,
                    false => Ok(()),
                }
            })
            .await
        }))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        let extent = within(offset, len, self.len()).map(|()| {
            let host = HostRange { file: Arc::from(self.name.as_str()), offset };
            let flags = ExtentFlags::DATA | ExtentFlags::ALLOCATED;
            vec![Extent { start: offset, len, flags, depth: 0, host: Some(host) }]
        });
        Box::pin(ready(extent))
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        let allocated = self.shared.storage.allocated().map_err(|e| error::from_js(&e));
        Box::pin(ready(allocated.map(|allocated| DeviceInfo {
            driver: "file",
            filename: self.name.clone(),
            actual_size: (allocated >= 0.0).then_some(allocated as u64),
            ..DeviceInfo::default()
        })))
    }
}

impl fmt::Debug for HostDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostDevice").field("name", &self.name).finish_non_exhaustive()
    }
}
