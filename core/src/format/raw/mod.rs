//! `raw`: the disk's bytes as they are.
//!
//! The virtual size is the file's length rounded up to a sector; what the file lacks of the last
//! sector reads as zeroes.

mod create;

use super::detect::OpenedFormat;
use super::{
    CheckReport, Child, Driver, FormatInfo, Geometry, Mapping, Piece, Place, Reservation, Target,
    Token, ZeroPlan,
};
use crate::io::{BoxFuture, Capabilities, Device, Preallocation, ZeroFlags};
use crate::{Error, Result};
use alloc::boxed::Box;
use core::future::ready;
use smallvec::smallvec;

pub use create::{CreateOptions, create};

pub(super) const SECTOR: u64 = 512;

/// The identity over a file.
#[derive(Debug)]
struct Raw {
    file: Device,
}

pub(super) fn open(file: &Device) -> OpenedFormat {
    OpenedFormat { driver: Box::new(Raw { file: file.clone() }), data: None, backing: None }
}

impl Driver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn virtual_size(&self) -> u64 {
        self.file.len().checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX - (SECTOR - 1))
    }

    fn geometry(&self) -> Geometry {
        Geometry { cluster_size: 1, subcluster_size: 1, compression: None }
    }

    fn capabilities(&self) -> Capabilities {
        self.file.capabilities() - Capabilities::COMPRESSED - Capabilities::GROW
    }

    fn refines_extents(&self) -> BoxFuture<'_, Result<bool>> {
        Box::pin(ready(Ok(true)))
    }

    fn map(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Mapping>> {
        let mut mapping = Mapping::default();
        mapping.push(Piece { len, place: Place::Raw { child: Child::File, offset: start } });
        Box::pin(ready(Ok(mapping)))
    }

    fn reserve(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Reservation>> {
        let target = Target { start, len, child: Child::File, offset: start, before: 0, after: 0 };
        let reservation = Reservation { targets: smallvec![target], token: None, hold: None };
        Box::pin(ready(Ok(reservation)))
    }

    fn commit(&self, _: Token) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Err(Error::bug("raw gives no tokens"))))
    }

    fn zero(&self, start: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<ZeroPlan>> {
        Box::pin(async move {
            self.file.write_zeroes(start, len, flags).await?;
            Ok(ZeroPlan::default())
        })
    }

    fn discard(&self, start: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let inside = self.file.len().saturating_sub(start).min(len);
        self.file.discard(start, inside)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        self.file.flush()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.file.flush()
    }

    fn set_virtual_size(
        &self,
        size: u64,
        preallocation: Preallocation,
    ) -> BoxFuture<'_, Result<()>> {
        self.file.set_len(size, preallocation)
    }

    fn describe(&self) -> BoxFuture<'_, Result<FormatInfo>> {
        Box::pin(ready(Ok(FormatInfo::default())))
    }

    fn check<'a>(
        &'a self,
        _: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<CheckReport>>> {
        Box::pin(ready(Ok(None)))
    }
}
