//! Against other implementations and published vectors.

use super::block::keyed;
use super::luks::{self, AmendOptions, KeyslotState, Limits, Step, Unlock};
use super::*;
use crate::ErrorKind;
use crate::qapi::{
    QCryptoCipherAlgo as Cipher, QCryptoCipherMode as Mode, QCryptoHashAlgo as Hash,
    QCryptoIVGenAlgo as IvGen,
};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::time::Duration;

/// Bytes that look random and are the same every time.
fn noise(seed: u64) -> impl FnMut(&mut [u8]) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |out| {
        for byte in out {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = (state >> 32) as u8;
        }
    }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = alloc::vec![0; len];
    noise(seed)(&mut out);
    out
}

fn spec(cipher_alg: Cipher, cipher_mode: Mode, ivgen_alg: IvGen) -> CipherSpec {
    let ivgen_hash_alg = (ivgen_alg == IvGen::Essiv).then_some(Hash::Sha256);
    CipherSpec { cipher_alg, cipher_mode, ivgen_alg, ivgen_hash_alg }
}

#[test]
fn twofish_agrees_with_another_implementation() {
    use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
    for seed in 0..300u64 {
        let (cipher, len) =
            [(Cipher::Twofish128, 16), (Cipher::Twofish192, 24), (Cipher::Twofish256, 32)]
                [seed as usize % 3];
        let (key, mut block) = (bytes(seed, len), bytes(seed + 1000, 16));
        let plain = block.clone();
        let own = keyed(cipher, &key).unwrap();
        let other = ::twofish::Twofish::new_from_slice(&key).unwrap();
        let mut expected = cipher::Array::try_from(plain.as_slice()).unwrap();
        other.encrypt_block(&mut expected);
        own.encrypt(&mut block);
        assert_eq!(block, expected.as_slice(), "{seed}");
        own.decrypt(&mut block);
        assert_eq!(block, plain);
        other.decrypt_block(&mut expected);
        assert_eq!(block, expected.as_slice());
    }
}

#[test]
fn xts_agrees_with_another_implementation() {
    use cipher::KeyInit;
    let cipher =
        SectorCipher::new(spec(Cipher::Aes256, Mode::Xts, IvGen::Plain64), &bytes(1, 64)).unwrap();
    let key = bytes(1, 64);
    let other = xts_mode::Xts128::new(
        aes::Aes256::new_from_slice(&key[..32]).unwrap(),
        aes::Aes256::new_from_slice(&key[32..]).unwrap(),
    );
    for (sectors, first) in
        [(1, 0), (2, 1), (3, 7), (64, u64::from(u32::MAX)), (65, 5), (131, u64::MAX - 3)]
    {
        let plain = bytes(first, sectors * SECTOR);
        let (mut a, mut b) = (plain.clone(), plain.clone());
        cipher.encrypt(first, &mut a);
        for (i, sector) in b.chunks_mut(SECTOR).enumerate() {
            let tweak = u128::from(first.wrapping_add(i as u64)).to_le_bytes();
            other.encrypt_sector(sector, tweak.into());
        }
        assert_eq!(a, b, "{sectors} sectors");
        cipher.decrypt(first, &mut a);
        assert_eq!(a, plain);
    }
}

#[test]
fn pbkdf2_agrees_with_another_implementation_in_whatever_steps() {
    for (salt_len, count, len, step) in [
        (0, 1, 20, 1),
        (8, 2, 64, 1),
        (32, 1000, 65, 7),
        (32, 1001, 33, 1000),
        (3, 999, 1, u32::MAX),
    ] {
        let salt = bytes(3, salt_len);
        macro_rules! compare {
            ($hash:expr, $D:ty) => {{
                let mut expected = alloc::vec![0; len];
                pbkdf2::pbkdf2_hmac::<$D>(b"a passphrase", &salt, count, &mut expected);
                let mut own = Pbkdf2::new($hash, b"a passphrase", &salt, count, len);
                while !own.step(step) {}
                assert_eq!(*own.finish(), expected, "{:?} {count} {len}", $hash);
            }};
        }
        compare!(Hash::Md5, md5::Md5);
        compare!(Hash::Sha1, sha1::Sha1);
        compare!(Hash::Sha224, sha2::Sha224);
        compare!(Hash::Sha256, sha2::Sha256);
        compare!(Hash::Sha384, sha2::Sha384);
        compare!(Hash::Sha512, sha2::Sha512);
        compare!(Hash::Ripemd160, ripemd::Ripemd160);
        compare!(Hash::Sm3, sm3::Sm3);
    }
}

