//! The cases.

use super::super::model::{self, ModelOptions, payload};
use super::super::transfer::{check_answer, walk_extents};
use super::Case;
use super::bench::{BASE, Bench, Disks, LEAST_WINDOW, Stop, Verdict, done, fail, refused, skip};
use super::flight::{concurrent, dropped_writes, holds, overlapping};
use crate::ErrorKind;
use crate::io::{Capabilities, Limits, Preallocation, Segments, WriteFlags, ZeroFlags};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use futures_util::future::join_all;

pub(super) const ALL: &[Case] = &[
    Case {
        name: "limits",
        about: "limits are sound, and requests that break them are refused with InvalidInput",
        run: |b| Box::pin(limits(b)),
    },
    Case {
        name: "read_after_write",
        about: "what was written is read back, at any offset and length, and nothing else changes",
        run: |b| Box::pin(read_after_write(b)),
    },
    Case {
        name: "segments",
        about: "writes of several segments put data and zeroes where they belong",
        run: |b| Box::pin(segments(b)),
    },
    Case {
        name: "past_the_end",
        about: "a range that does not lie within the length is refused with InvalidInput",
        run: |b| Box::pin(past_the_end(b)),
    },
    Case {
        name: "overflow",
        about: "a range that exceeds 64 bits is refused with InvalidInput",
        run: |b| Box::pin(overflow(b)),
    },
    Case {
        name: "growing_writes",
        about: "with GROW, a write or zero write that ends past the length makes the device longer",
        run: |b| Box::pin(growing_writes(b)),
    },
    Case {
        name: "zero_init",
        about: "with ZERO_INIT, bytes gained by growing read as zeroes, whatever was there before",
        run: |b| Box::pin(zero_init(b)),
    },
    Case {
        name: "write_zeroes",
        about: "a zero write zeroes its range and no byte more, with every flag",
        run: |b| Box::pin(write_zeroes(b)),
    },
    Case {
        name: "discard",
        about: "a discard leaves old bytes or zeroes in its range, and all others alone",
        run: |b| Box::pin(discard(b)),
    },
    Case {
        name: "set_len",
        about: "the length goes both ways; what is kept stays, what is gained is zero",
        run: |b| Box::pin(set_len(b)),
    },
    Case {
        name: "extents",
        about: "extents are in order, without gaps, merged, and truthful about zeroes",
        run: |b| Box::pin(extents(b)),
    },
    Case {
        name: "flush",
        about: "flushes succeed, with or without something to do, and change nothing",
        run: |b| Box::pin(flush(b)),
    },
    Case {
        name: "compressed",
        about: "with COMPRESSED, compressed writes read back",
        run: |b| Box::pin(compressed(b)),
    },
    Case {
        name: "read_only",
        about: "a device without WRITE refuses every change with Denied",
        run: |b| Box::pin(read_only(b)),
    },
    Case { name: "info", about: "the device names its driver", run: |b| Box::pin(info(b)) },
    Case {
        name: "concurrent",
        about: "many requests in flight do not disturb each other",
        run: |b| Box::pin(concurrent(b)),
    },
    Case {
        name: "overlapping",
        about: "of overlapping writes in flight, each byte has one of the values",
        run: |b| Box::pin(overlapping(b)),
    },
    Case {
        name: "dropped_writes",
        about: "a write whose future was dropped settles before later overlapping changes and flushes",
        run: |b| Box::pin(dropped_writes(b)),
    },
    Case {
        name: "holds",
        about: "the hold on a write's data is kept until the write has settled, and then let go",
        run: |b| Box::pin(holds(b)),
    },
    Case {
        name: "random",
        about: "random operations agree with a flat copy",
        run: |b| Box::pin(random(b)),
    },
];

