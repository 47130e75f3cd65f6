//! The bodies of the fuzz targets, shared by libFuzzer and by the smoke run.
//!
//! A target takes any bytes and must come back: no panic, no endless loop, and memory below the
//! limit of whoever runs it. The targets of single structures put the bytes where the structure is
//! in an otherwise sound image, so that all of them end in the parser they are for.

use sectora_core::codec::{self, Compression};
use sectora_core::crypto::luks::{Header, Limits, SLOT_COUNT, Step, Unlock};
use sectora_core::format::{Env, FormatName, Layer, OpenOptions, Repair, open, qcow2};
use sectora_core::image::{self, no_progress};
use sectora_core::io::testing::SimRuntime;
use sectora_core::io::testing::model::{Op, Plan, Session, Subject};
use sectora_core::io::{
    Access, BlockDevice, BoxFuture, Deny, Device, MemoryDevice, Preallocation, WriteFlags,
    ZeroFlags,
};
use sectora_core::{Error, ErrorKind, Result};
use std::sync::{Arc, Mutex};

pub mod nbd;

/// A target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 11] = [
    ("header", header),
    ("extensions", extensions),
    ("snapshot_table", snapshot_table),
    ("bitmap_directory", bitmap_directory),
    ("l2_entries", l2_entries),
    ("compressed_cluster", compressed_cluster),
    ("luks_header", luks_header),
    ("open_read_check", open_read_check),
    ("ops_against_model", ops_against_model),
    ("nbd_client", nbd::client),
    ("nbd_server", nbd::server),
];

const CLUSTER: usize = 512;
const HEADER_LEN: usize = 112;
const REFTABLE: usize = CLUSTER;
const REFBLOCK: usize = 2 * CLUSTER;
const L1: usize = 3 * CLUSTER;
const L2: usize = 4 * CLUSTER;
const DATA: usize = 5 * CLUSTER;
const SPARE: usize = 6 * CLUSTER;
const COPIED: u64 = 1 << 63;

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A small sound image of version 3 with one cluster of data, and `spare` bytes nobody uses.
fn small(spare: usize) -> Vec<u8> {
    let mut image = vec![0; SPARE + spare];
    put(&mut image, 0, b"QFI\xfb\0\0\0\x03");
    put(&mut image, 20, &9u32.to_be_bytes());
    put(&mut image, 24, &(64 * CLUSTER as u64).to_be_bytes());
    put(&mut image, 36, &1u32.to_be_bytes());
    put(&mut image, 40, &(L1 as u64).to_be_bytes());
    put(&mut image, 48, &(REFTABLE as u64).to_be_bytes());
    put(&mut image, 56, &1u32.to_be_bytes());
    put(&mut image, 96, &4u32.to_be_bytes());
    put(&mut image, 100, &(HEADER_LEN as u32).to_be_bytes());
    put(&mut image, REFTABLE, &(REFBLOCK as u64).to_be_bytes());
    put(&mut image, L1, &(L2 as u64 | COPIED).to_be_bytes());
    put(&mut image, L2, &(DATA as u64 | COPIED).to_be_bytes());
    put(&mut image, DATA, &[0x5a; CLUSTER]);
    for cluster in 0..6 {
        put(&mut image, REFBLOCK + 2 * cluster, &1u16.to_be_bytes());
    }
    image
}

/// A sound LUKS header whose only key opens with nothing.
fn luks_seed() -> Vec<u8> {
    let mut header = vec![0; 592];
    put(&mut header, 0, b"LUKS\xba\xbe\0\x01aes");
    put(&mut header, 40, b"xts-plain64");
    put(&mut header, 72, b"sha256");
    put(&mut header, 104, &4040u32.to_be_bytes());
    put(&mut header, 108, &64u32.to_be_bytes());
    put(&mut header, 164, &1000u32.to_be_bytes());
    for slot in 0..8u32 {
        let at = 208 + 48 * slot as usize;
        let state: u32 = if slot == 0 { 0x00ac_71f3 } else { 0xdead };
        put(&mut header, at, &state.to_be_bytes());
        put(&mut header, at + 4, &1000u32.to_be_bytes());
        put(&mut header, at + 40, &(8 + 504 * slot).to_be_bytes());
        put(&mut header, at + 44, &4000u32.to_be_bytes());
    }
    header
}

