//! What lasts from command to command: the open image and the requests in flight.

use super::super::failure::{Failure, reason};
use super::super::objects::Objects;
use super::super::output::{Program, complain, print, stands_in};
use super::disk::{self, Disk};
use futures_util::stream::{FuturesUnordered, Stream};
use sectora_core::Error;
use sectora_core::io::{BoxFuture, Runtime};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// It failed and has said so.
    Failed,
    /// The program cannot go on.
    Broken(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Broken(failure)
    }
}

/// How a command ends.
pub(super) type Done<T = ()> = Result<T, Stop>;

/// One run of the program.
pub(super) struct Session {
    pub(super) program: Program,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) disk: Option<Disk>,
    /// What `--object` made.
    pub(super) objects: Objects,
    /// Images are named by options.
    pub(super) image_opts: bool,
    /// The image is a node that others use too.
    pub(super) live: bool,
    /// Requests that run beside the commands. Each ends with what is to be printed of it.
    flights: FuturesUnordered<BoxFuture<'static, String>>,
}

impl Session {
    pub(super) fn new(
        program: Program,
        runtime: Arc<dyn Runtime>,
        objects: Objects,
        image_opts: bool,
    ) -> Self {
        let flights = FuturesUnordered::new();
        Self { program, runtime, disk: None, objects, image_opts, live: false, flights }
    }

    /// The same on a node of a daemon.
    pub(super) fn with_node(self, disk: Disk) -> Self {
        Self { disk: Some(disk), live: true, ..self }
    }

    /// Ends, and lets requests in flight go on.
    pub(super) fn leave(self) {
        let mut flights = self.flights;
        self.runtime.spawn(Box::pin(async move {
            while poll_fn(|cx| Pin::new(&mut flights).poll_next(cx)).await.is_some() {}
        }));
    }

    /// The open image.
    pub(super) fn disk(&self) -> Done<&Disk> {
        self.disk.as_ref().ok_or(Stop::Failed)
    }

    /// Waits for `work`. Requests in flight go on meanwhile, and are told of as they end.
    pub(super) async fn wait<T>(&mut self, work: impl Future<Output = T>) -> Done<T> {
        let mut work = pin!(work);
        loop {
            let flights = &mut self.flights;
            let landed = poll_fn(|cx| {
                if let Poll::Ready(result) = work.as_mut().poll(cx) {
                    return Poll::Ready(Ok(result));
                }
                match Pin::new(&mut *flights).poll_next(cx) {
                    Poll::Ready(Some(text)) => Poll::Ready(Err(text)),
                    _ => Poll::Pending,
                }
            });
            match landed.await {
                Ok(result) => return Ok(result),
                Err(text) => print(&text)?,
            }
        }
    }

    /// Starts a request that runs beside the commands.
    pub(super) async fn launch(&mut self, request: BoxFuture<'static, String>) {
        self.flights.push(request);
        // One look, so that it is under way; what is ready at once is told of later.
        let flights = &mut self.flights;
        let mut early = Vec::new();
        poll_fn(|cx| {
            while let Poll::Ready(Some(text)) = Pin::new(&mut *flights).poll_next(cx) {
                early.push(text);
            }
            Poll::Ready(())
        })
        .await;
        for text in early {
            self.flights.push(Box::pin(std::future::ready(text)));
        }
    }

    /// Waits for all requests in flight.
    pub(super) async fn land(&mut self) -> Done {
        let flights = &mut self.flights;
        while let Some(text) = poll_fn(|cx| Pin::new(&mut *flights).poll_next(cx)).await {
            print(&text)?;
        }
        Ok(())
    }

    /// Closes the image, where one is open. It is closed in any case; what fails is told.
    pub(super) async fn close(&mut self) -> Done {
        self.land().await?;
        let Some(disk) = self.disk.take() else { return Ok(()) };
        match disk.close().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.complain(&error.to_string())),
        }
    }

    /// A line on standard error, in the program's name.
    pub(super) fn complain(&self, text: &str) -> Stop {
        match self.live {
            // The program's name says nothing there.
            true => complain(text),
            false => complain(&format!("{}: {text}", self.program.name())),
        }
        Stop::Failed
    }

    /// Tells that a request failed.
    pub(super) fn failed(&self, doing: &str, error: &Error) -> Stop {
        let details = match &self.disk {
            Some(disk) => disk.details(error),
            None => disk::details(error),
        };
        if let Some(details) = details.filter(|_| !stands_in()) {
            let _ = self.complain(&details);
        }
        say(format!("{doing} failed: {}", reason(error)))
    }
}

/// A line on standard output that ends the command.
pub(super) fn say(line: impl Into<String>) -> Stop {
    let mut line = line.into();
    line.push('\n');
    match print(&line) {
        Ok(()) => Stop::Failed,
        Err(failure) => Stop::Broken(failure),
    }
}
