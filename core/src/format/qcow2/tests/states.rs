//! States of the whole disk: snapshots, sizes and amendments, with power lost, calls that fail and
//! futures that are dropped.
//!
//! Whatever happens, the disk and each snapshot are as before a step or as after it, and can be
//! used: a write afterwards changes the disk and no snapshot.

use super::super::{CreateOptions, Version, create};
use super::{Always, findings, rounds};
use crate::format::{
    Amendment, BackingRef, Env, Finding, FindingKind, FormatName, Layer, NewSnapshot, OpenOptions,
    open,
};
use crate::image::{amend, no_progress};
use crate::io::testing::{
    CallFilter, CallKinds, CrashDevice, Fault, FaultDevice, Rng, SimRuntime, YieldDevice,
    drop_at_each_await, fail_each_call,
};
use crate::io::{
    Access, BlockDevice, BoxFuture, Device, MemoryDevice, Preallocation, WriteFlags, ZeroFlags,
};
use crate::{ErrorKind, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

/// One step; durable at its end.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Compressed(u64, u64, u8),
    Zero(u64, u64, ZeroFlags),
    Create(&'static str),
    Apply(&'static str),
    Delete(&'static str),
    Resize(u64, Preallocation),
    Amend(Amendment),
}

use Step::{Amend, Apply, Compressed, Create, Delete, Resize, Write, Zero};

/// What there is.
#[derive(Clone, Debug, PartialEq)]
struct State {
    disk: Vec<u8>,
    snapshots: Vec<(String, Vec<u8>)>,
}

impl State {
    /// After a step.
    fn after(&self, step: &Step) -> Self {
        let mut next = self.clone();
        let mut fill = |at: u64, len: u64, byte: u8| {
            next.disk[at as usize..(at + len) as usize].fill(byte);
        };
        match step {
            Write(at, len, byte) | Compressed(at, len, byte) => fill(*at, *len, *byte),
            Zero(at, len, _) => fill(*at, *len, 0),
            Create(name) => next.snapshots.push((name.to_string(), next.disk.clone())),
            Apply(name) => {
                let found = next.snapshots.iter().find(|s| s.0 == *name);
                next.disk = found.expect("a snapshot").1.clone();
            }
            Delete(name) => next.snapshots.retain(|s| s.0 != *name),
            Resize(len, _) => next.disk.resize(*len as usize, 0),
            Amend(_) => {}
        }
        next
    }

    fn names(&self) -> Vec<&str> {
        self.snapshots.iter().map(|s| s.0.as_str()).collect()
    }
}

/// An image and its steps.
struct Story {
    name: &'static str,
    file: MemoryDevice,
    backing: Device,
    runtime: SimRuntime,
    start: State,
    steps: Vec<Step>,
}

impl Story {
    async fn open(
        &self,
        file: Device,
        access: Access,
        snapshot: Option<&str>,
    ) -> Result<Arc<Layer>> {
        let policy = Arc::new(Always(self.backing.clone()));
        let env = Env { runtime: self.runtime.handle(), policy };
        let format = Some(FormatName::Qcow2);
        let snapshot = snapshot.map(ToString::to_string);
        let options = OpenOptions { format, access, snapshot, ..OpenOptions::default() };
        open(&env, file, "image", options).await
    }

    async fn new(
        runtime: &SimRuntime,
        name: &'static str,
        options: &CreateOptions,
        steps: &[Step],
    ) -> Self {
        let file = Arc::new(MemoryDevice::new(0));
        let device: Device = file.clone();
        create(&runtime.handle(), &device, None, options).await.expect("possible options");
        let base = vec![0xbb; 100 << 10];
        let mut disk = vec![0; options.size as usize];
        if options.backing.is_some() {
            let len = base.len().min(disk.len());
            disk[..len].copy_from_slice(&base[..len]);
        }
        Self {
            name,
            file: file.fork(),
            backing: Arc::new(MemoryDevice::with_data(&base)),
            runtime: runtime.clone(),
            start: State { disk, snapshots: Vec::new() },
            steps: steps.to_vec(),
        }
    }

    /// Every kind of image whose tables differ.
    async fn all(runtime: &SimRuntime) -> Vec<Self> {
        let base = CreateOptions { size: 64 << 10, cluster_size: 512, ..CreateOptions::default() };
        let v2 = CreateOptions { version: Version::V2, ..base.clone() };
        let narrow = CreateOptions { refcount_bits: 8, ..base.clone() };
        let wide = CreateOptions { refcount_bits: 64, ..base.clone() };
        let extended = CreateOptions { extended_l2: true, cluster_size: 16 << 10, ..base.clone() };
        let backing = Some(BackingRef { name: "base".into(), format: Some("raw".into()) });
        let backed = CreateOptions { backing, ..base.clone() };
        let mut all = Vec::new();
        let (off, unmap) = (Preallocation::Off, ZeroFlags::MAY_UNMAP);
        let states = vec![
            Write(0x300, 0x900, 1),
            Create("one"),
            Write(0x400, 0x200, 2),
            Zero(0x9000, 0x1000, unmap),
            Create("two"),
            Apply("one"),
            Write(0x8000, 0x1000, 3),
            Delete("one"),
            Apply("two"),
            Delete("two"),
            Write(0x200, 0x4000, 4),
        ];
        let sizes = vec![
            Write(0x300, 0x900, 1),
            Write(0xf000, 0x1000, 2),
            Create("large"),
            Resize(0x8200, off),
            Write(0x8000, 0x200, 3),
            Resize(0x400, off),
            Resize(0x1_8000, off),
            Apply("large"),
            Resize(0x1_a000, Preallocation::Metadata),
            Delete("large"),
            Resize(0x1_0000, off),
        ];
        let packed = vec![
            Compressed(0, 0x1000, 1),
            Create("one"),
            Compressed(0x400, 0x400, 2),
            Apply("one"),
            Delete("one"),
        ];
        let compat = |compat: &str| Amendment { compat: Some(compat.into()), ..Default::default() };
        let bits = |bits| Amendment { refcount_bits: Some(bits), ..Default::default() };
        let lazy = |on| Amendment { lazy_refcounts: Some(on), ..Default::default() };
        let amended = vec![
            Write(0x300, 0x900, 1),
            Zero(0x2000, 0x800, ZeroFlags::empty()),
            Zero(0x400, 0x400, ZeroFlags::empty()),
            Create("one"),
            Write(0x2200, 0x100, 2),
            Amend(compat("0.10")),
            Write(0x2400, 0x100, 3),
            Amend(compat("1.1")),
            Amend(bits(64)),
            Write(0x4400, 0x1100, 4),
            Amend(lazy(true)),
            Amend(bits(2)),
            Delete("one"),
            Write(0, 0x1000, 5),
            Amend(bits(1)),
            Amend(Amendment { refcount_bits: Some(16), ..compat("0.10") }),
        ];
        for (name, options, steps) in [
            ("states", &base, &states),
            ("states, version 2", &v2, &states),
            ("states, refcounts of 64 bits", &wide, &states),
            ("states, extended L2", &extended, &states),
            ("states, backed", &backed, &states),
            ("sizes", &base, &sizes),
            ("sizes, extended L2", &extended, &sizes),
            ("sizes, backed", &backed, &sizes),
            ("compressed", &base, &packed),
            ("compressed, refcounts of 8 bits", &narrow, &packed),
            ("amended", &base, &amended),
            ("amended, backed", &backed, &amended),
        ] {
            all.push(Self::new(runtime, name, options, steps).await);
        }
        all
    }

    /// Does the steps until one fails; gives the states before and after it, which are the same
    /// where all was done.
    async fn tell(&self, file: Device) -> (State, State, Option<Step>) {
        let mut state = self.start.clone();
        let Ok(mut layer) = self.open(file.clone(), Access::ReadWrite, None).await else {
            return (state.clone(), state, None);
        };
        for step in &self.steps {
            let next = state.after(step);
            if perform(layer.clone(), step.clone()).await.is_err() {
                return (state, next, Some(step.clone()));
            }
            state = next;
            if matches!(step, Amend(_)) {
                match self.open(file.clone(), Access::ReadWrite, None).await {
                    Ok(again) => layer = again,
                    Err(_) => return (state.clone(), state, None),
                }
            }
        }
        // Refcounts may wait until then. What a step has made durable does not depend on it.
        let _ = layer.close().await;
        (state.clone(), state, None)
    }

    /// The image in `file` is in one of two states, and can be used.
    async fn assert_whole(
        &self,
        what: &str,
        file: Device,
        (before, after, step): (State, State, Option<Step>),
        strict: bool,
    ) {
        let name = format!("{}, {what}", self.name);
        let layer = self
            .open(file.clone(), Access::ReadWrite, None)
            .await
            .unwrap_or_else(|e| panic!("{name}: it does not open: {e:?}"));
        let harmless = |f: &Finding| {
            f.kind == FindingKind::Leak || !strict && f.what.starts_with("ERROR OFLAG_COPIED")
        };
        for finding in findings(&layer).await.expect("a report") {
            assert!(harmless(&finding), "{name}: {finding:?}");
        }
        let disk = layer.read(0, layer.len()).await.expect("readable").to_vec();
        let list = layer.driver().snapshots().expect("it has them").list();
        let names: Vec<&str> = list.iter().map(|s| s.name.as_str()).collect();
        let within = matches!(step, Some(Write(..) | Compressed(..) | Zero(..)));
        let same = |s: &State| {
            s.names() == names
                && match within {
                    true => disk
                        .iter()
                        .zip(before.disk.iter().zip(&after.disk))
                        .all(|(d, (a, b))| d == a || d == b),
                    false => s.disk == disk,
                }
        };
        let state = [&before, &after].into_iter().find(|s| same(s));
        let state = state.unwrap_or_else(|| {
            let len = disk.len();
            panic!("{name}: {step:?}: neither before nor after: {names:?}, {len:#x} bytes")
        });
        // What it can be used for, it can be used for safely.
        let mut at = 0;
        while at < layer.len() {
            let len = 0x700.min(layer.len() - at);
            layer
                .write(at, vec![0xee; len as usize].into(), WriteFlags::empty())
                .await
                .expect("room");
            at += 0x1100;
        }
        layer.close().await.expect("durable");
        drop(layer);
        for (i, (snapshot, bytes)) in state.snapshots.iter().enumerate() {
            let id = &list[i].id;
            let layer =
                self.open(file.clone(), Access::ReadOnly, Some(id)).await.expect("it opens");
            let found = layer.read(0, layer.len()).await.expect("readable").to_vec();
            assert!(found == *bytes, "{name}: the snapshot '{snapshot}' has changed");
        }
    }
}

/// Makes one step.
fn perform(layer: Arc<Layer>, step: Step) -> BoxFuture<'static, Result<()>> {
    Box::pin(async move {
        let snapshots = layer.driver().snapshots().expect("it has them");
        let id = |name: &str| {
            let list = snapshots.list();
            list.iter().find(|s| s.name == name).map_or_else(|| "?".into(), |s| s.id.clone())
        };
        let data = |len: u64, byte| vec![byte; len as usize].into();
        match &step {
            Write(at, len, byte) => {
                layer.write(*at, data(*len, *byte), WriteFlags::empty()).await?
            }
            Compressed(at, len, byte) => {
                layer.write(*at, data(*len, *byte), WriteFlags::COMPRESSED).await?;
            }
            Zero(at, len, flags) => layer.write_zeroes(*at, *len, *flags).await?,
            Create(name) => {
                let new = NewSnapshot { name: (*name).into(), ..NewSnapshot::default() };
                snapshots.create(new).await?;
            }
            Apply(name) => snapshots.apply(&id(name)).await?,
            Delete(name) => snapshots.delete(&id(name)).await?,
            Resize(len, preallocation) => layer.set_len(*len, *preallocation).await?,
            Amend(options) => {
                amend(&layer, options, &no_progress).await?;
                // It is opened again after that.
                return layer.close().await;
            }
        }
        layer.flush().await
    })
}

#[test]
fn every_step_does_what_it_says() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for story in Story::all(&runtime).await {
            for end in 1..=story.steps.len() {
                let file: Device = Arc::new(story.file.fork());
                let some = Story {
                    steps: story.steps[..end].to_vec(),
                    file: story.file.fork(),
                    backing: story.backing.clone(),
                    runtime: runtime.clone(),
                    start: story.start.clone(),
                    ..story
                };
                let told = some.tell(file.clone()).await;
                assert!(told.2.is_none(), "{}: {:?} fails", story.name, told.2);
                let what = format!("after {end} steps, {:?}", some.steps[end - 1]);
                {
                    let layer =
                        some.open(file.clone(), Access::ReadOnly, None).await.expect("it opens");
                    assert_eq!(
                        findings(&layer).await.expect("a report"),
                        [],
                        "{}, {what}",
                        story.name
                    );
                }
                some.assert_whole(&what, file.clone(), told, true).await;
                let layer = some.open(file, Access::ReadOnly, None).await.expect("it opens");
                assert_eq!(
                    findings(&layer).await.expect("a report"),
                    [],
                    "{}, {what}, used",
                    story.name
                );
            }
        }
    });
}

