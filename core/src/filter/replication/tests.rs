//! One side by itself. Both sides of a graph are in `graph/tests/replication.rs`; what each case
//! gives was learned from the reference's system emulator.

use super::super::CopyBeforeWriteOptions;
use super::super::blkdebug::{Blkdebug, BlkdebugIoType, BlkdebugOptions, InjectError};
use super::super::testing::{bytes, memory, obeys, read, write, yielding};
use super::*;
use crate::io::DebugEvent;
use crate::io::testing::SimRuntime;
use alloc::string::ToString;

const LEN: u64 = 256 << 10;

fn failing(kinds: &[BlkdebugIoType]) -> Device {
    let rule = |kind: &BlkdebugIoType| InjectError {
        errno: 28,
        iotype: Some(*kind),
        ..InjectError::new(DebugEvent::None)
    };
    let inject_error = kinds.iter().map(rule).collect();
    let options = BlkdebugOptions { inject_error, ..BlkdebugOptions::default() };
    Arc::new(Blkdebug::new(memory(LEN), options).unwrap())
}

fn running(sim: &SimRuntime) -> Replication {
    let side = Replication::new(yielding(LEN), ReplicationMode::Secondary);
    let options = CopyBeforeWriteOptions::default();
    let disk = CopyBeforeWrite::new(memory(LEN), memory(LEN), &options, sim.handle());
    side.start(Some(Arc::new(disk.unwrap())));
    side
}

#[test]
fn a_secondary_side_obeys_the_contract() {
    let skipped = ["limits", "growing_writes", "zero_init", "set_len", "compressed", "read_only"];
    let sim = SimRuntime::new(1);
    obeys(&sim, || Arc::new(running(&sim)), &skipped);
    let over = || {
        let side = running(&sim);
        side.finish();
        Arc::new(side) as Device
    };
    obeys(&sim, over, &skipped);
}

#[test]
fn a_primary_side_tells_its_manager_what_it_does_not_tell_its_guest() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let side = Replication::new(failing(&[BlkdebugIoType::Write]), ReplicationMode::Primary);
        let data = || bytes(1, 4096);
        let none = WriteFlags::empty();
        assert_eq!(side.write(0, data(), none).await.unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(side.error().unwrap_err().what(), "Block replication is not running");
        assert!(side.check_start(ReplicationMode::Primary).unwrap());
        side.start(None);
        assert_eq!(side.read(0, 512).await.unwrap_err().kind(), ErrorKind::Io);
        side.error().unwrap();
        side.write(0, data(), none).await.unwrap();
        assert_eq!(side.error().unwrap_err().what(), "I/O error occurred");
        // Nonsense is the guest's mistake.
        assert_eq!(
            side.write(LEN, data(), none).await.unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
        assert!(side.set_len(2 * LEN, Preallocation::Off).await.is_err());
        side.flush().await.unwrap();
        assert!(!side.check_checkpoint().unwrap());
        assert!(side.error().is_err(), "a checkpoint forgets nothing");
        assert!(side.check_stop(false).unwrap());
        side.finish();
        side.error().unwrap();
        assert_eq!(side.write(0, data(), none).await.unwrap_err().kind(), ErrorKind::Io);
        assert!(!side.check_start(ReplicationMode::Secondary).unwrap(), "it is over");
    });
}

#[test]
fn a_primary_side_sends_zeroes_and_keeps_discards() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let below = memory(LEN);
        let side = Replication::new(below.clone(), ReplicationMode::Primary);
        side.start(None);
        write(&side, 0, 3, 8192).await;
        side.write_zeroes(4096, 2048, ZeroFlags::MAY_UNMAP).await.unwrap();
        side.discard(0, LEN).await.unwrap();
        let found = read(&*below, 0, 8192).await;
        let zero = |at: usize| (4096..6144).contains(&at);
        assert!(found.iter().enumerate().all(|(at, byte)| *byte == if zero(at) { 0 } else { 3 }));
    });
}

#[test]
fn what_cannot_be_made_durable_is_told() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let side = Replication::new(failing(&[BlkdebugIoType::Flush]), ReplicationMode::Primary);
        side.start(None);
        side.write(0, bytes(1, 512), WriteFlags::empty()).await.unwrap();
        assert!(side.write(0, bytes(1, 512), WriteFlags::FUA).await.is_err());
        assert!(side.flush().await.is_err());
        side.error().unwrap();
    });
}

#[test]
fn between_two_checkpoints_there_is_nothing() {
    let sim = SimRuntime::new(1);
    sim.block_on(async {
        let side = running(&sim);
        write(&side, 0, 1, 512).await;
        side.emptying();
        assert!(side.read(0, 512).await.is_err());
        assert!(side.write(0, bytes(1, 512), WriteFlags::empty()).await.is_err());
        let refused = side.check_stop(true).unwrap_err();
        assert!(refused.what().contains("checkpoint ended midway"), "{}", refused.to_string());
        assert!(side.check_stop(false).unwrap());
        side.emptied();
        read(&side, 0, 512).await;
        assert!(side.check_stop(true).unwrap());
        side.take_over();
        side.failed_to_take_over();
        assert!(side.check_stop(true).unwrap(), "it can be repeated");
        assert!(side.check_stop(false).is_err() && side.check_checkpoint().is_err());
        assert!(side.check_start(ReplicationMode::Secondary).is_err());
        read(&side, 0, 512).await;
    });
}
