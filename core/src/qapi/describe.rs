//! The answer to `query-qmp-schema`, made from the tables.
//!
//! Types are numbered in the order in which they are first referred to, as QEMU hides their names:
//! clients look at what a type is, not at how it is called. Whole numbers of all widths are `int`,
//! members of bases stand with the others, and a branch without members is the empty object.

use super::schema::{Builtin, Schema, Shape, TypeRef, holds};
use super::tables::{Command, Event};
use super::{
    JSONType, SchemaInfo, SchemaInfoAlternate, SchemaInfoAlternateMember, SchemaInfoArray,
    SchemaInfoBranch, SchemaInfoBuiltin, SchemaInfoCommand, SchemaInfoEnum, SchemaInfoEnumMember,
    SchemaInfoEvent, SchemaInfoObject, SchemaInfoObjectMember, SchemaInfoObjectVariant,
};
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde_json::Value;

/// Describes commands, each with whether it may be called out of band, and events, and all types
/// that they need.
pub fn describe(
    commands: impl IntoIterator<Item = (&'static Command, bool)>,
    events: impl IntoIterator<Item = &'static Event>,
) -> Vec<SchemaInfo> {
    let mut types = Types::default();
    let mut out = Vec::new();
    for (command, out_of_band) in commands {
        out.push(SchemaInfo {
            name: command.name.to_string(),
            meta_type: SchemaInfoBranch::Command(SchemaInfoCommand {
                arg_type: types.object(command.arguments),
                ret_type: types.object(command.returns),
                allow_oob: out_of_band.then_some(true),
            }),
            features: features(command.features),
        });
    }
    for event in events {
        out.push(SchemaInfo {
            name: event.name.to_string(),
            meta_type: SchemaInfoBranch::Event(SchemaInfoEvent {
                arg_type: types.object(event.data),
            }),
            features: None,
        });
    }
    while let Some((name, schema)) = types.waiting.pop_front() {
        let meta_type = types.describe(schema);
        let features = schema.and_then(|s| features(s.features));
        out.push(SchemaInfo { name, meta_type, features });
    }
    out
}

/// The types that have been referred to.
#[derive(Default)]
struct Types {
    /// The number of each, by what identifies it.
    numbers: BTreeMap<String, usize>,
    /// Those that are named without a number.
    named: BTreeSet<String>,
    /// Those that are still to be described; none is the empty object.
    waiting: VecDeque<(String, Option<&'static Schema>)>,
}

impl Types {
    /// The name of a type that may be the empty object.
    fn object(&mut self, kind: Option<TypeRef>) -> String {
        match kind {
            Some(kind) => self.name(kind()),
            None => self.number(String::new(), None),
        }
    }

    /// The name of a type.
    fn name(&mut self, schema: &'static Schema) -> String {
        // A list is told before its elements, though these have their number first.
        let position = self.waiting.len();
        let name = match &schema.shape {
            Shape::Builtin(kind) => builtin(*kind).0.to_string(),
            Shape::Array(element) => format!("[{}]", self.name(element())),
            _ => return self.number(schema.key(), Some(schema)),
        };
        if self.named.insert(name.clone()) {
            self.waiting.insert(position, (name.clone(), Some(schema)));
        }
        name
    }

    fn number(&mut self, key: String, schema: Option<&'static Schema>) -> String {
        let next = self.numbers.len();
        let number = *self.numbers.entry(key).or_insert(next);
        let name = number.to_string();
        if number == next {
            self.waiting.push_back((name.clone(), schema));
        }
        name
    }

    fn describe(&mut self, schema: Option<&'static Schema>) -> SchemaInfoBranch {
        let Some(schema) = schema else {
            return SchemaInfoBranch::Object(SchemaInfoObject {
                members: Vec::new(),
                tag: None,
                variants: None,
            });
        };
        match &schema.shape {
            Shape::Builtin(kind) => {
                SchemaInfoBranch::Builtin(SchemaInfoBuiltin { json_type: builtin(*kind).1 })
            }
            Shape::Enum(values) => {
                let there = || values.iter().filter(|v| holds(v.condition));
                let member = |v: &super::schema::EnumValue| SchemaInfoEnumMember {
                    name: v.name.to_string(),
                    features: features(v.features),
                };
                SchemaInfoBranch::Enum(SchemaInfoEnum {
                    members: there().map(member).collect(),
                    values: there().map(|v| v.name.to_string()).collect(),
                })
            }
            Shape::Array(element) => {
                SchemaInfoBranch::Array(SchemaInfoArray { element_type: self.name(element()) })
            }
            Shape::Alternate(choices) => SchemaInfoBranch::Alternate(SchemaInfoAlternate {
                members: choices
                    .iter()
                    .map(|c| SchemaInfoAlternateMember { r#type: self.name((c.kind)()) })
                    .collect(),
            }),
            Shape::Object(_) | Shape::Union { .. } => {
                SchemaInfoBranch::Object(self.describe_object(schema))
            }
        }
    }

    fn describe_object(&mut self, schema: &'static Schema) -> SchemaInfoObject {
        let members = schema.members().into_iter().filter(|m| holds(m.condition));
        let members = members.map(|m| SchemaInfoObjectMember {
            name: m.name.to_string(),
            r#type: self.name((m.kind)()),
            default: m.optional.then_some(Value::Null),
            features: features(m.features),
        });
        let members = members.collect();
        let Some((tag, variants)) = schema.branches() else {
            return SchemaInfoObject { members, tag: None, variants: None };
        };
        let is_value = |case| match &(tag.kind)().shape {
            Shape::Enum(values) => values.iter().any(|v| v.name == case && holds(v.condition)),
            _ => true,
        };
        let variants = variants.iter().filter(|v| holds(v.condition) && is_value(v.case));
        let variants = variants.map(|v| SchemaInfoObjectVariant {
            case: v.case.to_string(),
            r#type: self.object(v.kind),
        });
        let variants = Some(variants.collect());
        SchemaInfoObject { members, tag: Some(tag.name.to_string()), variants }
    }
}

/// The name of a plain type, and what it is in JSON.
fn builtin(kind: Builtin) -> (&'static str, JSONType) {
    match kind {
        Builtin::Str => ("str", JSONType::String),
        Builtin::Bool => ("bool", JSONType::Boolean),
        Builtin::Null => ("null", JSONType::Null),
        Builtin::Number => ("number", JSONType::Number),
        Builtin::Any => ("any", JSONType::Value),
        Builtin::Int | Builtin::Size | Builtin::Uint64 | Builtin::Ranged(..) => {
            ("int", JSONType::Int)
        }
    }
}

fn features(list: &[&str]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.iter().map(|&f| f.into()).collect())
}
