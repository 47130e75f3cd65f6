//! Changes of the header: all at once, whatever happens, and with everything else as it was.

use super::super::header::{Header, UnknownExtension};
use super::super::open::read_header;
use super::super::{CreateOptions, Version, create};
use super::{env, findings, rounds};
use crate::format::{Backing, BackingRef, FormatName, Layer, OpenOptions, open};
use crate::io::testing::{
    CallFilter, CallKinds, CrashDevice, Fault, FaultDevice, Rng, SimRuntime, fail_each_call,
};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags};
use crate::{ErrorKind, Result};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Any extension that no specification has.
const UNKNOWN: u32 = 0x1234_5678;

fn backing(name: &str, format: Option<&str>) -> Option<BackingRef> {
    Some(BackingRef { name: name.into(), format: format.map(Into::into) })
}

/// Names and formats that an image has one after the other.
fn changes(room: usize) -> Vec<Option<BackingRef>> {
    let long: String = core::iter::repeat_n('n', room.min(1023)).collect();
    alloc::vec![
        backing("a", Some("raw")),
        backing("a/longer/name", Some("qcow2")),
        backing(&long, None),
        backing("b", Some("a format with a long name")),
        None,
        backing(&long, Some("raw")),
        None,
    ]
}

/// An image with some data and an extension that is not known here.
async fn image(runtime: &SimRuntime, cluster_size: u32, version: Version) -> Arc<MemoryDevice> {
    let options =
        CreateOptions { size: 64 << 10, cluster_size, version, ..CreateOptions::default() };
    let file = Arc::new(MemoryDevice::new(0));
    let device: Device = file.clone();
    create(&runtime.handle(), &device, None, &options).await.expect("possible options");
    let mut header = read_header(&device).await.expect("a header");
    header.unknown_extensions.push(UnknownExtension { kind: UNKNOWN, data: b"keep".to_vec() });
    if let Ok(bytes) = header.emit() {
        file.write(0, bytes.into(), WriteFlags::empty()).await.expect("writable");
    }
    let layer = open_over(runtime, device).await.expect("it opens");
    layer.write(0x1000, alloc::vec![7; 0x1000].into(), WriteFlags::empty()).await.expect("room");
    layer.flush().await.expect("durable");
    file
}

async fn open_over(runtime: &SimRuntime, file: Device) -> Result<Arc<Layer>> {
    let other: Device = Arc::new(MemoryDevice::new(64 << 10));
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        backing: Backing::Ignore,
        ..OpenOptions::default()
    };
    open(&env(runtime, &other), file, "image", options).await
}

async fn named(layer: &Layer) -> Option<BackingRef> {
    layer.driver().describe().await.expect("a description").backing
}

/// Everything but the name, the format and the courtesy of feature names.
fn rest(header: &Header) -> Header {
    Header { backing_name: None, backing_format: None, has_feature_names: true, ..header.clone() }
}

const KINDS: [(u32, Version); 4] =
    [(512, Version::V3), (512, Version::V2), (4096, Version::V3), (65536, Version::V2)];

#[test]
fn the_backing_files_name_changes_and_nothing_else_does() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for (cluster, version) in KINDS {
            let file: Device = image(&runtime, cluster, version).await;
            let before = read_header(&file).await.expect("a header");
            let layer = open_over(&runtime, file.clone()).await.expect("it opens");
            for want in changes(cluster as usize / 2) {
                layer.driver().set_backing(want.clone()).await.expect("there is room");
                assert_eq!(named(&layer).await, want);
                let again = open_over(&runtime, file.clone()).await.expect("it opens");
                assert_eq!(named(&again).await, want, "opened again");
                let header = read_header(&file).await.expect("a header");
                assert_eq!(rest(&header), rest(&before));
                assert_eq!(findings(&again).await.expect("a report"), []);
            }
            let bytes = file.read(0, u64::from(cluster)).await.expect("readable").to_vec();
            assert!(!bytes.windows(8).any(|w| w == b"nnnnnnnn"), "an old name stays behind");
        }
    });
}

#[test]
fn a_name_that_cannot_be_held_changes_nothing() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file = image(&runtime, 512, Version::V3).await;
        let device: Device = file.clone();
        let layer = open_over(&runtime, device.clone()).await.expect("it opens");
        let before = file.read(0, file.len()).await.expect("readable").to_vec();
        let long: String = core::iter::repeat_n('n', 1024).collect();
        for (name, kind) in [
            ("", ErrorKind::InvalidInput),
            (&long[..], ErrorKind::InvalidInput),
            (&long[..600], ErrorKind::Limit),
        ] {
            let error = layer.driver().set_backing(backing(name, None)).await.expect_err(name);
            assert_eq!(error.kind(), kind, "{error}");
            let after = file.read(0, file.len()).await.expect("readable").to_vec();
            assert!(before == after, "{} bytes", name.len());
        }
        layer.driver().set_backing(backing("fits", None)).await.expect("it is not poisoned");
    });
}

