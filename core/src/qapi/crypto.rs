//! Types of `crypto.json`: what is told about an encrypted image without opening it.

use super::names;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QCryptoHashAlgo {
    /// MD5; broken, read only for old images.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256, the default of new images.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
    /// SM3.
    Sm3,
}

names!("hash", QCryptoHashAlgo {
    Md5 => "md5",
    Sha1 => "sha1",
    Sha224 => "sha224",
    Sha256 => "sha256",
    Sha384 => "sha384",
    Sha512 => "sha512",
    Ripemd160 => "ripemd160",
    Sm3 => "sm3",
});

/// A block cipher and the length of its key in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QCryptoCipherAlgo {
    /// AES, 128 bits.
    #[serde(rename = "aes-128")]
    Aes128,
    /// AES, 192 bits.
    #[serde(rename = "aes-192")]
    Aes192,
    /// AES, 256 bits, the default of new images.
    #[serde(rename = "aes-256")]
    Aes256,
    /// DES, 56 bits.
    #[serde(rename = "des")]
    Des,
    /// Triple DES.
    #[serde(rename = "3des")]
    TripleDes,
    /// CAST5, 128 bits.
    #[serde(rename = "cast5-128")]
    Cast5128,
    /// Serpent, 128 bits.
    #[serde(rename = "serpent-128")]
    Serpent128,
    /// Serpent, 192 bits.
    #[serde(rename = "serpent-192")]
    Serpent192,
    /// Serpent, 256 bits.
    #[serde(rename = "serpent-256")]
    Serpent256,
    /// Twofish, 128 bits.
    #[serde(rename = "twofish-128")]
    Twofish128,
    /// Twofish, 192 bits.
    #[serde(rename = "twofish-192")]
    Twofish192,
    /// Twofish, 256 bits.
    #[serde(rename = "twofish-256")]
    Twofish256,
    /// SM4.
    #[serde(rename = "sm4")]
    Sm4,
}

names!("cipher", QCryptoCipherAlgo {
    Aes128 => "aes-128",
    Aes192 => "aes-192",
    Aes256 => "aes-256",
    Des => "des",
    TripleDes => "3des",
    Cast5128 => "cast5-128",
    Serpent128 => "serpent-128",
    Serpent192 => "serpent-192",
    Serpent256 => "serpent-256",
    Twofish128 => "twofish-128",
    Twofish192 => "twofish-192",
    Twofish256 => "twofish-256",
    Sm4 => "sm4",
});

/// How a block cipher is chained over a sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QCryptoCipherMode {
    /// Each block alone.
    Ecb,
    /// Each block mixed with the one before.
    Cbc,
    /// Tweaked by the sector number, the default of new images.
    Xts,
    /// A counter's key stream.
    Ctr,
}

names!("cipher mode", QCryptoCipherMode {
    Ecb => "ecb",
    Cbc => "cbc",
    Xts => "xts",
    Ctr => "ctr",
});

/// How the initialisation vector of a sector is made from its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QCryptoIVGenAlgo {
    /// The number, cut to 32 bits.
    Plain,
    /// The number, 64 bits.
    Plain64,
    /// The number, encrypted with a hash of the key.
    Essiv,
}

names!("IV generator", QCryptoIVGenAlgo {
    Plain => "plain",
    Plain64 => "plain64",
    Essiv => "essiv",
});

/// One key slot of a LUKS header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QCryptoBlockInfoLUKSSlot {
    /// Whether it holds a key.
    pub active: bool,
    /// Rounds of the key derivation, of an active slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iters: Option<u64>,
    /// Where its key material lies in the container, in bytes.
    pub key_offset: u64,
    /// Stripes of the anti-forensic splitter, of an active slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripes: Option<u64>,
}

/// What a LUKS header says without a passphrase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct QCryptoBlockInfoLUKS {
    /// Where initialisation vectors come from.
    pub ivgen_alg: QCryptoIVGenAlgo,
    /// Whether the header lies in a file of its own.
    pub detached_header: bool,
    /// The hash of the key derivation.
    pub hash_alg: QCryptoHashAlgo,
    /// The cipher of the payload.
    pub cipher_alg: QCryptoCipherAlgo,
    /// The identity of the container.
    pub uuid: String,
    /// The hash that [`QCryptoIVGenAlgo::Essiv`] uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
    /// The mode of the cipher.
    pub cipher_mode: QCryptoCipherMode,
    /// The key slots.
    pub slots: Vec<QCryptoBlockInfoLUKSSlot>,
    /// Where the payload begins, in bytes.
    pub payload_offset: u64,
    /// Rounds of the master key's digest.
    pub master_key_iters: u64,
}
