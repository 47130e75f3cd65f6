//! Tests of the operations, over memory: a failure is never a success, and a dropped operation ends.
#![cfg(feature = "testing")]

use super::{
    CompareOptions, ConvertOptions, NewImage, compare, convert, create, map, measure_new,
    no_progress, stream,
};
use crate::format::{
    Backing, DataFile, DataSource, Env, FormatName, Layer, OpenOptions, open, qcow2, raw,
};
use crate::io::testing::model::payload;
use crate::io::testing::{
    Effect, Fault, FaultDevice, SimRuntime, YieldDevice, drop_at_each_await, fail_each_call,
};
use crate::io::{
    Access, BlockDevice, BoxFuture, Deny, Device, Instant, Job, MemoryDevice, Preallocation,
    Runtime, Segments, Sink, WriteFlags,
};
use crate::{Error, ErrorKind, Result};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::time::Duration;

const SIZE: u64 = 200 << 10;

/// A disk with data, holes and zeroes in it.
fn source() -> Arc<MemoryDevice> {
    let device = Arc::new(MemoryDevice::new(SIZE));
    for (tag, at, len) in [(5, 0, 9_000), (13, 30_000, 50_000), (6, 150_000, 54_800)] {
        let done = device.write(at, payload(tag, at, len), WriteFlags::empty());
        futures_util::FutureExt::now_or_never(done)
            .expect("memory does not wait")
            .expect("there is room");
    }
    device
}

fn new_image() -> NewImage {
    NewImage::Qcow2(qcow2::CreateOptions {
        size: SIZE,
        cluster_size: 4096,
        ..qcow2::CreateOptions::default()
    })
}

async fn open_image(
    runtime: &Arc<dyn Runtime>,
    file: Device,
    access: Access,
) -> Result<Arc<Layer>> {
    let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access,
        backing: Backing::Follow,
        ..OpenOptions::default()
    };
    open(&env, file, "image", options).await
}

/// The whole way: makes the image, opens it, and copies.
async fn convert_to(
    runtime: &Arc<dyn Runtime>,
    source: &Device,
    file: &Device,
    compress: bool,
) -> Result<()> {
    create(runtime, file, None, &new_image()).await?;
    let target: Device = open_image(runtime, file.clone(), Access::ReadWrite).await?;
    let options = ConvertOptions { compress, parallel: 3, ..ConvertOptions::default() };
    convert(runtime, source, &target, options, &no_progress).await
}

async fn assert_same(runtime: &Arc<dyn Runtime>, file: Device) {
    let found = open_image(runtime, file, Access::ReadOnly).await.expect("it opens");
    let want: Device = source();
    let same = compare(&want, &(found as Device), CompareOptions::default(), &no_progress).await;
    assert_eq!(same.expect("readable"), None, "success, and the data is wrong");
}

#[test]
fn a_conversion_with_a_failing_call_reports_it_or_is_right() {
    let runtime = SimRuntime::new(1);
    let handle = runtime.handle();
    for (compress, effect) in
        [(false, Effect::None), (false, Effect::Half), (true, Effect::None), (true, Effect::Whole)]
    {
        runtime.block_on(async {
            let below = core::cell::RefCell::new(Arc::new(MemoryDevice::new(0)));
            let calls = fail_each_call(
                Fault::new(ErrorKind::NoSpace).effect(effect),
                async || {
                    *below.borrow_mut() = Arc::new(MemoryDevice::new(0));
                    below.borrow().clone() as Device
                },
                async |target: Arc<FaultDevice>, _| {
                    let source: Device = source();
                    let file: Device = target.clone();
                    let done = convert_to(&handle, &source, &file, compress).await;
                    let memory = below.borrow().clone();
                    match done {
                        Ok(()) => assert_same(&handle, memory).await,
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}");
                            assert_eq!(target.failed(), 1, "{e:?}");
                        }
                    }
                },
            );
            assert!(calls.await > 20);
            // The same for the source, whose every failure matters.
            let calls = fail_each_call(
                Fault::new(ErrorKind::Io),
                async || source() as Device,
                async |source: Arc<FaultDevice>, _| {
                    let file: Device = Arc::new(MemoryDevice::new(0));
                    let from: Device = source.clone();
                    let done = convert_to(&handle, &from, &file, compress).await;
                    assert_eq!(done.is_err(), source.failed() > 0, "{done:?}");
                    if done.is_ok() {
                        assert_same(&handle, file).await;
                    }
                },
            );
            assert!(calls.await > 2);
        });
        runtime.run_until_idle();
        assert_eq!(runtime.unfinished(), 0, "workers are left");
    }
}

