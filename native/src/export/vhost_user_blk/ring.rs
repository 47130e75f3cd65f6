//! A queue at work: what the driver makes available is taken, carried out side by side, and given
//! back in whatever order it is done.

use super::Disk;
use super::connection::told;
use super::layout::MAX_QUEUE_SIZE;
use super::memory::Guest;
use super::request::Request;
use rustix::fd::OwnedFd;
use sectora_core::sync::Mutex;
use sectora_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;
use virtio_queue::{Queue, QueueOwnedT, QueueT};

/// What all queues of a connection have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) disk: Arc<Disk>,
    pub(super) guest: Mutex<Guest>,
    /// Told when a driver broke the rules; why is in `why`.
    pub(super) broken: Notify,
    pub(super) why: Mutex<Option<Error>>,
}

impl Common {
    fn fail(&self, error: Error) {
        self.why.lock().get_or_insert(error);
        self.broken.notify_one();
    }
}

/// One queue.
#[derive(Debug)]
pub(super) struct Ring {
    inner: Arc<Inner>,
    pub(super) enabled: bool,
    kick: Option<OwnedFd>,
    running: Option<(watch::Sender<bool>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Inner {
    common: Arc<Common>,
    queue: Mutex<Queue>,
    call: Mutex<Option<OwnedFd>>,
    /// A permit is a request that may be under way.
    free: Arc<Semaphore>,
}

impl Ring {
    pub(super) fn new(common: Arc<Common>) -> Result<Self> {
        let queue = Queue::new(MAX_QUEUE_SIZE);
        let queue = queue.map_err(|e| Error::bug(format!("a queue cannot be made: {e}")))?;
        let inner = Arc::new(Inner {
            common,
            queue: Mutex::new(queue),
            call: Mutex::default(),
            free: Arc::new(Semaphore::new(usize::from(MAX_QUEUE_SIZE))),
        });
        Ok(Self { inner, enabled: false, kick: None, running: None })
    }

    /// Sets how long the queue is: a power of two, at most [`MAX_QUEUE_SIZE`].
    pub(super) fn set_size(&self, size: u32) -> Result<()> {
        let size = u16::try_from(size).ok();
        let set = size.and_then(|size| self.inner.queue.lock().try_set_size(size).ok());
        set.ok_or_else(|| Error::invalid("a queue of such a length is not possible"))
    }

    /// Sets where the queue is, in the guest's addresses.
    pub(super) fn set_addresses(&self, descriptors: u64, available: u64, used: u64) -> Result<()> {
        let guest = self.inner.common.guest.lock().clone();
        let mut queue = self.inner.queue.lock();
        let wrong = |e| Error::invalid(format!("a queue cannot be there: {e}"));
        queue.try_set_desc_table_address(vm_memory::GuestAddress(descriptors)).map_err(wrong)?;
        queue.try_set_avail_ring_address(vm_memory::GuestAddress(available)).map_err(wrong)?;
        queue.try_set_used_ring_address(vm_memory::GuestAddress(used)).map_err(wrong)?;
        // Whoever used the queue before has left its mark there.
        let next = queue.used_idx(&*guest, Ordering::Acquire).map_err(wrong)?;
        queue.set_next_used(next.0);
        Ok(())
    }

    pub(super) fn set_base(&self, base: u16) {
        self.inner.queue.lock().set_next_avail(base);
    }

    pub(super) fn set_event_idx(&self, on: bool) {
        self.inner.queue.lock().set_event_idx(on);
    }

    pub(super) fn set_call(&self, fd: Option<OwnedFd>) -> Result<()> {
        if let Some(fd) = &fd {
            rustix::io::ioctl_fionbio(fd, true).map_err(descriptor)?;
        }
        *self.inner.call.lock() = fd;
        Ok(())
    }

    /// Sets how the driver says that there is something; the queue works then, if it is enabled.
    pub(super) async fn set_kick(&mut self, fd: OwnedFd) -> Result<()> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(descriptor)?;
        self.stop().await;
        self.kick = Some(fd);
        self.start()
    }

    /// Works where it is enabled and can.
    pub(super) fn start(&mut self) -> Result<()> {
        let Some(kick) = self.kick.as_ref().filter(|_| self.enabled && self.running.is_none())
        else {
            return Ok(());
        };
        let kick = kick.try_clone().map_err(|e| Error::io(format!("an event descriptor: {e}")))?;
        // SAFETY: an `OwnedFd` is open as long as it lives, and is always the same descriptor.
        let kick = unsafe { AsyncFd::register_with_interest(kick, Interest::READABLE) };
        let kick = kick.map_err(|e| Error::invalid(format!("an event descriptor: {e}")))?;
        let guest = self.inner.common.guest.lock().clone();
        {
            let mut queue = self.inner.queue.lock();
            queue.set_ready(true);
            if !queue.is_valid(&*guest) {
                queue.set_ready(false);
                return Err(Error::invalid("a queue is not within the guest's memory"));
            }
        }
        let (stop, stopped) = watch::channel(false);
        let inner = self.inner.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = inner.run(kick, stopped).await {
                inner.common.fail(error);
            }
        });
        self.running = Some((stop, task));
        Ok(())
    }

    /// Takes no more, and waits until nothing is under way. The next of the available chains.
    pub(super) async fn stop(&mut self) -> u16 {
        if let Some((stop, task)) = self.running.take() {
            stop.send_replace(true);
            // It has panicked, which tells of itself.
            let _ = task.await;
        }
        // None is missing when all are there; the semaphore is never closed.
        let _ = self.inner.free.acquire_many(u32::from(MAX_QUEUE_SIZE)).await;
        let mut queue = self.inner.queue.lock();
        queue.set_ready(false);
        queue.next_avail()
    }

    /// As after [`stop`](Self::stop), and the descriptors are let go of.
    pub(super) async fn rest(&mut self) -> u16 {
        let next = self.stop().await;
        self.kick = None;
        *self.inner.call.lock() = None;
        next
    }
}

