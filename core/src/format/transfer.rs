//! The one engine that moves bytes, for every format: raw pieces, zeroes, compressed units, the
//! backing chain, and copy-on-write.

use super::{Layer, Piece, Place, Target};
use crate::codec::{self, Compression};
use crate::io::{
    BlockDevice, DebugEvent, DeviceExt, Segment, Segments, WriteFlags, ZeroFlags, check_range,
    raise,
};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesOrdered, StreamExt};
use smallvec::SmallVec;

/// Compressed units that lie together are read together up to this many guest bytes: enough to make
/// handing them to another thread cheap, few enough to stay in its cache.
const UNITS_TOGETHER: u64 = 512 << 10;

/// Zeroes are written as data in steps of this size.
const ZERO_STEP: u64 = 2 << 20;

/// Zeroes shorter than this are written as data where the place is known: a zero write of the
/// host costs more than the bytes.
const MIN_HOST_ZERO: u64 = 32 << 10;

/// What lies on both sides of a write is read at once where no more than this is between.
const READ_THROUGH: u64 = 32 << 10;

/// Reads `len` bytes at guest offset `offset`.
pub(super) async fn read(layer: &Layer, offset: u64, len: u64) -> Result<Segments> {
    check_range(offset, len, layer.len())?;
    fetch(layer, offset, len).await
}

/// The same, past the end of the disk too: of the state of a machine.
pub(super) async fn fetch(layer: &Layer, offset: u64, len: u64) -> Result<Segments> {
    let end = offset + len;
    let mut out = Segments::new();
    let mut at = offset;
    while at < end {
        let mapping = layer.driver.map(at, end - at).await?;
        match mapping.pieces.as_slice() {
            [] => return Err(no_progress(layer, at)),
            [piece] => {
                out.append(read_piece(layer, at, *piece).await?);
                at += piece.len;
            }
            mut pieces => {
                let mut parts = FuturesOrdered::new();
                while !pieces.is_empty() {
                    let (together, rest) = pieces.split_at(units_together(pieces));
                    parts.push_back(read_pieces(layer, at, together));
                    at += together.iter().map(|piece| piece.len).sum::<u64>();
                    pieces = rest;
                }
                while let Some(part) = parts.next().await {
                    out.append(part?);
                }
            }
        }
        // `mapping` lived until here, and with it the claim on the host ranges just read.
    }
    Ok(out)
}

/// How many of the first pieces are compressed units that are decompressed as one piece of work.
/// At least 1.
fn units_together(pieces: &[Piece]) -> usize {
    let mut bytes = 0;
    let fits = |piece: &&Piece| {
        bytes += piece.len;
        bytes <= UNITS_TOGETHER && matches!(piece.place, Place::Compressed { .. })
    };
    pieces.iter().take_while(fits).count().max(1)
}

async fn read_pieces(layer: &Layer, start: u64, pieces: &[Piece]) -> Result<Segments> {
    match pieces {
        [piece] => read_piece(layer, start, *piece).await,
        _ => read_units(layer, start, pieces).await,
    }
}

async fn read_piece(layer: &Layer, start: u64, piece: Piece) -> Result<Segments> {
    match piece.place {
        Place::Raw { child, offset } => {
            raise(&*layer.file, DebugEvent::ReadAio).await;
            let child = layer.child(child);
            match layer.driver.encryption() {
                None => child.read_padded(offset, piece.len).await,
                Some(encryption) => {
                    encryption.read(&layer.runtime, child, start, offset, piece.len).await
                }
            }
            .map_err(|e| e.context(format!("cannot read guest offset {start:#x}")))
        }
        Place::Zero { .. } => Ok(Segments::zero(piece.len)),
        Place::Compressed { .. } => read_units(layer, start, &[piece]).await,
        Place::Unallocated { .. } => {
            match layer.below() {
                // What lies behind the disk is nothing of the disk below.
                Some(backing) if start < layer.len() => {
                    raise(&*layer.file, DebugEvent::ReadBackingAio).await;
                    backing.read_padded(start, piece.len).await
                }
                _ => Ok(Segments::zero(piece.len)),
            }
        }
    }
}

/// A compressed unit of which some bytes are wanted.
#[derive(Clone, Copy)]
struct Unit {
    kind: Compression,
    /// Host offset and length of the payload.
    offset: u64,
    len: u32,
    /// The run of payloads that it lies in.
    run: usize,
    /// Guest offset and length of the whole unit.
    start: u64,
    unit_len: u32,
    /// Guest offset and length of what is wanted of it.
    wanted: (u64, u64),
}

/// Payloads that lie one after the other in the file, give or take the sector in which one ends and
/// the next begins.
struct Run {
    offset: u64,
    end: u64,
}

