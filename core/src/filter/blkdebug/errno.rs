//! Error numbers, as the rules give them.

use crate::{Error, ErrorKind};
use core::fmt;

/// The error of a request that a rule made fail: the cause of the engine's
/// [`Error`], so that a host can hand on the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InjectedError(i64);

/// The numbers of Linux that have a meaning here, with their kinds and the usual words.
const KNOWN: &[(i64, ErrorKind, &str)] = &[
    (1, ErrorKind::Denied, "Operation not permitted"),
    (2, ErrorKind::NotFound, "No such file or directory"),
    (5, ErrorKind::Io, "Input/output error"),
    (6, ErrorKind::Io, "No such device or address"),
    (9, ErrorKind::Io, "Bad file descriptor"),
    (11, ErrorKind::Io, "Resource temporarily unavailable"),
    (12, ErrorKind::Io, "Cannot allocate memory"),
    (13, ErrorKind::Denied, "Permission denied"),
    (16, ErrorKind::InUse, "Device or resource busy"),
    (19, ErrorKind::Io, "No such device"),
    (22, ErrorKind::InvalidInput, "Invalid argument"),
    (27, ErrorKind::Limit, "File too large"),
    (28, ErrorKind::NoSpace, "No space left on device"),
    (30, ErrorKind::Denied, "Read-only file system"),
    (32, ErrorKind::Io, "Broken pipe"),
    (95, ErrorKind::Unsupported, "Operation not supported"),
    (110, ErrorKind::Io, "Connection timed out"),
    (122, ErrorKind::NoSpace, "Disk quota exceeded"),
    (123, ErrorKind::Io, "No medium found"),
    (125, ErrorKind::Cancelled, "Operation canceled"),
];

impl InjectedError {
    pub(super) fn new(errno: i64) -> Self {
        Self(errno)
    }

    /// The number that the rule gave, above 0.
    #[must_use]
    pub fn errno(self) -> i64 {
        self.0
    }

    fn known(self) -> Option<(ErrorKind, &'static str)> {
        let found = KNOWN.iter().find(|(errno, _, _)| *errno == self.0);
        found.map(|(_, kind, words)| (*kind, *words))
    }
}

impl fmt::Display for InjectedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some((_, words)) => f.write_str(words),
            None => write!(f, "Unknown error {}", self.0),
        }
    }
}

impl core::error::Error for InjectedError {}

impl From<InjectedError> for Error {
    fn from(error: InjectedError) -> Self {
        let kind = error.known().map_or(ErrorKind::Io, |(kind, _)| kind);
        Self::new(kind, "a rule makes the request fail").because(error)
    }
}
