//! The descriptions in `core/src/qapi` against the schema: every type, command and event of it, with
//! the same members, values, branches, features and conditions.
//!
//! The wire form is made of the same definitions as the descriptions, so this holds for it too.

use super::qapi_schema::{Definition, Extras, Kind, Member, Schema};
use sectora_core::qapi::schema::{self, Part, Shape};
use std::collections::BTreeMap;

type Ours = &'static schema::Schema;

/// Schema files that are not in the folder: their types were learned from the reference daemon, and
/// `oracle` holds them against it.
const LEARNED: [&str; 2] = ["qom", "char"];

pub(crate) fn check(schema: &Schema) -> Vec<String> {
    let mut findings = Vec::new();
    let ours: BTreeMap<String, Ours> =
        sectora_core::qapi::types().into_iter().map(|t| (t.key(), t)).collect();
    for (name, &ours) in &ours {
        let file = file_of(ours);
        if LEARNED.contains(&file.as_str()) {
            continue;
        }
        let is_data = is_data_of_a_command_or_event(ours);
        match schema.get(name) {
            None if is_data => {}
            None => findings.push(format!("{name}: is not in the schema")),
            Some(d) if d.file != file => findings.push(format!("{name}: is in {}.json", d.file)),
            Some(d) => {
                let found = check_type(schema, ours, d);
                findings.extend(found.into_iter().map(|f| format!("{name}: {f}")));
            }
        }
    }
    for kind in [Kind::Struct, Kind::Enum, Kind::Union, Kind::Alternate] {
        // A struct that only wraps a branch is a part of its union here.
        let missing = schema.of_kind(kind).filter(|d| !ours.contains_key(&d.name));
        let missing = missing.filter(|d| !d.name.ends_with("Wrapper"));
        findings.extend(missing.map(|d| format!("{}: is missing", d.name)));
    }
    findings.extend(commands(schema));
    findings.extend(events(schema));
    findings
}

/// The type that only holds the arguments of a command or the data of an event has no name in the
/// schema: only its members are compared.
fn arguments(schema: &Schema, ours: Option<schema::TypeRef>, theirs: &Definition) -> Vec<String> {
    match (ours.map(|t| t()), theirs.data_name()) {
        (Some(ours), Some(name)) if ours.name == name => Vec::new(),
        (Some(ours), None) if schema.get(ours.name).is_none() => {
            members(ours.members(), theirs.members())
        }
        (None, None) if theirs.members().is_empty() => Vec::new(),
        (ours, name) => vec![format!("takes {:?}, in the schema {name:?}", ours.map(|t| t.name))],
    }
}

fn commands(schema: &Schema) -> Vec<String> {
    let mut findings = Vec::new();
    for theirs in schema.of_kind(Kind::Command) {
        let name = &theirs.name;
        let Some(ours) = sectora_core::qapi::command(name) else {
            findings.push(format!("{name}: is missing"));
            continue;
        };
        let mut found = arguments(schema, ours.arguments, theirs);
        let returns = ours.returns.map(|t| t().key());
        if returns != theirs.returns() {
            found.push(format!("returns {returns:?}, in the schema {:?}", theirs.returns()));
        }
        found.extend(extras(ours.features, None, &theirs.extras()));
        findings.extend(found.into_iter().map(|f| format!("{name}: {f}")));
    }
    let unknown = sectora_core::qapi::commands().filter(|c| schema.get(c.name).is_none());
    let unknown = unknown.filter(|c| !is_learned(c.arguments.or(c.returns)));
    findings.extend(unknown.map(|c| format!("{}: is not in the schema", c.name)));
    findings
}

fn events(schema: &Schema) -> Vec<String> {
    let mut findings = Vec::new();
    for theirs in schema.of_kind(Kind::Event) {
        let name = &theirs.name;
        let found = match sectora_core::qapi::event(name) {
            Some(ours) => arguments(schema, ours.data, theirs),
            None => vec!["is missing".into()],
        };
        findings.extend(found.into_iter().map(|f| format!("{name}: {f}")));
    }
    let unknown = sectora_core::qapi::events().filter(|e| schema.get(e.name).is_none());
    let unknown = unknown.filter(|e| !is_learned(e.data));
    findings.extend(unknown.map(|e| format!("{}: is not in the schema", e.name)));
    findings
}

/// True for a type, or a list of such, of a file that is not in the folder.
fn is_learned(kind: Option<schema::TypeRef>) -> bool {
    let Some(kind) = kind.map(|t| t()) else { return false };
    match &kind.shape {
        Shape::Array(element) => is_learned(Some(*element)),
        _ => LEARNED.contains(&file_of(kind).as_str()),
    }
}

fn is_data_of_a_command_or_event(ours: Ours) -> bool {
    let arguments = sectora_core::qapi::commands().filter_map(|c| c.arguments);
    let data = sectora_core::qapi::events().filter_map(|e| e.data);
    arguments.chain(data).any(|t| t().name == ours.name)
}

/// The schema file that a type says it is of, by its module.
fn file_of(ours: Ours) -> String {
    let module = ours.module.strip_prefix("sectora_core::qapi::").unwrap_or(ours.module);
    module.split("::").next().unwrap_or(module).replace('_', "-")
}

