//! What reaches the image when everything is compressed.

use super::super::testing::{Compressing, bytes, memory, obeys, read, write, yielding};
use super::*;
use crate::ErrorKind;
use crate::io::ZeroFlags;
use crate::io::testing::SimRuntime;
use crate::sync::Mutex;
use alloc::vec;
use alloc::vec::Vec;

const CLUSTER: usize = 4096;

fn image(inner: Device) -> Arc<Compressing> {
    Arc::new(Compressing { inner, cluster: CLUSTER as u32, writes: Mutex::new(Vec::new()) })
}

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    obeys(
        &sim,
        || Arc::new(Compress::new(image(memory(0)), "test").unwrap()),
        &["limits", "read_only", "dropped_writes"],
    );
    let sim = SimRuntime::new(2);
    let make = || Arc::new(Compress::new(image(yielding(0)), "test").unwrap()) as Device;
    obeys(&sim, make, &["limits", "read_only"]);
}

#[test]
fn whole_clusters_are_compressed_whatever_the_write() {
    let sim = SimRuntime::new(1);
    let image = image(memory(10 * CLUSTER as u64 + 100));
    let device = Compress::new(image.clone(), "test").unwrap();
    sim.block_on(async {
        write(&device, CLUSTER as u64, 1, 2 * CLUSTER).await;
        write(&device, CLUSTER as u64 + 100, 2, 10).await;
        write(&device, 5 * CLUSTER as u64 - 1, 3, CLUSTER + 2).await;
        // In the last cluster, which is not whole.
        write(&device, 10 * CLUSTER as u64 + 5, 4, 10).await;
        device.write_zeroes(2 * CLUSTER as u64, CLUSTER as u64, ZeroFlags::empty()).await.unwrap();
        let mut want = vec![0; 10 * CLUSTER + 100];
        want[CLUSTER..2 * CLUSTER].fill(1);
        want[CLUSTER + 100..CLUSTER + 110].fill(2);
        want[5 * CLUSTER - 1..6 * CLUSTER + 1].fill(3);
        want[10 * CLUSTER + 5..10 * CLUSTER + 15].fill(4);
        assert!(read(&device, 0, want.len() as u64).await == want);
    });
    let writes = image.writes.lock();
    let places: Vec<_> = writes.iter().map(|(at, len, _)| (at / 4096, *len)).collect();
    assert_eq!(places, [(1, 8192), (1, 4096), (4, 3 * 4096), (10, 100)]);
    assert!(writes.iter().all(|(_, _, flags)| *flags == WriteFlags::COMPRESSED));
}

#[test]
fn flags_of_a_write_stay() {
    let sim = SimRuntime::new(1);
    let image = image(memory(CLUSTER as u64));
    let device = Compress::new(image.clone(), "test").unwrap();
    sim.block_on(device.write(0, bytes(1, CLUSTER), WriteFlags::FUA)).unwrap();
    assert_eq!(image.writes.lock()[0].2, WriteFlags::FUA | WriteFlags::COMPRESSED);
}

#[test]
fn an_image_that_does_not_compress_is_refused() {
    let error = Compress::new(memory(10), "raw").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(error.what(), "Compression is not supported for underlying format: raw");
}