async fn limits(bench: &Bench<'_>) -> Verdict {
    let device = bench.make().await?;
    let limits = device.limits();
    let Limits { request_alignment, granularity, max_transfer } = limits;
    if !request_alignment.is_power_of_two() || !granularity.is_power_of_two() {
        fail!("alignment and granularity are not powers of two: {limits:?}");
    }
    if max_transfer < request_alignment {
        fail!("not even one aligned block can be transferred: {limits:?}");
    }
    drop(device);
    let disk = bench.disk().await?;
    let device = &disk.device;
    let align = disk.align;
    if align > 1 {
        for (offset, len) in
            [(1, align), (0, align - 1), (align, align + 1), (align / 2, align / 2)]
        {
            let data = payload(6, offset, len);
            refused("read", offset, len, ErrorKind::InvalidInput, device.read(offset, len).await)?;
            let write = device.write(offset, data, WriteFlags::empty()).await;
            refused("write", offset, len, ErrorKind::InvalidInput, write)?;
        }
    }
    let most = disk.down(u64::from(max_transfer));
    if most <= disk.len {
        done("read", 0, most, device.read(0, most).await)?;
        done("write", 0, most, device.write(0, payload(BASE, 0, most), WriteFlags::empty()).await)?;
    }
    let over = most + align;
    // Past the end of a device that cannot grow, the length is the reason.
    if device.len() >= over || disk.grow {
        let write = device.write(0, Segments::zero(over), WriteFlags::empty()).await;
        refused("write", 0, over, ErrorKind::InvalidInput, write)?;
    }
    if device.len() >= over {
        refused("read", 0, over, ErrorKind::InvalidInput, device.read(0, over).await)?;
    }
    disk.check_len("refused requests")?;
    disk.verify().await
}

async fn read_after_write(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut rng = bench.rng(1);
    let mut places = disk.places(disk.align);
    for _ in 0..64 {
        let len = disk.up(rng.between(1, disk.longest().min(3 * disk.granularity.max(4096))));
        let len = len.min(disk.longest());
        places.push((disk.down(rng.between(0, disk.len - len)), len));
    }
    for (tag, (offset, len)) in (1..).zip(places) {
        let flags = if tag % 8 == 7 { WriteFlags::FUA } else { WriteFlags::empty() };
        disk.write(offset, payload(tag, offset, len), flags).await?;
        disk.verify_around(offset, len).await?;
        let part = disk.down(rng.between(0, len));
        let data = done("read", offset, part, disk.device.read(offset, part).await)?;
        check_answer(offset, part, &data)?;
        disk.model.check(offset, &data.to_bytes())?;
    }
    for offset in [0, disk.down(disk.len / 2), disk.len] {
        disk.write(offset, Segments::new(), WriteFlags::empty()).await?;
        let data = done("read", offset, 0, disk.device.read(offset, 0).await)?;
        check_answer(offset, 0, &data)?;
    }
    disk.check_len("writes within it")?;
    disk.verify().await
}

async fn segments(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut rng = bench.rng(2);
    let data = |len: u64| Some(len);
    let zero = |len: u64| (None, len);
    let data = |len: u64| (data(len), len);
    let mut shapes = alloc::vec![
        alloc::vec![data(700), zero(300)],
        alloc::vec![zero(300), data(700)],
        alloc::vec![data(1), zero(1), data(1), zero(1)],
        alloc::vec![data(500), data(24), data(500)],
        alloc::vec![zero(1024)],
        alloc::vec![data(3), zero(5000), data(5)],
        alloc::vec![zero(513), data(4096), zero(4095)],
    ];
    // More segments than any system takes at once.
    shapes.push((0..2000).map(|n| if n % 2 == 0 { data(1) } else { zero(1) }).collect());
    for _ in 0..20 {
        let count = rng.between(1, 9);
        let mut shape = Vec::new();
        for _ in 0..count {
            let len = rng.between(1, 3000);
            shape.push(if rng.chance(50) { data(len) } else { zero(len) });
        }
        shapes.push(shape);
    }
    for (tag, shape) in (1..).zip(shapes) {
        let sum: u64 = shape.iter().map(|(_, len)| len).sum();
        let len = disk.up(sum);
        if len > disk.longest() {
            continue;
        }
        let offset = disk.down(rng.between(0, disk.len - len));
        let bytes = payload(8 * tag + 5, offset, len).to_bytes();
        let mut all = Segments::new();
        for (kind, part) in shape.into_iter().chain([(Some(0), len - sum)]) {
            let at = all.len() as usize;
            match kind {
                Some(_) => all.push_data(bytes.slice(at..at + part as usize)),
                None => all.push_zero(part),
            }
        }
        disk.refill(offset, len).await?;
        disk.write(offset, all, WriteFlags::empty()).await?;
        disk.verify_around(offset, len).await?;
    }
    disk.verify().await
}

