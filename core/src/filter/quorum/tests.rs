//! Votes, reports and children that come and go. What each case gives was learned from the
//! reference (`qemu-io` and `qemu-storage-daemon` on `driver=quorum` over `blkdebug`).

use super::super::blkdebug::{Blkdebug, BlkdebugIoType, BlkdebugOptions, InjectError};
use super::super::testing::{bytes, memory, obeys, read, write, yielding};
use super::*;
use crate::io::testing::{DelayDevice, SimRuntime, YieldDevice, abandon_at};
use crate::io::{DebugEvent, MemoryDevice};
use alloc::vec;
use core::time::Duration;
use futures_util::FutureExt;

const LEN: u64 = 64 << 10;

fn quorum(sim: &SimRuntime, children: &[Device], options: QuorumOptions) -> Result<Quorum> {
    let named = |(n, child): (usize, &Device)| (child.clone(), format!("node{n}"));
    Quorum::new(children.iter().enumerate().map(named).collect(), options, sim.handle())
}

/// A child with this value in its first bytes.
fn child(value: u8) -> Arc<MemoryDevice> {
    let device = MemoryDevice::new(LEN);
    device.write(0, bytes(value, 4096), WriteFlags::empty()).now_or_never().unwrap().unwrap();
    Arc::new(device)
}

fn failing(kind: BlkdebugIoType, errno: i64) -> Device {
    let rule = InjectError { errno, iotype: Some(kind), ..InjectError::new(DebugEvent::None) };
    let options = BlkdebugOptions { inject_error: vec![rule], ..BlkdebugOptions::default() };
    Arc::new(Blkdebug::new(child(5), options).unwrap())
}

/// The events of a quorum from now on, as text.
fn watch(quorum: &Quorum) -> Arc<Mutex<Vec<String>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = events.clone();
    quorum.on_event(Arc::new(move |event| {
        told.lock().push(match event {
            QuorumEvent::Failure { sector_num, sectors_count } => {
                format!("failure {sector_num}+{sectors_count}")
            }
            QuorumEvent::ReportBad { op, error, node_name, sector_num, sectors_count } => {
                let error = error.map_or("outvoted", |_| "failed");
                format!("{node_name} {error} {op:?} {sector_num}+{sectors_count}")
            }
        });
    }));
    events
}

fn now<T>(request: BoxFuture<'_, Result<T>>) -> Result<T> {
    request.now_or_never().expect("memory answers at once")
}

#[test]
fn it_obeys_the_contract() {
    for pattern in [QuorumReadPattern::Quorum, QuorumReadPattern::Fifo] {
        let sim = SimRuntime::new(1);
        let options = QuorumOptions { read_pattern: pattern, ..QuorumOptions::new(2) };
        let make = || {
            let children = [yielding(LEN), yielding(LEN), yielding(LEN)];
            Arc::new(quorum(&sim, &children, options).unwrap()) as Device
        };
        let skipped =
            ["limits", "growing_writes", "zero_init", "set_len", "compressed", "read_only"];
        obeys(&sim, make, &skipped);
    }
}

