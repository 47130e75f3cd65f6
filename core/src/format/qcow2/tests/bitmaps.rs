//! Persistent bitmaps: stored and loaded again, and what a crash or a fault leaves of them.

use super::super::{CreateOptions, Version, create};
use super::{env, findings};
use crate::bitmap::DirtyBitmap;
use crate::format::{FindingKind, FormatName, Layer, OpenOptions, open};
use crate::io::testing::{
    CallFilter, CallKinds, CrashDevice, Effect, Fault, FaultDevice, Rng, SimRuntime,
};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, Preallocation, Runtime, WriteFlags};
use crate::{ErrorKind, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

const SIZE: u64 = 1 << 20;
const GRANULARITY: u64 = 4096;

async fn image(runtime: &SimRuntime, cluster_size: u32) -> MemoryDevice {
    let file = Arc::new(MemoryDevice::new(0));
    let device: Device = file.clone();
    let options = CreateOptions { cluster_size, size: SIZE, ..CreateOptions::default() };
    let handle: Arc<dyn Runtime> = runtime.handle();
    create(&handle, &device, None, &options).await.expect("created");
    file.fork()
}

async fn open_image(runtime: &SimRuntime, file: Device, access: Access) -> Result<Arc<Layer>> {
    let options = OpenOptions { format: Some(FormatName::Qcow2), access, ..OpenOptions::default() };
    let other: Device = Arc::new(MemoryDevice::new(SIZE));
    let layer = open(&env(runtime, &other), file, "image", options).await?;
    layer.driver().load_bitmaps().await?;
    Ok(layer)
}

fn add(layer: &Layer, name: &str, granularity: u64) -> Arc<DirtyBitmap> {
    let bitmap = DirtyBitmap::new(name, layer.len(), granularity).expect("valid");
    layer.driver().can_store_bitmap(&bitmap).expect("storable");
    bitmap.set_persistent(true);
    layer.bitmaps().add(bitmap).expect("new")
}

async fn write(layer: &Layer, offset: u64, len: u64, byte: u8) -> Result<()> {
    let bytes = alloc::vec![byte; usize::try_from(len).expect("small")];
    layer.write(offset, bytes.into(), WriteFlags::empty()).await
}

async fn assert_sound(name: &str, layer: &Layer) {
    for finding in findings(layer).await.expect("a report") {
        assert_eq!(finding.kind, FindingKind::Leak, "{name}: {finding:?}");
    }
}

fn bits(bitmap: &DirtyBitmap) -> Vec<u8> {
    bitmap.serialize(0, bitmap.serialized_len())
}

#[test]
fn what_is_stored_is_loaded_again_and_leaks_nothing() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for cluster_size in [1024, 4096, 65_536] {
            let file: Device = Arc::new(image(&runtime, cluster_size).await);
            let rw = || open_image(&runtime, file.clone(), Access::ReadWrite);
            let layer = rw().await.expect("opens");
            let (a, b) = (add(&layer, "a", 512), add(&layer, "b", 1 << 20));
            add(&layer, "gone", 512).set(0, SIZE);
            layer.bitmaps().set_recording("b", false).expect("there");
            write(&layer, 5000, 70_000, 1).await.expect("written");
            layer.discard(0x8_0000, 0x1000).await.expect("discarded");
            assert_eq!((b.count(), a.get(5000), a.get(4600)), (0, true, false));
            layer.close().await.expect("closed");
            let expected = bits(&a);
            assert!(a.count() >= 70_000);

            let layer = open_image(&runtime, file.clone(), Access::ReadOnly).await.expect("opens");
            assert_eq!(findings(&layer).await.expect("checked"), []);
            let loaded = layer.bitmaps().find("a").expect("stored");
            assert_eq!(bits(&loaded), expected);
            let status = loaded.status();
            assert!(status.recording && status.persistent && status.readonly);
            assert!(layer.bitmaps().clear("a").is_err(), "read only");
            assert!(!layer.bitmaps().find("b").expect("stored").status().recording);

            let layer = rw().await.expect("opens");
            layer.bitmaps().remove("gone").expect("there");
            layer.set_len(2 * SIZE, Preallocation::Off).await.expect("grown");
            write(&layer, 2 * SIZE - 10, 10, 2).await.expect("written");
            layer.close().await.expect("closed");
            let layer = rw().await.expect("opens");
            assert_eq!(findings(&layer).await.expect("checked"), []);
            let loaded = layer.bitmaps().find("a").expect("stored");
            assert_eq!(bits(&loaded)[..expected.len()], expected[..]);
            assert!(loaded.get(2 * SIZE - 1) && !loaded.get(2 * SIZE - 600));
            assert_eq!(layer.bitmaps().all().len(), 2);

            for bitmap in layer.bitmaps().all() {
                layer.bitmaps().remove(bitmap.name()).expect("there");
            }
            layer.close().await.expect("closed");
            let layer = rw().await.expect("opens");
            assert_eq!(findings(&layer).await.expect("checked"), []);
            assert!(layer.bitmaps().all().is_empty());
            add(&layer, "again", 512);
            layer.close().await.expect("closed");
            let layer = rw().await.expect("opens");
            assert_eq!(layer.bitmaps().all().len(), 1);
        }
    });
}

