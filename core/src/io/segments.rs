//! Owned, shared data in transit.
//!
//! A read returns [`Segments`], a write takes them. Zeroes never occupy memory, slices are shared
//! and never copied, and the memory outlives a dropped future: whoever still needs it holds it.

use super::Hold;
use alloc::vec::Vec;
use bytes::{Bytes, BytesMut};
use core::fmt;
use smallvec::SmallVec;

/// One run of bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes.
    Data(Bytes),
    /// So many zero bytes.
    Zero(u64),
}

impl Segment {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Data(b) => b.len() as u64,
            Self::Zero(n) => *n,
        }
    }

    /// True for a segment of no bytes (which [`Segments`] never holds).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(b) => write!(f, "Data({:#x})", b.len()),
            Self::Zero(n) => write!(f, "Zero({n:#x})"),
        }
    }
}

/// A short list of [`Segment`]s: the data of one request.
///
/// Invariants: no segment is empty, and two neighbouring zero segments are one.
#[derive(Clone, Default)]
pub struct Segments {
    list: SmallVec<[Segment; 2]>,
    len: u64,
    hold: Option<Hold>,
}

impl Segments {
    /// No bytes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// `len` zero bytes.
    #[must_use]
    pub fn zero(len: u64) -> Self {
        let mut s = Self::new();
        s.push_zero(len);
        s
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True where there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// True where every segment is [`Segment::Zero`]. Data bytes are not looked at.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.list.iter().all(|s| matches!(s, Segment::Zero(_)))
    }

    /// The segments in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Segment] {
        &self.list
    }

    /// Adds bytes at the end.
    pub fn push_data(&mut self, data: Bytes) {
        if !data.is_empty() {
            self.len += data.len() as u64;
            self.list.push(Segment::Data(data));
        }
    }

    /// Adds zero bytes at the end.
    pub fn push_zero(&mut self, len: u64) {
        if len == 0 {
            return;
        }
        self.len += len;
        if let Some(Segment::Zero(n)) = self.list.last_mut() {
            *n += len;
        } else {
            self.list.push(Segment::Zero(len));
        }
    }

    /// Adds one segment at the end.
    pub fn push(&mut self, segment: Segment) {
        match segment {
            Segment::Data(b) => self.push_data(b),
            Segment::Zero(n) => self.push_zero(n),
        }
    }

    /// Adds all of `other` at the end. A hold on `other` is kept too.
    pub fn append(&mut self, other: Self) {
        if self.list.is_empty() && self.hold.is_none() {
            *self = other;
            return;
        }
        for s in other.list {
            self.push(s);
        }
        if let Some(hold) = other.hold {
            self.hold(hold);
        }
    }

    /// Ties `hold` to the life of this data: it is dropped when the last clone or slice is,
    /// which a device does only after the operation has settled.
    ///
    /// A format holds the host range of a write this way, so that it cannot be given to anybody
    /// else while a write whose future was dropped may still land there.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = Some(match self.hold.take() {
            None => hold,
            Some(old) => alloc::sync::Arc::new((old, hold)),
        });
    }

    /// The part from `offset`, `len` bytes long; data is shared, not copied.
    ///
    /// # Panics
    /// Where the range does not lie within these segments (a mistake of the caller's code; never
    /// reachable by the contents of an image).
    #[must_use]
    pub fn slice(&self, offset: u64, len: u64) -> Self {
        assert!(
            offset.checked_add(len).is_some_and(|end| end <= self.len),
            "slice {offset}+{len} of {} bytes",
            self.len
        );
        let mut out = Self { hold: self.hold.clone(), ..Self::default() };
        let (mut skip, mut left) = (offset, len);
        for s in &self.list {
            if left == 0 {
                break;
            }
            let n = s.len();
            if skip >= n {
                skip -= n;
                continue;
            }
            let take = left.min(n - skip);
            match s {
                // Both bounds are within `b`, whose length is a usize.
                Segment::Data(b) => {
                    out.push_data(b.slice(skip as usize..(skip + take) as usize));
                }
                Segment::Zero(_) => out.push_zero(take),
            }
            skip = 0;
            left -= take;
        }
        out
    }

    /// Copies the bytes into `out`, which must be as long.
    ///
    /// # Panics
    /// Where the lengths differ.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len() as u64, self.len, "copy_to needs a buffer of the same length");
        let mut at = 0;
        for s in &self.list {
            // The sum of the lengths is `out.len()`.
            let end = at + s.len() as usize;
            match s {
                Segment::Data(b) => out[at..end].copy_from_slice(b),
                Segment::Zero(_) => out[at..end].fill(0),
            }
            at = end;
        }
    }

    /// The bytes in one piece; shared where they already are.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self.list.as_slice() {
            [] => Bytes::new(),
            [Segment::Data(b)] => b.clone(),
            _ => {
                let mut out = BytesMut::zeroed(self.len as usize);
                self.copy_to(&mut out);
                out.freeze()
            }
        }
    }

    /// The bytes as a vector.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = alloc::vec![0; self.len as usize];
        self.copy_to(&mut out);
        out
    }

    /// The same bytes with every run of zeroes that covers whole `granule`-sized, aligned blocks
    /// (counted from `align_offset`, the position of the first byte) turned into
    /// [`Segment::Zero`].
    #[must_use]
    pub fn sparsify(&self, align_offset: u64, granule: usize) -> Self {
        let mut out = Self { hold: self.hold.clone(), ..Self::default() };
        let mut pos = align_offset;
        for s in &self.list {
            match s {
                Segment::Zero(n) => out.push_zero(*n),
                Segment::Data(b) => sparsify_into(&mut out, b, pos, granule),
            }
            pos += s.len();
        }
        out
    }
}