#[test]
fn everything_is_written_to_all_but_discards() {
    let sim = SimRuntime::new(1);
    let children = [child(0), child(0), child(0)];
    let devices: Vec<Device> = children.iter().map(|child| child.clone() as Device).collect();
    let quorum = quorum(&sim, &devices, QuorumOptions::new(2)).unwrap();
    sim.block_on(async {
        write(&quorum, 100, 7, 5000).await;
        quorum.write_zeroes(200, 100, ZeroFlags::MAY_UNMAP).await.unwrap();
        quorum.discard(0, LEN).await.unwrap();
        quorum.flush().await.unwrap();
        assert_eq!(read(&quorum, 199, 2).await, [7, 0]);
    });
    for child in &children[1..] {
        assert!(child.to_vec() == children[0].to_vec());
    }
    assert_eq!(
        now(quorum.set_len(1, Preallocation::Off)).unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(now(quorum.read(LEN, 1)).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(
        now(quorum.write(LEN, bytes(1, 1), WriteFlags::empty())).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[test]
fn most_decide_what_is_read() {
    let sim = SimRuntime::new(1);
    let bad = child(9);
    let devices: [Device; 3] = [child(5), child(5), bad.clone()];
    let quorum3 = quorum(&sim, &devices, QuorumOptions::new(2)).unwrap();
    let events = watch(&quorum3);
    assert_eq!(now(quorum3.read(0, 2000)).unwrap().to_vec(), vec![5; 2000]);
    assert_eq!(*events.lock(), ["node2 outvoted Read 0+4"]);
    assert_eq!(bad.to_vec()[0], 9);
    events.lock().clear();
    now(quorum3.read(4096, 100)).unwrap();
    assert!(events.lock().is_empty());

    let all = quorum(&sim, &devices, QuorumOptions::new(3)).unwrap();
    let events = watch(&all);
    assert_eq!(now(all.read(512, 1)).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(*events.lock(), ["failure 1+1"]);

    // As many votes for each: the last one.
    let one = quorum(&sim, &[child(0), child(1), child(2)], QuorumOptions::new(1)).unwrap();
    assert_eq!(now(one.read(0, 1)).unwrap().to_vec(), [2]);
}

#[test]
fn children_that_were_outvoted_get_the_bytes_of_the_others() {
    let sim = SimRuntime::new(1);
    let bad = child(9);
    let options = QuorumOptions { rewrite_corrupted: true, ..QuorumOptions::new(2) };
    let quorum = quorum(&sim, &[bad.clone(), child(5), child(5)], options).unwrap();
    let events = watch(&quorum);
    assert_eq!(now(quorum.read(0, 512)).unwrap().to_vec(), vec![5; 512]);
    assert_eq!((bad.to_vec()[511], bad.to_vec()[512]), (5, 9), "what was read, and no more");
    assert_eq!(*events.lock(), ["node0 outvoted Read 0+1"]);
}

#[test]
fn a_difference_of_two_fails_with_blkverify() {
    let sim = SimRuntime::new(1);
    let options = QuorumOptions { blkverify: true, ..QuorumOptions::new(2) };
    let quorum = quorum(&sim, &[child(5), child(9)], options).unwrap();
    let error = now(quorum.read(4000, 200)).unwrap_err();
    assert_eq!(error.what(), "quorum: offset=4000 bytes=200 contents mismatch at offset 4000");
    now(quorum.read(4096, 100)).unwrap();
}

#[test]
fn children_that_fail_are_reported_and_enough_others_do() {
    use BlkdebugIoType::{Flush, Read, Write};
    let sim = SimRuntime::new(1);
    let with = |threshold, bad: Device| {
        let devices: [Device; 3] = [child(5), child(5), bad];
        let quorum = quorum(&sim, &devices, QuorumOptions::new(threshold)).unwrap();
        let events = watch(&quorum);
        (quorum, events)
    };
    let (enough, events) = with(2, failing(Read, 5));
    assert_eq!(now(enough.read(512, 2000)).unwrap().to_vec(), vec![5; 2000]);
    assert_eq!(*events.lock(), ["node2 failed Read 1+4"]);
    let (enough, events) = with(2, failing(Write, 5));
    now(enough.write(512, bytes(1, 2000), WriteFlags::empty())).unwrap();
    assert_eq!(*events.lock(), ["node2 failed Write 1+4"]);
    let (few, events) = with(3, failing(Write, 28));
    let error = now(few.write(512, bytes(1, 2000), WriteFlags::empty())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(*events.lock(), ["node2 failed Write 1+4", "failure 1+4"]);
    let (enough, events) = with(2, failing(Flush, 5));
    now(enough.flush()).unwrap();
    assert_eq!(*events.lock(), ["node2 failed Flush 0+0"]);
    let (few, events) = with(3, failing(Flush, 5));
    now(few.flush()).unwrap_err();
    assert_eq!(*events.lock(), ["node2 failed Flush 0+0"]);
}

#[test]
fn of_several_errors_the_most_frequent_is_told() {
    let sim = SimRuntime::new(1);
    let read = |errors: &[i64], threshold| {
        let mut devices: Vec<Device> =
            errors.iter().map(|errno| failing(BlkdebugIoType::Read, *errno)).collect();
        devices.push(child(5));
        let quorum = quorum(&sim, &devices, QuorumOptions::new(threshold)).unwrap();
        now(quorum.read(0, 512)).unwrap_err().kind()
    };
    assert_eq!(read(&[28, 28, 5], 2), ErrorKind::NoSpace);
    assert_eq!(read(&[28, 5], 2), ErrorKind::Io, "the last of as many");
    assert_eq!(read(&[5, 28], 3), ErrorKind::NoSpace);
}

#[test]
fn the_first_that_does_not_fail_is_enough_with_fifo() {
    let sim = SimRuntime::new(1);
    let options = QuorumOptions { read_pattern: QuorumReadPattern::Fifo, ..QuorumOptions::new(1) };
    let quorum1 = quorum(&sim, &[child(5), child(9)], options).unwrap();
    assert_eq!(now(quorum1.read(0, 1)).unwrap().to_vec(), [5]);
    let read_fails = |errno| failing(BlkdebugIoType::Read, errno);
    let second = quorum(&sim, &[read_fails(5), child(9)], options).unwrap();
    let events = watch(&second);
    assert_eq!(now(second.read(0, 1)).unwrap().to_vec(), [9]);
    assert_eq!(*events.lock(), ["node0 failed Read 0+1"]);
    let none = quorum(&sim, &[read_fails(5), read_fails(28)], options).unwrap();
    let events = watch(&none);
    assert_eq!(now(none.read(0, 1)).unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(*events.lock(), ["node0 failed Read 0+1", "node1 failed Read 0+1"]);
}

#[test]
fn a_read_while_others_write_is_no_disagreement() {
    for seed in 0..20 {
        let sim = SimRuntime::new(seed);
        let slow = |n| {
            let longest = Duration::from_micros(50);
            Arc::new(DelayDevice::new(memory(LEN), sim.handle(), longest, seed * 8 + n)) as Device
        };
        let quorum = quorum(&sim, &[slow(1), slow(2), slow(3)], QuorumOptions::new(3)).unwrap();
        let events = watch(&quorum);
        sim.block_on(async {
            let writes = (1..20).map(async |n| write(&quorum, 100 * n, n as u8, 3000).await);
            let reads = (1..20).map(async |n| read(&quorum, 90 * n, 3000).await);
            futures_util::future::join(join_all(writes), join_all(reads)).await;
            // Whatever the order of the writes was, it was the same everywhere.
            read(&quorum, 0, 8192).await;
        });
        assert!(events.lock().is_empty(), "seed {seed}");
    }
}

#[test]
fn a_write_that_is_given_up_reaches_all_children_or_none() {
    for waits in 0..8 {
        let sim = SimRuntime::new(waits);
        let children: Vec<Arc<MemoryDevice>> = (0..3).map(|_| child(0)).collect();
        let slow = |(n, child): (usize, &Arc<MemoryDevice>)| {
            let slow: Device = Arc::new(YieldDevice::new(child.clone()));
            // One is slower than another.
            (0..n).fold(slow, |slow, _| Arc::new(YieldDevice::new(slow)))
        };
        let devices: Vec<Device> = children.iter().enumerate().map(slow).collect();
        let quorum = quorum(&sim, &devices, QuorumOptions::new(3)).unwrap();
        sim.block_on(async {
            let data = bytes(1, 4096);
            let given_up = quorum.write(0, data, WriteFlags::empty());
            drop(abandon_at(given_up, waits as usize).await);
            quorum.flush().await.unwrap();
            let found = read(&quorum, 0, 4096).await;
            assert!(found == [0; 4096] && waits == 0 || found == [1; 4096] && waits > 0);
        });
        assert!(children.iter().all(|child| child.to_vec() == children[0].to_vec()));
    }
}

#[test]
fn children_come_and_go() {
    let sim = SimRuntime::new(1);
    let quorum = quorum(&sim, &[child(5), child(5), child(9)], QuorumOptions::new(2)).unwrap();
    assert_eq!(quorum.remove_child("children.9").unwrap_err().kind(), ErrorKind::NotFound);
    quorum.remove_child("children.0").unwrap();
    let error = quorum.remove_child("children.1").unwrap_err();
    assert_eq!(error.what(), "The number of children cannot be lower than the vote threshold 2");
    now(quorum.read(0, 1)).unwrap_err();
    assert_eq!(quorum.add_child(child(5), "new".into()).unwrap(), "children.3");
    assert_eq!(now(quorum.read(0, 1)).unwrap().to_vec(), [5]);
    let names: Vec<_> = quorum.children().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["children.1", "children.2", "children.3"]);
    quorum.add_child(memory(LEN - 512), "short".into()).unwrap_err();
    quorum.remove_child("children.3").unwrap();
    assert_eq!(quorum.children()[1], ("children.2".into(), "node2".into()));
}

#[test]
fn zeroes_are_what_all_children_say_to_be() {
    let sim = SimRuntime::new(1);
    let quorum = quorum(&sim, &[child(0), child(5)], QuorumOptions::new(2)).unwrap();
    let at = |offset| now(quorum.extents(offset, LEN - offset)).unwrap().remove(0);
    assert!(!at(0).is_zero());
    let rest = at(at(0).len);
    assert!(rest.is_zero() && rest.end() == LEN);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let sim = SimRuntime::new(1);
    let none = QuorumOptions::new(1);
    let fifo = QuorumOptions { read_pattern: QuorumReadPattern::Fifo, ..none };
    let both =
        QuorumOptions { blkverify: true, rewrite_corrupted: true, vote_threshold: 2, ..none };
    for (count, options, want) in [
        (0, none, "Number of provided children must be 1 or more"),
        (2, QuorumOptions::new(0), "Parameter 'vote-threshold' expects a value >= 1"),
        (2, QuorumOptions::new(-1), "Parameter 'vote-threshold' expects a value >= 1"),
        (3, QuorumOptions::new(4), "threshold may not exceed children count"),
        (
            2,
            QuorumOptions { blkverify: true, ..none },
            "blkverify=on can only be set if there are exactly two files and vote-threshold is 2",
        ),
        (2, both, "rewrite-corrupted=on cannot be used with blkverify=on"),
    ] {
        let children: Vec<Device> = (0..count).map(|_| memory(LEN)).collect();
        let error = quorum(&sim, &children, options).unwrap_err();
        assert_eq!((error.kind(), error.what()), (ErrorKind::InvalidInput, want));
    }
    quorum(&sim, &[memory(LEN)], none).unwrap();
    quorum(&sim, &[memory(LEN)], QuorumOptions { blkverify: true, ..fifo }).unwrap();
    let uneven = quorum(&sim, &[memory(LEN), memory(2 * LEN)], none).unwrap_err();
    assert_eq!(uneven.kind(), ErrorKind::Io);
}
