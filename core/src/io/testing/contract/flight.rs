//! Cases with several requests in flight, and with some whose futures are dropped.

use super::super::abandon_at;
use super::super::model::{Flat, Op, Plan, Session, payload};
use super::super::transfer::check_answer;
use super::bench::{Bench, Disk, Disks, Stop, Verdict, done, fail, skip};
use crate::io::{Hold, Preallocation, WriteFlags, ZeroFlags};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;
use futures_util::future::join_all;

pub(super) async fn concurrent(bench: &Bench<'_>) -> Verdict {
    // For a device that is read-only: a reason, not a failure.
    drop(bench.disk().await?);
    let disks = Disks(bench);
    let mut session = Session::start(&disks, bench.options.window).await?;
    let len = session.model().len();
    let align = u64::from(session.device().limits().request_alignment).max(1);
    let mut rng = bench.rng(4);
    for round in 0..12u32 {
        // The device in pieces with borders that fit no cluster, one operation each.
        let mut batch = Vec::new();
        let mut at = 0;
        while at < len {
            let most = if round % 2 == 0 { 2000 } else { len / 16 };
            let end = (at + rng.between(1, most).next_multiple_of(align)).min(len);
            let range = at..end;
            let tag = round * 1000 + u32::try_from(batch.len()).unwrap_or(0);
            batch.push(match rng.below(10) {
                0..5 => Op::Write { range, tag, flags: WriteFlags::empty() },
                5 => Op::Zero { range, flags: ZeroFlags::MAY_UNMAP },
                6 => Op::Discard(range),
                7 => Op::Extents(range),
                _ => Op::Read(range),
            });
            at = end;
        }
        batch.truncate(200);
        batch.push(Op::Flush);
        // In an order that has nothing to do with the place.
        for place in (1..batch.len()).rev() {
            batch.swap(place, rng.index(place + 1));
        }
        session.run(&Plan(alloc::vec![Op::Batch(batch)])).await?;
        session.model().verify(&**session.device()).await?;
    }
    Ok(session.finish().await?)
}

pub(super) async fn overlapping(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let align = disk.align;
    let len = disk.up(6000).min(disk.longest());
    let mut rng = bench.rng(5);
    for round in 0..10u32 {
        let writes: Vec<(u64, Bytes)> = (0..4)
            .map(|n| {
                let offset = disk.down(rng.between(0, len)) + align;
                (offset, payload(100 * round + 8 * n + 5, offset, len).to_bytes())
            })
            .collect();
        let during = {
            let mut during = disk.model.clone();
            writes.iter().for_each(|(offset, data)| during.may_write(*offset, data.clone()));
            during
        };
        let device = &disk.device;
        let all = join_all(writes.iter().map(|(offset, data)| {
            let read = device.read(*offset, len);
            let write = device.write(*offset, data.clone().into(), WriteFlags::empty());
            let during = &during;
            async move {
                let (written, read) = futures_util::future::join(write, read).await;
                done("write", *offset, len, written)?;
                let read = done("read", *offset, len, read)?;
                check_answer(*offset, len, &read)?;
                Verdict::Ok(during.check(*offset, &read.to_bytes())?)
            }
        }))
        .await;
        all.into_iter().collect::<Verdict>()?;
        // Now each byte is one of those written last; the old one is gone where any was.
        let mut after: Option<Flat> = None;
        for (offset, data) in &writes {
            let mut flat = disk.model.clone();
            flat.write(*offset, data.clone());
            for (other, data) in &writes {
                flat.may_write(*other, data.clone());
            }
            flat.verify_range(&**device, *offset, len).await?;
            after = Some(flat);
        }
        if let Some(flat) = after {
            flat.verify(&**device).await?;
        }
        disk.refill(0, 3 * len).await?;
    }
    disk.check_len("overlapping writes")?;
    disk.verify().await
}

/// What follows an abandoned write.
#[derive(Clone, Copy, Debug)]
enum Next {
    Write,
    Zero,
    Discard,
    SetLen,
    Flush,
}

