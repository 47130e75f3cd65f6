//! Images in every state that matters to what goes wrong, each with operations that take its
//! tables through all their changes.

use super::super::layout as l;
use super::super::{CreateOptions, DataFileOptions, Version, create};
use super::Always;
use super::builder::{CLUSTER, Image, SIZE, SPARE};
use crate::Result;
use crate::codec::Compression;
use crate::format::layer::DataFile;
use crate::format::{BackingRef, Env, FormatName, Layer, OpenOptions, open};
use crate::io::testing::SimRuntime;
use crate::io::testing::model::{Flat, Op, Plan, payload};
use crate::io::{
    Access, BlockDevice, BoxFuture, Device, MemoryDevice, Preallocation, Runtime, WriteFlags,
};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// An image, and what is to be done to it.
pub(super) struct Disk {
    pub(super) name: &'static str,
    pub(super) file: MemoryDevice,
    pub(super) data: Option<MemoryDevice>,
    /// How it was made, where nothing else has happened to it.
    pub(super) options: Option<CreateOptions>,
    backing: Device,
    pub(super) plan: Plan,
    runtime: Arc<dyn Runtime>,
}

/// Allocates, overwrites in part, compresses, zeroes, discards, frees and allocates again.
const CHANGES: &str = "w0+400=5 w600+100=6 f w8000+4000=13 z100+180U d8000+2000 f w8200+300=7 \
                       zc000+8000U w20000+200=9 f (w40000+600=10 w41000+100=11 z42000+2000) \
                       w600+20=14 f o w0+200=22 d20000+8000 f w20000+1000=29 f";

/// The same with compressed clusters, for clusters of 512 bytes; some need two new L2 tables.
/// (Tags are such that there is something to compress.)
const COMPRESSED: &str = "w0+1000=9C w1000+200=5 wfe00+400=9C f w0+1000=8C w200+200=9C f \
                          w2000+400=18C d0+800 f w2000+800=17C w0+300=30 f o w0+600=16C f";

/// Makes the disk longer, so that the L1 table moves, and uses what was gained.
const GROWTH: &str = "w0+400=5 l180000 f w17f000+800=6 l300000 w2f0000+400=13 w17f100+100=7 f o \
                      w200000+400=14 f l500000 w4ff000+1000=21 f";

impl Disk {
    /// Every state.
    pub(super) async fn all(runtime: &SimRuntime) -> Vec<Self> {
        let base = CreateOptions { size: 300 << 10, cluster_size: 512, ..CreateOptions::default() };
        let v2 = CreateOptions { version: Version::V2, ..base.clone() };
        let narrow = CreateOptions { refcount_bits: 1, ..base.clone() };
        let zstd = CreateOptions { compression_type: Compression::Zstd, ..base.clone() };
        let large = CreateOptions { cluster_size: 16 << 10, ..base.clone() };
        let extended = CreateOptions { extended_l2: true, ..large.clone() };
        let backing = Some(BackingRef { name: "base".into(), format: Some("raw".into()) });
        let backed = CreateOptions { backing, ..base.clone() };
        let backed_v2 = CreateOptions { version: Version::V2, ..backed.clone() };
        let backed_extended = CreateOptions { backing: backed.backing.clone(), ..extended.clone() };
        let data_file = |raw| CreateOptions {
            data_file: Some(DataFileOptions { name: "data".into(), raw }),
            ..base.clone()
        };
        let lazy = CreateOptions { lazy_refcounts: true, ..base.clone() };
        let lazy_large = CreateOptions { lazy_refcounts: true, ..extended.clone() };
        let mut all = Vec::new();
        for (name, options, plan) in [
            ("small clusters", &base, CHANGES),
            ("version 2", &v2, CHANGES),
            ("refcounts of 1 bit", &narrow, CHANGES),
            ("large clusters", &large, CHANGES),
            ("extended L2", &extended, CHANGES),
            ("backed", &backed, CHANGES),
            ("backed, version 2", &backed_v2, CHANGES),
            ("backed, extended L2", &backed_extended, CHANGES),
            ("data file", &data_file(false), CHANGES),
            ("raw data file", &data_file(true), CHANGES),
            ("compressed", &base, COMPRESSED),
            ("compressed by zstd", &zstd, COMPRESSED),
            ("compressed, refcounts of 1 bit", &narrow, COMPRESSED),
            ("compressed over a backing file", &backed, COMPRESSED),
            ("growing", &base, GROWTH),
            ("lazy refcounts", &lazy, CHANGES),
            ("lazy refcounts, extended L2", &lazy_large, CHANGES),
            ("lazy refcounts, compressed", &lazy, COMPRESSED),
            ("lazy refcounts, growing", &lazy, GROWTH),
        ] {
            all.push(Self::make(runtime, name, options, plan).await);
        }
        all.push(Self::full(runtime).await);
        all.push(Self::with_snapshot(runtime));
        all
    }

    async fn make(
        runtime: &SimRuntime,
        name: &'static str,
        options: &CreateOptions,
        plan: &str,
    ) -> Self {
        let runtime = runtime.handle();
        let file = Arc::new(MemoryDevice::new(0));
        let data = options.data_file.as_ref().map(|_| Arc::new(MemoryDevice::new(0)));
        let (image, other) = (file.clone() as Device, data.clone().map(|d| d as Device));
        create(&runtime, &image, other.as_ref(), options).await.expect("options that are possible");
        // The backing file is shorter than the disk.
        let bytes = payload(5, 0, 250 << 10).to_bytes();
        Self {
            name,
            file: file.fork(),
            data: data.map(|d| d.fork()),
            options: Some(options.clone()),
            backing: Arc::new(MemoryDevice::with_data(&bytes)),
            plan: plan.parse().expect("a plan"),
            runtime,
        }
    }

