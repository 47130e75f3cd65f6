//! `a.b=c,d=e`: dotted names as a nested value whose leaves are texts.

use crate::cli::failure::Failure;
use sectora_core::image::list_items;
use sectora_core::json;
use serde_json::{Map, Value};

/// An option's value.
#[derive(Debug, PartialEq)]
pub(super) struct KeyVal {
    pub(super) members: Map<String, Value>,
    /// `help` or `?` was among the words.
    pub(super) help: bool,
}

/// Reads dotted names, or a JSON object. A first word without a name is the value of `implied`.
pub(super) fn read(text: &str, implied: Option<&str>) -> Result<KeyVal, Failure> {
    if text.starts_with('{') {
        let value = json::parse(text).map_err(|error| Failure::new(error.what()))?;
        let members = value.as_object().cloned().unwrap_or_default();
        return Ok(KeyVal { members, help: false });
    }
    let mut out = KeyVal { members: Map::new(), help: false };
    if text.is_empty() {
        return Ok(out);
    }
    let mut items = list_items(text);
    if items.last().is_some_and(String::is_empty) && items.len() > 1 {
        items.pop();
    }
    for (i, item) in items.iter().enumerate() {
        let (name, value) = match (item.split_once('='), implied) {
            (Some(pair), _) => pair,
            (None, _) if matches!(&**item, "help" | "?") => {
                out.help = true;
                continue;
            }
            (None, Some(implied)) if i == 0 && !item.is_empty() => (implied, &**item),
            (None, _) if is_name(item) => {
                return Err(Failure::new(format!("Expected '=' after parameter '{item}'")));
            }
            (None, _) => (&**item, ""),
        };
        if !is_name(name) {
            return Err(Failure::new(format!("Invalid parameter '{name}'")));
        }
        put(&mut out.members, name, value)?;
    }
    for value in out.members.iter_mut() {
        lists(value.0, value.1)?;
    }
    Ok(out)
}

/// Names between dots; behind the first one there may be numbers.
fn is_name(name: &str) -> bool {
    name.split('.').enumerate().all(|(i, part)| {
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let number = i > 0 && part.chars().all(|c| c.is_ascii_digit());
        let word = part.starts_with(|c: char| c.is_ascii_alphabetic());
        !part.is_empty() && part.chars().all(known) && (number || word)
    })
}

fn put(mut members: &mut Map<String, Value>, name: &str, value: &str) -> Result<(), Failure> {
    let mixed =
        |end: usize| Failure::new(format!("Parameters '{}.*' used inconsistently", &name[..end]));
    let mut start = 0;
    while let Some(length) = name[start..].find('.') {
        let end = start + length;
        let entry = members.entry(&name[start..end]).or_insert_with(|| Map::new().into());
        members = entry.as_object_mut().ok_or_else(|| mixed(end))?;
        start = end + 1;
    }
    match members.get(&name[start..]) {
        Some(Value::Object(_)) => Err(mixed(name.len())),
        _ => {
            // The last one counts.
            members.insert(name[start..].into(), value.into());
            Ok(())
        }
    }
}

/// Makes lists of what is numbered.
fn lists(path: &str, value: &mut Value) -> Result<(), Failure> {
    let Value::Object(members) = value else { return Ok(()) };
    for (name, member) in members.iter_mut() {
        lists(&format!("{path}.{name}"), member)?;
    }
    let numbered = |name: &String| name.chars().all(|c| c.is_ascii_digit());
    if members.is_empty() || !members.keys().all(numbered) {
        return Ok(());
    }
    let mut items = Vec::new();
    while !members.is_empty() {
        let missing = || Failure::new(format!("Parameter '{path}.{}' missing", items.len()));
        items.push(members.remove(&items.len().to_string()).ok_or_else(missing)?);
    }
    *value = items.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_nest_and_numbers_are_lists() {
        let read = |text| read(text, Some("driver")).map(|found| Value::from(found.members));
        let want = json!({
            "driver": "qcow2", "file": { "driver": "file", "filename": "a,b=c" }, "l": ["x", "y"],
        });
        let text = "qcow2,file.driver=file,file.filename=a,,b=c,l.0=x,l.1=z,l.1=y,";
        assert_eq!(read(text).expect("it is right"), want);
        let json = r#"{"driver":'qcow2'}"#;
        assert_eq!(read(json).expect("it is right"), json!({"driver": "qcow2"}));
        for wrong in [
            "a,b",
            "a=1,a.b=2",
            "a.b=1,a=2",
            "=1",
            ".a=1",
            "a..b=1",
            "1a=1",
            "a b=1",
            ",",
            "a.1=x",
            "{",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn help_is_heard_everywhere() {
        for text in ["help", "?", "a,help", "a,b=c,?"] {
            assert!(read(text, Some("driver")).expect("it is right").help, "{text}");
        }
        assert!(!read("help=1", None).expect("it is right").help);
    }
}
