//! What follows where storage fails: the schema's `BlockdevOnError`.

use super::Request;
use crate::qapi::BlockdevOnError;
use crate::{Error, ErrorKind};

/// What follows one error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The user is told.
    Report,
    /// The user is told that all went well; a read gives zeroes.
    Ignore,
    /// Everything stops until somebody says `cont`; then the request is made again.
    Stop,
}

/// What follows errors of reads, and of everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// Of reads (`rerror`); `auto` is `report`.
    pub read: BlockdevOnError,
    /// Of writes, flushes and discards (`werror`); `auto` is `enospc`.
    pub write: BlockdevOnError,
}

impl Default for ErrorPolicy {
    fn default() -> Self {
        Self { read: BlockdevOnError::Auto, write: BlockdevOnError::Auto }
    }
}

impl ErrorPolicy {
    pub(super) fn action(self, request: Request, error: &Error) -> Action {
        let wanted = match (request, self.read, self.write) {
            (Request::Read, BlockdevOnError::Auto, _) => BlockdevOnError::Report,
            (Request::Read, read, _) => read,
            (_, _, BlockdevOnError::Auto) => BlockdevOnError::Enospc,
            (_, _, write) => write,
        };
        match wanted {
            BlockdevOnError::Ignore => Action::Ignore,
            BlockdevOnError::Stop => Action::Stop,
            BlockdevOnError::Enospc if error.kind() == ErrorKind::NoSpace => Action::Stop,
            BlockdevOnError::Report | BlockdevOnError::Enospc | BlockdevOnError::Auto => {
                Action::Report
            }
        }
    }
}
