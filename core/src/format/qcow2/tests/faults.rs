//! Each call of the image's file fails once, while its tables go through all their changes.
//!
//! Afterwards the data is what the model allows, after opening again too; the check finds leaks at
//! worst; and after a metadata write or flush that failed, nothing is written any more.

use super::disks::Disk;
use super::findings;
use crate::format::FindingKind;
use crate::io::testing::model::{OnError, Session, Subject};
use crate::io::testing::{
    CallFilter, CallKinds, Effect, Fault, FaultDevice, SimRuntime, fail_each_call,
};
use crate::io::{
    Access, BlockDevice, BoxFuture, Capabilities, Device, DeviceInfo, Extent, Limits, MemoryDevice,
    Preallocation, Segments, WriteFlags, ZeroFlags,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Says that its sectors are written whole, so that a write is cut between them, as on a disk.
#[derive(Debug)]
struct Sectors(Arc<MemoryDevice>);

impl BlockDevice for Sectors {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn limits(&self) -> Limits {
        Limits { request_alignment: 512, ..self.0.limits() }
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn read(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Segments>> {
        self.0.read(offset, len)
    }

    fn write(&self, offset: u64, data: Segments, flags: WriteFlags) -> BoxFuture<'_, Result<()>> {
        self.0.write(offset, data, flags)
    }

    fn write_zeroes(&self, offset: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<()>> {
        self.0.write_zeroes(offset, len, flags)
    }

    fn discard(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        self.0.discard(offset, len)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.0.flush()
    }

    fn set_len(&self, len: u64, preallocation: Preallocation) -> BoxFuture<'_, Result<()>> {
        self.0.set_len(len, preallocation)
    }

    fn extents(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Vec<Extent>>> {
        self.0.extents(offset, len)
    }

    fn info(&self) -> BoxFuture<'_, Result<DeviceInfo>> {
        self.0.info()
    }
}

/// One run: an image over a failing file.
struct Run<'a> {
    disk: &'a Disk,
    file: Device,
    data: Option<Device>,
}

impl Run<'_> {
    fn open(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async {
            let opened =
                self.disk.open(self.file.clone(), self.data.clone(), Access::ReadWrite).await;
            opened.map(|layer| layer as Device)
        })
    }
}

impl Subject for Run<'_> {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        self.open()
    }

    fn reopen(&self, device: Device) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async move {
            // A poisoned image has lost what was not flushed: the session ends here.
            device.flush().await?;
            drop(device);
            self.open().await
        })
    }
}

/// What must be true of an image whatever failed. `session` is `None` where it did not even open.
async fn afterwards(
    disk: &Disk,
    run: &Run<'_>,
    below: &MemoryDevice,
    session: Option<&Session<'_>>,
    call: u64,
) {
    let name = disk.name;
    let fresh: Device = Arc::new(below.fork());
    let layer = disk
        .open(fresh, run.data.clone(), Access::ReadWrite)
        .await
        .unwrap_or_else(|e| panic!("{name}, call {call}: it does not open again: {e:?}"));
    for finding in findings(&layer).await.expect("a report") {
        assert_eq!(finding.kind, FindingKind::Leak, "{name}, call {call}: {finding:?}");
    }
    let model = match session {
        Some(session) => session.model().after_crash(layer.len()),
        None => Ok(disk.contents().await),
    };
    let verdict = match model {
        Ok(model) => model.verify(&*layer).await,
        Err(length) => Err(length),
    };
    verdict.unwrap_or_else(|what| panic!("{name}, call {call}, opened again: {what}"));
}

async fn fail_everything(disk: &Disk, fault: Fault) -> u64 {
    let below = core::cell::RefCell::new(Arc::new(disk.file.fork()));
    let make = async || {
        let fresh = Arc::new(disk.file.fork());
        *below.borrow_mut() = fresh.clone();
        Arc::new(Sectors(fresh)) as Device
    };
    let test = async |file: Arc<FaultDevice>, n: u64| {
        let below = below.borrow().clone();
        let (_, data) = disk.copies();
        let run = Run { disk, file: file.clone(), data };
        let mut session = match Session::start(&run, 1 << 30).await {
            Ok(session) => session.on_error(OnError::Continue),
            Err(_) => return afterwards(disk, &run, &below, None, n).await,
        };
        let result = async {
            session.run(&disk.plan).await?;
            match session.stopped() {
                None => session.model().verify(&**session.device()).await,
                Some(_) => Ok(()),
            }
        };
        let result: Result<(), String> = result.await;
        if let Err(what) = result {
            // Reads that fail are the fault's doing, wrong bytes are not.
            assert!(what.contains("injected"), "{}, call {n}: {what}", disk.name);
        }
        afterwards(disk, &run, &below, Some(&session), n).await;
    };
    fail_each_call(fault, make, test).await
}

