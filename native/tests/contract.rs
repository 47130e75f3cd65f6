//! The contract of devices over files: by io_uring and by threads, through the page cache and
//! around it. Each case is a test; what this kernel or file system lacks is counted as ignored.

use libtest_mimic::{Arguments, Failed, Trial};
use sectora::runtime::block_on;
use sectora::storage::{Aio, Create, FileDevice, FileOptions};
use sectora_core::Result;
use sectora_core::io::testing::contract::{Case, ContractOptions, Outcome, cases};
use sectora_core::io::{Access, BoxFuture, Device};
use std::future::ready;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How files are opened, and what the tests are called.
const WAYS: [(&str, Aio, bool); 4] = [
    ("uring", Aio::IoUring, false),
    ("uring_direct", Aio::IoUring, true),
    ("threads", Aio::Threads, false),
    ("threads_direct", Aio::Threads, true),
];

/// On a busy machine a thread can be done before anybody has asked, and there is nothing in flight
/// to be dropped: a case that does not apply is tried so many times.
const TRIES: usize = 10;

fn main() {
    let mut trials = Vec::new();
    for (way, aio, direct) in WAYS {
        let options = FileOptions { aio, direct, ..FileOptions::new(Access::ReadWrite) };
        let possible = is_possible(&options);
        for case in cases() {
            let options = options.clone();
            let run = move || run(case, &options);
            // Files take no compressed writes.
            let ignored = !possible || case.name() == "compressed";
            let name = format!("{way}::{}", case.name());
            trials.push(Trial::test(name, run).with_ignored_flag(ignored));
        }
    }
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

fn run(case: &Case, options: &FileOptions) -> std::result::Result<(), Failed> {
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
    let outcome = block_on(|runtime| async move {
        let mut outcome = case.run(&make, &runtime, &how).await;
        for _ in 1..TRIES {
            if !matches!(outcome, Outcome::Skipped(_)) {
                break;
            }
            outcome = case.run(&make, &runtime, &how).await;
        }
        outcome
    })?;
    match outcome {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => Err(format!("does not apply: {reason}").into()),
        Outcome::Failed(what) => Err(what.into()),
    }
}
