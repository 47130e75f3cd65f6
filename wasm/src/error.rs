//! Errors on their way between JavaScript and the engine.

use js_sys::{BigInt, Object, Reflect};
use sectora_core::{Error, ErrorKind};
use wasm_bindgen::prelude::*;

const KINDS: [ErrorKind; 11] = [
    ErrorKind::Io,
    ErrorKind::Unsupported,
    ErrorKind::Corrupt,
    ErrorKind::Limit,
    ErrorKind::Denied,
    ErrorKind::InUse,
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::NoSpace,
    ErrorKind::Cancelled,
    ErrorKind::Bug,
];

fn text(value: &JsValue, member: &str) -> Option<String> {
    Reflect::get(value, &member.into()).ok()?.as_string()
}

/// The engine's error for what storage threw: by its `kind`, the system's `code`, or the name of
/// the exception.
pub(crate) fn from_js(thrown: &JsValue) -> Error {
    let is_object = thrown.is_object();
    let member = |name| if is_object { text(thrown, name) } else { None };
    let kind = member("kind").and_then(|kind| KINDS.into_iter().find(|k| k.name() == kind));
    let kind = kind
        .or_else(|| by_code(&member("code")?))
        .or_else(|| by_name(&member("name")?))
        .unwrap_or(ErrorKind::Io);
    let what = member("message")
        .or_else(|| thrown.as_string())
        .unwrap_or_else(|| "the storage failed without saying why".to_owned());
    Error::new(kind, what)
}

fn by_code(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "ENOENT" | "ENOTDIR" | "ENXIO" => ErrorKind::NotFound,
        "EACCES" | "EPERM" | "EROFS" => ErrorKind::Denied,
        "ENOSPC" | "EDQUOT" => ErrorKind::NoSpace,
        "EFBIG" => ErrorKind::Limit,
        "EBUSY" | "ETXTBSY" => ErrorKind::InUse,
        "EISDIR" | "EINVAL" => ErrorKind::InvalidInput,
        "ABORT_ERR" => ErrorKind::Cancelled,
        _ => return None,
    })
}

/// Names of exceptions of browsers.
fn by_name(name: &str) -> Option<ErrorKind> {
    Some(match name {
        "NotFoundError" => ErrorKind::NotFound,
        "NotAllowedError" | "SecurityError" => ErrorKind::Denied,
        "QuotaExceededError" => ErrorKind::NoSpace,
        "NoModificationAllowedError" => ErrorKind::InUse,
        "AbortError" => ErrorKind::Cancelled,
        "TypeMismatchError" => ErrorKind::InvalidInput,
        _ => return None,
    })
}

/// What the TypeScript side makes its `SectoraError` of.
pub(crate) fn to_js(error: &Error) -> JsValue {
    let out = Object::new();
    // Setting a member of a fresh object cannot fail.
    let set = |name: &str, value: JsValue| drop(Reflect::set(&out, &name.into(), &value));
    set("kind", error.kind().name().into());
    set("message", error.to_string().into());
    if let Some(format) = error.format() {
        set("format", format.into());
    }
    if let Some(offset) = error.offset() {
        set("offset", BigInt::from(offset).into());
    }
    out.into()
}