async fn past_the_end(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let (device, align) = (disk.device.clone(), disk.align);
    let end = device.len().next_multiple_of(align);
    for (offset, len) in
        [(end, align), (end - align, 2 * align), (end + 8 * align, align), (0, end + align)]
    {
        let want = ErrorKind::InvalidInput;
        refused("read", offset, len, want, device.read(offset, len).await)?;
        refused("extents", offset, len, want, device.extents(offset, len).await)?;
        refused("discard", offset, len, want, device.discard(offset, len).await)?;
        if !disk.grow {
            let zeroes = device.write_zeroes(offset, len, ZeroFlags::empty()).await;
            refused("write_zeroes", offset, len, want, zeroes)?;
            let write = device.write(offset, Segments::zero(len), WriteFlags::empty()).await;
            refused("write", offset, len, want, write)?;
        }
    }
    refused("read", end + align, 0, ErrorKind::InvalidInput, device.read(end + align, 0).await)?;
    disk.check_len("refused requests")?;
    disk.verify().await?;
    // The same where bytes have been, if the length can change.
    if disk.resizable().await? {
        let half = disk.down(disk.len / 2);
        done("set_len", half, 0, device.set_len(half, Preallocation::Off).await)?;
        let want = ErrorKind::InvalidInput;
        refused("read", half, align, want, device.read(half, align).await)?;
        refused("extents", half, align, want, device.extents(half, align).await)?;
    }
    Ok(())
}

async fn overflow(bench: &Bench<'_>) -> Verdict {
    let disk = bench.disk().await?;
    let (device, align) = (&disk.device, disk.align);
    let top = disk.down(u64::MAX);
    let half = 1 << 63;
    for (offset, len) in [
        (top, 2 * align),
        (u64::MAX, 1),
        (u64::MAX, u64::MAX),
        (align, top),
        (half, half),
        (top, top),
    ] {
        let want = ErrorKind::InvalidInput;
        refused("read", offset, len, want, device.read(offset, len).await)?;
        refused("extents", offset, len, want, device.extents(offset, len).await)?;
        refused("discard", offset, len, want, device.discard(offset, len).await)?;
        for flags in [ZeroFlags::empty(), ZeroFlags::MAY_UNMAP] {
            let zeroes = device.write_zeroes(offset, len, flags).await;
            refused("write_zeroes", offset, len, want, zeroes)?;
        }
        let write = device.write(offset, Segments::zero(len), WriteFlags::empty()).await;
        refused("write", offset, len, want, write)?;
    }
    disk.check_len("refused requests")?;
    disk.verify().await
}

