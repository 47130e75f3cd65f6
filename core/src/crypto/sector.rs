//! Encryption of sectors: a block cipher, its mode, and where initialisation vectors come from.

use super::block::{self, Blocks, keyed};
use super::{SECTOR, digest, digest_len};
use crate::qapi::{QCryptoCipherAlgo, QCryptoCipherMode, QCryptoHashAlgo, QCryptoIVGenAlgo};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use core::fmt;

/// Blocks of 16 bytes that go to the cipher in one call: two sectors.
const BATCH: usize = 64;
const BATCH_BYTES: usize = BATCH * 16;
/// Sectors whose tweaks are made in one call.
const TWEAKS: usize = 64;
/// The longest block of any of the ciphers.
const MAX_BLOCK: usize = 16;

/// How sectors are encrypted; the names are the schema's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSpec {
    /// The cipher.
    pub cipher_alg: QCryptoCipherAlgo,
    /// Its mode.
    pub cipher_mode: QCryptoCipherMode,
    /// Where initialisation vectors come from.
    pub ivgen_alg: QCryptoIVGenAlgo,
    /// The hash of [`QCryptoIVGenAlgo::Essiv`].
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
}

impl CipherSpec {
    /// Bytes of a key: XTS uses two.
    #[must_use]
    pub fn key_len(&self) -> usize {
        let one = block::key_len(self.cipher_alg);
        if self.cipher_mode == QCryptoCipherMode::Xts { 2 * one } else { one }
    }

    /// Refuses what does not go together.
    ///
    /// # Errors
    /// `InvalidInput` or `Unsupported`, in the words of QEMU's tools.
    pub fn check(&self) -> Result<()> {
        SectorCipher::new(*self, &[0; 64][..self.key_len()]).map(drop)
    }
}

/// A cipher with its key. Sectors are numbered from wherever the caller counts.
pub struct SectorCipher {
    spec: CipherSpec,
    data: Box<dyn Blocks>,
    /// Of the tweaks of XTS.
    tweak: Option<Box<dyn Blocks>>,
    /// Encrypts sector numbers, for ESSIV.
    essiv: Option<Box<dyn Blocks>>,
}