#[test]
fn power_lost_at_any_call_leaves_the_state_before_or_after() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        let mut rng = Rng::new(3);
        for story in Story::all(&runtime).await {
            for call in 0.. {
                let file = Arc::new(CrashDevice::new(story.file.fork()));
                file.crash_after(call);
                let told = story.tell(file.clone()).await;
                for _ in 0..rounds() {
                    let left: Device = Arc::new(file.crash(rng.next_u64()));
                    let what = format!("crash at {call}");
                    story.assert_whole(&what, left, told.clone(), false).await;
                }
                if !file.crashed() {
                    assert!(call > 10, "{}: {call} calls", story.name);
                    break;
                }
            }
        }
    });
}

#[test]
fn a_call_that_fails_leaves_the_state_before_or_after() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for story in Story::all(&runtime).await {
            let below = core::cell::RefCell::new(Arc::new(story.file.fork()));
            let make = async || {
                let fresh = Arc::new(story.file.fork());
                *below.borrow_mut() = fresh.clone();
                fresh as Device
            };
            let test = async |file: Arc<FaultDevice>, call: u64| {
                let told = story.tell(file).await;
                let left: Device = Arc::new(below.borrow().fork());
                story.assert_whole(&format!("call {call} fails"), left, told, false).await;
            };
            let filter = CallFilter::of(CallKinds::CHANGES | CallKinds::FLUSH | CallKinds::READ);
            let calls = fail_each_call(Fault::new(ErrorKind::Io).on(filter), make, test).await;
            assert!(calls > 10, "{}: {calls} calls", story.name);
        }
    });
}

