//! Memory for reads, aligned for direct I/O and used again.
//!
//! A buffer of a megabyte that comes fresh from the system costs more in page faults than the
//! copy out of the page cache that fills it (1 GiB in 1 MiB reads: 0.32 s against 0.20 s), so
//! buffers from [`SMALLEST`] on return to a pool when the last [`Bytes`] of them is dropped. The
//! pool keeps at most [`KEPT`] bytes for the whole process; smaller and longer buffers are left to
//! the allocator.

use bytes::Bytes;
use sectora_core::sync::Mutex;
use std::fmt;

/// The alignment of every buffer: enough for direct I/O on any device.
pub(super) const ALIGN: usize = 4096;
/// Shorter buffers come from the allocator and go back to it.
const SMALLEST: usize = 16 << 10;
/// Longer ones do, too.
const LONGEST: usize = 4 << 20;
/// What all buffers that wait for use may take together.
const KEPT: usize = 16 << 20;
/// Sizes that are kept: powers of two from `SMALLEST` to `LONGEST`.
const CLASSES: usize = (LONGEST / SMALLEST).trailing_zeros() as usize + 1;

static POOL: Mutex<Free> = Mutex::new(Free { lists: [const { Vec::new() }; CLASSES], bytes: 0 });

struct Free {
    lists: [Vec<Box<[u8]>>; CLASSES],
    bytes: usize,
}

/// Bytes to read into. What they hold before is anything.
pub(super) struct Buffer {
    /// Longer than needed, so that an aligned run of `len` bytes begins at `start`.
    memory: Box<[u8]>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// A buffer of `len` bytes, aligned to [`ALIGN`]: direct I/O wants that of the shortest ones
    /// too.
    pub(super) fn new(len: usize) -> Self {
        let memory = class(len)
            .and_then(|class| POOL.lock().take(class))
            .unwrap_or_else(|| fresh(class(len).map_or(len, size_of_class)));
        // Always smaller than ALIGN, by which the memory is longer than `len`.
        let start = memory.as_ptr().align_offset(ALIGN);
        Self { memory, start, len }
    }

    /// A buffer of `len` bytes that need not be aligned.
    pub(super) fn anywhere(len: usize) -> Self {
        if class(len).is_some() {
            return Self::new(len);
        }
        Self { memory: vec![0; len].into_boxed_slice(), start: 0, len }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }

    /// The first `len` bytes, shared; the memory returns when the last of them is dropped.
    pub(super) fn freeze(mut self, len: usize) -> Bytes {
        self.len = len.min(self.len);
        if self.start == 0 && self.len == self.memory.len() {
            return Bytes::from(std::mem::take(&mut self.memory));
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({:#x})", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if let Some(class) = memory.len().checked_sub(ALIGN).and_then(class) {
            // Only memory of exactly a class's size: what `fresh` made for one.
            if memory.len() == size_of_class(class) + ALIGN {
                // Dropped after the lock is released where the pool is full.
                let _surplus = POOL.lock().give(class, memory);
            }
        }
    }
}

/// The class of the buffers that `len` bytes fit in.
fn class(len: usize) -> Option<usize> {
    (SMALLEST / 2 < len && len <= LONGEST).then(|| {
        let size = len.next_power_of_two().max(SMALLEST);
        (size / SMALLEST).trailing_zeros() as usize
    })
}

fn size_of_class(class: usize) -> usize {
    SMALLEST << class
}

fn fresh(len: usize) -> Box<[u8]> {
    vec![0; len + ALIGN].into_boxed_slice()
}

impl Free {
    fn take(&mut self, class: usize) -> Option<Box<[u8]>> {
        let memory = self.lists[class].pop()?;
        self.bytes -= memory.len();
        Some(memory)
    }

    fn give(&mut self, class: usize, memory: Box<[u8]>) -> Option<Box<[u8]>> {
        if self.bytes + memory.len() > KEPT {
            return Some(memory);
        }
        self.bytes += memory.len();
        self.lists[class].push(memory);
        None
    }
}

/// One page-aligned run of zeroes that every zero write points to.
#[repr(align(4096))]
struct ZeroPages([u8; ZERO_RUN]);

const ZERO_RUN: usize = 64 << 10;

static ZEROES: ZeroPages = ZeroPages([0; ZERO_RUN]);

/// Zeroes to write from, page aligned.
pub(super) fn zeroes() -> &'static [u8] {
    &ZEROES.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_length_asked_for_and_are_aligned() {
        for len in [0, 1, 511, 4096, 5000, 16384, 16385, 65536, 1 << 20, (4 << 20) + 1] {
            for (aligned, mut buffer) in [(true, Buffer::new(len)), (false, Buffer::anywhere(len))]
            {
                assert_eq!(buffer.as_mut_slice().len(), len);
                if aligned {
                    assert!(is_aligned_to_page(buffer.as_ref()), "{len:#x}");
                }
                buffer.as_mut_slice().fill(7);
                let bytes = buffer.freeze(len);
                assert_eq!(bytes.len(), len);
                assert!(bytes.iter().all(|b| *b == 7));
            }
        }
        assert!(is_aligned_to_page(zeroes()));
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_bound() {
        let buffers: Vec<_> = (0..20).map(|_| Buffer::new(2 << 20)).collect();
        drop(buffers);
        assert!(POOL.lock().bytes <= KEPT);
        // Every length that fits a class gets memory that holds it.
        for len in (8193..(4 << 20)).step_by(77_777) {
            assert!(size_of_class(class(len).unwrap()) >= len);
        }
        assert_eq!(class(LONGEST + 1), None);
    }

    fn is_aligned_to_page(bytes: &[u8]) -> bool {
        bytes.as_ptr().align_offset(ALIGN) == 0
    }
}
