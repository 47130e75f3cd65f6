//! How fast files are read and written, by io_uring and by threads, beside plain system calls.
//!
//! `cargo run --release --example storage_bench [directory]` makes a file of 1 GiB there (in the
//! folder for temporary files where none is said) and prints one line a measurement: the median of
//! [`ROUNDS`] runs, all kinds taking turns. On a machine that others use, compare within one run.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sectora::runtime::{NativeRuntime, block_on};
use sectora::storage::{Aio, Create, FileDevice, FileOptions, Locking};
use sectora_core::Result;
use sectora_core::io::{Access, BlockDevice, Runtime, Segments, WriteFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LEN: u64 = 1 << 30;
const BLOCK: u64 = 4096;
const CHUNK: u64 = 1 << 20;
const ROUNDS: usize = 5;

fn main() {
    let directory = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let files = Files::make(&directory);
    block_on(|host| async move { run(&host, &files).await.unwrap() }).unwrap();
}

struct Files {
    source: PathBuf,
    target: PathBuf,
}

impl Files {
    fn make(directory: &Path) -> Self {
        let name = |what| directory.join(format!("storage-bench-{}-{what}", std::process::id()));
        let files = Self { source: name("source"), target: name("target") };
        let file = File::create(&files.source).unwrap();
        let mut chunk = vec![0; CHUNK as usize];
        let mut seed = 1;
        for at in (0..LEN).step_by(CHUNK as usize) {
            chunk
                .chunks_exact_mut(8)
                .for_each(|w| w.copy_from_slice(&random(&mut seed).to_ne_bytes()));
            file.write_all_at(&chunk, at).unwrap();
        }
        file.sync_all().unwrap();
        files
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.source);
        let _ = std::fs::remove_file(&self.target);
    }
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

fn open(path: &Path, access: Access, aio: Aio, direct: bool) -> Arc<FileDevice> {
    let create = if access == Access::ReadWrite { Create::Truncate } else { Create::No };
    let options =
        FileOptions { aio, direct, create, locking: Locking::Auto, ..FileOptions::new(access) };
    Arc::new(FileDevice::open(path.to_str().unwrap(), &options).unwrap())
}

/// What is compared, and how long each round of it took.
struct Line {
    name: String,
    unit: &'static str,
    amount: f64,
    times: Vec<(Duration, Duration)>,
}

/// The processor time of this process so far.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

impl Line {
    fn print(&mut self) {
        self.times.sort();
        let rate = |time: Duration| self.amount / time.as_secs_f64();
        let (median, best) = (rate(self.times[self.times.len() / 2].0), rate(self.times[0].0));
        let cpu = self.times.iter().map(|(_, cpu)| *cpu).min().unwrap_or_default();
        let (name, unit, each) = (&self.name, self.unit, cpu.as_secs_f64() * 1e6 / self.amount);
        println!("{name:<44} {median:>9.0} {unit:<5}  best {best:>8.0}  cpu {each:>7.2} us each");
    }
}

macro_rules! rounds {
    ($($name:expr, $unit:expr, $amount:expr => $body:expr;)*) => {{
        let mut lines = vec![$(Line { name: $name.into(), unit: $unit, amount: $amount, times: vec![] }),*];
        for _ in 0..ROUNDS {
            let mut i = 0;
            $(
                let (start, used) = (Instant::now(), cpu());
                $body;
                lines[i].times.push((start.elapsed(), cpu() - used));
                i += 1;
            )*
            let _ = i;
        }
        lines.iter_mut().for_each(Line::print);
    }};
}

async fn run(host: &NativeRuntime, files: &Files) -> Result<()> {
    let plain = File::open(&files.source).unwrap();
    let (uring, threads) = (Aio::IoUring, Aio::Threads);
    let read = |aio, direct| open(&files.source, Access::ReadOnly, aio, direct);
    let (cached, cached_threads) = (read(Aio::Auto, false), read(threads, false));
    let (direct, direct_threads) = (read(uring, true), read(threads, true));
    // Into the page cache.
    sequential_read(&cached, 1).await?;

    println!("4 KiB random reads, page cache, one task");
    let n = 200_000;
    rounds! {
        "pread", "IOPS", f64::from(n) => {
            let mut seed = 7;
            let mut buffer = [0; BLOCK as usize];
            for _ in 0..n {
                plain.read_exact_at(&mut buffer, random(&mut seed) % (LEN / BLOCK) * BLOCK).unwrap();
            }
        };
        "device, 1 in flight", "IOPS", f64::from(n) => random_reads(&cached, n, 1).await?;
        "device, 32 in flight", "IOPS", f64::from(n) => random_reads(&cached, n, 32).await?;
        "device over threads, 32 in flight", "IOPS", f64::from(n) => random_reads(&cached_threads, n, 32).await?;
        "device, on every core, 32 in flight each", "IOPS", f64::from(n) * host.parallelism().get() as f64 =>
            on_cores(host, &cached, n).await;
    }
    println!("4 KiB random reads, O_DIRECT, one task");
    let n = 4000;
    rounds! {
        "io_uring, 1 in flight", "IOPS", f64::from(n / 4) => random_reads(&direct, n / 4, 1).await?;
        "threads, 1 in flight", "IOPS", f64::from(n / 4) => random_reads(&direct_threads, n / 4, 1).await?;
        "io_uring, 32 in flight", "IOPS", f64::from(n) => random_reads(&direct, n, 32).await?;
        "threads, 32 in flight", "IOPS", f64::from(n) => random_reads(&direct_threads, n, 32).await?;
    }
    println!("1 MiB sequential reads of 1 GiB");
    let mib = (LEN >> 20) as f64;
    rounds! {
        "memcpy", "MiB/s", mib => {
            let from = vec![1_u8; CHUNK as usize];
            let mut to = vec![0_u8; CHUNK as usize];
            for _ in 0..LEN / CHUNK {
                std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
            }
        };
        "pread, page cache", "MiB/s", mib => {
            let mut buffer = vec![0; CHUNK as usize];
            (0..LEN / CHUNK).for_each(|i| plain.read_exact_at(&mut buffer, i * CHUNK).unwrap());
        };
        "device, page cache, 1 in flight", "MiB/s", mib => sequential_read(&cached, 1).await?;
        "device, page cache, 8 in flight", "MiB/s", mib => sequential_read(&cached, 8).await?;
        "io_uring, O_DIRECT, 8 in flight", "MiB/s", mib => sequential_read(&direct, 8).await?;
        "threads, O_DIRECT, 8 in flight", "MiB/s", mib => sequential_read(&direct_threads, 8).await?;
    }
    println!("1 MiB sequential writes of 1 GiB, new file, without flush");
    let data = Bytes::from(vec![7; CHUNK as usize]);
    let target = |aio, direct| {
        // A new file each time: the pages of the old one are not used again.
        let _ = std::fs::remove_file(&files.target);
        open(&files.target, Access::ReadWrite, aio, direct)
    };
    rounds! {
        "pwrite", "MiB/s", mib => {
            let _ = std::fs::remove_file(&files.target);
            let file = File::create(&files.target).unwrap();
            (0..LEN / CHUNK).for_each(|i| file.write_all_at(&data, i * CHUNK).unwrap());
        };
        "device, 1 in flight", "MiB/s", mib => sequential_write(&target(Aio::Auto, false), &data, 1).await?;
        "device, 8 in flight", "MiB/s", mib => sequential_write(&target(Aio::Auto, false), &data, 8).await?;
        "io_uring, O_DIRECT, 8 in flight", "MiB/s", mib => sequential_write(&target(uring, true), &data, 8).await?;
        "threads, O_DIRECT, 8 in flight", "MiB/s", mib => sequential_write(&target(threads, true), &data, 8).await?;
    }
    println!("Copy of 1 GiB, page cache to new file");
    rounds! {
        "qemu-img convert -W -m 16 (not counted where missing)", "MiB/s", mib => {
            let _ = std::fs::remove_file(&files.target);
            let _ = std::process::Command::new("qemu-img")
                .args(["convert", "-W", "-m", "16", "-f", "raw", "-O", "raw"])
                .args([&files.source, &files.target])
                .status();
        };
        "devices, 8 tasks of 64 KiB", "MiB/s", mib => copy(host, &cached, &target(Aio::Auto, false), 64 << 10, 8).await;
        "devices, 8 tasks of 1 MiB", "MiB/s", mib => copy(host, &cached, &target(Aio::Auto, false), 1 << 20, 8).await;
        "devices, 4 tasks of 2 MiB", "MiB/s", mib => copy(host, &cached, &target(Aio::Auto, false), 2 << 20, 4).await;
    }
    Ok(())
}

async fn random_reads(device: &FileDevice, n: u32, depth: usize) -> Result<()> {
    let mut seed = 7;
    let offsets: Vec<u64> = (0..n).map(|_| random(&mut seed) % (LEN / BLOCK) * BLOCK).collect();
    if depth == 1 {
        for offset in offsets {
            device.read(offset, BLOCK).await?;
        }
        return Ok(());
    }
    stream::iter(offsets)
        .map(|offset| device.read(offset, BLOCK))
        .buffer_unordered(depth)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn on_cores(host: &NativeRuntime, device: &Arc<FileDevice>, n: u32) {
    let tasks: Vec<_> = (0..host.parallelism().get())
        .map(|_| {
            let device = device.clone();
            tokio::spawn(async move { random_reads(&device, n, 32).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

async fn sequential_read(device: &FileDevice, depth: usize) -> Result<()> {
    stream::iter(0..LEN / CHUNK)
        .map(|i| device.read(i * CHUNK, CHUNK))
        .buffered(depth)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn sequential_write(device: &FileDevice, data: &Bytes, depth: usize) -> Result<()> {
    stream::iter(0..LEN / CHUNK)
        .map(|i| device.write(i * CHUNK, Segments::from(data.clone()), WriteFlags::empty()))
        .buffered(depth)
        .try_for_each(|()| async { Ok(()) })
        .await
}

async fn copy(
    host: &NativeRuntime,
    from: &Arc<FileDevice>,
    to: &Arc<FileDevice>,
    chunk: u64,
    tasks: usize,
) {
    let next = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let (tell, mut told) = tokio::sync::mpsc::channel::<()>(1);
    for _ in 0..tasks {
        let (from, to, next, tell) = (from.clone(), to.clone(), next.clone(), tell.clone());
        host.spawn(Box::pin(async move {
            loop {
                let at = next.fetch_add(chunk, std::sync::atomic::Ordering::Relaxed);
                if at >= LEN {
                    break;
                }
                let data = from.read(at, chunk).await.unwrap();
                to.write(at, data, WriteFlags::empty()).await.unwrap();
            }
            drop(tell);
        }));
    }
    drop(tell);
    told.recv().await;
}
