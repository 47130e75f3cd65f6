//! The commands that hand over open files: those of the reference's system emulator, learned from its
//! `query-qmp-schema`. Its storage daemon has none of them.

use crate::qapi::tables::Command;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;

/// `add-fd`: puts a descriptor that came with the command into a set, which `/dev/fdset/ID` names.
#[qapi]
pub struct AddFd {
    /// The set; one that is not in use where it is not said.
    pub fdset_id: Option<i64>,
    /// What the descriptor is called.
    pub opaque: Option<String>,
}

/// Where a descriptor was put.
#[qapi]
pub struct AddfdInfo {
    /// The set.
    pub fdset_id: i64,
    /// The descriptor's number here.
    pub fd: i64,
}

/// `remove-fd`: takes descriptors out of a set. Files that were opened by them stay open.
#[qapi]
pub struct RemoveFd {
    /// The set.
    pub fdset_id: i64,
    /// The descriptor; all where it is not said.
    pub fd: Option<i64>,
}

/// A descriptor in a set.
#[qapi]
pub struct FdsetFdInfo {
    /// Its number here.
    pub fd: i64,
    /// What it is called.
    pub opaque: Option<String>,
}

/// A set of descriptors.
#[qapi]
pub struct FdsetInfo {
    /// Its number.
    pub fdset_id: i64,
    /// What is in it.
    pub fds: Vec<FdsetFdInfo>,
}

/// `getfd`: gives a descriptor that came with the command a name, for a socket's address.
#[qapi]
pub struct Getfd {
    /// The name; it begins with no digit.
    pub fdname: String,
}

/// `closefd`: closes a descriptor that has a name.
#[qapi]
pub struct Closefd {
    /// The name.
    pub fdname: String,
}

/// The commands.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("add-fd").takes::<AddFd>().gives::<AddfdInfo>(),
    Command::new("remove-fd").takes::<RemoveFd>(),
    Command::new("query-fdsets").gives::<Vec<FdsetInfo>>(),
    Command::new("getfd").takes::<Getfd>(),
    Command::new("closefd").takes::<Closefd>(),
];
