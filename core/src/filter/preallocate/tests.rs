//! Where the file ends, and where the data does.

use super::super::testing::{bytes, memory, obeys, read, write, yielding};
use super::*;
use crate::ErrorKind;
use crate::io::testing::{
    CallFilter, CallKinds, Fault, FaultDevice, SimRuntime, drop_at_each_await,
};
use alloc::sync::Arc;
use alloc::vec;

const ALIGN: u64 = 64 << 10;
const SIZE: u64 = 1 << 20;
const OPTIONS: PreallocateOptions =
    PreallocateOptions { prealloc_align: ALIGN, prealloc_size: SIZE };

fn ahead(file: &Device) -> Arc<Preallocate> {
    Arc::new(Preallocate::new(file.clone(), OPTIONS).unwrap())
}

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    obeys(&sim, || ahead(&memory(0)), &["limits", "compressed", "read_only", "dropped_writes"]);
    let sim = SimRuntime::new(2);
    obeys(&sim, || ahead(&yielding(0)), &["limits", "compressed", "read_only"]);
}

#[test]
fn the_file_grows_ahead_and_is_cut_when_it_comes_to_rest() {
    let sim = SimRuntime::new(1);
    let file = memory(1000);
    let device = ahead(&file);
    sim.block_on(async {
        write(&*device, 10, 1, 100).await;
        assert_eq!((device.len(), file.len()), (1000, 1000), "a write within it changes nothing");
        write(&*device, 0x4_0000, 2, 0x1_0000).await;
        // As the reference: 0x50000 + 0x100000, a multiple of 0x10000.
        assert_eq!((device.len(), file.len()), (0x5_0000, 0x15_0000));
        write(&*device, 0x5_0000, 3, 0x1_0000).await;
        assert_eq!((device.len(), file.len()), (0x6_0000, 0x15_0000), "there is room");
        assert!(device.read(0x6_0000, 1).await.is_err(), "nobody reads what is prepared");
        assert!(device.discard(0x6_0000, 1).await.is_err());
        assert!(device.extents(0x5_ffff, 2).await.is_err());
        device.write_zeroes(0x6_0000, 5, ZeroFlags::empty()).await.unwrap();
        assert_eq!((device.len(), file.len()), (0x6_0005, 0x15_0000));
        device.quiesce().await.unwrap();
        assert_eq!((device.len(), file.len()), (0x6_0005, 0x6_0005));
        write(&*device, 0x6_0005, 4, 1).await;
        assert_eq!((device.len(), file.len()), (0x6_0006, 0x17_0000));
        device.set_len(0x5_0000, Preallocation::Off).await.unwrap();
        assert_eq!((device.len(), file.len()), (0x5_0000, 0x5_0000));
        device.set_len(0x7_0000, Preallocation::Off).await.unwrap();
        assert_eq!(read(&*device, 0x5_0000, 0x2_0000).await, vec![0; 0x2_0000]);
    });
}

#[test]
fn no_step_is_no_harm() {
    let sim = SimRuntime::new(1);
    let file = Arc::new(FaultDevice::new(memory(0)));
    file.add(Fault::new(ErrorKind::NoSpace).on(CallFilter::of(CallKinds::SET_LEN)).nth(0));
    let device = Preallocate::new(file.clone(), OPTIONS).unwrap();
    sim.block_on(async {
        write(&device, 0, 1, 100).await;
        write(&device, 200, 2, 100).await;
        assert_eq!((device.len(), file.len()), (300, 300), "one failure, and it is left alone");
        assert_eq!(read(&device, 99, 102).await, [&[1][..], &[0; 100], &[2]].concat());
        device.quiesce().await.unwrap();
        assert_eq!(file.len(), 300);
    });
    assert_eq!(file.failed(), 1);
}

#[test]
fn a_size_that_exceeds_all_files_is_no_step() {
    let sim = SimRuntime::new(1);
    let file = memory(0);
    let options = PreallocateOptions { prealloc_align: 0, prealloc_size: u64::MAX };
    let device = Preallocate::new(file.clone(), options).unwrap();
    sim.block_on(write(&device, 0, 1, 100));
    assert_eq!((device.len(), file.len()), (100, 100));
    device.reopen(PreallocateOptions { prealloc_align: 0, prealloc_size: 1000 }).unwrap();
    sim.block_on(write(&device, 100, 1, 100));
    assert_eq!((device.len(), file.len()), (200, 1200));
}

#[test]
fn a_write_given_up_at_any_moment_leaves_a_file_that_is_cut_where_the_data_ends() {
    let sim = SimRuntime::new(1);
    let drops = sim.block_on(drop_at_each_await(
        async || {
            let file = yielding(100);
            let device = ahead(&file);
            let writer = device.clone();
            let write: BoxFuture<'static, _> =
                Box::pin(async move { writer.write(100, bytes(1, 50), WriteFlags::empty()).await });
            ((file, device), write)
        },
        async |(file, device), result| {
            device.flush().await.unwrap();
            assert!(device.len() == 100 && result.is_none() || device.len() == 150);
            device.quiesce().await.unwrap();
            assert_eq!(file.len(), device.len());
            write(&*device, 200, 2, 50).await;
            let all = read(&*device, 100, 150).await;
            assert_eq!((&all[50..100], &all[100..]), (&[0; 50][..], &[2; 50][..]));
            assert!(all[..50] == [0; 50] || all[..50] == [1; 50]);
        },
    ));
    assert!(drops > 4, "{drops}");
}

#[test]
fn an_alignment_that_is_none_is_refused() {
    for prealloc_align in [100, 1_000_000] {
        let options = PreallocateOptions { prealloc_align, ..OPTIONS };
        let error = Preallocate::new(memory(0), options).unwrap_err();
        assert_eq!(
            error.what(),
            "prealloc-align parameter of preallocate filter is not aligned to 512"
        );
        assert!(ahead(&memory(0)).reopen(options).is_err());
    }
}