#[test]
fn a_step_dropped_at_any_await_leaves_the_state_before_or_after() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for story in Story::all(&runtime).await {
            for (i, step) in story.steps.iter().enumerate() {
                if !matches!(step, Create(_) | Apply(_) | Delete(_) | Resize(..) | Amend(_)) {
                    continue;
                }
                let mut waits = 0;
                drop_at_each_await(
                    async || {
                        let file: Device = Arc::new(story.file.fork());
                        let mut state = story.start.clone();
                        let mut layer = None;
                        for step in &story.steps[..i] {
                            let open = match layer.take() {
                                Some(open) => open,
                                None => story
                                    .open(file.clone(), Access::ReadWrite, None)
                                    .await
                                    .expect("it opens"),
                            };
                            perform(Arc::clone(&open), step.clone()).await.expect("nothing fails");
                            state = state.after(step);
                            if !matches!(step, Amend(_)) {
                                layer = Some(open);
                            }
                        }
                        drop(layer);
                        let slow: Device = Arc::new(YieldDevice::new(file.clone()));
                        let layer =
                            story.open(slow, Access::ReadWrite, None).await.expect("it opens");
                        let operation = perform(layer.clone(), step.clone());
                        ((file, layer, state), operation)
                    },
                    async |(file, layer, state), result| {
                        let what = format!("step {i} ({step:?}) dropped at {waits}");
                        waits += 1;
                        if let Some(Err(e)) = &result {
                            panic!("{}, {what}: it fails: {e:?}", story.name);
                        }
                        let after = state.after(step);
                        layer
                            .close()
                            .await
                            .unwrap_or_else(|e| panic!("{}, {what}: {e:?}", story.name));
                        drop(layer);
                        story
                            .assert_whole(&what, file, (state, after, Some(step.clone())), true)
                            .await;
                    },
                )
                .await;
                assert!(waits > 3, "{}: {waits} drops", story.name);
            }
        }
    });
}

