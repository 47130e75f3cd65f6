//! Locks that keep two programs from damaging one image, understood by QEMU and understanding it.
//!
//! Every user of a file says what it does with it and what it lets others do meanwhile: the
//! [`Permissions`] taken and shared. Both are published as shared locks on single bytes of the
//! file (open file description locks: they belong to the open file, not to the process). Byte
//! 100 + *n* is locked by who takes permission *n*, byte 200 + *n* by who does not share it. Who
//! wants a permission looks whether anybody holds its 200 + *n*; who does not want to share one,
//! whether anybody holds its 100 + *n*. Bytes are locked first and looked at second, so that of
//! two who come at once at least one notices. Nothing is locked against reading or writing the
//! data itself, and nothing outlives a crash.
//!
//! The bytes and the order were learnt by watching the QEMU tools (version 10.0) lock files.

use super::error::os;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use sectora_core::graph::{Claim, Permissions};
use sectora_core::{Error, ErrorKind, Result};
use std::fs::File;

const TAKEN: i64 = 100;
const NOT_SHARED: i64 = 200;

/// Each permission of a set: the number of the byte that stands for it, and its name in messages.
fn named(set: Permissions) -> impl Iterator<Item = (i64, String)> {
    set.iter().map(|one| (i64::from(one.bits().trailing_zeros()), one.in_words()))
}

fn not_shared(claim: Claim) -> Permissions {
    Permissions::all() - claim.shared
}

/// Whether files are locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locking {
    /// Never.
    Off,
    /// Where the file system can.
    #[default]
    Auto,
    /// As `Auto`, but others may do what they like (`-U`): what is read may be inconsistent. Only
    /// for reading.
    Share,
}

/// The locks held on one open file. Who owns the file releases them before closing it.
#[derive(Debug)]
pub(super) struct Lock {
    /// False where files are not to be locked, or cannot be.
    on: bool,
    held: Claim,
}

impl Lock {
    /// No lock, and never one.
    pub(super) const OFF: Self = Self { on: false, held: Claim::NONE };

    /// Takes `claim` on the open `file`, called `name`. A file system without locks grants it.
    pub(super) fn take(file: &File, name: &str, claim: Claim) -> Result<Self> {
        // What is there to be found does not matter, only that the question is understood.
        let mut lock = Self { on: probe(file, 0, 0).is_ok(), held: Claim::NONE };
        lock.change(file, name, claim)?;
        Ok(lock)
    }

    /// Changes to `claim`. On an error the old claim stands.
    pub(super) fn change(&mut self, file: &File, name: &str, claim: Claim) -> Result<()> {
        if !self.on {
            return Ok(());
        }
        // First everything that either claim needs, then look, then let go of what is not needed.
        let both =
            Claim { taken: self.held.taken | claim.taken, shared: self.held.shared & claim.shared };
        let result = publish(file, name, self.held, both).and_then(|()| look(file, name, claim));
        let keep = if result.is_ok() { claim } else { self.held };
        withdraw(file, both, keep);
        self.held = keep;
        result
    }

    /// Gives everything back. Closing the file is not enough: the kernel may hold it open a little
    /// longer for an operation that has just settled.
    pub(super) fn release(&mut self, file: &File) {
        if self.on {
            withdraw(file, self.held, Claim::NONE);
            self.held = Claim::NONE;
        }
    }

    /// True where nobody who keeps to the locks can change the file beside us.
    pub(super) fn is_exclusive(&self) -> bool {
        self.on && !self.held.shared.intersects(Permissions::WRITE | Permissions::RESIZE)
    }
}

/// The bytes of a claim.
fn bytes(claim: Claim) -> impl Iterator<Item = i64> {
    let taken = named(claim.taken).map(|(n, _)| TAKEN + n);
    taken.chain(named(not_shared(claim)).map(|(n, _)| NOT_SHARED + n))
}

/// Locks the bytes of `to` that `from` does not lock.
fn publish(file: &File, name: &str, from: Claim, to: Claim) -> Result<()> {
    for byte in bytes(to).filter(|byte| !bytes(from).any(|b| b == *byte)) {
        set(file, byte, libc::F_RDLCK).map_err(|e| match e {
            // Only somebody who is not QEMU and not us locks these bytes for himself alone.
            Errno::EAGAIN | Errno::EACCES => in_use(name, &format!("Failed to lock byte {byte}")),
            e => os(e, format!("Failed to lock byte {byte} of '{name}'")),
        })?;
    }
    Ok(())
}

