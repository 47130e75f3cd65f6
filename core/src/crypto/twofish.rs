//! Twofish ("Twofish: A 128-Bit Block Cipher", Schneier et al., 1998) with the *full keying* of its
//! section 5: the key-dependent S-boxes and the MDS matrix become four tables of 256 words, so that
//! a round is eight look-ups.

use super::block::Blocks;
use alloc::boxed::Box;
use zeroize::Zeroize;

const ROUNDS: usize = 16;

/// The nibble tables that make up the permutations q0 and q1 (section 4.3.5).
const Q: [[[u8; 16]; 4]; 2] = [
    [
        [0x8, 0x1, 0x7, 0xd, 0x6, 0xf, 0x3, 0x2, 0x0, 0xb, 0x5, 0x9, 0xe, 0xc, 0xa, 0x4],
        [0xe, 0xc, 0xb, 0x8, 0x1, 0x2, 0x3, 0x5, 0xf, 0x4, 0xa, 0x6, 0x7, 0x0, 0x9, 0xd],
        [0xb, 0xa, 0x5, 0xe, 0x6, 0xd, 0x9, 0x0, 0xc, 0x8, 0xf, 0x3, 0x2, 0x4, 0x7, 0x1],
        [0xd, 0x7, 0xf, 0x4, 0x1, 0x2, 0x6, 0xe, 0x9, 0xb, 0x3, 0x0, 0x8, 0x5, 0xc, 0xa],
    ],
    [
        [0x2, 0x8, 0xb, 0xd, 0xf, 0x7, 0x6, 0xe, 0x3, 0x1, 0x9, 0x4, 0x0, 0xa, 0xc, 0x5],
        [0x1, 0xe, 0x2, 0xb, 0x4, 0xc, 0x3, 0x7, 0x6, 0xd, 0xa, 0x5, 0xf, 0x9, 0x0, 0x8],
        [0x4, 0xc, 0x7, 0x5, 0x1, 0x6, 0x9, 0xa, 0x0, 0xe, 0xd, 0x8, 0x2, 0xb, 0x3, 0xf],
        [0xb, 0x9, 0x5, 0x1, 0xc, 0x3, 0xd, 0xe, 0x6, 0x4, 0x7, 0xf, 0x2, 0x0, 0x8, 0xa],
    ],
];

/// The matrix of the diffusion between S-boxes (section 4.3.2), over x^8+x^6+x^5+x^3+1.
const MDS: [[u8; 4]; 4] = [
    [0x01, 0xef, 0x5b, 0x5b],
    [0x5b, 0xef, 0xef, 0x01],
    [0xef, 0x5b, 0x01, 0xef],
    [0xef, 0x01, 0xef, 0x5b],
];
const MDS_POLYNOMIAL: u16 = 0x169;