impl fmt::Debug for SectorCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SectorCipher").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl SectorCipher {
    /// The cipher with this key.
    ///
    /// # Errors
    /// `InvalidInput` for a key of another length than [`CipherSpec::key_len`], `Unsupported` for
    /// what does not go together.
    pub fn new(spec: CipherSpec, key: &[u8]) -> Result<Self> {
        if key.len() != spec.key_len() {
            return Err(Error::invalid(format!(
                "a key of {} bytes for a cipher that takes {}",
                key.len(),
                spec.key_len()
            )));
        }
        let (data, tweak) = match spec.cipher_mode {
            QCryptoCipherMode::Xts => {
                let (first, second) = key.split_at(key.len() / 2);
                let data = keyed(spec.cipher_alg, first)?;
                if data.block_len() != MAX_BLOCK {
                    return Err(Error::unsupported("Unsupported cipher mode xts"));
                }
                (data, Some(keyed(spec.cipher_alg, second)?))
            }
            _ => (keyed(spec.cipher_alg, key)?, None),
        };
        let essiv = match spec.ivgen_alg {
            QCryptoIVGenAlgo::Essiv => {
                let hash = spec.ivgen_hash_alg.ok_or_else(|| {
                    Error::invalid("IV generator 'essiv' needs the name of a hash")
                })?;
                let cipher = essiv_cipher(spec.cipher_alg, hash)?;
                Some(keyed(cipher, &digest(hash, &[key]))?)
            }
            _ => None,
        };
        Ok(Self { spec, data, tweak, essiv })
    }

    /// How it encrypts.
    #[must_use]
    pub fn spec(&self) -> CipherSpec {
        self.spec
    }

    /// Encrypts whole sectors, the first of which has the number `sector`. A rest that is no whole
    /// sector stays as it is.
    pub fn encrypt(&self, sector: u64, data: &mut [u8]) {
        self.run(sector, data, true);
    }

    /// Decrypts whole sectors, the first of which has the number `sector`. A rest that is no whole
    /// sector stays as it is.
    pub fn decrypt(&self, sector: u64, data: &mut [u8]) {
        self.run(sector, data, false);
    }

    fn run(&self, sector: u64, data: &mut [u8], encrypt: bool) {
        let whole = data.len() - data.len() % SECTOR;
        let data = &mut data[..whole];
        match (self.spec.cipher_mode, &self.tweak) {
            (QCryptoCipherMode::Xts, Some(tweak)) => self.xts(&**tweak, sector, data, encrypt),
            (QCryptoCipherMode::Cbc, _) => self.cbc(sector, data, encrypt),
            (QCryptoCipherMode::Ctr, _) => self.ctr(sector, data),
            _ => self.blocks(data, encrypt),
        }
    }

    fn blocks(&self, data: &mut [u8], encrypt: bool) {
        if encrypt { self.data.encrypt(data) } else { self.data.decrypt(data) }
    }

    /// The initialisation vector of a sector, as long as `out`, which is one block.
    fn iv(&self, sector: u64, out: &mut [u8]) {
        let number = match self.spec.ivgen_alg {
            QCryptoIVGenAlgo::Plain => sector & u64::from(u32::MAX),
            QCryptoIVGenAlgo::Plain64 | QCryptoIVGenAlgo::Essiv => sector,
        };
        out.fill(0);
        out[..8].copy_from_slice(&number.to_le_bytes());
        if let Some(essiv) = &self.essiv {
            essiv.encrypt(out);
        }
    }

    /// XTS (IEEE 1619): every block is masked before and after by its sector's tweak, which is
    /// doubled from block to block. All tweaks are encrypted in one call, the data in batches
    /// across sectors.
    fn xts(&self, tweak: &dyn Blocks, sector: u64, data: &mut [u8], encrypt: bool) {
        let mut number = sector;
        for part in data.chunks_mut(TWEAKS * SECTOR) {
            let mut tweaks = [0; TWEAKS * 16];
            let tweaks = &mut tweaks[..part.len() / SECTOR * 16];
            for iv in tweaks.chunks_exact_mut(16) {
                self.iv(number, iv);
                number = number.wrapping_add(1);
            }
            tweak.encrypt(tweaks);
            let starts = tweaks.as_chunks::<16>().0.chunks(BATCH_BYTES / SECTOR);
            for (batch, starts) in part.chunks_mut(BATCH_BYTES).zip(starts) {
                let mut masks = [0; BATCH];
                for (start, masks) in starts.iter().zip(masks.chunks_mut(SECTOR / 16)) {
                    let mut mask = u128::from_le_bytes(*start);
                    for slot in masks {
                        *slot = mask;
                        // Times x, modulo x^128 + x^7 + x^2 + x + 1, without a branch on the key.
                        mask = mask << 1 ^ 0x87 & (mask >> 127).wrapping_neg();
                    }
                }
                xor(batch, &masks);
                self.blocks(batch, encrypt);
                xor(batch, &masks);
            }
        }
    }

    fn cbc(&self, sector: u64, data: &mut [u8], encrypt: bool) {
        let len = self.data.block_len();
        let mut iv = [0; MAX_BLOCK];
        let mut number = sector;
        for part in data.chunks_exact_mut(SECTOR) {
            self.iv(number, &mut iv[..len]);
            number = number.wrapping_add(1);
            if encrypt {
                self.data.encrypt_chain(&iv[..len], part);
                continue;
            }
            let mut chain = [0; MAX_BLOCK + SECTOR];
            chain[..len].copy_from_slice(&iv[..len]);
            chain[len..len + SECTOR].copy_from_slice(part);
            self.data.decrypt(part);
            for (byte, before) in part.iter_mut().zip(chain) {
                *byte ^= before;
            }
        }
    }

    /// A key stream from a counter that begins with the initialisation vector; it runs on as one
    /// big-endian number.
    fn ctr(&self, sector: u64, data: &mut [u8]) {
        let len = self.data.block_len();
        let mut number = sector;
        for part in data.chunks_exact_mut(SECTOR) {
            let mut counter = [0; MAX_BLOCK];
            self.iv(number, &mut counter[MAX_BLOCK - len..]);
            number = number.wrapping_add(1);
            let mut stream = [0; SECTOR];
            for block in stream.chunks_exact_mut(len) {
                block.copy_from_slice(&counter[MAX_BLOCK - len..]);
                counter = u128::from_be_bytes(counter).wrapping_add(1).to_be_bytes();
            }
            self.data.encrypt(&mut stream);
            for (byte, key) in part.iter_mut().zip(stream) {
                *byte ^= key;
            }
        }
    }
}

fn xor(data: &mut [u8], masks: &[u128]) {
    for (block, mask) in data.as_chunks_mut::<16>().0.iter_mut().zip(masks) {
        *block = (u128::from_le_bytes(*block) ^ mask).to_le_bytes();
    }
}

/// The cipher of the sector numbers: of the same family as the data's, with the hash as its key.
fn essiv_cipher(cipher: QCryptoCipherAlgo, hash: QCryptoHashAlgo) -> Result<QCryptoCipherAlgo> {
    use QCryptoCipherAlgo as A;
    let (family, choices) = match cipher {
        A::Aes128 | A::Aes192 | A::Aes256 => ("AES", [A::Aes128, A::Aes192, A::Aes256]),
        A::Serpent128 | A::Serpent192 | A::Serpent256 => {
            ("Serpent", [A::Serpent128, A::Serpent192, A::Serpent256])
        }
        A::Twofish128 | A::Twofish192 | A::Twofish256 => {
            ("Twofish", [A::Twofish128, A::Twofish192, A::Twofish256])
        }
        _ => {
            return Err(Error::unsupported(format!("Cipher {cipher} not supported with essiv")));
        }
    };
    let len = digest_len(hash);
    choices.into_iter().find(|choice| block::key_len(*choice) == len).ok_or_else(|| {
        Error::unsupported(format!("No {family} cipher with key size {len} available"))
    })
}
