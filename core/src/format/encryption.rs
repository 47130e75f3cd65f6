//! Encrypted images: their keys, and raw pieces through a cipher.
//!
//! A cipher works on whole sectors, so that a write of a part of one reads, changes and writes it
//! all. Writes therefore have their sectors to themselves until they have settled, dropped ones
//! included: otherwise one could bring back bytes beside it that another has replaced meanwhile.

use super::Target;
use super::ranges::RangeLocks;
use crate::crypto::{self, Secret, SectorCipher};
use crate::io::{Device, DeviceExt, Hold, Runtime, Segments};
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use bytes::BytesMut;
use core::fmt;
use core::str::FromStr;

const SECTOR: u64 = crypto::SECTOR as u64;

/// From so many bytes on, a cipher's work is handed to another thread.
const OFFLOAD: u64 = 32 << 10;

/// The kinds of encryption (the schema's `BlockdevQcow2EncryptionFormat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncryptionFormat {
    /// AES-128 in CBC mode, with the passphrase as the key. Broken; for old images.
    Aes,
    /// LUKS version 1.
    Luks,
}

impl fmt::Display for EncryptionFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes => "aes",
            Self::Luks => "luks",
        })
    }
}

impl FromStr for EncryptionFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "aes" => Ok(Self::Aes),
            "luks" => Ok(Self::Luks),
            _ => Err(Error::invalid(format!("Parameter 'format' does not accept value '{name}'"))),
        }
    }
}

/// The key of an image.
#[derive(Clone, Debug)]
pub struct Key {
    /// The kind of encryption that the image must have, where that matters.
    pub format: Option<EncryptionFormat>,
    /// The passphrase.
    pub secret: Secret,
}

impl From<Secret> for Key {
    fn from(secret: Secret) -> Self {
        Self { format: None, secret }
    }
}

/// What to do about an image's encryption.
#[derive(Clone, Debug, Default)]
pub enum KeySource {
    /// There is no key: an encrypted image does not open.
    #[default]
    None,
    /// Only the image's metadata is looked at: its data can be neither read nor written.
    Ignore,
    /// The key of this image; not that of the images it stands on.
    Given(Key),
    /// The secret with this id was to be the key, and there is none: an encrypted image does not
    /// open.
    Missing(String),
}

/// What options say of an image's encryption besides its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionOptions {
    /// The kind of encryption that the image must have, by its name.
    pub format: Option<String>,
    /// The name of an option that no kind of encryption knows. It does no harm to an image that is
    /// not encrypted.
    pub unexpected: Option<String>,
}

impl EncryptionOptions {
    /// Refuses what does not fit an image that is encrypted in the way called `found`, or not at
    /// all.
    ///
    /// # Errors
    /// `InvalidInput` in that case.
    pub fn check(&self, found: Option<EncryptionFormat>) -> Result<()> {
        match (&self.format, found) {
            (Some(wanted), None) => return Err(not_encrypted(wanted)),
            (Some(wanted), Some(found)) if *wanted != found.to_string() => {
                return Err(other_format(found, wanted));
            }
            _ => {}
        }
        match &self.unexpected {
            Some(name) if found.is_some() => {
                Err(Error::invalid(format!("Parameter '{name}' is unexpected")))
            }
            _ => Ok(()),
        }
    }
}

fn not_encrypted(wanted: impl fmt::Display) -> Error {
    Error::invalid(format!(
        "No encryption in image header, but options specified format '{wanted}'"
    ))
}

fn other_format(found: EncryptionFormat, wanted: impl fmt::Display) -> Error {
    Error::invalid(format!(
        "Header reported '{found}' encryption format but options specify '{wanted}'"
    ))
}

impl KeySource {
    /// The passphrase for an image that is encrypted in this way.
    ///
    /// # Errors
    /// `InvalidInput` where there is none, or it is for another kind of encryption.
    pub fn secret(&self, format: EncryptionFormat) -> Result<Option<&Secret>> {
        match self {
            Self::None => Err(missing_key()),
            Self::Ignore => Ok(None),
            Self::Given(key) => match key.format {
                Some(wanted) if wanted != format => Err(other_format(format, wanted)),
                _ => Ok(Some(&key.secret)),
            },
            Self::Missing(id) => Err(no_secret(id)),
        }
    }

    /// Refuses a kind of encryption that was asked of an image that has none.
    ///
    /// # Errors
    /// `InvalidInput` in that case.
    pub fn refuse_for_plain(&self) -> Result<()> {
        match self {
            Self::Given(Key { format: Some(format), .. }) => Err(not_encrypted(format)),
            _ => Ok(()),
        }
    }
}

