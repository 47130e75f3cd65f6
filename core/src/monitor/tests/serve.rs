//! Sessions over streams.

use super::*;
use crate::io::Runtime;
use crate::nbd::Stream;
use crate::sync::Mutex;
use crate::{Error, Result};
use bytes::BytesMut;
use core::task::{Context, Poll};

/// Gives its input in pieces of three bytes, and takes its output in pieces of `most`.
struct Scripted {
    input: Vec<u8>,
    out: Arc<Mutex<Vec<u8>>>,
    most: usize,
}

impl Stream for Scripted {
    fn poll_read(&mut self, _: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>> {
        let n = self.input.len().min(3);
        into.extend_from_slice(&self.input[..n]);
        self.input.drain(..n);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>> {
        let n = parts[0].len().min(self.most);
        match n {
            0 => return Poll::Ready(Err(Error::io("gone"))),
            _ => self.out.lock().extend_from_slice(&parts[0][..n]),
        }
        Poll::Ready(Ok(n))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn run(input: &str, most: usize) -> (Result<Ended>, String) {
    let out = Arc::new(Mutex::new(Vec::new()));
    let stream = Scripted { input: input.into(), out: out.clone(), most };
    let simulated = SimRuntime::new(1);
    let runtime: Arc<dyn Runtime> = Arc::new(simulated.clone());
    let events = Events::new(runtime.clone());
    let subscription = events.subscribe();
    let ended =
        simulated.block_on(async move { serve(stream, session(), &subscription, &runtime).await });
    let text = String::from_utf8(out.lock().clone()).expect("ASCII");
    (ended, text)
}

#[test]
fn a_client_talks_and_goes() {
    let talk = r#"{"execute":"qmp_capabilities"}{"execute":"echo","arguments":{"a":1}}"#;
    let (ended, text) = run(talk, 5);
    assert_eq!(ended.unwrap(), Ended::Disconnected);
    assert!(text.ends_with("{\"return\": {}}\r\n{\"return\": {\"a\": 1}}\r\n"), "{text}");
    let (ended, text) = run(r#"{"execute":"qmp_capabilities"}{"execute":"quit"}{"execute":"#, 5);
    assert_eq!(ended.unwrap(), Ended::Quit);
    assert!(text.ends_with("{\"return\": {}}\r\n{\"return\": {}}\r\n"), "{text}");
    assert!(run(r#"{"execute":"qmp_capabilities"}"#, 0).0.is_err());
}
