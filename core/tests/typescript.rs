//! The types of the monitor's commands and events in TypeScript, made of their descriptions: the npm
//! package has them in `wasm/ts/qapi.ts`.
//!
//! The test fails where that file is not what this makes of the schema; with `SECTORA_WRITE=1` it
//! writes the file instead.

use sectora_core::monitor::{BackendCommands, BlockCommands, ReplicationCommands};
use sectora_core::qapi::schema::{Builtin, Member, Schema, Shape, TypeRef, holds};
use sectora_core::qapi::{self, Command};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Commands of the package's monitor that are not the engine's own.
const OTHERS: [&str; 6] = [
    "object-add",
    "object-del",
    "qmp_capabilities",
    "query-commands",
    "query-qmp-schema",
    "query-version",
];

const HEAD: &str = r#"/**
 * The types of the monitor's commands and events, by their names in QEMU's schema.
 *
 * Made from the engine's own description of the schema: `SECTORA_WRITE=1 cargo test -p sectora-core
 * --test typescript` writes this file. Types that are both given and told come twice where whole
 * numbers are in them; the ones that are told end in `Told`.
 */

/** A whole number of 64 bits in arguments; in answers and events it is a `bigint`. */
export type Int = bigint | number;

/** No members. */
export type Nothing = Record<string, never>;
"#;

/// Whether a type is in arguments, or in answers and events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    Given,
    Told,
}

#[derive(Default)]
struct Writer {
    /// Named types by way and name.
    found: BTreeMap<(&'static str, Way), &'static Schema>,
}

impl Writer {
    fn collect(&mut self, schema: &'static Schema, way: Way) {
        let plain = matches!(schema.shape, Shape::Builtin(_) | Shape::Array(_));
        let named = !schema.name.is_empty() && !plain;
        if named && self.found.insert((schema.name, way), schema).is_some() {
            return;
        }
        for kind in references(schema) {
            self.collect(kind(), way);
        }
    }

    /// The name of a type: its own, or another where it is given and told in two forms.
    fn name(&self, schema: &'static Schema, way: Way) -> String {
        let given = self.found.contains_key(&(schema.name, Way::Given));
        match way == Way::Told && given && has_numbers(schema, &mut BTreeSet::new()) {
            true => format!("{}Told", schema.name),
            false => schema.name.to_owned(),
        }
    }

    /// A use of a type.
    fn used(&self, schema: &'static Schema, way: Way) -> String {
        match &schema.shape {
            Shape::Builtin(kind) => builtin(*kind, way).to_owned(),
            Shape::Array(element) => {
                let element = self.used(element(), way);
                match element.contains([' ', '|']) {
                    true => format!("({element})[]"),
                    false => format!("{element}[]"),
                }
            }
            _ if schema.name.is_empty() => self.body(schema, way),
            _ => self.name(schema, way),
        }
    }

    /// What a type is.
    fn body(&self, schema: &'static Schema, way: Way) -> String {
        match &schema.shape {
            Shape::Enum(values) => {
                let there = values.iter().filter(|value| holds(value.condition));
                there.map(|value| format!("{:?}", value.name)).collect::<Vec<_>>().join(" | ")
            }
            Shape::Alternate(choices) => {
                let choices = choices.iter().map(|choice| self.used((choice.kind)(), way));
                choices.collect::<Vec<_>>().join(" | ")
            }
            _ => self.object(schema, way),
        }
    }

    fn object(&self, schema: &'static Schema, way: Way) -> String {
        let Some((tag, variants)) = schema.branches() else {
            return self.members(&schema.members(), way);
        };
        let own: Vec<_> =
            schema.members().into_iter().filter(|member| member.name != tag.name).collect();
        let Shape::Enum(values) = &(tag.kind)().shape else { panic!("{}: a tag", schema.name) };
        let mut branches = Vec::new();
        let mut bare = Vec::new();
        for value in values.iter().filter(|value| holds(value.condition)) {
            let of = |variant: &&qapi::schema::Variant| variant.case == value.name;
            match variants.iter().find(of).and_then(|variant| variant.kind) {
                Some(kind) => {
                    let tag = format!("{{ {}: {:?} }}", key(tag.name), value.name);
                    branches.push(format!("({tag} & {})", self.used(kind(), way)));
                }
                None => bare.push(format!("{:?}", value.name)),
            }
        }
        if !bare.is_empty() {
            branches.push(format!("{{ {}: {} }}", key(tag.name), bare.join(" | ")));
        }
        let branches = format!("(\n  | {}\n)", branches.join("\n  | "));
        match own.is_empty() {
            true => branches,
            false => format!("{} & {branches}", self.members(&own, way)),
        }
    }

    fn members(&self, members: &[&'static Member], way: Way) -> String {
        let mut out = String::from("{\n");
        for member in members.iter().filter(|member| holds(member.condition)) {
            for (feature, text) in [("deprecated", "@deprecated"), ("unstable", "Unstable.")] {
                if member.features.contains(&feature) {
                    let _ = writeln!(out, "  /** {text} */");
                }
            }
            let (name, kind) = (key(member.name), self.used((member.kind)(), way));
            let kind = kind.replace('\n', "\n  ");
            let _ = match member.optional {
                true if way == Way::Given => writeln!(out, "  {name}?: {kind} | undefined;"),
                true => writeln!(out, "  {name}?: {kind};"),
                false => writeln!(out, "  {name}: {kind};"),
            };
        }
        out.push('}');
        out
    }

    fn optional(&self, kind: Option<TypeRef>, way: Way, none: &str) -> String {
        kind.map_or(none.to_owned(), |kind| self.used(kind(), way))
    }
}

fn references(schema: &'static Schema) -> Vec<TypeRef> {
    match &schema.shape {
        Shape::Builtin(_) | Shape::Enum(_) => Vec::new(),
        Shape::Array(element) => vec![*element],
        Shape::Alternate(choices) => choices.iter().map(|choice| choice.kind).collect(),
        Shape::Object(_) | Shape::Union { .. } => {
            let there = schema.members().into_iter().filter(|member| holds(member.condition));
            let members = there.map(|member| member.kind);
            let branches = schema.branches().map(|(tag, variants)| {
                let Shape::Enum(values) = &(tag.kind)().shape else { return Vec::new() };
                let known = |case| values.iter().any(|v| v.name == case && holds(v.condition));
                variants.iter().filter(|v| known(v.case)).filter_map(|v| v.kind).collect()
            });
            // The tag is written out by its values.
            let tag = schema.branches().map(|(tag, _)| (tag.kind)().name);
            let members = members.filter(|kind| Some(kind().name) != tag);
            members.chain(branches.unwrap_or_default()).collect()
        }
    }
}

/// Whether there are whole numbers of 64 bits in a type, which look different given and told.
fn has_numbers(schema: &'static Schema, seen: &mut BTreeSet<&'static str>) -> bool {
    if let Shape::Builtin(kind) = &schema.shape {
        return builtin(*kind, Way::Given) != builtin(*kind, Way::Told);
    }
    if !schema.name.is_empty() && !seen.insert(schema.name) {
        return false;
    }
    references(schema).into_iter().any(|kind| has_numbers(kind(), seen))
}

fn builtin(kind: Builtin, way: Way) -> &'static str {
    match kind {
        Builtin::Str => "string",
        Builtin::Bool => "boolean",
        Builtin::Null => "null",
        Builtin::Number | Builtin::Ranged(..) => "number",
        Builtin::Int | Builtin::Size | Builtin::Uint64 if way == Way::Given => "Int",
        Builtin::Int | Builtin::Size | Builtin::Uint64 => "bigint",
        Builtin::Any => "unknown",
    }
}

/// A name as a member: quoted where it has to be.
fn key(name: &str) -> String {
    match name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

/// The whole file.
fn typescript() -> String {
    let mut writer = Writer::default();
    let engine = BlockCommands::NAMES.iter().copied().chain(BackendCommands::NAMES);
    let names: BTreeSet<&str> = engine.chain(ReplicationCommands::NAMES).chain(OTHERS).collect();
    let commands: Vec<&Command> =
        names.iter().map(|name| qapi::command(name).expect("a command of the schema")).collect();
    for command in &commands {
        command.arguments.iter().for_each(|kind| writer.collect(kind(), Way::Given));
        command.returns.iter().for_each(|kind| writer.collect(kind(), Way::Told));
    }
    let mut events: Vec<_> = qapi::events().chain(qapi::machine_events()).collect();
    events.sort_by_key(|event| event.name);
    for event in &events {
        event.data.iter().for_each(|kind| writer.collect(kind(), Way::Told));
    }
    let mut out = HEAD.to_owned();
    out.push_str(
        "\n/** Commands: what they take and what they return. */\nexport interface Commands {\n",
    );
    for command in commands {
        if command.features.contains(&"deprecated") {
            out.push_str("  /** @deprecated */\n");
        }
        let arguments = writer.optional(command.arguments, Way::Given, "Nothing");
        let returns = writer.optional(command.returns, Way::Told, "Nothing");
        let name = key(command.name);
        let _ = writeln!(out, "  {name}: {{ arguments: {arguments}; returns: {returns} }};");
    }
    out.push_str("}\n\n/** Events: what belongs to them. */\nexport interface Events {\n");
    for event in events {
        let data = writer.optional(event.data, Way::Told, "undefined");
        let _ = writeln!(out, "  {}: {data};", key(event.name));
    }
    out.push_str("}\n");
    let mut written = BTreeSet::new();
    for ((_, way), schema) in &writer.found {
        let name = writer.name(schema, *way);
        if !written.insert(name.clone()) {
            continue;
        }
        let body = writer.body(schema, *way);
        let is_plain = matches!(schema.shape, Shape::Object(_)) && schema.branches().is_none();
        let _ = match is_plain {
            true => write!(out, "\nexport interface {name} {body}\n"),
            false => write!(out, "\nexport type {name} = {body};\n"),
        };
    }
    out
}

#[test]
fn the_packages_types_are_those_of_the_schema() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wasm/ts/qapi.ts");
    let made = typescript();
    if std::env::var_os("SECTORA_WRITE").is_some() {
        std::fs::write(&file, &made).expect("the file can be written");
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(there == made, "wasm/ts/qapi.ts is not up to date: SECTORA_WRITE=1 writes it anew");
}
