//! A node's options: dotted names and their values, as flat as people write them.
//!
//! `driver=qcow2,file.filename=a` and `{"driver": "qcow2", "file": {"filename": "a"}}` are the same
//! options. Whoever opens a node takes those it knows; what is left is somebody's mistake.

use crate::image::{SizeError, parse_size};
use crate::{Error, ErrorKind, Result, json};
use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::num::IntErrorKind;
use serde_json::Value;

/// The value of one option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionValue {
    /// As text: from a command line, or a string.
    Text(String),
    /// `true` or `false`.
    Flag(bool),
    /// A number, as it was written.
    Number(String),
    /// `null`: a child that is not wanted.
    Null,
}

impl OptionValue {
    /// As a command line would say it; `None` for `null`.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Number(text) => Some(text),
            Self::Flag(true) => Some("on"),
            Self::Flag(false) => Some("off"),
            Self::Null => None,
        }
    }
}

/// What the options say of one child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChildOptions {
    /// Nothing.
    Absent,
    /// That there is none (`null`, or an empty name).
    Null,
    /// The name of a node.
    Node(String),
    /// Its own options.
    Inline(Options),
}

/// The options of one node and of its children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, OptionValue>);

/// What a text of options gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionList {
    /// The options.
    pub options: Options,
    /// Flags that stood there without a value, which is discouraged: name and what it means.
    pub short_flags: Vec<(String, bool)>,
}

impl Options {
    /// Reads `name=value,…`, the shape of `--image-opts`. A comma within a value is written twice;
    /// what stands first without a name is the `file`.
    #[must_use]
    pub fn parse_list(text: &str) -> OptionList {
        Self::parse(text, Some("file"))
    }

    /// The same without a meaning for what stands first: it is a flag like any other.
    #[must_use]
    pub fn parse_flags(text: &str) -> OptionList {
        Self::parse(text, None)
    }

    fn parse(text: &str, implied: Option<&str>) -> OptionList {
        let mut list = OptionList::default();
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() {
            let name_len = rest.find(['=', ',']).unwrap_or(rest.len());
            let has_value = rest[name_len..].starts_with('=');
            if has_value {
                let name = rest[..name_len].to_owned();
                let (value, after) = value(&rest[name_len + 1..]);
                list.options.set(&name, OptionValue::Text(value));
                rest = after;
            } else {
                let (word, after) = value(rest);
                rest = after;
                if let Some(name) = implied.filter(|_| first) {
                    list.options.set(name, OptionValue::Text(word));
                } else {
                    let (name, on) = match word.strip_prefix("no") {
                        Some(name) => (name.to_owned(), false),
                        None => (word, true),
                    };
                    let text = if on { "on" } else { "off" };
                    list.options.set(&name, OptionValue::Text(text.to_owned()));
                    list.short_flags.push((name, on));
                }
            }
            first = false;
        }
        list
    }

    /// Reads the text behind `json:`.
    ///
    /// # Errors
    /// `InvalidInput` for what is no JSON object.
    pub fn parse_json(text: &str) -> Result<Self> {
        let value = json::parse(text).map_err(|e| e.context("Could not parse the JSON options"))?;
        match value {
            Value::Object(_) => Ok(Self::from_json(&value)),
            _ => Err(Error::invalid("Invalid JSON object given")),
        }
    }

    /// The options that a JSON object holds.
    #[must_use]
    pub fn from_json(value: &Value) -> Self {
        let mut out = Self::default();
        out.flatten("", value);
        out
    }

