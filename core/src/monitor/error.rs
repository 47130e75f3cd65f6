//! What a command answers when it fails.

use crate::Error;
use crate::qapi::Invalid;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;
use serde::{Deserialize, Serialize};

/// What programs may tell errors apart by (the schema's `QapiErrorClass`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum QapiErrorClass {
    /// Everything that has no class of its own: only the text says more.
    GenericError,
    /// There is no such command, or not in this state of the connection.
    CommandNotFound,
    /// The device has not been activated, or there is no job on it.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// An accelerator is missing.
    KVMMissingCap,
}

/// An error as it stands on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QmpError {
    /// For programs.
    pub class: QapiErrorClass,
    /// For people.
    pub desc: String,
}

/// The result of a command.
pub type QmpResult<T> = Result<T, QmpError>;

impl QmpError {
    /// An error without a class of its own.
    pub fn generic(desc: impl Into<String>) -> Self {
        Self { class: QapiErrorClass::GenericError, desc: desc.into() }
    }

    /// There is no command of that name here.
    #[must_use]
    pub fn command_not_found(name: &str) -> Self {
        let desc = format!("The command {name} has not been found");
        Self { class: QapiErrorClass::CommandNotFound, desc }
    }

    /// There is no device of that name.
    #[must_use]
    pub fn device_not_found(name: &str) -> Self {
        let desc = format!("Device '{name}' not found");
        Self { class: QapiErrorClass::DeviceNotFound, desc }
    }
}

impl From<Invalid> for QmpError {
    fn from(error: Invalid) -> Self {
        Self::generic(error.desc)
    }
}

impl From<Error> for QmpError {
    /// The text of an engine's error. One that begins with a capital is the reference's own, which
    /// names neither format nor place.
    fn from(error: Error) -> Self {
        let own = error.what().trim_start_matches("Could not open backing file: ");
        let whole = core::error::Error::source(&error).is_none();
        match whole && own.starts_with(|c: char| c.is_ascii_uppercase()) {
            // Hints for people stand on lines of their own.
            true => Self::generic(error.what().lines().next().unwrap_or_default()),
            false => Self::generic(error.to_string()),
        }
    }
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.desc)
    }
}

impl core::error::Error for QmpError {}
