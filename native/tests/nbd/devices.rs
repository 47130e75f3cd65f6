//! The client as a device: its contract, and what happens when the server goes away.

use super::setup::{connect, folder, options, serve};
use libtest_mimic::Trial;
use sectora::export::nbd::ServerOptions;
use sectora::protocol::nbd::{NbdDevice, NbdOptions};
use sectora::runtime::block_on;
use sectora_core::io::testing::contract::{Case, ContractOptions, Outcome, cases};
use sectora_core::io::testing::model::{ModelOptions, check};
use sectora_core::io::{
    Access, BlockDevice, BoxFuture, Device, MemoryDevice, Segments, WriteFlags,
};
use sectora_core::nbd::ExportOptions;
use sectora_core::{ErrorKind, Result};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for case in cases() {
        // An export has the length and the contents it has, and takes no compressed writes.
        let ignored =
            matches!(case.name(), "compressed" | "growing_writes" | "set_len" | "zero_init");
        let name = format!("contract::{}", case.name());
        trials.push(Trial::test(name, move || contract(case)).with_ignored_flag(ignored));
    }
    trials.push(Trial::test("model::random_operations", || {
        random_operations();
        Ok(())
    }));
    trials
}

/// Devices over a server of their own.
struct Exports {
    folder: tempfile::TempDir,
    number: AtomicU64,
    read_only: bool,
}

impl Exports {
    fn new(read_only: bool) -> Self {
        Self { folder: folder(), number: AtomicU64::new(0), read_only }
    }

    fn next(&self) -> PathBuf {
        self.folder.path().join(self.number.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl sectora_core::io::testing::model::Subject for Exports {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        let path = self.next();
        let read_only = self.read_only;
        Box::pin(async move {
            let export = ExportOptions { read_only, discard: true, ..ExportOptions::default() };
            let memory: Device = Arc::new(MemoryDevice::new(1 << 20));
            drop(serve(&path, memory, export, ServerOptions::default()));
            let access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
            let device = NbdDevice::connect(&options(&path), access).await?;
            Ok(Arc::new(device) as Device)
        })
    }
}

fn contract(case: &Case) -> std::result::Result<(), libtest_mimic::Failed> {
    let how = ContractOptions {
        linger: Duration::from_millis(20),
        read_only: Some(Arc::new(Exports::new(true))),
        rounds: 4,
        ..ContractOptions::default()
    };
    let subject = Exports::new(false);
    let outcome = block_on(|runtime| async move { case.run(&subject, &runtime, &how).await })?;
    match outcome {
        Outcome::Passed => Ok(()),
        Outcome::Skipped(reason) => Err(format!("does not apply: {reason}").into()),
        Outcome::Failed(what) => Err(what.into()),
    }
}

fn random_operations() {
    block_on(|_| async {
        for seed in 0..6 {
            let model = ModelOptions { seed, ops: 200, in_flight: 16, ..ModelOptions::default() };
            if let Err(failure) = check(&Exports::new(false), &model).await {
                panic!("{failure}");
            }
        }
    })
    .expect("a runtime");
}

fn data(byte: u8, len: usize) -> Segments {
    Segments::from(vec![byte; len])
}

pub(crate) fn lost_connection() {
    block_on(|_| async {
        let folder = folder();
        let path = folder.path().join("s");
        let memory: Device = Arc::new(MemoryDevice::new(1 << 20));
        let (task, _told) =
            serve(&path, memory, ExportOptions::default(), ServerOptions::default());
        let device = connect(&path, Access::ReadWrite).await;
        device.write(0, data(1, 4096), WriteFlags::empty()).await.expect("a write");
        task.abort();
        let _ = task.await;
        let error = device.read(0, 512).await.expect_err("the server is gone");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        // What was confirmed may be lost: no flush says otherwise, also not when a server is back.
        let memory: Device = Arc::new(MemoryDevice::new(1 << 20));
        std::fs::remove_file(&path).expect("the socket");
        drop(serve(&path, memory, ExportOptions::default(), ServerOptions::default()));
        while device.read(0, 512).await.is_err() {
            tokio::task::yield_now().await;
        }
        assert_eq!(device.flush().await.expect_err("lost writes").kind(), ErrorKind::Io);
        assert!(device.flush().await.is_err());
    })
    .expect("a runtime");
}

pub(crate) fn reconnects() {
    block_on(|_| async {
        let folder = folder();
        let path = folder.path().join("s");
        let memory: Device = Arc::new(MemoryDevice::new(1 << 20));
        let (task, _told) =
            serve(&path, memory.clone(), ExportOptions::default(), ServerOptions::default());
        let how = NbdOptions { reconnect_delay: Duration::from_secs(60), ..options(&path) };
        let device = NbdDevice::connect(&how, Access::ReadWrite).await.expect("a connection");
        task.abort();
        let _ = task.await;
        std::fs::remove_file(&path).expect("the socket");
        let waiting = async {
            device.write(4096, data(7, 4096), WriteFlags::empty()).await.expect("a write");
            device.flush().await.expect("a flush");
            device.read(4096, 4096).await.expect("a read")
        };
        let back = async {
            tokio::task::yield_now().await;
            serve(&path, memory.clone(), ExportOptions::default(), ServerOptions::default())
        };
        let (read, _server) = tokio::join!(waiting, back);
        assert_eq!(read.to_vec(), vec![7; 4096]);
        assert_eq!(memory.read(4096, 4096).await.expect("memory").to_vec(), vec![7; 4096]);
    })
    .expect("a runtime");
}
