//! Holds JSON against the description of its type, in the order and with the words of QEMU
//! (version 10.0.2).
//!
//! Members are looked at in the schema's order: those of the base, then its own, then those of the
//! branch; each is done with all that is inside it before the next. Members that nobody asked
//! for are found last. Messages mostly name the whole path (`file.server[0].port`); those about
//! values of enumerations, ranges and alternates only the last name, which is `null` in lists.
//!
//! Of several members that nobody asked for the first by name is refused; QEMU picks by a hash.

use super::schema::{Builtin, EnumValue, Qapi, Schema, Shape, holds};
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use core::fmt;
use serde::de::DeserializeOwned;
use serde_json::{Map, Number, Value};

/// Why arguments are not what the schema says. Its class is always `GenericError`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// QEMU's text.
    pub desc: String,
}

impl Invalid {
    fn new(desc: String) -> Self {
        Self { desc }
    }

    /// Nobody asked for this member.
    pub(super) fn unexpected(name: &dyn fmt::Display) -> Self {
        Self::new(format!("Parameter '{name}' is unexpected"))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl core::error::Error for Invalid {}

/// Holds the members of an object against a type. Negative numbers where the schema has unsigned
/// ones of 64 bits are made what QEMU takes them for: counted back from 2^64.
///
/// # Errors
/// What is missing, unexpected, or of the wrong type.
pub fn validate(schema: &'static Schema, members: &mut Map<String, Value>) -> Result<(), Invalid> {
    object(schema, members, &Path::Root)
}

/// Validates the members of an object and makes a value of them.
///
/// # Errors
/// As [`validate`].
pub fn parse<T: Qapi + DeserializeOwned>(mut members: Map<String, Value>) -> Result<T, Invalid> {
    validate(T::schema(), &mut members)?;
    // Whatever passes the description has the type's form, as both come from one definition.
    serde_json::from_value(Value::Object(members)).map_err(|e| Invalid::new(format!("{e}")))
}

/// Where a value is, for messages.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// The name alone; elements of lists have none.
    fn short(&self) -> &str {
        match self {
            Path::Root | Path::Element(..) => "null",
            Path::Member(_, name) => name,
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Member(Path::Root, name) => f.write_str(name),
            Path::Member(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

fn wrong_type(name: &dyn fmt::Display, expected: &str) -> Invalid {
    Invalid::new(format!("Invalid parameter type for '{name}', expected: {expected}"))
}

fn expects(name: &dyn fmt::Display, what: &str) -> Invalid {
    Invalid::new(format!("Parameter '{name}' expects {what}"))
}

fn value(schema: &'static Schema, value: &mut Value, path: &Path<'_>) -> Result<(), Invalid> {
    match &schema.shape {
        Shape::Builtin(kind) => builtin(*kind, value, path),
        Shape::Enum(values) => enumeration(values, value, path),
        Shape::Object(_) | Shape::Union { .. } => match value {
            Value::Object(members) => object(schema, members, path),
            _ => Err(wrong_type(path, "object")),
        },
        Shape::Array(element) => {
            let Value::Array(list) = value else { return Err(wrong_type(path, "array")) };
            for (index, item) in list.iter_mut().enumerate() {
                self::value(element(), item, &Path::Element(path, index))?;
            }
            Ok(())
        }
        Shape::Alternate(choices) => {
            match choices.iter().map(|c| (c.kind)()).find(|kind| takes(kind, value)) {
                Some(kind) => self::value(kind, value, path),
                None => Err(wrong_type(&path.short(), schema.name)),
            }
        }
    }
}

/// True where a type of an alternate is for such a kind of JSON value.
fn takes(schema: &Schema, value: &Value) -> bool {
    match &schema.shape {
        Shape::Builtin(Builtin::Str) | Shape::Enum(_) => value.is_string(),
        Shape::Builtin(Builtin::Bool) => value.is_boolean(),
        Shape::Builtin(Builtin::Null) => value.is_null(),
        Shape::Builtin(Builtin::Any) => true,
        Shape::Builtin(_) => value.is_number(),
        Shape::Object(_) | Shape::Union { .. } => value.is_object(),
        Shape::Array(_) => value.is_array(),
        Shape::Alternate(choices) => choices.iter().any(|c| takes((c.kind)(), value)),
    }
}

fn builtin(kind: Builtin, value: &mut Value, path: &Path<'_>) -> Result<(), Invalid> {
    let fits = |fits: bool, expected| if fits { Ok(()) } else { Err(wrong_type(path, expected)) };
    match kind {
        Builtin::Any => Ok(()),
        Builtin::Str => fits(value.is_string(), "string"),
        Builtin::Bool => fits(value.is_boolean(), "boolean"),
        Builtin::Null => fits(value.is_null(), "null"),
        Builtin::Number => fits(value.is_number(), "number"),
        Builtin::Int => fits(value.is_i64(), "integer"),
        Builtin::Size | Builtin::Uint64 => {
            let Some(number) = unsigned(value) else { return Err(expects(path, "uint64")) };
            *value = Value::Number(Number::from(number));
            Ok(())
        }
        Builtin::Ranged(low, high, name) => {
            // Unsigned ones are read as the unsigned type of 64 bits first.
            let number = if low < 0 {
                value.as_i64().ok_or_else(|| wrong_type(path, "integer"))?
            } else {
                let number = unsigned(value).ok_or_else(|| expects(path, "uint64"))?;
                i64::try_from(number).unwrap_or(i64::MAX)
            };
            if (low..=high).contains(&number) { Ok(()) } else { Err(expects(&path.short(), name)) }
        }
    }
}

/// A whole number as an unsigned one of 64 bits.
fn unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned))
}

fn enumeration(values: &[EnumValue], value: &Value, path: &Path<'_>) -> Result<(), Invalid> {
    let Value::String(text) = value else { return Err(wrong_type(path, "string")) };
    if values.iter().any(|v| v.name == text && holds(v.condition)) {
        return Ok(());
    }
    let name = path.short();
    Err(Invalid::new(format!("Parameter '{name}' does not accept value '{text}'")))
}

fn object(
    schema: &'static Schema,
    members: &mut Map<String, Value>,
    path: &Path<'_>,
) -> Result<(), Invalid> {
    let mut known = BTreeSet::new();
    visit(schema, members, path, &mut known)?;
    match members.keys().find(|name| !known.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Invalid::unexpected(&Path::Member(path, name))),
    }
}

/// Looks at all members that a type has, and notes their names.
fn visit(
    schema: &'static Schema,
    members: &mut Map<String, Value>,
    path: &Path<'_>,
    known: &mut BTreeSet<&'static str>,
) -> Result<(), Invalid> {
    for member in schema.members().into_iter().filter(|m| holds(m.condition)) {
        known.insert(member.name);
        let path = Path::Member(path, member.name);
        match members.get_mut(member.name) {
            Some(found) => value((member.kind)(), found, &path)?,
            None if member.optional => {}
            None => return Err(Invalid::new(format!("Parameter '{path}' is missing"))),
        }
    }
    let Some((tag, variants)) = schema.branches() else { return Ok(()) };
    let case = members.get(tag.name).and_then(Value::as_str);
    let variant = variants.iter().find(|v| Some(v.case) == case).and_then(|v| v.kind);
    variant.map_or(Ok(()), |kind| visit(kind(), members, path, known))
}
