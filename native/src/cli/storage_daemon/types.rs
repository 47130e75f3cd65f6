//! The types of objects: parents and properties, as lists and help tell them.

use serde_json::{Value, json};

/// A type of objects.
#[derive(Debug)]
pub(super) struct Type {
    pub(super) name: &'static str,
    parent: &'static str,
    pub(super) is_abstract: bool,
    /// Whether `--object` makes them.
    pub(super) is_made: bool,
    /// Names, and the types of their values.
    pub(super) properties: &'static [(&'static str, &'static str)],
}

const fn made(
    name: &'static str,
    parent: &'static str,
    properties: &'static [(&'static str, &'static str)],
) -> Type {
    Type { name, parent, is_abstract: false, is_made: true, properties }
}

const fn plain(name: &'static str, parent: &'static str) -> Type {
    Type { name, parent, is_abstract: false, is_made: false, properties: &[] }
}

const fn base(name: &'static str, parent: &'static str) -> Type {
    Type { name, parent, is_abstract: true, is_made: false, properties: &[] }
}

/// All types; those that are made in the order of the list.
pub(super) const TYPES: [Type; 21] = [
    made("authz-list", "authz", &[("policy", "QAuthZListPolicy"), ("rules", "QAuthZListRule")]),
    made("authz-simple", "authz", &[("identity", "string")]),
    made(
        "iothread",
        "event-loop-base",
        &[
            ("aio-max-batch", "int"),
            ("poll-grow", "int"),
            ("poll-max-ns", "int"),
            ("poll-shrink", "int"),
            ("thread-pool-max", "int"),
            ("thread-pool-min", "int"),
        ],
    ),
    made(
        "main-loop",
        "event-loop-base",
        &[("aio-max-batch", "int"), ("thread-pool-max", "int"), ("thread-pool-min", "int")],
    ),
    made(
        "secret",
        "secret_common",
        &[
            ("data", "string"),
            ("file", "string"),
            ("format", "QCryptoSecretFormat"),
            ("iv", "string"),
            ("keyid", "string"),
        ],
    ),
    made(
        "throttle-group",
        "object",
        &[
            ("limits", "ThrottleLimits"),
            ("x-bps-read", "int"),
            ("x-bps-read-max", "int"),
            ("x-bps-read-max-length", "int"),
            ("x-bps-total", "int"),
            ("x-bps-total-max", "int"),
            ("x-bps-total-max-length", "int"),
            ("x-bps-write", "int"),
            ("x-bps-write-max", "int"),
            ("x-bps-write-max-length", "int"),
            ("x-iops-read", "int"),
            ("x-iops-read-max", "int"),
            ("x-iops-read-max-length", "int"),
            ("x-iops-size", "int"),
            ("x-iops-total", "int"),
            ("x-iops-total-max", "int"),
            ("x-iops-total-max-length", "int"),
            ("x-iops-write", "int"),
            ("x-iops-write-max", "int"),
            ("x-iops-write-max-length", "int"),
        ],
    ),
    made(
        "tls-creds-x509",
        "tls-creds",
        &[
            ("dir", "string"),
            ("endpoint", "QCryptoTLSCredsEndpoint"),
            ("passwordid", "string"),
            ("priority", "string"),
            ("sanity-check", "bool"),
            ("verify-peer", "bool"),
        ],
    ),
    plain("container", "object"),
    plain("chardev-file", "chardev-fd"),
    plain("chardev-null", "chardev"),
    plain("chardev-pipe", "chardev-fd"),
    plain("chardev-ringbuf", "chardev"),
    plain("chardev-socket", "chardev"),
    plain("chardev-stdio", "chardev-fd"),
    base("object", ""),
    base("authz", "object"),
    base("chardev", "object"),
    base("chardev-fd", "chardev"),
    base("event-loop-base", "object"),
    base("secret_common", "object"),
    base("tls-creds", "object"),
];

impl Type {
    /// True for this type and those it is made from.
    pub(super) fn is_a(&self, name: &str) -> bool {
        let parent = TYPES.iter().find(|known| known.name == self.parent);
        self.name == name
            || (name == "user-creatable" && self.is_made)
            || parent.is_some_and(|parent| parent.is_a(name))
    }

    /// The schema's `ObjectTypeInfo`.
    pub(super) fn to_json(&self) -> Value {
        let mut out = json!({ "name": self.name });
        if self.is_abstract {
            out["abstract"] = true.into();
        }
        if !self.parent.is_empty() {
            out["parent"] = self.parent.into();
        }
        out
    }
}

/// The properties of the type `name`, as `ObjectPropertyInfo`.
pub(super) fn properties(name: &str) -> Vec<Value> {
    let found = TYPES.iter().find(|known| known.name == name);
    let properties = found.map(|found| found.properties).unwrap_or_default();
    properties.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect()
}

/// True where objects of the type `kind` have the property `name`.
pub(super) fn has_property(kind: &str, name: &str) -> bool {
    let found = TYPES.iter().find(|known| known.name == kind);
    found.is_some_and(|found| found.properties.iter().any(|(known, _)| *known == name))
}

/// What `--object help`, or `--object TYPE,help`, prints.
pub(super) fn help(kind: Option<&str>) -> String {
    let found =
        kind.and_then(|kind| TYPES.iter().find(|known| known.name == kind && known.is_made));
    match found {
        Some(found) => {
            let list = found.properties.iter().map(|(name, kind)| format!("  {name}=<{kind}>\n"));
            format!("{} options:\n{}", found.name, list.collect::<String>())
        }
        None => {
            let list = TYPES.iter().filter(|known| known.is_made);
            let list: String = list.map(|known| format!("  {}\n", known.name)).collect();
            format!("List of user creatable objects:\n{list}")
        }
    }
}
