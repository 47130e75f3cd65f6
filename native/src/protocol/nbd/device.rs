//! An export as a device.

use super::address::NbdOptions;
use super::link::{Command, Connected, Shared, can, establish, run};
use super::reply::Reply;
use crate::storage::settle::{Orphans, settling};
use crate::storage::solo::{self, Solo};
use sectora_core::io::{
    Access, BlockDevice, BoxFuture, Capabilities, DeviceInfo, Extent, ExtentFlags, Limits,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use sectora_core::nbd::client::{ExportInfo, longest_transfer};
use sectora_core::nbd::layout::{
    ALLOCATION_DEPTH, AllocationState, BASE_ALLOCATION, CommandFlags, TransmissionFlags, command,
};
use sectora_core::nbd::message::{Mode, Request};
use sectora_core::{Error, Result};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, sleep, timeout_at};

/// An export of an NBD server.
///
/// # Limits
/// - No request for data is longer than the server takes, 32 MiB at most; longer zero writes,
///   discards and questions for status are sent in pieces.
/// - The length cannot be changed.
/// - When the connection is lost, writes that were confirmed and not flushed may be lost with the
///   server: every later flush fails then. With a `reconnect_delay` the caller has asked to go on
///   regardless, as QEMU does.
#[derive(Debug)]
pub struct NbdDevice {
    shared: Arc<Shared>,
    orphans: Arc<Orphans>,
    /// Whether requests overlap; `None` where threads cannot wait for replies.
    solo: Option<Solo>,
    info: ExportInfo,
    mode: Mode,
    /// The context that status is taken from.
    context: Option<String>,
    limits: Limits,
    filename: String,
    writable: bool,
}

/// Zero writes, discards and status without extended headers go in pieces of this.
const PIECE: u64 = 1 << 30;

impl NbdDevice {
    /// Connects to an export. Must be called within a tokio runtime, whose task owns the
    /// connection.
    ///
    /// # Errors
    /// Those of the system and of the protocol; `Denied` where the export is read-only and
    /// `access` is not.
    pub async fn connect(options: &NbdOptions, access: Access) -> Result<Self> {
        let connected = first_connection(options).await?;
        let info = connected.info.clone();
        let read_only = can(&info, TransmissionFlags::READ_ONLY);
        if access == Access::ReadWrite && read_only {
            return Err(Error::denied("request on denied for read-only export"));
        }
        let minimum = info.block.map_or(1, |sizes| sizes.minimum);
        let limits = Limits {
            request_alignment: minimum,
            granularity: info.block.map_or(4096, |sizes| sizes.preferred).max(minimum),
            max_transfer: longest_transfer(info.block),
        };
        let shared = Arc::new(Shared::new());
        let device = Self {
            shared: shared.clone(),
            orphans: Arc::default(),
            solo: (connected.is_plain() && has_one_thread()).then(Solo::default),
            mode: connected.mode,
            context: connected.context.as_ref().map(|context| context.name.clone()),
            info,
            limits,
            filename: options.canonical(),
            writable: access == Access::ReadWrite,
        };
        drop(tokio::spawn(run(shared, connected, options.clone())));
        Ok(device)
    }

    /// What the server tells of the export.
    #[must_use]
    pub fn export(&self) -> &ExportInfo {
        &self.info
    }

    fn can(&self, flag: TransmissionFlags) -> bool {
        can(&self.info, flag)
    }

