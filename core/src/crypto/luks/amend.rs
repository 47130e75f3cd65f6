//! Filling and erasing key slots, in an order in which a crash loses no key that was there.

use super::create::{CreateOptions, seal};
use super::header::{Header, SLOT_COUNT, Slot};
use super::unlock::MasterKey;
use crate::crypto::{Clock, Random, Secret};
use crate::{Error, Result};
use alloc::format;
use alloc::vec::Vec;

/// What is to become of key slots (the schema's `QCryptoBlockLUKSKeyslotState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyslotState {
    /// They open with a passphrase.
    Active,
    /// They are erased.
    Inactive,
}

/// How to change key slots; the names are those of the schema's `QCryptoBlockAmendOptionsLUKS`, with
/// passphrases in place of their IDs.
#[derive(Clone, Debug)]
pub struct AmendOptions {
    /// What the slots become.
    pub state: KeyslotState,
    /// The passphrase of the slot that is filled.
    pub new_secret: Option<Secret>,
    /// Erase all slots that this passphrase opens.
    pub old_secret: Option<Secret>,
    /// The slot; where a slot is filled, the first free one if it is not given.
    pub keyslot: Option<u64>,
    /// Milliseconds of the new slot's key derivation.
    pub iter_time: Option<u64>,
    /// The passphrase that opens the container now; the one it was opened with if it is not given.
    pub secret: Option<Secret>,
    /// Do what loses keys: overwrite an active slot, erase the last one.
    pub force: bool,
}

impl AmendOptions {
    /// Refuses what does not go together.
    ///
    /// # Errors
    /// `InvalidInput`, in the words of QEMU's tools.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: &'static str| Err(invalid(what));
        if let Some(slot) = self.keyslot
            && slot >= SLOT_COUNT as u64
        {
            return Err(invalid(format!(
                "Invalid keyslot {slot} specified, must be between 0 and {}",
                SLOT_COUNT - 1
            )));
        }
        match self.state {
            KeyslotState::Active if self.new_secret.is_none() => {
                refuse("'new-secret' is required to activate a keyslot")
            }
            KeyslotState::Active if self.old_secret.is_some() => {
                refuse("'old-secret' must not be given when activating keyslots")
            }
            KeyslotState::Active => Ok(()),
            KeyslotState::Inactive if self.new_secret.is_some() => {
                refuse("'new-secret' must not be given when erasing keyslots")
            }
            KeyslotState::Inactive if self.iter_time.is_some() => {
                refuse("'iter-time' must not be given when erasing keyslots")
            }
            KeyslotState::Inactive if self.keyslot.is_none() && self.old_secret.is_none() => {
                refuse(
                    "To erase keyslot(s), either explicit keyslot index or the password currently \
                 contained in them must be given",
                )
            }
            KeyslotState::Inactive => Ok(()),
        }
    }
}

fn invalid(what: impl Into<alloc::borrow::Cow<'static, str>>) -> Error {
    Error::invalid(what)
}

/// One write, at an offset from the header's beginning.
pub type Write = (u64, Vec<u8>);

/// Writes that may reach the disk in any order. A flush ends each phase.
pub type Phase = Vec<Write>;

/// The slot that an activation fills.
///
/// # Errors
/// `InvalidInput` where it is active already and force was not asked for, or none is free.
pub fn slot_to_fill(header: &Header, options: &AmendOptions) -> Result<usize> {
    match options.keyslot {
        Some(slot) => {
            // Checked to be a slot.
            let slot = slot as usize;
            if header.slots[slot].active && !options.force {
                return Err(invalid(format!(
                    "Refusing to overwrite active keyslot {slot} - please erase it first"
                )));
            }
            Ok(slot)
        }
        None => header
            .slots
            .iter()
            .position(|slot| !slot.active)
            .ok_or_else(|| invalid("Can't add a keyslot - all keyslots are in use")),
    }
}