impl Run {
    /// Takes a payload into the last run, or begins another. Gives the place of the run.
    fn take(runs: &mut SmallVec<[Self; 8]>, offset: u64, len: u32) -> usize {
        let end = offset.saturating_add(len.into());
        match runs.last_mut() {
            Some(run) if (run.offset..=run.end).contains(&offset) => run.end = run.end.max(end),
            _ => runs.push(Self { offset, end }),
        }
        runs.len() - 1
    }
}

/// Reads compressed pieces: their payloads, then what is in them.
async fn read_units(layer: &Layer, start: u64, pieces: &[Piece]) -> Result<Segments> {
    let mut units: SmallVec<[Unit; 8]> = SmallVec::new();
    let mut runs: SmallVec<[Run; 8]> = SmallVec::new();
    let mut at = start;
    for piece in pieces {
        if let Place::Compressed { offset, len, kind, unit_start, unit_len } = piece.place {
            let (run, wanted) = (Run::take(&mut runs, offset, len), (at, piece.len));
            units.push(Unit { kind, offset, len, run, start: unit_start, unit_len, wanted });
        }
        at += piece.len;
    }
    raise(&*layer.file, DebugEvent::ReadCompressed).await;
    let reads = runs.iter().map(|run| layer.file.read_padded(run.offset, run.end - run.offset));
    let payloads: Vec<Bytes> =
        try_join_all(reads).await?.into_iter().map(|read| read.to_bytes()).collect();
    let name = layer.driver.name();
    let work = move || {
        let mut out = Segments::new();
        for unit in units {
            // Within the run: it reaches from its first payload to the end of its last.
            let from = (unit.offset - runs[unit.run].offset) as usize;
            let payload = &payloads[unit.run][from..from + unit.len as usize];
            let bytes =
                codec::decompress(unit.kind, payload, unit.unit_len as usize).map_err(|e| {
                    e.context(format!("compressed cluster of guest offset {:#x}", unit.start))
                        .in_format(name)
                        .at(unit.offset)
                })?;
            let (at, len) = unit.wanted;
            out.append(Segments::from(bytes).slice(at - unit.start, len));
        }
        Ok(out)
    };
    layer.runtime.compute(work).await?
}

/// Writes `data` at guest offset `offset`.
pub(super) async fn write(layer: &Layer, offset: u64, data: Segments) -> Result<()> {
    let encryption = layer.driver.encryption();
    let sectors = match encryption {
        Some(encryption) => Some(encryption.lock(offset, data.len()).await),
        None => None,
    };
    let mut done = 0;
    while done < data.len() {
        let at = offset + done;
        let reservation = layer.driver.reserve(at, data.len() - done).await?;
        if reservation.targets.is_empty() {
            return Err(no_progress(layer, at));
        }
        for target in &reservation.targets {
            let target = &encryption.map_or(*target, |e| e.whole_sectors(*target));
            let (mut host, mut bytes) =
                padded(layer, target, data.slice(target.start - offset, target.len)).await?;
            if let Some(encryption) = encryption {
                bytes = encryption.encrypt(&layer.runtime, target, bytes).await?;
            } else if target.blank {
                (host, bytes) = without_zero_edges(host, bytes);
            }
            if let Some(sectors) = &sectors {
                bytes.hold(sectors.clone());
            }
            if let Some(hold) = &reservation.hold {
                bytes.hold(hold.clone());
            }
            raise(&*layer.file, DebugEvent::WriteAio).await;
            if target.before + target.after > 0 {
                raise(&*layer.file, DebugEvent::CowWrite).await;
            }
            let child = layer.child(target.child);
            if encryption.is_none() && bytes.is_zero() && bytes.len() >= MIN_HOST_ZERO {
                child.write_zeroes(host, bytes.len(), ZeroFlags::empty()).await
            } else {
                child.write(host, bytes, WriteFlags::empty()).await
            }
            .map_err(|e| e.context(format!("cannot write guest offset {:#x}", target.start)))?;
            done += target.len;
        }
        if let Some(token) = reservation.token {
            layer.driver.commit(token).await?;
        }
    }
    Ok(())
}

/// `data` with what the guest reads around it now, as far as the target wants it, and the host offset
/// at which that begins.
async fn padded(layer: &Layer, target: &Target, data: Segments) -> Result<(u64, Segments)> {
    let host = target.offset - target.before;
    let (start, end) = (target.start - target.before, target.start + target.len);
    if target.before + target.after == 0 {
        return Ok((host, data));
    }
    raise(&*layer.file, DebugEvent::CowRead).await;
    if target.before > 0 && target.after > 0 && target.len <= READ_THROUGH {
        // What cannot be read may be just what is going to be replaced.
        if let Ok(all) = current(layer, start, target.before + target.len + target.after).await {
            let mut out = all.slice(0, target.before);
            out.append(data);
            out.append(all.slice(target.before + target.len, target.after));
            return Ok((host, out));
        }
    }
    let mut out = current(layer, start, target.before).await?;
    out.append(data);
    out.append(current(layer, end, target.after).await?);
    Ok((host, out))
}

