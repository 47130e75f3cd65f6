//! The tables: every command, event and type.

use super::schema::{Part, Qapi, Schema, Shape, TypeRef};
use super::validate::{Invalid, validate};
use super::{
    BlockGraphInfo, BlockIOThrottle, BlockMeasureInfo, DummyBlockCoreForceArrays, EndianMode,
    GrabToggleKeys, HostMemPolicy, HumanReadableText, ImageCheck,
    ImageInfoSpecificQCow2EncryptionBase, JobVerb, MapEntry, MonitorOptions, NbdServerOptions,
    NetFilterDirection, NetworkAddressFamily, OffAutoPCIBAR, OnOffSplit, PCIELinkSpeed,
    PCIELinkWidth, QCryptoAkCipherKeyType, QCryptoAkCipherOptions, QCryptoBlockInfo,
    QCryptoBlockInfoBase, QCryptoBlockOpenOptions, QCryptoBlockOptionsBase, block_core,
    block_export, char, control, descriptors, introspect, job, machine, qom, transaction,
};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use serde_json::{Map, Value};

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Its arguments; none where it takes none.
    pub arguments: Option<TypeRef>,
    /// What it returns; none where that is an empty object.
    pub returns: Option<TypeRef>,
    /// `deprecated`, `unstable` and what programs may ask for.
    pub features: &'static [&'static str],
}

impl Command {
    /// Holds arguments against its type; see [`validate`](super::validate()).
    ///
    /// # Errors
    /// What is missing, unexpected, or of the wrong type.
    pub fn validate(&self, arguments: &mut Map<String, Value>) -> Result<(), Invalid> {
        match self.arguments {
            Some(kind) => validate(kind(), arguments),
            None => arguments.keys().next().map_or(Ok(()), |name| Err(Invalid::unexpected(name))),
        }
    }

    /// One that takes nothing and returns nothing.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, arguments: None, returns: None, features: &[] }
    }

    /// The type whose members are its arguments.
    pub(crate) const fn takes<T: Qapi>(mut self) -> Self {
        self.arguments = Some(T::schema);
        self
    }

    /// The type of what it returns.
    pub(crate) const fn gives<T: Qapi>(mut self) -> Self {
        self.returns = Some(T::schema);
        self
    }

    /// Its features.
    pub(crate) const fn with(mut self, features: &'static [&'static str]) -> Self {
        self.features = features;
        self
    }
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Its name.
    pub name: &'static str,
    /// What belongs to it; none where that is nothing.
    pub data: Option<TypeRef>,
}

impl Event {
    /// One to which nothing belongs.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, data: None }
    }

    /// The type whose members belong to it.
    pub(crate) const fn has<T: Qapi>(mut self) -> Self {
        self.data = Some(T::schema);
        self
    }
}

/// Types that no command and no event has: the tools print them, or only other programs use them.
static OTHERS: &[TypeRef] = &[
    BlockGraphInfo::schema,
    BlockIOThrottle::schema,
    DummyBlockCoreForceArrays::schema,
    EndianMode::schema,
    GrabToggleKeys::schema,
    HostMemPolicy::schema,
    HumanReadableText::schema,
    ImageCheck::schema,
    ImageInfoSpecificQCow2EncryptionBase::schema,
    QCryptoBlockInfoBase::schema,
    QCryptoBlockOptionsBase::schema,
    BlockMeasureInfo::schema,
    MapEntry::schema,
    MonitorOptions::schema,
    NbdServerOptions::schema,
    NetFilterDirection::schema,
    NetworkAddressFamily::schema,
    OffAutoPCIBAR::schema,
    OnOffSplit::schema,
    PCIELinkSpeed::schema,
    PCIELinkWidth::schema,
    JobVerb::schema,
    QCryptoAkCipherKeyType::schema,
    QCryptoAkCipherOptions::schema,
    QCryptoBlockInfo::schema,
    QCryptoBlockOpenOptions::schema,
];

/// All commands of the schema, by file.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    let files = [
        job::COMMANDS,
        block_core::COMMANDS,
        block_export::COMMANDS,
        char::COMMANDS,
        transaction::COMMANDS,
        control::COMMANDS,
        introspect::COMMANDS,
        qom::COMMANDS,
    ];
    files.into_iter().flatten()
}

/// All events of the schema, by file.
pub fn events() -> impl Iterator<Item = &'static Event> {
    [job::EVENTS, block_core::EVENTS, block_export::EVENTS, char::EVENTS].into_iter().flatten()
}

/// The events of a machine, which only those with named backends tell.
pub fn machine_events() -> impl Iterator<Item = &'static Event> {
    machine::EVENTS.iter()
}

/// The command of that name.
#[must_use]
pub fn command(name: &str) -> Option<&'static Command> {
    commands().chain(machine::COMMANDS).chain(descriptors::COMMANDS).find(|c| c.name == name)
}

/// The event of that name.
#[must_use]
pub fn event(name: &str) -> Option<&'static Event> {
    events().chain(machine::EVENTS).find(|e| e.name == name)
}

/// All types with a name, by name. Those that only hold the arguments of a command or the data of an
/// event have names of ours.
#[must_use]
pub fn types() -> Vec<&'static Schema> {
    let mut found = BTreeMap::new();
    for root in OTHERS.iter().chain(commands().filter_map(|c| c.returns.as_ref())) {
        collect(root(), &mut found);
    }
    for root in commands().filter_map(|c| c.arguments).chain(events().filter_map(|e| e.data)) {
        collect(root(), &mut found);
    }
    found.into_values().collect()
}

fn collect(schema: &'static Schema, found: &mut BTreeMap<&'static str, &'static Schema>) {
    let is_plain = matches!(schema.shape, Shape::Builtin(_) | Shape::Array(_));
    if !schema.name.is_empty() && !is_plain && found.insert(schema.name, schema).is_some() {
        return;
    }
    each_reference(schema, &mut |kind| collect(kind, found));
}

/// Hands over every type that a type refers to.
fn each_reference(schema: &'static Schema, to: &mut dyn FnMut(&'static Schema)) {
    match &schema.shape {
        Shape::Builtin(_) | Shape::Enum(_) => {}
        Shape::Array(element) => to(element()),
        Shape::Alternate(choices) => choices.iter().for_each(|c| to((c.kind)())),
        Shape::Union { tag, variants } => {
            to((tag.kind)());
            variants.iter().filter_map(|v| v.kind).for_each(|kind| to(kind()));
        }
        Shape::Object(parts) => {
            for part in *parts {
                match part {
                    Part::Base(base) => to(base()),
                    Part::Member(member) => to((member.kind)()),
                    // The type of the branches has no name in the schema.
                    Part::Branches(union) => each_reference(union(), to),
                }
            }
        }
    }
}
