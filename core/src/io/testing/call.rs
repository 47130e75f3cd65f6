//! What a call is, for middleware that counts, chooses, delays or fails calls.

use core::fmt;
use core::ops::Range;

/// Which method of a device is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CallKind {
    /// [`BlockDevice::read`](crate::io::BlockDevice::read)
    Read,
    /// [`BlockDevice::write`](crate::io::BlockDevice::write)
    Write,
    /// [`BlockDevice::write_zeroes`](crate::io::BlockDevice::write_zeroes)
    WriteZeroes,
    /// [`BlockDevice::discard`](crate::io::BlockDevice::discard)
    Discard,
    /// [`BlockDevice::flush`](crate::io::BlockDevice::flush)
    Flush,
    /// [`BlockDevice::set_len`](crate::io::BlockDevice::set_len)
    SetLen,
    /// [`BlockDevice::extents`](crate::io::BlockDevice::extents)
    Extents,
    /// [`BlockDevice::info`](crate::io::BlockDevice::info)
    Info,
}

bitflags::bitflags! {
    /// A set of [`CallKind`]s.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct CallKinds: u8 {
        /// Reads.
        const READ = 1;
        /// Writes of data.
        const WRITE = 1 << 1;
        /// Writes of zeroes.
        const WRITE_ZEROES = 1 << 2;
        /// Discards.
        const DISCARD = 1 << 3;
        /// Flushes.
        const FLUSH = 1 << 4;
        /// Length changes.
        const SET_LEN = 1 << 5;
        /// Questions about extents.
        const EXTENTS = 1 << 6;
        /// Questions about name and driver.
        const INFO = 1 << 7;
        /// Everything that alters bytes or length.
        const CHANGES = Self::WRITE.bits()
            | Self::WRITE_ZEROES.bits()
            | Self::DISCARD.bits()
            | Self::SET_LEN.bits();
    }
}

impl From<CallKind> for CallKinds {
    fn from(kind: CallKind) -> Self {
        match kind {
            CallKind::Read => Self::READ,
            CallKind::Write => Self::WRITE,
            CallKind::WriteZeroes => Self::WRITE_ZEROES,
            CallKind::Discard => Self::DISCARD,
            CallKind::Flush => Self::FLUSH,
            CallKind::SetLen => Self::SET_LEN,
            CallKind::Extents => Self::EXTENTS,
            CallKind::Info => Self::INFO,
        }
    }
}

/// One call of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub kind: CallKind,
    /// The first byte it concerns; for a length change the new length.
    pub offset: u64,
    /// The number of bytes; 0 for flush, length change and info.
    pub len: u64,
}

impl Call {
    /// A call of `kind` on `len` bytes at `offset`.
    #[must_use]
    pub fn new(kind: CallKind, offset: u64, len: u64) -> Self {
        Self { kind, offset, len }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, offset, len } = self;
        match kind {
            CallKind::Read => write!(f, "read {offset:#x}+{len:#x}"),
            CallKind::Write => write!(f, "write {offset:#x}+{len:#x}"),
            CallKind::WriteZeroes => write!(f, "write_zeroes {offset:#x}+{len:#x}"),
            CallKind::Discard => write!(f, "discard {offset:#x}+{len:#x}"),
            CallKind::Flush => f.write_str("flush"),
            CallKind::SetLen => write!(f, "set_len {offset:#x}"),
            CallKind::Extents => write!(f, "extents {offset:#x}+{len:#x}"),
            CallKind::Info => f.write_str("info"),
        }
    }
}

/// Chooses calls by kind and place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFilter {
    kinds: CallKinds,
    range: Option<Range<u64>>,
}

impl CallFilter {
    /// Every call.
    #[must_use]
    pub fn any() -> Self {
        Self::of(CallKinds::all())
    }

    /// Calls of these kinds.
    #[must_use]
    pub fn of(kinds: CallKinds) -> Self {
        Self { kinds, range: None }
    }

    /// Of those, only the ones that touch a byte of `range`. Calls without a place (flush,
    /// length change, info) no longer match.
    #[must_use]
    pub fn within(mut self, range: Range<u64>) -> Self {
        self.range = Some(range);
        self
    }

    /// True where it chooses `call`.
    #[must_use]
    pub fn matches(&self, call: &Call) -> bool {
        self.kinds.contains(call.kind.into())
            && self
                .range
                .as_ref()
                .is_none_or(|r| overlaps(r, &(call.offset..call.offset.saturating_add(call.len))))
    }
}