/// The matrix that makes the S-boxes' key from the cipher's (section 4.3), over
/// x^8+x^6+x^3+x^2+1.
const RS: [[u8; 8]; 4] = [
    [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e],
    [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
    [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19],
    [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
];
const RS_POLYNOMIAL: u16 = 0x14d;

/// Which permutation each S-box uses in each stage; the last is the one next to the matrix.
const STAGES: [[usize; 4]; 5] =
    [[1, 0, 0, 1], [1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]];

static PERMUTATIONS: [[u8; 256]; 2] = [permutation(&Q[0]), permutation(&Q[1])];

const fn permutation(t: &[[u8; 16]; 4]) -> [u8; 256] {
    let mut out = [0; 256];
    let mut x = 0;
    while x < 256 {
        let (mut a, mut b) = ((x >> 4) as u8, (x & 15) as u8);
        let mut half = 0;
        while half < 4 {
            let mixed = a ^ b;
            let turned = a ^ ((b >> 1) | (b << 3 & 15)) ^ (a << 3 & 15);
            a = t[half][mixed as usize];
            b = t[half + 1][turned as usize];
            half += 2;
        }
        out[x] = b << 4 | a;
        x += 1;
    }
    out
}

/// Multiplies two polynomials of degree below 8 modulo a third.
fn multiply(a: u8, b: u8, polynomial: u16) -> u8 {
    let (mut a, mut product) = (u16::from(a), 0);
    for bit in 0..8 {
        if b >> bit & 1 != 0 {
            product ^= a;
        }
        a <<= 1;
        if a & 0x100 != 0 {
            a ^= polynomial;
        }
    }
    // Reduced: below 2^8.
    product as u8
}

/// The column of the MDS matrix for S-box `index`, times `value`.
fn column(index: usize, value: u8) -> u32 {
    u32::from_le_bytes(MDS.map(|row| multiply(row[index], value, MDS_POLYNOMIAL)))
}

/// The byte `x` through S-box `index`, keyed by words of which the first is the innermost.
fn substitute(index: usize, x: u8, keys: &[[u8; 4]]) -> u8 {
    let stages = &STAGES[4 - keys.len()..];
    let mut x = x;
    for (stage, key) in stages.iter().zip(keys.iter().rev()) {
        x = PERMUTATIONS[stage[index]][usize::from(x)] ^ key[index];
    }
    PERMUTATIONS[STAGES[4][index]][usize::from(x)]
}

/// The function h of section 4.3.1, on four equal bytes.
fn h(x: u8, keys: &[[u8; 4]]) -> u32 {
    (0..4).map(|i| column(i, substitute(i, x, keys))).fold(0, |a, b| a ^ b)
}

pub(super) struct Twofish {
    /// By S-box and byte: the S-box's answer, through the matrix.
    tables: Box<[[u32; 256]; 4]>,
    /// Whitening before, after, and two words a round.
    keys: [u32; 8 + 2 * ROUNDS],
}

impl Drop for Twofish {
    fn drop(&mut self) {
        self.tables.iter_mut().for_each(Zeroize::zeroize);
        self.keys.zeroize();
    }
}

impl Twofish {
    /// `key` has 16, 24 or 32 bytes.
    pub(super) fn new(key: &[u8]) -> Self {
        let (mut even, mut odd, mut boxes) = ([[0; 4]; 4], [[0; 4]; 4], [[0; 4]; 4]);
        let count = key.len() / 8;
        for (i, part) in key.chunks_exact(8).enumerate() {
            even[i].copy_from_slice(&part[..4]);
            odd[i].copy_from_slice(&part[4..]);
            // The S-boxes take the words in the other order.
            boxes[count - 1 - i] = RS.map(|row| {
                let terms = row.iter().zip(part).map(|(m, k)| multiply(*m, *k, RS_POLYNOMIAL));
                terms.fold(0, |a, b| a ^ b)
            });
        }
        let mut out = Self { tables: Box::new([[0; 256]; 4]), keys: [0; 8 + 2 * ROUNDS] };
        for (i, pair) in out.keys.chunks_exact_mut(2).enumerate() {
            // At most 40.
            let a = h(2 * i as u8, &even[..count]);
            let b = h(2 * i as u8 + 1, &odd[..count]).rotate_left(8);
            pair[0] = a.wrapping_add(b);
            pair[1] = a.wrapping_add(b.wrapping_mul(2)).rotate_left(9);
        }
        for (index, table) in out.tables.iter_mut().enumerate() {
            for (x, word) in (0..=255).zip(table.iter_mut()) {
                *word = column(index, substitute(index, x, &boxes[..count]));
            }
        }
        even.zeroize();
        odd.zeroize();
        boxes.zeroize();
        out
    }

    fn g(&self, x: u32) -> u32 {
        let [a, b, c, d] = x.to_le_bytes().map(usize::from);
        let [t0, t1, t2, t3] = &*self.tables;
        t0[a] ^ t1[b] ^ t2[c] ^ t3[d]
    }

    /// The two words that round `round` mixes in.
    fn f(&self, round: usize, a: u32, b: u32) -> (u32, u32) {
        let (a, b) = (self.g(a), self.g(b.rotate_left(8)));
        let first = a.wrapping_add(b).wrapping_add(self.keys[8 + 2 * round]);
        let second = a.wrapping_add(b.wrapping_mul(2)).wrapping_add(self.keys[9 + 2 * round]);
        (first, second)
    }

    fn encrypt_block(&self, block: &mut [u8; 16]) {
        let [mut a, mut b, mut c, mut d] = self.load(block, 0);
        for round in (0..ROUNDS).step_by(2) {
            let (x, y) = self.f(round, a, b);
            c = (c ^ x).rotate_right(1);
            d = d.rotate_left(1) ^ y;
            let (x, y) = self.f(round + 1, c, d);
            a = (a ^ x).rotate_right(1);
            b = b.rotate_left(1) ^ y;
        }
        self.store(block, [c, d, a, b], 4);
    }

    fn decrypt_block(&self, block: &mut [u8; 16]) {
        let [mut c, mut d, mut a, mut b] = self.load(block, 4);
        for round in (0..ROUNDS).step_by(2).rev() {
            let (x, y) = self.f(round + 1, c, d);
            a = a.rotate_left(1) ^ x;
            b = (b ^ y).rotate_right(1);
            let (x, y) = self.f(round, a, b);
            c = c.rotate_left(1) ^ x;
            d = (d ^ y).rotate_right(1);
        }
        self.store(block, [a, b, c, d], 0);
    }

    /// The words of a block, with four words of the key mixed in.
    fn load(&self, block: &[u8; 16], keys: usize) -> [u32; 4] {
        let mut words = [0; 4];
        for (i, word) in words.iter_mut().enumerate() {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&block[4 * i..4 * i + 4]);
            *word = u32::from_le_bytes(bytes) ^ self.keys[keys + i];
        }
        words
    }

    fn store(&self, block: &mut [u8; 16], words: [u32; 4], keys: usize) {
        for (i, word) in words.iter().enumerate() {
            block[4 * i..4 * i + 4].copy_from_slice(&(word ^ self.keys[keys + i]).to_le_bytes());
        }
    }
}

impl Blocks for Twofish {
    fn block_len(&self) -> usize {
        16
    }

    fn encrypt(&self, data: &mut [u8]) {
        for block in data.as_chunks_mut().0 {
            self.encrypt_block(block);
        }
    }

    fn decrypt(&self, data: &mut [u8]) {
        for block in data.as_chunks_mut().0 {
            self.decrypt_block(block);
        }
    }

    fn encrypt_chain(&self, iv: &[u8], data: &mut [u8]) {
        let mut before = [0; 16];
        before.copy_from_slice(iv);
        for block in data.as_chunks_mut::<16>().0 {
            for (byte, old) in block.iter_mut().zip(before) {
                *byte ^= old;
            }
            self.encrypt_block(block);
            before = *block;
        }
    }
}
