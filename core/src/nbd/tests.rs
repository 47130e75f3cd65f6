//! Messages by byte builder, and both sides over a pipe in memory.

use super::client::{Client, Greeted, greet};
use super::layout::{
    ALLOCATION_DEPTH, BASE_ALLOCATION, CommandFlags, MAX_PAYLOAD, TransmissionFlags, chunk,
    command, errno,
};
use super::message::{
    ChunkBody, Mode, ReplyHeader, Request, chunk_header, error_kind, error_number, simple_reply,
    status_payload,
};
use super::server::{End, Next, Tls, negotiate, serve};
use super::{Channel, Export, ExportOptions, Stream};
use crate::io::testing::SimRuntime;
use crate::io::{Device, MemoryDevice, Segments, WriteFlags};
use crate::sync::Mutex;
use crate::{ErrorKind, Result};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::{BufMut, BytesMut};
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};
use futures_util::future::join;

#[derive(Debug, Default)]
struct Half {
    bytes: BytesMut,
    closed: bool,
    waker: Option<Waker>,
}

/// One end of a pipe in memory that moves a few bytes at a time.
#[derive(Debug)]
struct Pipe {
    incoming: Arc<Mutex<Half>>,
    outgoing: Arc<Mutex<Half>>,
}

/// So many bytes wait in a pipe at most.
const ROOM: usize = 700;

fn pipe() -> (Pipe, Pipe) {
    let (a, b) = (Arc::new(Mutex::default()), Arc::new(Mutex::default()));
    (Pipe { incoming: a.clone(), outgoing: b.clone() }, Pipe { incoming: b, outgoing: a })
}

fn wake(half: &mut Half) {
    if let Some(waker) = half.waker.take() {
        waker.wake();
    }
}