#[test]
fn a_count_at_its_top_refuses_a_snapshot_and_changes_nothing() {
    let runtime = SimRuntime::new(1);
    runtime.block_on(async {
        for bits in [1, 2, 4] {
            let options = CreateOptions {
                size: 64 << 10,
                cluster_size: 512,
                refcount_bits: bits,
                ..CreateOptions::default()
            };
            let steps = [Write(0x300, 0x3000, 7)];
            let story = Story::new(&runtime, "narrow", &options, &steps).await;
            let file: Device = Arc::new(story.file.fork());
            let mut state = story.tell(file.clone()).await.0;
            let layer = story.open(file.clone(), Access::ReadWrite, None).await.expect("it opens");
            for _ in 1..(1 << bits) - 1 {
                perform(layer.clone(), Create("fits")).await.expect("it fits");
                state = state.after(&Create("fits"));
            }
            for step in [Create("no more"), Apply("fits")] {
                if bits == 1 && matches!(step, Apply(_)) {
                    continue;
                }
                let error = perform(layer.clone(), step).await.expect_err("no room to count");
                assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
                assert_eq!(
                    findings(
                        &story.open(file.clone(), Access::ReadOnly, None).await.expect("it opens")
                    )
                    .await
                    .expect("a report"),
                    []
                );
            }
            drop(layer);
            story.assert_whole("full", file, (state.clone(), state, None), true).await;
        }
    });
}