#[test]
fn a_dropped_conversion_leaves_no_worker() {
    for compress in [false, true] {
        let runtime = SimRuntime::new(2);
        let handle = runtime.handle();
        let drops = runtime.block_on(drop_at_each_await(
            async || {
                let file = Arc::new(MemoryDevice::new(0));
                let target: Device = Arc::new(YieldDevice::new(file.clone()));
                let handle = handle.clone();
                let operation: BoxFuture<'static, Result<()>> = Box::pin(async move {
                    let source: Device = Arc::new(YieldDevice::new(source()));
                    convert_to(&handle, &source, &target, compress).await
                });
                (file, operation)
            },
            async |file, result| {
                if let Some(result) = result {
                    result.expect("nothing fails");
                    assert_same(&handle, file.clone()).await;
                }
                // Whoever still works with the file is somebody's task.
                for _ in 0..2000 {
                    if Arc::strong_count(&file) == 1 {
                        break;
                    }
                    crate::io::testing::yield_now().await;
                }
                assert_eq!(Arc::strong_count(&file), 1, "somebody still writes");
            },
        ));
        assert!(drops > 20, "{drops} drops");
        runtime.run_until_idle();
        assert_eq!(runtime.unfinished(), 0, "workers are left");
    }
}

/// A host that loses every task it is given.
struct Lossy(Arc<dyn Runtime>);

impl Runtime for Lossy {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn wall_clock(&self) -> Duration {
        self.0.wall_clock()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(time)
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(task);
    }

    fn offload(&self, job: Job) -> BoxFuture<'static, ()> {
        self.0.offload(job)
    }

    fn parallelism(&self) -> NonZeroUsize {
        self.0.parallelism()
    }

    fn random(&self, out: &mut [u8]) {
        self.0.random(out);
    }
}

/// A worker that panicked, or whose runtime was shut down, never reported: the copy waited for it
/// for ever.
#[test]
fn a_conversion_whose_workers_are_lost_fails() {
    let runtime = SimRuntime::new(5);
    let lossy: Arc<dyn Runtime> = Arc::new(Lossy(runtime.handle()));
    let (from, to): (Device, Device) = (source(), Arc::new(MemoryDevice::new(SIZE)));
    let options = ConvertOptions::default();
    let done = runtime.block_on(convert(&lossy, &from, &to, options, &no_progress));
    assert_eq!(done.expect_err("nobody works").kind(), ErrorKind::Bug);
}

/// Takes a stream, up to a place.
struct Tape {
    bytes: Vec<u8>,
    room: usize,
}

impl Sink for Tape {
    fn write(&mut self, data: Segments) -> BoxFuture<'_, Result<()>> {
        let result = if self.bytes.len() + data.len() as usize > self.room {
            Err(Error::no_space("the tape is full"))
        } else {
            self.bytes.extend_from_slice(&data.to_bytes());
            Ok(())
        };
        Box::pin(core::future::ready(result))
    }
}

#[test]
fn a_stream_that_fails_says_so() {
    let runtime = SimRuntime::new(3);
    let handle = runtime.handle();
    let raw_image = NewImage::Raw(raw::CreateOptions { size: SIZE, ..Default::default() });
    runtime.block_on(async {
        for image in [new_image(), raw_image] {
            let device: Device = source();
            let mut whole = Tape { bytes: Vec::new(), room: usize::MAX };
            stream(&device, &image, 4096, &mut whole, &no_progress).await.expect("there is room");
            for room in (0..whole.bytes.len()).step_by(20_000) {
                let mut tape = Tape { bytes: Vec::new(), room };
                let done = stream(&device, &image, 4096, &mut tape, &no_progress).await;
                assert_eq!(done.expect_err("no room").kind(), ErrorKind::NoSpace);
            }
            if matches!(image, NewImage::Qcow2(_)) {
                assert_same(&handle, Arc::new(MemoryDevice::with_data(&whole.bytes))).await;
            }
            let calls = fail_each_call(
                Fault::new(ErrorKind::Io),
                async || source() as Device,
                async |source: Arc<FaultDevice>, _| {
                    let from: Device = source.clone();
                    let mut tape = Tape { bytes: Vec::new(), room: usize::MAX };
                    let done = stream(&from, &image, 4096, &mut tape, &no_progress).await;
                    assert_eq!(done.is_err(), source.failed() > 0, "{done:?}");
                },
            );
            assert!(calls.await > 0);
        }
    });
}

