//! The LUKS version 1 header ("LUKS On-Disk Format Specification", section 2.3), parsed.

use crate::qapi::{
    QCryptoBlockInfoLUKS, QCryptoBlockInfoLUKSSlot, QCryptoCipherAlgo, QCryptoCipherMode,
    QCryptoHashAlgo, QCryptoIVGenAlgo,
};
use crate::{Error, Result};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

/// Length of the header, with its eight key slots.
pub const HEADER_LEN: usize = 592;

const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
const VERSION: usize = 6;
const CIPHER_NAME: usize = 8;
const CIPHER_MODE: usize = 40;
const HASH: usize = 72;
const NAME_LEN: usize = 32;
const PAYLOAD_OFFSET: usize = 104;
const KEY_BYTES: usize = 108;
const MASTER_KEY_ITERATIONS: usize = 164;
const UUID: usize = 168;
const UUID_LEN: usize = 40;
const SLOTS: usize = 208;
const SLOT_LEN: usize = 48;
const SLOT_COUNT: usize = 8;
const SLOT_ITERATIONS: usize = 4;
const SLOT_KEY_OFFSET: usize = 40;
const SLOT_STRIPES: usize = 44;
const SLOT_ACTIVE: u32 = 0x00ac_71f3;
/// Offsets in the header count in sectors of this size.
const SECTOR: u64 = 512;

fn be32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_be_bytes(word)
}

fn text(bytes: &[u8], at: usize, len: usize) -> Result<&str> {
    let field = &bytes[at..at + len];
    let end = field.iter().position(|b| *b == 0).unwrap_or(len);
    core::str::from_utf8(&field[..end]).map_err(|_| broken("a name is not text", at))
}

fn broken(what: &'static str, at: usize) -> Error {
    Error::corrupt(what).in_format("luks").at(at as u64)
}

/// Reads what a header tells without a passphrase.
///
/// # Errors
/// `Corrupt` where it is no LUKS header, `Unsupported` for version, cipher, mode, IV generator or
/// hash that are not known.
pub fn describe(header: &[u8]) -> Result<QCryptoBlockInfoLUKS> {
    if header.len() < HEADER_LEN || !header.starts_with(MAGIC) {
        return Err(broken("no LUKS header", 0));
    }
    if header[VERSION..VERSION + 2] != [0, 1] {
        return Err(Error::unsupported("LUKS version other than 1").in_format("luks"));
    }
    let unknown = |what: &str, name: &str| {
        Error::unsupported(format!("unknown {what} '{name}'")).in_format("luks")
    };
    let cipher = text(header, CIPHER_NAME, NAME_LEN)?;
    let key_bits = u64::from(be32(header, KEY_BYTES)) * 8;
    // `MODE-IVGEN[:HASH]`.
    let spec = text(header, CIPHER_MODE, NAME_LEN)?;
    let (mode, ivgen) = spec.split_once('-').ok_or_else(|| unknown("cipher mode", spec))?;
    let (ivgen, ivgen_hash) = match ivgen.split_once(':') {
        Some((ivgen, hash)) => (ivgen, Some(hash)),
        None => (ivgen, None),
    };
    let cipher_mode: QCryptoCipherMode = mode.parse().map_err(|_| unknown("cipher mode", mode))?;
    // XTS uses two keys of half the length.
    let bits = if cipher_mode == QCryptoCipherMode::Xts { key_bits / 2 } else { key_bits };
    let cipher_name = format!("{cipher}-{bits}");
    let cipher_alg: QCryptoCipherAlgo =
        cipher_name.parse().map_err(|_| unknown("cipher", &cipher_name))?;
    let hash = |name: &str| name.parse::<QCryptoHashAlgo>().map_err(|_| unknown("hash", name));
    let slots: Vec<QCryptoBlockInfoLUKSSlot> =
        (0..SLOT_COUNT).map(|i| slot(&header[SLOTS + i * SLOT_LEN..][..SLOT_LEN])).collect();
    Ok(QCryptoBlockInfoLUKS {
        ivgen_alg: ivgen.parse::<QCryptoIVGenAlgo>().map_err(|_| unknown("IV generator", ivgen))?,
        detached_header: false,
        hash_alg: hash(text(header, HASH, NAME_LEN)?)?,
        cipher_alg,
        uuid: text(header, UUID, UUID_LEN)?.to_string(),
        ivgen_hash_alg: ivgen_hash.map(hash).transpose()?,
        cipher_mode,
        slots,
        payload_offset: u64::from(be32(header, PAYLOAD_OFFSET)) * SECTOR,
        master_key_iters: be32(header, MASTER_KEY_ITERATIONS).into(),
    })
}

fn slot(bytes: &[u8]) -> QCryptoBlockInfoLUKSSlot {
    let active = be32(bytes, 0) == SLOT_ACTIVE;
    QCryptoBlockInfoLUKSSlot {
        active,
        iters: active.then(|| be32(bytes, SLOT_ITERATIONS).into()),
        key_offset: u64::from(be32(bytes, SLOT_KEY_OFFSET)) * SECTOR,
        stripes: active.then(|| be32(bytes, SLOT_STRIPES).into()),
    }
}
