//! LUKS version 1 ("LUKS On-Disk Format Specification", version 1.2.3).
//!
//! A header of 592 bytes, eight areas of key material, the payload. The payload's key is random; each
//! key slot has a copy of it, split into 4000 stripes and encrypted with a key that PBKDF2 makes from
//! a passphrase and the slot's salt.
//!
//! | file | part |
//! | --- | --- |
//! | `header` | bytes to a checked value and back, and what is told without a passphrase |
//! | `split` | the anti-forensic splitter |
//! | `unlock` | from a passphrase to the payload's key, in steps |
//! | `create` | a new header |
//! | `amend` | filling and erasing key slots |

mod amend;
mod create;
mod header;
mod split;
mod unlock;

pub use amend::{
    AmendOptions, KeyslotState, Phase, Write, erase, fill, slot_to_fill, slots_to_erase,
};
pub use create::{CreateOptions, Created, create};
pub use header::{HEADER_LEN, Header, SLOT_COUNT, Slot, describe};
pub(crate) use unlock::wrong_passphrase;
pub use unlock::{Limits, MasterKey, Step, Unlock};

use super::{Clock, Pbkdf2, Random};
use crate::qapi::QCryptoHashAlgo;
use crate::{Error, Result};
use core::time::Duration;

/// Offsets in the header count in sectors of this size.
const SECTOR: u64 = 512;

/// Every implementation splits keys into so many stripes.
const STRIPES: u32 = 4000;

/// The least iterations of any key derivation.
const MIN_ITERATIONS: u32 = 1000;

/// The digest of the payload's key takes this part of the time of a key slot.
const DIGEST_SHARE: u64 = 8;

/// What is tried when a host's speed is measured: stops where a doubling took long enough, or here.
const MAX_PROBE: u32 = 1 << 20;

/// A clock that has not moved meanwhile does not move at all: the coarsest ones of browsers do.
const STANDS_STILL: u32 = 1 << 16;

/// How many iterations of a derivation of `len` bytes take `milliseconds` on this host.
fn iterations(
    hash: QCryptoHashAlgo,
    len: usize,
    milliseconds: u64,
    clock: Clock<'_>,
) -> Result<u32> {
    const LONG_ENOUGH: Duration = Duration::from_millis(20);
    let mut count = MIN_ITERATIONS;
    let took = loop {
        let start = clock();
        drop(Pbkdf2::new(hash, b"speed", &[0; 32], count, len).run());
        let took = clock().saturating_sub(start);
        // A short wish is measured shortly.
        let wish = Duration::from_millis(milliseconds);
        let stands = took.is_zero() && count >= STANDS_STILL;
        if took >= LONG_ENOUGH.min(wish) && !took.is_zero() || count >= MAX_PROBE || stands {
            break took;
        }
        count *= 2;
    };
    // A clock that stands still tells nothing: what was tried is taken.
    let nanos = took.as_nanos().max(1);
    let wanted = match took.is_zero() {
        true => u128::from(count),
        false => u128::from(count) * u128::from(milliseconds) * 1_000_000 / nanos,
    };
    let wanted = u32::try_from(wanted).map_err(|_| {
        Error::limit(alloc::format!(
            "{milliseconds} milliseconds take {wanted} iterations here; a key slot counts up to {}",
            u32::MAX
        ))
        .in_format("luks")
    })?;
    Ok(wanted.max(MIN_ITERATIONS))
}

/// Random bytes.
fn salt<const N: usize>(random: Random<'_>) -> [u8; N] {
    let mut salt = [0; N];
    random(&mut salt);
    salt
}
