//! What has to hold of what a crash has left.
//!
//! The check finds leaks at worst, before anything is repaired (unless the image says itself that
//! it is dirty). The image opens and shows one of the states that are allowed, snapshots, bitmaps,
//! keys and the name of the backing file included. It is then repaired and used, or used and then
//! repaired: nothing is left to repair, and everything reads as it should.

use super::steps::{GRANULARITY, MACHINE, State};
use super::world::{Files, World};
use crate::format::{Finding, FindingKind, Layer, Repair};
use crate::image::{self, no_progress};
use crate::io::{Access, BlockDevice, Device, MemoryDevice, WriteFlags};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// What an image was like.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    /// Marked as dirty.
    pub(crate) dirty: bool,
    /// Copied flags disagree with counts.
    pub(crate) copied: bool,
}

/// Judges the files of a point.
///
/// # Errors
/// The promise that is broken.
pub(crate) async fn judge(
    world: &World,
    files: &[(&'static str, MemoryDevice)],
    allowed: &[State],
    copied: bool,
    seed: u64,
) -> Result<Verdict, String> {
    let forks = files.iter().map(|(name, file)| (*name, Arc::new(file.fork()) as Device));
    let files = Files(forks.collect());
    let damaged = allowed.iter().any(|state| state.damaged);
    let told = |what: &'static str| move |e: Error| format!("{what}: {e:?}");

    let mut verdict = look(world, &files, "image", copied).await?;
    if !damaged && let Some(found) = verdict.1 {
        return Err(format!("before any repair: {found:?}"));
    }
    if files.get("base").is_ok() && world.start.backing.is_some() {
        let base = Files(alloc::vec![("image", files.get("base").map_err(told("base"))?)]);
        let is_image = world.kind.is_chain();
        if is_image && let Some(found) = look(world, &base, "the base", false).await?.1 {
            return Err(format!("the base: {found:?}"));
        }
    }
    let verdict = core::mem::take(&mut verdict.0);

    let repair_first = damaged || seed.is_multiple_of(2);
    if repair_first {
        repair(world, &files).await?;
    }
    let (state, key) = recognise(world, &files, allowed).await?;
    let machine = state.machine.is_some();
    let (disk, saved) = used(world, &files, key, machine).await.map_err(told("used"))?;
    if !repair_first {
        repair(world, &files).await?;
    }
    let layer =
        world.open(&files, Access::ReadOnly, key, None, false).await.map_err(told("at last"))?;
    if contents(&layer).await.map_err(told("at last"))? != disk {
        return Err("used and repaired, it reads otherwise".into());
    }
    if machine && machine_of(&layer).await.map_err(told("at last"))? != saved {
        return Err("used and repaired, the state of the machine reads otherwise".into());
    }
    for kept in &state.snapshots {
        let name = kept.name;
        let id = snapshot_id(&layer, name).map_err(told("a snapshot"))?;
        let layer = world.open(&files, Access::ReadOnly, key, Some(&id), false).await;
        let layer = layer.map_err(told("a snapshot"))?;
        if contents(&layer).await.map_err(told("a snapshot"))? != kept.disk {
            return Err(format!("the snapshot '{name}' reads otherwise"));
        }
        if let Some(machine) = &kept.machine
            && machine_of(&layer).await.map_err(told("a snapshot"))? != *machine
        {
            return Err(format!("the snapshot '{name}' has another state of the machine"));
        }
    }
    Ok(verdict)
}

/// What the check has to say that is no leak, and what excuses it.
async fn look(
    world: &World,
    files: &Files,
    what: &str,
    copied: bool,
) -> Result<(Verdict, Option<Finding>), String> {
    let told = |e: Error| format!("{what} cannot be checked: {e:?}");
    let layer = world.open(files, Access::ReadOnly, None, None, true).await.map_err(told)?;
    let dirty = layer.driver().describe().await.map_err(told)?.dirty;
    let found = image::check(&layer, Repair::Nothing, &no_progress).await.map_err(told)?;
    let report = found.ok_or("no check")?.report;
    if let Some(failed) = report.failed {
        return Err(format!("{what} cannot be checked: {failed}"));
    }
    let mut verdict = Verdict { dirty, copied: false };
    let mut worst = None;
    for finding in report.findings {
        if finding.kind == FindingKind::Leak {
            continue;
        }
        if copied && finding.what.starts_with("ERROR OFLAG_COPIED") {
            verdict.copied = true;
        } else if !dirty {
            worst = worst.or(Some(finding));
        }
    }
    Ok((verdict, worst))
}

/// Opens the image, and finds the state it is in. Gives a key that opens it.
async fn recognise<'a>(
    world: &World,
    files: &Files,
    allowed: &'a [State],
) -> Result<(&'a State, Option<&'static str>), String> {
    let mut reasons = Vec::new();
    for state in allowed {
        match is_in(world, files, state).await {
            Ok(()) => return Ok((state, state.keys.first().copied())),
            Err(why) => reasons.push(why),
        }
    }
    Err(format!("none of {} states: {}", allowed.len(), reasons.join("; ")))
}

async fn is_in(world: &World, files: &Files, state: &State) -> Result<(), String> {
    let told = |e: Error| format!("it does not open: {e:?}");
    // One of those that open it is enough for what follows; all have to.
    for key in state.keys.iter().skip(1) {
        world.open(files, Access::ReadOnly, Some(key), None, false).await.map_err(told)?;
    }
    let key = state.keys.first().copied();
    let layer = world.open(files, Access::ReadWrite, key, None, false).await.map_err(told)?;
    state.disk.after_crash(layer.len())?.verify(&*layer).await?;
    if let Some(machine) = &state.machine {
        let found = machine_of(&layer).await.map_err(|e| format!("the machine: {e:?}"))?;
        let verdict = machine.bytes.after_crash(MACHINE)?.check(0, &found);
        verdict.map_err(|what| format!("the machine: {what}"))?;
    }
    let info = layer.driver().describe().await.map_err(told)?;
    let backing = info.backing.map(|backing| backing.name);
    if backing != state.backing {
        return Err(format!("it names {backing:?}, should name {:?}", state.backing));
    }
    let found: Vec<(&str, u64)> =
        info.snapshots.iter().map(|s| (s.name.as_str(), s.vm_state_size)).collect();
    if !found.iter().copied().eq(state.snapshots.iter().map(|s| (s.name, s.machine_len))) {
        return Err(format!("its snapshots are {found:?}"));
    }
    bitmaps(&layer, state).await
}

/// A bitmap that does not say that it is inconsistent knows what has changed.
async fn bitmaps(layer: &Arc<Layer>, state: &State) -> Result<(), String> {
    let found = layer.bitmaps().all();
    let names: Vec<&str> = found.iter().map(|bitmap| bitmap.name()).collect();
    if names.len() != state.bitmaps.len()
        || state.bitmaps.iter().any(|known| !names.contains(&known.name))
    {
        return Err(format!("its bitmaps are {names:?}"));
    }
    let disk = contents(layer).await.map_err(|e| format!("{e:?}"))?;
    for known in &state.bitmaps {
        let bitmap = layer.bitmaps().find(known.name).map_err(|e| format!("{e:?}"))?;
        if bitmap.status().inconsistent {
            if !state.touched {
                return Err(format!("'{}' is inconsistent, and nothing has changed", known.name));
            }
            continue;
        }
        for at in (0..layer.len()).step_by(GRANULARITY as usize) {
            let range = at as usize..((at + GRANULARITY) as usize).min(disk.len());
            let differs = known
                .bases
                .iter()
                .any(|base| base.get(range.clone()) != Some(&disk[range.clone()]));
            if differs && !bitmap.get(at) {
                return Err(format!("'{}' calls {at:#x} clean, and it is not", known.name));
            }
        }
    }
    Ok(())
}

/// Writes here and there, so that space is found and clusters are copied, to the state of the
/// machine too where there is one. Gives what the disk then holds, and that state.
async fn used(
    world: &World,
    files: &Files,
    key: Option<&str>,
    machine: bool,
) -> Result<(Vec<u8>, Vec<u8>)> {
    let layer = world.open(files, Access::ReadWrite, key, None, false).await?;
    let mut disk = contents(&layer).await?;
    let step = (disk.len() as u64 / 12).next_multiple_of(0x100).max(0x1100);
    for at in (0x300..layer.len()).step_by(step as usize) {
        let len = 0x700.min(layer.len() - at);
        disk[at as usize..(at + len) as usize].fill(0xee);
        let data = alloc::vec![0xee; len as usize];
        layer.write(at, data.into(), WriteFlags::empty()).await?;
    }
    let mut saved = Vec::new();
    if machine {
        saved = machine_of(&layer).await?;
        for at in [0x300, MACHINE / 2, MACHINE - 0x700] {
            saved[at as usize..at as usize + 0x700].fill(0xdd);
            layer.write_vm_state(at, alloc::vec![0xdd; 0x700].into()).await?;
        }
    }
    layer.close().await?;
    Ok((disk, saved))
}

/// Repairs everything; nothing may be left.
async fn repair(world: &World, files: &Files) -> Result<(), String> {
    let told = |e: Error| format!("repaired: {e:?}");
    let layer = world.open(files, Access::ReadWrite, None, None, true).await.map_err(told)?;
    let found = image::check(&layer, Repair::All, &no_progress).await.map_err(told)?;
    layer.close().await.map_err(told)?;
    let found = found.ok_or("no check")?;
    let last = found.last();
    match (&last.failed, last.corruptions, last.leaks, last.check_errors) {
        (None, 0, 0, 0) => Ok(()),
        (Some(failed), ..) => Err(format!("the repair fails: {failed}")),
        _ => Err(format!("the repair leaves {:?}", last.findings)),
    }
}

async fn contents(layer: &Arc<Layer>) -> Result<Vec<u8>> {
    Ok(layer.read(0, layer.len()).await?.to_vec())
}

async fn machine_of(layer: &Layer) -> Result<Vec<u8>> {
    Ok(layer.read_vm_state(0, MACHINE).await?.to_vec())
}

fn snapshot_id(layer: &Layer, name: &str) -> Result<String> {
    let snapshots = layer.driver().snapshots().ok_or_else(|| Error::bug("qcow2 has snapshots"))?;
    let list = snapshots.list();
    let found = list.iter().find(|snapshot| snapshot.name == name);
    found.map(|snapshot| snapshot.id.clone()).ok_or_else(|| Error::bug("a snapshot is gone"))
}