impl Stream for Pipe {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>> {
        let mut half = self.incoming.lock();
        if half.bytes.is_empty() {
            if half.closed {
                return Poll::Ready(Ok(0));
            }
            half.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = half.bytes.len().min(97);
        into.extend_from_slice(&half.bytes.split_to(n));
        wake(&mut half);
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>> {
        let mut half = self.outgoing.lock();
        if half.closed {
            return Poll::Ready(Err(crate::Error::io("the pipe is closed")));
        }
        let room = ROOM.saturating_sub(half.bytes.len());
        if room == 0 {
            half.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut wrote = 0;
        for part in parts {
            let n = part.len().min(room - wrote);
            half.bytes.extend_from_slice(&part[..n]);
            wrote += n;
        }
        wake(&mut half);
        Poll::Ready(Ok(wrote))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        let mut half = self.outgoing.lock();
        half.closed = true;
        wake(&mut half);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        for half in [&self.incoming, &self.outgoing] {
            let mut half = half.lock();
            half.closed = true;
            wake(&mut half);
        }
    }
}

fn sample() -> Request {
    Request {
        flags: CommandFlags::FUA | CommandFlags::NO_HOLE,
        command: command::WRITE_ZEROES,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1122_3344_5566_7788,
        len: 0x99aa_bbcc,
    }
}

#[test]
fn requests_round_trip_and_are_the_specifications_bytes() {
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let mut out = BytesMut::new();
        sample().encode(mode, &mut out);
        assert_eq!(out.len(), mode.request_len());
        assert_eq!(Request::decode(mode, &out).unwrap(), sample());
        for len in 0..out.len() {
            assert_eq!(Request::decode(mode, &out[..len]).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        out[0] ^= 1;
        assert_eq!(Request::decode(mode, &out).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let mut out = BytesMut::new();
    sample().encode(Mode::Simple, &mut out);
    let mut want = vec![0x25, 0x60, 0x95, 0x13, 0, 3, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8];
    want.extend([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc]);
    assert_eq!(out[..], want[..]);
}

#[test]
fn payloads_are_bounded_before_they_are_read() {
    let write = |len| Request { command: command::WRITE, len, ..sample() };
    assert_eq!(write(MAX_PAYLOAD).payload_len(Mode::Simple).unwrap() as u64, MAX_PAYLOAD);
    assert_eq!(
        write(MAX_PAYLOAD + 1).payload_len(Mode::Simple).unwrap_err().kind(),
        ErrorKind::Limit
    );
    assert_eq!(write(u64::MAX).payload_len(Mode::Extended).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(sample().payload_len(Mode::Extended).unwrap(), 0);
    let flags = CommandFlags::PAYLOAD_LEN;
    let status = Request { flags, command: command::BLOCK_STATUS, len: 12, ..sample() };
    assert_eq!(status.payload_len(Mode::Extended).unwrap(), 12);
    assert_eq!(status.payload_len(Mode::Structured).unwrap(), 0);
}

#[test]
fn reply_headers_round_trip_and_belong_to_a_mode() {
    let mut out = BytesMut::new();
    simple_reply(&mut out, 7, errno::EIO);
    let want = ReplyHeader::Simple { error: errno::EIO, cookie: 7 };
    for mode in [Mode::Simple, Mode::Structured] {
        assert_eq!(ReplyHeader::decode(mode, &out).unwrap(), Some((want, 16)));
        for len in 0..16 {
            assert_eq!(ReplyHeader::decode(mode, &out[..len]).unwrap(), None);
        }
    }
    assert!(ReplyHeader::decode(Mode::Extended, &out).is_err());
    for (mode, len) in [(Mode::Structured, 20), (Mode::Extended, 32)] {
        let mut out = BytesMut::new();
        chunk_header(&mut out, mode, (true, chunk::OFFSET_DATA), (7, 9), 100);
        let want = ReplyHeader::Chunk { done: true, kind: chunk::OFFSET_DATA, cookie: 7, len: 100 };
        assert_eq!(ReplyHeader::decode(mode, &out).unwrap(), Some((want, len)));
        assert!(ReplyHeader::decode(Mode::Simple, &out).is_err());
        let mut out = BytesMut::new();
        chunk_header(&mut out, mode, (true, chunk::OFFSET_DATA), (7, 9), MAX_PAYLOAD + 17);
        assert_eq!(ReplyHeader::decode(mode, &out).unwrap_err().kind(), ErrorKind::Limit);
    }
}

#[test]
fn chunks_that_break_a_rule_are_refused() {
    let data = |bytes: &[u8]| [&[0; 8], bytes].concat();
    assert_eq!(
        ChunkBody::decode(chunk::OFFSET_DATA, &data(b"x")).unwrap(),
        ChunkBody::Data { offset: 0 }
    );
    assert_eq!(
        ChunkBody::decode(chunk::OFFSET_HOLE, &data(&[0, 0, 0, 5])).unwrap(),
        ChunkBody::Hole { offset: 0, len: 5 }
    );
    let status = [0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 3];
    assert_eq!(
        ChunkBody::decode(chunk::BLOCK_STATUS, &status).unwrap(),
        ChunkBody::Status { context: 1, extents: vec![(9, 3)] }
    );
    let error = [0, 0, 0, 5, 0, 2, b'n', b'o'];
    assert_eq!(
        ChunkBody::decode(chunk::ERROR, &error).unwrap(),
        ChunkBody::Error { error: 5, message: "no".into() }
    );
    for (kind, bytes) in [
        (chunk::NONE, vec![0]),
        (chunk::OFFSET_DATA, data(b"")),
        (chunk::OFFSET_DATA, vec![0; 7]),
        (chunk::OFFSET_HOLE, data(&[0; 4])),
        (chunk::OFFSET_HOLE, data(&[0, 0, 0, 1, 0])),
        (chunk::BLOCK_STATUS, vec![0; 4]),
        (chunk::BLOCK_STATUS, vec![0; 12]),
        (chunk::BLOCK_STATUS, status[..11].to_vec()),
        (chunk::BLOCK_STATUS_EXT, vec![0; 8]),
        (chunk::BLOCK_STATUS_EXT, [&[0, 0, 0, 1, 0, 0, 0, 2], &[1; 16][..]].concat()),
        (chunk::ERROR, vec![0, 0, 0, 0, 0, 0]),
        (chunk::ERROR, vec![0, 0, 0, 5, 0, 1]),
        (chunk::ERROR, vec![0, 0, 0, 5]),
        (99, vec![]),
    ] {
        let error = ChunkBody::decode(kind, &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{kind} {bytes:x?}");
    }
    let (len, ids) = status_payload(&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1]).unwrap();
    assert_eq!((len, ids), (9, vec![1]));
    for wrong in [&[0; 7][..], &[0; 9], &[0; 8 + 4 * 300]] {
        assert!(status_payload(wrong).is_err());
    }
}

#[test]
fn errors_keep_their_meaning_over_the_wire() {
    for kind in [
        ErrorKind::Io,
        ErrorKind::Denied,
        ErrorKind::InvalidInput,
        ErrorKind::NoSpace,
        ErrorKind::Unsupported,
        ErrorKind::Limit,
    ] {
        assert_eq!(error_kind(error_number(kind)).0, kind);
    }
    assert_eq!(error_kind(12345).0, ErrorKind::InvalidInput);
}

fn exports() -> Vec<Arc<Export>> {
    let device: Device = Arc::new(MemoryDevice::new(256 << 10));
    let options = ExportOptions {
        description: Some("what it is".into()),
        allocation_depth: true,
        discard: true,
        ..ExportOptions::default()
    };
    let second = ExportOptions { read_only: true, shared: true, ..ExportOptions::default() };
    vec![
        Arc::new(Export::new("one", device.clone(), options).unwrap()),
        Arc::new(Export::new("two", device, second).unwrap()),
    ]
}

/// Runs a client against a server over a pipe.
fn together<T>(
    exports: &[Arc<Export>],
    client: impl AsyncFnOnce(Client<Pipe>) -> T,
) -> (T, Result<End>) {
    let (ours, theirs) = pipe();
    let server = async {
        match negotiate(theirs, exports, Tls::Off, None).await? {
            Next::Serve(session) => serve(*session).await,
            Next::Left => Ok(End::Disconnected),
            Next::StartTls(..) => unreachable!("there is no encryption"),
        }
    };
    let client = async {
        match greet(ours).await.unwrap() {
            Greeted::Newstyle(greeted) => client(greeted).await,
            Greeted::Oldstyle(..) => unreachable!("our server negotiates"),
        }
    };
    SimRuntime::new(1).block_on(join(client, server))
}

#[test]
fn exports_are_listed_described_and_opened() {
    let exports = exports();
    let ((), end) = together(&exports, async |mut client| {
        assert_eq!(client.choose_mode(Mode::Structured).await.unwrap(), Mode::Structured);
        let found = client.list().await.unwrap();
        assert_eq!(found, [("one".into(), "what it is".into()), ("two".into(), "".into())]);
        let one = client.info("one").await.unwrap().unwrap();
        assert_eq!(one.size, 256 << 10);
        assert_eq!(one.description.as_deref(), Some("what it is"));
        assert_eq!(one.name.as_deref(), Some("one"));
        let writable = TransmissionFlags::SEND_TRIM | TransmissionFlags::SEND_WRITE_ZEROES;
        assert!(one.flags.contains(writable));
        let two = client.info("two").await.unwrap().unwrap();
        assert!(
            two.flags.contains(TransmissionFlags::READ_ONLY | TransmissionFlags::CAN_MULTI_CONN)
        );
        assert!(!two.flags.intersects(writable));
        assert_eq!(client.info("three").await.unwrap_err().kind(), ErrorKind::NotFound);
        let all = client.list_contexts("one", &[]).await.unwrap();
        let names: Vec<_> = all.iter().map(|context| context.name.as_str()).collect();
        assert_eq!(names, [BASE_ALLOCATION, ALLOCATION_DEPTH]);
        for (queries, count) in [(["qemu:"], 1), (["base:"], 1), (["qemu:dirty-bitmap:"], 0)] {
            assert_eq!(client.list_contexts("one", &queries).await.unwrap().len(), count);
            // A namespace is not chosen as a whole.
            assert_eq!(client.set_contexts("one", &queries).await.unwrap().len(), 0);
        }
        client.abort().await;
    });
    assert_eq!(end.unwrap(), End::Disconnected);
}

/// The bytes of the whole reply to a request.
async fn ask(channel: &mut Channel<Pipe>, mode: Mode, request: &Request, data: &[u8]) -> Vec<u8> {
    channel.put_request(request, mode);
    channel.put_data(&Segments::from(data.to_vec()));
    channel.send().await.unwrap();
    let mut all = Vec::new();
    loop {
        let (header, len) = loop {
            if let Some(found) = ReplyHeader::decode(mode, channel.arrived()).unwrap() {
                break found;
            }
            let more = channel.arrived().len() + 1;
            assert!(poll_fn(|cx| channel.poll_fill(cx, more)).await.unwrap());
        };
        let (done, payload) = match header {
            ReplyHeader::Simple { error: 0, .. } if request.command == command::READ => {
                (true, request.len as usize)
            }
            ReplyHeader::Simple { .. } => (true, 0),
            ReplyHeader::Chunk { done, len, .. } => (done, len),
        };
        all.extend_from_slice(&channel.read(len + payload).await.unwrap());
        if done {
            return all;
        }
    }
}

#[test]
fn every_mode_reads_what_was_written() {
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let exports = exports();
        let device = exports[0].device().clone();
        let ((), end) = together(&exports, async |mut client| {
            assert_eq!(client.choose_mode(mode).await.unwrap(), mode);
            let contexts = client.set_contexts("one", &[BASE_ALLOCATION, "no:such"]).await.unwrap();
            assert_eq!(contexts.len(), usize::from(mode != Mode::Simple));
            let (mut channel, _) = client.go("one").await.unwrap();
            let flags = CommandFlags::empty();
            let write =
                Request { flags, command: command::WRITE, cookie: 5, offset: 4096, len: 8192 };
            let done = ask(&mut channel, mode, &write, &[9; 8192]).await;
            let mut want = BytesMut::new();
            match mode {
                Mode::Extended => {
                    chunk_header(&mut want, mode, (true, chunk::NONE), (5, 4096), 0);
                }
                _ => simple_reply(&mut want, 5, 0),
            }
            assert_eq!(done, want);
            let read = Request { command: command::READ, offset: 8192, len: 8192, ..write };
            let got = ask(&mut channel, mode, &read, &[]).await;
            assert_eq!(got.iter().filter(|byte| **byte == 9).count() / 4096, 1);
            // One piece, where the client wants it whole.
            if mode != Mode::Simple {
                let whole = Request { flags: CommandFlags::DF, ..read };
                let got = ask(&mut channel, mode, &whole, &[]).await;
                let header = if mode == Mode::Extended { 32 } else { 20 };
                assert_eq!(got.len(), header + 8 + 8192);
                let status =
                    Request { command: command::BLOCK_STATUS, offset: 0, len: 256 << 10, ..write };
                let got = ask(&mut channel, mode, &status, &[]).await;
                assert!(got.len() >= header + 4 + 8);
            }
            let bad = Request { command: command::READ, offset: 256 << 10, len: 1, ..write };
            let got = ask(&mut channel, mode, &bad, &[]).await;
            assert!(got.windows(4).any(|w| w == errno::EINVAL.to_be_bytes()));
            let leave = Request { command: command::DISC, len: 0, ..write };
            channel.put_request(&leave, mode);
            channel.send().await.unwrap();
        });
        assert_eq!(end.unwrap(), End::Disconnected);
        let held = SimRuntime::new(1).block_on(device.read(4096, 8192)).unwrap();
        assert_eq!(held.to_vec(), vec![9; 8192]);
    }
}

#[test]
fn a_client_that_hangs_up_ends_the_connection_only() {
    let exports = exports();
    let ((), end) = together(&exports, async |client| {
        drop(client.go("two").await.unwrap());
    });
    assert_eq!(end.unwrap(), End::Closed);
    let ((), end) = together(&exports, async |client| {
        let (mut channel, _) = client.go("one").await.unwrap();
        channel.head().put_slice(&[1; 40]);
        let _ = channel.send().await;
    });
    assert_eq!(end.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn nothing_is_told_before_encryption_where_it_is_demanded() {
    let exports = exports();
    let (ours, theirs) = pipe();
    let server = negotiate(theirs, &exports, Tls::Required, None);
    let client = async {
        let Greeted::Newstyle(mut client) = greet(ours).await.unwrap() else { unreachable!() };
        assert_eq!(client.list().await.unwrap_err().kind(), ErrorKind::Denied);
        assert_eq!(client.info("one").await.unwrap_err().kind(), ErrorKind::Denied);
        let (stream, resume) = client.start_tls().await.unwrap();
        let mut client = Client::encrypted(stream, resume);
        client.list().await.unwrap()
    };
    let server = async {
        let Next::StartTls(stream, started) = server.await.unwrap() else { unreachable!() };
        negotiate(stream, &exports, Tls::Established, Some(started)).await.unwrap_err()
    };
    let (found, _) = SimRuntime::new(1).block_on(join(client, server));
    assert_eq!(found.len(), 2);
}

#[test]
fn bytes_slipped_in_before_encryption_end_the_connection() {
    let exports = exports();
    let (ours, theirs) = pipe();
    let client = async {
        let mut channel = Channel::new(ours);
        channel.read(18).await.unwrap();
        channel.head().put_u32(3);
        // STARTTLS, and a list behind it.
        for number in [5, 3] {
            channel.head().put_slice(b"IHAVEOPT");
            channel.head().put_u32(number);
            channel.head().put_u32(0);
        }
        channel.send().await.unwrap();
        channel
    };
    let server = negotiate(theirs, &exports, Tls::Required, None);
    let (_channel, result) = SimRuntime::new(1).block_on(join(client, server));
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn zeroes_are_found_where_that_is_wanted() {
    let device: Device = Arc::new(MemoryDevice::new(64 << 10));
    let runtime = SimRuntime::new(1);
    let ones = Segments::from(vec![1; 64 << 10]);
    runtime.block_on(device.write(0, ones, WriteFlags::empty())).unwrap();
    let options = ExportOptions { detect_zeroes: Some(true), ..ExportOptions::default() };
    let exports = [Arc::new(Export::new("", device.clone(), options).unwrap())];
    let ((), end) = together(&exports, async |client| {
        let (mut channel, _) = client.go("").await.unwrap();
        let write = Request {
            flags: CommandFlags::FUA,
            command: command::WRITE,
            cookie: 1,
            offset: 100,
            len: 16 << 10,
        };
        ask(&mut channel, Mode::Simple, &write, &vec![0; 16 << 10]).await;
    });
    assert_eq!(end.unwrap(), End::Closed);
    let held = runtime.block_on(device.read(0, 64 << 10)).unwrap().to_vec();
    assert!(held[..100].iter().chain(&held[100 + (16 << 10)..]).all(|byte| *byte == 1));
    assert!(held[100..100 + (16 << 10)].iter().all(|byte| *byte == 0));
}