fn each_disk(fault: impl Fn() -> Fault) {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for disk in Disk::all(&runtime).await {
            let calls = fail_everything(&disk, fault()).await;
            // With a data file most plans change nothing in the image itself.
            assert!(calls > 8 || disk.data.is_some(), "{}: {calls} calls", disk.name);
        }
    });
}

#[test]
fn a_call_without_effect_leaves_data_and_tables_sound() {
    each_disk(|| Fault::new(ErrorKind::Io));
}

#[test]
fn a_write_cut_by_a_full_disk_leaves_data_and_tables_sound() {
    each_disk(|| {
        let changes = CallFilter::of(CallKinds::CHANGES);
        Fault::new(ErrorKind::NoSpace).on(changes).effect(Effect::Half)
    });
}

#[test]
fn a_change_whose_answer_is_lost_leaves_data_and_tables_sound() {
    each_disk(|| {
        let changes = CallFilter::of(CallKinds::CHANGES | CallKinds::FLUSH);
        Fault::new(ErrorKind::Io).on(changes).effect(Effect::Whole)
    });
}

#[test]
fn after_a_failed_flush_nothing_is_written_until_the_image_is_opened_again() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for disk in Disk::all(&runtime).await {
            let (below, data) = disk.copies();
            let file = Arc::new(FaultDevice::new(below));
            let layer =
                disk.open(file.clone(), data.clone(), Access::ReadWrite).await.expect("it opens");
            let write = |byte: u8| {
                layer.write(0x1000, alloc::vec![byte; 0x400].into(), WriteFlags::empty())
            };
            write(1).await.expect("writable");
            file.add(Fault::new(ErrorKind::Io).on(CallFilter::of(CallKinds::FLUSH)).nth(0));
            layer.flush().await.expect_err("injected");
            let before = file.calls();
            let errors: [Error; 4] = [
                write(2).await.expect_err("write"),
                layer.write_zeroes(0, 0x8000, Default::default()).await.expect_err("zero"),
                layer.discard(0, 0x8000).await.expect_err("discard"),
                layer.flush().await.expect_err("flush"),
            ];
            for error in errors {
                let text = format!("{}: {error}", disk.name);
                assert_eq!(error.kind(), ErrorKind::Io, "{text}");
                assert!(text.contains("reopen the image"), "{text}");
            }
            assert_eq!(file.calls(), before, "{}: the file was called", disk.name);
            let read = layer.read(0x1000, 0x400).await.expect("reading is possible");
            assert_eq!(read.to_vec(), [1; 0x400]);
        }
    });
}

#[test]
fn a_failed_data_write_fails_alone() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for disk in Disk::all(&runtime).await.into_iter().filter(|d| d.data.is_none()) {
            let (below, _) = disk.copies();
            let file = Arc::new(FaultDevice::new(below.clone()));
            let layer = disk.open(file.clone(), None, Access::ReadWrite).await.expect("it opens");
            let data = || alloc::vec![7; 0x4000];
            // The tables are there, so the next write is of data alone.
            layer.write(0x4000, data().into(), WriteFlags::empty()).await.expect("writable");
            layer.flush().await.expect("durable");
            let writes = CallFilter::of(CallKinds::WRITE);
            file.add(Fault::new(ErrorKind::NoSpace).on(writes).nth(0).effect(Effect::Half));
            let failed = layer.write(0x4000, data().into(), WriteFlags::empty()).await;
            assert_eq!(failed.expect_err("injected").kind(), ErrorKind::NoSpace, "{}", disk.name);
            layer.write(0x4000, data().into(), WriteFlags::empty()).await.expect("writable again");
            layer.flush().await.expect("durable");
            layer.close().await.expect("clean");
            drop(layer);
            let layer = disk.open(below, None, Access::ReadOnly).await.expect("it opens");
            assert_eq!(findings(&layer).await.expect("a report"), [], "{}", disk.name);
            assert_eq!(layer.read(0x4000, 0x4000).await.expect("readable").to_vec(), data());
        }
    });
}