    fn check(&self, offset: u64, len: u64, write: bool) -> Result<()> {
        if write && !self.writable {
            return Err(Error::denied(format!("'{}' was opened read-only", self.filename)));
        }
        let size = self.info.size;
        if offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::invalid(format!(
                "request {offset:#x}+{len:#x} exceeds the device length {size:#x}"
            )));
        }
        let alignment = u64::from(self.limits.request_alignment);
        if !offset.is_multiple_of(alignment) || !len.is_multiple_of(alignment) {
            return Err(Error::invalid(format!(
                "request {offset:#x}+{len:#x} is not aligned to {alignment:#x}"
            )));
        }
        Ok(())
    }

    fn check_transfer(&self, offset: u64, len: u64, write: bool) -> Result<()> {
        self.check(offset, len, write)?;
        let most = u64::from(self.limits.max_transfer);
        match len > most {
            true => Err(Error::invalid(format!(
                "request {offset:#x}+{len:#x} is longer than {most:#x}"
            ))),
            false => Ok(()),
        }
    }

    /// Sends a request; completes with its reply.
    async fn ask(
        &self,
        (command, flags): (u16, CommandFlags),
        (offset, len): (u64, u64),
        payload: Segments,
    ) -> Result<Reply> {
        let changes = matches!(command, command::WRITE | command::WRITE_ZEROES | command::TRIM);
        let range = offset..offset + len;
        if changes {
            self.orphans.settled(range.clone()).await;
        }
        let (done, settling) = settling(changes.then(|| (self.orphans.clone(), range)));
        let request = Request { flags, command, cookie: 0, offset, len };
        let turn = self.solo.as_ref().map(Solo::enter);
        let is_alone = turn.as_ref().is_some_and(|turn| turn.is_alone);
        let waits = is_alone && len <= solo::MAX_WAIT && solo::thread_may_wait();
        let command = Command { request, payload, done };
        if waits {
            self.shared.put(command);
            self.shared.drive(|| settling.is_settled());
        } else {
            self.shared.submit(command);
        }
        match settling.await {
            Some(result) => result,
            None => Err(Error::io(format!("the connection to '{}' has ended", self.filename))),
        }
    }

    /// The same for a long range, in pieces.
    async fn ask_each(&self, what: (u16, CommandFlags), offset: u64, len: u64) -> Result<()> {
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let piece = (end - at).min(PIECE);
            self.ask(what, (at, piece), Segments::new()).await?;
            at += piece;
        }
        Ok(())
    }

    async fn flush_now(&self) -> Result<()> {
        self.orphans.settled(0..u64::MAX).await;
        let lost = || {
            Error::io(format!("writes to '{}' may be lost: an earlier flush failed", self.filename))
        };
        if self.shared.lost.load(Ordering::SeqCst) {
            return Err(lost());
        }
        // What is confirmed from now on is for the next flush.
        let dirty = self.shared.dirty.swap(false, Ordering::SeqCst);
        if !self.can(TransmissionFlags::SEND_FLUSH) {
            return Ok(());
        }
        let none = CommandFlags::empty();
        match self.ask((command::FLUSH, none), (0, 0), Segments::new()).await {
            Ok(_) if self.shared.lost.load(Ordering::SeqCst) => Err(lost()),
            Ok(_) => Ok(()),
            Err(error) => {
                if dirty || self.writable {
                    self.shared.lost.store(true, Ordering::SeqCst);
                }
                Err(error)
            }
        }
    }

    /// Writes zero bytes, where the server knows nothing better.
    async fn write_zero_bytes(&self, offset: u64, len: u64) -> Result<()> {
        let most = u64::from(self.limits.max_transfer);
        let most = most - most % u64::from(self.limits.request_alignment);
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let piece = (end - at).min(most);
            let what = (command::WRITE, CommandFlags::empty());
            self.ask(what, (at, piece), Segments::zero(piece)).await?;
            at += piece;
        }
        Ok(())
    }

    async fn status(&self, offset: u64, len: u64) -> Result<Vec<Extent>> {
        let whole = |flags| Extent { start: offset, len, flags, depth: 0, host: None };
        let Some(context) = &self.context else {
            return Ok(vec![whole(ExtentFlags::DATA | ExtentFlags::ALLOCATED)]);
        };
        let len = match self.mode {
            Mode::Extended => len,
            _ => len.min(PIECE),
        };
        let what = (command::BLOCK_STATUS, CommandFlags::empty());
        let extents = match self.ask(what, (offset, len), Segments::new()).await? {
            Reply::Status(extents) => extents,
            other => return Err(Error::bug(format!("{other:?} in reply to a status request"))),
        };
        let (mut at, end) = (offset, offset + len);
        let mut out: Vec<Extent> = Vec::new();
        for (len, state) in extents {
            if at >= end {
                break;
            }
            // The last one may reach beyond what was asked for.
            let len = len.min(end - at);
            let extent =
                Extent { start: at, len, flags: meaning(context, state), depth: 0, host: None };
            at += len;
            let rest = match out.last_mut() {
                Some(last) => last.merge(extent),
                None => Some(extent),
            };
            out.extend(rest);
        }
        Ok(out)
    }
}

