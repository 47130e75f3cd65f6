//! A buffer that keeps what was written last.

use crate::cli::failure::Failure;
use std::collections::VecDeque;

/// The largest one.
const MAX: u64 = 1 << 30;

/// The buffer of a `ringbuf` device.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    size: usize,
}

impl Ring {
    pub(super) fn new(size: u64) -> Result<Self, Failure> {
        if !size.is_power_of_two() {
            return Err(Failure::new("size of ringbuf chardev must be power of two"));
        }
        let fits = usize::try_from(size).ok().filter(|_| size <= MAX);
        let size =
            fits.ok_or_else(|| Failure::unsupported(&format!("a ringbuf of {size} bytes")))?;
        Ok(Self { bytes: VecDeque::new(), size })
    }

    /// Writes at the end; the oldest bytes give way.
    pub(super) fn write(&mut self, data: &[u8]) {
        let data = &data[data.len().saturating_sub(self.size)..];
        let over = (self.bytes.len() + data.len()).saturating_sub(self.size);
        self.bytes.drain(..over);
        self.bytes.extend(data);
    }

    /// Takes up to `most` bytes, the oldest first.
    pub(super) fn read(&mut self, most: usize) -> Vec<u8> {
        let n = most.min(self.bytes.len());
        self.bytes.drain(..n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_bytes_give_way() {
        assert!(Ring::new(3).is_err() && Ring::new(0).is_err() && Ring::new(1 << 40).is_err());
        let mut ring = Ring::new(4).expect("a size");
        ring.write(b"abc");
        ring.write(b"de");
        assert_eq!(ring.read(2), b"bc");
        ring.write(b"0123456789");
        assert_eq!(ring.read(10), b"6789");
        assert_eq!(ring.read(10), b"");
    }
}