#[test]
fn a_comparison_or_map_of_what_cannot_be_read_fails() {
    let runtime = SimRuntime::new(4);
    runtime.block_on(async {
        let other: Device = source();
        let make = async || source() as Device;
        let calls = fail_each_call(Fault::new(ErrorKind::Io), make, async |device, _| {
            let a: Device = device.clone();
            let same = compare(&a, &other, CompareOptions { strict: true }, &no_progress).await;
            match device.failed() {
                0 => assert_eq!(same.expect("readable"), None),
                _ => assert_eq!(same.expect_err("unreadable").error.kind(), ErrorKind::Io),
            }
        });
        assert!(calls.await > 3);
        let calls = fail_each_call(Fault::new(ErrorKind::Io), make, async |device, _| {
            let a: Device = device.clone();
            assert_eq!(map(&a).await.is_err(), device.failed() > 0);
        });
        assert!(calls.await > 0);
    });
}

#[test]
fn sizes_that_no_file_has_are_refused() {
    // Rounding them up to whole sectors used to overflow.
    let raw = |size| NewImage::Raw(raw::CreateOptions { size, ..Default::default() });
    for size in [u64::MAX, u64::MAX - 600, 1 << 63] {
        let error = measure_new(&raw(size)).expect_err("too large");
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }
    let most = measure_new(&raw(i64::MAX.unsigned_abs())).expect("as large as files get");
    assert_eq!(most.required, 1 << 63);
}

#[test]
fn compressed_copies_begin_on_whole_clusters() {
    // Data that begins within a cluster, after zeroes that were passed over, used to be written
    // from there.
    let sim = SimRuntime::new(3);
    sim.block_on(async {
        let runtime = sim.handle();
        let from: Device = source();
        for cluster_size in [512, 4096, 65536] {
            let file: Device = Arc::new(MemoryDevice::new(0));
            let options = qcow2::CreateOptions { size: SIZE, cluster_size, ..Default::default() };
            create(&runtime, &file, None, &NewImage::Qcow2(options)).await.expect("create");
            let to: Device =
                open_image(&runtime, file, Access::ReadWrite).await.expect("a new image");
            let options = ConvertOptions { compress: true, ..ConvertOptions::default() };
            convert(&runtime, &from, &to, options, &no_progress).await.expect("converts");
            let same = compare(&from, &to, CompareOptions::default(), &no_progress).await;
            assert_eq!(same.expect("compares"), None, "clusters of {cluster_size}");
        }
    });
}

#[test]
fn growing_an_image_grows_its_raw_data_file() {
    let sim = SimRuntime::new(4);
    sim.block_on(async {
        let runtime = sim.handle();
        let (file, data): (Device, Device) =
            (Arc::new(MemoryDevice::new(0)), Arc::new(MemoryDevice::new(0)));
        let data_file = Some(qcow2::DataFileOptions { name: "data".into(), raw: true });
        let options = qcow2::CreateOptions { size: SIZE, data_file, ..Default::default() };
        let image = NewImage::Qcow2(options);
        create(&runtime, &file, Some(&data), &image).await.expect("create");
        let env = Env { runtime: runtime.clone(), policy: Arc::new(Deny) };
        let options = OpenOptions {
            access: Access::ReadWrite,
            data_file: DataSource::Given(DataFile {
                device: data.clone(),
                filename: Arc::from("data"),
            }),
            ..OpenOptions::default()
        };
        let layer = open(&env, file, "image", options).await.expect("opens");
        layer.set_len(2 * SIZE, Preallocation::Off).await.expect("grows");
        // Of whole clusters, as with the reference: all of the last one has its place.
        assert_eq!(data.len(), (2 * SIZE).next_multiple_of(65536));
    });
}
