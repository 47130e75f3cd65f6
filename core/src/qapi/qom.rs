//! `qom.json`: the objects that a storage daemon can have, learned from the reference daemon: its `--object
//! TYPE,help` and `query-qmp-schema`.

use crate::qapi::tables::Command;
use crate::qapi::{
    SecretKeyringProperties, SecretProperties, ThrottleGroupProperties, TlsCredsAnonProperties,
    TlsCredsPskProperties, TlsCredsX509Properties,
};
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;
use serde_json::Value;

/// A property of an object.
#[qapi]
pub struct ObjectPropertyInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub r#type: String,
    /// What it is for.
    pub description: Option<String>,
    /// What it is where nothing is said.
    pub default_value: Option<Value>,
}

/// A type of objects.
#[qapi]
pub struct ObjectTypeInfo {
    /// Its name.
    pub name: String,
    /// Whether only types made of it have objects.
    pub r#abstract: Option<bool>,
    /// The type that it is made of.
    pub parent: Option<String>,
}

/// Whether somebody may.
#[qapi]
pub enum QAuthZListPolicy {
    /// No.
    Deny,
    /// Yes.
    Allow,
}

/// How a name is compared.
#[qapi]
pub enum QAuthZListFormat {
    /// As it is.
    Exact,
    /// As a pattern with `*` and `?`.
    Glob,
}

/// A rule about names.
#[qapi]
pub struct QAuthZListRule {
    /// The name.
    pub r#match: String,
    /// Whether it may.
    pub policy: QAuthZListPolicy,
    /// How it is compared.
    pub format: Option<QAuthZListFormat>,
}

/// Decides by rules.
#[qapi]
#[derive(Default)]
pub struct AuthZListProperties {
    /// Whether those may that no rule is about.
    pub policy: Option<QAuthZListPolicy>,
    /// The rules; the first that fits decides.
    pub rules: Option<Vec<QAuthZListRule>>,
}

/// Decides by rules in a file.
#[qapi]
pub struct AuthZListFileProperties {
    /// The path of the file.
    pub filename: String,
    /// Whether the file is read again when it changes.
    pub refresh: Option<bool>,
}

/// Decides by PAM.
#[qapi]
pub struct AuthZPAMProperties {
    /// The service of PAM.
    pub service: String,
}

/// Lets one name in.
#[qapi]
pub struct AuthZSimpleProperties {
    /// The name.
    pub identity: String,
}

/// What all event loops have.
#[qapi]
#[derive(Default)]
pub struct EventLoopBaseProperties {
    /// Requests that are handed to the system at a time; 0 is the default.
    pub aio_max_batch: Option<i64>,
    /// Threads that are kept.
    pub thread_pool_min: Option<i64>,
    /// Threads at most.
    pub thread_pool_max: Option<i64>,
}

/// A thread with an event loop.
#[qapi]
#[derive(Default)]
pub struct IothreadProperties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: EventLoopBaseProperties,
    /// For so long it asks again and again before it sleeps, in nanoseconds.
    pub poll_max_ns: Option<i64>,
    /// How that time grows; 0 is the default.
    pub poll_grow: Option<i64>,
    /// How it shrinks; 0 is at once to nothing.
    pub poll_shrink: Option<i64>,
}

/// The main event loop.
#[qapi]
#[derive(Default)]
pub struct MainLoopProperties {
    /// What it has in common with others.
    #[qapi(base)]
    pub base: EventLoopBaseProperties,
}

/// Persistent reservations by a helper with the rights for it.
#[qapi]
pub struct PrManagerHelperProperties {
    /// The helper's socket.
    pub path: String,
}

/// Where threads that are made for an object may run.
#[qapi]
#[derive(Default)]
pub struct ThreadContextProperties {
    /// The processors.
    pub cpu_affinity: Option<Vec<u16>>,
    /// The nodes, whose processors are meant.
    pub node_affinity: Option<Vec<u16>>,
}

