//! Types of `crypto.json`: what is told about an encrypted image without opening it, what opens or
//! makes one, secrets and credentials.

use crate::qapi::schema::Natural;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// The side of a TLS connection.
#[qapi]
pub enum QCryptoTLSCredsEndpoint {
    /// The one that connects.
    Client,
    /// The one that is connected to.
    Server,
}

/// How a secret is written.
#[qapi]
pub enum QCryptoSecretFormat {
    /// As it is; in JSON as UTF-8.
    Raw,
    /// In base64.
    Base64,
}

/// A hash function.
#[qapi(what = "hash")]
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

/// A block cipher and the length of its key in bits.
#[qapi(what = "cipher")]
pub enum QCryptoCipherAlgo {
    /// AES, 128 bits.
    #[qapi(name = "aes-128")]
    Aes128,
    /// AES, 192 bits.
    #[qapi(name = "aes-192")]
    Aes192,
    /// AES, 256 bits, the default of new images.
    #[qapi(name = "aes-256")]
    Aes256,
    /// DES, 56 bits.
    #[qapi(name = "des")]
    Des,
    /// Triple DES.
    #[qapi(name = "3des")]
    TripleDes,
    /// CAST5, 128 bits.
    #[qapi(name = "cast5-128")]
    Cast5128,
    /// Serpent, 128 bits.
    #[qapi(name = "serpent-128")]
    Serpent128,
    /// Serpent, 192 bits.
    #[qapi(name = "serpent-192")]
    Serpent192,
    /// Serpent, 256 bits.
    #[qapi(name = "serpent-256")]
    Serpent256,
    /// Twofish, 128 bits.
    #[qapi(name = "twofish-128")]
    Twofish128,
    /// Twofish, 192 bits.
    #[qapi(name = "twofish-192")]
    Twofish192,
    /// Twofish, 256 bits.
    #[qapi(name = "twofish-256")]
    Twofish256,
    /// SM4.
    #[qapi(name = "sm4")]
    Sm4,
}

/// How a block cipher is chained over a sector.
#[qapi(what = "cipher mode")]
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

/// How the initialisation vector of a sector is made from its number.
#[qapi(what = "IV generator")]
pub enum QCryptoIVGenAlgo {
    /// The number, cut to 32 bits.
    Plain,
    /// The number, 64 bits.
    Plain64,
    /// The number, encrypted with a hash of the key.
    Essiv,
}

/// A kind of encryption of a volume.
#[qapi]
pub enum QCryptoBlockFormat {
    /// AES of qcow and qcow2: legacy, and weak.
    Qcow,
    /// A LUKS header.
    Luks,
}

/// What all kinds of encryption have.
#[qapi]
pub struct QCryptoBlockOptionsBase {
    /// The kind.
    pub format: QCryptoBlockFormat,
}

/// What opens the legacy encryption.
#[qapi]
#[derive(Default)]
pub struct QCryptoBlockOptionsQCow {
    /// The secret object that holds the key or passphrase.
    pub key_secret: Option<String>,
}

/// What opens a LUKS volume.
#[qapi]
#[derive(Default)]
pub struct QCryptoBlockOptionsLUKS {
    /// The secret object that holds the key or passphrase.
    pub key_secret: Option<String>,
}

/// How a LUKS volume is made.
#[qapi]
#[derive(Default)]
pub struct QCryptoBlockCreateOptionsLUKS {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: QCryptoBlockOptionsLUKS,
    /// The cipher.
    pub cipher_alg: Option<QCryptoCipherAlgo>,
    /// Its mode.
    pub cipher_mode: Option<QCryptoCipherMode>,
    /// Where initialisation vectors come from.
    pub ivgen_alg: Option<QCryptoIVGenAlgo>,
    /// The hash that the generator of vectors uses.
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
    /// The hash.
    pub hash_alg: Option<QCryptoHashAlgo>,
    /// How long the derivation of a key shall take, in milliseconds.
    pub iter_time: Option<i64>,
}

/// What opens an encrypted volume.
#[qapi(tag = "format", by = QCryptoBlockFormat)]
pub enum QCryptoBlockOpenOptions {
    /// AES of qcow and qcow2: legacy, and weak.
    Qcow(QCryptoBlockOptionsQCow),
    /// A LUKS header.
    Luks(QCryptoBlockOptionsLUKS),
}

/// How an encrypted volume is made.
#[qapi(tag = "format", by = QCryptoBlockFormat)]
pub enum QCryptoBlockCreateOptions {
    /// AES of qcow and qcow2: legacy, and weak.
    Qcow(QCryptoBlockOptionsQCow),
    /// A LUKS header.
    Luks(QCryptoBlockCreateOptionsLUKS),
}

/// What is told of all encrypted volumes.
#[qapi]
pub struct QCryptoBlockInfoBase {
    /// The kind.
    pub format: QCryptoBlockFormat,
}

/// One key slot of a LUKS header.
#[qapi]
#[derive(Eq)]
pub struct QCryptoBlockInfoLUKSSlot {
    /// Whether it holds a key.
    pub active: bool,
    /// Rounds of the key derivation, of an active slot.
    pub iters: Option<Natural>,
    /// Where its key material lies in the container, in bytes.
    pub key_offset: Natural,
    /// Stripes of the anti-forensic splitter, of an active slot.
    pub stripes: Option<Natural>,
}