/// True where two ranges have a byte in common.
#[must_use]
pub(super) fn overlaps(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end)
}

/// Methods of [`BlockDevice`](crate::io::BlockDevice) for a device with a field `inner`:
/// `forward!(…)` hands the named ones on as they are, `around!(…)` through the method
/// `around(call, run)`, which decides when (and whether) `run` makes the inner call.
///
/// The inner call is made inside the closure, not before it: a device may take effect when it is
/// called, before its future is first polled.
macro_rules! forward {
    ($($method:ident)*) => { $( forward!(@ $method); )* };
    (@ len) => {
        fn len(&self) -> u64 { self.inner.len() }
    };
    (@ limits) => {
        fn limits(&self) -> $crate::io::Limits { self.inner.limits() }
    };
    (@ capabilities) => {
        fn capabilities(&self) -> $crate::io::Capabilities { self.inner.capabilities() }
    };
}

macro_rules! around {
    ($($method:ident)*) => { $( around!(@ $method); )* };
    (@ read) => {
        fn read(
            &self, offset: u64, len: u64,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<$crate::io::Segments>> {
            self.around(
                $crate::io::testing::Call::new($crate::io::testing::CallKind::Read, offset, len),
                move || self.inner.read(offset, len),
            )
        }
    };
    (@ write) => {
        fn write(
            &self, offset: u64, data: $crate::io::Segments, flags: $crate::io::WriteFlags,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.around(
                $crate::io::testing::Call::new(
                    $crate::io::testing::CallKind::Write, offset, data.len(),
                ),
                move || self.inner.write(offset, data, flags),
            )
        }
    };
    (@ write_zeroes) => {
        fn write_zeroes(
            &self, offset: u64, len: u64, flags: $crate::io::ZeroFlags,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.around(
                $crate::io::testing::Call::new(
                    $crate::io::testing::CallKind::WriteZeroes, offset, len,
                ),
                move || self.inner.write_zeroes(offset, len, flags),
            )
        }
    };
    (@ discard) => {
        fn discard(
            &self, offset: u64, len: u64,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.around(
                $crate::io::testing::Call::new($crate::io::testing::CallKind::Discard, offset, len),
                move || self.inner.discard(offset, len),
            )
        }
    };
    (@ flush) => {
        fn flush(&self) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.around(
                $crate::io::testing::Call::new($crate::io::testing::CallKind::Flush, 0, 0),
                move || self.inner.flush(),
            )
        }
    };
    (@ set_len) => {
        fn set_len(
            &self, len: u64, preallocation: $crate::io::Preallocation,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.around(
                $crate::io::testing::Call::new($crate::io::testing::CallKind::SetLen, len, 0),
                move || self.inner.set_len(len, preallocation),
            )
        }
    };
    (@ extents) => {
        fn extents(
            &self, offset: u64, len: u64,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<::alloc::vec::Vec<$crate::io::Extent>>> {
            self.around(
                $crate::io::testing::Call::new($crate::io::testing::CallKind::Extents, offset, len),
                move || self.inner.extents(offset, len),
            )
        }
    };
    (@ info) => {
        fn info(&self) -> $crate::io::BoxFuture<'_, $crate::Result<$crate::io::DeviceInfo>> {
            self.around(
                $crate::io::testing::Call::new($crate::io::testing::CallKind::Info, 0, 0),
                move || self.inner.info(),
            )
        }
    };
}

pub(super) use {around, forward};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_chooses_by_kind_and_by_overlap() {
        let filter = CallFilter::of(CallKinds::READ | CallKinds::WRITE).within(100..200);
        for (kind, offset, len, want) in [
            (CallKind::Read, 0, 100, false),
            (CallKind::Read, 0, 101, true),
            (CallKind::Write, 199, 1, true),
            (CallKind::Write, 200, 1, false),
            (CallKind::Write, 150, 0, false),
            (CallKind::SetLen, 150, 0, false),
            (CallKind::Discard, 100, 10, false),
            (CallKind::Read, u64::MAX, u64::MAX, false),
        ] {
            let call = Call::new(kind, offset, len);
            assert_eq!(filter.matches(&call), want, "{call}");
        }
        assert!(CallFilter::any().matches(&Call::new(CallKind::Flush, 0, 0)));
        assert!(!CallFilter::any().within(1..9).matches(&Call::new(CallKind::Flush, 0, 0)));
    }
}
