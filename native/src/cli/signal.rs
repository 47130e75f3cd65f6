//! Signals: stop cleanly, and tell how far the work is.

use super::failure::{Failure, Outcome};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs `work` until it is done or a signal asks to stop. What it was doing is dropped then, and
/// with it everything that has no final name yet.
pub(super) async fn interruptible(work: impl Future<Output = Outcome>) -> Outcome {
    // Where signals cannot be caught they end the process, as they always did.
    let mut stops: Vec<(Signal, &str, u8)> =
        [(SignalKind::interrupt(), "SIGINT", 130), (SignalKind::terminate(), "SIGTERM", 143)]
            .into_iter()
            .filter_map(|(kind, name, code)| Some((signal(kind).ok()?, name, code)))
            .collect();
    let mut work = pin!(work);
    poll_fn(|cx| {
        for (stop, name, code) in &mut stops {
            if let Poll::Ready(Some(())) = stop.poll_recv(cx) {
                return Poll::Ready(Err(Failure::stopped(name, *code)));
            }
        }
        work.as_mut().poll(cx)
    })
    .await
}

/// Calls `tell` each time somebody asks by SIGUSR1. Ends with the runtime.
pub(super) fn on_user_signal(tell: impl Fn() + Send + 'static) {
    if let Ok(mut asked) = signal(SignalKind::user_defined1()) {
        tokio::spawn(async move {
            while asked.recv().await.is_some() {
                tell();
            }
        });
    }
}

/// The signals that end a server the way its own end does.
pub(super) struct Endings(Vec<Signal>);

impl Endings {
    pub(super) fn new() -> Self {
        // One that cannot be caught ends the process, as it always did.
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        Self(kinds.into_iter().filter_map(|kind| signal(kind).ok()).collect())
    }

    /// Completes when one of them has come.
    pub(super) async fn any(&mut self) {
        poll_fn(|cx| match self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}