/// A type of objects.
#[qapi]
pub enum ObjectType {
    /// Decides by rules.
    AuthzList,
    /// Decides by rules in a file.
    AuthzListfile,
    /// Decides by PAM.
    AuthzPam,
    /// Lets one name in.
    AuthzSimple,
    /// A thread with an event loop.
    Iothread,
    /// The main event loop.
    MainLoop,
    /// Persistent reservations by a helper.
    PrManagerHelper,
    /// A secret.
    Secret,
    /// A secret in the keyring of the kernel.
    #[qapi(name = "secret_keyring", cond = "CONFIG_SECRET_KEYRING")]
    SecretKeyring,
    /// Where threads may run.
    ThreadContext,
    /// Limits that nodes share.
    ThrottleGroup,
    /// Credentials without names.
    TlsCredsAnon,
    /// Credentials by a key that both sides know.
    TlsCredsPsk,
    /// Credentials by certificates.
    TlsCredsX509,
}

/// A new object.
#[qapi]
pub struct ObjectOptions {
    /// The qom-type, and what goes with it.
    #[qapi(branches)]
    pub qom_type: ObjectOptionsBranch,
    /// Its name.
    pub id: String,
}

/// What goes with each `qom-type` of [`ObjectOptions`].
#[qapi(tag = "qom-type", by = ObjectType)]
pub enum ObjectOptionsBranch {
    /// Decides by rules.
    AuthzList(AuthZListProperties),
    /// Decides by rules in a file.
    AuthzListfile(AuthZListFileProperties),
    /// Decides by PAM.
    AuthzPam(AuthZPAMProperties),
    /// Lets one name in.
    AuthzSimple(AuthZSimpleProperties),
    /// A thread with an event loop.
    Iothread(IothreadProperties),
    /// The main event loop.
    MainLoop(MainLoopProperties),
    /// Persistent reservations by a helper.
    PrManagerHelper(PrManagerHelperProperties),
    /// A secret.
    Secret(SecretProperties),
    /// A secret in the keyring of the kernel.
    #[qapi(name = "secret_keyring", cond = "CONFIG_SECRET_KEYRING")]
    SecretKeyring(SecretKeyringProperties),
    /// Where threads may run.
    ThreadContext(ThreadContextProperties),
    /// Limits that nodes share.
    ThrottleGroup(ThrottleGroupProperties),
    /// Credentials without names.
    TlsCredsAnon(TlsCredsAnonProperties),
    /// Credentials by a key that both sides know.
    TlsCredsPsk(TlsCredsPskProperties),
    /// Credentials by certificates.
    TlsCredsX509(TlsCredsX509Properties),
}

/// `qom-list`: the properties of an object.
#[qapi]
pub struct QomList {
    /// The path.
    pub path: String,
}

/// `qom-get`: a property of an object.
#[qapi]
pub struct QomGet {
    /// The path.
    pub path: String,
    /// The property.
    pub property: String,
}

/// `qom-set`: changes a property of an object.
#[qapi]
pub struct QomSet {
    /// The path.
    pub path: String,
    /// The property.
    pub property: String,
    /// What it becomes.
    pub value: Value,
}

/// `qom-list-types`: types of objects.
#[qapi]
#[derive(Default)]
pub struct QomListTypes {
    /// Those made of this type alone.
    pub implements: Option<String>,
    /// Whether those without objects are told.
    pub r#abstract: Option<bool>,
}

/// `qom-list-properties`: the properties of a type.
#[qapi]
pub struct QomListProperties {
    /// The type.
    pub typename: String,
}

/// `object-del`: an object goes.
#[qapi]
pub struct ObjectDel {
    /// Its name.
    pub id: String,
}

/// The commands of `qom.json`.
pub(crate) static COMMANDS: &[Command] = &[
    Command::new("qom-list").takes::<QomList>().gives::<Vec<ObjectPropertyInfo>>(),
    Command::new("qom-get").takes::<QomGet>().gives::<Value>(),
    Command::new("qom-set").takes::<QomSet>(),
    Command::new("qom-list-types").takes::<QomListTypes>().gives::<Vec<ObjectTypeInfo>>(),
    Command::new("qom-list-properties")
        .takes::<QomListProperties>()
        .gives::<Vec<ObjectPropertyInfo>>(),
    Command::new("object-add").takes::<ObjectOptions>(),
    Command::new("object-del").takes::<ObjectDel>(),
];