    fn flatten(&mut self, path: &str, value: &Value) {
        let below = |name: &str| match path {
            "" => name.to_owned(),
            _ => format!("{path}.{name}"),
        };
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, value)| self.flatten(&below(name), value));
            }
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.flatten(&below(&i.to_string()), item);
                }
            }
            Value::String(text) => self.set(path, OptionValue::Text(text.clone())),
            Value::Bool(flag) => self.set(path, OptionValue::Flag(*flag)),
            Value::Number(number) => self.set(path, OptionValue::Number(number.to_string())),
            Value::Null => self.set(path, OptionValue::Null),
        }
    }

    /// Sets one option; a later value replaces an earlier one.
    pub fn set(&mut self, name: &str, value: OptionValue) {
        self.0.insert(name.to_owned(), value);
    }

    /// Sets one option that has not been given.
    pub fn set_default(&mut self, name: &str, value: &str) {
        self.0.entry(name.to_owned()).or_insert_with(|| OptionValue::Text(value.to_owned()));
    }

    /// True where nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names that were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Sets what `other` says; what only these say stays.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// An option that nobody took.
    #[must_use]
    pub fn first(&self) -> Option<&str> {
        self.0.keys().next().map(String::as_str)
    }

    /// True where the option was given.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// True where the option was given as a text.
    #[must_use]
    pub fn has_text(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(OptionValue::Text(_)))
    }

    /// True where an option of the child `name`, or its node, was given.
    #[must_use]
    pub fn has_child(&self, name: &str) -> bool {
        self.has(name) || self.0.keys().any(|key| member(key, name).is_some())
    }

    /// Looks at a value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OptionValue> {
        self.0.get(name)
    }

    /// Looks at a value as text.
    #[must_use]
    pub fn peek(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.text()
    }

    /// Gives the child `name` these options.
    pub fn add_child(&mut self, name: &str, options: Self) {
        for (key, value) in options.0 {
            self.set(&format!("{name}.{key}"), value);
        }
    }

    /// A text; what is no string counts as not given.
    pub fn take_string(&mut self, name: &str) -> Option<String> {
        match self.0.get(name) {
            Some(OptionValue::Text(text)) => {
                let text = text.clone();
                self.0.remove(name);
                Some(text)
            }
            _ => None,
        }
    }

    /// Forgets an option.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Drops all options of a child.
    pub(super) fn remove_child(&mut self, name: &str) {
        self.0.retain(|key, _| key != name && member(key, name).is_none());
    }

    /// A value as text, whatever it was written as.
    pub fn take_text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)?.text().map(ToOwned::to_owned)
    }

    /// `on` or `off`.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn take_flag(&mut self, name: &str) -> Result<Option<bool>> {
        let Some(text) = self.take_text(name) else { return Ok(None) };
        match &*text {
            "on" | "yes" | "true" | "y" => Ok(Some(true)),
            "off" | "no" | "false" | "n" => Ok(Some(false)),
            _ => Err(Error::invalid(format!("Parameter '{name}' expects 'on' or 'off'"))),
        }
    }

    /// A number of bytes.
    ///
    /// # Errors
    /// `InvalidInput` for what is none.
    pub fn take_size(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.take_text(name) else { return Ok(None) };
        parse_size(&text).map(Some).map_err(|e| match e {
            SizeError::Range => {
                Error::invalid(format!("Value '{text}' is out of range for parameter '{name}'"))
            }
            SizeError::Syntax => Error::invalid(format!(
                "Parameter '{name}' expects a non-negative number below 2^64\n\
                 Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n\
                 and exabytes, respectively."
            )),
        })
    }

    /// A whole number.
    ///
    /// # Errors
    /// `InvalidInput` for what is none.
    pub fn take_number(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.take_text(name) else { return Ok(None) };
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.as_str()),
        };
        let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        match number {
            // As the reference counts: from the top.
            Ok(number) if negative => Ok(Some(number.wrapping_neg())),
            Ok(number) => Ok(Some(number)),
            Err(e) if *e.kind() == IntErrorKind::PosOverflow => {
                Err(Error::invalid(format!("Value '{text}' is too large for parameter '{name}'")))
            }
            Err(_) => Err(Error::invalid(format!("Parameter '{name}' expects a number"))),
        }
    }

    /// Takes `pr-manager`, a manager of persistent reservations: there are none.
    ///
    /// # Errors
    /// `NotFound` where one is named.
    pub fn take_pr_manager(&mut self) -> Result<()> {
        let missing = |id| format!("No persistent reservation manager with id '{id}'");
        match self.take_text("pr-manager").map(missing) {
            Some(what) => Err(Error::new(ErrorKind::NotFound, what)),
            None => Ok(()),
        }
    }

    /// One of several words.
    ///
    /// # Errors
    /// `InvalidInput` for another one.
    pub fn take_word<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(text) = self.take_text(name) else { return Ok(None) };
        match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Error::invalid(format!("invalid parameter value: {text}"))),
        }
    }

    /// What is said of the child `name`.
    ///
    /// # Errors
    /// `InvalidInput` where a node is named and options are given for it as well.
    pub fn take_child(&mut self, name: &str) -> Result<ChildOptions> {
        let own = self.0.remove(name);
        let keys: Vec<String> =
            self.0.keys().filter(|key| member(key, name).is_some()).cloned().collect();
        let mut inline = Self::default();
        for key in keys {
            if let (Some(member), Some(value)) = (member(&key, name), self.0.remove(&key)) {
                inline.set(member, value);
            }
        }
        match (own, inline.is_empty()) {
            (None, true) => Ok(ChildOptions::Absent),
            (None | Some(OptionValue::Null), false) => Ok(ChildOptions::Inline(inline)),
            (Some(OptionValue::Null), true) => Ok(ChildOptions::Null),
            (Some(value), true) => {
                Ok(ChildOptions::Node(value.text().unwrap_or_default().to_owned()))
            }
            (Some(_), false) => Err(Error::invalid(
                "Cannot reference an existing block device with additional options or a new \
                 filename",
            )),
        }
    }

    /// Of these options, those with these names.
    #[must_use]
    pub(super) fn only(mut self, names: &[&str]) -> Self {
        self.0.retain(|name, _| names.contains(&&**name));
        self
    }

    /// The options as a `json:` name, in the order in which the reference has those that such names
    /// consist of: what is about the driver around its name, the file last.
    #[must_use]
    pub fn to_json_name(&self) -> String {
        format!("json:{}", self.to_json())
    }

    /// Its members' texts, where they are numbered from 0: a list.
    fn items(&self) -> Option<Vec<String>> {
        if !self.first()?.starts_with('0') {
            return None;
        }
        let (mut rest, mut items) = (self.clone(), Vec::new());
        while !rest.is_empty() {
            let name = format!("{}", items.len());
            items.push(match rest.0.remove(&name) {
                Some(value) => quoted(&value),
                None => match rest.take_child(&name) {
                    Ok(ChildOptions::Inline(item)) => item.to_json(),
                    _ => return None,
                },
            });
        }
        Some(items)
    }

    fn to_json(&self) -> String {
        if let Some(items) = self.items() {
            return format!("[{}]", items.join(", "));
        }
        let mut parts = Vec::new();
        let mut rest = self.clone();
        for child in ["children", "image", "log"] {
            if !rest.has(child)
                && let Ok(ChildOptions::Inline(below)) = rest.take_child(child)
            {
                parts.push(format!("\"{child}\": {}", below.to_json()));
            }
        }
        let first = [
            "encrypt.key-secret",
            "offset",
            "read-zeroes",
            "throttle-group",
            "driver",
            "mode",
            "top-id",
            "size",
        ];
        for key in first {
            if let Some(value) = rest.0.remove(key) {
                parts.push(format!("\"{key}\": {}", quoted(&value)));
            }
        }
        while let Some(key) = rest.first().map(ToOwned::to_owned) {
            match key.split_once('.') {
                Some((child, _)) if !is_flat(&key) => {
                    let own = rest.0.remove(child);
                    if let Ok(ChildOptions::Inline(below)) = rest.take_child(child) {
                        parts.push(format!("{}: {}", Value::from(child), below.to_json()));
                    }
                    if let Some(own) = own {
                        parts.push(format!("{}: {}", Value::from(child), quoted(&own)));
                    }
                }
                _ => {
                    if let Some(value) = rest.0.remove(&key) {
                        parts.push(format!("{}: {}", Value::from(key), quoted(&value)));
                    }
                }
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// True for options of a driver itself that have dots in their names: no child's.
pub(super) fn is_flat(name: &str) -> bool {
    matches!(name.split_once('.'), Some(("inject-error" | "set-state", _)))
}

fn quoted(value: &OptionValue) -> String {
    match value {
        OptionValue::Text(text) => Value::from(text.as_str()).to_string(),
        OptionValue::Flag(flag) => flag.to_string(),
        OptionValue::Number(number) => number.clone(),
        OptionValue::Null => "null".to_owned(),
    }
}

/// The name that `key` has within the options of the child `name`.
fn member<'a>(key: &'a str, name: &str) -> Option<&'a str> {
    key.strip_prefix(name)?.strip_prefix('.')
}

/// A value up to the next single comma, and what follows that.
fn value(text: &str) -> (String, &str) {
    let mut out = String::new();
    let mut rest = text;
    loop {
        match rest.find(',') {
            None => {
                out.push_str(rest);
                return (out, "");
            }
            Some(at) if rest[at + 1..].starts_with(',') => {
                out.push_str(&rest[..=at]);
                rest = &rest[at + 2..];
            }
            Some(at) => {
                out.push_str(&rest[..at]);
                return (out, &rest[at + 1..]);
            }
        }
    }
}