#[test]
fn an_image_that_is_not_closed_has_inconsistent_bitmaps_that_can_only_be_removed() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file: Device = Arc::new(image(&runtime, 4096).await);
        let rw = || open_image(&runtime, file.clone(), Access::ReadWrite);
        let layer = rw().await.expect("opens");
        add(&layer, "on", 512);
        add(&layer, "off", 512).set(0, 512);
        layer.bitmaps().set_recording("off", false).expect("there");
        layer.close().await.expect("closed");
        let layer = rw().await.expect("opens");
        drop(layer);
        let layer = rw().await.expect("opens");
        assert!(
            !layer.bitmaps().find("on").expect("there").status().inconsistent,
            "not written to"
        );
        write(&layer, 0, 512, 1).await.expect("written");
        drop(layer);
        let layer = rw().await.expect("opens");
        let find = |name: &str| layer.bitmaps().find(name).expect("there");
        assert!(find("on").status().inconsistent && !find("on").status().recording);
        assert_eq!((find("off").status().inconsistent, find("off").count()), (false, 512));
        assert!(layer.bitmaps().clear("on").is_err());
        write(&layer, 0, 512, 2).await.expect("written");
        layer.close().await.expect("closed");
        let layer = rw().await.expect("opens");
        assert!(layer.bitmaps().find("on").expect("kept").status().inconsistent);
        layer.bitmaps().remove("on").expect("removable");
        layer.close().await.expect("closed");
        let layer = rw().await.expect("opens");
        assert_eq!(findings(&layer).await.expect("checked"), []);
        assert_eq!(layer.bitmaps().all().len(), 1);
    });
}

#[test]
fn version_2_keeps_no_bitmaps() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file: Device = Arc::new(MemoryDevice::new(0));
        let options =
            CreateOptions { version: Version::V2, size: SIZE, ..CreateOptions::default() };
        let handle: Arc<dyn Runtime> = runtime.handle();
        create(&handle, &file, None, &options).await.expect("created");
        let layer = open_image(&runtime, file, Access::ReadWrite).await.expect("opens");
        let bitmap = DirtyBitmap::new("b", SIZE, 512).expect("valid");
        assert!(layer.driver().can_store_bitmap(&bitmap).is_err());
    });
}

/// Opens, changes disk and bitmaps in every way, and closes.
async fn session(runtime: &SimRuntime, file: Device) -> Result<()> {
    let layer = open_image(runtime, file, Access::ReadWrite).await?;
    layer.bitmaps().set_recording("b", false)?;
    write(&layer, 0x1_0000, 3000, 1).await?;
    layer.bitmaps().set_recording("c", true)?;
    write(&layer, 0x2_0000, 9000, 2).await?;
    layer.flush().await?;
    layer.discard(0x3_0000, 0x1_0000).await?;
    layer.bitmaps().remove("d")?;
    add(&layer, "e", GRANULARITY);
    write(&layer, 0x4_0000, 100, 3).await?;
    layer.close().await
}

/// A bitmap that says it knows must know: what differs from the base is dirty, if it recorded.
async fn verify(name: &str, layer: &Layer, base: &[u8]) {
    assert_sound(name, layer).await;
    let now = layer.read(0, SIZE).await.expect("readable").to_vec();
    for bitmap in layer.bitmaps().all() {
        // `b` stopped at the beginning, `c` began in the middle, `e` is new; their bits are not
        // those of the base. `a` always records, `d` until it is removed.
        let status = bitmap.status();
        if status.inconsistent || !matches!(bitmap.name(), "a" | "d") {
            continue;
        }
        for at in (0..SIZE).step_by(512) {
            let range =
                usize::try_from(at).expect("small")..usize::try_from(at + 512).expect("small");
            let same = now[range.clone()] == base[range];
            let what = bitmap.name();
            assert!(same || bitmap.get(at), "{name}: {what} calls {at:#x} clean and it is not");
        }
    }
    if let Some(c) = layer.bitmaps().get("c")
        && !c.status().inconsistent
        && c.status().recording
    {
        let written = now[0x2_0000..0x2_0000 + 9000].contains(&2);
        assert!(!written || c.get(0x2_0000), "{name}: c was enabled before that write");
    }
}