/// A LUKS header: what is accepted is written as it was read, and unlocking it ends.
pub fn luks_header(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes) else { return };
    // The UUID is only shown: of one that is no text the readable part is kept.
    let again = Header::parse(&header.emit()).expect("what was written");
    assert_eq!(Header { uuid: header.uuid.clone(), ..again }, header);
    assert_eq!(header.describe().slots.len(), SLOT_COUNT);
    let active = header.slots.iter().position(|slot| slot.active);
    let material = active.map(|slot| (slot, vec![0x5a; header.material_len()]));
    let limits = Limits { max_hashes: 10_000 };
    let unlock = Unlock::new(header, material.into_iter().collect(), "passphrase".into(), limits);
    let mut unlock = unlock.expect("material of the right length");
    while let Ok(Step::More | Step::Found(..)) = unlock.step() {}
}

/// What the runs of a target begin with, by name: small inputs that reach what there is.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let image = small(CLUSTER);
    match target {
        "header" => vec![image[..CLUSTER].to_vec(), image[..HEADER_LEN].to_vec()],
        "extensions" => {
            let mut names = vec![0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48, 0, 0];
            names.extend_from_slice(b"dirty bit");
            names.resize(56, 0);
            let mut bitmaps = vec![0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 0];
            bitmaps.extend_from_slice(&32u64.to_be_bytes());
            bitmaps.extend_from_slice(&(SPARE as u64).to_be_bytes());
            let format = b"\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0".to_vec();
            vec![names, bitmaps, format]
        }
        "luks_header" => vec![luks_seed()],
        "snapshot_table" => {
            let mut entry = vec![0; 64];
            put(&mut entry, 0, &(L1 as u64).to_be_bytes());
            put(&mut entry, 8, &[0, 0, 0, 1, 0, 1, 0, 3]);
            put(&mut entry, 36, &16u32.to_be_bytes());
            put(&mut entry, 48, &(64 * CLUSTER as u64).to_be_bytes());
            put(&mut entry, 56, b"1one");
            vec![entry]
        }
        "bitmap_directory" => {
            let mut entry = vec![0; 32];
            put(&mut entry, 8, &[0, 0, 0, 1, 0, 0, 0, 2, 1, 16, 0, 1]);
            entry[24] = b'a';
            vec![entry]
        }
        "l2_entries" => {
            let packed = (1u64 << 62 | DATA as u64).to_be_bytes();
            let plain = (DATA as u64 | COPIED).to_be_bytes();
            vec![[plain, packed, 1u64.to_be_bytes(), (SPARE as u64 | 1).to_be_bytes()].concat()]
        }
        "compressed_cluster" => [Compression::Deflate, Compression::Zstd]
            .into_iter()
            .filter_map(|kind| {
                codec::compress(kind, &[b"abc".repeat(900), vec![0; 900]].concat()).ok()?
            })
            .collect(),
        "open_read_check" => {
            let mut v2 = image.clone();
            v2[7] = 2;
            put(&mut v2, 72, &[0; 40]);
            vec![image, v2]
        }
        "nbd_client" => nbd::client_seeds(),
        "nbd_server" => nbd::server_seeds(),
        _ => vec![(0..120).map(|i| (i * 37) as u8).collect()],
    }
}

/// An error of ours is a finding, whatever the input.
fn fair<T>(result: Result<T>) -> Option<T> {
    result.map_err(|e| assert_ne!(e.kind(), ErrorKind::Bug, "{e:?}")).ok()
}

fn device(bytes: &[u8]) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::with_data(bytes))
}

async fn open_image(
    runtime: &SimRuntime,
    file: Device,
    access: Access,
    format: Option<FormatName>,
) -> Option<Arc<Layer>> {
    let env = Env { runtime: runtime.handle(), policy: Arc::new(Deny) };
    let options = OpenOptions { format, access, ..OpenOptions::default() };
    fair(open(&env, file, "image", options).await)
}

