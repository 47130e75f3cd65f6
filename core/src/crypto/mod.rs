//! Encryption of images; no I/O. Today: what a LUKS header tells without a passphrase.

pub mod luks;
