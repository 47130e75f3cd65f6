//! Both sides of NBD against bytes of a peer's choice.

use bytes::BytesMut;
use futures_util::FutureExt;
use sectora_core::Result;
use sectora_core::io::{Device, MemoryDevice};
use sectora_core::nbd::client::{Client, Greeted, greet};
use sectora_core::nbd::message::{ChunkBody, Mode, ReplyHeader};
use sectora_core::nbd::server::{Next, Tls, negotiate, serve};
use sectora_core::nbd::{Export, ExportOptions, Stream};
use std::sync::Arc;
use std::task::{Context, Poll};

/// A peer that says what the input says, a few bytes at a time, and hears all.
struct Peer(Vec<u8>, usize);

impl Stream for Peer {
    fn poll_read(&mut self, _: &mut Context<'_>, into: &mut BytesMut) -> Poll<Result<usize>> {
        let left = &self.0[self.1..];
        let n = left.len().min(61);
        into.extend_from_slice(&left[..n]);
        self.1 += n;
        Poll::Ready(Ok(n))
    }

    fn poll_write(&mut self, _: &mut Context<'_>, parts: &[&[u8]]) -> Poll<Result<usize>> {
        Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()))
    }

    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The client's handshake, then the rest of the input as replies in each mode.
pub fn client(data: &[u8]) {
    let all = async {
        let Ok(Greeted::Newstyle(mut client)) = greet(Peer(data.to_vec(), 0)).await else { return };
        if client.choose_mode(Mode::Extended).await.is_err() {
            return;
        }
        let _ = client.list().await;
        let _ = client.info("a").await;
        let _ = client.list_contexts("a", &[]).await;
        let _ = Client::go(client, "a").await;
    };
    assert!(all.now_or_never().is_some(), "the handshake waits although all was said");
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let mut left = data;
        while let Ok(Some((header, len))) = ReplyHeader::decode(mode, left) {
            left = &left[len..];
            if let ReplyHeader::Chunk { kind, len, .. } = header {
                let Some(payload) = left.get(..len) else { break };
                let _ = ChunkBody::decode(kind, payload);
                left = &left[len..];
            }
        }
    }
}

/// The whole server, over a small disk.
pub fn server(data: &[u8]) {
    let device: Device = Arc::new(MemoryDevice::new(64 << 10));
    let options = ExportOptions {
        allocation_depth: true,
        discard: true,
        detect_zeroes: Some(true),
        ..ExportOptions::default()
    };
    let Ok(export) = Export::new("", device, options) else { return };
    let exports = [Arc::new(export)];
    let all = async {
        let next = negotiate(Peer(data.to_vec(), 0), &exports, Tls::Off, None).await;
        if let Ok(Next::Serve(session)) = next {
            let _ = serve(*session).await;
        }
    };
    assert!(all.now_or_never().is_some(), "the server waits although all was said");
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

/// A whole conversation of a client with structured replies, and one with extended headers.
pub fn server_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (mode, magic) in [(8, 0x2560_9513_u32), (11, 0x21e4_1c71)] {
        let name = b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation";
        let mut seed = [0, 0, 0, 3].to_vec();
        seed.extend(option(mode, &[]));
        seed.extend(option(3, &[]));
        seed.extend(option(10, name));
        seed.extend(option(7, &[0; 6]));
        for (command, len, payload) in [
            (1_u16, 16_u32, 16),
            (0, 4096, 0),
            (7, 4096, 0),
            (6, 512, 0),
            (4, 512, 0),
            (3, 0, 0),
            (2, 0, 0),
        ] {
            seed.extend(magic.to_be_bytes());
            seed.extend([0, 0]);
            seed.extend(command.to_be_bytes());
            seed.extend([0; 16]);
            if mode == 11 {
                seed.extend([0; 4]);
            }
            seed.extend(len.to_be_bytes());
            seed.extend(vec![1; payload]);
        }
        seeds.push(seed);
    }
    seeds
}

/// What a server says that has one export.
pub fn client_seeds() -> Vec<Vec<u8>> {
    let reply = |option: u32, kind: u32, data: &[u8]| {
        let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        out
    };
    let info = [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
    let seed = [
        b"NBDMAGICIHAVEOPT\0\x03".to_vec(),
        reply(11, 1, &[]),
        reply(3, 2, b"\0\0\0\x01adescription"),
        reply(3, 1, &[]),
        reply(6, 3, &info),
        reply(6, 1, &[]),
        reply(9, 4, b"\0\0\0\0base:allocation"),
        reply(9, 1, &[]),
        reply(7, 3, &info),
        reply(7, 1, &[]),
    ]
    .concat();
    let mut chunk = 0x668e_33ef_u32.to_be_bytes().to_vec();
    chunk.extend([0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 12]);
    chunk.extend([0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 3]);
    vec![seed, chunk]
}
