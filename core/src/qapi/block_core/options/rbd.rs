//! Options of Ceph.

use crate::qapi::{InetSocketAddressBase, QCryptoCipherAlgo};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// How a Ceph client proves who it is.
#[qapi]
pub enum RbdAuthMode {
    /// By Ceph's own protocol.
    Cephx,
    /// Not at all.
    None,
}

/// The encryption of a Ceph image.
#[qapi]
pub enum RbdImageEncryptionFormat {
    /// LUKS.
    Luks,
    /// LUKS version 2.
    Luks2,
    /// Either version of LUKS.
    LuksAny,
}

/// What opens an encrypted Ceph image.
#[qapi]
pub struct RbdEncryptionOptionsLUKSBase {
    /// The secret object that holds the key or passphrase.
    pub key_secret: String,
}

/// How an encrypted Ceph image is made.
#[qapi]
pub struct RbdEncryptionCreateOptionsLUKSBase {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: RbdEncryptionOptionsLUKSBase,
    /// The cipher.
    pub cipher_alg: Option<QCryptoCipherAlgo>,
}

/// What opens one of LUKS.
#[qapi]
pub struct RbdEncryptionOptionsLUKS {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: RbdEncryptionOptionsLUKSBase,
}

/// What opens one of LUKS version 2.
#[qapi]
pub struct RbdEncryptionOptionsLUKS2 {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: RbdEncryptionOptionsLUKSBase,
}

/// What opens one of either.
#[qapi]
pub struct RbdEncryptionOptionsLUKSAny {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: RbdEncryptionOptionsLUKSBase,
}

/// How one of LUKS is made.
#[qapi]
pub struct RbdEncryptionCreateOptionsLUKS {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: RbdEncryptionCreateOptionsLUKSBase,
}

/// How one of LUKS version 2 is made.
#[qapi]
pub struct RbdEncryptionCreateOptionsLUKS2 {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: RbdEncryptionCreateOptionsLUKSBase,
}

/// What opens an encrypted Ceph image.
#[qapi]
pub struct RbdEncryptionOptions {
    /// The format, and what goes with it.
    #[qapi(branches)]
    pub format: RbdEncryptionOptionsBranch,
    /// The same for the image that it was cloned from.
    pub parent: Option<Box<RbdEncryptionOptions>>,
}

/// What goes with each `format` of [`RbdEncryptionOptions`].
#[qapi(tag = "format", by = RbdImageEncryptionFormat)]
pub enum RbdEncryptionOptionsBranch {
    /// LUKS.
    Luks(RbdEncryptionOptionsLUKS),
    /// LUKS version 2.
    Luks2(RbdEncryptionOptionsLUKS2),
    /// Either version of LUKS.
    LuksAny(RbdEncryptionOptionsLUKSAny),
}

/// How an encrypted Ceph image is made.
#[qapi(tag = "format", by = RbdImageEncryptionFormat)]
pub enum RbdEncryptionCreateOptions {
    /// LUKS.
    Luks(RbdEncryptionCreateOptionsLUKS),
    /// LUKS version 2.
    Luks2(RbdEncryptionCreateOptionsLUKS2),
    /// Nothing: an image is made of one version.
    LuksAny,
}

/// An image of Ceph.
#[qapi]
pub struct BlockdevOptionsRbd {
    /// The pool.
    pub pool: String,
    /// The namespace.
    pub namespace: Option<String>,
    /// The image.
    pub image: String,
    /// The configuration file.
    pub conf: Option<String>,
    /// The snapshot.
    pub snapshot: Option<String>,
    /// How it is encrypted.
    pub encrypt: Option<RbdEncryptionOptions>,
    /// The user.
    pub user: Option<String>,
    /// How the client may prove who it is.
    pub auth_client_required: Option<Vec<RbdAuthMode>>,
    /// The secret object that holds the key or passphrase.
    pub key_secret: Option<String>,
    /// The monitors.
    pub server: Option<Vec<InetSocketAddressBase>>,
}
