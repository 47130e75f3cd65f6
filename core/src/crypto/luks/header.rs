//! The header (section 2.3): bytes to a checked value and back.

use super::{SECTOR, STRIPES};
use crate::crypto::{CipherSpec, SectorCipher};
use crate::qapi::{
    QCryptoBlockInfoLUKS, QCryptoBlockInfoLUKSSlot, QCryptoCipherAlgo, QCryptoCipherMode,
    QCryptoHashAlgo, QCryptoIVGenAlgo,
};
use crate::{Error, Result};
use alloc::format;
use alloc::string::{String, ToString};

/// Length of the header, with its eight key slots.
pub const HEADER_LEN: usize = 592;

/// Key slots of a header.
pub const SLOT_COUNT: usize = 8;

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const VERSION: usize = 6;
const CIPHER_NAME: usize = 8;
const CIPHER_MODE: usize = 40;
const HASH: usize = 72;
const NAME_LEN: usize = 32;
const PAYLOAD_OFFSET: usize = 104;
const KEY_BYTES: usize = 108;
const DIGEST: usize = 112;
pub(super) const DIGEST_LEN: usize = 20;
const DIGEST_SALT: usize = 132;
pub(super) const SALT_LEN: usize = 32;
const DIGEST_ITERATIONS: usize = 164;
const UUID: usize = 168;
const UUID_LEN: usize = 40;
const SLOTS: usize = 208;
const SLOT_LEN: usize = 48;
const SLOT_ITERATIONS: usize = 4;
const SLOT_SALT: usize = 8;
const SLOT_KEY_OFFSET: usize = 40;
const SLOT_STRIPES: usize = 44;
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
const SLOT_INACTIVE: u32 = 0x0000_dead;

const _: () = assert!(SLOTS + SLOT_COUNT * SLOT_LEN == HEADER_LEN);
const _: () = assert!(UUID + UUID_LEN == SLOTS && DIGEST_SALT + SALT_LEN == DIGEST_ITERATIONS);

/// One key slot. Its area lies between the header and the payload and overlaps no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// It holds a key.
    pub active: bool,
    /// Rounds of its key derivation; 0 where it is not active.
    pub iterations: u32,
    /// The salt of its key derivation.
    pub salt: [u8; SALT_LEN],
    /// Where its key material lies, in bytes from the header.
    pub key_offset: u64,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How payload and key material are encrypted.
    pub spec: CipherSpec,
    /// The hash of the key derivations and of the splitter.
    pub hash: QCryptoHashAlgo,
    /// Where the payload begins, in bytes. Within a qcow2 image only the end of the key material.
    pub payload_offset: u64,
    /// Length of the payload's key in bytes.
    pub key_bytes: usize,
    /// PBKDF2 of the payload's key, by which it is known to be right.
    pub digest: [u8; DIGEST_LEN],
    /// The salt of that.
    pub digest_salt: [u8; SALT_LEN],
    /// The rounds of that.
    pub digest_iterations: u32,
    /// The container's identity.
    pub uuid: String,
    /// The key slots.
    pub slots: [Slot; SLOT_COUNT],
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn text(bytes: &[u8], at: usize, len: usize) -> Result<&str> {
    let field = &bytes[at..at + len];
    let end = field.iter().position(|b| *b == 0).unwrap_or(len);
    core::str::from_utf8(&field[..end]).map_err(|_| corrupt("a name is not text", at))
}

fn corrupt(what: impl Into<alloc::borrow::Cow<'static, str>>, at: usize) -> Error {
    Error::corrupt(what).in_format("luks").at(at as u64)
}

fn unsupported(what: String, at: usize) -> Error {
    Error::unsupported(what).in_format("luks").at(at as u64)
}

/// The names of cipher families in headers.
fn family(cipher: QCryptoCipherAlgo) -> Option<&'static str> {
    use QCryptoCipherAlgo as A;
    match cipher {
        A::Aes128 | A::Aes192 | A::Aes256 => Some("aes"),
        A::Cast5128 => Some("cast5"),
        A::Serpent128 | A::Serpent192 | A::Serpent256 => Some("serpent"),
        A::Twofish128 | A::Twofish192 | A::Twofish256 => Some("twofish"),
        A::Sm4 => Some("sm4"),
        A::Des | A::TripleDes => None,
    }
}

/// Reads what a header tells without a passphrase.
///
/// # Errors
/// As [`Header::parse`].
pub fn describe(header: &[u8]) -> Result<QCryptoBlockInfoLUKS> {
    Header::parse(header).map(|header| header.describe())
}

