//! The state of a machine, behind the disk.

use super::super::{CreateOptions, DataFileOptions, create};
use super::builder::{CLUSTER, FILL, Image, SIZE, open_file};
use super::{env, findings};
use crate::format::{Layer, NewSnapshot, OpenOptions, open};
use crate::io::testing::SimRuntime;
use crate::io::{Access, BlockDevice, Device, MemoryDevice, Preallocation, WriteFlags};
use crate::{Error, ErrorKind};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

struct Bench {
    runtime: SimRuntime,
    file: Arc<MemoryDevice>,
}

impl Bench {
    fn new() -> Self {
        Self { runtime: SimRuntime::new(1), file: Image::v3().device() }
    }

    async fn open(&self) -> Arc<Layer> {
        let access = Access::ReadWrite;
        open_file(&self.runtime, self.file.clone(), access).await.expect("it opens")
    }

    /// Closes it; it is sound, and opened again.
    async fn again(&self, layer: Arc<Layer>) -> Arc<Layer> {
        layer.close().await.expect("closed");
        drop(layer);
        let layer = self.open().await;
        assert_eq!(findings(&layer).await.expect("a report"), []);
        layer
    }
}

async fn save(layer: &Layer, offset: u64, byte: u8, len: usize) {
    layer.write_vm_state(offset, vec![byte; len].into()).await.expect("writable");
}

async fn load(layer: &Layer, offset: u64, len: usize) -> Vec<u8> {
    layer.read_vm_state(offset, len as u64).await.expect("readable").to_vec()
}

async fn disk(layer: &Layer) -> u8 {
    layer.read(0, 1).await.expect("readable").to_vec()[0]
}

#[test]
fn it_is_kept_beside_the_disk() {
    let bench = Bench::new();
    bench.runtime.block_on(async {
        let layer = bench.open().await;
        assert_eq!(load(&layer, 1 << 20, 512).await, [0; 512], "nobody has written it");
        let middle = 3 * CLUSTER as u64 + 100;
        save(&layer, middle, 7, 300).await;
        // Far behind: the L1 table grows.
        save(&layer, 100 * SIZE, 8, 2 * CLUSTER).await;
        let layer = bench.again(layer).await;
        let all = load(&layer, middle - 100, CLUSTER).await;
        assert_eq!(all, [vec![0; 100], vec![7; 300], vec![0; 112]].concat());
        assert_eq!(load(&layer, 100 * SIZE, 2 * CLUSTER).await, [8; 2 * CLUSTER]);
        assert_eq!((layer.len(), disk(&layer).await), (SIZE, FILL));
        assert!(layer.read(SIZE, 1).await.is_err(), "it is no part of the disk");
    });
}

#[test]
fn snapshots_keep_it_and_bring_it_back() {
    let bench = Bench::new();
    bench.runtime.block_on(async {
        let layer = bench.open().await;
        save(&layer, 0, 7, 2 * CLUSTER).await;
        let snapshots = layer.driver().snapshots().expect("it has");
        let new = NewSnapshot { vm_state_size: 2 * CLUSTER as u64, ..NewSnapshot::default() };
        let with = snapshots.create(new).await.expect("made");
        assert_eq!(with.vm_state_size, 2 * CLUSTER as u64);
        assert_eq!(load(&layer, 0, 2 * CLUSTER).await, [0; 2 * CLUSTER], "it is the snapshot's");

        // One that says nothing of it shares it.
        save(&layer, 0, 9, 2 * CLUSTER).await;
        let without = snapshots.create(NewSnapshot::default()).await.expect("made");
        save(&layer, 100, 1, 100).await;
        let head = load(&layer, 0, CLUSTER).await;
        assert_eq!(head, [vec![9; 100], vec![1; 100], vec![9; CLUSTER - 200]].concat());
        let layer = bench.again(layer).await;
        let snapshots = layer.driver().snapshots().expect("it has");
        for (id, byte) in [(&without.id, 9), (&with.id, 7), (&without.id, 9)] {
            snapshots.apply(id).await.expect("applied");
            assert_eq!(load(&layer, 0, 2 * CLUSTER).await, [byte; 2 * CLUSTER]);
        }
        for id in [&with.id, &without.id] {
            snapshots.delete(id).await.expect("removed");
        }
        let layer = bench.again(layer).await;
        assert_eq!(load(&layer, 0, 2 * CLUSTER).await, [9; 2 * CLUSTER]);
        assert_eq!(disk(&layer).await, FILL);
    });
}

