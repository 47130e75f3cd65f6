//! `introspect.json`: the schema, told to clients.

use crate::qapi::tables::Command;
use alloc::string::String;
use alloc::vec::Vec;
use sectora_derive::qapi;
use serde_json::Value;

/// What a part of the schema is.
#[qapi]
pub enum SchemaMetaType {
    /// A plain type.
    Builtin,
    /// An enumeration.
    Enum,
    /// A list.
    Array,
    /// An object.
    Object,
    /// One of several types.
    Alternate,
    /// A command.
    Command,
    /// An event.
    Event,
}

/// A part of the schema.
#[qapi]
pub struct SchemaInfo {
    /// Its name.
    pub name: String,
    /// The meta-type, and what goes with it.
    #[qapi(branches)]
    pub meta_type: SchemaInfoBranch,
    /// `deprecated` and the like.
    pub features: Option<Vec<String>>,
}

/// What goes with each `meta-type` of [`SchemaInfo`].
#[qapi(tag = "meta-type", by = SchemaMetaType)]
pub enum SchemaInfoBranch {
    /// A plain type.
    Builtin(SchemaInfoBuiltin),
    /// An enumeration.
    Enum(SchemaInfoEnum),
    /// A list.
    Array(SchemaInfoArray),
    /// An object.
    Object(SchemaInfoObject),
    /// One of several types.
    Alternate(SchemaInfoAlternate),
    /// A command.
    Command(SchemaInfoCommand),
    /// An event.
    Event(SchemaInfoEvent),
}

/// A plain type.
#[qapi]
pub struct SchemaInfoBuiltin {
    /// What it is in JSON.
    pub json_type: JSONType,
}

/// A type of JSON.
#[qapi]
pub enum JSONType {
    /// A string.
    String,
    /// A number.
    Number,
    /// A whole number.
    Int,
    /// A truth value.
    Boolean,
    /// Null.
    Null,
    /// An object.
    Object,
    /// A list.
    Array,
    /// Any.
    Value,
}

/// An enumeration.
#[qapi]
pub struct SchemaInfoEnum {
    /// Its values.
    pub members: Vec<SchemaInfoEnumMember>,
    /// Their names alone, for older clients.
    #[qapi(deprecated)]
    pub values: Vec<String>,
}

/// A value of an enumeration.
#[qapi]
pub struct SchemaInfoEnumMember {
    /// Its name.
    pub name: String,
    /// `deprecated` and the like.
    pub features: Option<Vec<String>>,
}

/// A list.
#[qapi]
pub struct SchemaInfoArray {
    /// The type of its elements.
    pub element_type: String,
}

/// An object.
#[qapi]
pub struct SchemaInfoObject {
    /// The members that it always may have.
    pub members: Vec<SchemaInfoObjectMember>,
    /// The member that decides on others.
    pub tag: Option<String>,
    /// These others.
    pub variants: Option<Vec<SchemaInfoObjectVariant>>,
}

/// A member of an object.
#[qapi]
pub struct SchemaInfoObjectMember {
    /// Its name.
    pub name: String,
    /// Its type.
    pub r#type: String,
    /// There, and always null, where it may be absent.
    pub default: Option<Value>,
    /// `deprecated` and the like.
    pub features: Option<Vec<String>>,
}

/// What goes with a value of a tag.
#[qapi]
pub struct SchemaInfoObjectVariant {
    /// The value.
    pub case: String,
    /// The type whose members come along.
    pub r#type: String,
}

/// One of several types.
#[qapi]
pub struct SchemaInfoAlternate {
    /// The types.
    pub members: Vec<SchemaInfoAlternateMember>,
}

/// A type of an alternate.
#[qapi]
pub struct SchemaInfoAlternateMember {
    /// The type.
    pub r#type: String,
}

/// A command.
#[qapi]
pub struct SchemaInfoCommand {
    /// The type of its arguments.
    pub arg_type: String,
    /// The type of what it returns.
    pub ret_type: String,
    /// Whether it may overtake others.
    pub allow_oob: Option<bool>,
}

/// An event.
#[qapi]
pub struct SchemaInfoEvent {
    /// The type of its data.
    pub arg_type: String,
}

/// The commands of `introspect.json`.
pub(crate) static COMMANDS: &[Command] =
    &[Command::new("query-qmp-schema").gives::<Vec<SchemaInfo>>()];