/// Opens, describes, checks, maps, reads the beginning and the end, and writes.
fn use_image(bytes: &[u8], format: Option<FormatName>) {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file = device(bytes);
        if let Some(layer) = open_image(&runtime, file.clone(), Access::ReadOnly, format).await {
            fair(image::info(&layer).await);
            fair(image::check(&layer, Repair::Nothing, &no_progress).await);
            let len = layer.len();
            let window = len.min(64 << 10);
            for at in [0, len - window] {
                if let Some(data) = fair(layer.read(at, window).await) {
                    assert_eq!(data.len(), window);
                }
            }
            let mut mapper = image::Mapper::new(layer.clone(), 0, len);
            let mut at = 0;
            while let Some(Some(extent)) = fair(mapper.next_extent().await) {
                assert_eq!(extent.start, at, "the map has a gap");
                at = extent.end();
            }
        }
        // Opening and looking change nothing.
        assert!(file.to_vec() == bytes, "the file has changed");
        if let Some(layer) = open_image(&runtime, file, Access::ReadWrite, format).await {
            let len = layer.len();
            let data = vec![0xee; len.min(700) as usize];
            fair(layer.write(0, data.into(), WriteFlags::empty()).await);
            fair(layer.write_zeroes(0, len.min(1 << 16), ZeroFlags::MAY_UNMAP).await);
            fair(layer.discard(0, len.min(1 << 16)).await);
            fair(layer.flush().await);
            fair(layer.flush().await);
        }
    });
}

/// The header cluster.
pub fn header(data: &[u8]) {
    let mut image = small(CLUSTER);
    let len = data.len().min(CLUSTER);
    image[..CLUSTER].fill(0);
    put(&mut image, 0, &data[..len]);
    use_image(&image, Some(FormatName::Qcow2));
}

/// Header extensions, and the name of a backing file behind them.
pub fn extensions(data: &[u8]) {
    let mut image = small(CLUSTER);
    let len = data.len().min(CLUSTER - HEADER_LEN);
    put(&mut image, HEADER_LEN, &data[..len]);
    // The bit that makes a bitmaps extension count.
    image[95] = data.first().map_or(0, |b| b & 1);
    use_image(&image, Some(FormatName::Qcow2));
}

/// The snapshot table.
pub fn snapshot_table(data: &[u8]) {
    let mut image = small(data.len().next_multiple_of(CLUSTER));
    put(&mut image, SPARE, data);
    put(&mut image, 60, &((data.len() / 40).max(1) as u32).to_be_bytes());
    put(&mut image, 64, &(SPARE as u64).to_be_bytes());
    use_image(&image, Some(FormatName::Qcow2));
}

/// The bitmap directory; its first byte is how many entries the header promises.
pub fn bitmap_directory(data: &[u8]) {
    let mut image = small(data.len().next_multiple_of(CLUSTER));
    put(&mut image, SPARE, data);
    put(&mut image, HEADER_LEN, &[0x23, 0x85, 0x28, 0x75, 0, 0, 0, 24]);
    image[HEADER_LEN + 11] = (data.len() / 32).clamp(1, 255) as u8;
    put(&mut image, HEADER_LEN + 16, &(data.len() as u64).to_be_bytes());
    put(&mut image, HEADER_LEN + 24, &(SPARE as u64).to_be_bytes());
    image[95] = 1;
    use_image(&image, Some(FormatName::Qcow2));
}

/// An L2 table.
pub fn l2_entries(data: &[u8]) {
    let mut image = small(CLUSTER);
    let len = data.len().min(CLUSTER);
    put(&mut image, L2, &data[..len]);
    use_image(&image, Some(FormatName::Qcow2));
}

/// The payload of a compressed cluster, by every codec.
pub fn compressed_cluster(data: &[u8]) {
    for kind in [Compression::Deflate, Compression::Zstd] {
        for len in [1, 512, 64 << 10] {
            if let Some(out) = fair(codec::decompress(kind, data, len)) {
                assert_eq!(out.len(), len);
            }
        }
    }
}

