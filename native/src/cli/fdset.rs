//! Descriptors that others have opened and handed over: sets of them, which `/dev/fdset/ID` names,
//! and those that have a name, for addresses of sockets.
//!
//! Opening `/dev/fdset/ID` is opening the first descriptor of the set that can do what is asked for,
//! and no more: read, or read and write, around the page cache or through it. The set stays while
//! files are open that were opened by it, even when it is empty.

use crate::storage::{FileDevice, FileOptions, fdset_number};
use rustix::fs::{OFlags, fcntl_getfl};
use sectora_core::io::Access;
use sectora_core::monitor::{QmpError, QmpResult};
use sectora_core::qapi::{AddfdInfo, FdsetFdInfo, FdsetInfo};
use sectora_core::sync::Mutex;
use sectora_core::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// What was handed over.
#[derive(Debug, Default)]
pub(super) struct FdSets {
    sets: Mutex<BTreeMap<i64, Set>>,
    named: Mutex<BTreeMap<String, OwnedFd>>,
}

#[derive(Debug, Default)]
struct Set {
    members: Vec<Member>,
    /// Held by each file that was opened by the set.
    users: Arc<()>,
}

#[derive(Debug)]
struct Member {
    fd: OwnedFd,
    opaque: Option<String>,
}

impl Member {
    fn number(&self) -> i64 {
        self.fd.as_raw_fd().into()
    }
}

/// Forgets sets that nobody can tell from ones that never were.
fn tidy(sets: &mut BTreeMap<i64, Set>) {
    sets.retain(|_, set| !set.members.is_empty() || Arc::strong_count(&set.users) > 1);
}

impl FdSets {
    /// Puts a descriptor into a set, or into a new one.
    ///
    /// # Errors
    /// Where the set's number is none.
    pub(super) fn add(
        &self,
        fd: OwnedFd,
        id: Option<i64>,
        opaque: Option<String>,
    ) -> QmpResult<AddfdInfo> {
        let mut sets = self.sets.lock();
        tidy(&mut sets);
        let fdset_id = match id {
            Some(..0) => {
                let what = "Parameter 'fdset-id' expects a non-negative value";
                return Err(QmpError::generic(what));
            }
            Some(id) => id,
            // The numbers in use are in order: the first that is not where it would stand is free.
            None => {
                let gap = (0..).zip(sets.keys()).find(|(free, taken)| free != *taken);
                gap.map_or(sets.len() as i64, |(free, _)| free)
            }
        };
        let member = Member { fd, opaque };
        let info = AddfdInfo { fdset_id, fd: member.number() };
        sets.entry(fdset_id).or_default().members.push(member);
        Ok(info)
    }

    /// Takes a descriptor out of a set, or all.
    ///
    /// # Errors
    /// Where there is no such set or descriptor.
    pub(super) fn remove(&self, id: i64, fd: Option<i64>) -> QmpResult<()> {
        let mut sets = self.sets.lock();
        tidy(&mut sets);
        let what = match fd {
            Some(fd) => format!("fdset-id:{id}, fd:{fd}"),
            None => format!("fdset-id:{id}"),
        };
        let missing = || QmpError::generic(format!("File descriptor named '{what}' not found"));
        let set = sets.get_mut(&id).ok_or_else(missing)?;
        let before = set.members.len();
        set.members.retain(|member| fd.is_some_and(|fd| member.number() != fd));
        match fd {
            Some(_) if set.members.len() == before => Err(missing()),
            _ => Ok(()),
        }
    }

    /// The sets, the one with the highest number first.
    pub(super) fn query(&self) -> Vec<FdsetInfo> {
        let mut sets = self.sets.lock();
        tidy(&mut sets);
        let info =
            |member: &Member| FdsetFdInfo { fd: member.number(), opaque: member.opaque.clone() };
        let info = |(id, set): (&i64, &Set)| FdsetInfo {
            fdset_id: *id,
            fds: set.members.iter().map(info).collect(),
        };
        sets.iter().rev().map(info).collect()
    }

    /// Opens the file called `name`, which names a set.
    ///
    /// # Errors
    /// Where there is no such set (`NotFound`), or nothing in it that was opened as `options` want it
    /// (`Denied`); those of [`FileDevice::from_file`].
    pub(super) fn open(&self, name: &str, options: FileOptions) -> Result<FileDevice> {
        let id = match fdset_number(name) {
            Some(number) => number?,
            None => return Err(Error::bug(format!("'{name}' names no set of descriptors"))),
        };
        let kept = OFlags::RWMODE | OFlags::DIRECT;
        let mut wanted = match options.access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        wanted.set(OFlags::DIRECT, options.direct);
        let (fd, users) = {
            let sets = self.sets.lock();
            let set = sets.get(&id).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("Failed to find fdset {name}"))
            })?;
            let fits = |member: &&Member| {
                fcntl_getfl(&member.fd).is_ok_and(|flags| flags & kept == wanted)
            };
            let member = set.members.iter().find(fits).ok_or_else(|| {
                let bits = wanted.bits();
                Error::denied(format!(
                    "Failed to find file descriptor with matching flags={bits:#x}"
                ))
            })?;
            (member.fd.try_clone(), set.users.clone())
        };
        let fd = fd.map_err(|e| Error::io(format!("Could not open '{name}': {e}")))?;
        FileDevice::from_file(File::from(fd), name, &FileOptions { user: Some(users), ..options })
    }

    /// Gives a descriptor a name; one that had it is closed.
    ///
    /// # Errors
    /// Where the name could be taken for a number.
    pub(super) fn name(&self, name: &str, fd: OwnedFd) -> QmpResult<()> {
        if name.starts_with(|c: char| c.is_ascii_digit()) {
            let what = "Parameter 'fdname' expects a name not starting with a digit";
            return Err(QmpError::generic(what));
        }
        self.named.lock().insert(name.to_owned(), fd);
        Ok(())
    }

    /// Closes the descriptor of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn close(&self, name: &str) -> QmpResult<()> {
        let missing = || QmpError::generic(format!("File descriptor named '{name}' not found"));
        self.named.lock().remove(name).map(drop).ok_or_else(missing)
    }

    /// Hands over the descriptor of that name.
    ///
    /// # Errors
    /// Where there is none.
    pub(super) fn take(&self, name: &str) -> QmpResult<OwnedFd> {
        let missing =
            || QmpError::generic(format!("File descriptor named '{name}' has not been found"));
        self.named.lock().remove(name).ok_or_else(missing)
    }
}
