//! Answers and events as JavaScript objects.
//!
//! Whole numbers of 64 bits (the schema's `int`, `size` and `uint64`) are `bigint`, all others
//! `number`: the schema says which is which, so that a member has the same type in every answer.

use js_sys::{Array, BigInt, Object, Reflect};
use sectora_core::qapi::schema::{Builtin, Schema, Shape};
use sectora_core::qapi::{self};
use serde_json::{Map, Number, Value};
use wasm_bindgen::prelude::*;

/// The largest number up to which all whole numbers of JavaScript are exact.
const EXACT: u64 = 1 << 53;

/// The message that answers the command `name`.
pub(super) fn answer(name: Option<&str>, message: &Map<String, Value>) -> JsValue {
    let returns = name.and_then(qapi::command).and_then(|command| command.returns);
    members(message, |member| returns.filter(|_| member == "return").map(|kind| kind()))
}

/// The message of an event.
pub(super) fn event(message: &Map<String, Value>) -> JsValue {
    let name = message.get("event").and_then(Value::as_str);
    let data = name.and_then(qapi::event).and_then(|event| event.data);
    members(message, |member| data.filter(|_| member == "data").map(|kind| kind()))
}

fn members(
    members: &Map<String, Value>,
    schema: impl Fn(&str) -> Option<&'static Schema>,
) -> JsValue {
    let out = Object::new();
    for (name, value) in members {
        // Setting a member of a fresh object cannot fail.
        let _ = Reflect::set(&out, &name.as_str().into(), &to_js(value, schema(name)));
    }
    out.into()
}

fn to_js(value: &Value, schema: Option<&'static Schema>) -> JsValue {
    match value {
        Value::Null => JsValue::NULL,
        Value::Bool(flag) => (*flag).into(),
        Value::String(text) => text.as_str().into(),
        Value::Number(number) => number_to_js(number, schema),
        Value::Array(items) => {
            let element = match schema.map(|schema| &schema.shape) {
                Some(Shape::Array(element)) => Some(element()),
                Some(Shape::Alternate(_)) => {
                    choice(schema, |shape| matches!(shape, Shape::Array(_)))
                }
                _ => None,
            };
            items.iter().map(|item| to_js(item, element)).collect::<Array>().into()
        }
        Value::Object(object) => {
            let is_object = |shape: &Shape| matches!(shape, Shape::Object(_) | Shape::Union { .. });
            let schema = choice(schema, is_object);
            let own = schema.map(Schema::members).unwrap_or_default();
            let variant = schema.and_then(Schema::branches).and_then(|(tag, variants)| {
                let case = object.get(tag.name)?.as_str()?;
                variants.iter().find(|variant| variant.case == case)?.kind
            });
            let more = variant.map(|kind| kind().members()).unwrap_or_default();
            members(object, |name| {
                let member = own.iter().chain(&more).find(|member| member.name == name)?;
                Some((member.kind)())
            })
        }
    }
}

/// Of an alternate the type that has such a shape; any other type itself.
fn choice(
    schema: Option<&'static Schema>,
    fits: impl Fn(&Shape) -> bool,
) -> Option<&'static Schema> {
    match schema.map(|schema| &schema.shape) {
        Some(Shape::Alternate(choices)) => {
            choices.iter().map(|choice| (choice.kind)()).find(|kind| fits(&kind.shape))
        }
        _ => schema,
    }
}

fn number_to_js(number: &Number, schema: Option<&'static Schema>) -> JsValue {
    let is_number = |shape: &Shape| matches!(shape, Shape::Builtin(_));
    let is_long = match choice(schema, is_number).map(|schema| &schema.shape) {
        Some(Shape::Builtin(kind)) => {
            matches!(kind, Builtin::Int | Builtin::Size | Builtin::Uint64)
        }
        _ => false,
    };
    match (number.as_i64(), number.as_u64()) {
        (Some(value), _) if is_long || value.unsigned_abs() > EXACT => BigInt::from(value).into(),
        (None, Some(value)) => BigInt::from(value).into(),
        _ => number.as_f64().unwrap_or_default().into(),
    }
}
