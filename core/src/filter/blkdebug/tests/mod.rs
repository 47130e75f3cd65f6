//! Each fact about rules was learned by running the reference (`qemu-io` on `driver=blkdebug`, with
//! the format `raw` above it, which raises `read_aio` and `write_aio`).

mod config;

use super::super::testing::{bytes, memory, obeys, yielding};
use super::*;
use crate::ErrorKind;
use crate::io::testing::{CallKinds, CountDevice, SimRuntime, drop_at_each_await};
use crate::io::{MemoryDevice, Runtime, ZeroFlags};
use crate::sync::Mutex;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;
use futures_util::FutureExt;

use DebugEvent::{None as Creation, Pwritev, ReadAio, WriteAio};

fn error(event: DebugEvent) -> InjectError {
    InjectError::new(event)
}

fn numbered(event: DebugEvent, errno: i64) -> InjectError {
    InjectError { errno, ..error(event) }
}

fn on(event: DebugEvent, iotype: BlkdebugIoType) -> InjectError {
    InjectError { iotype: Some(iotype), ..error(event) }
}

fn change(event: DebugEvent, state: i64, new_state: i64) -> SetState {
    SetState { event, state, new_state }
}

fn device(inject_error: Vec<InjectError>, set_state: Vec<SetState>) -> Blkdebug {
    let options = BlkdebugOptions { inject_error, set_state, ..BlkdebugOptions::default() };
    Blkdebug::new(memory(1 << 20), options).unwrap()
}

/// What the words of a request above the format `raw` come to: the error number, 0 for none.
/// `r` reads the first sector, `R` the second, `w` writes, `z` writes zeroes, `d` discards, `f`
/// flushes, `m` asks for the status.
fn run(device: &Blkdebug, requests: &str) -> Vec<i64> {
    let request = async |letter| match letter {
        'r' | 'R' => {
            raise(device, ReadAio).await;
            device.read(if letter == 'R' { 512 } else { 0 }, 512).await.map(drop)
        }
        'w' => {
            raise(device, WriteAio).await;
            device.write(0, bytes(1, 512), WriteFlags::empty()).await
        }
        'z' => device.write_zeroes(0, 4096, ZeroFlags::empty()).await,
        'd' => device.discard(0, 4096).await,
        'f' => {
            raise(device, DebugEvent::FlushToOs).await;
            raise(device, DebugEvent::FlushToDisk).await;
            device.flush().await
        }
        _ => device.extents(0, 4096).await.map(drop),
    };
    let errno = |result: Result<()>| match result {
        Ok(()) => 0,
        Err(error) => {
            let source = core::error::Error::source(&error).expect("a rule made it fail");
            source.downcast_ref::<InjectedError>().expect("a number").errno()
        }
    };
    let sim = SimRuntime::new(1);
    requests.chars().map(|letter| errno(sim.block_on(request(letter)))).collect()
}

#[test]
fn it_obeys_the_contract() {
    let sim = SimRuntime::new(1);
    for options in [
        BlkdebugOptions::default(),
        BlkdebugOptions {
            align: 512,
            max_transfer: 1536,
            opt_write_zero: 1024,
            max_write_zero: 2048,
            opt_discard: 4096,
            max_discard: 8192,
            ..BlkdebugOptions::default()
        },
    ] {
        let make = || Arc::new(Blkdebug::new(yielding(0), options.clone()).unwrap()) as Device;
        obeys(&sim, make, &["limits", "compressed", "read_only"]);
    }
}

#[test]
fn a_rule_without_an_event_holds_from_the_beginning() {
    assert_eq!(run(&device(vec![error(Creation)], vec![]), "rwzdfm"), [5, 5, 5, 5, 5, 0]);
    assert_eq!(run(&device(vec![], vec![]), "rwzdfm"), [0; 6]);
    use BlkdebugIoType::{BlockStatus, Discard, Flush, Read, Write, WriteZeroes};
    for (kind, want) in [
        (Read, [5, 0, 0, 0, 0, 0]),
        (Write, [0, 5, 0, 0, 0, 0]),
        (WriteZeroes, [0, 0, 5, 0, 0, 0]),
        (Discard, [0, 0, 0, 5, 0, 0]),
        (Flush, [0, 0, 0, 0, 5, 0]),
        (BlockStatus, [0, 0, 0, 0, 0, 5]),
    ] {
        assert_eq!(run(&device(vec![on(Creation, kind)], vec![]), "rwzdfm"), want);
    }
}