fn descriptor(error: rustix::io::Errno) -> Error {
    Error::invalid(format!("an event descriptor: {error}"))
}

impl Inner {
    async fn run(
        self: &Arc<Self>,
        kick: AsyncFd<OwnedFd>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        loop {
            loop {
                // A driver that makes the same descriptors available again and again waits here.
                let permit = tokio::select! {
                    permit = self.free.clone().acquire_owned() => permit,
                    () = told(&mut stop) => return Ok(()),
                };
                let permit = permit.map_err(|_| Error::bug("the semaphore was closed"))?;
                let guest = self.common.guest.lock().clone();
                let Some(request) = self.take(&guest)? else { break };
                let this = self.clone();
                tokio::spawn(async move {
                    let head = request.head;
                    let done = request.run(&this.common.disk, &guest).await;
                    let given = done.and_then(|written| this.give_back(&guest, head, written));
                    if let Err(error) = given {
                        this.common.fail(error);
                    }
                    drop(permit);
                });
            }
            tokio::select! {
                ready = kick.readable() => {
                    let mut ready = ready.map_err(|e| Error::io(format!("a kick: {e}")))?;
                    let got = ready.try_io(|fd| {
                        let mut count = [0; 8];
                        Ok(rustix::io::read(fd, &mut count[..])?)
                    });
                    match got {
                        Ok(Ok(1..)) | Err(_) => {}
                        Ok(Ok(0)) => return Err(Error::invalid("a kick's descriptor has ended")),
                        Ok(Err(error)) => return Err(Error::io(format!("a kick: {error}"))),
                    }
                }
                () = told(&mut stop) => return Ok(()),
            }
        }
    }

    /// The next request; `None` where there is none and the driver will tell of the next.
    fn take(&self, guest: &Guest) -> Result<Option<Request>> {
        let mut queue = self.queue.lock();
        let wrong = |e| Error::invalid(format!("a queue cannot be used: {e}"));
        loop {
            let chain = queue.iter(guest.clone()).map_err(wrong)?.next();
            if let Some(chain) = chain {
                return Request::parse(chain, guest).map(Some);
            }
            if !queue.enable_notification(&**guest).map_err(wrong)? {
                return Ok(None);
            }
        }
    }

    fn give_back(&self, guest: &Guest, head: u16, written: u32) -> Result<()> {
        let wrong = |e| Error::invalid(format!("a queue cannot be used: {e}"));
        let wanted = {
            let mut queue = self.queue.lock();
            queue.add_used(&**guest, head, written).map_err(wrong)?;
            queue.needs_notification(&**guest).map_err(wrong)?
        };
        if let Some(call) = self.call.lock().as_ref().filter(|_| wanted) {
            // A count that is full is told already.
            let _ = rustix::io::write(call, &1_u64.to_ne_bytes());
        }
        Ok(())
    }
}
