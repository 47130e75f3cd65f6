//! Logs, and what their replay gives.

use super::super::testing::{bytes, memory, obeys, write, yielding};
use super::*;
use crate::ErrorKind;
use crate::io::testing::{Rng, SimRuntime, abandon_at, drop_at_each_await};
use crate::io::{MemoryDevice, Preallocation};
use futures_util::FutureExt;
use futures_util::future::join_all;

fn open(file: Device, log: Device, options: BlklogwritesOptions) -> Result<Blklogwrites> {
    Blklogwrites::new(file, log, options).now_or_never().expect("memory answers at once")
}

/// Superblock (version, entries, sector size) and entries (sector, sectors, flags) of a log.
type Parsed = ((u64, u64, u64), Vec<(u64, u64, u64)>);

/// Reads a log as its readers do, and makes its changes in `disk`.
fn replay(log: &[u8], disk: &mut [u8]) -> Parsed {
    let field = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
    assert_eq!(field(0), 0x6a_7366_7773_6872);
    let sector = (field(24) & 0xffff_ffff) as usize;
    let mut entries = Vec::new();
    let mut at = sector;
    for _ in 0..field(16) {
        let (to, count, flags, other) = (field(at), field(at + 8), field(at + 16), field(at + 24));
        assert_eq!(other, 0);
        entries.push((to, count, flags));
        at += sector;
        if flags & 4 == 0 {
            let (from, len) = (to as usize * sector, count as usize * sector);
            // The last sector of the disk need not be whole.
            let end = (from + len).min(disk.len());
            disk[from..end].copy_from_slice(&log[at..at + end - from]);
            at += len;
        }
    }
    ((field(8), field(16), field(24)), entries)
}

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    for log_sector_size in [None, Some(4096)] {
        let options = BlklogwritesOptions { log_sector_size, ..Default::default() };
        let make = || Arc::new(open(yielding(0), yielding(0), options).unwrap()) as Device;
        obeys(&sim, make, &["limits", "compressed", "read_only"]);
    }
}

/// The same requests gave this log with the reference.
#[test]
fn the_log_has_the_entries_that_the_reference_writes() {
    let sim = SimRuntime::new(1);
    let (file, log) = (Arc::new(MemoryDevice::new(1 << 20)), Arc::new(MemoryDevice::new(4 << 20)));
    let device = open(file.clone(), log.clone(), BlklogwritesOptions::default()).unwrap();
    sim.block_on(async {
        write(&device, 0, 1, 4096).await;
        write(&device, 8192, 2, 512).await;
        device.flush().await.unwrap();
        device.discard(0, 4096).await.unwrap();
        device.write_zeroes(4096, 4096, ZeroFlags::empty()).await.unwrap();
        device.write(1024, bytes(3, 1024), WriteFlags::FUA).await.unwrap();
        device.close().await.unwrap();
    });
    let mut disk = vec![0; 1 << 20];
    let (superblock, entries) = replay(&log.to_vec(), &mut disk);
    assert_eq!(superblock, (1, 7, 512));
    assert_eq!(
        entries,
        [(0, 8, 0), (16, 1, 0), (0, 0, 1), (0, 8, 4), (8, 8, 0), (2, 2, 0), (0, 0, 1)]
    );
}

#[test]
fn a_part_of_a_sector_is_logged_as_the_whole_sector() {
    let sim = SimRuntime::new(1);
    let (file, log) = (Arc::new(MemoryDevice::new(10_000)), Arc::new(MemoryDevice::new(0)));
    let options = BlklogwritesOptions { log_sector_size: Some(4096), ..Default::default() };
    let device = open(file.clone(), log.clone(), options).unwrap();
    sim.block_on(async {
        write(&device, 100, 5, 5).await;
        // In the last sector, which is not whole.
        write(&device, 9000, 6, 1000).await;
        device.flush().await.unwrap();
    });
    let mut disk = vec![0; 10_000];
    let (superblock, entries) = replay(&log.to_vec(), &mut disk);
    assert_eq!(superblock, (1, 3, 4096));
    assert_eq!(entries, [(0, 1, 0), (2, 1, 0), (0, 0, 1)]);
    assert!(disk == file.to_vec());
}

