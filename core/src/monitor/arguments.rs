//! A command's arguments, taken one by one.

use super::error::{QmpError, QmpResult};
use alloc::format;
use alloc::string::String;
use serde_json::{Map, Value};

/// Arguments that are not yet taken. The texts of errors are the reference's.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    /// What stands in front of the names: empty, or the name of the member and a dot.
    path: String,
    left: Map<String, Value>,
}

impl Arguments {
    /// All of a call's.
    #[must_use]
    pub fn new(arguments: Map<String, Value>) -> Self {
        Self { path: String::new(), left: arguments }
    }

    /// The members of the object `value`, which is called `path`.
    ///
    /// # Errors
    /// `GenericError` where it is none.
    pub fn of(path: &str, value: Value) -> QmpResult<Self> {
        match value {
            Value::Object(left) => Ok(Self { path: format!("{path}."), left }),
            _ => Err(wrong_type(path, "object")),
        }
    }

    /// The name of a member as errors have it.
    #[must_use]
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// The value of `name`, where there is one.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name)
    }

    /// The value of `name`.
    ///
    /// # Errors
    /// `GenericError` where it is missing.
    pub fn need(&mut self, name: &str) -> QmpResult<Value> {
        let missing = || QmpError::generic(format!("Parameter '{}' is missing", self.name(name)));
        self.left.get(name).ok_or_else(missing)?;
        Ok(self.left.remove(name).unwrap_or_default())
    }

    /// A text, where there is one.
    ///
    /// # Errors
    /// `GenericError` where it is none.
    pub fn text(&mut self, name: &str) -> QmpResult<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(&self.name(name), "string")),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// `GenericError` where it is missing or none.
    pub fn need_text(&mut self, name: &str) -> QmpResult<String> {
        match self.need(name)? {
            Value::String(text) => Ok(text),
            _ => Err(wrong_type(&self.name(name), "string")),
        }
    }

    /// A truth value, where there is one.
    ///
    /// # Errors
    /// `GenericError` where it is none.
    pub fn flag(&mut self, name: &str) -> QmpResult<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(wrong_type(&self.name(name), "boolean")),
        }
    }

    /// A whole number, where there is one.
    ///
    /// # Errors
    /// `GenericError` where it is none.
    pub fn integer(&mut self, name: &str) -> QmpResult<Option<i64>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.as_i64().ok_or_else(|| wrong_type(&self.name(name), "integer"))?;
        Ok(Some(number))
    }

    /// The members of an object.
    ///
    /// # Errors
    /// `GenericError` where it is missing or none.
    pub fn need_object(&mut self, name: &str) -> QmpResult<Self> {
        let value = self.need(name)?;
        Self::of(&self.name(name), value)
    }

    /// Refuses what nobody took.
    ///
    /// # Errors
    /// `GenericError`, naming the first.
    pub fn end(&self) -> QmpResult<()> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => {
                let name = self.name(name);
                Err(QmpError::generic(format!("Parameter '{name}' is unexpected")))
            }
        }
    }
}

/// `name` is of another type than it has to be.
#[must_use]
pub fn wrong_type(name: &str, expected: &str) -> QmpError {
    QmpError::generic(format!("Invalid parameter type for '{name}', expected: {expected}"))
}

/// The value of `name` is none of those it can have.
#[must_use]
pub fn not_accepted(name: &str, value: &str) -> QmpError {
    QmpError::generic(format!("Parameter '{name}' does not accept value '{value}'"))
}
