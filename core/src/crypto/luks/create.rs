//! A new header (section 4.1).

use super::header::{DIGEST_LEN, Header, SLOT_COUNT, Slot};
use super::unlock::MasterKey;
use super::{DIGEST_SHARE, SECTOR, STRIPES, iterations, salt, split};
use crate::crypto::{CipherSpec, Clock, Pbkdf2, Random, Secret, SectorCipher};
use crate::qapi::{QCryptoCipherAlgo, QCryptoCipherMode, QCryptoHashAlgo, QCryptoIVGenAlgo};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// Areas of key material begin at multiples of this.
const ALIGNMENT: u64 = 4096;

/// What a new container is like; the names are those of the schema's
/// `QCryptoBlockCreateOptionsLUKS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreateOptions {
    /// The cipher.
    pub cipher_alg: QCryptoCipherAlgo,
    /// Its mode.
    pub cipher_mode: QCryptoCipherMode,
    /// Where initialisation vectors come from.
    pub ivgen_alg: QCryptoIVGenAlgo,
    /// The hash of the IV generator; ESSIV takes SHA-256 where it is not given.
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
    /// The hash of key derivation and splitter.
    pub hash_alg: QCryptoHashAlgo,
    /// Milliseconds that deriving the key from the passphrase takes on this host.
    pub iter_time: u64,
}

impl CreateOptions {
    /// The time of key derivations where none is given.
    pub const ITER_TIME: u64 = 2000;
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            cipher_alg: QCryptoCipherAlgo::Aes256,
            cipher_mode: QCryptoCipherMode::Xts,
            ivgen_alg: QCryptoIVGenAlgo::Plain64,
            ivgen_hash_alg: None,
            hash_alg: QCryptoHashAlgo::Sha256,
            iter_time: Self::ITER_TIME,
        }
    }
}

impl CreateOptions {
    fn spec(&self) -> CipherSpec {
        let essiv = self.ivgen_alg == QCryptoIVGenAlgo::Essiv;
        let default = essiv.then_some(QCryptoHashAlgo::Sha256);
        CipherSpec {
            cipher_alg: self.cipher_alg,
            cipher_mode: self.cipher_mode,
            ivgen_alg: self.ivgen_alg,
            ivgen_hash_alg: self.ivgen_hash_alg.or(default),
        }
    }

    /// Refuses what does not go together.
    ///
    /// # Errors
    /// `Unsupported`, with what it is.
    pub fn check(&self) -> Result<()> {
        let spec = self.spec();
        spec.check()?;
        if !(spec.key_len() * STRIPES as usize).is_multiple_of(SECTOR as usize) {
            return Err(Error::unsupported(format!(
                "{} in mode {}: the split key is no whole number of sectors, which other programs \
                 do not open; use mode xts",
                self.cipher_alg, self.cipher_mode
            ))
            .in_format("luks"));
        }
        Ok(())
    }

    /// Bytes from the header to the end of the key material.
    #[must_use]
    pub fn header_len(&self) -> u64 {
        area(self.spec().key_len(), SLOT_COUNT)
    }
}

/// Where the key material of slot `index` begins; of the slot past the last: where it ends.
fn area(key_len: usize, index: usize) -> u64 {
    let len = (key_len * STRIPES as usize) as u64;
    ALIGNMENT + index as u64 * len.next_multiple_of(ALIGNMENT)
}

/// A new container, not written yet.
#[derive(Debug)]
pub struct Created {
    /// The header.
    pub header: Header,
    /// The key of its payload.
    pub key: MasterKey,
    /// What to write, by offset from the header's beginning: the header, and key material. The
    /// rest up to the header's [`payload_offset`](Header::payload_offset) is zeroes.
    pub writes: [(u64, Vec<u8>); 2],
}

/// Makes a container with a random key that `passphrase` opens.
///
/// # Errors
/// As [`CreateOptions::check`]; `Limit` for a time that takes too many iterations.
pub fn create(
    options: &CreateOptions,
    passphrase: &Secret,
    random: Random<'_>,
    clock: Clock<'_>,
) -> Result<Created> {
    options.check()?;
    let (spec, hash) = (options.spec(), options.hash_alg);
    let mut key = MasterKey(Zeroizing::new(alloc::vec![0; spec.key_len()]));
    random(&mut key.0);
    let digest_salt = salt(random);
    let time = options.iter_time / DIGEST_SHARE;
    let digest_iterations = iterations(hash, DIGEST_LEN, time, clock)?;
    let derived =
        Pbkdf2::new(hash, key.as_bytes(), &digest_salt, digest_iterations, DIGEST_LEN).run();
    let mut digest = [0; DIGEST_LEN];
    digest.copy_from_slice(&derived);
    let empty = |index| Slot {
        active: false,
        iterations: 0,
        salt: [0; 32],
        key_offset: area(spec.key_len(), index),
    };
    let mut header = Header {
        spec,
        hash,
        payload_offset: options.header_len(),
        key_bytes: spec.key_len(),
        digest,
        digest_salt,
        digest_iterations,
        uuid: uuid(random),
        slots: core::array::from_fn(empty),
    };
    let (slot, material) = seal(&header, 0, &key, passphrase, options.iter_time, random, clock)?;
    let offset = slot.key_offset;
    header.slots[0] = slot;
    let writes = [(0, header.emit().to_vec()), (offset, material)];
    Ok(Created { header, key, writes })
}

/// A slot that `passphrase` opens, and its key material.
pub(super) fn seal(
    header: &Header,
    index: usize,
    key: &MasterKey,
    passphrase: &Secret,
    iter_time: u64,
    random: Random<'_>,
    clock: Clock<'_>,
) -> Result<(Slot, Vec<u8>)> {
    let salt = salt(random);
    let count = iterations(header.hash, header.key_bytes, iter_time, clock)?;
    let derive = Pbkdf2::new(header.hash, passphrase.as_bytes(), &salt, count, header.key_bytes);
    let cipher = SectorCipher::new(header.spec, &derive.run())?;
    let mut stripes = split::split(header.hash, key.as_bytes(), random);
    // Encrypted in place: what is not a whole sector is filled up first.
    stripes.resize(header.material_len(), 0);
    cipher.encrypt(0, &mut stripes);
    let key_offset = header.slots[index].key_offset;
    let slot = Slot { active: true, iterations: count, salt, key_offset };
    Ok((slot, core::mem::take(&mut stripes)))
}

/// A random identifier (RFC 9562, version 4).
fn uuid(random: Random<'_>) -> String {
    let mut bytes: [u8; 16] = salt(random);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let part = |from: u32, bits: u32| number >> (128 - from - bits) & ((1 << bits) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(0, 32),
        part(32, 16),
        part(48, 16),
        part(64, 16),
        part(80, 48)
    )
}
