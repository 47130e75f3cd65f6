//! Keys of encrypted images: opening with one, the LUKS header's place, changing key slots.

use super::create::{CreateOptions, EncryptionMethod};
use super::header::{CryptMethod, Header};
use super::options::OverlapChecks;
use super::{Encryption, Qcow2};
use crate::crypto::luks::{self, AmendOptions, KeyslotState, Limits, MasterKey, Step, Unlock};
use crate::crypto::{CipherSpec, Secret, SectorCipher};
use crate::format::encryption::missing_key;
use crate::format::{EncryptionFormat, Env, Numbering, OpenOptions};
use crate::io::{Device, DeviceExt, Runtime, WriteFlags};
use crate::qapi::{QCryptoCipherAlgo, QCryptoCipherMode, QCryptoIVGenAlgo};
use crate::{Error, Result};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Length of the key of the AES method.
const AES_KEY_LEN: usize = 16;

/// How an image is encrypted; `None` for one that is not.
pub(super) fn format_of(header: &Header) -> Option<EncryptionFormat> {
    match header.crypt {
        CryptMethod::None => None,
        CryptMethod::Aes => Some(EncryptionFormat::Aes),
        CryptMethod::Luks { .. } => Some(EncryptionFormat::Luks),
    }
}

/// What the key makes of an image: how it is encrypted, and the passphrase that was used.
pub(super) async fn unlock(
    env: &Env,
    file: &Device,
    header: &Header,
    options: &OpenOptions,
) -> Result<(Option<Encryption>, Option<Secret>)> {
    let Some(format) = format_of(header) else {
        options.key.refuse_for_plain()?;
        return Ok((None, None));
    };
    let numbering = match format {
        EncryptionFormat::Aes => Numbering::Guest,
        EncryptionFormat::Luks => Numbering::Host,
    };
    let Some(secret) = options.key.secret(format)? else {
        return Ok((Some(Encryption::new(None, numbering)), None));
    };
    let cipher = match header.crypt {
        CryptMethod::Luks { offset, len } => {
            let luks = read_header(file, offset, len).await?;
            let wanted = active_slots(&luks);
            let spec = luks.spec;
            let material = read_material(file, offset, &luks, &wanted).await?;
            let unlock = Unlock::new(luks, material, secret.clone(), Limits::default())?;
            let (_, Some((_, key))) = next_match(&env.runtime, unlock).await? else {
                return Err(luks::wrong_passphrase());
            };
            SectorCipher::new(spec, key.as_bytes())?
        }
        _ => aes_cipher(secret)?,
    };
    Ok((Some(Encryption::new(Some(cipher), numbering)), Some(secret.clone())))
}

/// The passphrase is the key, cut or filled up with zeroes.
fn aes_cipher(secret: &Secret) -> Result<SectorCipher> {
    let mut key = zeroize::Zeroizing::new([0; AES_KEY_LEN]);
    let len = secret.as_bytes().len().min(AES_KEY_LEN);
    key[..len].copy_from_slice(&secret.as_bytes()[..len]);
    let spec = CipherSpec {
        cipher_alg: QCryptoCipherAlgo::Aes128,
        cipher_mode: QCryptoCipherMode::Cbc,
        ivgen_alg: QCryptoIVGenAlgo::Plain64,
        ivgen_hash_alg: None,
    };
    SectorCipher::new(spec, &*key)
}

/// Reads the LUKS header at `offset`; its key material lies within `len` bytes.
pub(super) async fn read_header(file: &Device, offset: u64, len: u64) -> Result<luks::Header> {
    // Of a cluster that the file does not have it reads zeroes: no LUKS header.
    let bytes = file.read_padded(offset, luks::HEADER_LEN as u64).await?;
    let header = luks::Header::parse(&bytes.to_bytes()).map_err(|e| {
        let at = offset + e.offset().unwrap_or_default();
        e.at(at)
    })?;
    let end = header.slots.iter().map(|s| s.key_offset).max().unwrap_or_default()
        + header.material_len() as u64;
    if end > len {
        return Err(Error::corrupt(alloc::format!(
            "the key material ends at {end:#x} of an encryption header of {len:#x} bytes"
        ))
        .in_format("qcow2")
        .at(offset));
    }
    Ok(header)
}

fn active_slots(header: &luks::Header) -> Vec<usize> {
    (0..luks::SLOT_COUNT).filter(|slot| header.slots[*slot].active).collect()
}

/// The key material of slots, each some hundreds of kilobytes.
async fn read_material(
    file: &Device,
    offset: u64,
    header: &luks::Header,
    slots: &[usize],
) -> Result<Vec<(usize, Vec<u8>)>> {
    let mut out = Vec::new();
    for slot in slots {
        let at = offset + header.slots[*slot].key_offset;
        let bytes = file.read_padded(at, header.material_len() as u64).await?;
        out.push((*slot, bytes.to_bytes().to_vec()));
    }
    Ok(out)
}

