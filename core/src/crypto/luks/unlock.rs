//! From a passphrase to the payload's key.

use super::header::{DIGEST_LEN, Header, SLOT_COUNT};
use super::split;
use crate::crypto::{Pbkdf2, Secret, SectorCipher};
use crate::{Error, Result};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// What unlocking may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Runs of the hash over all key slots that are tried. A header says how many its slots need,
    /// whoever wrote it.
    pub max_hashes: u64,
}

impl Default for Limits {
    /// About a minute of a processor with instructions for SHA-256; what is made with the usual two
    /// seconds a slot takes a quarter of it at most.
    fn default() -> Self {
        Self { max_hashes: 1 << 29 }
    }
}

/// The key of a payload.
#[derive(Clone)]
pub struct MasterKey(pub(super) Zeroizing<Vec<u8>>);

impl MasterKey {
    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey")
    }
}

/// The answer of [`Unlock::step`].
#[derive(Debug)]
pub enum Step {
    /// Not done yet: call again.
    More,
    /// The passphrase opens this slot. Calling again tries the slots after it.
    Found(usize, MasterKey),
    /// No further slot.
    End,
}

/// Tries a passphrase on the active key slots, one after the other.
pub struct Unlock {
    header: Header,
    passphrase: Secret,
    slots: VecDeque<(usize, Vec<u8>)>,
    at: At,
    hashes_left: u64,
}

enum At {
    Start,
    /// Deriving the key of a slot's material.
    Slot(Pbkdf2),
    /// Deriving the digest of what may be the payload's key.
    Digest(Pbkdf2, MasterKey),
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unlock")
    }
}

impl Unlock {
    /// Iterations of a step: some milliseconds.
    pub const STEP: u32 = 1 << 16;

    /// `material` has, for each slot to be tried, its index and
    /// [`material_len`](Header::material_len) bytes from its key offset.
    ///
    /// # Errors
    /// `InvalidInput` for material of another length.
    pub fn new(
        header: Header,
        material: Vec<(usize, Vec<u8>)>,
        passphrase: Secret,
        limits: Limits,
    ) -> Result<Self> {
        let len = header.material_len();
        if material.iter().any(|(slot, m)| *slot >= SLOT_COUNT || m.len() != len) {
            return Err(Error::bug("key material of the wrong length").in_format("luks"));
        }
        Ok(Self {
            header,
            passphrase,
            slots: material.into(),
            at: At::Start,
            hashes_left: limits.max_hashes,
        })
    }

    /// Does a piece of the work.
    ///
    /// # Errors
    /// `Limit` where a slot asks for more than is left of [`Limits::max_hashes`].
    pub fn step(&mut self) -> Result<Step> {
        match core::mem::replace(&mut self.at, At::Start) {
            At::Start => {
                let Some((slot, _)) = self.slots.front() else { return Ok(Step::End) };
                let (index, entry) = (*slot, &self.header.slots[*slot]);
                let (iterations, salt) = (entry.iterations, entry.salt);
                let what = format!("Keyslot {index}");
                let passphrase = self.passphrase.clone();
                let len = self.header.key_bytes;
                let derive = self.begin(&what, passphrase.as_bytes(), &salt, iterations, len)?;
                self.at = At::Slot(derive);
                Ok(Step::More)
            }
            At::Slot(mut derive) => {
                if !derive.step(Self::STEP) {
                    self.at = At::Slot(derive);
                    return Ok(Step::More);
                }
                let Some((_, material)) = self.slots.front_mut() else { return Ok(Step::End) };
                SectorCipher::new(self.header.spec, &derive.finish())?.decrypt(0, material);
                let key = split::merge(self.header.hash, material, self.header.key_bytes);
                let (salt, iterations) = (self.header.digest_salt, self.header.digest_iterations);
                let derive = self.begin("the header", &key, &salt, iterations, DIGEST_LEN)?;
                self.at = At::Digest(derive, MasterKey(key));
                Ok(Step::More)
            }
            At::Digest(mut derive, key) => {
                if !derive.step(Self::STEP) {
                    self.at = At::Digest(derive, key);
                    return Ok(Step::More);
                }
                let right = derive.finish().as_slice().ct_eq(&self.header.digest);
                match self.slots.pop_front() {
                    Some((slot, _)) if right.into() => Ok(Step::Found(slot, key)),
                    Some(_) => Ok(Step::More),
                    None => Ok(Step::End),
                }
            }
        }
    }

    fn begin(
        &mut self,
        what: &str,
        passphrase: &[u8],
        salt: &[u8],
        iterations: u32,
        len: usize,
    ) -> Result<Pbkdf2> {
        let hash = self.header.hash;
        let cost = Pbkdf2::cost(hash, iterations, len);
        self.hashes_left = self.hashes_left.checked_sub(cost).ok_or_else(|| {
            Error::limit(format!(
                "{what} asks for {iterations} iterations of its key derivation; that would take \
                 the {cost} runs of {hash} that unlocking costs past the limit"
            ))
            .in_format("luks")
        })?;
        Ok(Pbkdf2::new(hash, passphrase, salt, iterations, len))
    }

    /// All steps: the first slot that the passphrase opens.
    ///
    /// # Errors
    /// As [`step`](Self::step); `Denied` where it opens none.
    pub fn run(mut self) -> Result<(usize, MasterKey)> {
        loop {
            match self.step()? {
                Step::More => {}
                Step::Found(slot, key) => return Ok((slot, key)),
                Step::End => return Err(wrong_passphrase()),
            }
        }
    }
}

/// The error for a passphrase that opens no slot.
pub(crate) fn wrong_passphrase() -> Error {
    Error::denied("Invalid password, cannot unlock any keyslot")
}
