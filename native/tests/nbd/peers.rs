//! The programs of others as the other side.

use super::setup::{connect, folder, ours, start, succeed, text};
use sectora::runtime::block_on;
use sectora_core::io::{Access, BlockDevice, Preallocation, Segments, WriteFlags, ZeroFlags};
use std::path::Path;

/// Writes, zeroes, discards and reads through our client.
async fn exercise(socket: &Path) {
    let device = connect(socket, Access::ReadWrite).await;
    assert_eq!(device.len(), 4 << 20);
    let data = |byte, len| Segments::from(vec![byte; len]);
    let mut writes = Vec::new();
    for i in 0..40_u8 {
        let offset = u64::from(i) * 65_536;
        writes.push(device.write(offset, data(i + 1, 65_536), WriteFlags::empty()));
    }
    for write in futures_util::future::join_all(writes).await {
        write.expect("a write");
    }
    device.write(512, data(0xee, 1024), WriteFlags::FUA).await.expect("a durable write");
    device.write_zeroes(65_536, 131_072, ZeroFlags::MAY_UNMAP).await.expect("zeroes");
    device.write_zeroes(3 * 65_536, 65_536, ZeroFlags::empty()).await.expect("zeroes");
    device.discard(10 * 65_536, 65_536).await.expect("a discard");
    device.flush().await.expect("a flush");
    let read = device.read(0, 4 << 20).await.expect("a read").to_vec();
    let mut want = vec![0; 4 << 20];
    for i in 0..40_u8 {
        want[usize::from(i) * 65_536..][..65_536].fill(i + 1);
    }
    want[512..1536].fill(0xee);
    want[65_536..4 * 65_536].fill(0);
    let skip = 10 * 65_536..11 * 65_536;
    assert!(read[..skip.start] == want[..skip.start], "what was written is read");
    assert!(read[skip.end..] == want[skip.end..], "what was written is read");
    let mut at = 0;
    while at < device.len() {
        for extent in device.extents(at, device.len() - at).await.expect("extents") {
            assert_eq!(extent.start, at);
            if extent.is_zero() {
                let range = extent.start as usize..extent.end() as usize;
                assert!(read[range].iter().all(|byte| *byte == 0), "{extent:?}");
            }
            at = extent.end();
        }
    }
    assert!(device.set_len(1 << 20, Preallocation::Off).await.is_err());
    assert!(device.read(4 << 20, 1).await.is_err());
}

async fn plain(socket: &Path) {
    let device = connect(socket, Access::ReadWrite).await;
    let data = Segments::from(vec![7; 4096]);
    device.write(4096, data, WriteFlags::empty()).await.expect("a write");
    assert_eq!(device.read(4096, 4096).await.expect("a read").to_vec(), vec![7; 4096]);
}

pub(crate) fn client_on_qemu() {
    let folder = folder();
    let socket = folder.path().join("s");
    for format in ["raw", "qcow2"] {
        succeed(folder.path(), "qemu-img", &["create", "-q", "-f", format, "image", "4M"]);
        let image = text(&folder.path().join("image"));
        let args = ["-f", format, "-t", "-e", "4", "--discard=unmap", "-k", &text(&socket), &image];
        let server = start("qemu-nbd", &args, &socket);
        block_on(|_| exercise(&socket)).expect("a runtime");
        drop(server);
        let _ = std::fs::remove_file(&socket);
        succeed(folder.path(), "qemu-img", &["info", "-U", "image"]);
    }
}

pub(crate) fn client_on_nbdkit() {
    let folder = folder();
    let socket = folder.path().join("s");
    let name = text(&socket);
    for how in
        [&[][..], &["--no-sr"], &["--oldstyle"], &["--mask-handshake=0"], &["--mask-handshake=1"]]
    {
        let args = [&["-f", "-U", &name], how, &["memory", "4M"]].concat();
        let server = start("nbdkit", &args, &socket);
        // To oldstyle clients nbdkit 1.32 announces what it then refuses: plain reads and writes.
        match how.contains(&"--oldstyle") {
            true => block_on(|_| plain(&socket)).expect("a runtime"),
            false => block_on(|_| exercise(&socket)).expect("a runtime"),
        }
        drop(server);
        let _ = std::fs::remove_file(&socket);
    }
}

pub(crate) fn qemu_on_server() {
    let folder = folder();
    let socket = folder.path().join("s");
    succeed(folder.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "image", "4M"]);
    let image = text(&folder.path().join("image"));
    let server = start(
        ours(folder.path(), "qemu-nbd"),
        &["-f", "qcow2", "-t", "-e", "0", "--discard=unmap", "-k", &text(&socket), &image],
        &socket,
    );
    let uri = format!("nbd:unix:{}", text(&socket));
    let mut commands = vec!["-f", "raw"];
    for command in [
        "write -P 1 0 1M",
        "write -P 2 1M 100k",
        "write -f -P 3 2M 4k",
        "write -z 512 4k",
        "write -z -u 64k 64k",
        "write -z -n 128k 64k",
        "discard 256k 64k",
        "flush",
        "read -P 1 0 512",
        "read -P 0 512 4k",
        "read -P 0 64k 128k",
        "read -P 2 1M 100k",
        "read -P 3 2M 4k",
        "read -P 0 3M 1M",
    ] {
        commands.extend(["-c", command]);
    }
    commands.push(&uri);
    let said = succeed(folder.path(), "qemu-io", &commands);
    assert!(!said.contains("fail"), "{said}");
    succeed(folder.path(), "qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, "copy"]);
    // Ends the server in good order.
    let pid = i32::try_from(server.0.id()).expect("a process");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a process"),
        rustix::process::Signal::TERM,
    )
    .expect("a signal");
    let mut server = server;
    assert_eq!(server.0.wait().expect("an end").code(), Some(0));
    succeed(folder.path(), "qemu-img", &["check", "-q", "image"]);
    succeed(folder.path(), "qemu-img", &["compare", "-q", "-F", "raw", "image", "copy"]);
}

pub(crate) fn libnbd_on_server() {
    let folder = folder();
    let socket = folder.path().join("s");
    let file = folder.path().join("image");
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20..2 << 20].fill(5);
    std::fs::write(&file, &bytes).expect("an image");
    let _server = start(
        ours(folder.path(), "qemu-nbd"),
        &["-f", "raw", "-t", "-e", "0", "-A", "-k", &text(&socket), &text(&file)],
        &socket,
    );
    let uri = format!("nbd+unix://?socket={}", text(&socket));
    let info = succeed(folder.path(), "nbdinfo", &["--json", &uri]);
    assert!(info.contains("\"export-size\": 3145728"), "{info}");
    assert!(info.contains("qemu:allocation-depth"), "{info}");
    succeed(folder.path(), "nbdinfo", &["--map", &uri]);
    succeed(folder.path(), "nbdcopy", &[&uri, "copy"]);
    assert!(std::fs::read(folder.path().join("copy")).expect("the copy") == bytes);
    bytes[..512].fill(9);
    std::fs::write(folder.path().join("new"), &bytes).expect("an image");
    succeed(folder.path(), "nbdcopy", &["--flush", "new", &uri]);
    assert!(std::fs::read(&file).expect("the image") == bytes);
}