/// The error for an ID that no secret has.
pub(crate) fn no_secret(id: &str) -> Error {
    Error::invalid(format!("No secret with id '{id}'"))
}

/// The error for an encrypted image without a key.
pub(crate) fn missing_key() -> Error {
    Error::invalid("Parameter 'encrypt.key-secret' is required for cipher")
}

/// Where the number of a sector comes from, which decides how it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbering {
    /// Its place in the disk.
    Guest,
    /// Its place in the file.
    Host,
}

/// How raw pieces are encrypted.
#[derive(Debug)]
pub struct Encryption {
    /// `None` where the image was opened without its key.
    cipher: Option<Arc<SectorCipher>>,
    numbering: Numbering,
    /// Sectors that are being written.
    locks: Arc<RangeLocks>,
}

impl Encryption {
    /// With a cipher, or without where the key is not known.
    #[must_use]
    pub fn new(cipher: Option<SectorCipher>, numbering: Numbering) -> Self {
        Self { cipher: cipher.map(Arc::new), numbering, locks: Arc::default() }
    }

    /// The cipher.
    ///
    /// # Errors
    /// `InvalidInput` where the image was opened without its key.
    pub fn cipher(&self) -> Result<&Arc<SectorCipher>> {
        self.cipher.as_ref().ok_or_else(missing_key)
    }

    fn number(&self, guest: u64, host: u64) -> u64 {
        match self.numbering {
            Numbering::Guest => guest / SECTOR,
            Numbering::Host => host / SECTOR,
        }
    }

    /// The sectors of a range, for one writer; until the answer and all its copies are dropped.
    pub(super) async fn lock(&self, offset: u64, len: u64) -> Hold {
        let end = (offset + len).next_multiple_of(SECTOR);
        Arc::new(self.locks.lock(offset - offset % SECTOR, end).await)
    }

    /// The target, grown to whole sectors. They belong to the same cluster.
    pub(super) fn whole_sectors(&self, mut target: Target) -> Target {
        target.before += (target.offset - target.before) % SECTOR;
        let end = target.offset + target.len + target.after;
        target.after += end.next_multiple_of(SECTOR) - end;
        target
    }

    /// Reads and decrypts `len` bytes of a raw piece.
    pub(super) async fn read(
        &self,
        runtime: &Arc<dyn Runtime>,
        child: &Device,
        guest: u64,
        host: u64,
        len: u64,
    ) -> Result<Segments> {
        let cipher = self.cipher()?.clone();
        let head = host % SECTOR;
        let whole = (head + len).next_multiple_of(SECTOR);
        let data = child.read_padded(host - head, whole).await?;
        let number = self.number(guest - head, host - head);
        let data = run(runtime, data, move |bytes| cipher.decrypt(number, bytes)).await?;
        Ok(data.slice(head, len))
    }

    /// Encrypts what will be written to `target`, which is whole sectors.
    pub(super) async fn encrypt(
        &self,
        runtime: &Arc<dyn Runtime>,
        target: &Target,
        data: Segments,
    ) -> Result<Segments> {
        let cipher = self.cipher()?.clone();
        let number = self.number(target.start - target.before, target.offset - target.before);
        run(runtime, data, move |bytes| cipher.encrypt(number, bytes)).await
    }

    /// The sectors that lie at `from` in the file, as they have to be at `to` for the same place in
    /// the disk.
    pub(super) async fn moved(
        &self,
        runtime: &Arc<dyn Runtime>,
        data: Segments,
        from: u64,
        to: u64,
    ) -> Result<Segments> {
        if self.numbering == Numbering::Guest {
            return Ok(data);
        }
        let cipher = self.cipher()?.clone();
        run(runtime, data, move |bytes| {
            cipher.decrypt(from / SECTOR, bytes);
            cipher.encrypt(to / SECTOR, bytes);
        })
        .await
    }
}

/// Changes data by `work`, elsewhere where there is much of it.
async fn run(
    runtime: &Arc<dyn Runtime>,
    data: Segments,
    work: impl FnOnce(&mut [u8]) + Send + 'static,
) -> Result<Segments> {
    let len = data.len();
    let work = move || {
        let mut bytes = BytesMut::from(data.to_bytes());
        work(&mut bytes);
        Segments::from(bytes.freeze())
    };
    if len < OFFLOAD { Ok(work()) } else { runtime.compute(work).await }
}
