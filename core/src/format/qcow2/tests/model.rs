//! Every kind of image against a flat disk, checked after every step.

use super::super::{CreateOptions, DataFileOptions, Version, create};
use super::{Always, findings, rounds};
use crate::codec::Compression;
use crate::format::layer::DataFile;
use crate::format::{BackingRef, Env, FormatName, Layer, NewSnapshot, OpenOptions, open};
use crate::io::testing::model::{self, ModelOptions, Op, Subject};
use crate::io::testing::{SimRuntime, YieldDevice};
use crate::io::{Access, BlockDevice, BoxFuture, Device, MemoryDevice, Preallocation, Runtime};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// An image in memory, checked after every step.
struct Fixture {
    runtime: Arc<dyn Runtime>,
    options: CreateOptions,
    /// What the backing file holds.
    backing: Device,
    files: crate::sync::Mutex<Option<(Device, Option<Device>)>>,
    yielding: bool,
    /// The image as it is open, for what is more than a device.
    layer: crate::sync::Mutex<Weak<Layer>>,
}

impl Fixture {
    fn new(runtime: &SimRuntime, options: CreateOptions) -> Self {
        let backing: Device = Arc::new(MemoryDevice::new(options.size));
        Self {
            runtime: runtime.handle(),
            options,
            backing,
            files: crate::sync::Mutex::new(None),
            yielding: false,
            layer: crate::sync::Mutex::new(Weak::new()),
        }
    }

    fn env(&self) -> Env {
        Env { runtime: self.runtime.clone(), policy: Arc::new(Always(self.backing.clone())) }
    }

    async fn open(&self, access: Access) -> Result<Arc<Layer>> {
        let (mut file, data) = self.files.lock().clone().ok_or_else(|| Error::bug("no image"))?;
        if self.yielding {
            file = Arc::new(YieldDevice::new(file));
        }
        let data_file = data.map(|device| DataFile { device, filename: Arc::from("data") });
        let format = Some(FormatName::Qcow2);
        let options =
            OpenOptions { format, access, data_file: data_file.into(), ..OpenOptions::default() };
        open(&self.env(), file, "image", options).await
    }

    async fn assert_clean(&self) -> Result<()> {
        let layer = self.open(Access::ReadOnly).await?;
        match findings(&layer).await?.as_slice() {
            [] => Ok(()),
            found => Err(Error::corrupt(format!("{found:?}"))),
        }
    }
}

impl Subject for Fixture {
    fn make(&self) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async move {
            let file: Device = Arc::new(MemoryDevice::new(0).named("file"));
            let data: Option<Device> = self
                .options
                .data_file
                .is_some()
                .then(|| Arc::new(MemoryDevice::new(0).named("data")) as Device);
            create(&self.runtime, &file, data.as_ref(), &self.options).await?;
            *self.files.lock() = Some((file, data));
            self.assert_clean().await?;
            let layer = self.open(Access::ReadWrite).await?;
            *self.layer.lock() = Arc::downgrade(&layer);
            Ok(layer as Device)
        })
    }

    fn reopen(&self, device: Device) -> BoxFuture<'_, Result<Device>> {
        Box::pin(async move {
            device.flush().await?;
            drop(device);
            let layer = self.open(Access::ReadWrite).await?;
            *self.layer.lock() = Arc::downgrade(&layer);
            Ok(layer as Device)
        })
    }

    fn change_state<'a>(&'a self, _: &'a Device, change: &'a Op) -> BoxFuture<'a, Result<()>> {
        let layer = self.layer.lock().upgrade();
        Box::pin(async move {
            let layer = layer.ok_or_else(|| Error::bug("no image is open"))?;
            let snapshots =
                layer.driver().snapshots().ok_or_else(|| Error::bug("qcow2 has snapshots"))?;
            let id = |number: u32| {
                let list = snapshots.list();
                let found = list.iter().find(|s| s.name == format!("{number}"));
                found.map(|s| s.id.clone()).ok_or_else(|| Error::bug("a snapshot is gone"))
            };
            match *change {
                Op::Keep(number) => {
                    let new = NewSnapshot { name: format!("{number}"), ..NewSnapshot::default() };
                    snapshots.create(new).await.map(|_| ())
                }
                Op::GoBack(number) => snapshots.apply(&id(number)?).await,
                Op::Throw(number) => snapshots.delete(&id(number)?).await,
                _ => Ok(()),
            }
        })
    }

    fn inspect<'a>(&'a self, device: &'a dyn BlockDevice) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            device.flush().await?;
            // Lazy refcounts are behind until the image is closed: opening repairs them.
            if self.options.lazy_refcounts { Ok(()) } else { self.assert_clean().await }
        })
    }
}

