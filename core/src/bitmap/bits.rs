//! A long row of bits whose memory follows what is mixed: stretches of zeroes take none, stretches
//! of ones one record.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

/// Bits in a chunk, the unit that is kept bit by bit.
pub(super) const CHUNK_BITS: u64 = 4096;
const CHUNK_BYTES: u64 = CHUNK_BITS / 8;
const WORDS: usize = (CHUNK_BITS / 64) as usize;

#[derive(Clone, Debug)]
enum Span {
    /// So many whole chunks of ones. Two of them never touch: they are one.
    Ones(u64),
    /// One chunk with both, and the number of its ones.
    Mixed(Box<[u64; WORDS]>, u64),
}

impl Span {
    fn chunks(&self) -> u64 {
        match self {
            Self::Ones(chunks) => *chunks,
            Self::Mixed(..) => 1,
        }
    }
}

/// `len` bits. What no span covers is zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    len: u64,
    ones: u64,
    /// By the index of the first chunk; they do not overlap.
    spans: BTreeMap<u64, Span>,
}

impl Bits {
    /// All zero.
    pub(super) fn new(len: u64) -> Self {
        Self { len, ..Self::default() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The number of bits that are set.
    pub(super) fn ones(&self) -> u64 {
        self.ones
    }

    /// Makes every bit zero.
    pub(super) fn clear(&mut self) {
        (self.ones, self.spans) = (0, BTreeMap::new());
    }

    /// Changes the length; bits gained are zero.
    pub(super) fn resize(&mut self, len: u64) {
        if len < self.len {
            self.fill(len..self.len, false);
        }
        self.len = len;
    }

    pub(super) fn get(&self, bit: u64) -> bool {
        match self.span_of(bit / CHUNK_BITS) {
            None => false,
            Some(Span::Ones(_)) => true,
            Some(Span::Mixed(words, _)) => words[word_of(bit % CHUNK_BITS)] >> (bit % 64) & 1 != 0,
        }
    }

    /// Sets or clears the bits of a range, as far as there are any.
    pub(super) fn fill(&mut self, range: Range<u64>, value: bool) {
        let end = range.end.min(self.len);
        if range.start >= end {
            return;
        }
        let whole = range.start.div_ceil(CHUNK_BITS)..end / CHUNK_BITS;
        // Both edges in one chunk.
        if whole.start > whole.end {
            return self.fill_within(range.start..end, value);
        }
        let (from, to) = (whole.start * CHUNK_BITS, whole.end * CHUNK_BITS);
        self.fill_within(range.start..from, value);
        self.fill_chunks(whole, value);
        self.fill_within(to..end, value);
    }

    /// Sets or clears whole chunks.
    fn fill_chunks(&mut self, chunks: Range<u64>, value: bool) {
        if chunks.is_empty() {
            return;
        }
        self.split_at(chunks.start);
        self.split_at(chunks.end);
        while let Some((at, span)) = self.spans.range(chunks.clone()).next() {
            self.ones -= match span {
                Span::Ones(chunks) => chunks * CHUNK_BITS,
                Span::Mixed(_, ones) => *ones,
            };
            let at = *at;
            self.spans.remove(&at);
        }
        if value {
            let count = chunks.end - chunks.start;
            self.ones += count * CHUNK_BITS;
            self.insert_ones(chunks.start, count);
        }
    }

    /// Adds chunks of ones where there are none, joined to those before and after.
    fn insert_ones(&mut self, mut first: u64, mut count: u64) {
        if let Some((at, Span::Ones(before))) = self.spans.range(..first).next_back()
            && at + before == first
        {
            (first, count) = (*at, count + before);
        }
        let end = first + count;
        if let Some(Span::Ones(after)) = self.spans.get(&end) {
            count += after;
            self.spans.remove(&end);
        }
        self.spans.insert(first, Span::Ones(count));
    }

    /// Lets no span of ones reach over the beginning of a chunk.
    fn split_at(&mut self, chunk: u64) {
        if let Some((at, Span::Ones(count))) = self.spans.range_mut(..chunk).next_back()
            && *at + *count > chunk
        {
            let rest = *at + *count - chunk;
            *count -= rest;
            self.spans.insert(chunk, Span::Ones(rest));
        }
    }

    /// Sets or clears bits of one chunk, not all.
    fn fill_within(&mut self, range: Range<u64>, value: bool) {
        if range.is_empty() {
            return;
        }
        let chunk = range.start / CHUNK_BITS;
        match self.span_of(chunk) {
            None if !value => return,
            Some(Span::Ones(_)) if value => return,
            _ => {}
        }
        self.mixed(chunk, |words| {
            let base = chunk * CHUNK_BITS;
            let (mut at, end) = (range.start - base, range.end - base);
            while at < end {
                let stop = (at / 64 * 64 + 64).min(end);
                let mask = (u64::MAX >> (64 - (stop - at))) << (at % 64);
                match value {
                    true => words[word_of(at)] |= mask,
                    false => words[word_of(at)] &= !mask,
                }
                at = stop;
            }
        });
    }

    /// Lets `change` work on one chunk bit by bit, and finds the shortest form for the result.
    fn mixed(&mut self, chunk: u64, change: impl FnOnce(&mut [u64; WORDS])) {
        self.split_at(chunk);
        self.split_at(chunk + 1);
        let (mut words, before) = match self.spans.remove(&chunk) {
            None => (Box::new([0; WORDS]), 0),
            Some(Span::Ones(_)) => (Box::new([u64::MAX; WORDS]), CHUNK_BITS),
            Some(Span::Mixed(words, ones)) => (words, ones),
        };
        change(&mut words);
        let after: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
        self.ones = self.ones - before + after;
        match after {
            0 => {}
            CHUNK_BITS => self.insert_ones(chunk, 1),
            ones => {
                self.spans.insert(chunk, Span::Mixed(words, ones));
            }
        }
    }

    fn span_of(&self, chunk: u64) -> Option<&Span> {
        let (at, span) = self.spans.range(..=chunk).next_back()?;
        (chunk < at + span.chunks()).then_some(span)
    }

    /// The first bit of that value at `from` or after it.
    pub(super) fn next(&self, from: u64, value: bool) -> Option<u64> {
        let found = if value { self.next_one(from) } else { self.next_zero(from) };
        found.filter(|bit| *bit < self.len)
    }

    fn next_one(&self, from: u64) -> Option<u64> {
        let chunk = from / CHUNK_BITS;
        if let Some(span) = self.span_of(chunk) {
            match span {
                Span::Ones(_) => return Some(from),
                Span::Mixed(words, _) => {
                    if let Some(bit) = scan(words, from % CHUNK_BITS, true) {
                        return Some(chunk * CHUNK_BITS + bit);
                    }
                }
            }
        }
        let (at, span) = self.spans.range(chunk + 1..).next()?;
        let bit = match span {
            Span::Ones(_) => 0,
            Span::Mixed(words, _) => scan(words, 0, true)?,
        };
        Some(at * CHUNK_BITS + bit)
    }

    fn next_zero(&self, from: u64) -> Option<u64> {
        let mut at = from;
        loop {
            let chunk = at / CHUNK_BITS;
            let Some((first, span)) = self.spans.range(..=chunk).next_back() else {
                return Some(at);
            };
            let end = first + span.chunks();
            if chunk >= end {
                return Some(at);
            }
            if let Span::Mixed(words, _) = span
                && let Some(bit) = scan(words, at % CHUNK_BITS, false)
            {
                return Some(chunk * CHUNK_BITS + bit);
            }
            at = end * CHUNK_BITS;
        }
    }

    /// The bits of `range` as bytes, the first bit the least significant of the first byte. The
    /// range begins at a multiple of 8; bits past the end are zero.
    pub(super) fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let len = (range.end - range.start).div_ceil(8);
        let mut out = alloc::vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let (start, end) = (range.start / 8, range.start / 8 + len);
        let first = self.spans.range(..=start / CHUNK_BYTES).next_back().map_or(0, |(at, _)| *at);
        for (at, span) in self.spans.range(first..end.div_ceil(CHUNK_BYTES)) {
            let from = (at * CHUNK_BYTES).max(start);
            let to = ((at + span.chunks()) * CHUNK_BYTES).min(end);
            if from >= to {
                continue;
            }
            // Within `out`, whose length fits.
            let out = &mut out[(from - start) as usize..(to - start) as usize];
            match span {
                Span::Ones(_) => out.fill(0xff),
                Span::Mixed(words, _) => {
                    for (byte, i) in out.iter_mut().zip(from - at * CHUNK_BYTES..) {
                        *byte = words[word_of(i * 8)].to_le_bytes()[(i % 8) as usize];
                    }
                }
            }
        }
        out
    }

    /// Sets the bits that are set in `bytes`, which begin at bit `start`, a multiple of 8. Bits
    /// past the end are not looked at.
    pub(super) fn set_bytes(&mut self, start: u64, bytes: &[u8]) {
        let mut at = start;
        let mut rest = bytes;
        while !rest.is_empty() && at < self.len {
            // At most a chunk.
            let room = ((CHUNK_BITS - at % CHUNK_BITS) / 8) as usize;
            let (part, after) = rest.split_at(room.min(rest.len()));
            let bits = (part.len() as u64 * 8).min(self.len - at);
            if part.iter().all(|byte| *byte == 0xff) {
                self.fill(at..at + bits, true);
            } else if part.iter().any(|byte| *byte != 0) {
                let base = at % CHUNK_BITS;
                self.mixed(at / CHUNK_BITS, |words| {
                    for (byte, bit) in part.iter().zip((base..base + bits).step_by(8)) {
                        let mask = u64::MAX >> (64 - (base + bits - bit).min(8));
                        words[word_of(bit)] |= (u64::from(*byte) & mask) << (bit % 64);
                    }
                });
            }
            at += part.len() as u64 * 8;
            rest = after;
        }
    }

    /// Runs of ones, in order.
    pub(super) fn runs(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let start = self.next(at, true)?;
            at = self.next(start, false).unwrap_or(self.len);
            Some(start..at)
        })
    }

    /// Records kept: what memory follows.
    #[cfg(test)]
    pub(super) fn spans(&self) -> usize {
        self.spans.len()
    }
}

/// The word of a chunk that holds a bit of it.
fn word_of(bit: u64) -> usize {
    // Below the number of words.
    (bit / 64) as usize
}

/// The first bit of that value at `from` or after it.
fn scan(words: &[u64; WORDS], from: u64, value: bool) -> Option<u64> {
    let mut mask = u64::MAX << (from % 64);
    for (i, word) in words.iter().enumerate().skip(word_of(from)) {
        let word = if value { *word } else { !*word } & mask;
        if word != 0 {
            return Some(i as u64 * 64 + u64::from(word.trailing_zeros()));
        }
        mask = u64::MAX;
    }
    None
}

const _: () = assert!(CHUNK_BITS.is_multiple_of(64));
