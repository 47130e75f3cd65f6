//! Every struct and enum of `core/src/qapi`, read from the source, against the schema.
//!
//! A type stands in the module of its schema file and has exactly the schema's members: the same
//! names on the wire, the same types, optional where the schema says so and then absent when
//! `None`. Enumerations have exactly the schema's values, in its order. Unions may lack branches,
//! and those are listed here.

use super::project;
use super::qapi_schema::{Definition, Kind, Schema};
use std::collections::BTreeMap;
use syn::{Attribute, Fields, GenericArgument, Item, PathArguments, Type};

/// Branches of unions that are not there yet; one that is there must not be listed.
const MISSING_BRANCHES: [(&str, &[&str]); 1] = [("ImageInfoSpecific", &["vmdk", "luks", "rbd"])];

pub(crate) fn check(schema: &Schema) -> Vec<String> {
    let mut findings = Vec::new();
    let mut checked = 0;
    let folder = project().join("core/src/qapi");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e) => return vec![format!("{}: {e}", folder.display())],
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(module) = name.strip_suffix(".rs").filter(|m| !["mod", "tests"].contains(m))
        else {
            continue;
        };
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let file = match syn::parse_file(&text) {
            Ok(file) => file,
            Err(e) => {
                findings.push(format!("{name}: {e}"));
                continue;
            }
        };
        let schema_file = module.replace('_', "-");
        for item in &file.items {
            let (ident, found) = match item {
                Item::Struct(s) => (&s.ident, check_struct(schema, s)),
                Item::Enum(e) => (&e.ident, check_enum(schema, e)),
                _ => continue,
            };
            checked += 1;
            match schema.get(&ident.to_string()) {
                None => findings.push(format!("{name}: {ident} is not in the schema")),
                Some(d) if d.file != schema_file => {
                    findings.push(format!("{name}: {ident} is in {}.json", d.file));
                }
                Some(_) => {}
            }
            findings.extend(found.into_iter().map(|f| format!("{name}: {ident}: {f}")));
        }
    }
    if checked < 20 {
        findings.push(format!("only {checked} types found in {}", folder.display()));
    }
    findings
}

fn check_struct(schema: &Schema, item: &syn::ItemStruct) -> Vec<String> {
    let Some(definition) = schema.get(&item.ident.to_string()) else { return Vec::new() };
    if definition.kind != Kind::Struct {
        return vec![format!("is a {:?} in the schema", definition.kind)];
    }
    let mut findings = Vec::new();
    let container = Serde::of(&item.attrs);
    let mut members: BTreeMap<String, _> =
        definition.members().into_iter().map(|m| (m.name.clone(), m)).collect();
    let mut base = definition.base().map(str::to_owned);
    let Fields::Named(fields) = &item.fields else { return vec!["has no named fields".into()] };
    for field in &fields.named {
        let serde = Serde::of(&field.attrs);
        let ident = field.ident.as_ref().map(ToString::to_string).unwrap_or_default();
        let ours = type_name(&field.ty);
        if serde.has("flatten") {
            if base.as_ref() != Some(&ours) {
                findings.push(format!("{ident}: the base is {base:?}, not {ours}"));
            }
            base = None;
            continue;
        }
        let name = serde.value("rename").unwrap_or_else(|| container.rename(&ident));
        let Some(member) = members.remove(&name) else {
            findings.push(format!("'{name}' is not a member"));
            continue;
        };
        let inner = ours.strip_prefix("Option<").and_then(|t| t.strip_suffix('>'));
        if inner.is_some() != member.optional {
            findings.push(format!("'{name}': optional: {} in the schema", member.optional));
        }
        let skipped = serde.value("skip_serializing_if").as_deref() == Some("Option::is_none");
        if skipped != member.optional {
            findings.push(format!("'{name}': skip_serializing_if does not fit"));
        }
        if !same_type(inner.unwrap_or(&ours), &member.kind) {
            findings.push(format!("'{name}': {ours} for {}", member.kind));
        }
    }
    findings.extend(members.keys().map(|name| format!("'{name}' is missing")));
    findings.extend(base.map(|base| format!("the base {base} is missing")));
    findings
}

fn check_enum(schema: &Schema, item: &syn::ItemEnum) -> Vec<String> {
    let Some(definition) = schema.get(&item.ident.to_string()) else { return Vec::new() };
    let container = Serde::of(&item.attrs);
    let names: Vec<String> = item
        .variants
        .iter()
        .map(|v| {
            let renamed = Serde::of(&v.attrs).value("rename");
            renamed.unwrap_or_else(|| container.rename(&snake(&v.ident.to_string())))
        })
        .collect();
    match definition.kind {
        Kind::Enum => {
            let values = definition.values();
            if values == names {
                return Vec::new();
            }
            vec![format!("has {names:?}, the schema {values:?}")]
        }
        Kind::Union => check_union(schema, definition, &container, item, &names),
        kind => vec![format!("is a {kind:?} in the schema")],
    }
}