/// What a state in a context means for an extent.
fn meaning(context: &str, state: u64) -> ExtentFlags {
    let mut flags = ExtentFlags::empty();
    // Depths and bitmaps are shown as holes and zeroes, as QEMU does for this experimental option.
    let state = match context {
        ALLOCATION_DEPTH => state.min(2),
        BASE_ALLOCATION => state,
        _ => state & 1,
    };
    let state = AllocationState::from_bits_truncate(state);
    flags.set(ExtentFlags::DATA, !state.contains(AllocationState::HOLE));
    flags.set(ExtentFlags::ZERO, state.contains(AllocationState::ZERO));
    // A hole in a bitmap is no place at all; one in the allocation still has contents.
    flags.set(ExtentFlags::ALLOCATED, context == BASE_ALLOCATION || !flags.is_empty());
    flags
}

/// True where tasks of this runtime run on one thread only: while that waits for a reply nobody
/// else is woken by it.
fn has_one_thread() -> bool {
    Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread
}

async fn first_connection(options: &NbdOptions) -> Result<Connected> {
    if options.open_timeout.is_zero() {
        return establish(options).await;
    }
    let deadline = Instant::now() + options.open_timeout;
    let mut last = None;
    loop {
        match timeout_at(deadline, establish(options)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            return Err(last.unwrap_or_else(|| {
                Error::io(format!("no answer from '{}' in time", options.server))
            }));
        }
        sleep((deadline - Instant::now()).min(Duration::from_millis(250))).await;
    }
}

impl Drop for NbdDevice {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl BlockDevice for NbdDevice {
    fn len(&self) -> u64 {
        self.info.size
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::empty();
        can.set(Capabilities::WRITE, self.writable);
        let zero = self.writable && self.can(TransmissionFlags::SEND_WRITE_ZEROES);
        can.set(Capabilities::FAST_ZERO, zero);
        can
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        Box::pin(async move {
            self.check_transfer(offset, len, false)?;
            if len == 0 {
                return Ok(Segments::new());
            }
            let what = (command::READ, CommandFlags::empty());
            match self.ask(what, (offset, len), Segments::new()).await? {
                Reply::Data(data) => Ok(data),
                other => Err(Error::bug(format!("{other:?} in reply to a read"))),
            }
        })
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let len = data.len();
            if flags.contains(WriteFlags::COMPRESSED) {
                return Err(Error::unsupported("compressed writes over NBD are not supported"));
            }
            self.check_transfer(offset, len, true)?;
            if len == 0 {
                return Ok(());
            }
            let mut how = CommandFlags::empty();
            let fua = flags.contains(WriteFlags::FUA);
            let native = self.can(TransmissionFlags::SEND_FUA);
            how.set(CommandFlags::FUA, fua && native);
            self.ask((command::WRITE, how), (offset, len), data).await?;
            if fua && !native {
                self.flush_now().await?;
            }
            Ok(())
        })
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check(offset, len, true)?;
            let fast = flags.contains(ZeroFlags::NO_FALLBACK);
            let zeroes = self.can(TransmissionFlags::SEND_WRITE_ZEROES);
            if fast && !(zeroes && self.can(TransmissionFlags::SEND_FAST_ZERO)) {
                return Err(Error::unsupported("the server has no fast way to write zeroes"));
            }
            if !zeroes {
                return self.write_zero_bytes(offset, len).await;
            }
            let mut how = CommandFlags::empty();
            how.set(CommandFlags::NO_HOLE, !flags.contains(ZeroFlags::MAY_UNMAP));
            how.set(CommandFlags::FAST_ZERO, fast);
            self.ask_each((command::WRITE_ZEROES, how), offset, len).await
        })
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.check(offset, len, true)?;
            match self.can(TransmissionFlags::SEND_TRIM) {
                true => self.ask_each((command::TRIM, CommandFlags::empty()), offset, len).await,
                // What was there may stay.
                false => Ok(()),
            }
        })
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.flush_now())
    }

    fn set_len(&self, len: u64, _: Preallocation) -> BoxFuture<'_, Result<()>> {
        let result = match (self.writable, len == self.info.size) {
            (false, _) => Err(Error::denied(format!("'{}' was opened read-only", self.filename))),
            (true, true) => Ok(()),
            (true, false) => Err(Error::unsupported("Cannot resize NBD nodes")),
        };
        Box::pin(ready(result))
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        Box::pin(async move {
            self.check(offset, len, false)?;
            if len == 0 {
                return Ok(Vec::new());
            }
            self.status(offset, len).await
        })
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        let filename = self.filename.clone();
        Box::pin(ready(Ok(DeviceInfo { driver: "nbd", filename, ..DeviceInfo::default() })))
    }
}