async fn prepared(runtime: &SimRuntime) -> (MemoryDevice, Vec<u8>) {
    let file = image(runtime, 4096).await;
    let device: Device = Arc::new(file.fork());
    let layer = open_image(runtime, device.clone(), Access::ReadWrite).await.expect("opens");
    write(&layer, 0, SIZE, 9).await.expect("written");
    for name in ["a", "b", "c", "d"] {
        add(&layer, name, GRANULARITY).set(0, 100);
    }
    layer.bitmaps().set_recording("c", false).expect("there");
    layer.close().await.expect("closed");
    let base = layer.read(0, SIZE).await.expect("readable").to_vec();
    let bytes = device.read(0, device.len()).await.expect("readable").to_vec();
    (MemoryDevice::with_data(&bytes), base)
}

#[test]
fn power_lost_at_any_call_leaves_no_bitmap_that_is_falsely_clean() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let (file, base) = prepared(&runtime).await;
        let mut rng = Rng::new(3);
        let (mut states, mut call) = ([0; 2], 0);
        loop {
            let crashing = Arc::new(CrashDevice::new(file.fork()));
            crashing.crash_after(call);
            let result = session(&runtime, crashing.clone()).await;
            for _ in 0..4 {
                let name = alloc::format!("crash at {call}");
                let left: Device = Arc::new(crashing.crash(rng.next_u64()));
                let layer = open_image(&runtime, left.clone(), Access::ReadWrite).await;
                let layer = layer.unwrap_or_else(|e| panic!("{name}: it does not open: {e}"));
                verify(&name, &layer, &base).await;
                let a = layer.bitmaps().find("a").expect("never lost");
                states[usize::from(a.status().inconsistent)] += 1;
                layer.bitmaps().remove("a").expect("removable");
                write(&layer, 0x6_0000, 100, 4).await.expect("writable");
                layer.close().await.expect("closed");
                let layer = open_image(&runtime, left, Access::ReadOnly).await.expect("opens");
                verify(&name, &layer, &base).await;
            }
            if !crashing.crashed() {
                result.expect("nothing has failed");
                break;
            }
            call += 1;
        }
        assert!(call > 10 && states[0] > 0 && states[1] > 0, "{call} calls, {states:?}");
    });
}

#[test]
fn any_call_that_fails_leaves_no_bitmap_that_is_falsely_clean() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let (file, base) = prepared(&runtime).await;
        let all = || Fault::new(ErrorKind::Io);
        let writes = || all().on(CallFilter::of(CallKinds::WRITE));
        let faults: [(&str, &dyn Fn() -> Fault); 3] = [
            ("not done", &all),
            ("half done", &|| writes().effect(Effect::Half)),
            ("done all the same", &|| writes().effect(Effect::Whole)),
        ];
        for (kind, fault) in faults {
            let mut call = 0;
            loop {
                let name = alloc::format!("call {call} {kind}");
                let below: Device = Arc::new(file.fork());
                let failing = Arc::new(FaultDevice::new(below.clone()));
                failing.add(fault().nth(call));
                let result = session(&runtime, failing.clone()).await;
                let layer = open_image(&runtime, below.clone(), Access::ReadWrite).await;
                let layer = layer.unwrap_or_else(|e| panic!("{name}: it does not open: {e}"));
                verify(&name, &layer, &base).await;
                layer.bitmaps().find("a").expect("never lost");
                write(&layer, 0x6_0000, 100, 4).await.expect("writable");
                layer.close().await.expect("closed");
                let layer = open_image(&runtime, below, Access::ReadOnly).await.expect("opens");
                verify(&name, &layer, &base).await;
                if failing.failed() == 0 {
                    result.expect("nothing has failed");
                    break;
                }
                call += 1;
            }
            assert!(call > 5, "{kind}: {call} calls");
        }
    });
}