/// The next slot that the passphrase opens. Dropping the future ends the work at its next step.
async fn next_match(
    runtime: &Arc<dyn Runtime>,
    mut unlock: Unlock,
) -> Result<(Unlock, Option<(usize, MasterKey)>)> {
    loop {
        // The work goes elsewhere and comes back, step by step.
        let step = runtime.compute(move || {
            let step = unlock.step();
            (unlock, step)
        });
        let (back, step) = step.await?;
        unlock = back;
        match step? {
            Step::More => {}
            Step::Found(slot, key) => return Ok((unlock, Some((slot, key)))),
            Step::End => return Ok((unlock, None)),
        }
    }
}

/// What to write into the encryption header of a new image; nothing where it has none.
pub(super) async fn new_container(
    runtime: &Arc<dyn Runtime>,
    options: &CreateOptions,
) -> Result<Vec<luks::Write>> {
    let Some(encryption) = &options.encryption else { return Ok(Vec::new()) };
    let secret = encryption.secret.clone().ok_or_else(missing_key)?;
    let EncryptionMethod::Luks(options) = encryption.method else { return Ok(Vec::new()) };
    let host = runtime.clone();
    let made = runtime.compute(move || {
        luks::create(&options, &secret, &mut |out| host.random(out), &|| host.now().0)
    });
    Ok(made.await??.writes.into())
}

impl Qcow2 {
    /// Changes key slots in place. Each phase is durable before the next begins.
    pub(super) async fn amend_slots(&self, options: &AmendOptions) -> Result<()> {
        options.check()?;
        let CryptMethod::Luks { offset, len } = self.header.crypt else {
            return Err(Error::invalid(match self.header.crypt {
                CryptMethod::None => "the image is not encrypted: it has no key slots",
                _ => "only LUKS has key slots; the image is encrypted with AES",
            })
            .in_format("qcow2"));
        };
        if !self.writable {
            return Err(Error::denied("the image was opened read-only").in_format("qcow2"));
        }
        self.prepare_write().await?;
        let _one_at_a_time = self.slots_lock.lock().await;
        let header = read_header(&self.file, offset, len).await?;
        let active = active_slots(&header);
        let phases = match options.state {
            KeyslotState::Active => {
                let slot = luks::slot_to_fill(&header, options)?;
                let secret = options.secret.as_ref().or(self.secret.as_ref());
                let secret = secret.cloned().ok_or_else(missing_key)?;
                let unlock = self.unlock_slots(offset, &header, &active, secret).await?;
                let (_, Some((_, key))) = next_match(&self.runtime, unlock).await? else {
                    return Err(luks::wrong_passphrase());
                };
                let (host, options) = (self.runtime.clone(), options.clone());
                let work = self.runtime.compute(move || {
                    let random: crate::crypto::Random<'_> = &mut |out| host.random(out);
                    luks::fill(&header, slot, &key, &options, random, &|| host.now().0)
                });
                work.await??
            }
            KeyslotState::Inactive => {
                let matching = match &options.old_secret {
                    None => None,
                    Some(old) => {
                        let wanted: Vec<usize> = match options.keyslot {
                            Some(slot) => {
                                active.iter().copied().filter(|s| *s as u64 == slot).collect()
                            }
                            None => active.clone(),
                        };
                        let mut unlock =
                            self.unlock_slots(offset, &header, &wanted, old.clone()).await?;
                        let mut found = Vec::new();
                        while let (rest, Some((slot, _))) =
                            next_match(&self.runtime, unlock).await?
                        {
                            found.push(slot);
                            unlock = rest;
                        }
                        Some(found)
                    }
                };
                let slots = luks::slots_to_erase(&header, options, matching.as_deref())?;
                luks::erase(&header, &slots, &mut |out| self.runtime.random(out))
            }
        };
        for phase in phases {
            let write = async {
                for (at, bytes) in phase {
                    let len = bytes.len() as u64;
                    self.guard(offset + at, len, OverlapChecks::empty()).await?;
                    self.file.write(offset + at, bytes.into(), WriteFlags::empty()).await?;
                }
                self.file.flush().await
            };
            self.poison_on_error(write.await)?;
        }
        Ok(())
    }

    async fn unlock_slots(
        &self,
        offset: u64,
        header: &luks::Header,
        slots: &[usize],
        secret: Secret,
    ) -> Result<Unlock> {
        let material = read_material(&self.file, offset, header, slots).await?;
        Unlock::new(header.clone(), material, secret, Limits::default())
    }
}