/// A whole file of a format that is found out.
pub fn open_read_check(data: &[u8]) {
    use_image(data, None);
}

/// Images that begin alike.
struct Fresh {
    runtime: SimRuntime,
    options: qcow2::CreateOptions,
    file: Mutex<Option<Device>>,
}

impl Fresh {
    async fn open(&self, access: Access) -> Result<Arc<Layer>> {
        let file = self.file.lock().ok().and_then(|file| file.clone());
        let file = file.ok_or_else(|| Error::bug("no file"))?;
        let env = Env { runtime: self.runtime.handle(), policy: Arc::new(Deny) };
        let format = Some(FormatName::Qcow2);
        open(&env, file, "image", OpenOptions { format, access, ..OpenOptions::default() }).await
    }
}

impl Subject for Fresh {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async {
            let file: Device = Arc::new(MemoryDevice::new(0));
            qcow2::create(&self.runtime.handle(), &file, None, &self.options).await?;
            if let Ok(mut slot) = self.file.lock() {
                *slot = Some(file);
            }
            Ok(self.open(Access::ReadWrite).await? as Device)
        })
    }

    fn reopen(&self, device: Device) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async move {
            device.flush().await?;
            drop(device);
            Ok(self.open(Access::ReadWrite).await? as Device)
        })
    }
}

/// Operations on a new image against a flat disk. The first byte chooses the image, then four
/// bytes each an operation.
pub fn ops_against_model(data: &[u8]) {
    let Some((choice, ops)) = data.split_first() else { return };
    let extended_l2 = choice & 1 != 0;
    let options = qcow2::CreateOptions {
        size: 200 << 10,
        cluster_size: if extended_l2 { 16 << 10 } else { 512 << (choice >> 1 & 7) },
        extended_l2,
        refcount_bits: 1 << (choice >> 4 & 3).max(1),
        preallocation: if choice & 0x80 != 0 {
            Preallocation::Metadata
        } else {
            Preallocation::Off
        },
        ..qcow2::CreateOptions::default()
    };
    let (len, cluster) = (options.size, u64::from(options.cluster_size));
    let mut plan = Vec::new();
    for (i, op) in ops.chunks_exact(4).take(64).enumerate() {
        let start = u64::from(op[1]) * 800 + u64::from(op[2] & 3) * 37;
        let end = (start + 1 + u64::from(op[2]) * u64::from(op[3])).min(len);
        let range = start.min(end)..end;
        let whole = start - start % cluster..end.next_multiple_of(cluster).min(len);
        let tag = i as u32 + 5;
        plan.push(match op[0] % 8 {
            0 | 1 => Op::Write { range, tag, flags: WriteFlags::empty() },
            2 => Op::Write { range: whole, tag, flags: WriteFlags::COMPRESSED },
            3 => Op::Zero { range, flags: ZeroFlags::from_bits_truncate(op[0].into()) },
            4 => Op::Discard(range),
            5 => Op::Flush,
            6 => Op::Read(range),
            _ => Op::Reopen,
        });
    }
    let runtime = SimRuntime::new(1);
    let fresh = Fresh { runtime: runtime.clone(), options, file: Mutex::new(None) };
    let verdict = runtime.block_on(async {
        let mut session = Session::start(&fresh, len).await?;
        session.run(&Plan(plan.clone())).await?;
        session.finish().await?;
        session.device().flush().await.map_err(|e| e.to_string())?;
        session.device().flush().await.map_err(|e| e.to_string())?;
        let layer = fresh.open(Access::ReadOnly).await.map_err(|e| e.to_string())?;
        let report = image::check(&layer, Repair::Nothing, &no_progress).await.map_err(|e| e.to_string())?;
        match report.map(|check| check.report.findings).unwrap_or_default().as_slice() {
            [] => Ok(()),
            found => Err(format!("{found:?}")),
        }
    });
    if let Err(what) = verdict {
        panic!("{what}\n{}", Plan(plan));
    }
}
