//! How a new file is to lie on its file system: what only some file systems can be told.

use super::FileDevice;
use super::error::os;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};
use sectora_core::{Error, Result};
use std::fs::File;

/// What a file system is asked for when a file is made (`BlockdevCreateOptionsFile`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileLayout {
    /// Blocks stay where they are when they are written again (btrfs).
    pub nocow: bool,
    /// The unit in which blocks are allocated, in bytes (XFS); 0 leaves it to the file system.
    pub extent_size_hint: u64,
}

/// As the reference makes files.
impl Default for FileLayout {
    fn default() -> Self {
        Self { nocow: false, extent_size_hint: 1 << 20 }
    }
}

impl FileLayout {
    /// What is asked for where the unit may be left unsaid.
    #[must_use]
    pub fn asked(nocow: bool, extent_size_hint: Option<u64>) -> Self {
        let plain = Self::default();
        Self { nocow, extent_size_hint: extent_size_hint.unwrap_or(plain.extent_size_hint) }
    }

    /// Says before a file is made whether what is asked for can be.
    ///
    /// # Errors
    /// `InvalidInput` for a unit that the kernel has no number for.
    pub fn check(&self) -> Result<()> {
        self.hint().map(drop)
    }

    fn hint(&self) -> Result<u32> {
        let too_large = |_| Error::invalid("Extent size hint is too large");
        u32::try_from(self.extent_size_hint).map_err(too_large)
    }
}

impl FileDevice {
    /// Asks for `layout`, while the file is empty. A file system that knows no such thing is none
    /// the worse for being asked.
    ///
    /// # Errors
    /// `InvalidInput` where the file system refuses the unit; the file is as good without.
    pub fn lay_out(&self, layout: &FileLayout) -> Result<()> {
        let hint = layout.hint()?;
        let file = self.os_file();
        if layout.nocow
            && let Ok(flags) = ioctl_getflags(file)
        {
            // Few file systems have it, and none has to.
            let _ = ioctl_setflags(file, flags | IFlags::NOCOW);
        }
        if hint == 0 {
            return Ok(());
        }
        let Ok(mut attributes) = attributes(file) else { return Ok(()) };
        attributes.xflags |= EXTSIZE;
        attributes.extsize = hint;
        // SAFETY: the kernel reads as many bytes as the code of the call says there are.
        let set = unsafe { ioctl(file, Setter::<SET, Attributes>::new(attributes)) };
        match set {
            Err(e @ (Errno::INVAL | Errno::RANGE)) => Err(os(e, "Failed to set extent size hint")),
            _ => Ok(()),
        }
    }
}

/// The unit in which blocks of `file` are allocated, in bytes, where it has one of its own.
pub(super) fn extent_size_hint(file: &File) -> Option<u64> {
    let attributes = attributes(file).ok()?;
    (attributes.extsize != 0).then(|| u64::from(attributes.extsize))
}

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Attributes {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `FS_XFLAG_EXTSIZE`.
const EXTSIZE: u32 = 0x800;
/// `FS_IOC_FSGETXATTR`.
const GET: Opcode = opcode::read::<Attributes>(b'X', 31);
/// `FS_IOC_FSSETXATTR`.
const SET: Opcode = opcode::write::<Attributes>(b'X', 32);

fn attributes(file: &File) -> rustix::io::Result<Attributes> {
    // SAFETY: the kernel fills in the structure that the code of the call names, or fails.
    unsafe { ioctl(file, Getter::<GET, Attributes>::new()) }
}
