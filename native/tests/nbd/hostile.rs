//! Peers that break the protocol lose their connection, and nobody else anything.

use super::setup::{connect, folder, options, serve};
use sectora::export::nbd::ServerOptions;
use sectora::protocol::nbd::NbdDevice;
use sectora::runtime::block_on;
use sectora_core::io::{Access, BlockDevice, Device, MemoryDevice};
use sectora_core::nbd::ExportOptions;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

const OPTION: &[u8] = b"IHAVEOPT";

/// An option with its data.
fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [OPTION, &number.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// A compact request.
fn request(flags: u16, command: u16, offset: u64, len: u32) -> Vec<u8> {
    let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(7_u64.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(len.to_be_bytes());
    out
}

/// `OPT_GO` for the export without a name.
fn go() -> Vec<u8> {
    option(7, &[0, 0, 0, 0, 0, 0])
}

/// Sends bytes, says that no more come, and waits for the end of the connection.
async fn throw(path: &std::path::Path, bytes: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).await.expect("a connection");
    // The server may hang up before all is sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

async fn server(folder: &tempfile::TempDir) -> std::path::PathBuf {
    let path = folder.path().join("s");
    let memory: Device = Arc::new(MemoryDevice::new(1 << 20));
    let limits = ServerOptions { max_connections: 0, ..ServerOptions::default() };
    drop(serve(&path, memory, ExportOptions::default(), limits));
    path
}

async fn still_serves(path: &std::path::Path) {
    let device = connect(path, Access::ReadWrite).await;
    assert_eq!(device.read(0, 4096).await.expect("a read").to_vec(), vec![0; 4096]);
}

pub(crate) fn handshakes() {
    block_on(|_| async {
        let folder = folder();
        let path = server(&folder).await;
        let hello = 3_u32.to_be_bytes().to_vec();
        let cases: Vec<Vec<u8>> = vec![
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            0xffff_ffff_u32.to_be_bytes().to_vec(),
            [&hello[..], b"NOTMAGIC\0\0\0\x03\0\0\0\0"].concat(),
            // An option that claims 4 GiB.
            [&hello[..], OPTION, &7_u32.to_be_bytes(), &[0xff; 4]].concat(),
            // Names longer than the option, and longer than any name.
            [&hello[..], &option(7, &[0, 0, 0x10, 0, b'x'])].concat(),
            [&hello[..], &option(7, &[0xff, 0xff, 0xff, 0xff, b'x'])].concat(),
            // 4 Gi queries in a few bytes.
            [
                &hello[..],
                &option(8, &[]),
                &option(10, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]),
            ]
            .concat(),
            [&hello[..], &option(1, &[b'x'; 5000])].concat(),
            [&hello[..], &option(1, &[0xff, 0xfe])].concat(),
            [&hello[..], &option(5, &[]), &option(99, &[1; 60_000]), &option(2, &[])].concat(),
            vec![0; 100_000],
        ];
        for case in cases {
            throw(&path, &case).await;
            still_serves(&path).await;
        }
    })
    .expect("a runtime");
}

pub(crate) fn requests() {
    block_on(|_| async {
        let folder = folder();
        let path = server(&folder).await;
        let start = [&3_u32.to_be_bytes()[..], &go()].concat();
        let end = request(0, 2, 0, 0);
        // What ends the connection at once: nothing that comes after is answered.
        for bad in [
            vec![0; 28],
            request(0, 1, 0, u32::MAX),
            request(0, 1, 0, (32 << 20) + 1),
            [&request(0, 1, 0, 4096)[..], &[1; 100]].concat(),
        ] {
            throw(&path, &[&start[..], &bad].concat()).await;
            still_serves(&path).await;
        }
        // What is refused, and told: the connection goes on.
        for (bad, number) in [
            (request(0, 0, 0, u32::MAX), 22),
            (request(0, 0, 1 << 20, 1), 22),
            (request(0, 0, u64::MAX, 2), 22),
            (request(0, 0, u64::MAX - 1, 1), 22),
            (request(0, 4, 1 << 19, 1 << 20), 22),
            (request(0, 6, 1 << 19, 1 << 20), 28),
            (request(0, 77, 0, 0), 22),
            (request(0xffe, 0, 0, 1), 22),
            (request(0, 7, 0, 4096), 22),
            (request(0, 3, 5, 5), 22),
            ([&request(0, 1, (1 << 20) - 1, 2)[..], &[1; 2]].concat(), 28),
        ] {
            let answer = throw(&path, &[&start[..], &bad, &end].concat()).await;
            let reply = &answer[answer.len() - 16..];
            assert_eq!(reply[..4], 0x6744_6698_u32.to_be_bytes(), "{bad:x?}");
            assert_eq!(reply[4..8], u32::to_be_bytes(number), "{bad:x?}");
            assert_eq!(reply[8..], 7_u64.to_be_bytes(), "{bad:x?}");
        }
        still_serves(&path).await;
    })
    .expect("a runtime");
}

pub(crate) fn never_reads() {
    block_on(|_| async {
        let folder = folder();
        let path = server(&folder).await;
        let mut stream = UnixStream::connect(&path).await.expect("a connection");
        stream.write_all(&[&3_u32.to_be_bytes()[..], &go()].concat()).await.expect("a handshake");
        // Far more than may be in flight: the server stops taking requests, so writing them blocks.
        let many = request(0, 0, 0, 1 << 20).repeat(1000);
        let mut sent = 0;
        let stuck = async {
            while sent < 64 << 20 {
                sent += stream.write(&many).await.expect("the connection lives");
            }
        };
        let result = tokio::time::timeout(Duration::from_millis(500), stuck).await;
        assert!(
            result.is_err(),
            "the server took {sent} bytes of requests from a peer that never reads"
        );
        still_serves(&path).await;
    })
    .expect("a runtime");
}

pub(crate) fn slow_handshake() {
    block_on(|_| async {
        let folder = folder();
        let path = folder.path().join("s");
        let memory: Device = Arc::new(MemoryDevice::new(1 << 20));
        let limits = ServerOptions {
            handshake_limit: Duration::from_millis(50),
            ..ServerOptions::default()
        };
        drop(serve(&path, memory, ExportOptions::default(), limits));
        let mut stream = UnixStream::connect(&path).await.expect("a connection");
        let mut all = Vec::new();
        // Ends because the server hangs up.
        let _ = stream.read_to_end(&mut all).await;
        assert_eq!(all.len(), 18);
        still_serves(&path).await;
    })
    .expect("a runtime");
}

/// A server that says these bytes whatever it hears.
async fn says(bytes: Vec<u8>) -> sectora_core::Result<()> {
    let folder = folder();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).expect("a socket");
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
        }
    });
    let result = async {
        let device = NbdDevice::connect(&options(&path), Access::ReadOnly).await?;
        device.read(0, 4096).await?;
        Ok(())
    }
    .await;
    task.abort();
    result
}