/// Unlocks the bytes of `from` that `to` does not lock. It cannot fail in a way that matters: the
/// bytes go with the file.
fn withdraw(file: &File, from: Claim, to: Claim) {
    for byte in bytes(from).filter(|byte| !bytes(to).any(|b| b == *byte)) {
        let _ = set(file, byte, libc::F_UNLCK);
    }
}

/// Refuses where somebody else minds what `claim` takes, or takes what it does not share.
fn look(file: &File, name: &str, claim: Claim) -> Result<()> {
    let wanted = named(claim.taken).map(|(n, what)| (NOT_SHARED + n, "", what));
    let minded = named(not_shared(claim)).map(|(n, what)| (TAKEN + n, "shared ", what));
    for (byte, shared, what) in wanted.chain(minded) {
        let free = probe(file, byte, 1)
            .map_err(|e| os(e, format!("Failed to look for locks of '{name}'")))?;
        if !free {
            return Err(in_use(name, &format!("Failed to get {shared}\"{what}\" lock")));
        }
    }
    Ok(())
}

fn in_use(name: &str, what: &str) -> Error {
    Error::new(ErrorKind::InUse, format!("{what}\nIs another process using the image [{name}]?"))
}

/// True where nobody else holds a lock on the bytes.
fn probe(file: &File, start: i64, len: i64) -> nix::Result<bool> {
    let mut lock = range(start, len, libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) == libc::F_UNLCK)
}

fn set(file: &File, byte: i64, kind: i32) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(byte, 1, kind))).map(drop)
}

fn range(start: i64, len: i64, kind: i32) -> libc::flock {
    // The constants are small; the fields of the structure are what the system's header says.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sectora_core::io::Access;
    use std::path::PathBuf;

    struct Temp(PathBuf);

    impl Temp {
        fn new() -> Self {
            let mut salt = [0; 8];
            crate::runtime::fill_random(&mut salt);
            let path = std::env::temp_dir().join(format!("lock-{:x}", u64::from_ne_bytes(salt)));
            File::create(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> File {
            File::options().read(true).write(true).open(&self.0).unwrap()
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// Two open descriptions of one process are as foreign to each other as two processes.
    #[test]
    fn claims_meet_as_permissions_taken_and_shared() {
        let temp = Temp::new();
        let (a, b) = (temp.open(), temp.open());
        let (ro, rw) = (Access::ReadOnly, Access::ReadWrite);
        for (first, second, refused) in [
            (Claim::image(ro), Claim::image(ro), None),
            (Claim::image(ro), Claim::image(rw), Some("Failed to get \"write\" lock")),
            (Claim::image(rw), Claim::image(ro), Some("Failed to get shared \"write\" lock")),
            (Claim::image(rw), Claim::raw(ro), None),
            (Claim::image(rw), Claim::raw(rw), Some("Failed to get \"write\" lock")),
            (Claim::raw(rw), Claim::raw(rw), None),
            (Claim::raw(rw), Claim::image(ro), Some("Failed to get shared \"write\" lock")),
            (Claim::image(rw), Claim::NONE, None),
        ] {
            let mut held = Lock::take(&a, "x", first).unwrap();
            match (Lock::take(&b, "x", second), refused) {
                (Ok(mut lock), None) => lock.release(&b),
                (Err(e), Some(text)) => {
                    let hint = "\nIs another process using the image [x]?";
                    assert_eq!(e.to_string(), format!("{text}{hint}"));
                    assert_eq!(e.kind(), ErrorKind::InUse);
                }
                (got, want) => panic!("{first:?} {second:?}: {got:?}, not {want:?}"),
            }
            held.release(&a);
        }
    }

    #[test]
    fn a_refused_change_leaves_the_claim_as_it_was() {
        let temp = Temp::new();
        let (a, b) = (temp.open(), temp.open());
        let reader = Claim::image(Access::ReadOnly);
        let mut first = Lock::take(&a, "x", reader).unwrap();
        let mut second = Lock::take(&b, "x", reader).unwrap();
        assert!(first.change(&a, "x", Claim::image(Access::ReadWrite)).is_err());
        assert_eq!(first.held, reader);
        // Had it kept the bytes of the refused claim, the other could not stay a reader.
        second.change(&b, "x", Claim::NONE).unwrap();
        second.change(&b, "x", reader).unwrap();
        second.release(&b);
        first.change(&a, "x", Claim::image(Access::ReadWrite)).unwrap();
        assert!(first.is_exclusive());
    }
}