/// What a LUKS header says without a passphrase.
#[qapi]
#[derive(Eq)]
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
    pub ivgen_hash_alg: Option<QCryptoHashAlgo>,
    /// The mode of the cipher.
    pub cipher_mode: QCryptoCipherMode,
    /// The key slots.
    pub slots: Vec<QCryptoBlockInfoLUKSSlot>,
    /// Where the payload begins, in bytes.
    pub payload_offset: Natural,
    /// Rounds of the master key's digest.
    pub master_key_iters: Natural,
}

/// What is told of an encrypted volume.
#[qapi(tag = "format", by = QCryptoBlockFormat)]
pub enum QCryptoBlockInfo {
    /// AES of qcow and qcow2: legacy, and weak.
    Qcow,
    /// A LUKS header.
    Luks(QCryptoBlockInfoLUKS),
}

/// What becomes of a key slot.
#[qapi]
pub enum QCryptoBlockLUKSKeyslotState {
    /// It gets a key.
    Active,
    /// It is erased.
    Inactive,
}

/// A change of the key slots of a LUKS volume.
#[qapi]
pub struct QCryptoBlockAmendOptionsLUKS {
    /// What becomes of the slots.
    pub state: QCryptoBlockLUKSKeyslotState,
    /// The secret object with the new passphrase.
    pub new_secret: Option<String>,
    /// The secret object with the passphrase whose slots are meant.
    pub old_secret: Option<String>,
    /// The slot.
    pub keyslot: Option<i64>,
    /// How long the derivation of a key shall take, in milliseconds.
    pub iter_time: Option<i64>,
    /// The secret object with a passphrase that opens the volume.
    pub secret: Option<String>,
}

/// A change of the encryption of a volume.
#[qapi(tag = "format", by = QCryptoBlockFormat)]
pub enum QCryptoBlockAmendOptions {
    /// AES of qcow and qcow2: legacy, and weak.
    Qcow,
    /// A LUKS header.
    Luks(QCryptoBlockAmendOptionsLUKS),
}

/// What all secret objects have.
#[qapi]
#[derive(Default)]
pub struct SecretCommonProperties {
    /// How the data are written.
    pub format: Option<QCryptoSecretFormat>,
    /// The secret object that decrypts them.
    pub keyid: Option<String>,
    /// The initialisation vector for that, in base64.
    pub iv: Option<String>,
}

/// A secret.
#[qapi]
#[derive(Default)]
pub struct SecretProperties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: SecretCommonProperties,
    /// The data.
    pub data: Option<String>,
    /// The file with the data.
    pub file: Option<String>,
}

/// A secret in the keyring of the kernel.
#[qapi(cond = "CONFIG_SECRET_KEYRING")]
pub struct SecretKeyringProperties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: SecretCommonProperties,
    /// The serial number of the key.
    pub serial: i32,
}

/// What all credentials for TLS have.
#[qapi]
#[derive(Default)]
pub struct TlsCredsProperties {
    /// Whether the other side must prove who it is.
    pub verify_peer: Option<bool>,
    /// The folder of the credentials.
    pub dir: Option<String>,
    /// The side they are for.
    pub endpoint: Option<QCryptoTLSCredsEndpoint>,
    /// The priorities of algorithms, as GnuTLS writes them.
    pub priority: Option<String>,
}

/// Credentials without names.
#[qapi]
#[derive(Default)]
pub struct TlsCredsAnonProperties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: TlsCredsProperties,
}

/// Credentials by a key that both sides know.
#[qapi]
#[derive(Default)]
pub struct TlsCredsPskProperties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: TlsCredsProperties,
    /// The name that goes with the key.
    pub username: Option<String>,
}

/// Credentials by certificates.
#[qapi]
#[derive(Default)]
pub struct TlsCredsX509Properties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: TlsCredsProperties,
    /// Whether certificates are looked at before they are used.
    pub sanity_check: Option<bool>,
    /// The secret object with the passphrase of the private key.
    pub passwordid: Option<String>,
}

/// An asymmetric cipher.
#[qapi]
pub enum QCryptoAkCipherAlgo {
    /// RSA.
    Rsa,
}

/// The half of an asymmetric key.
#[qapi]
pub enum QCryptoAkCipherKeyType {
    /// The public one.
    Public,
    /// The private one.
    Private,
}

/// How RSA pads.
#[qapi]
pub enum QCryptoRSAPaddingAlgo {
    /// Not at all.
    Raw,
    /// As PKCS#1 has it.
    Pkcs1,
}

/// How RSA is used.
#[qapi]
pub struct QCryptoAkCipherOptionsRSA {
    /// The hash.
    pub hash_alg: QCryptoHashAlgo,
    /// The padding.
    pub padding_alg: QCryptoRSAPaddingAlgo,
}

/// How an asymmetric cipher is used.
#[qapi(tag = "alg", by = QCryptoAkCipherAlgo)]
pub enum QCryptoAkCipherOptions {
    /// RSA.
    Rsa(QCryptoAkCipherOptionsRSA),
}
