//! Encryption of images: ciphers, key derivation, LUKS headers. No I/O in any of it.
//!
//! | file | part |
//! | --- | --- |
//! | `sector` | [`SectorCipher`]: a cipher, its mode and its IV generator over sectors of 512 bytes |
//! | `block` | the block ciphers behind it, whole batches a call |
//! | `twofish` | Twofish with key-dependent tables |
//! | `hash` | hashes, and PBKDF2 in steps that a caller can stop between |
//! | `secret` | passphrases that do not stay in memory |
//! | [`luks`] | the LUKS version 1 header: parse, emit, create, unlock, change key slots |
//!
//! Random bytes and the time come from the caller, so that a run is a function of what it gave.

mod block;
mod hash;
pub mod luks;
mod secret;
mod sector;
#[cfg(test)]
mod tests;
mod twofish;

pub use hash::{Pbkdf2, digest, digest_len};
pub use secret::{Secret, decrypt_secret};
pub use sector::{CipherSpec, SectorCipher};

/// The unit in which data is encrypted.
pub const SECTOR: usize = 512;

/// Fills a buffer with unpredictable bytes.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A monotonic clock.
pub type Clock<'a> = &'a dyn Fn() -> core::time::Duration;
