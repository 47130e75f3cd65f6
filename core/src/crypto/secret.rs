//! Passphrases.

use super::block::keyed;
use crate::qapi::QCryptoCipherAlgo;
use crate::{Error, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// A passphrase or key. Copies share it; it is wiped when the last is dropped, and never printed.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// The bytes as they are.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Decrypts a secret that was itself encrypted with AES-256-CBC, padded to whole blocks with bytes
/// that say how many they are (the `keyid` and `iv` of the schema's `SecretCommonProperties`).
///
/// # Errors
/// `InvalidInput` for a key that is not 32 bytes, an IV that is not 16, data that is not whole
/// blocks or has no padding (the key is wrong, mostly).
pub fn decrypt_secret(key: &Secret, iv: &[u8], data: &[u8]) -> Result<Secret> {
    const BLOCK: usize = 16;
    if key.as_bytes().len() != 32 {
        return Err(Error::invalid("Key should be 32 bytes in length"));
    }
    if iv.len() != BLOCK {
        return Err(Error::invalid(format!(
            "IV should be {BLOCK} bytes in length not {}",
            iv.len()
        )));
    }
    if data.is_empty() || !data.len().is_multiple_of(BLOCK) {
        return Err(Error::invalid(format!(
            "Length {} must be a multiple of block size {BLOCK}",
            data.len()
        )));
    }
    let mut out = Zeroizing::new(data.to_vec());
    keyed(QCryptoCipherAlgo::Aes256, key.as_bytes())?.decrypt(&mut out);
    for (i, byte) in out.iter_mut().enumerate() {
        *byte ^= if i < BLOCK { iv[i] } else { data[i - BLOCK] };
    }
    let padding = usize::from(out[out.len() - 1]);
    if !(1..=BLOCK).contains(&padding) {
        return Err(Error::invalid(format!(
            "Incorrect number of padding bytes ({padding}) found on decrypted data"
        )));
    }
    Ok(Secret::new(out[..out.len() - padding].to_vec()))
}
