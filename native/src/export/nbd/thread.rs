//! A connection on a thread of its own.
//!
//! Where nothing but the client can give it something to do the thread waits in the read itself:
//! a request that is answered from memory costs three system calls (read it, read the page cache,
//! write the reply) and no other thread is woken. With requests in flight it waits for the socket
//! and for whoever completes them, in one `poll`.
//!
//! Devices are used as from any task: the thread is inside the runtime the server runs in.

use super::socket::{Hangup, ThreadSocket};
use crate::storage::let_thread_wait;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fd::OwnedFd;
use sectora_core::nbd::server::{End, Serving, Session};
use sectora_core::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::JoinHandle;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// So many connections have threads at the same time; the others are tasks.
const MAX_THREADS: usize = 64;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Room for a thread, until dropped.
#[derive(Debug)]
pub(super) struct Room(());

impl Room {
    /// `None` where all are taken.
    pub(super) fn take() -> Option<Self> {
        let taken = THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            (n < MAX_THREADS).then_some(n + 1)
        });
        taken.is_ok().then(|| Self(()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that is served on a thread. Dropped, it ends the connection, and with it what is
/// in flight, and waits for the thread to end.
#[derive(Debug)]
pub(super) struct Served {
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Result<End>>,
    stop: Arc<Stop>,
}

#[derive(Debug)]
struct Stop {
    asked: AtomicBool,
    hangup: Hangup,
    bell: Arc<Bell>,
}

impl Served {
    /// Starts to serve.
    ///
    /// # Errors
    /// Where the system has no thread or descriptor to give.
    pub(super) fn start(session: Session<ThreadSocket>, room: Room) -> Result<Self> {
        let cannot = |e| Error::io(format!("cannot start a thread for a connection: {e}"));
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(Bell {
            state: AtomicU8::new(AWAKE),
            event: bell.map_err(|e| cannot(e.into()))?,
        });
        let hangup = session.stream().hangup();
        let stop = Arc::new(Stop { asked: AtomicBool::new(false), hangup, bell: bell.clone() });
        let (tell, ended) = oneshot::channel();
        let (runtime, asked) = (Handle::current(), stop.clone());
        let serve = move || {
            let _room = room;
            let _inside = runtime.enter();
            let_thread_wait();
            let end = run(session, &bell, &asked.asked);
            // Nobody wants to know where the connection was to end.
            let _ = tell.send(end);
        };
        let thread = std::thread::Builder::new().name("sectora-nbd".to_owned()).spawn(serve);
        Ok(Self { thread: Some(thread.map_err(cannot)?), ended, stop })
    }

    /// Completes when the connection has ended.
    pub(super) async fn ended(&mut self) -> Result<End> {
        let lost = |_| Error::bug("the thread of a connection was lost");
        (&mut self.ended).await.map_err(lost)?
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::SeqCst);
        self.stop.hangup.hang_up();
        self.stop.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic there has been told of by the missing end.
            let _ = thread.join();
        }
    }
}

/// Serves a connection on this thread.
fn run(session: Session<ThreadSocket>, bell: &Arc<Bell>, asked: &AtomicBool) -> Result<End> {
    let waker = Waker::from(bell.clone());
    let mut cx = Context::from_waker(&waker);
    let mut serving = Serving::new(session);
    let mut arrived = true;
    loop {
        bell.wake_up();
        serving.stream().begin(arrived);
        if let Poll::Ready(end) = serving.poll(&mut cx) {
            return end;
        }
        if asked.load(Ordering::SeqCst) {
            return Ok(End::Disconnected);
        }
        if serving.is_idle() {
            serving.stream().wait_for_bytes();
            arrived = false;
        } else {
            serving.stream().rest();
            arrived = bell.sleep(serving.stream());
        }
    }
}

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const RUNG: u8 = 2;

/// Wakes the thread where it waits for more than bytes.
#[derive(Debug)]
struct Bell {
    state: AtomicU8,
    event: OwnedFd,
}

impl Bell {
    fn ring(&self) {
        if self.state.swap(RUNG, Ordering::SeqCst) == ASLEEP {
            // Full is as good as rung.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }

    /// What rings from here on is heard by the next [`sleep`](Self::sleep).
    fn wake_up(&self) {
        self.state.store(AWAKE, Ordering::SeqCst);
    }

    /// Waits until it was rung, or the socket is as wanted; true where there may be bytes.
    fn sleep(&self, socket: &ThreadSocket) -> bool {
        let wanted = socket.wanted();
        let asleep = self.state.compare_exchange(AWAKE, ASLEEP, Ordering::SeqCst, Ordering::SeqCst);
        if asleep.is_err() {
            return false;
        }
        let bell = PollFd::new(&self.event, PollFlags::IN);
        // A socket nobody wants anything of would wake the thread again and again once the client
        // is gone.
        let mut both = [bell, PollFd::new(socket, wanted)];
        let count = if wanted.is_empty() { 1 } else { 2 };
        // Nothing but an interruption can go wrong, and then there is a look too many.
        let _ = poll(&mut both[..count], None);
        if !both[0].revents().is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        let found = if count == 2 { both[1].revents() } else { PollFlags::empty() };
        !(found - PollFlags::OUT).is_empty()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