/// Every kind of image that can be made.
fn every_kind() -> Vec<(String, CreateOptions)> {
    let size = 300 * 1024 + 512;
    let base = CreateOptions { size, ..CreateOptions::default() };
    let mut out = Vec::new();
    for bits in 9..=21u32 {
        let cluster_size = 1 << bits;
        let name = |rest: &str| format!("cluster {cluster_size}, {rest}");
        out.push((
            name("v2"),
            CreateOptions { cluster_size, version: Version::V2, ..base.clone() },
        ));
        for refcount_bits in [1, 2, 4, 8, 16, 32, 64] {
            let options = CreateOptions { cluster_size, refcount_bits, ..base.clone() };
            out.push((name(&format!("refcounts of {refcount_bits} bits")), options));
        }
        let zstd =
            CreateOptions { cluster_size, compression_type: Compression::Zstd, ..base.clone() };
        out.push((name("zstd"), zstd));
        let lazy = CreateOptions { cluster_size, lazy_refcounts: true, ..base.clone() };
        out.push((name("lazy refcounts"), lazy));
        if bits >= 14 {
            let options = CreateOptions { cluster_size, extended_l2: true, ..base.clone() };
            out.push((name("extended L2"), options));
        }
        for raw in [false, true] {
            let data_file = Some(DataFileOptions { name: "data".into(), raw });
            let options = CreateOptions { cluster_size, data_file, ..base.clone() };
            out.push((name(&format!("data file, raw {raw}")), options));
        }
        for preallocation in [Preallocation::Metadata, Preallocation::Full] {
            let options = CreateOptions { cluster_size, preallocation, ..base.clone() };
            out.push((name(&format!("{preallocation:?} preallocated")), options));
        }
        for extended_l2 in [false, true] {
            if extended_l2 && bits < 14 {
                continue;
            }
            let backing = Some(BackingRef { name: "base".into(), format: Some("raw".into()) });
            let options = CreateOptions { cluster_size, extended_l2, backing, ..base.clone() };
            out.push((name(&format!("backed, extended L2 {extended_l2}")), options));
        }
    }
    out
}

fn run_model(seed: u64, ops: usize, yielding: bool) {
    for (i, (name, create)) in every_kind().into_iter().enumerate() {
        let runtime = SimRuntime::new(seed + i as u64);
        let mut fixture = Fixture::new(&runtime, create.clone());
        fixture.yielding = yielding;
        let options = ModelOptions {
            seed: seed + i as u64,
            ops,
            window: create.size,
            longest: 3 * u64::from(create.cluster_size).min(64 << 10),
            in_flight: 6,
            compressed: create.data_file.is_none(),
            reopen: true,
            ..ModelOptions::default()
        };
        if let Err(failure) = runtime.block_on(model::check(&fixture, &options)) {
            panic!("{name}: {failure}");
        }
    }
}

#[test]
fn every_kind_of_image_behaves_like_a_flat_disk() {
    run_model(1, 60, false);
}

#[test]
fn interleaved_requests_behave_like_a_flat_disk() {
    run_model(1_000, 40, true);
}

#[test]
fn snapshots_and_sizes_behave_like_a_flat_disk() {
    let size = 100 * 1024;
    let backing = || Some(BackingRef { name: "base".into(), format: Some("raw".into()) });
    let base = CreateOptions { size, cluster_size: 512, ..CreateOptions::default() };
    let kinds = [
        ("512", base.clone()),
        ("4096", CreateOptions { cluster_size: 4096, ..base.clone() }),
        ("65536", CreateOptions { cluster_size: 65536, ..base.clone() }),
        ("version 2", CreateOptions { version: Version::V2, ..base.clone() }),
        ("refcounts of 64 bits", CreateOptions { refcount_bits: 64, ..base.clone() }),
        ("refcounts of 4 bits", CreateOptions { refcount_bits: 4, ..base.clone() }),
        ("backed", CreateOptions { backing: backing(), ..base.clone() }),
        ("extended L2", CreateOptions { extended_l2: true, cluster_size: 16384, ..base.clone() }),
        (
            "extended L2, backed",
            CreateOptions {
                extended_l2: true,
                cluster_size: 16384,
                backing: backing(),
                ..base.clone()
            },
        ),
        ("lazy refcounts", CreateOptions { lazy_refcounts: true, ..base.clone() }),
    ];
    for round in 0..2 * rounds() {
        for (i, (name, create)) in kinds.iter().enumerate() {
            let seed = 2_000 + 100 * round + i as u64;
            let runtime = SimRuntime::new(seed);
            let mut fixture = Fixture::new(&runtime, create.clone());
            fixture.yielding = round % 2 == 1;
            let options = ModelOptions {
                seed,
                ops: 120,
                window: 2 * size,
                longest: 16 << 10,
                // Version 2 cannot say how large the disk of a snapshot was.
                max_len: (create.version == Version::V3).then_some(size * 3 / 2),
                len_unit: 512,
                states: 4,
                in_flight: 6,
                // Of many references to one host cluster a narrow refcount is soon full.
                compressed: create.refcount_bits >= 16,
                reopen: true,
                ..ModelOptions::default()
            };
            if let Err(failure) = runtime.block_on(model::check(&fixture, &options)) {
                panic!("{name}: {failure}");
            }
        }
    }
}
