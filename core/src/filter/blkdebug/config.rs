//! The rules file: sections `[inject-error]` and `[set-state]` with lines `name = "value"`.

use super::rules::{InjectError, SetState, event};
use crate::{Error, Result};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// A longer line is cut by the reference; it is refused here.
const LONGEST: usize = 1024;

/// A section, with what its lines say.
struct Section<'a> {
    name: &'a str,
    options: Vec<(&'a str, &'a str)>,
}

/// The rules that the text of a file gives.
///
/// # Errors
/// `InvalidInput` where it is not such a file, in the words of the reference.
pub fn parse_config(text: &str) -> Result<(Vec<InjectError>, Vec<SetState>)> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for line in text.lines() {
        if line.len() > LONGEST {
            return Err(Error::invalid("a line of the rules file is too long"));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            sections.push(section(rest)?);
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(Error::invalid("no group defined"));
        };
        let (name, value) = option(line)?;
        if !allowed(section.name).contains(&name) {
            return Err(Error::invalid(format!("Invalid parameter '{name}'")));
        }
        check(name, value)?;
        section.options.push((name, value));
    }
    let (mut errors, mut changes) = (Vec::new(), Vec::new());
    for section in &sections {
        match section.name {
            "inject-error" => errors.push(inject_error(section)?),
            _ => changes.push(set_state(section)?),
        }
    }
    Ok((errors, changes))
}

/// `name]` or `name "id"]`.
fn section(rest: &str) -> Result<Section<'_>> {
    let Some(inside) = rest.strip_suffix(']') else {
        return Err(Error::invalid("parse error"));
    };
    let name = inside.split_whitespace().next().unwrap_or_default();
    if allowed(name).is_empty() {
        return Err(Error::invalid(format!("There is no option group '{name}'")));
    }
    Ok(Section { name, options: Vec::new() })
}

fn allowed(section: &str) -> &'static [&'static str] {
    match section {
        "inject-error" => &["event", "state", "iotype", "errno", "sector", "once", "immediately"],
        "set-state" => &["event", "state", "new_state"],
        _ => &[],
    }
}

/// `name = "value"`.
fn option(line: &str) -> Result<(&str, &str)> {
    let Some((name, value)) = line.split_once('=') else {
        return Err(Error::invalid("parse error"));
    };
    // A value without quotes is an empty one to the reference.
    let value = value.trim().strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    Ok((name.trim(), value.unwrap_or_default()))
}

/// Refuses a value that is not of its kind.
fn check(name: &str, value: &str) -> Result<()> {
    match name {
        "event" | "iotype" => Ok(()),
        "once" | "immediately" => flag(name, value).map(drop),
        _ => number(name, value).map(drop),
    }
}

fn number(name: &str, value: &str) -> Result<i64> {
    let parsed = match value.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16),
        None => value.parse(),
    };
    parsed.map_err(|_| Error::invalid(format!("Parameter '{name}' expects a number")))
}

fn flag(name: &str, value: &str) -> Result<bool> {
    match value {
        "on" | "yes" | "true" | "y" => Ok(true),
        "off" | "no" | "false" | "n" => Ok(false),
        _ => Err(Error::invalid(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

impl Section<'_> {
    /// The last one counts.
    fn get(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(of, _)| *of == name).map(|(_, value)| *value)
    }

    fn number(&self, name: &str, default: i64) -> Result<i64> {
        self.get(name).map_or(Ok(default), |value| number(name, value))
    }

    fn flag(&self, name: &str) -> Result<bool> {
        self.get(name).map_or(Ok(false), |value| flag(name, value))
    }

    fn event(&self) -> Result<crate::io::DebugEvent> {
        match self.get("event") {
            Some(name) => event(name),
            None => Err(Error::invalid(String::from("Missing event name for rule"))),
        }
    }
}

fn inject_error(section: &Section<'_>) -> Result<InjectError> {
    let rule = InjectError::new(section.event()?);
    Ok(InjectError {
        state: section.number("state", rule.state)?,
        iotype: section.get("iotype").map(str::parse).transpose()?,
        errno: section.number("errno", rule.errno)?,
        sector: section.number("sector", rule.sector)?,
        once: section.flag("once")?,
        immediately: section.flag("immediately")?,
        ..rule
    })
}

fn set_state(section: &Section<'_>) -> Result<SetState> {
    Ok(SetState {
        event: section.event()?,
        state: section.number("state", 0)?,
        new_state: section.number("new_state", 0)?,
    })
}