pub(crate) fn lying_servers() {
    block_on(|_| async {
        let hello = [&b"NBDMAGICIHAVEOPT"[..], &[0, 3]].concat();
        let reply = |option: u32, kind: u32, len: u32, data: &[u8]| {
            let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            out.extend(option.to_be_bytes());
            out.extend(kind.to_be_bytes());
            out.extend(len.to_be_bytes());
            out.extend_from_slice(data);
            out
        };
        let no_extended = reply(11, (1 << 31) | 1, 0, &[]);
        let structured = reply(8, 1, 0, &[]);
        let no_structured = reply(8, (1 << 31) | 1, 0, &[]);
        let mut export = vec![0, 0];
        export.extend((1_u64 << 20).to_be_bytes());
        export.extend([0, 1]);
        let info = reply(7, 3, 12, &export);
        let go = reply(7, 1, 0, &[]);
        let no_context = reply(10, 1, 0, &[]);
        let simple = [&hello[..], &no_extended, &no_structured, &info, &go].concat();
        let chunked = [&hello[..], &no_extended, &structured, &no_context, &info, &go].concat();
        let mut old = b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53".to_vec();
        old.extend([0xff; 12 + 124]);
        for bytes in [
            b"220 smtp ready\r\n".repeat(10),
            b"NBDMAGICNBDMAGIC".to_vec(),
            old,
            hello.clone(),
            // Replies with the wrong magic, to another option, of 4 GiB.
            [&hello[..], &[0; 64]].concat(),
            [&hello[..], &reply(3, 1, 0, &[])].concat(),
            [&hello[..], &reply(11, 1, u32::MAX, &[])].concat(),
            // No size, an impossible size, impossible block sizes.
            [&hello[..], &no_extended, &no_structured, &go].concat(),
            [
                &hello[..],
                &no_extended,
                &no_structured,
                &reply(7, 3, 12, &[&[0, 0][..], &[0xff; 8], &[0, 1]].concat()),
                &go,
            ]
            .concat(),
            [
                &hello[..],
                &no_extended,
                &no_structured,
                &reply(7, 3, 14, &[&[0, 3][..], &[0; 12]].concat()),
                &info,
                &go,
            ]
            .concat(),
            // Replies nobody asked for, or that claim too much.
            [&simple[..], &0x6744_6698_u32.to_be_bytes(), &[0; 12]].concat(),
            [&simple[..], &0x668e_33ef_u32.to_be_bytes(), &[0; 64]].concat(),
            [
                &chunked[..],
                &0x668e_33ef_u32.to_be_bytes(),
                &[0, 1, 0, 1],
                &(1_u64 << 16).to_be_bytes(),
                &u32::MAX.to_be_bytes(),
            ]
            .concat(),
            // Data outside the range, too little, none.
            [
                &chunked[..],
                &0x668e_33ef_u32.to_be_bytes(),
                &[0, 1, 0, 1],
                &(1_u64 << 16).to_be_bytes(),
                &9_u32.to_be_bytes(),
                &4096_u64.to_be_bytes(),
                &[1],
            ]
            .concat(),
            [
                &chunked[..],
                &0x668e_33ef_u32.to_be_bytes(),
                &[0, 1, 0, 2],
                &(1_u64 << 16).to_be_bytes(),
                &12_u32.to_be_bytes(),
                &0_u64.to_be_bytes(),
                &512_u32.to_be_bytes(),
            ]
            .concat(),
            [
                &chunked[..],
                &0x668e_33ef_u32.to_be_bytes(),
                &[0, 1, 0, 0],
                &(1_u64 << 16).to_be_bytes(),
                &0_u32.to_be_bytes(),
            ]
            .concat(),
        ] {
            assert!(says(bytes.clone()).await.is_err(), "{bytes:x?}");
        }
    })
    .expect("a runtime");
}
