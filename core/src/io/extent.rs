//! Extents: the common currency of block status, map, convert, bitmaps and pictures.

use alloc::sync::Arc;

bitflags::bitflags! {
    /// What is known of an extent without reading it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ExtentFlags: u8 {
        /// Reading takes bytes from a file, compressed or not.
        const DATA = 1;
        /// It reads as zeroes.
        const ZERO = 1 << 1;
        /// Some layer of the chain decides the contents; without it a deeper backing file could.
        const ALLOCATED = 1 << 2;
        /// The bytes are stored compressed.
        const COMPRESSED = 1 << 3;
    }
}

/// Where the bytes of an extent lie as they are: at `offset` of `file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRange {
    /// The name of the file, as it was opened.
    pub file: Arc<str>,
    /// The offset of the first byte in it.
    pub offset: u64,
}

/// A run of bytes of a device with the same status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the device.
    pub start: u64,
    /// Length in bytes; never 0.
    pub len: u64,
    /// Its status.
    pub flags: ExtentFlags,
    /// How many layers below the asked one it was decided: 0 for the image itself, 1 for its
    /// backing file, and so on.
    pub depth: u32,
    /// Where the bytes lie unchanged, if they do.
    pub host: Option<HostRange>,
}

impl Extent {
    /// The offset after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// True where it reads as zeroes.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.flags.contains(ExtentFlags::ZERO)
    }

    /// True where reading takes bytes from a file.
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.flags.contains(ExtentFlags::DATA)
    }

    /// True where a layer of the chain decides the contents.
    #[must_use]
    pub fn is_allocated(&self) -> bool {
        self.flags.contains(ExtentFlags::ALLOCATED)
    }

    /// Joins `next` to this extent where it continues it with the same status, also in the host
    /// file. Returns `next` where it does not.
    pub fn merge(&mut self, next: Self) -> Option<Self> {
        let contiguous = match (&self.host, &next.host) {
            (None, None) => true,
            (Some(a), Some(b)) => a.file == b.file && a.offset + self.len == b.offset,
            _ => false,
        };
        if contiguous
            && self.end() == next.start
            && self.flags == next.flags
            && self.depth == next.depth
        {
            self.len += next.len;
            return None;
        }
        Some(next)
    }

    /// The part of it that lies in `[start, end)`, which must not be empty.
    #[must_use]
    pub fn clip(&self, start: u64, end: u64) -> Self {
        let (from, to) = (self.start.max(start), self.end().min(end));
        Self {
            start: from,
            len: to - from,
            flags: self.flags,
            depth: self.depth,
            host: self.host.as_ref().map(|h| HostRange {
                file: h.file.clone(),
                offset: h.offset + (from - self.start),
            }),
        }
    }
}