#[test]
fn every_cipher_mode_and_generator_comes_back_and_depends_on_the_sector() {
    let mut tried = 0;
    for cipher in Cipher::ALL.iter().copied() {
        for mode in Mode::ALL.iter().copied() {
            for ivgen in IvGen::ALL.iter().copied() {
                let spec = spec(cipher, mode, ivgen);
                let key = bytes(7, spec.key_len());
                let Ok(cipher) = SectorCipher::new(spec, &key) else { continue };
                tried += 1;
                let plain = bytes(9, 5 * SECTOR);
                let mut whole = plain.clone();
                cipher.encrypt(11, &mut whole);
                // Sector by sector is the same as all at once.
                for (i, sector) in plain.chunks(SECTOR).enumerate() {
                    let mut one = sector.to_vec();
                    cipher.encrypt(11 + i as u64, &mut one);
                    assert_eq!(one, whole[i * SECTOR..][..SECTOR], "{spec:?}");
                    let mut elsewhere = sector.to_vec();
                    cipher.encrypt(99 + i as u64, &mut elsewhere);
                    assert_eq!(elsewhere == one, mode == Mode::Ecb, "{spec:?}");
                }
                cipher.decrypt(11, &mut whole);
                assert_eq!(whole, plain, "{spec:?}");
            }
        }
    }
    // All but DES; 64-bit blocks have no XTS; ESSIV exists for three families.
    assert_eq!(tried, 3 * 4 * 3 * 3 + 3 * 2 + 4 * 2);
}

#[test]
fn plain_cuts_the_sector_number_to_32_bits() {
    let encrypt = |ivgen, sector| {
        let cipher = SectorCipher::new(spec(Cipher::Aes128, Mode::Cbc, ivgen), &[1; 16]).unwrap();
        let mut data = alloc::vec![0; SECTOR];
        cipher.encrypt(sector, &mut data);
        data
    };
    assert_eq!(encrypt(IvGen::Plain, 5), encrypt(IvGen::Plain, 5 | 1 << 32));
    assert_ne!(encrypt(IvGen::Plain64, 5), encrypt(IvGen::Plain64, 5 | 1 << 32));
}

#[test]
fn what_does_not_go_together_is_refused_in_words() {
    let refusal = |spec: CipherSpec| spec.check().unwrap_err().to_string();
    assert_eq!(
        refusal(spec(Cipher::Cast5128, Mode::Xts, IvGen::Plain64)),
        "Unsupported cipher mode xts"
    );
    assert_eq!(
        refusal(spec(Cipher::Cast5128, Mode::Cbc, IvGen::Essiv)),
        "Cipher cast5-128 not supported with essiv"
    );
    let sha1 = CipherSpec {
        ivgen_hash_alg: Some(Hash::Sha1),
        ..spec(Cipher::Aes256, Mode::Cbc, IvGen::Essiv)
    };
    assert_eq!(refusal(sha1), "No AES cipher with key size 20 available");
    assert_eq!(
        refusal(spec(Cipher::TripleDes, Mode::Cbc, IvGen::Plain)),
        "Algorithm '3des' not supported"
    );
    assert!(keyed(Cipher::Aes128, &[0; 32]).is_err());
}

/// Every call takes a millisecond.
fn ticking() -> impl Fn() -> Duration {
    let ticks = core::cell::Cell::new(0);
    move || {
        ticks.set(ticks.get() + 1);
        Duration::from_millis(ticks.get())
    }
}

/// A container as bytes, up to its payload.
fn container(options: &luks::CreateOptions, passphrase: &str) -> (luks::Created, Vec<u8>) {
    let made = luks::create(options, &passphrase.into(), &mut noise(5), &ticking()).unwrap();
    let mut image = alloc::vec![0; usize::try_from(made.header.payload_offset).unwrap()];
    apply(&mut image, &made.writes);
    (made, image)
}

