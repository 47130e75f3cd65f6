//! Pipes, sockets and terminals: written in order, never at an offset.

use super::error::os;
use super::handle::pieces;
use super::threads;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use sectora_core::io::{BoxFuture, Segments, Sink};
use sectora_core::{Error, Result};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Something that takes bytes one after the other, such as standard output.
///
/// Writes happen in the order of their calls, each in one piece, on a thread: a reader that is slow
/// holds up nothing else. A write whose future is dropped once it has begun goes on to its end, and
/// the next waits for it; one dropped earlier has written nothing. After an error nothing is
/// written any more, as the reader has lost the thread.
#[derive(Clone, Debug)]
pub struct SequentialSink {
    name: Arc<str>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    file: File,
    written: u64,
    failed: Option<Errno>,
}

impl SequentialSink {
    /// A sink over an open file, called `name` in errors.
    #[must_use]
    pub fn new(file: File, name: &str) -> Self {
        let state = State { file, written: 0, failed: None };
        Self { name: Arc::from(name), state: Arc::new(Mutex::new(state)) }
    }

    /// Standard output.
    ///
    /// # Errors
    /// Where it is closed.
    pub fn stdout() -> Result<Self> {
        let name = "standard output";
        let file = std::io::stdout().as_fd().try_clone_to_owned();
        let file = file.map_err(|e| os(e, format!("cannot write to {name}")))?;
        Ok(Self::new(file.into(), name))
    }

    /// Writes all of `data`, after what was written before.
    ///
    /// # Errors
    /// What the system says; [`is_broken_pipe`](super::is_broken_pipe) tells a reader that went
    /// away from the rest.
    pub async fn write_all(&self, data: Segments) -> Result<()> {
        let mut state = self.state.clone().lock_owned().await;
        let call = threads::blocking(move || state.write_all(&data));
        match call.await {
            Some(Ok(())) => Ok(()),
            Some(Err(e)) => Err(os(e, format!("cannot write to {}", self.name))),
            None => Err(Error::bug(format!("a write to {} was lost", self.name))),
        }
    }

    /// How many bytes have been written.
    pub async fn written(&self) -> u64 {
        self.turn().await.written
    }

    async fn turn(&self) -> OwnedMutexGuard<State> {
        self.state.clone().lock_owned().await
    }
}

impl Sink for SequentialSink {
    fn write(&mut self, data: Segments) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.write_all(data))
    }
}

impl State {
    fn write_all(&mut self, data: &Segments) -> rustix::io::Result<()> {
        if let Some(errno) = self.failed {
            return Err(errno);
        }
        let mut done = 0;
        while done < data.len() {
            match rustix::io::writev(&self.file, &pieces(data, done)) {
                Ok(n) => {
                    done += n as u64;
                    self.written += n as u64;
                }
                Err(Errno::INTR) => {}
                // Somebody who shares the descriptor has made it non-blocking.
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&self.file, PollFlags::OUT)];
                    match poll(&mut fds, None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(e) => return Err(self.fail(e)),
                    }
                }
                Err(e) => return Err(self.fail(e)),
            }
        }
        Ok(())
    }

    fn fail(&mut self, errno: Errno) -> Errno {
        self.failed = Some(errno);
        errno
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::is_broken_pipe;
    use bytes::Bytes;
    use std::io::Read;
    use std::time::Duration;

    fn pipe() -> (File, SequentialSink) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (read.into(), SequentialSink::new(write.into(), "a pipe"))
    }

    #[tokio::test]
    async fn bytes_and_zeroes_arrive_in_order_through_a_small_pipe() {
        let (mut reader, sink) = pipe();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        let mut want = Vec::new();
        for i in 0..20_u8 {
            let mut data = Segments::from(Bytes::from(vec![i; 10_000]));
            data.push_zero(150_000);
            want.extend(data.to_vec());
            sink.write_all(data).await.unwrap();
        }
        assert_eq!(sink.written().await, want.len() as u64);
        drop(sink);
        assert!(reading.join().unwrap() == want);
    }

    #[tokio::test]
    async fn an_abandoned_write_ends_before_the_next_begins() {
        let (mut reader, sink) = pipe();
        let long = Segments::from(Bytes::from(vec![1; 1 << 20]));
        // The pipe is full long before, and nobody reads: the future is dropped in between.
        let dropped = tokio::time::timeout(Duration::from_millis(20), sink.write_all(long)).await;
        assert!(dropped.is_err());
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        sink.write_all(Segments::from(Bytes::from_static(b"end"))).await.unwrap();
        drop(sink);
        let all = reading.join().unwrap();
        assert_eq!(all.len(), (1 << 20) + 3);
        assert!(all.ends_with(b"\x01end"));
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_a_broken_pipe_for_good() {
        let (reader, sink) = pipe();
        drop(reader);
        for _ in 0..2 {
            let error = sink.write_all(Segments::zero(1)).await.unwrap_err();
            assert!(is_broken_pipe(&error), "{error}");
        }
    }
}