/// The same without the zeroes it begins and ends with.
fn without_zero_edges(host: u64, bytes: Segments) -> (u64, Segments) {
    let list = bytes.as_slice();
    let zeroes = |segment: &Segment| match segment {
        Segment::Zero(len) => Some(*len),
        Segment::Data(_) => None,
    };
    let head: u64 = list.iter().map_while(zeroes).sum();
    let tail: u64 = list.iter().rev().map_while(zeroes).sum();
    match bytes.len().saturating_sub(head + tail) {
        0 => (host, Segments::new()),
        len => (host + head, bytes.slice(head, len)),
    }
}

/// What the guest reads now, or the state of a machine is; zeroes past the virtual size (the rest of
/// the last cluster).
async fn current(layer: &Layer, start: u64, len: u64) -> Result<Segments> {
    // No cluster has both of the disk and of the state.
    if layer.driver.vm_state_offset().is_some_and(|state| start >= state) && start >= layer.len() {
        return Box::pin(fetch(layer, start, len)).await;
    }
    let inside = layer.len().saturating_sub(start).min(len);
    let mut out = match inside {
        0 => Segments::new(),
        n => Box::pin(read(layer, start, n)).await?,
    };
    out.push_zero(len - inside);
    Ok(out)
}

/// Writes zeroes as data.
pub(super) async fn write_zeroes(layer: &Layer, start: u64, len: u64) -> Result<()> {
    let mut done = 0;
    while done < len {
        let step = ZERO_STEP.min(len - done);
        write(layer, start + done, Segments::zero(step)).await?;
        done += step;
    }
    Ok(())
}

/// Writes whole clusters compressed; those that would not get smaller, as they are.
pub(super) async fn write_compressed(layer: &Layer, offset: u64, data: Segments) -> Result<()> {
    let geometry = layer.driver.geometry();
    let Some(kind) = geometry.compression else {
        return Err(Error::unsupported("the format has no compressed clusters")
            .in_format(layer.driver.name()));
    };
    let cluster = u64::from(geometry.cluster_size);
    let end = offset + data.len();
    if !offset.is_multiple_of(cluster) || (!end.is_multiple_of(cluster) && end != layer.len()) {
        return Err(Error::invalid(format!(
            "compressed writes take whole clusters of {cluster:#x} bytes, not {offset:#x}+{:#x}",
            data.len()
        ))
        .in_format(layer.driver.name()));
    }
    let mut packed = FuturesOrdered::new();
    for start in (0..data.len()).step_by(geometry.cluster_size as usize) {
        let part = data.slice(start, cluster.min(data.len() - start));
        packed.push_back(compress_cluster(layer, kind, offset + start, part, cluster));
    }
    let mut units = Vec::new();
    let mut payloads = Vec::new();
    while let Some(done) = packed.next().await {
        let (start, part, payload) = done?;
        match payload {
            Some(payload) => {
                let len = u32::try_from(payload.len())
                    .map_err(|_| Error::bug("a compressed cluster is larger than a cluster"))?;
                units.push((start, len));
                payloads.push(payload);
            }
            None => write(layer, start, part).await?,
        }
    }
    if units.is_empty() {
        return Ok(());
    }
    let reservation = layer.driver.reserve_compressed(&units).await?;
    let mut targets = reservation.targets.iter().zip(payloads).peekable();
    while let Some((first, payload)) = targets.next() {
        let mut bytes = Segments::from(payload);
        // Units packed one after another go to the file in one write.
        while let Some((_, payload)) = targets.next_if(|(next, _)| {
            next.child == first.child && next.offset == first.offset + bytes.len()
        }) {
            bytes.append(payload.into());
        }
        if let Some(hold) = &reservation.hold {
            bytes.hold(hold.clone());
        }
        raise(&*layer.file, DebugEvent::WriteCompressed).await;
        layer.child(first.child).write(first.offset, bytes, WriteFlags::empty()).await?;
    }
    match reservation.token {
        Some(token) => layer.driver.commit(token).await,
        None => Ok(()),
    }
}

/// Compresses one cluster, padded with zeroes to its full length.
async fn compress_cluster(
    layer: &Layer,
    kind: Compression,
    start: u64,
    part: Segments,
    cluster: u64,
) -> Result<(u64, Segments, Option<Vec<u8>>)> {
    let mut whole = part.clone();
    whole.push_zero(cluster - part.len());
    let whole = whole.to_bytes();
    let payload = layer.runtime.compute(move || codec::compress(kind, &whole)).await??;
    Ok((start, part, payload))
}

/// A driver answered with nothing: without this check the engine would ask for ever.
fn no_progress(layer: &Layer, at: u64) -> Error {
    Error::bug(format!("the driver covered nothing of guest offset {at:#x}"))
        .in_format(layer.driver.name())
}
