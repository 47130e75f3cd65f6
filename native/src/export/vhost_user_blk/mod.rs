//! A disk for a virtual machine, over a Unix socket (`vhost-user-blk`). The guest's memory is
//! shared: its requests are read where the guest has them, and their data are copied once.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `layout` | numbers of the protocol and of the device |
//! | `message` | messages and descriptors over the socket |
//! | `memory` | the guest's memory |
//! | `connection` | one frontend |
//! | `ring` | one queue |
//! | `request` | one request of the guest |
//!
//! A frontend is trusted as far as a file is: whatever it says, nothing outside of the memory that
//! it shares is touched, no request goes past the end of the disk, and what is in memory is bounded.
//! One that makes the file of its memory shorter ends the process (`SIGBUS`), as it does with every
//! backend.

mod connection;
mod layout;
mod memory;
mod message;
mod request;
mod ring;

use super::RemoveMode;
use layout::{Config, Features, MAX_QUEUES, SECTOR};
use sectora_core::io::{Aligned, Capabilities, Device};
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinHandle;

/// Data that all requests together may have in memory, in units of [`UNIT`].
const ROOM: u32 = (64 << 20) / UNIT as u32;

const UNIT: u64 = 4096;

/// So long a frontend may take to read what it is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a disk is shown; the schema's `BlockExportOptionsVhostUserBlk`.
#[derive(Clone, Debug)]
pub struct VhostUserBlkOptions {
    /// The length of its blocks in bytes: a power of two from 512 to 2 MiB.
    pub block_size: u32,
    /// How many queues it has, at least one.
    pub queues: u16,
    /// The driver may write.
    pub writable: bool,
    /// Every write is durable before it is told, whatever the driver wants.
    pub writethrough: bool,
}

impl Default for VhostUserBlkOptions {
    fn default() -> Self {
        Self { block_size: 512, queues: 1, writable: false, writethrough: false }
    }
}

impl VhostUserBlkOptions {
    /// Refuses what is not possible.
    ///
    /// # Errors
    /// `InvalidInput`, in QEMU's words.
    pub fn check(&self) -> Result<()> {
        let block = self.block_size;
        if !block.is_power_of_two() || !(512..=2 << 20).contains(&block) {
            return Err(Error::invalid(
                "parameter logical-block-size must be a power of 2 between 512 and 2097152",
            ));
        }
        if self.queues == 0 {
            return Err(Error::invalid("num-queues must be greater than 0"));
        }
        if self.queues > MAX_QUEUES {
            let most = format!("num-queues must not be greater than {MAX_QUEUES}");
            return Err(Error::invalid(most));
        }
        Ok(())
    }
}

/// What requests need of an export.
#[derive(Debug)]
struct Disk {
    device: Device,
    options: VhostUserBlkOptions,
    id: String,
    room: Semaphore,
    /// The driver flushes what has to be durable.
    writeback: AtomicBool,
    /// It can.
    flushes: AtomicBool,
}

impl Disk {
    fn is_writable(&self) -> bool {
        self.options.writable && self.device.capabilities().contains(Capabilities::WRITE)
    }

    fn is_writethrough(&self) -> bool {
        let trusts = self.writeback.load(Ordering::SeqCst) && self.flushes.load(Ordering::SeqCst);
        self.options.writethrough || !trusts
    }

    fn features(&self) -> Features {
        let mut features = Features::all();
        features.set(Features::RO, !self.is_writable());
        features
    }

    fn config(&self) -> Config {
        Config {
            capacity: self.device.len() / SECTOR,
            block_size: self.options.block_size,
            queues: self.options.queues,
            writeback: self.writeback.load(Ordering::SeqCst) && !self.options.writethrough,
        }
    }

    /// How much of a request goes to the device at a time, at most `most` bytes.
    fn piece(&self, most: u64) -> u64 {
        let max = u64::from(self.device.limits().max_transfer);
        most.min(max / UNIT * UNIT).max(UNIT)
    }

    /// Waits until so many bytes may be in memory.
    async fn room(&self, len: u64) -> Option<SemaphorePermit<'_>> {
        let units = u32::try_from(len.div_ceil(UNIT)).unwrap_or(ROOM).min(ROOM);
        // It is never closed.
        self.room.acquire_many(units).await.ok()
    }
}

/// An export over a Unix socket. One frontend is served at a time; the next one waits.
#[derive(Debug)]
pub struct VhostUserBlk {
    disk: Arc<Disk>,
    going: watch::Sender<bool>,
    len: watch::Sender<u64>,
    running: Mutex<Option<JoinHandle<()>>>,
}

impl VhostUserBlk {
    /// Serves `device` to whoever comes to `listener`.
    ///
    /// # Errors
    /// `InvalidInput` where the options are not possible.
    pub fn start(
        device: Device,
        options: VhostUserBlkOptions,
        listener: UnixListener,
    ) -> Result<Arc<Self>> {
        options.check()?;
        let device: Device = match u64::from(device.limits().request_alignment) > SECTOR {
            true => Arc::new(Aligned::new(device)),
            false => device,
        };
        let len = device.len();
        let disk = Arc::new(Disk {
            device,
            options,
            id: "vhost_user_blk".into(),
            room: Semaphore::new(ROOM as usize),
            writeback: AtomicBool::new(true),
            flushes: AtomicBool::new(false),
        });
        let export = Arc::new(Self {
            disk: disk.clone(),
            going: watch::Sender::new(false),
            len: watch::Sender::new(len),
            running: Mutex::default(),
        });
        let (going, len) = (export.going.subscribe(), export.len.subscribe());
        let running = tokio::spawn(listen(listener, disk, going, len));
        *export.running.lock() = Some(running);
        Ok(export)
    }

    /// Tells the frontend where the disk is longer or shorter than before.
    pub fn look(&self) {
        let now = self.disk.device.len();
        self.len.send_if_modified(|len| std::mem::replace(len, now) != now);
    }

    /// Serves no longer: requests under way are carried out, then the frontend loses its connection.
    /// A frontend that is connected does not keep an export from being removed, in either mode.
    pub async fn remove(&self, mode: RemoveMode) {
        let (RemoveMode::Safe | RemoveMode::Hard) = mode;
        self.going.send_replace(true);
        let running = self.running.lock().take();
        if let Some(running) = running {
            // It has panicked, which tells of itself.
            let _ = running.await;
        }
    }
}

async fn listen(
    listener: UnixListener,
    disk: Arc<Disk>,
    mut going: watch::Receiver<bool>,
    len: watch::Receiver<u64>,
) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connection::told(&mut going) => return,
        };
        match stream {
            Ok((stream, _)) => {
                disk.writeback.store(true, Ordering::SeqCst);
                disk.flushes.store(false, Ordering::SeqCst);
                // What a frontend did wrong is its own concern: it sees that the connection ends.
                let _ = connection::serve(stream, disk.clone(), going.clone(), len.clone()).await;
            }
            // No descriptors or no memory: others may give some back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