/// The phases that put a key into slot `index`.
///
/// An active slot is overwritten through a free one, which is erased again at the end: at every
/// moment some slot opens with the new passphrase, or the old slot does with its own. Where none is
/// free, seven others hold the key.
///
/// # Errors
/// `Limit` for a time that takes too many iterations.
pub fn fill(
    header: &Header,
    index: usize,
    key: &MasterKey,
    options: &AmendOptions,
    random: Random<'_>,
    clock: Clock<'_>,
) -> Result<Vec<Phase>> {
    let Some(passphrase) = &options.new_secret else {
        return Err(invalid("'new-secret' is required to activate a keyslot"));
    };
    let time = options.iter_time.unwrap_or(CreateOptions::ITER_TIME);
    let (slot, material) = seal(header, index, key, passphrase, time, random, clock)?;
    let mut phases = Vec::new();
    let spare = header.slots.iter().position(|slot| !slot.active);
    let spare = spare.filter(|_| header.slots[index].active);
    if let Some(spare) = spare {
        // Key material does not depend on where it lies.
        let copy = Slot { key_offset: header.slots[spare].key_offset, ..slot.clone() };
        activate(&mut phases, spare, &copy, material.clone());
    }
    if header.slots[index].active {
        let old = Slot { active: false, ..header.slots[index].clone() };
        phases.push(Vec::from([(Header::slot_entry(index), old.emit().to_vec())]));
    }
    activate(&mut phases, index, &slot, material);
    if let Some(spare) = spare {
        phases.extend(erase(header, &[spare], random));
    }
    Ok(phases)
}

/// Key material and entry first; the word that makes the slot active last, so that an entry that a
/// crash has torn is not one.
fn activate(phases: &mut Vec<Phase>, index: usize, slot: &Slot, material: Vec<u8>) {
    let at = Header::slot_entry(index);
    let waiting = Slot { active: false, ..slot.clone() };
    phases.push(Vec::from([(slot.key_offset, material), (at, waiting.emit().to_vec())]));
    phases.push(Vec::from([(at, slot.emit()[..4].to_vec())]));
}

/// The slots that an erasure is for; `matching` are those that the old passphrase opens, where one
/// was given.
///
/// # Errors
/// `InvalidInput` where there is nothing to erase, or nothing would be left and force was not asked
/// for.
pub fn slots_to_erase(
    header: &Header,
    options: &AmendOptions,
    matching: Option<&[usize]>,
) -> Result<Vec<usize>> {
    let active = |slot: &usize| header.slots[*slot].active;
    let count = (0..SLOT_COUNT).filter(active).count();
    if let Some(slot) = options.keyslot {
        // Checked to be a slot.
        let slot = slot as usize;
        if !active(&slot) {
            return Err(invalid(format!("Given keyslot {slot} is already erased (inactive) ")));
        }
        if matching.is_some_and(|matching| !matching.contains(&slot)) {
            return Err(invalid(format!(
                "Given keyslot {slot} doesn't contain the given old password for erase operation"
            )));
        }
        if count == 1 && !options.force {
            return Err(invalid(format!(
                "Attempt to erase the only active keyslot {slot} which will erase all the data in \
                 the image irreversibly - refusing operation"
            )));
        }
        return Ok(Vec::from([slot]));
    }
    let matching = matching.unwrap_or_default();
    if matching.is_empty() {
        return Err(invalid("No keyslots match given (old) password for erase operation"));
    }
    if matching.len() == count && !options.force {
        return Err(invalid(
            "All the active keyslots match the (old) password that was given and erasing them will \
             erase all the data in the image irreversibly - refusing operation",
        ));
    }
    Ok(matching.to_vec())
}

/// The phases that erase slots: the key material is overwritten first, so that no crash leaves a slot
/// that looks empty with a key in it.
pub fn erase(header: &Header, slots: &[usize], random: Random<'_>) -> Vec<Phase> {
    let mut material = Phase::new();
    let mut entries = Phase::new();
    for index in slots {
        let key_offset = header.slots[*index].key_offset;
        let mut garbage = alloc::vec![0; header.material_len()];
        random(&mut garbage);
        material.push((key_offset, garbage));
        let empty = Slot { active: false, iterations: 0, salt: [0; 32], key_offset };
        entries.push((Header::slot_entry(*index), empty.emit().to_vec()));
    }
    Vec::from([material, entries])
}