/// Splits `data` at granule borders and appends it, zero granules as zero segments.
fn sparsify_into(out: &mut Segments, data: &Bytes, pos: u64, granule: usize) {
    let (mut run_start, mut at) = (0, 0);
    while at < data.len() {
        let to_border = granule - (pos.wrapping_add(at as u64) % granule as u64) as usize;
        let end = data.len().min(at + to_border);
        if is_zero(&data[at..end]) {
            out.push_data(data.slice(run_start..at));
            out.push_zero((end - at) as u64);
            run_start = end;
        }
        at = end;
    }
    out.push_data(data.slice(run_start..));
}

/// True where every byte is zero.
#[must_use]
pub(crate) fn is_zero(data: &[u8]) -> bool {
    // Most data differs in its first bytes; the rest is compared in words the compiler can widen.
    let head = data.len().min(16);
    if data[..head].iter().any(|b| *b != 0) {
        return false;
    }
    let mut chunks = data[head..].chunks_exact(64);
    chunks.all(|c| c.iter().fold(0, |acc, b| acc | b) == 0)
        && chunks.remainder().iter().all(|b| *b == 0)
}

impl From<Bytes> for Segments {
    fn from(data: Bytes) -> Self {
        let mut s = Self::new();
        s.push_data(data);
        s
    }
}

impl From<Vec<u8>> for Segments {
    fn from(data: Vec<u8>) -> Self {
        Bytes::from(data).into()
    }
}

impl fmt::Debug for Segments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.list).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn sample() -> Segments {
        let mut s = Segments::new();
        s.push_data(Bytes::from_static(b"abcd"));
        s.push_zero(3);
        s.push_zero(1);
        s.push_data(Bytes::from_static(b"ef"));
        s
    }

    #[test]
    fn neighbouring_zeroes_are_one_segment() {
        let s = sample();
        assert_eq!(s.as_slice().len(), 3);
        assert_eq!(s.len(), 10);
        assert_eq!(s.to_vec(), b"abcd\0\0\0\0ef");
    }

    #[test]
    fn every_slice_equals_the_slice_of_the_bytes() {
        let s = sample();
        let flat = s.to_vec();
        for start in 0..=flat.len() {
            for end in start..=flat.len() {
                let part = s.slice(start as u64, (end - start) as u64);
                assert_eq!(part.to_vec(), &flat[start..end]);
                assert_eq!(part.len(), (end - start) as u64);
            }
        }
    }

    #[test]
    fn sparsify_keeps_the_bytes_and_finds_aligned_zero_blocks() {
        let mut data = vec![0u8; 64];
        data[20] = 1;
        let s = Segments::from(data.clone()).sparsify(8, 16);
        assert_eq!(s.to_vec(), data);
        // Positions 8..72: the border-aligned blocks are 8..16, 16..32 (holds byte 28), 32..48 …
        assert_eq!(
            s.as_slice(),
            &[
                Segment::Zero(8),
                Segment::Data(Bytes::copy_from_slice(&data[8..24])),
                Segment::Zero(40)
            ]
        );
    }

    #[test]
    fn a_hold_lives_as_long_as_the_last_slice() {
        let hold: Hold = alloc::sync::Arc::new(());
        let weak = alloc::sync::Arc::downgrade(&hold);
        let mut s = sample();
        s.hold(hold);
        let part = s.slice(1, 2);
        drop(s);
        assert!(weak.upgrade().is_some());
        drop(part);
        assert!(weak.upgrade().is_none());
    }
}
