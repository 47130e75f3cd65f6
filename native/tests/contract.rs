//! The contract of devices over files: by io_uring and by threads, through the page cache and
//! around it, from several threads and from one. Each case is a test; what this kernel or file system lacks is counted as ignored.

use libtest_mimic::{Arguments, Failed, Trial};
use sectora::runtime::{NativeRuntime, block_on, block_on_this_thread};
use sectora::storage::{Aio, Create, FileDevice, FileOptions};
use sectora_core::Result;
use sectora_core::io::testing::contract::{Case, ContractOptions, Outcome, cases};
use sectora_core::io::{Access, BoxFuture, Device, Segments, WriteFlags};
use std::future::{Future as _, poll_fn, ready};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

/// How files are opened, and what the tests are called.
const WAYS: [(&str, Aio, bool, Threads); 6] = [
    ("uring", Aio::IoUring, false, Threads::PerCore),
    ("uring_direct", Aio::IoUring, true, Threads::PerCore),
    ("uring_direct_one", Aio::IoUring, true, Threads::One),
    ("threads", Aio::Threads, false, Threads::PerCore),
    ("threads_direct", Aio::Threads, true, Threads::PerCore),
    ("threads_direct_one", Aio::Threads, true, Threads::One),
];

/// On how many threads tasks run.
#[derive(Clone, Copy)]
enum Threads {
    One,
    PerCore,
}

/// On a busy machine a thread can be done before anybody has asked, and there is nothing in flight
/// to be dropped: a case that does not apply is tried so many times.
const TRIES: usize = 10;

fn main() {
    let mut trials = Vec::new();
    for (way, aio, direct, threads) in WAYS {
        let options = FileOptions { aio, direct, ..FileOptions::new(Access::ReadWrite) };
        let possible = is_possible(&options);
        for case in cases() {
            let options = options.clone();
            let run = move || run(case, &options, threads);
            // Files take no compressed writes.
            let ignored = !possible || case.name() == "compressed";
            let name = format!("{way}::{}", case.name());
            trials.push(Trial::test(name, run).with_ignored_flag(ignored));
        }
    }
    let direct = FileOptions {
        aio: Aio::IoUring,
        direct: true,
        create: Create::New,
        ..FileOptions::new(Access::ReadWrite)
    };
    let possible = is_possible(&direct);
    let name = "uring_direct_one::requests_outlive_the_runtime_they_were_begun_in";
    let trial = Trial::test(name, move || outlive_a_runtime(&direct));
    trials.push(trial.with_ignored_flag(!possible));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// True where this kernel has the ring, and this file system direct I/O.
fn is_possible(options: &FileOptions) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    let options = FileOptions { create: Create::New, ..options.clone() };
    block_on(|_| async { FileDevice::open(name(&path), &options).is_ok() }).expect("a runtime")
}

fn name(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn run(case: &Case, options: &FileOptions, threads: Threads) -> std::result::Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let folder: Arc<Path> = Arc::from(folder.path());
    let kept = folder.clone();
    let number = Arc::new(AtomicU64::new(0));
    let writable = FileOptions { create: Create::New, ..options.clone() };
    let make = move || -> BoxFuture<'static, Result<Device>> {
        let n = number.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(n.to_string());
        let device = FileDevice::open(name(&path), &writable);
        Box::pin(ready(device.map(|device| Arc::new(device) as Device)))
    };
    let reading = FileOptions { access: Access::ReadOnly, ..options.clone() };
    let read_only = move || -> BoxFuture<'static, Result<Device>> {
        let path = kept.join("read-only");
        let device = std::fs::write(&path, [7; 100_000])
            .map_err(|e| sectora_core::Error::io(e.to_string()))
            .and_then(|()| FileDevice::open(name(&path), &reading));
        Box::pin(ready(device.map(|device| Arc::new(device) as Device)))
    };
    let how = ContractOptions {
        linger: Duration::from_millis(20),
        read_only: Some(Arc::new(read_only)),
        rounds: 4,
        ..ContractOptions::default()
    };
    let tries = |runtime: NativeRuntime| async move {
        let mut outcome = case.run(&make, &runtime, &how).await;
        for _ in 1..TRIES {
            if !matches!(outcome, Outcome::Skipped(_)) {
                break;
            }
            outcome = case.run(&make, &runtime, &how).await;
        }
        outcome
    };
    let outcome = match threads {
        Threads::One => block_on_this_thread(tries)?,
        Threads::PerCore => block_on(tries)?,
    };
    match outcome {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => Err(format!("does not apply: {reason}").into()),
        Outcome::Failed(what) => Err(what.into()),
    }
}

/// Begins writes in a runtime that ends before it could see to them, and goes on in another.
fn outlive_a_runtime(options: &FileOptions) -> std::result::Result<(), Failed> {
    const LEN: u64 = 4096;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file");
    let device: Device = Arc::new(FileDevice::open(name(&path), options)?);
    let write = |n: u8| {
        let device = device.clone();
        let data = Segments::from(vec![n; LEN as usize]);
        async move { device.write(u64::from(n) * LEN, data, WriteFlags::empty()).await }
    };
    let mut begun: Vec<_> = (1..5).map(|n| Box::pin(write(n))).collect();
    block_on_this_thread(|_| async {
        write(0).await?;
        poll_fn(|cx| {
            let at_once = begun.iter_mut().any(|write| write.as_mut().poll(cx).is_ready());
            assert!(!at_once, "a write was done before it was handed to the kernel");
            Poll::Ready(())
        })
        .await;
        Ok::<_, sectora_core::Error>(())
    })??;
    block_on_this_thread(|_| async {
        for write in begun {
            write.await?;
        }
        write(5).await?;
        device.flush().await
    })??;
    let expected: Vec<u8> = (0..6).flat_map(|n| [n; LEN as usize]).collect();
    if std::fs::read(&path)? != expected {
        return Err("the file holds other data than was written".into());
    }
    Ok(())
}