impl Header {
    /// Reads and checks a header.
    ///
    /// # Errors
    /// `Corrupt` where it is no LUKS header or its parts overlap, `Unsupported` for version,
    /// cipher, mode, IV generator or hash that are not known.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER_LEN || !bytes.starts_with(MAGIC) {
            return Err(corrupt("Volume is not in LUKS format", 0));
        }
        let version = u16::from_be_bytes(array(bytes, VERSION));
        if version != 1 {
            return Err(unsupported(format!("LUKS version {version} is not supported"), VERSION));
        }
        let hash = |name: &str, at| {
            name.parse::<QCryptoHashAlgo>()
                .map_err(|_| unsupported(format!("Hash algorithm '{name}' not supported"), at))
        };
        // `MODE-IVGEN[:HASH]`.
        let words = text(bytes, CIPHER_MODE, NAME_LEN)?;
        let (mode, ivgen) = words.split_once('-').ok_or_else(|| {
            corrupt(format!("Unexpected cipher mode string format '{words}'"), CIPHER_MODE)
        })?;
        let (ivgen, ivgen_hash) = match ivgen.split_once(':') {
            Some((ivgen, name)) => (ivgen, Some(hash(name, CIPHER_MODE)?)),
            None => (ivgen, None),
        };
        let cipher_mode: QCryptoCipherMode = mode
            .parse()
            .map_err(|_| unsupported(format!("Cipher mode '{mode}' not supported"), CIPHER_MODE))?;
        let ivgen_alg: QCryptoIVGenAlgo = ivgen.parse().map_err(|_| {
            unsupported(format!("IV generator '{ivgen}' not supported"), CIPHER_MODE)
        })?;
        if ivgen_alg == QCryptoIVGenAlgo::Essiv && ivgen_hash.is_none() {
            return Err(corrupt("Missing IV generator hash specification", CIPHER_MODE));
        }
        let name = text(bytes, CIPHER_NAME, NAME_LEN)?;
        let key_bytes = be32(bytes, KEY_BYTES);
        let spec = |cipher_alg| CipherSpec {
            cipher_alg,
            cipher_mode,
            ivgen_alg,
            ivgen_hash_alg: ivgen_hash,
        };
        let cipher = QCryptoCipherAlgo::ALL.iter().copied().find(|cipher| {
            family(*cipher) == Some(name) && spec(*cipher).key_len() as u64 == u64::from(key_bytes)
        });
        let cipher = cipher.ok_or_else(|| {
            let what = format!("Algorithm '{name}' with key size {key_bytes} bytes not supported");
            unsupported(what, CIPHER_NAME)
        })?;
        let slot = |index: usize| slot(&bytes[SLOTS + index * SLOT_LEN..][..SLOT_LEN], index);
        let header = Self {
            spec: spec(cipher),
            hash: hash(text(bytes, HASH, NAME_LEN)?, HASH)?,
            payload_offset: u64::from(be32(bytes, PAYLOAD_OFFSET)) * SECTOR,
            key_bytes: spec(cipher).key_len(),
            digest: array(bytes, DIGEST),
            digest_salt: array(bytes, DIGEST_SALT),
            digest_iterations: be32(bytes, DIGEST_ITERATIONS),
            // It is only shown.
            uuid: String::from_utf8_lossy(&bytes[UUID..UUID + UUID_LEN])
                .trim_end_matches('\0')
                .to_string(),
            slots: [slot(0)?, slot(1)?, slot(2)?, slot(3)?, slot(4)?, slot(5)?, slot(6)?, slot(7)?],
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        if self.digest_iterations == 0 {
            return Err(corrupt("LUKS key iteration count is zero", DIGEST_ITERATIONS));
        }
        let header_end = (HEADER_LEN as u64).next_multiple_of(SECTOR);
        if self.payload_offset < header_end {
            return Err(corrupt("LUKS payload is overlapping with the header", PAYLOAD_OFFSET));
        }
        let len = self.material_len() as u64;
        for (i, slot) in self.slots.iter().enumerate() {
            let at = SLOTS + i * SLOT_LEN + SLOT_KEY_OFFSET;
            if slot.key_offset < header_end {
                let what = format!("Keyslot {i} is overlapping with the LUKS header");
                return Err(corrupt(what, at));
            }
            // Offsets are below 2^41.
            if slot.key_offset + len > self.payload_offset {
                let what = format!("Keyslot {i} is overlapping with the encrypted payload");
                return Err(corrupt(what, at));
            }
        }
        for (i, slot) in self.slots.iter().enumerate() {
            for (j, other) in self.slots.iter().enumerate().skip(i + 1) {
                if slot.key_offset.abs_diff(other.key_offset) < len {
                    return Err(corrupt(
                        format!("Keyslots {i} and {j} are overlapping in the header"),
                        SLOTS + i * SLOT_LEN + SLOT_KEY_OFFSET,
                    ));
                }
            }
        }
        // What does not go together is refused before anybody waits for a key derivation.
        SectorCipher::new(self.spec, &[0; 64][..self.key_bytes])
            .map(drop)
            .map_err(|e| e.in_format("luks").at(CIPHER_NAME as u64))
    }

    /// Bytes of the key material of a slot: the split key, in whole sectors.
    #[must_use]
    pub fn material_len(&self) -> usize {
        (self.key_bytes * STRIPES as usize).next_multiple_of(SECTOR as usize)
    }

    /// The header's bytes.
    #[must_use]
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let spec = self.spec;
        put(0, MAGIC);
        put(VERSION, &1u16.to_be_bytes());
        put(CIPHER_NAME, family(spec.cipher_alg).unwrap_or_default().as_bytes());
        let mode = match spec.ivgen_hash_alg {
            Some(hash) => format!("{}-{}:{hash}", spec.cipher_mode, spec.ivgen_alg),
            None => format!("{}-{}", spec.cipher_mode, spec.ivgen_alg),
        };
        put(CIPHER_MODE, mode.as_bytes());
        put(HASH, self.hash.as_str().as_bytes());
        put(PAYLOAD_OFFSET, &sectors(self.payload_offset).to_be_bytes());
        // At most 64.
        put(KEY_BYTES, &(self.key_bytes as u32).to_be_bytes());
        put(DIGEST, &self.digest);
        put(DIGEST_SALT, &self.digest_salt);
        put(DIGEST_ITERATIONS, &self.digest_iterations.to_be_bytes());
        let uuid = self.uuid.as_bytes();
        put(UUID, &uuid[..uuid.len().min(UUID_LEN)]);
        for (i, slot) in self.slots.iter().enumerate() {
            put(SLOTS + i * SLOT_LEN, &slot.emit());
        }
        out
    }

    /// Offset of a slot's entry in the header.
    pub(super) fn slot_entry(index: usize) -> u64 {
        (SLOTS + index * SLOT_LEN) as u64
    }

    /// What the header tells without a passphrase.
    #[must_use]
    pub fn describe(&self) -> QCryptoBlockInfoLUKS {
        let essiv = self.spec.ivgen_alg == QCryptoIVGenAlgo::Essiv;
        let slots = self.slots.iter().map(|slot| QCryptoBlockInfoLUKSSlot {
            active: slot.active,
            iters: slot.active.then(|| slot.iterations.into()),
            key_offset: slot.key_offset,
            stripes: slot.active.then(|| STRIPES.into()),
        });
        QCryptoBlockInfoLUKS {
            ivgen_alg: self.spec.ivgen_alg,
            detached_header: false,
            hash_alg: self.hash,
            cipher_alg: self.spec.cipher_alg,
            uuid: self.uuid.clone(),
            ivgen_hash_alg: self.spec.ivgen_hash_alg.filter(|_| essiv),
            cipher_mode: self.spec.cipher_mode,
            slots: slots.collect(),
            payload_offset: self.payload_offset,
            master_key_iters: self.digest_iterations.into(),
        }
    }
}