fn check_type(schema: &Schema, ours: Ours, theirs: &Definition) -> Vec<String> {
    let mut findings = extras(ours.features, ours.condition, &theirs.extras());
    match (&ours.shape, theirs.kind) {
        (Shape::Enum(values), Kind::Enum) => {
            let their_values = theirs.value_extras();
            let names: Vec<&str> = values.iter().map(|v| v.name).collect();
            if names != theirs.values() {
                findings.push(format!("has {names:?}, the schema {:?}", theirs.values()));
            }
            for (value, (name, their)) in values.iter().zip(&their_values) {
                let found = extras(value.features, value.condition, their);
                findings.extend(found.into_iter().map(|f| format!("'{name}': {f}")));
            }
        }
        (Shape::Object(parts), Kind::Struct) => {
            let bases: Vec<&str> = parts
                .iter()
                .filter_map(|p| if let Part::Base(base) = p { Some(base().name) } else { None })
                .collect();
            if bases != theirs.base().into_iter().collect::<Vec<_>>() {
                findings.push(format!("has the base {bases:?}, the schema {:?}", theirs.base()));
            }
            findings.extend(members(own_members(parts), theirs.members()));
        }
        (Shape::Object(_) | Shape::Union { .. }, Kind::Union) => {
            let base = theirs.base().and_then(|b| schema.get(b)).map(Definition::members);
            let base = base.unwrap_or_else(|| theirs.inline_base());
            findings.extend(members(ours.members(), base));
            findings.extend(check_union(schema, ours, theirs));
        }
        (Shape::Alternate(choices), Kind::Alternate) => {
            let mine: BTreeMap<String, String> =
                choices.iter().map(|c| (c.name.to_owned(), (c.kind)().key())).collect();
            let their: BTreeMap<String, String> =
                theirs.members().into_iter().map(|m| (m.name, m.kind)).collect();
            if mine != their {
                findings.push(format!("has {mine:?}, the schema {their:?}"));
            }
        }
        (_, kind) => findings.push(format!("is a {kind:?} in the schema")),
    }
    findings
}

fn own_members(parts: &'static [Part]) -> Vec<&'static schema::Member> {
    parts.iter().filter_map(|p| if let Part::Member(m) = p { Some(m) } else { None }).collect()
}

fn extras(features: &[&str], condition: Option<&str>, theirs: &Extras) -> Vec<String> {
    if features == theirs.features && condition == theirs.condition.as_deref() {
        return Vec::new();
    }
    vec![format!("has {features:?} and {condition:?}, the schema {theirs:?}")]
}

/// Our members against the schema's, in any order.
fn members(ours: Vec<&'static schema::Member>, theirs: Vec<Member>) -> Vec<String> {
    let mut findings = Vec::new();
    let mut theirs: BTreeMap<String, Member> =
        theirs.into_iter().map(|m| (m.name.clone(), m)).collect();
    for member in ours {
        let name = member.name;
        let Some(their) = theirs.remove(name) else {
            findings.push(format!("'{name}' is not a member"));
            continue;
        };
        if member.optional != their.optional {
            findings.push(format!("'{name}': optional: {} in the schema", their.optional));
        }
        let key = (member.kind)().key();
        // The schema has two names for the same type.
        let same = key == their.kind || (key == "int" && their.kind == "int64");
        if !same {
            findings.push(format!("'{name}': {key} for {}", their.kind));
        }
        let found = extras(member.features, member.condition, &their.extras);
        findings.extend(found.into_iter().map(|f| format!("'{name}': {f}")));
    }
    findings.extend(theirs.keys().map(|name| format!("'{name}' is missing")));
    findings
}

fn check_union(schema: &Schema, ours: Ours, theirs: &Definition) -> Vec<String> {
    let Some((tag, variants)) = ours.branches() else { return vec!["has no branches".into()] };
    let mut findings = Vec::new();
    if Some(tag.name) != theirs.discriminator() {
        findings.push(format!("the tag is {}, not {:?}", tag.name, theirs.discriminator()));
    }
    let values = schema.get((tag.kind)().name).map(Definition::values).unwrap_or_default();
    let cases: Vec<&str> = variants.iter().map(|v| v.case).collect();
    if cases != values {
        findings.push(format!("has branches for {cases:?}, the tag is one of {values:?}"));
    }
    let mut branches: BTreeMap<String, Member> =
        theirs.members().into_iter().map(|m| (m.name.clone(), m)).collect();
    for variant in variants {
        let case = variant.case;
        let their = branches.remove(case);
        let mine = variant.kind.map(|kind| kind().key());
        let kind = their.as_ref().map(|m| {
            // A struct that only wraps a value has no type of its own here.
            let wrapped = schema.get(&m.kind).filter(|_| m.kind.ends_with("Wrapper"));
            let wrapped = wrapped.map(Definition::members).unwrap_or_default();
            match &wrapped[..] {
                [data] if data.name == "data" && !data.optional => format!("{{{}}}", data.kind),
                _ => m.kind.clone(),
            }
        });
        if mine != kind {
            findings.push(format!("'{case}' holds {mine:?}, in the schema {kind:?}"));
        }
        let condition = their.and_then(|m| m.extras.condition);
        if variant.condition != condition.as_deref() {
            findings.push(format!("'{case}': the condition is {condition:?}"));
        }
    }
    findings.extend(branches.keys().map(|case| format!("the branch '{case}' is missing")));
    findings
}
