//! The anti-forensic splitter (section 2.4): a key is spread over many stripes, all of which are
//! needed to get it back, so that destroying some of them destroys it.

use super::STRIPES;
use crate::crypto::{Random, digest, digest_len};
use crate::qapi::QCryptoHashAlgo;
use alloc::vec::Vec;
use zeroize::{Zeroize, Zeroizing};

/// Every part of a stripe is replaced by its hash with its number in front.
fn diffuse(hash: QCryptoHashAlgo, stripe: &mut [u8]) {
    for (number, part) in (0u32..).zip(stripe.chunks_mut(digest_len(hash))) {
        let hashed = digest(hash, &[&number.to_be_bytes(), part]);
        part.copy_from_slice(&hashed[..part.len()]);
    }
}

fn xor(into: &mut [u8], other: &[u8]) {
    for (byte, other) in into.iter_mut().zip(other) {
        *byte ^= other;
    }
}

/// Spreads a key over stripes.
pub(super) fn split(hash: QCryptoHashAlgo, key: &[u8], random: Random<'_>) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(alloc::vec![0; key.len() * STRIPES as usize]);
    let at = out.len() - key.len();
    let (stripes, last) = out.split_at_mut(at);
    random(stripes);
    for stripe in stripes.chunks_exact(key.len()) {
        xor(last, stripe);
        diffuse(hash, last);
    }
    xor(last, key);
    out
}

/// The key of length `len` that is spread over `stripes`, which are [`STRIPES`] times as long.
pub(super) fn merge(hash: QCryptoHashAlgo, stripes: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut sum = Zeroizing::new(alloc::vec![0; len]);
    let end = len * STRIPES as usize;
    let (stripes, last) = stripes[..end].split_at(end - len);
    for stripe in stripes.chunks_exact(len) {
        xor(&mut sum, stripe);
        diffuse(hash, &mut sum);
    }
    xor(&mut sum, last);
    let key = sum.clone();
    sum.zeroize();
    key
}