async fn growing_writes(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.grow {
        skip!("no GROW");
    }
    let align = disk.align;
    let zero_init = disk.device.capabilities().contains(Capabilities::ZERO_INIT);
    let odd = disk.up(1001);
    let gap = if zero_init { disk.up(3 * disk.granularity + 77) } else { 0 };
    // Directly at the end, across it, and past it.
    for (tag, back, ahead, len) in
        [(5, 0, 0, odd), (13, align, 0, odd), (21, 0, gap, odd), (4, 2 * align, 0, 3 * align)]
    {
        let offset = disk.model.len() - back + ahead;
        disk.write(offset, payload(tag, offset, len), WriteFlags::empty()).await?;
        disk.check_len("a growing write")?;
        disk.verify().await?;
    }
    // A zero write does it too, whether the bytes need writing or not.
    for (back, ahead, flags) in [
        (0, 0, ZeroFlags::empty()),
        (align, 0, ZeroFlags::MAY_UNMAP),
        (0, gap, ZeroFlags::MAY_UNMAP),
    ] {
        let offset = disk.model.len() - back + ahead;
        let zeroes = disk.device.write_zeroes(offset, odd, flags).await;
        done("write_zeroes", offset, odd, zeroes)?;
        disk.model.zero(offset, odd);
        disk.check_len("a growing zero write")?;
        disk.verify().await?;
    }
    Ok(())
}

async fn zero_init(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.device.capabilities().contains(Capabilities::ZERO_INIT) {
        skip!("no ZERO_INIT");
    }
    if !disk.resizable().await? {
        skip!("the length cannot change");
    }
    // Cut off data, then grow past it in every way: none of it may come back.
    let full = disk.len;
    for (way, cut) in (0..4).flat_map(|way| [(way, full / 2), (way, full / 3 + 1), (way, 0)]) {
        let cut = disk.down(cut);
        done("set_len", cut, 0, disk.device.set_len(cut, Preallocation::Off).await)?;
        disk.model.set_len(cut);
        let last = full - disk.align;
        match way {
            0 => {
                let grown = disk.device.set_len(full, Preallocation::Off).await;
                done("set_len", full, 0, grown)?;
                disk.model.set_len(full);
            }
            1 if disk.grow => {
                disk.write(last, payload(BASE, last, disk.align), WriteFlags::empty()).await?;
            }
            2 if disk.grow => {
                let zeroes = disk.device.write_zeroes(last, disk.align, ZeroFlags::MAY_UNMAP).await;
                done("write_zeroes", last, disk.align, zeroes)?;
                disk.model.zero(last, disk.align);
            }
            _ => {
                // Step by step.
                while disk.model.len() < full {
                    let len = (disk.model.len() + disk.up(full / 7)).min(full);
                    let grown = disk.device.set_len(len, Preallocation::Off).await;
                    done("set_len", len, 0, grown)?;
                    disk.model.set_len(len);
                }
            }
        }
        disk.check_len("growing again")?;
        disk.verify().await?;
        let extents = walk_extents(&*disk.device, 0, full).await.map_err(String::from)?;
        for extent in extents.iter().filter(|extent| extent.is_zero()) {
            disk.model.check_zero(extent.start, extent.len)?;
        }
        disk.refill(0, full).await?;
    }
    Ok(())
}

async fn write_zeroes(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut places = disk.places(1);
    places.extend([(0, 0), (disk.len, 0), (1, disk.len - 2), (disk.len - 700, 700)]);
    for (offset, len) in places {
        for flags in [
            ZeroFlags::empty(),
            ZeroFlags::MAY_UNMAP,
            ZeroFlags::NO_FALLBACK,
            ZeroFlags::MAY_UNMAP | ZeroFlags::NO_FALLBACK,
        ] {
            match disk.device.write_zeroes(offset, len, flags).await {
                Ok(()) => disk.model.zero(offset, len),
                Err(error)
                    if flags.contains(ZeroFlags::NO_FALLBACK)
                        && error.kind() == ErrorKind::Unsupported => {}
                Err(error) => {
                    fail!("write_zeroes {offset:#x}+{len:#x} with {flags:?} fails: {error:?}")
                }
            }
            disk.verify_around(offset, len).await.map_err(|stop| match stop {
                Stop::Fail(what) => Stop::Fail(format!(
                    "after write_zeroes {offset:#x}+{len:#x} with {flags:?}: {what}"
                )),
                skip => skip,
            })?;
            disk.refill(offset, len).await?;
        }
    }
    disk.check_len("zero writes within it")?;
    disk.verify().await
}

