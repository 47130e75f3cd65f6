//! Commands that come with descriptors: `add-fd` and its kin, `getfd` and `closefd`.

use crate::cli::failure::Failure;
use crate::cli::fdset::FdSets;
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_getfd};
use sectora_core::io::BoxFuture;
use sectora_core::monitor::{Arguments, Call, Commands, QmpError, QmpResult, begin};
use sectora_core::qapi::{AddFd, Closefd, Getfd, RemoveFd, parse};
use sectora_core::sync::Mutex;
use serde_json::{Map, Value, json};
use std::future::ready;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// The descriptors that came last over a connection and that no command has taken.
#[derive(Debug, Default)]
pub(super) struct Inbox(Mutex<Vec<OwnedFd>>);

impl Inbox {
    /// Some have come; those that came before are closed.
    pub(super) fn put(&self, fds: Vec<OwnedFd>) {
        // The lock is not held while they are closed.
        let _before = std::mem::replace(&mut *self.0.lock(), fds);
    }

    /// The first; the others are closed.
    fn take(&self) -> QmpResult<OwnedFd> {
        let all = std::mem::take(&mut *self.0.lock());
        let missing = || QmpError::generic("No file descriptor supplied via SCM_RIGHTS");
        all.into_iter().next().ok_or_else(missing)
    }
}

const NAMES: [&str; 5] = ["add-fd", "remove-fd", "query-fdsets", "getfd", "closefd"];

/// The commands, for one connection.
#[derive(Debug)]
pub(super) struct DescriptorCommands {
    pub(super) sets: Arc<FdSets>,
    pub(super) inbox: Arc<Inbox>,
}

impl DescriptorCommands {
    fn carry_out(&self, name: &str, arguments: Map<String, Value>) -> QmpResult<Value> {
        match name {
            "add-fd" => {
                let AddFd { fdset_id, opaque } = parse(arguments)?;
                let info = self.sets.add(self.inbox.take()?, fdset_id, opaque)?;
                return Ok(json!(info));
            }
            "remove-fd" => {
                let RemoveFd { fdset_id, fd } = parse(arguments)?;
                self.sets.remove(fdset_id, fd)?;
            }
            "query-fdsets" => {
                Arguments::new(arguments).end()?;
                return Ok(json!(self.sets.query()));
            }
            "getfd" => {
                let Getfd { fdname } = parse(arguments)?;
                self.sets.name(&fdname, self.inbox.take()?)?;
            }
            _ => {
                let Closefd { fdname } = parse(arguments)?;
                self.sets.close(&fdname)?;
            }
        }
        Ok(json!({}))
    }
}

impl Commands for DescriptorCommands {
    fn names(&self) -> Vec<&'static str> {
        NAMES.to_vec()
    }

    fn execute<'a>(&'a self, name: &'a str, call: Call) -> Option<BoxFuture<'a, QmpResult<Value>>> {
        begin(&NAMES, name, || ready(self.carry_out(name, call.arguments)))
    }
}

/// `--add-fd fd=N,set=ID[,opaque=TEXT]`: a descriptor that whoever started the program has opened.
pub(super) fn add_from_line(sets: &FdSets, members: Map<String, Value>) -> Result<(), Failure> {
    let mut given = Arguments::new(members);
    let mut number = |name: &str| -> Result<i64, Failure> {
        let text = given.text(name).map_err(|e| Failure::new(e.desc))?;
        let needed = || Failure::new(format!("{name} option is required and must be non-negative"));
        let no_number = |_| Failure::new(format!("Parameter '{name}' expects a number"));
        let number: i64 = text.ok_or_else(needed)?.parse().map_err(no_number)?;
        if number < 0 { Err(needed()) } else { Ok(number) }
    };
    let (fd, set) = (number("fd")?, number("set")?);
    let rest = |mut given: Arguments| -> QmpResult<_> {
        let opaque = given.text("opaque")?;
        given.end()?;
        Ok(opaque)
    };
    let opaque = rest(given).map_err(|e| Failure::new(e.desc))?;
    if fd <= 2 {
        return Err(Failure::new("fd cannot be a standard I/O stream"));
    }
    let invalid = || Failure::new("fd is not valid or already in use");
    let fd = i32::try_from(fd).map_err(|_| invalid())?;
    // SAFETY: only looked at, and copied where it is open.
    let seen = unsafe { BorrowedFd::borrow_raw(fd) };
    // What this program has opened itself is not handed over to any other.
    match fcntl_getfd(seen) {
        Ok(flags) if !flags.contains(FdFlags::CLOEXEC) => {}
        _ => return Err(invalid()),
    }
    let copy = fcntl_dupfd_cloexec(seen, 3).map_err(|e| Failure::new(e.to_string()))?;
    sets.add(copy, Some(set), opaque).map(drop).map_err(|e| Failure::new(e.desc))
}