#[test]
fn a_rule_is_active_from_its_event_on_until_others_are() {
    let read = BlkdebugIoType::Read;
    assert_eq!(run(&device(vec![on(WriteAio, read)], vec![]), "rwrr"), [0, 0, 5, 5]);
    // Another event replaces it, though its own rule concerns other requests.
    let both = vec![
        InjectError { errno: 1, ..on(WriteAio, read) },
        InjectError { errno: 2, ..on(ReadAio, BlkdebugIoType::Write) },
    ];
    assert_eq!(run(&device(both, vec![]), "wrwf"), [0, 0, 0, 0]);
    assert_eq!(run(&device(vec![error(Pwritev)], vec![]), "rwzd"), [0, 5, 5, 5]);
    assert_eq!(run(&device(vec![error(DebugEvent::PwritevDone)], vec![]), "rwzd"), [0, 0, 5, 5]);
    assert_eq!(run(&device(vec![error(DebugEvent::PwritevZero)], vec![]), "rwzd"), [0, 0, 5, 5]);
    let done = vec![on(DebugEvent::FlushToDisk, read)];
    assert_eq!(run(&device(done, vec![]), "wrfr"), [0, 0, 0, 5]);
    // Neither a zero write nor a discard is a write to it.
    assert_eq!(run(&device(vec![on(Pwritev, read)], vec![]), "zdrwr"), [0, 0, 0, 0, 5]);
}

#[test]
fn a_rule_that_holds_once_is_spent_by_the_request_that_it_fails() {
    let once = |rule| InjectError { once: true, ..rule };
    let rules = vec![once(numbered(ReadAio, 1)), numbered(ReadAio, 2)];
    assert_eq!(run(&device(rules, vec![]), "rrr"), [1, 2, 2]);
    let rules = vec![once(numbered(ReadAio, 1)), once(numbered(ReadAio, 2))];
    assert_eq!(run(&device(rules, vec![]), "rrr"), [1, 2, 0]);
    let rules = vec![once(InjectError { sector: 1, ..error(ReadAio) })];
    assert_eq!(run(&device(rules, vec![]), "rRR"), [0, 5, 0]);
}

#[test]
fn the_first_rule_that_fits_decides() {
    let sector = |errno| InjectError { sector: 1, ..numbered(ReadAio, errno) };
    assert_eq!(run(&device(vec![sector(1), numbered(ReadAio, 2)], vec![]), "rrR"), [2, 2, 1]);
    assert_eq!(run(&device(vec![numbered(ReadAio, 2), sector(1)], vec![]), "rrR"), [2, 2, 2]);
    // Also one that lets it pass.
    assert_eq!(run(&device(vec![numbered(ReadAio, 0), sector(1)], vec![]), "rR"), [0, 0]);
    for rule in [numbered(Creation, -5), InjectError { sector: -2, ..error(Creation) }] {
        assert_eq!(run(&device(vec![rule], vec![]), "rRwf"), [0; 4]);
    }
}

#[test]
fn states_follow_each_other_after_the_event() {
    let in_state = |state, errno| InjectError { state, ..numbered(ReadAio, errno) };
    assert_eq!(run(&device(vec![in_state(1, 5)], vec![]), "r"), [5], "the first state is 1");
    let steps = vec![change(ReadAio, 1, 2), change(ReadAio, 2, 3)];
    assert_eq!(run(&device(vec![in_state(2, 5)], steps), "rrrr"), [0, 5, 5, 5]);
    let rival = vec![change(ReadAio, 1, 2), change(ReadAio, 1, 3)];
    let rules = vec![in_state(2, 2), in_state(3, 3)];
    assert_eq!(run(&device(rules, rival), "rrr"), [0, 2, 2], "the first change that fits");
    let at_once = vec![change(Creation, 0, 2)];
    assert_eq!(run(&device(vec![in_state(2, 2)], at_once), "rr"), [2, 2]);
    let nowhere = vec![change(Creation, 0, 0)];
    assert_eq!(run(&device(vec![in_state(1, 2)], nowhere), "rr"), [0, 0]);
    let rules = vec![InjectError { state: 1, ..on(WriteAio, BlkdebugIoType::Read) }];
    let away = vec![change(ReadAio, 0, 5)];
    assert_eq!(run(&device(rules, away), "wrrr"), [0, 5, 5, 5], "what is active stays so");
}