async fn discard(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut places = disk.places(1);
    places.extend([(0, 0), (disk.len, 0), (1, disk.len - 2), (disk.len - 700, 700)]);
    for (offset, len) in places {
        done("discard", offset, len, disk.device.discard(offset, len).await)?;
        disk.model.discard(offset, len);
        disk.verify_around(offset, len).await.map_err(|stop| match stop {
            Stop::Fail(what) => Stop::Fail(format!("after discard {offset:#x}+{len:#x}: {what}")),
            skip => skip,
        })?;
        // What is written there next counts.
        disk.refill(offset, len).await?;
        disk.verify_around(offset, len).await?;
    }
    disk.check_len("discards within it")?;
    disk.verify().await
}

async fn set_len(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.resizable().await? {
        skip!("the length cannot change");
    }
    let full = disk.len;
    let odd = disk.up(777);
    let steps = [full - odd, full, full / 2, full / 2, odd, full + odd, 0, disk.align, full];
    for len in steps.map(|len| disk.down(len)) {
        done("set_len", len, 0, disk.device.set_len(len, Preallocation::Off).await)?;
        disk.model.set_len(len);
        disk.check_len("a length change")?;
        disk.verify().await?;
        // The end is where the length says, for writes as well.
        if let Some(last) = len.checked_sub(disk.align) {
            let data = payload(BASE, last, disk.align);
            disk.write(last, data, WriteFlags::empty()).await?;
        }
    }
    disk.refill(0, full).await?;
    for preallocation in
        [Preallocation::Off, Preallocation::Metadata, Preallocation::Falloc, Preallocation::Full]
    {
        done("set_len", odd, 0, disk.device.set_len(odd, Preallocation::Off).await)?;
        disk.model.set_len(odd);
        match disk.device.set_len(full, preallocation).await {
            Ok(()) => disk.model.set_len(full),
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            Err(error) => fail!("set_len {full:#x} with {preallocation:?} fails: {error:?}"),
        }
        disk.check_len("a length change with preallocation")?;
        disk.verify().await?;
        done("set_len", full, 0, disk.device.set_len(full, Preallocation::Off).await)?;
        disk.model.set_len(full);
        disk.refill(0, full).await?;
    }
    Ok(())
}

async fn extents(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let mut rng = bench.rng(3);
    for round in 0..12 {
        let whole = walk_extents(&*disk.device, 0, disk.len).await.map_err(String::from)?;
        let mut asked = alloc::vec![whole];
        for _ in 0..8 {
            let offset = rng.below(disk.len);
            let len = rng.between(1, disk.len - offset);
            asked.push(walk_extents(&*disk.device, offset, len).await.map_err(String::from)?);
        }
        for extent in asked.iter().flatten().filter(|extent| extent.is_zero()) {
            if disk.model.check_zero(extent.start, extent.len).is_err() {
                fail!("an extent claims to be zero and is not: {extent:?}");
            }
        }
        // A little more variety for the next round.
        let len = disk.up(rng.between(1, disk.len / 8));
        let offset = disk.down(rng.between(0, disk.len - len));
        match round % 3 {
            0 => {
                let zeroes = disk.device.write_zeroes(offset, len, ZeroFlags::MAY_UNMAP).await;
                done("write_zeroes", offset, len, zeroes)?;
                disk.model.zero(offset, len);
            }
            1 => {
                let len = len.min(disk.longest());
                disk.write(offset, payload(round, offset, len), WriteFlags::empty()).await?;
            }
            _ => {
                done("discard", offset, len, disk.device.discard(offset, len).await)?;
                disk.model.discard(offset, len);
            }
        }
    }
    Ok(())
}