#[test]
fn the_tables_of_a_state_that_is_gone_are_used_again() {
    let bench = Bench::new();
    bench.runtime.block_on(async {
        let layer = bench.open().await;
        save(&layer, 0, 7, 4 * CLUSTER).await;
        let snapshots = layer.driver().snapshots().expect("it has");
        let new = NewSnapshot { vm_state_size: 2 * CLUSTER as u64, ..NewSnapshot::default() };
        let kept = snapshots.create(new).await.expect("made");
        snapshots.delete(&kept.id).await.expect("removed");
        layer.flush().await.expect("durable");
        // All that is free, the cluster of the table too.
        let data = vec![3; SIZE as usize];
        layer.write(0, data.into(), WriteFlags::empty()).await.expect("writable");
        save(&layer, 0, 8, 8 * CLUSTER).await;
        let layer = bench.again(layer).await;
        assert_eq!((disk(&layer).await, load(&layer, 0, 1).await), (3, vec![8]));
    });
}

/// The reference shows the guest what the machine's state was.
#[test]
fn a_disk_that_grows_over_it_gains_zeroes() {
    let bench = Bench::new();
    bench.runtime.block_on(async {
        let layer = bench.open().await;
        save(&layer, 0, 7, 2 * CLUSTER).await;
        layer.set_len(4 * SIZE, Preallocation::Off).await.expect("larger");
        let gained = layer.read(SIZE, 3 * SIZE).await.expect("readable").to_vec();
        assert!(gained.iter().all(|byte| *byte == 0));
        assert_eq!(load(&layer, 0, CLUSTER).await, [0; CLUSTER]);
        let layer = bench.again(layer).await;
        assert_eq!(disk(&layer).await, FILL);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new();
    bench.runtime.block_on(async {
        let layer = bench.open().await;
        let kind = |result: Result<(), Error>| result.expect_err("refused").kind();
        for offset in [1 << 40, i64::MAX as u64, u64::MAX] {
            let result = layer.write_vm_state(offset, vec![1; 512].into()).await;
            assert_eq!(kind(result), ErrorKind::Limit, "{offset:#x}");
        }
        drop(layer);
        let access = Access::ReadOnly;
        let layer = open_file(&bench.runtime, bench.file.clone(), access).await.expect("it opens");
        let result = layer.write_vm_state(0, vec![1; 512].into()).await;
        assert_eq!(kind(result), ErrorKind::Denied);
        assert_eq!(load(&layer, 0, 512).await, [0; 512]);
    });
}

/// Places in a raw data file are those of the guest, whichever table leads there. Making the disk
/// smaller takes the file along, and the state with it.
#[test]
fn a_disk_in_a_raw_data_file_becomes_smaller() {
    let runtime = SimRuntime::new(1);
    let file: Device = Arc::new(MemoryDevice::new(0));
    let data: Device = Arc::new(MemoryDevice::new(0));
    let env = env(&runtime, &data);
    runtime.block_on(async {
        let (size, smaller) = (256 << 10, 100 << 10);
        let options = CreateOptions {
            data_file: Some(DataFileOptions { name: "data".into(), raw: true }),
            cluster_size: 512,
            size,
            ..CreateOptions::default()
        };
        create(&env.runtime, &file, Some(&data), &options).await.expect("made");
        let options = OpenOptions { access: Access::ReadWrite, ..OpenOptions::default() };
        let layer = open(&env, file.clone(), "image", options).await.expect("it opens");
        let all = vec![7; size as usize];
        layer.write(0, all.into(), WriteFlags::empty()).await.expect("writable");
        save(&layer, 0, 8, 2048).await;
        layer.flush().await.expect("durable");
        layer.set_len(smaller, Preallocation::Off).await.expect("smaller");
        assert_eq!(data.len(), smaller);
        let left = layer.read(0, smaller).await.expect("readable").to_vec();
        assert_eq!(left, vec![7; smaller as usize]);
        layer.close().await.expect("closed");
        assert_eq!(findings(&layer).await.expect("a report"), []);
    });
}