    /// An image whose refcount table is full but for a few clusters.
    async fn full(runtime: &SimRuntime) -> Self {
        let options = CreateOptions {
            size: 0x21_0000,
            cluster_size: 512,
            refcount_bits: 64,
            ..CreateOptions::default()
        };
        let plan = "w1e8000+8000=5 f w1f0000+8000=13 w1f8000+4000=6 f d1f0000+4000 f \
                    w208000+2000=7 w20a000+200=14 f o w0+200=21 w20c000+2000=22 f";
        let mut disk = Self::make(runtime, "refcount table full", &options, plan).await;
        let file: Device = Arc::new(disk.file.fork());
        let layer = disk.open(file, None, Access::ReadWrite).await.expect("it opens");
        let bytes = payload(5, 0, 0x1e_8000);
        layer.write(0, bytes, WriteFlags::empty()).await.expect("there is room");
        layer.flush().await.expect("durable");
        let bytes = layer.file().read(0, layer.file().len()).await.expect("readable").to_vec();
        (disk.file, disk.options) = (MemoryDevice::with_data(&bytes), None);
        disk
    }

    /// An image with a snapshot that shares everything with it.
    fn with_snapshot(runtime: &SimRuntime) -> Self {
        let table = SPARE + CLUSTER;
        let mut image = Image::v3();
        image
            .snapshot_of_all(table)
            .be32(table + 36, 16)
            .be64(table + 48, SIZE)
            .put(table + 56, b"1one");
        debug_assert_eq!(l::SECTOR as usize, CLUSTER);
        let plan = "w100+20=5 f w600+200=6 d0+200 f w0+400=13 z200+200U w800+600=16C f o w0+100=14 \
                    w4000+1000=7 f";
        Self {
            name: "snapshot",
            file: MemoryDevice::with_data(&image.bytes),
            data: None,
            options: None,
            backing: Arc::new(MemoryDevice::new(0)),
            plan: plan.parse().expect("a plan"),
            runtime: runtime.handle(),
        }
    }

    /// Opens it over other devices.
    pub(super) async fn open(
        &self,
        file: Device,
        data: Option<Device>,
        access: Access,
    ) -> Result<Arc<Layer>> {
        let policy = Arc::new(Always(self.backing.clone()));
        let env = Env { runtime: self.runtime.clone(), policy };
        let data_file = data.map(|device| DataFile { device, filename: Arc::from("data") });
        let format = Some(FormatName::Qcow2);
        let options =
            OpenOptions { format, access, data_file: data_file.into(), ..OpenOptions::default() };
        open(&env, file, "image", options).await
    }

    /// What it holds at the beginning.
    pub(super) async fn contents(&self) -> Flat {
        let (file, data) = self.copies();
        let layer = self.open(file, data, Access::ReadOnly).await.expect("it opens");
        Flat::new(layer.read(0, layer.len()).await.expect("readable").to_vec())
    }

    /// Copies of its files.
    pub(super) fn copies(&self) -> (Device, Option<Device>) {
        let data = self.data.as_ref().map(|data| Arc::new(data.fork()) as Device);
        (Arc::new(self.file.fork()), data)
    }
}

/// Makes one operation of a plan.
pub(super) fn perform(device: Device, op: Op) -> BoxFuture<'static, Result<()>> {
    Box::pin(async move {
        match op {
            Op::Read(r) => device.read(r.start, r.end - r.start).await.map(|_| ()),
            Op::Write { range, tag, flags } => {
                let data = payload(tag, range.start, range.end - range.start);
                device.write(range.start, data, flags).await
            }
            Op::Zero { range, flags } => {
                device.write_zeroes(range.start, range.end - range.start, flags).await
            }
            Op::Discard(r) => device.discard(r.start, r.end - r.start).await,
            Op::Flush => device.flush().await,
            Op::SetLen(len) => device.set_len(len, Preallocation::Off).await,
            Op::Extents(r) => device.extents(r.start, r.end - r.start).await.map(|_| ()),
            Op::Keep(_) | Op::GoBack(_) | Op::Throw(_) | Op::Reopen => Ok(()),
            Op::Batch(ops) => {
                let all = ops.into_iter().map(|op| perform(device.clone(), op));
                futures_util::future::try_join_all(all).await.map(|_| ())
            }
        }
    })
}

/// Makes the same change to the model: for sure, or perhaps.
pub(super) fn note(model: &mut Flat, op: &Op, sure: bool) {
    match op {
        Op::Write { range, tag, .. } => {
            let data = payload(*tag, range.start, range.end - range.start).to_bytes();
            match sure {
                true => model.write(range.start, data),
                false => model.may_write(range.start, data),
            }
        }
        Op::Zero { range, .. } => match sure {
            true => model.zero(range.start, range.end - range.start),
            false => model.may_zero(range.start, range.end - range.start),
        },
        Op::Discard(range) => model.discard(range.start, range.end - range.start),
        Op::Flush if sure => model.flush(),
        Op::SetLen(len) if sure => model.set_len(*len),
        Op::Batch(ops) => ops.iter().for_each(|op| note(model, op, sure)),
        _ => {}
    }
}
