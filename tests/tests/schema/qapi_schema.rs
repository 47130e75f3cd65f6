//! Reads schema files: top-level objects in a notation like JSON, with single quotes and `#`
//! comments.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The files that `COMPAT.md` and the wire types are held against.
const FILES: [&str; 9] = [
    "block-core",
    "block-export",
    "common",
    "control",
    "crypto",
    "introspect",
    "job",
    "sockets",
    "transaction",
];

/// What a definition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Struct,
    Enum,
    Union,
    Alternate,
    Command,
    Event,
}

/// One definition of the schema.
pub(crate) struct Definition {
    pub(crate) file: String,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    value: Value,
}

/// A member of a struct.
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) optional: bool,
    /// `'T'`, or `['T']` for a list.
    pub(crate) kind: String,
    pub(crate) extras: Extras,
}

/// What a definition, a member or a value has besides.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    pub(crate) features: Vec<String>,
    pub(crate) condition: Option<String>,
}

impl Extras {
    fn of(value: &Value) -> Self {
        let features = value.get("features").and_then(Value::as_array);
        let name = |v: &Value| v.as_str().or_else(|| v.get("name")?.as_str()).map(str::to_owned);
        Self {
            features: features.into_iter().flatten().filter_map(name).collect(),
            condition: value.get("if").and_then(Value::as_str).map(str::to_owned),
        }
    }
}

impl Definition {
    /// The members of a struct, without those of its base.
    pub(crate) fn members(&self) -> Vec<Member> {
        members(self.value.get("data"))
    }

    /// The name of the base type, where it has one with a name.
    pub(crate) fn base(&self) -> Option<&str> {
        self.value.get("base")?.as_str()
    }

    /// The values of an enumeration, in order.
    pub(crate) fn values(&self) -> Vec<String> {
        let data = self.value.get("data").and_then(Value::as_array);
        data.into_iter()
            .flatten()
            .filter_map(|v| v.as_str().or_else(|| v.get("name")?.as_str()))
            .map(str::to_owned)
            .collect()
    }

    /// Its values with what each has besides.
    pub(crate) fn value_extras(&self) -> Vec<(String, Extras)> {
        let data = self.value.get("data").and_then(Value::as_array);
        let extras = data.into_iter().flatten().map(Extras::of);
        self.values().into_iter().zip(extras).collect()
    }

    /// What it has besides.
    pub(crate) fn extras(&self) -> Extras {
        Extras::of(&self.value)
    }

    /// The type that is named as its data: of a command its arguments.
    pub(crate) fn data_name(&self) -> Option<&str> {
        self.value.get("data")?.as_str()
    }

    /// What a command returns, a list as `[T]`.
    pub(crate) fn returns(&self) -> Option<String> {
        self.value.get("returns").map(kind_text)
    }

    /// The member that selects the branch of a union.
    pub(crate) fn discriminator(&self) -> Option<&str> {
        self.value.get("discriminator")?.as_str()
    }

    /// The members that a union's branches share, where they are given in place.
    pub(crate) fn inline_base(&self) -> Vec<Member> {
        members(self.value.get("base"))
    }

    /// The branches of a union: the value that selects it, and its type.
    pub(crate) fn branches(&self) -> Vec<(String, String)> {
        self.members().into_iter().map(|m| (m.name, m.kind)).collect()
    }
}

fn members(object: Option<&Value>) -> Vec<Member> {
    let object = object.and_then(Value::as_object);
    object
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let kind = kind_text(value.get("type").unwrap_or(value));
            let name = key.strip_prefix('*').unwrap_or(key).to_owned();
            Member { name, optional: key.starts_with('*'), kind, extras: Extras::of(value) }
        })
        .collect()
}

/// A reference to a type as text.
fn kind_text(value: &Value) -> String {
    match value {
        Value::String(name) => name.clone(),
        Value::Array(list) => format!("[{}]", list[0].as_str().unwrap_or("?")),
        other => other.to_string(),
    }
}

/// All definitions by name.
pub(crate) struct Schema(BTreeMap<String, Definition>);

impl Schema {
    pub(crate) fn load(folder: &Path) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for file in FILES {
            let path = folder.join(format!("{file}.json"));
            let text =
                std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            for definition in parse(file, &text)? {
                all.insert(definition.name.clone(), definition);
            }
        }
        if all.len() < 300 {
            return Err(format!("only {} definitions read: the parser lost some", all.len()));
        }
        Ok(Self(all))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Definition> {
        self.0.get(name)
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Definition> {
        self.0.values().filter(move |d| d.kind == kind)
    }
}

fn parse(file: &str, text: &str) -> Result<Vec<Definition>, String> {
    let kinds = [
        ("struct", Kind::Struct),
        ("enum", Kind::Enum),
        ("union", Kind::Union),
        ("alternate", Kind::Alternate),
        ("command", Kind::Command),
        ("event", Kind::Event),
    ];
    let json = to_json(text);
    let mut out = Vec::new();
    for value in serde_json::Deserializer::from_str(&json).into_iter::<Value>() {
        let value = value.map_err(|e| format!("{file}.json: {e}"))?;
        let found = kinds.iter().find_map(|&(key, kind)| Some((value.get(key)?.as_str()?, kind)));
        if let Some((name, kind)) = found {
            let name = name.to_owned();
            out.push(Definition { file: file.to_owned(), kind, name, value });
        } else if value.get("include").is_none() && value.get("pragma").is_none() {
            return Err(format!("{file}.json: what is {value}?"));
        }
    }
    Ok(out)
}

/// Comments out, single quotes to double; no string of the notation has quotes inside.
fn to_json(text: &str) -> String {
    let (mut out, mut in_string, mut in_comment) = (String::new(), false, false);
    for c in text.chars() {
        match c {
            '\n' => in_comment = false,
            _ if in_comment => continue,
            '#' if !in_string => {
                in_comment = true;
                continue;
            }
            '\'' => in_string = !in_string,
            _ => {}
        }
        out.push(if c == '\'' { '"' } else { c });
    }
    out
}

/// The parser against a text with everything that it must understand.
pub(crate) fn self_test() -> Vec<String> {
    let text = "# -*- comment -*- 'quoted'\n\
        { 'include': 'other.json' }\n\
        { 'struct': 'A', 'base': 'B', # why\n  'data': { 'x': 'int', '*y': ['str'],\n\
          '*z': { 'type': 'bool', 'if': 'C' } } }\n\
        { 'enum': 'E', 'data': [ 'one', { 'name': 'two', 'features': [ 'deprecated' ] } ] }\n\
        { 'command': 'do-it', 'data': 'A', 'boxed': true }\n";
    let definitions = match parse("test", text) {
        Ok(definitions) => definitions,
        Err(e) => return vec![e],
    };
    let mut members: Vec<String> = definitions[0]
        .members()
        .iter()
        .map(|m| format!("{} {} {}", m.name, m.optional, m.kind))
        .collect();
    members.sort();
    let seen = [
        format!("{:?} {:?}", definitions[0].kind, definitions[0].base()),
        members.join(", "),
        definitions[1].values().join(", "),
        format!("{:?} {}", definitions[2].kind, definitions[2].name),
    ];
    let expected = [
        "Struct Some(\"B\")",
        "x false int, y true [str], z true bool",
        "one, two",
        "Command do-it",
    ];
    seen.iter()
        .zip(expected)
        .filter(|(seen, expected)| seen != expected)
        .map(|(seen, expected)| format!("{seen} is not {expected}"))
        .collect()
}
