//! What the operating system says, in the engine's kinds and in words without error numbers.

use rustix::io::Errno;
use sectora_core::{Error, ErrorKind};
use std::{fmt, io};

/// An error of the operating system as the cause of an [`Error`]; reads `No such file or directory`
/// rather than `No such file or directory (os error 2)`. Its source is the [`io::Error`].
#[derive(Debug)]
pub struct OsError(io::Error);

impl OsError {
    /// The error as the standard library has it.
    #[must_use]
    pub fn io(&self) -> &io::Error {
        &self.0
    }
}

impl From<io::Error> for OsError {
    fn from(error: io::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let words = match self.0.raw_os_error() {
            Some(_) => text.rsplit_once(" (os error").map_or(text.as_str(), |(words, _)| words),
            None => &text,
        };
        f.write_str(words)
    }
}

impl std::error::Error for OsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// The error of the operating system that `error` was caused by, if it was.
#[must_use]
pub fn os_error(error: &Error) -> Option<&io::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        if let Some(os) = e.downcast_ref::<OsError>() {
            return Some(os.io());
        }
        cause = e.source();
    }
    None
}

/// True where the reader of a pipe went away, which is no failure to tell a person about.
#[must_use]
pub fn is_broken_pipe(error: &Error) -> bool {
    os_error(error).is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// An [`Error`] of the fitting kind that says `what`, caused by `error`.
pub(crate) fn os(error: impl Into<io::Error>, what: impl Into<String>) -> Error {
    let error = error.into();
    Error::new(kind(&error), what.into()).because(OsError(error))
}

fn kind(error: &io::Error) -> ErrorKind {
    let Some(code) = error.raw_os_error() else { return ErrorKind::Io };
    match Errno::from_raw_os_error(code) {
        Errno::NOENT | Errno::NOTDIR => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::NoSpace,
        Errno::BUSY | Errno::TXTBSY => ErrorKind::InUse,
        Errno::FBIG | Errno::MFILE | Errno::NFILE | Errno::NAMETOOLONG => ErrorKind::Limit,
        Errno::ISDIR | Errno::LOOP => ErrorKind::InvalidInput,
        Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::Unsupported,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_as_people_know_them_and_kinds_fit() {
        for (errno, want, text) in [
            (Errno::NOENT, ErrorKind::NotFound, "Could not open 'x': No such file or directory"),
            (Errno::ACCESS, ErrorKind::Denied, "Could not open 'x': Permission denied"),
            (Errno::NOSPC, ErrorKind::NoSpace, "Could not open 'x': No space left on device"),
            (Errno::IO, ErrorKind::Io, "Could not open 'x': Input/output error"),
        ] {
            let error = os(errno, "Could not open 'x'");
            assert_eq!((error.kind(), error.to_string().as_str()), (want, text));
            let source = os_error(&error.context("outer")).and_then(io::Error::raw_os_error);
            assert_eq!(source, Some(errno.raw_os_error()));
        }
        assert!(is_broken_pipe(&os(Errno::PIPE, "cannot write")));
        assert!(!is_broken_pipe(&Error::io("other")));
    }
}
