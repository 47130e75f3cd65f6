//! Handing calls on as they are.

/// Methods of [`BlockDevice`](crate::io::BlockDevice) for a filter with a field `inner`: the named
/// ones are those of the device below.
macro_rules! forward {
    ($($method:ident)*) => { $( $crate::filter::forward::forward!(@ $method); )* };
    (@ len) => {
        fn len(&self) -> u64 { self.inner.len() }
    };
    (@ limits) => {
        fn limits(&self) -> $crate::io::Limits { self.inner.limits() }
    };
    (@ capabilities) => {
        fn capabilities(&self) -> $crate::io::Capabilities { self.inner.capabilities() }
    };
    (@ read) => {
        fn read(
            &self, offset: u64, len: u64,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<$crate::io::Segments>> {
            self.inner.read(offset, len)
        }
    };
    (@ write) => {
        fn write(
            &self, offset: u64, data: $crate::io::Segments, flags: $crate::io::WriteFlags,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.inner.write(offset, data, flags)
        }
    };
    (@ write_zeroes) => {
        fn write_zeroes(
            &self, offset: u64, len: u64, flags: $crate::io::ZeroFlags,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.inner.write_zeroes(offset, len, flags)
        }
    };
    (@ discard) => {
        fn discard(
            &self, offset: u64, len: u64,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.inner.discard(offset, len)
        }
    };
    (@ flush) => {
        fn flush(&self) -> $crate::io::BoxFuture<'_, $crate::Result<()>> { self.inner.flush() }
    };
    (@ set_len) => {
        fn set_len(
            &self, len: u64, preallocation: $crate::io::Preallocation,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<()>> {
            self.inner.set_len(len, preallocation)
        }
    };
    (@ extents) => {
        fn extents(
            &self, offset: u64, len: u64,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<::alloc::vec::Vec<$crate::io::Extent>>> {
            self.inner.extents(offset, len)
        }
    };
    (@ event) => {
        fn event(
            &self, event: $crate::io::DebugEvent,
        ) -> Option<$crate::io::BoxFuture<'_, ()>> {
            self.inner.event(event)
        }
    };
    (@ info) => {
        fn info(
            &self,
        ) -> $crate::io::BoxFuture<'_, $crate::Result<$crate::io::DeviceInfo>> {
            self.inner.info()
        }
    };
}

pub(crate) use forward;