fn apply(image: &mut [u8], writes: &[luks::Write]) {
    for (at, bytes) in writes.iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let at = usize::try_from(*at).unwrap();
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

fn quick(cipher_alg: Cipher, cipher_mode: Mode, hash_alg: Hash) -> luks::CreateOptions {
    luks::CreateOptions { cipher_alg, cipher_mode, hash_alg, iter_time: 1, ..Default::default() }
}

fn unlock(image: &[u8], passphrase: &str) -> Unlock {
    let header = luks::Header::parse(image).unwrap();
    let material = (0..luks::SLOT_COUNT)
        .filter(|i| header.slots[*i].active)
        .map(|i| {
            let at = usize::try_from(header.slots[i].key_offset).unwrap();
            (i, image[at..at + header.material_len()].to_vec())
        })
        .collect();
    Unlock::new(header, material, passphrase.into(), Limits::default()).unwrap()
}

/// The slots that a passphrase opens.
fn opens(image: &[u8], passphrase: &str, key: &[u8]) -> Vec<usize> {
    let (mut unlock, mut found) = (unlock(image, passphrase), Vec::new());
    loop {
        match unlock.step().unwrap() {
            Step::More => {}
            Step::Found(slot, got) => {
                assert_eq!(got.as_bytes(), key);
                found.push(slot);
            }
            Step::End => return found,
        }
    }
}

#[test]
fn containers_open_with_their_passphrase_and_no_other() {
    for (cipher, mode, hash) in [
        (Cipher::Aes256, Mode::Xts, Hash::Sha256),
        (Cipher::Aes192, Mode::Xts, Hash::Sha512),
        (Cipher::Serpent128, Mode::Cbc, Hash::Md5),
        (Cipher::Cast5128, Mode::Ctr, Hash::Ripemd160),
        (Cipher::Sm4, Mode::Xts, Hash::Sm3),
    ] {
        let (made, image) = container(&quick(cipher, mode, hash), "right");
        let key = made.key.as_bytes();
        assert_eq!(luks::Header::parse(&image).unwrap(), made.header);
        assert_eq!(opens(&image, "right", key), [0]);
        let error = unlock(&image, "wrong").run().unwrap_err();
        assert_eq!(error.to_string(), "Invalid password, cannot unlock any keyslot");
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}

#[test]
fn a_split_key_that_is_no_whole_sectors_is_not_made() {
    let options = quick(Cipher::Aes192, Mode::Cbc, Hash::Sha256);
    let error = options.check().unwrap_err();
    assert!(error.to_string().contains("no whole number of sectors"), "{error}");
}

#[test]
fn headers_with_a_broken_rule_are_refused_by_name() {
    let (_, image) = container(&quick(Cipher::Aes128, Mode::Cbc, Hash::Sha256), "x");
    let slot = |i: usize| 208 + 48 * i;
    for (at, patch, what) in [
        (0, &b"LUKX"[..], "not in LUKS format"),
        (6, &[0, 2], "LUKS version 2 is not supported"),
        (8, b"foo\0", "Algorithm 'foo' with key size 16 bytes not supported"),
        (8, b"\xff", "not text"),
        (40, b"cbc\0", "Unexpected cipher mode string format 'cbc'"),
        (40, b"xyz-plain\0", "Cipher mode 'xyz' not supported"),
        (40, b"cbc-foo\0", "IV generator 'foo' not supported"),
        (40, b"cbc-essiv\0", "Missing IV generator hash"),
        (40, b"cbc-essiv:sha1\0", "No AES cipher with key size 20"),
        (40, b"cbc-plain64:foo\0", "Hash algorithm 'foo' not supported"),
        (72, b"foo\0", "Hash algorithm 'foo' not supported"),
        (104, &[0, 0, 0, 0], "payload is overlapping with the header"),
        (108, &[0xff; 4], "key size 4294967295 bytes"),
        (164, &[0; 4], "LUKS key iteration count is zero"),
        (slot(0), &[0; 4], "Keyslot 0 state"),
        (slot(0) + 4, &[0; 4], "Keyslot 0 iteration count is zero"),
        (slot(3) + 40, &[0, 0, 0, 1], "Keyslot 3 is overlapping with the LUKS header"),
        (slot(3) + 40, &[0xff; 4], "Keyslot 3 is overlapping with the encrypted payload"),
        (slot(1) + 40, &[0, 0, 0, 8], "Keyslots 0 and 1 are overlapping"),
        (slot(7) + 44, &[0, 0, 0, 1], "Keyslot 7 is corrupted (stripes 1 != 4000)"),
    ] {
        let mut broken = image.clone();
        broken[at..at + patch.len()].copy_from_slice(patch);
        let error = luks::Header::parse(&broken).unwrap_err();
        assert!(error.to_string().contains(what), "{at}: {error}");
        assert!(error.offset().is_some());
    }
    assert!(luks::Header::parse(&image[..591]).is_err());
}

#[test]
fn a_vast_iteration_count_is_refused_before_it_is_worked_off() {
    let (_, mut image) = container(&quick(Cipher::Aes256, Mode::Xts, Hash::Sha256), "x");
    image[212..216].copy_from_slice(&u32::MAX.to_be_bytes());
    let error = unlock(&image, "x").run().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("Keyslot 0 asks for 4294967295 iterations"), "{error}");
}

fn amend(
    image: &mut [u8],
    key: &luks::Created,
    options: &AmendOptions,
) -> crate::Result<Vec<Vec<u8>>> {
    options.check()?;
    let header = luks::Header::parse(image)?;
    let phases = match options.state {
        KeyslotState::Active => {
            let slot = luks::slot_to_fill(&header, options)?;
            luks::fill(&header, slot, &key.key, options, &mut noise(77), &ticking())?
        }
        KeyslotState::Inactive => {
            let slots = luks::slots_to_erase(&header, options, None)?;
            luks::erase(&header, &slots, &mut noise(78))
        }
    };
    let mut states = Vec::new();
    for phase in phases {
        // Within a phase anything may be lost, or torn between two sectors.
        for (at, bytes) in &phase {
            let border = SECTOR - usize::try_from(*at).unwrap() % SECTOR;
            let (first, second) = bytes.split_at(border.min(bytes.len()));
            for (at, half) in [(*at, first), (*at + border as u64, second)] {
                let mut torn = image.to_vec();
                apply(&mut torn, &[(at, half.to_vec())]);
                states.push(torn);
            }
        }
        apply(image, &phase);
        states.push(image.to_vec());
    }
    Ok(states)
}

fn activate(secret: &str, keyslot: Option<u64>, force: bool) -> AmendOptions {
    AmendOptions {
        state: KeyslotState::Active,
        new_secret: Some(secret.into()),
        old_secret: None,
        keyslot,
        iter_time: Some(1),
        secret: None,
        force,
    }
}

fn erase(keyslot: u64, force: bool) -> AmendOptions {
    let state = KeyslotState::Inactive;
    let keyslot = Some(keyslot);
    AmendOptions { state, new_secret: None, keyslot, iter_time: None, ..activate("", None, force) }
}

#[test]
fn slots_are_filled_and_erased_and_no_crash_loses_the_last_key() {
    let (made, mut image) = container(&quick(Cipher::Aes128, Mode::Xts, Hash::Sha1), "old");
    let key = made.key.as_bytes();
    for state in amend(&mut image, &made, &activate("new", None, false)).unwrap() {
        assert_eq!(opens(&state, "old", key), [0]);
    }
    assert_eq!(opens(&image, "new", key), [1]);
    let error = amend(&mut image, &made, &activate("third", Some(1), false)).unwrap_err();
    assert!(error.to_string().contains("Refusing to overwrite active keyslot 1"), "{error}");
    for state in amend(&mut image, &made, &erase(0, false)).unwrap() {
        assert_eq!(opens(&state, "new", key), [1]);
    }
    assert!(opens(&image, "old", key).is_empty());
    let error = amend(&mut image, &made, &erase(0, false)).unwrap_err();
    assert!(error.to_string().contains("already erased"), "{error}");
    let error = amend(&mut image, &made, &erase(1, false)).unwrap_err();
    assert!(error.to_string().contains("the only active keyslot 1"), "{error}");
    // The only key is replaced in its own slot.
    for state in amend(&mut image, &made, &activate("third", Some(1), true)).unwrap() {
        let (new, third) = (opens(&state, "new", key), opens(&state, "third", key));
        assert!(!new.is_empty() || !third.is_empty());
    }
    assert_eq!(
        (opens(&image, "new", key), opens(&image, "third", key)),
        (Vec::new(), Vec::from([1]))
    );
    amend(&mut image, &made, &erase(1, true)).unwrap();
    assert!(opens(&image, "third", key).is_empty());
}

#[test]
fn a_standing_clock_and_a_vast_time_end() {
    let standing = || Duration::ZERO;
    let options = quick(Cipher::Aes128, Mode::Cbc, Hash::Sha1);
    luks::create(&options, &"x".into(), &mut noise(1), &standing).unwrap();
    let vast = luks::CreateOptions { iter_time: u64::MAX, ..options };
    let error = luks::create(&vast, &"x".into(), &mut noise(1), &ticking()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

#[test]
fn secrets_are_decrypted_and_not_printed() {
    let (key, iv) = (Secret::new(bytes(1, 32)), bytes(2, 16));
    let cipher = keyed(Cipher::Aes256, key.as_bytes()).unwrap();
    for len in [0, 1, 15, 16, 17, 100] {
        let plain = bytes(3, len);
        let padding = 16 - len % 16;
        let mut data = plain.clone();
        data.resize(len + padding, padding as u8);
        cipher.encrypt_chain(&iv, &mut data);
        assert_eq!(decrypt_secret(&key, &iv, &data).unwrap().as_bytes(), plain);
        let other: Secret = Secret::new(bytes(4, 32));
        assert!(decrypt_secret(&other, &iv, &data).map_or(true, |got| got.as_bytes() != plain));
        assert!(decrypt_secret(&key, &iv, &data[1..]).is_err());
    }
    assert!(decrypt_secret(&key, &iv[1..], &[0; 16]).is_err());
    assert!(decrypt_secret(&"short".into(), &iv, &[0; 16]).is_err());
    assert!(!format!("{key:?}").contains("0x"));
}