#[test]
fn the_superblock_counts_at_flushes_and_at_the_interval() {
    let sim = SimRuntime::new(1);
    let log = Arc::new(MemoryDevice::new(0));
    let options = BlklogwritesOptions { log_super_update_interval: 3, ..Default::default() };
    let device = open(memory(8192), log.clone(), options).unwrap();
    let counted = || {
        let log = log.to_vec();
        log[16]
    };
    sim.block_on(async {
        for want in [0, 0, 3, 3, 3, 6, 6] {
            write(&device, 0, 1, 512).await;
            assert_eq!(counted(), want);
        }
        device.flush().await.unwrap();
        assert_eq!(counted(), 8);
    });
}

/// Requests of all kinds in flight together, some of them given up: the replay gives the disk.
#[test]
fn a_replay_gives_the_disk() {
    for seed in 0..20 {
        let sim = SimRuntime::new(seed);
        let mut rng = Rng::new(seed);
        let file = Arc::new(MemoryDevice::new(64 << 10));
        let slow = Arc::new(crate::io::testing::YieldDevice::new(file.clone()));
        let log = Arc::new(MemoryDevice::new(0));
        let slow_log = Arc::new(crate::io::testing::YieldDevice::new(log.clone()));
        sim.block_on(async {
            let device =
                Blklogwrites::new(slow, slow_log, BlklogwritesOptions::default()).await.unwrap();
            for round in 0..20 {
                let requests: Vec<_> = (0..8)
                    .map(|n| {
                        let offset = rng.between(0, 60 << 10);
                        let len = rng.between(1, 4096) as usize;
                        let kind = rng.below(4);
                        let waits = if rng.chance(10) { rng.index(6) } else { usize::MAX };
                        (offset, len, kind, waits, (round * 8 + n) as u8)
                    })
                    .collect();
                join_all(requests.into_iter().map(async |(offset, len, kind, waits, value)| {
                    let request = match kind {
                        0 => device.write_zeroes(offset, len as u64, ZeroFlags::MAY_UNMAP),
                        _ => device.write(offset, bytes(value, len), WriteFlags::empty()),
                    };
                    if let Some(result) = abandon_at(request, waits).await {
                        result.unwrap();
                    }
                }))
                .await;
            }
            // What was given up is settled by a write over all of it.
            write(&device, 0, 0xee, 32 << 10).await;
            device.write_zeroes(32 << 10, 16 << 10, ZeroFlags::empty()).await.unwrap();
            write(&device, 48 << 10, 1, 16 << 10).await;
            write(&device, 50 << 10, 2, 100).await;
            device.flush().await.unwrap();
        });
        let mut disk = vec![0; 64 << 10];
        replay(&log.to_vec(), &mut disk);
        assert!(disk == file.to_vec(), "seed {seed}");
    }
}

#[test]
fn a_change_given_up_at_any_moment_leaves_a_log_that_can_be_read() {
    let sim = SimRuntime::new(1);
    let drops = sim.block_on(drop_at_each_await(
        async || {
            let log = Arc::new(MemoryDevice::new(0));
            let slow_log = Arc::new(crate::io::testing::YieldDevice::new(log.clone()));
            let device =
                Blklogwrites::new(yielding(8192), slow_log, BlklogwritesOptions::default());
            let device = Arc::new(device.await.unwrap());
            let writer = device.clone();
            let write: BoxFuture<'static, _> = Box::pin(async move {
                writer.write(0, bytes(1, 2048), WriteFlags::empty()).await.unwrap();
                writer.flush().await
            });
            ((device, log), write)
        },
        async |(device, log), _| {
            write(&*device, 4096, 2, 512).await;
            device.flush().await.unwrap();
            let mut disk = vec![0; 8192];
            let (_, entries) = replay(&log.to_vec(), &mut disk);
            assert_eq!(disk[4096..4608], [2; 512]);
            assert_eq!(entries[entries.len() - 2..], [(8, 1, 0), (0, 0, 1)]);
        },
    ));
    assert!(drops > 6, "{drops}");
}

