//! Values written as texts: what a command line says of a type of the schema.
//!
//! `read-only=on,size=1k` has nothing but texts. They become what the type asks for; what cannot is
//! refused in QEMU's words (version 10.0.2).

use crate::image::parse_size;
use crate::qapi::Invalid;
use crate::qapi::schema::{Builtin, Schema, Shape};
use alloc::format;
use alloc::string::String;
use serde_json::{Map, Number, Value};

/// Makes of the texts in `members` what a type asks for. What does not fit the type otherwise stays:
/// [`validate`](crate::qapi::validate) refuses it.
///
/// # Errors
/// For texts that are not of their type.
pub fn read_texts(
    schema: &'static Schema,
    members: &mut Map<String, Value>,
) -> Result<(), Invalid> {
    for member in schema.members() {
        if let Some(found) = members.get_mut(member.name) {
            read((member.kind)(), member.name, found)?;
        }
    }
    let Some((tag, variants)) = schema.branches() else { return Ok(()) };
    let case = members.get(tag.name).and_then(Value::as_str);
    let variant = variants.iter().find(|v| Some(v.case) == case).and_then(|v| v.kind);
    variant.map_or(Ok(()), |kind| read_texts(kind(), members))
}

fn read(schema: &'static Schema, name: &str, value: &mut Value) -> Result<(), Invalid> {
    match (&schema.shape, &mut *value) {
        (Shape::Builtin(kind), Value::String(text)) => {
            if let Some(read) = builtin(*kind, name, text)? {
                *value = read;
            }
            Ok(())
        }
        (Shape::Object(_) | Shape::Union { .. }, Value::Object(members)) => {
            read_texts(schema, members)
        }
        (Shape::Array(element), Value::Array(items)) => {
            items.iter_mut().try_for_each(|item| read(element(), name, item))
        }
        (Shape::Alternate(choices), Value::Object(members)) => {
            let object = choices
                .iter()
                .map(|choice| (choice.kind)())
                .find(|kind| matches!(kind.shape, Shape::Object(_) | Shape::Union { .. }));
            object.map_or(Ok(()), |kind| read_texts(kind, members))
        }
        _ => Ok(()),
    }
}

/// What a text stands for; nothing where it stands for itself.
fn builtin(kind: Builtin, name: &str, text: &str) -> Result<Option<Value>, Invalid> {
    let expects = |what: &str| Invalid { desc: format!("Parameter '{name}' expects {what}") };
    Ok(match kind {
        Builtin::Str | Builtin::Null | Builtin::Any => None,
        Builtin::Bool => Some(Value::Bool(match text {
            "on" | "yes" | "true" | "y" => true,
            "off" | "no" | "false" | "n" => false,
            _ => return Err(expects("'on' or 'off'")),
        })),
        Builtin::Number => {
            let number = text.parse().ok().and_then(Number::from_f64);
            Some(Value::Number(number.ok_or_else(|| expects("a number"))?))
        }
        Builtin::Size => Some(parse_size(text).map_err(|_| expects("a size value"))?.into()),
        Builtin::Int | Builtin::Ranged(..) => {
            Some(text.parse::<i64>().map_err(|_| expects("integer"))?.into())
        }
        Builtin::Uint64 => {
            let number = text.parse::<u64>().or_else(|_| text.parse().map(i64::cast_unsigned));
            Some(number.map_err(|_| expects("an uint64 value"))?.into())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qapi::schema::Qapi;
    use crate::qapi::{BlockdevCreateOptionsFile, BlockdevOptions, validate};
    use serde_json::json;

    fn read(value: Value) -> Result<Value, String> {
        let Value::Object(mut members) = value else { return Ok(value) };
        read_texts(BlockdevOptions::schema(), &mut members).map_err(|e| e.desc)?;
        validate(BlockdevOptions::schema(), &mut members).map_err(|e| e.desc)?;
        Ok(members.into())
    }

    #[test]
    fn texts_become_what_their_type_asks_for() {
        let given = json!({
            "driver": "raw", "node-name": "1", "read-only": "on", "offset": "1024",
            "file": { "driver": "null-co", "size": "2097152", "latency-ns": "7" }, "cache": { "direct": "off" },
        });
        let want = json!({
            "driver": "raw", "node-name": "1", "read-only": true, "offset": 1024,
            "file": { "driver": "null-co", "size": 2 << 20, "latency-ns": 7 }, "cache": { "direct": false },
        });
        assert_eq!(read(given).unwrap(), want);
        let mut sized = json!({ "filename": "a", "size": "2M" }).as_object().unwrap().clone();
        read_texts(BlockdevCreateOptionsFile::schema(), &mut sized).unwrap();
        assert_eq!(sized["size"], 2 << 20);
        let wrong = json!({ "driver": "raw", "file": "x", "read-only": "maybe" });
        assert_eq!(read(wrong).unwrap_err(), "Parameter 'read-only' expects 'on' or 'off'");
    }
}
