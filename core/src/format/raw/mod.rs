//! `raw`: the disk's bytes as they are.
//!
//! The virtual size is the file's length rounded up to a sector; what the file lacks of the last
//! sector reads as zeroes. A part of the file can stand for the whole ([`OpenOptions`]).

mod create;

use super::detect::OpenedFormat;
use super::{
    CheckReport, Child, Driver, FormatInfo, Geometry, Mapping, Piece, Place, Repair, Reservation,
    Target, Token, ZeroPlan,
};
use crate::io::{BoxFuture, Capabilities, DebugEvent, Device, Preallocation, ZeroFlags, raise};
use crate::{Error, Result};
use alloc::boxed::Box;
use alloc::format;
use core::future::ready;
use smallvec::smallvec;

pub use create::{CreateOptions, create};

pub(super) const SECTOR: u64 = 512;

/// Which part of the file is the disk (the schema's `BlockdevOptionsRaw`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Where the disk begins in the file, in bytes.
    pub offset: u64,
    /// Its size in bytes, a multiple of 512; to the end of the file where it is `None`.
    pub size: Option<u64>,
}

/// The identity over a file, or a part of one.
#[derive(Debug)]
struct Raw {
    file: Device,
    part: OpenOptions,
}

/// How long the file is as a disk: whole sectors, the last of which reads as zeroes from the file's
/// end on.
fn sectors(file: &Device) -> u64 {
    file.len().checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX - (SECTOR - 1))
}

pub(super) fn open(file: &Device, part: OpenOptions) -> Result<OpenedFormat> {
    check(file, part)?;
    let driver = Raw { file: file.clone(), part };
    Ok(OpenedFormat { driver: Box::new(driver), data: None, backing: None })
}

/// Refuses a part that the file does not have.
fn check(file: &Device, part: OpenOptions) -> Result<()> {
    let len = sectors(file);
    let refuse = |what| Err(Error::invalid(what));
    if part.offset > len {
        return refuse(format!(
            "Offset ({}) cannot be greater than size of the containing file ({len})",
            part.offset
        ));
    }
    if let Some(size) = part.size {
        if size > len - part.offset {
            return refuse(format!(
                "The sum of offset ({}) and size ({size}) has to be smaller or equal to the  \
                 actual size of the containing file ({len})",
                part.offset
            ));
        }
        if !size.is_multiple_of(SECTOR) {
            return refuse("Specified size is not multiple of 512".into());
        }
    }
    Ok(())
}

impl Driver for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn virtual_size(&self) -> u64 {
        let rest = sectors(&self.file).saturating_sub(self.part.offset);
        let whole = rest.checked_next_multiple_of(SECTOR).unwrap_or(u64::MAX - (SECTOR - 1));
        self.part.size.unwrap_or(whole)
    }

    fn check_options(&self, options: &super::OpenOptions) -> Result<()> {
        check(&self.file, options.raw)
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
        let offset = self.part.offset + start;
        mapping.push(Piece { len, place: Place::Raw { child: Child::File, offset } });
        Box::pin(ready(Ok(mapping)))
    }

    fn reserve(&self, start: u64, len: u64) -> BoxFuture<'_, Result<Reservation>> {
        let offset = self.part.offset + start;
        let target =
            Target { start, len, child: Child::File, offset, before: 0, after: 0, blank: false };
        let reservation = Reservation { targets: smallvec![target], token: None, hold: None };
        Box::pin(ready(Ok(reservation)))
    }

    fn commit(&self, _: Token) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(Err(Error::bug("raw gives no tokens"))))
    }

    fn zero(&self, start: u64, len: u64, flags: ZeroFlags) -> BoxFuture<'_, Result<ZeroPlan>> {
        Box::pin(async move {
            self.file.write_zeroes(self.part.offset + start, len, flags).await?;
            Ok(ZeroPlan::default())
        })
    }

    fn discard(&self, start: u64, len: u64) -> BoxFuture<'_, Result<()>> {
        let start = self.part.offset + start;
        let inside = self.file.len().saturating_sub(start).min(len);
        self.file.discard(start, inside)
    }

    fn flush(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            raise(&*self.file, DebugEvent::FlushToDisk).await;
            self.file.flush().await
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.file.flush()
    }

    fn set_virtual_size(
        &self,
        size: u64,
        preallocation: Preallocation,
    ) -> BoxFuture<'_, Result<()>> {
        if self.part.size.is_some() {
            let fixed = "Cannot resize fixed-size raw disks";
            return Box::pin(ready(Err(Error::unsupported(fixed))));
        }
        match self.part.offset.checked_add(size) {
            Some(len) => self.file.set_len(len, preallocation),
            None => Box::pin(ready(Err(Error::invalid("The file would be too large")))),
        }
    }

    fn describe(&self) -> BoxFuture<'_, Result<FormatInfo>> {
        Box::pin(ready(Ok(FormatInfo::default())))
    }

    fn check<'a>(
        &'a self,
        _: Repair,
        _: &'a (dyn Fn(u64, u64) + Send + Sync),
    ) -> BoxFuture<'a, Result<Option<CheckReport>>> {
        Box::pin(ready(Ok(None)))
    }
}
