//! Zeroes around small writes: made ahead where nobody has written, written everywhere else.

use super::super::{CreateOptions, create};
use super::{env, findings};
use crate::format::{FormatName, Layer, OpenOptions, open};
use crate::io::testing::{CallKinds, CountDevice, SimRuntime};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags, ZeroFlags};
use alloc::sync::Arc;
use alloc::vec::Vec;

const CLUSTER: u64 = 4096;
const SIZE: u64 = 1 << 20;

async fn image(runtime: &SimRuntime, file: &Device) -> Arc<Layer> {
    let options = CreateOptions { size: SIZE, cluster_size: 4096, ..CreateOptions::default() };
    create(&runtime.handle(), file, None, &options).await.expect("possible options");
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access: Access::ReadWrite,
        ..OpenOptions::default()
    };
    open(&env(runtime, file), file.clone(), "image", options).await.expect("it opens")
}

async fn write(layer: &Layer, offset: u64, bytes: Vec<u8>) {
    layer.write(offset, bytes.into(), WriteFlags::empty()).await.expect("writable");
}

/// The whole disk is what `expected` says, and the image is sound and no longer than it has to be.
async fn finish(runtime: &SimRuntime, file: Device, layer: Arc<Layer>, expected: &[u8]) {
    let bytes = layer.read(0, SIZE).await.expect("readable").to_vec();
    assert!(bytes == expected, "other bytes than were written");
    layer.close().await.expect("closed");
    let len = file.len();
    let options = OpenOptions { format: Some(FormatName::Qcow2), ..OpenOptions::default() };
    let again = open(&env(runtime, &file), file, "image", options).await.expect("it opens");
    assert_eq!(findings(&again).await.expect("a report"), []);
    let report = again.driver().check(crate::format::Repair::Nothing, &|_, _| ()).await;
    let end = report.expect("a report").expect("qcow2 has a check").image_end_offset;
    assert_eq!(Some(len), end, "the file ends with its last cluster");
}

#[test]
fn zeroes_behind_everything_are_made_for_many_clusters_at_a_time() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let count = Arc::new(CountDevice::new(Arc::new(MemoryDevice::new(0))));
        let file: Device = count.clone();
        let layer = image(&runtime, &file).await;
        // The L2 table is there before anything is counted.
        write(&layer, 0, alloc::vec![1; 512]).await;
        count.reset();
        let mut expected = alloc::vec![0; SIZE as usize];
        expected[..512].fill(1);
        for i in 1..65u64 {
            let at = i * CLUSTER + 512 * (i % 8);
            write(&layer, at, alloc::vec![i as u8; 512]).await;
            expected[at as usize..at as usize + 512].fill(i as u8);
        }
        let zeroes = count.count(CallKinds::WRITE_ZEROES);
        assert_eq!(count.count(CallKinds::WRITE), 64, "one write each");
        assert!((1..=8).contains(&zeroes), "{zeroes} zero writes for 64 clusters");
        finish(&runtime, file, layer, &expected).await;
    });
}

#[test]
fn a_cluster_that_had_other_bytes_is_not_taken_for_blank() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let file: Device = Arc::new(MemoryDevice::new(0));
        let layer = image(&runtime, &file).await;
        let mut expected = alloc::vec![0; SIZE as usize];
        for round in 0..40u64 {
            // Whole clusters full of something, of which half are given up and used again.
            let first = round % 8 * 16 * CLUSTER;
            write(&layer, first, alloc::vec![0xee; 16 * CLUSTER as usize]).await;
            let gone = (first + 8 * CLUSTER, 8 * CLUSTER);
            layer.write_zeroes(gone.0, gone.1, ZeroFlags::MAY_UNMAP).await.expect("writable");
            layer.flush().await.expect("durable");
            let at = (128 + round) * CLUSTER + 1024;
            write(&layer, at, alloc::vec![round as u8 + 1; 100]).await;
            let (from, to) = (first as usize, (first + 8 * CLUSTER) as usize);
            expected[from..to].fill(0xee);
            expected[to..to + 8 * CLUSTER as usize].fill(0);
            expected[at as usize..at as usize + 100].fill(round as u8 + 1);
        }
        let bytes = layer.read(0, SIZE).await.expect("readable").to_vec();
        assert!(bytes == expected, "a cluster kept bytes of its former life");
        layer.close().await.expect("closed");
    });
}
