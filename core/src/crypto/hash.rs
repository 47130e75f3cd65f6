//! Hashes, and PBKDF2 (RFC 8018, section 5.2) over them.

use crate::qapi::QCryptoHashAlgo;
use alloc::boxed::Box;
use alloc::vec::Vec;
use digest::{Digest, FixedOutput, KeyInit, Output, Update};
use hmac::Hmac;
use zeroize::{Zeroize, Zeroizing};

/// Runs `$body` with `$D` the type of the hash.
macro_rules! with_hash {
    ($hash:expr, $D:ident => $body:expr) => {
        match $hash {
            QCryptoHashAlgo::Md5 => {
                type $D = md5::Md5;
                $body
            }
            QCryptoHashAlgo::Sha1 => {
                type $D = sha1::Sha1;
                $body
            }
            QCryptoHashAlgo::Sha224 => {
                type $D = sha2::Sha224;
                $body
            }
            QCryptoHashAlgo::Sha256 => {
                type $D = sha2::Sha256;
                $body
            }
            QCryptoHashAlgo::Sha384 => {
                type $D = sha2::Sha384;
                $body
            }
            QCryptoHashAlgo::Sha512 => {
                type $D = sha2::Sha512;
                $body
            }
            QCryptoHashAlgo::Ripemd160 => {
                type $D = ripemd::Ripemd160;
                $body
            }
            QCryptoHashAlgo::Sm3 => {
                type $D = sm3::Sm3;
                $body
            }
        }
    };
}

/// Length of a digest in bytes.
#[must_use]
pub fn digest_len(hash: QCryptoHashAlgo) -> usize {
    with_hash!(hash, D => <D as Digest>::output_size())
}

/// The digest of all parts, one after the other.
#[must_use]
pub fn digest(hash: QCryptoHashAlgo, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    with_hash!(hash, D => {
        let mut state = <D as Digest>::new();
        for part in parts {
            Digest::update(&mut state, part);
        }
        let mut out = state.finalize();
        let copy = Zeroizing::new(out.to_vec());
        out.zeroize();
        copy
    })
}

/// PBKDF2 under way: [`step`](Self::step) until it is done. Nothing runs longer than one step, so
/// that whoever waits can give up in between.
pub struct Pbkdf2 {
    state: Box<dyn Derive>,
}

impl Pbkdf2 {
    /// Derives `len` bytes.
    #[must_use]
    pub fn new(
        hash: QCryptoHashAlgo,
        passphrase: &[u8],
        salt: &[u8],
        iterations: u32,
        len: usize,
    ) -> Self {
        let iterations = iterations.max(1);
        let state = with_hash!(hash, D => {
            // HMAC takes keys of any length.
            let mac = <Hmac<D> as KeyInit>::new_from_slice(passphrase);
            let mac = mac.unwrap_or_else(|_| <Hmac<D> as KeyInit>::new(&Default::default()));
            let out = Zeroizing::new(Vec::with_capacity(len));
            let (last, sum) = (Output::<Hmac<D>>::default(), Output::<Hmac<D>>::default());
            let mut salt = salt.to_vec();
            salt.extend_from_slice(&[0; 4]);
            Box::new(State { mac, salt, iterations, left: 0, last, sum, out, len }) as Box<dyn Derive>
        });
        Self { state }
    }

    /// What deriving `len` bytes costs, in runs of the hash.
    #[must_use]
    pub fn cost(hash: QCryptoHashAlgo, iterations: u32, len: usize) -> u64 {
        u64::from(iterations) * len.div_ceil(digest_len(hash)) as u64
    }

    /// Does up to `budget` iterations. True when the key is complete.
    pub fn step(&mut self, budget: u32) -> bool {
        self.state.step(budget)
    }

    /// The key, once it is complete; what there is of it before.
    #[must_use]
    pub fn finish(self) -> Zeroizing<Vec<u8>> {
        self.state.take()
    }

    /// The key, in one go.
    #[must_use]
    pub fn run(mut self) -> Zeroizing<Vec<u8>> {
        while !self.step(u32::MAX) {}
        self.finish()
    }
}

trait Derive: Send {
    fn step(&mut self, budget: u32) -> bool;
    fn take(self: Box<Self>) -> Zeroizing<Vec<u8>>;
}

struct State<M: FixedOutput> {
    /// Keyed; copied for each use.
    mac: M,
    /// The salt and the number of the block.
    salt: Vec<u8>,
    iterations: u32,
    /// Iterations that the current block still needs.
    left: u32,
    last: Output<M>,
    sum: Output<M>,
    out: Zeroizing<Vec<u8>>,
    len: usize,
}

impl<M: FixedOutput + Update + Clone + Send> Derive for State<M> {
    fn step(&mut self, budget: u32) -> bool {
        let mut budget = budget.max(1);
        while self.out.len() < self.len {
            if self.left == 0 {
                // A key has few blocks.
                let number = (self.out.len() / self.sum.len() + 1) as u32;
                let at = self.salt.len() - 4;
                self.salt[at..].copy_from_slice(&number.to_be_bytes());
                let mut mac = self.mac.clone();
                mac.update(&self.salt);
                self.last = mac.finalize_fixed();
                self.sum.clone_from(&self.last);
                self.left = self.iterations;
                budget -= 1;
                self.left -= 1;
            }
            let now = self.left.min(budget);
            for _ in 0..now {
                let mut mac = self.mac.clone();
                mac.update(&self.last);
                mac.finalize_into(&mut self.last);
                for (sum, byte) in self.sum.iter_mut().zip(&self.last) {
                    *sum ^= byte;
                }
            }
            self.left -= now;
            budget -= now;
            if self.left == 0 {
                let wanted = (self.len - self.out.len()).min(self.sum.len());
                self.out.extend_from_slice(&self.sum[..wanted]);
            }
            if budget == 0 {
                break;
            }
        }
        self.out.len() >= self.len
    }

    fn take(mut self: Box<Self>) -> Zeroizing<Vec<u8>> {
        core::mem::take(&mut self.out)
    }
}

impl<M: FixedOutput> Drop for State<M> {
    fn drop(&mut self) {
        self.last.zeroize();
        self.sum.zeroize();
    }
}
