//! Keys that the kernel keeps. Source: keyrings(7), keyctl(2).

use crate::cli::failure::Failure;
use crate::storage::OsError;
use std::io;

/// `KEYCTL_READ` of keyctl(2).
const READ: libc::c_ulong = 11;

/// The serial number of a key, as an object's `serial` has it.
pub(super) fn serial(text: &str) -> Result<i32, Failure> {
    let number: i64 =
        text.parse().map_err(|_| Failure::new("Parameter 'serial' expects integer"))?;
    match i32::try_from(number) {
        Ok(0) => Err(Failure::new("'serial' should not be equal to 0")),
        Ok(serial) => Ok(serial),
        Err(_) => Err(Failure::new("Parameter 'serial' expects int32_t")),
    }
}

/// What the key with this serial number holds.
pub(super) fn read(serial: i32) -> Result<Vec<u8>, Failure> {
    let failed = |e: io::Error| {
        Failure::new(format!("Unable to read serial key {serial:08x}: {}", OsError::from(e)))
    };
    let mut bytes = Vec::new();
    loop {
        let len = read_into(serial, &mut bytes).map_err(failed)?;
        // It may grow between two looks.
        let fits = len <= bytes.len();
        bytes.resize(len, 0);
        if fits {
            return Ok(bytes);
        }
    }
}

/// Reads a key as far as there is room; gives its length.
fn read_into(serial: i32, bytes: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most as many bytes as it is told that there is room for.
    let len =
        unsafe { libc::syscall(libc::SYS_keyctl, READ, serial, bytes.as_mut_ptr(), bytes.len()) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}