async fn flush(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    for tag in 0..4 {
        done("flush", 0, 0, disk.device.flush().await)?;
        done("flush", 0, 0, disk.device.flush().await)?;
        let len = disk.up(5000);
        disk.write(disk.align, payload(8 * tag + 6, disk.align, len), WriteFlags::empty()).await?;
        disk.verify_around(disk.align, len).await?;
    }
    let flushes = join_all((0..4).map(|_| disk.device.flush())).await;
    for result in flushes {
        done("flush", 0, 0, result)?;
    }
    disk.check_len("flushes")?;
    disk.verify().await
}

async fn compressed(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    if !disk.device.capabilities().contains(Capabilities::COMPRESSED) {
        skip!("no COMPRESSED");
    }
    let unit = disk.granularity.max(disk.align);
    if unit > disk.longest() {
        skip!("a cluster is longer than a request");
    }
    // Contents from nothing but zeroes to noise; each into clusters that hold nothing yet.
    for tag in 0..8 {
        let offset = u64::from(tag % 4) * unit;
        if offset + unit > disk.len {
            continue;
        }
        let zeroes = disk.device.write_zeroes(offset, unit, ZeroFlags::MAY_UNMAP).await;
        done("write_zeroes", offset, unit, zeroes)?;
        disk.model.zero(offset, unit);
        disk.write(offset, payload(tag, offset, unit), WriteFlags::COMPRESSED).await?;
        disk.verify_around(offset, unit).await?;
    }
    disk.verify().await
}

async fn read_only(bench: &Bench<'_>) -> Verdict {
    let device = match &bench.options.read_only {
        Some(subject) => done("make", 0, 0, subject.make().await)?,
        None => bench.make().await?,
    };
    if device.capabilities().contains(Capabilities::WRITE) {
        if bench.options.read_only.is_some() {
            fail!("the device that should be read-only claims to take writes");
        }
        skip!("no read-only device was given");
    }
    let align = u64::from(device.limits().request_alignment).max(1);
    let len = device.len();
    let part = (len / align * align).min(LEAST_WINDOW);
    let before = done("read", 0, part, device.read(0, part).await)?.to_vec();
    let denied = ErrorKind::Denied;
    let data = payload(BASE, 0, align);
    refused("write", 0, align, denied, device.write(0, data, WriteFlags::empty()).await)?;
    for flags in [ZeroFlags::empty(), ZeroFlags::all()] {
        let zeroes = device.write_zeroes(0, align, flags).await;
        refused("write_zeroes", 0, align, denied, zeroes)?;
    }
    refused("discard", 0, align, denied, device.discard(0, align).await)?;
    for other in [0, len + align] {
        let resized = device.set_len(other, Preallocation::Off).await;
        refused("set_len", other, 0, denied, resized)?;
    }
    let after = done("read", 0, part, device.read(0, part).await)?.to_vec();
    if device.len() != len || after != before {
        fail!("a refused change has changed something");
    }
    Ok(())
}

async fn info(bench: &Bench<'_>) -> Verdict {
    let device = bench.make().await?;
    let info = done("info", 0, 0, device.info().await)?;
    if info.driver.is_empty() {
        fail!("the driver has no name: {info:?}");
    }
    Ok(())
}

async fn random(bench: &Bench<'_>) -> Verdict {
    let mut disk = bench.disk().await?;
    let resizable = disk.resizable().await?;
    let len = disk.len;
    drop(disk);
    for round in 0..bench.options.rounds {
        let options = ModelOptions {
            seed: bench.options.seed.wrapping_add(round),
            ops: bench.options.ops,
            window: if resizable { 4 * len } else { len },
            longest: 64 << 10,
            max_len: resizable.then_some(len + len / 2),
            ..ModelOptions::default()
        };
        if let Err(failure) = model::check(&Disks(bench), &options).await {
            fail!("{failure}");
        }
    }
    Ok(())
}