#[test]
fn a_log_is_continued_where_it_ends() {
    let sim = SimRuntime::new(1);
    let (file, log) = (Arc::new(MemoryDevice::new(16 << 10)), Arc::new(MemoryDevice::new(0)));
    let first = BlklogwritesOptions { log_sector_size: Some(4096), ..Default::default() };
    let append = BlklogwritesOptions { log_append: true, ..Default::default() };
    sim.block_on(async {
        let device = open(file.clone(), log.clone(), first).unwrap();
        write(&device, 0, 1, 8192).await;
        device.discard(8192, 4096).await.unwrap();
        device.close().await.unwrap();
        let device = open(file.clone(), log.clone(), append).unwrap();
        write(&device, 4096, 2, 4096).await;
        device.close().await.unwrap();
    });
    let mut disk = vec![0; 16 << 10];
    let (superblock, entries) = replay(&log.to_vec(), &mut disk);
    assert_eq!(superblock, (1, 5, 4096));
    assert_eq!(entries, [(0, 2, 0), (2, 1, 4), (0, 0, 1), (1, 1, 0), (0, 0, 1)]);
    assert!(disk == file.to_vec());
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let none = BlklogwritesOptions::default();
    let sector = |size| BlklogwritesOptions {
        log_sector_size: Some(size),
        ..BlklogwritesOptions::default()
    };
    for (options, want) in [
        (sector(0), "Invalid log sector size 0"),
        (sector(100), "Invalid log sector size 100"),
        (sector(16 << 20), "Invalid log sector size 16777216"),
        (
            BlklogwritesOptions { log_super_update_interval: 0, ..none },
            "Invalid log superblock update interval 0",
        ),
        (
            BlklogwritesOptions { log_append: true, ..sector(512) },
            "log-append and log-sector-size are mutually exclusive",
        ),
    ] {
        let error = open(memory(4096), memory(4096), options).unwrap_err();
        assert_eq!((error.kind(), error.what()), (ErrorKind::InvalidInput, want));
    }
    open(memory(0), memory(0), sector(8 << 20)).unwrap();
    open(memory(0), memory(0), sector(256)).unwrap();
}

#[test]
fn what_is_no_log_is_not_continued() {
    let append = BlklogwritesOptions { log_append: true, ..Default::default() };
    let mut good = vec![0; 1024];
    good[..8].copy_from_slice(&MAGIC.to_le_bytes());
    (good[8], good[16], good[25]) = (1, 1, 2);
    let with = |change: fn(&mut Vec<u8>)| {
        let mut log = good.clone();
        change(&mut log);
        log
    };
    for (log, want) in [
        (vec![], "Invalid log superblock magic"),
        (vec![0; 4096], "Invalid log superblock magic"),
        (with(|log| log[8] = 2), "Unsupported log version 2"),
        (with(|log| log[25] = 3), "Invalid log sector size"),
        (with(|log| log[16] = 2), "entry 1 lies past the end of the log"),
        (with(|log| log[16..24].fill(0xff)), "entry 1 lies past the end of the log"),
        (with(|log| log[520..528].fill(0xff)), "an entry is longer than any log"),
    ] {
        let log = Arc::new(MemoryDevice::with_data(&log));
        let error = open(memory(4096), log, append).unwrap_err();
        assert_eq!(error.what(), want);
    }
    open(memory(4096), Arc::new(MemoryDevice::with_data(&good)), append).unwrap();
}

#[test]
fn a_length_is_changed_without_an_entry() {
    let log = Arc::new(MemoryDevice::new(0));
    let device = open(memory(4096), log.clone(), BlklogwritesOptions::default()).unwrap();
    device.set_len(8192, Preallocation::Off).now_or_never().unwrap().unwrap();
    assert_eq!((device.len(), log.len()), (8192, 0));
}