#[test]
fn numbers_become_kinds_and_words() {
    for (errno, kind, words) in [
        (5, ErrorKind::Io, "Input/output error"),
        (28, ErrorKind::NoSpace, "No space left on device"),
        (1, ErrorKind::Denied, "Operation not permitted"),
        (9999, ErrorKind::Io, "Unknown error 9999"),
    ] {
        let device = device(vec![numbered(Creation, errno)], vec![]);
        let error = device.read(0, 1).now_or_never().unwrap().unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().ends_with(words), "{error}");
    }
}

#[test]
fn what_fails_has_no_effect_below() {
    let memory = Arc::new(MemoryDevice::new(8192));
    let rule = InjectError { sector: 8, ..error(Creation) };
    let options = BlkdebugOptions { inject_error: vec![rule], ..BlkdebugOptions::default() };
    let whole = Blkdebug::new(memory.clone(), options.clone()).unwrap();
    let split = Blkdebug::new(memory.clone(), BlkdebugOptions { max_transfer: 4096, ..options });
    let write = |device: &Blkdebug| {
        let write = device.write(0, bytes(1, 8192), WriteFlags::empty());
        write.now_or_never().unwrap().unwrap_err();
        memory.to_vec()
    };
    assert_eq!(write(&whole), [0; 8192]);
    // Of one that is split, what went before the piece that fails.
    assert_eq!(write(&split.unwrap()), [[1; 4096], [0; 4096]].concat());
}

/// The calls below, where the device has other sizes than it has.
#[test]
fn requests_are_split_and_aligned_as_the_sizes_say() {
    let count = Arc::new(CountDevice::new(memory(1 << 20)));
    let options = BlkdebugOptions {
        max_transfer: 4096,
        opt_write_zero: 4096,
        max_write_zero: 8192,
        opt_discard: 1024,
        max_discard: 2048,
        ..BlkdebugOptions::default()
    };
    let device = Blkdebug::new(count.clone(), options).unwrap();
    let now = |request: BoxFuture<'_, Result<()>>| request.now_or_never().unwrap().unwrap();
    now(device.write(1, bytes(1, 10000), WriteFlags::empty()));
    count.assert_trace(
        CallKinds::all(),
        &["write 0x1+0x1000", "write 0x1001+0x1000", "write 0x2001+0x710"],
    );
    device.read(0, 5000).now_or_never().unwrap().unwrap();
    count.assert_trace(CallKinds::all(), &["read 0x0+0x1000", "read 0x1000+0x388"]);
    now(device.write_zeroes(512, 0x5000, ZeroFlags::empty()));
    count.assert_trace(
        CallKinds::all(),
        &[
            "write 0x200+0xe00",
            "write_zeroes 0x1000+0x2000",
            "write_zeroes 0x3000+0x2000",
            "write 0x5000+0x200",
        ],
    );
    let strict = device.write_zeroes(512, 4096, ZeroFlags::NO_FALLBACK).now_or_never().unwrap();
    assert_eq!(strict.unwrap_err().kind(), ErrorKind::Unsupported);
    now(device.write_zeroes(4096, 4096, ZeroFlags::NO_FALLBACK));
    count.assert_trace(CallKinds::all(), &["write_zeroes 0x1000+0x1000"]);
    now(device.discard(512, 4096));
    count.assert_trace(
        CallKinds::all(),
        &[
            "discard 0x200+0x200",
            "discard 0x400+0x800",
            "discard 0xc00+0x400",
            "discard 0x1000+0x200",
        ],
    );
    let aligned = BlkdebugOptions { align: 4096, ..BlkdebugOptions::default() };
    let device = Blkdebug::new(count.clone(), aligned).unwrap();
    now(device.write(100, bytes(1, 5000), WriteFlags::empty()));
    count.assert_trace(CallKinds::WRITE, &["write 0x0+0x2000"]);
}