/// An offset that came from, or will be, a 32-bit count of sectors.
fn sectors(offset: u64) -> u32 {
    u32::try_from(offset / SECTOR).unwrap_or(u32::MAX)
}

impl Slot {
    /// The slot's entry in the header.
    pub(super) fn emit(&self) -> [u8; SLOT_LEN] {
        let mut out = [0; SLOT_LEN];
        let state = if self.active { SLOT_ACTIVE } else { SLOT_INACTIVE };
        out[..4].copy_from_slice(&state.to_be_bytes());
        out[SLOT_ITERATIONS..][..4].copy_from_slice(&self.iterations.to_be_bytes());
        out[SLOT_SALT..][..SALT_LEN].copy_from_slice(&self.salt);
        out[SLOT_KEY_OFFSET..][..4].copy_from_slice(&sectors(self.key_offset).to_be_bytes());
        out[SLOT_STRIPES..][..4].copy_from_slice(&STRIPES.to_be_bytes());
        out
    }
}

fn slot(bytes: &[u8], index: usize) -> Result<Slot> {
    let at = SLOTS + index * SLOT_LEN;
    let active = match be32(bytes, 0) {
        SLOT_ACTIVE => true,
        SLOT_INACTIVE => false,
        _ => {
            let what = format!("Keyslot {index} state (active/disable) is corrupted");
            return Err(corrupt(what, at));
        }
    };
    let stripes = be32(bytes, SLOT_STRIPES);
    if stripes != STRIPES {
        let what = format!("Keyslot {index} is corrupted (stripes {stripes} != {STRIPES})");
        return Err(corrupt(what, at + SLOT_STRIPES));
    }
    let iterations = be32(bytes, SLOT_ITERATIONS);
    if active && iterations == 0 {
        let what = format!("Keyslot {index} iteration count is zero");
        return Err(corrupt(what, at + SLOT_ITERATIONS));
    }
    Ok(Slot {
        active,
        iterations,
        salt: array(bytes, SLOT_SALT),
        key_offset: u64::from(be32(bytes, SLOT_KEY_OFFSET)) * SECTOR,
    })
}