fn check_union(
    schema: &Schema,
    union: &Definition,
    container: &Serde,
    item: &syn::ItemEnum,
    names: &[String],
) -> Vec<String> {
    let mut findings = Vec::new();
    let tag = container.value("tag");
    if tag.as_deref() != union.discriminator() {
        findings.push(format!("the tag is {tag:?}, not {:?}", union.discriminator()));
    }
    // What the tag may be: the values of the type that the base gives the discriminator.
    let base = union.base().and_then(|b| schema.get(b)).map(Definition::members);
    let base = base.unwrap_or_else(|| union.inline_base());
    let values = base
        .iter()
        .find(|m| Some(m.name.as_str()) == union.discriminator())
        .and_then(|m| schema.get(&m.kind))
        .map(Definition::values)
        .unwrap_or_default();
    let branches: BTreeMap<_, _> = union.branches().into_iter().collect();
    for (variant, name) in item.variants.iter().zip(names) {
        if !values.contains(name) {
            findings.push(format!("'{name}' is not one of {values:?}"));
        }
        let ours = variant.fields.iter().map(|f| type_name(&f.ty)).next();
        let mut theirs = branches.get(name).cloned();
        if container.value("content").as_deref() == Some("data") {
            // The content is wrapped in a struct of one member.
            let wrapper = theirs.and_then(|t| schema.get(&t)).map(Definition::members);
            theirs = wrapper
                .and_then(|m| (m.len() == 1 && m[0].name == "data").then(|| m[0].kind.clone()));
        }
        if ours != theirs {
            findings.push(format!("'{name}' holds {ours:?}, in the schema {theirs:?}"));
        }
    }
    let missing: Vec<&str> =
        values.iter().map(String::as_str).filter(|v| !names.iter().any(|n| n == v)).collect();
    let listed = MISSING_BRANCHES.iter().find(|(n, _)| *n == union.name).map_or(&[][..], |b| b.1);
    if missing != listed {
        findings.push(format!("lacks {missing:?}, but {listed:?} are listed as missing"));
    }
    findings
}

/// True where the Rust type is how the schema's is written here.
fn same_type(ours: &str, theirs: &str) -> bool {
    if let Some(element) = theirs.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        let inner = ours.strip_prefix("Vec<").and_then(|t| t.strip_suffix('>'));
        return inner.is_some_and(|inner| same_type(inner, element));
    }
    match theirs {
        "str" => ours == "String",
        "bool" => ours == "bool",
        // The schema's only integer type for most things; where it cannot be negative it is u64.
        "int" => ["i64", "u64"].contains(&ours),
        "size" => ours == "u64",
        "number" => ours == "f64",
        _ => {
            let name = theirs.replace("uint", "u").replace("int", "i");
            ours == theirs || (["8", "16", "32", "64"].contains(&&name[1..]) && ours == name)
        }
    }
}

/// The type as text, without the boxes.
fn type_name(ty: &Type) -> String {
    let Type::Path(path) = ty else { return "?".into() };
    let Some(last) = path.path.segments.last() else { return "?".into() };
    let ident = last.ident.to_string();
    let PathArguments::AngleBracketed(arguments) = &last.arguments else { return ident };
    let inner = arguments.args.iter().find_map(|a| match a {
        GenericArgument::Type(t) => Some(type_name(t)),
        _ => None,
    });
    match inner {
        Some(inner) if ident == "Box" => inner,
        Some(inner) => format!("{ident}<{inner}>"),
        None => ident,
    }
}

/// The `serde` attributes of an item: words, and words with a text.
struct Serde(Vec<(String, Option<String>)>);

impl Serde {
    fn of(attributes: &[Attribute]) -> Self {
        let mut out = Vec::new();
        for attribute in attributes.iter().filter(|a| a.path().is_ident("serde")) {
            let parsed = attribute.parse_nested_meta(|meta| {
                let key = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                let text = match meta.value() {
                    Ok(value) => Some(value.parse::<syn::LitStr>()?.value()),
                    Err(_) => None,
                };
                out.push((key, text));
                Ok(())
            });
            if parsed.is_err() {
                out.push(("?".into(), None));
            }
        }
        Self(out)
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    fn value(&self, key: &str) -> Option<String> {
        self.0.iter().find(|(k, _)| k == key).and_then(|(_, v)| v.clone())
    }

    /// A name in snake case as the container's `rename_all` makes it.
    fn rename(&self, ident: &str) -> String {
        if self.value("rename_all").as_deref() == Some("kebab-case") {
            return ident.replace('_', "-");
        }
        ident.to_owned()
    }
}

/// `InUse` as `in_use`, as serde divides it.
fn snake(ident: &str) -> String {
    let mut out = String::new();
    for (i, c) in ident.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.extend(c.to_lowercase());
    }
    out
}
