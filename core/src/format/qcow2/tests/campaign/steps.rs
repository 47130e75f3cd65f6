//! Single steps: what they do to an image, and what a crash may leave of them.

use super::world::{Files, World, bytes};
use crate::bitmap::DirtyBitmap;
use crate::crypto::luks::{AmendOptions, KeyslotState};
use crate::format::{Amendment, BackingRef, Layer, NewSnapshot, Repair};
use crate::image::{
    self, CommitChain, CommitOptions, RebaseOptions, amend, amend_encryption, no_progress,
};
use crate::io::testing::model::Flat;
use crate::io::{Access, BlockDevice, Preallocation, WriteFlags, ZeroFlags};
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Granularity of the bitmaps.
pub(crate) const GRANULARITY: u64 = 512;

/// So many bytes of the state of a machine are looked at: several L1 entries of small clusters.
pub(crate) const MACHINE: u64 = 0x1_9000;

/// One step. Changes of data are not flushed; everything else is durable at its end, with what
/// came before.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write(u64, u64, u8),
    Compressed(u64, u64, u8),
    Zero(u64, u64, ZeroFlags),
    Discard(u64, u64),
    /// A part of the state of the machine is written.
    Save(u64, u64, u8),
    Flush,
    /// Closes, and opens again when something is next done.
    Close,
    Create(&'static str),
    /// A snapshot that has the state of the machine for itself.
    Keep(&'static str),
    Apply(&'static str),
    Delete(&'static str),
    Resize(u64, Preallocation),
    Amend(Amendment),
    AddBitmap(&'static str),
    RemoveBitmap(&'static str),
    /// The second into the first.
    MergeBitmap(&'static str, &'static str),
    /// Takes what the image holds into the one below; keeps it too, or not.
    Commit(bool),
    MakeEmpty,
    /// Gives space back, what the file below has too included.
    Compact,
    /// Another file below, without a change of what is read; `None`: no file.
    Rebase(Option<&'static str>),
    /// Another name of the file below.
    Rename(Option<String>),
    /// Structures are broken, on purpose.
    Break(Damage),
    Repair(Repair),
    /// Another key opens it too.
    AddKey(&'static str),
    /// Another key instead of that of the first slot.
    ReplaceKey(&'static str),
    /// That key opens it no more.
    EraseKey(&'static str),
}

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Clusters that nobody refers to are counted, and one is counted twice.
    Leaks,
    /// A cluster in use is not counted.
    Uncounted,
    /// No refcount block is left.
    NoCounts,
    /// The active table says of no L2 table that it has it for itself.
    Copied,
}

/// A bitmap, and what it promises: where the disk differs from one of these contents it is dirty.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) name: &'static str,
    pub(crate) bases: Vec<Vec<u8>>,
}

/// A snapshot, and what it keeps.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) name: &'static str,
    pub(crate) disk: Vec<u8>,
    /// The state of the machine, if anybody ever wrote one.
    pub(crate) machine: Option<Vec<u8>>,
    /// How much of it is its own, as the snapshot says.
    pub(crate) machine_len: u64,
}

/// The state of a machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) bytes: Flat,
    /// As they are now.
    now: Vec<u8>,
}

impl Machine {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Flat::new(bytes.clone()), now: bytes }
    }

    fn empty() -> Self {
        Self::new(alloc::vec![0; MACHINE as usize])
    }
}

/// What an image may hold.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) disk: Flat,
    /// The bytes of the disk now, where they are sure.
    now: Vec<u8>,
    /// Once somebody has written it.
    pub(crate) machine: Option<Machine>,
    pub(crate) snapshots: Vec<Kept>,
    pub(crate) backing: Option<String>,
    pub(crate) keys: Vec<&'static str>,
    /// As stored.
    pub(crate) bitmaps: Vec<Known>,
    /// As they are in memory.
    pending: Vec<Known>,
    /// Bitmaps may have been marked as in use: something has changed, if only a table.
    pub(crate) touched: bool,
    pub(crate) damaged: bool,
}

impl State {
    pub(crate) fn new(disk: Vec<u8>, backing: Option<String>, key: Option<&'static str>) -> Self {
        Self {
            disk: Flat::new(disk.clone()),
            now: disk,
            machine: None,
            snapshots: Vec::new(),
            backing,
            keys: key.into_iter().collect(),
            bitmaps: Vec::new(),
            pending: Vec::new(),
            touched: false,
            damaged: false,
        }
    }

    fn put(&mut self, at: u64, data: Vec<u8>) {
        self.now[at as usize..at as usize + data.len()].copy_from_slice(&data);
        self.disk.write(at, data.into());
    }

    /// The disk is `bytes`, durably.
    fn become_disk(&mut self, bytes: Vec<u8>) {
        self.disk = Flat::new(bytes.clone());
        self.now = bytes;
    }

    /// After a step.
    pub(crate) fn after(&self, step: &Step, world: &World) -> Self {
        let mut next = self.clone();
        next.touched = true;
        match step {
            Step::Write(at, len, tag) | Step::Compressed(at, len, tag) => {
                next.put(*at, bytes(*tag, *at, *len));
                return next;
            }
            Step::Zero(at, len, _) => {
                next.put(*at, alloc::vec![0; *len as usize]);
                return next;
            }
            Step::Discard(at, len) => {
                // What is sure from here on is only what is written again.
                next.disk.discard(*at, *len);
                next.now[*at as usize..(*at + *len) as usize].fill(0);
                return next;
            }
            Step::Save(at, len, tag) => {
                let machine = next.machine.get_or_insert_with(Machine::empty);
                let data = bytes(*tag, *at, *len);
                machine.now[*at as usize..(*at + *len) as usize].copy_from_slice(&data);
                machine.bytes.write(*at, data.into());
                return next;
            }
            Step::Flush => next.touched = self.touched,
            Step::Compact | Step::Repair(_) | Step::Commit(_) => {
                next.damaged &= !matches!(step, Step::Repair(_));
            }
            Step::Close => {
                next.bitmaps = next.pending.clone();
                next.touched = false;
            }
            Step::Create(name) | Step::Keep(name) => {
                let machine_len = if matches!(step, Step::Keep(_)) { MACHINE } else { 0 };
                let machine = next.machine.as_ref().map(|machine| machine.now.clone());
                next.snapshots.push(Kept { name, disk: next.now.clone(), machine, machine_len });
            }
            Step::Apply(name) => {
                let found = next.snapshots.iter().find(|s| s.name == *name);
                let Kept { disk, machine, .. } = found.expect("a snapshot").clone();
                next.become_disk(disk);
                if next.machine.is_some() {
                    next.machine = Some(machine.map_or_else(Machine::empty, Machine::new));
                }
            }
            Step::Delete(name) => next.snapshots.retain(|s| s.name != *name),
            Step::Resize(len, _) => {
                next.now.resize(*len as usize, 0);
                next.disk.set_len(*len);
                for bitmap in next.pending.iter_mut().chain(&mut next.bitmaps) {
                    bitmap.bases.iter_mut().for_each(|base| base.resize(*len as usize, 0));
                }
            }
            Step::Amend(_) => next.bitmaps = next.pending.clone(),
            Step::AddBitmap(name) => {
                next.touched = self.touched;
                next.pending.push(Known { name, bases: alloc::vec![next.now.clone()] });
                return next;
            }
            Step::RemoveBitmap(name) => {
                next.touched = self.touched;
                next.pending.retain(|b| b.name != *name);
                return next;
            }
            Step::MergeBitmap(into, from) => {
                let of = |name| next.pending.iter().find(|b| b.name == name).expect("a bitmap");
                let more = of(*from).bases.clone();
                let place = next.pending.iter().position(|b| b.name == *into);
                next.touched = self.touched;
                next.pending[place.expect("a bitmap")].bases.extend(more);
                return next;
            }
            Step::MakeEmpty => next.become_disk(self.below(world)),
            Step::Rebase(to) => next.backing = to.map(ToString::to_string),
            Step::Rename(to) => next.backing.clone_from(to),
            Step::Break(_) => next.damaged = true,
            Step::AddKey(key) => next.keys.push(key),
            Step::EraseKey(key) => next.keys.retain(|k| k != key),
            Step::ReplaceKey(key) => next.keys[0] = key,
        }
        if self.loses_machine(step, world) {
            next.machine = next.machine.map(|_| Machine::empty());
        }
        next.disk.flush();
        if let Some(machine) = &mut next.machine {
            machine.bytes.flush();
        }
        next
    }

    /// The state of the machine is gone after the step, or is a snapshot's.
    fn loses_machine(&self, step: &Step, world: &World) -> bool {
        match step {
            Step::Keep(_) | Step::MakeEmpty | Step::Commit(false) => true,
            Step::Resize(len, _) => {
                let old = self.now.len() as u64;
                *len < old || world.first_of_machine(*len) > world.first_of_machine(old)
            }
            _ => false,
        }
    }

    /// What a crash may leave of a step: any of these states, each as a crash leaves it.
    pub(crate) fn during(&self, step: &Step, world: &World) -> Vec<Self> {
        let mut partly = self.clone();
        let may_lose = |state: &mut Self| {
            if let Some(machine) = &mut state.machine {
                machine.bytes.may_zero(0, MACHINE);
            }
        };
        if self.loses_machine(step, world) && !matches!(step, Step::Keep(_)) {
            may_lose(&mut partly);
        }
        match step {
            // The snapshot is there before the disk's tables lose it.
            Step::Keep(_) => {
                let mut kept = self.after(step, world);
                kept.machine.clone_from(&self.machine);
                may_lose(&mut kept);
                return alloc::vec![partly, kept];
            }
            Step::Save(at, len, tag) => {
                let machine = partly.machine.get_or_insert_with(Machine::empty);
                machine.bytes.may_write(*at, bytes(*tag, *at, *len).into());
            }
            Step::Write(at, len, tag) | Step::Compressed(at, len, tag) => {
                partly.disk.may_write(*at, bytes(*tag, *at, *len).into());
            }
            Step::Zero(at, len, _) => partly.disk.may_zero(*at, *len),
            Step::Discard(at, len) => partly.disk.discard(*at, *len),
            Step::MakeEmpty => partly.disk.may_write(0, self.below(world).into()),
            Step::Flush | Step::Compact | Step::Break(_) | Step::Repair(_) | Step::Commit(_) => {}
            Step::Close | Step::AddBitmap(_) | Step::RemoveBitmap(_) | Step::MergeBitmap(..) => {
                return alloc::vec![partly, self.after(step, world)];
            }
            _ => {
                partly.touched = true;
                return alloc::vec![partly, self.after(step, world)];
            }
        }
        partly.touched = true;
        alloc::vec![partly]
    }

    /// What the disk reads where nothing is in the image itself.
    fn below(&self, world: &World) -> Vec<u8> {
        let mut out = world.start.now.clone();
        out.resize(self.now.len(), 0);
        out
    }
}

impl Step {
    /// Makes the step. The image is opened where it is not.
    pub(crate) async fn perform(
        &self,
        world: &World,
        files: &Files,
        state: &State,
        open: &mut Option<Arc<Layer>>,
    ) -> Result<()> {
        match self {
            Self::Commit(_) | Self::Break(_) | Self::Repair(_) => {
                if let Some(layer) = open.take() {
                    layer.close().await?;
                }
                return self.perform_closed(world, files).await;
            }
            _ => {}
        }
        let layer = match open.take() {
            Some(layer) => layer,
            None => {
                let key = state.keys.first().copied();
                world.open(files, Access::ReadWrite, key, None, false).await?
            }
        };
        let keep = self.perform_on(files, state, &layer).await?;
        if keep {
            *open = Some(layer);
        }
        Ok(())
    }

    /// A step on the open image; false where it has to be opened again afterwards.
    async fn perform_on(&self, files: &Files, state: &State, layer: &Arc<Layer>) -> Result<bool> {
        let snapshots =
            || layer.driver().snapshots().ok_or_else(|| Error::bug("qcow2 has snapshots"));
        let id = |name: &str| -> Result<String> {
            let list = snapshots()?.list();
            let found = list.iter().find(|s| s.name == name);
            found.map(|s| s.id.clone()).ok_or_else(|| Error::bug("a snapshot is gone"))
        };
        let driver = layer.driver();
        match self {
            Self::Write(at, len, tag) => {
                layer.write(*at, bytes(*tag, *at, *len).into(), WriteFlags::empty()).await?;
                return Ok(true);
            }
            Self::Compressed(at, len, tag) => {
                layer.write(*at, bytes(*tag, *at, *len).into(), WriteFlags::COMPRESSED).await?;
                return Ok(true);
            }
            Self::Zero(at, len, flags) => {
                layer.write_zeroes(*at, *len, *flags).await?;
                return Ok(true);
            }
            Self::Discard(at, len) => {
                layer.discard(*at, *len).await?;
                return Ok(true);
            }
            Self::Save(at, len, tag) => {
                layer.write_vm_state(*at, bytes(*tag, *at, *len).into()).await?;
                return Ok(true);
            }
            Self::AddBitmap(name) => {
                let bitmap = DirtyBitmap::new(name, layer.len(), GRANULARITY)?;
                driver.can_store_bitmap(&bitmap)?;
                bitmap.set_persistent(true);
                layer.bitmaps().add(bitmap)?;
                return Ok(true);
            }
            Self::RemoveBitmap(name) => {
                layer.bitmaps().remove(name)?;
                return Ok(true);
            }
            Self::MergeBitmap(into, from) => {
                let from = layer.bitmaps().find(from)?;
                layer.bitmaps().merge(into, &from)?;
                return Ok(true);
            }
            _ => layer.flush().await?,
        }
        match self {
            Self::Close => {
                layer.close().await?;
                return Ok(false);
            }
            Self::Create(name) | Self::Keep(name) => {
                let vm_state_size = if matches!(self, Self::Keep(_)) { MACHINE } else { 0 };
                let name = (*name).into();
                let new = NewSnapshot { name, vm_state_size, ..NewSnapshot::default() };
                snapshots()?.create(new).await?;
            }
            Self::Apply(name) => snapshots()?.apply(&id(name)?).await?,
            Self::Delete(name) => snapshots()?.delete(&id(name)?).await?,
            Self::Resize(len, preallocation) => {
                layer.set_len(*len, *preallocation).await?;
                layer.flush().await?;
            }
            Self::Amend(options) => {
                amend(layer, options, &no_progress).await?;
                layer.close().await?;
                return Ok(false);
            }
            Self::MakeEmpty => driver.make_empty().await?,
            Self::Compact => {
                let how = image::CompactOptions { backing: true, dry_run: false };
                image::compact(layer, how, &no_progress).await?;
            }
            Self::Rebase(to) => {
                let new = to.map(|to| files.get(to)).transpose()?;
                let name = to.map(|to| BackingRef { name: to.into(), format: Some("raw".into()) });
                let how = RebaseOptions::default();
                image::rebase(layer, new.as_ref(), name, how, &no_progress).await?;
                layer.close().await?;
                return Ok(false);
            }
            Self::Rename(to) => {
                let format = driver.describe().await?.backing.and_then(|backing| backing.format);
                let name = to.clone().map(|name| BackingRef { name, format });
                driver.set_backing(name).await?;
            }
            Self::AddKey(key) => {
                let options = AmendOptions {
                    new_secret: Some((*key).into()),
                    iter_time: Some(1),
                    ..key_options(KeyslotState::Active, state)
                };
                amend_encryption(layer, &options).await?;
            }
            Self::ReplaceKey(key) => {
                let options = AmendOptions {
                    new_secret: Some((*key).into()),
                    iter_time: Some(1),
                    keyslot: Some(0),
                    force: true,
                    ..key_options(KeyslotState::Active, state)
                };
                amend_encryption(layer, &options).await?;
            }
            Self::EraseKey(key) => {
                let old_secret = Some((*key).into());
                let options =
                    AmendOptions { old_secret, ..key_options(KeyslotState::Inactive, state) };
                amend_encryption(layer, &options).await?;
                // It may have been opened with that key.
                layer.close().await?;
                return Ok(false);
            }
            _ => {}
        }
        Ok(true)
    }

    /// A step that opens the image itself.
    async fn perform_closed(&self, world: &World, files: &Files) -> Result<()> {
        match self {
            Self::Commit(keep) => {
                let env = world.env(files);
                let file = files.get("image")?;
                let is_base = |_: &str, name: &str| name == "base";
                let chain = CommitChain::open(&env, file, "image", None, &is_base).await?;
                let chain = chain.ok_or_else(|| Error::bug("the base is there"))?;
                let options = CommitOptions { keep: *keep, rate: 0 };
                image::commit(&world.runtime, &chain, options, &no_progress).await
            }
            Self::Repair(repair) => {
                let layer = world.open(files, Access::ReadWrite, None, None, true).await?;
                let found = image::check(&layer, *repair, &no_progress).await?;
                let found = found.ok_or_else(|| Error::bug("qcow2 has a check"))?;
                layer.close().await?;
                match (&found.last().failed, found.last().corruptions) {
                    (None, 0) => Ok(()),
                    (failed, n) => Err(Error::corrupt(format!("{n} are left: {failed:?}"))),
                }
            }
            Self::Break(damage) => damage.inflict(files).await,
            _ => Ok(()),
        }
    }
}

fn key_options(state: KeyslotState, before: &State) -> AmendOptions {
    AmendOptions {
        state,
        new_secret: None,
        old_secret: None,
        keyslot: None,
        iter_time: None,
        secret: before.keys.first().map(|key| (*key).into()),
        force: false,
    }
}

impl Damage {
    /// Breaks an image with refcounts of 16 bits whose first refcount block counts all of it.
    async fn inflict(self, files: &Files) -> Result<()> {
        let file = files.get("image")?;
        let read = async |at: u64| -> Result<u64> {
            let bytes = file.read(at, 8).await?.to_vec();
            bytes.try_into().map(u64::from_be_bytes).map_err(|_| Error::bug("eight bytes"))
        };
        let write = async |at: u64, bytes: &[u8]| {
            file.write(at, bytes.to_vec().into(), WriteFlags::empty()).await
        };
        let cluster = 1 << (read(20).await? >> 32);
        let (l1, table) = (read(40).await?, read(48).await?);
        let block = read(table).await?;
        let l2 = read(l1).await? & 0x00ff_ffff_ffff_fe00;
        let counted = async |host: u64, count: u16| {
            write(block + host / cluster * 2, &count.to_be_bytes()).await
        };
        match self {
            Self::Leaks => {
                let end = file.len().next_multiple_of(cluster);
                for host in [end, end + cluster, end + 2 * cluster] {
                    counted(host, 1).await?;
                }
                file.set_len(end + 3 * cluster, Preallocation::Off).await?;
                counted(l2, 2).await?;
            }
            Self::Uncounted => counted(l2, 0).await?,
            Self::NoCounts => write(table, &[0; 8]).await?,
            Self::Copied => write(l1, &l2.to_be_bytes()).await?,
        }
        file.flush().await
    }
}