#[test]
fn parts_of_units_raise_the_events_of_their_completion() {
    use DebugEvent::{PwritevRmwAfterHead, PwritevRmwAfterTail, PwritevRmwHead, PwritevRmwTail};
    for (offset, len, head, tail) in [
        (100, 20, true, true),
        (0, 20, false, true),
        (4000, 96, true, false),
        (0, 4096, false, false),
    ] {
        for (event, raised) in [
            (PwritevRmwHead, head),
            (PwritevRmwAfterHead, head),
            (PwritevRmwTail, tail),
            (PwritevRmwAfterTail, tail),
            (Pwritev, true),
        ] {
            let rules = vec![on(event, BlkdebugIoType::Write)];
            let options =
                BlkdebugOptions { align: 4096, inject_error: rules, ..BlkdebugOptions::default() };
            let device = Blkdebug::new(memory(1 << 20), options).unwrap();
            let write = device.write(offset, bytes(1, len), WriteFlags::empty());
            assert_eq!(write.now_or_never().unwrap().is_err(), raised, "{offset} {len} {event:?}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit_each_other_are_refused() {
    let none = BlkdebugOptions::default();
    for (options, want) in [
        (BlkdebugOptions { align: 3, ..none.clone() }, "align 3"),
        (BlkdebugOptions { align: 1 << 31, ..none.clone() }, "align 2147483648"),
        (BlkdebugOptions { align: 1 << 63, ..none.clone() }, "align 9223372036854775808"),
        (BlkdebugOptions { align: 512, max_transfer: 1000, ..none.clone() }, "max-transfer 1000"),
        (BlkdebugOptions { max_transfer: 0x7fff_ffff, ..none.clone() }, "max-transfer 2147483647"),
        (
            BlkdebugOptions { align: 512, opt_write_zero: 1000, ..none.clone() },
            "opt-write-zero 1000",
        ),
        (
            BlkdebugOptions { opt_write_zero: 1024, max_write_zero: 1536, ..none.clone() },
            "max-write-zero 1536",
        ),
        (BlkdebugOptions { align: 512, opt_discard: 1000, ..none.clone() }, "opt-discard 1000"),
        (
            BlkdebugOptions { opt_discard: 1024, max_discard: 1536, ..none.clone() },
            "max-discard 1536",
        ),
    ] {
        let error = Blkdebug::new(memory(4096), options).unwrap_err();
        assert_eq!(error.what(), ["Cannot meet constraints with ", want].concat());
    }
    for options in [
        BlkdebugOptions { max_transfer: 1000, ..none.clone() },
        BlkdebugOptions { opt_discard: 3, max_discard: 9, ..none.clone() },
        BlkdebugOptions { align: 1 << 30, ..none },
    ] {
        Blkdebug::new(memory(4096), options).unwrap();
    }
}

/// A device with its notices.
fn watched() -> (Arc<Blkdebug>, Arc<Mutex<Vec<String>>>) {
    let device = Arc::new(device(vec![], vec![]));
    let notices = Arc::new(Mutex::new(Vec::new()));
    let told = notices.clone();
    device.on_breakpoint(Arc::new(move |notice| {
        told.lock().push(match notice {
            BreakpointNotice::Suspended(tag) => ["suspended ", &tag].concat(),
            BreakpointNotice::Resumed(tag) => ["resumed ", &tag].concat(),
        });
    }));
    (device, notices)
}

fn start(sim: &SimRuntime, device: &Arc<Blkdebug>) -> Arc<Mutex<bool>> {
    let done = Arc::new(Mutex::new(false));
    let (device, end) = (device.clone(), done.clone());
    sim.spawn(Box::pin(async move {
        raise(&*device, ReadAio).await;
        device.read(0, 512).await.unwrap();
        *end.lock() = true;
    }));
    sim.run_until_idle();
    done
}

#[test]
fn a_breakpoint_stops_one_request_until_it_is_resumed() {
    let sim = SimRuntime::new(1);
    let (device, notices) = watched();
    device.set_breakpoint(ReadAio, "A");
    let first = start(&sim, &device);
    let second = start(&sim, &device);
    assert!(!*first.lock() && *second.lock());
    sim.block_on(device.wait_suspended("A"));
    assert!(device.is_suspended("A") && !device.is_suspended("B"));
    device.resume("A").unwrap();
    sim.run_until_idle();
    assert!(*first.lock());
    assert_eq!(device.resume("A").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(*notices.lock(), ["suspended A", "resumed A"]);
    // One that never comes.
    device.set_breakpoint(Creation, "C");
    assert!(*start(&sim, &device).lock());
}

#[test]
fn several_breakpoints_of_an_event_stop_the_same_request() {
    let sim = SimRuntime::new(1);
    let (device, notices) = watched();
    device.set_breakpoint(ReadAio, "A");
    device.set_breakpoint(ReadAio, "B");
    let request = start(&sim, &device);
    device.resume("B").unwrap();
    sim.run_until_idle();
    assert!(!*request.lock());
    device.resume("A").unwrap();
    sim.run_until_idle();
    assert!(*request.lock());
    assert_eq!(*notices.lock(), ["suspended B", "suspended A", "resumed B", "resumed A"]);
}

#[test]
fn breakpoints_are_taken_away_with_what_they_stopped() {
    let sim = SimRuntime::new(1);
    let (device, _) = watched();
    assert_eq!(device.remove_breakpoint("A").unwrap_err().kind(), ErrorKind::NotFound);
    device.set_breakpoint(ReadAio, "A");
    device.remove_breakpoint("A").unwrap();
    assert!(*start(&sim, &device).lock());
    device.set_breakpoint(ReadAio, "A");
    let request = start(&sim, &device);
    // As the reference: it says that there is none, and lets the request go.
    device.remove_breakpoint("A").unwrap_err();
    sim.run_until_idle();
    assert!(*request.lock());
}

#[test]
fn whoever_drains_lets_stopped_requests_go() {
    let sim = SimRuntime::new(1);
    let (device, _) = watched();
    device.set_breakpoint(ReadAio, "A");
    let request = start(&sim, &device);
    device.release(true);
    sim.run_until_idle();
    assert!(*request.lock() && !device.is_suspended("A"));
    device.set_breakpoint(ReadAio, "A");
    assert!(*start(&sim, &device).lock(), "nor does any stop meanwhile");
    device.release(false);
    assert!(!*start(&sim, &device).lock());
}

#[test]
fn a_stopped_request_that_is_given_up_leaves_nothing_behind() {
    let sim = SimRuntime::new(1);
    let drops = sim.block_on(drop_at_each_await(
        async || {
            let (device, _) = watched();
            device.set_breakpoint(Pwritev, "A");
            let writer = device.clone();
            let resume = device.clone();
            let runtime = sim.clone();
            sim.spawn(Box::pin(async move {
                runtime.sleep(Duration::from_millis(1)).await;
                let _ = resume.resume("A");
            }));
            let write: BoxFuture<'static, _> =
                Box::pin(async move { writer.write(0, bytes(1, 9), WriteFlags::empty()).await });
            (device, write)
        },
        async |device, _| assert!(!device.is_suspended("A")),
    ));
    assert_eq!(drops, 2);
}

#[test]
fn events_have_the_names_of_the_schema() {
    assert_eq!(DebugEvent::ALL.len(), 48);
    for event in DebugEvent::ALL {
        assert_eq!(blkdebug_event(event.as_str()).unwrap(), *event);
    }
    let error = blkdebug_event("bogus").unwrap_err();
    assert_eq!(error.what(), "invalid parameter value: bogus");
    let error = "bogus".parse::<BlkdebugIoType>().unwrap_err();
    assert_eq!(error.what(), "invalid parameter value: bogus");
}