pub(super) async fn dropped_writes(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut follow = alloc::vec![Next::Write, Next::Zero, Next::Discard, Next::Flush];
    if disk.resizable().await? {
        follow.push(Next::SetLen);
    }
    let align = disk.align;
    let len = disk.up(3000).min(disk.longest() / 2);
    let offset = disk.down(disk.granularity.max(2048)).min(disk.len / 2 / align * align);
    let mut dropped = 0;
    for next in follow {
        for zero in [false, true] {
            for waits in 1..=6 {
                disk.refill(offset, 3 * len).await?;
                done("flush", 0, 0, disk.device.flush().await)?;
                let device = disk.device.clone();
                let data = payload(13, offset, len);
                let write = if zero {
                    device.write_zeroes(offset, len, ZeroFlags::empty())
                } else {
                    device.write(offset, data.clone(), WriteFlags::empty())
                };
                if let Some(result) = abandon_at(write, waits).await {
                    done("write", offset, len, result)?;
                    break;
                }
                dropped += 1;
                disk.model.may_write(
                    offset,
                    if zero { Bytes::from(alloc::vec![0; len as usize]) } else { data.to_bytes() },
                );
                // The later change begins inside what was abandoned, and ends outside.
                let later = offset + disk.down(len / 2);
                match next {
                    Next::Write => {
                        disk.write(later, payload(21, later, len), WriteFlags::empty()).await?;
                    }
                    Next::Zero => {
                        let flags = ZeroFlags::MAY_UNMAP;
                        done(
                            "write_zeroes",
                            later,
                            len,
                            device.write_zeroes(later, len, flags).await,
                        )?;
                        disk.model.zero(later, len);
                    }
                    Next::Discard => {
                        done("discard", later, len, device.discard(later, len).await)?;
                        disk.model.discard(later, len);
                    }
                    Next::SetLen => {
                        for len in [offset, disk.len] {
                            done("set_len", len, 0, device.set_len(len, Preallocation::Off).await)?;
                            disk.model.set_len(len);
                        }
                    }
                    Next::Flush => {}
                }
                let context = |when: &str, stop: Stop| match stop {
                    Stop::Fail(what) => Stop::Fail(format!(
                        "a {} {offset:#x}+{len:#x} was dropped at its await {waits}, followed by \
                         {next:?}; {when}: {what}",
                        if zero { "zero write" } else { "write" }
                    )),
                    skip => skip,
                };
                disk.verify_around(offset, 2 * len).await.map_err(|s| context("at once", s))?;
                done("flush", 0, 0, device.flush().await)?;
                // A completed flush settles what was dropped before: from now on all is quiet.
                let from = disk.down(offset);
                let settled = done("read", from, len, device.read(from, len).await)?;
                disk.model.check(from, &settled.to_bytes())?;
                bench.linger().await;
                disk.verify_around(offset, 2 * len).await.map_err(|s| context("later", s))?;
                let quiet = done("read", from, len, device.read(from, len).await)?;
                // Only discarded bytes may read as they like.
                if quiet.to_vec() != settled.to_vec() && !matches!(next, Next::Discard) {
                    let what = "bytes have changed after the flush that settled them";
                    return Err(context("later", Stop::Fail(String::from(what))));
                }
                if matches!(next, Next::SetLen) {
                    disk.refill(offset, disk.len - offset).await?;
                }
            }
        }
    }
    if dropped == 0 {
        skip!("every write completes at its first poll: nothing can be dropped");
    }
    crowd_of_dropped_writes(bench, &mut disk).await
}

/// Many writes at once, each dropped somewhere, then one over all of them.
async fn crowd_of_dropped_writes(bench: &Bench<'_>, disk: &mut Disk) -> Verdict {
    let mut rng = bench.rng(6);
    let step = disk.up(1500);
    let count = (disk.longest() / step).min(16);
    for round in 0..8u32 {
        disk.refill(0, disk.len).await?;
        let device = disk.device.clone();
        let writes = (0..count).map(|n| {
            let data = payload(8 * round + 5, n * step, step);
            let waits = rng.index(5);
            abandon_at(device.write(n * step, data, WriteFlags::empty()), waits)
        });
        for result in join_all(writes).await.into_iter().flatten() {
            done("write", 0, step, result)?;
        }
        let len = count * step;
        disk.write(0, payload(8 * round + 6, 0, len), WriteFlags::empty()).await?;
        disk.verify().await?;
        done("flush", 0, 0, device.flush().await)?;
        bench.linger().await;
        disk.verify().await?;
    }
    Ok(())
}

pub(super) async fn holds(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let device = disk.device.clone();
    let len = disk.up(3000).min(disk.longest());
    let offset = disk.align;
    for waits in 1..=7 {
        disk.refill(offset, len).await?;
        let hold: Hold = Arc::new(());
        let alive = Arc::downgrade(&hold);
        let mut data = payload(21, offset, len);
        data.hold(hold);
        let write = device.write(offset, data, WriteFlags::empty());
        let result = abandon_at(write, if waits < 7 { waits } else { usize::MAX }).await;
        let completed = match result {
            Some(result) => {
                done("write", offset, len, result)?;
                true
            }
            None => false,
        };
        // Once the hold is let go, its owner gives the place to somebody else.
        if !completed && alive.upgrade().is_none() {
            let before = done("read", offset, len, device.read(offset, len).await)?.to_vec();
            bench.linger().await;
            let after = done("read", offset, len, device.read(offset, len).await)?.to_vec();
            if before != after {
                fail!(
                    "a write {offset:#x}+{len:#x} dropped at its await {waits} lands after its \
                     hold was let go"
                );
            }
        }
        done("flush", 0, 0, device.flush().await)?;
        if alive.upgrade().is_some() {
            // Whoever announces the end may still have it in its hands for a moment.
            bench.linger().await;
        }
        if alive.upgrade().is_some() {
            fail!(
                "the hold on a write {offset:#x}+{len:#x} ({}) is kept after a flush that settles it",
                if completed { "completed" } else { "dropped" }
            );
        }
        if completed && waits < 7 {
            break;
        }
    }
    Ok(())
}