#[test]
fn power_lost_while_the_name_changes_leaves_the_old_one_or_the_new_one() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(7);
        for (cluster, version) in KINDS {
            let made = image(&runtime, cluster, version).await;
            for call in 0.. {
                let file = Arc::new(CrashDevice::new(made.fork()));
                file.crash_after(call);
                let layer = open_over(&runtime, file.clone()).await.expect("it opens");
                let (mut old, mut new) = (None, None);
                for want in changes(cluster as usize / 2) {
                    new.clone_from(&want);
                    if layer.driver().set_backing(want.clone()).await.is_err() {
                        break;
                    }
                    old = want;
                }
                for _ in 0..4 * rounds() {
                    let left: Device = Arc::new(file.crash(rng.next_u64()));
                    let layer = open_over(&runtime, left.clone()).await;
                    let layer = layer.unwrap_or_else(|e| panic!("{cluster}, {call}: {e}"));
                    let found = named(&layer).await;
                    assert!(found == old || found == new, "{cluster}, {call}: {found:?}");
                    assert_eq!(findings(&layer).await.expect("a report"), []);
                    let header = read_header(&left).await.expect("a header");
                    let kept = header.unknown_extensions.iter().any(|e| e.data == b"keep");
                    assert!(kept || cluster == 512, "{cluster}, {call}");
                }
                if !file.crashed() {
                    assert!(call > 10, "{call} calls");
                    break;
                }
            }
        }
    });
}

#[test]
fn a_call_that_fails_while_the_name_changes_leaves_the_old_one_or_the_new_one() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let made = image(&runtime, 4096, Version::V3).await;
        let below = core::cell::RefCell::new(made.clone());
        let make = async || {
            let fresh = Arc::new(made.fork());
            *below.borrow_mut() = fresh.clone();
            fresh as Device
        };
        let test = async |file: Arc<FaultDevice>, call: u64| {
            let Ok(layer) = open_over(&runtime, file).await else { return };
            let (mut old, mut new) = (None, None);
            for want in changes(1023) {
                new.clone_from(&want);
                if layer.driver().set_backing(want.clone()).await.is_err() {
                    break;
                }
                old = want;
            }
            let left: Device = Arc::new(below.borrow().fork());
            let layer = open_over(&runtime, left).await.expect("it opens");
            let found = named(&layer).await;
            assert!(found == old || found == new, "call {call}: {found:?}");
        };
        let filter = CallFilter::of(CallKinds::CHANGES | CallKinds::FLUSH);
        let calls = fail_each_call(Fault::new(ErrorKind::Io).on(filter), make, test).await;
        assert!(calls > 10, "{calls} calls");
    });
}

/// A cluster of 1024 bytes has no sectors for the name to wait in: it waits beside the old one. Once
/// the whole header was written at once there, and half a name could be left.
#[test]
fn a_long_name_in_a_small_cluster_is_never_left_in_part() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let name = |letter: char, len| Some(core::iter::repeat_n(letter, len).collect::<String>());
        let names = [name('n', 180), name('m', 200), name('n', 20), name('m', 180), None];
        let made = image(&runtime, 1024, Version::V3).await;
        for call in 0.. {
            let file = Arc::new(CrashDevice::new(made.fork()));
            file.crash_after(call);
            let layer = open_over(&runtime, file.clone()).await.expect("it opens");
            let (mut old, mut new) = (None, None);
            for name in &names {
                let want = name.as_ref().and_then(|name| backing(name, Some("raw")));
                new.clone_from(&want);
                if layer.driver().set_backing(want.clone()).await.is_err() {
                    break;
                }
                old = want;
            }
            let count = file.unflushed().len();
            for seed in 0..8 {
                let left: Device = Arc::new(file.crash_tearing(512, seed, |_| true));
                let layer = open_over(&runtime, left.clone()).await;
                let layer = layer.unwrap_or_else(|e| panic!("{call}: {e}"));
                let found = named(&layer).await;
                assert!(found == old || found == new, "{call}, {count} unflushed: {found:?}");
            }
            if !file.crashed() {
                assert!(call > 10, "{call} calls");
                let bytes = file.read(0, 1024).await.expect("readable").to_vec();
                let kept = bytes.windows(4).any(|w| w == b"nnnn" || w == b"mmmm");
                assert!(!kept, "an old name stays behind");
                break;
            }
        }
    });
}
