//! What happens at which event: errors that become active, and states that follow each other.
//!
//! Learned from the reference, driver by driver test: the rules of an event that fit the state
//! become active *instead of* those that were, if there is one; they stay active for all requests
//! until another event makes others so. Among rules the first one listed decides. A state changes
//! after the whole event.

use super::errno::InjectedError;
use crate::io::DebugEvent;
use crate::{Error, Result};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

/// Bytes of a sector, as rules count them.
const SECTOR: u64 = 512;

/// `BlkdebugIOType` (block-core.json).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BlkdebugIoType {
    Read,
    Write,
    WriteZeroes,
    Discard,
    Flush,
    BlockStatus,
}

impl BlkdebugIoType {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("read", Self::Read),
        ("write", Self::Write),
        ("write-zeroes", Self::WriteZeroes),
        ("discard", Self::Discard),
        ("flush", Self::Flush),
        ("block-status", Self::BlockStatus),
    ];
}

impl FromStr for BlkdebugIoType {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, kind)| *kind).ok_or_else(|| unknown(name))
    }
}

/// Says that a name is none of the schema's, in the reference's words.
fn unknown(name: impl fmt::Display) -> Error {
    Error::invalid(alloc::format!("invalid parameter value: {name}"))
}

/// The event of this name.
///
/// # Errors
/// `InvalidInput` where there is none.
pub fn event(name: &str) -> Result<DebugEvent> {
    DebugEvent::from_name(name).ok_or_else(|| unknown(name))
}

/// `BlkdebugInjectErrorOptions` (block-core.json).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InjectError {
    /// The event at which the error becomes active.
    pub event: DebugEvent,
    /// The state in which it does; 0 for any.
    pub state: i64,
    /// The requests that fail; `None` for all but those for the status.
    pub iotype: Option<BlkdebugIoType>,
    /// The error number; 0 and what is below it let the request pass.
    pub errno: i64,
    /// Only requests that touch this sector fail; -1 for any.
    pub sector: i64,
    /// It fails one request only.
    pub once: bool,
    /// Fail at once. Here no error takes time.
    pub immediately: bool,
}

impl InjectError {
    /// Every request fails with EIO from `event` on.
    #[must_use]
    pub fn new(event: DebugEvent) -> Self {
        Self {
            event,
            state: 0,
            iotype: None,
            errno: 5,
            sector: -1,
            once: false,
            immediately: false,
        }
    }

    fn matches(&self, kind: BlkdebugIoType, offset: u64, len: u64) -> bool {
        let kind_fits = match self.iotype {
            Some(wanted) => wanted == kind,
            None => kind != BlkdebugIoType::BlockStatus,
        };
        let sector_fits = self.sector == -1
            || u64::try_from(self.sector)
                .ok()
                .and_then(|sector| sector.checked_mul(SECTOR))
                .is_some_and(|at| at >= offset && at - offset < len);
        kind_fits && sector_fits
    }
}

/// `BlkdebugSetStateOptions` (block-core.json).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetState {
    /// The event at which the state changes.
    pub event: DebugEvent,
    /// The state in which it does; 0 for any.
    pub state: i64,
    /// The state that follows.
    pub new_state: i64,
}

/// All rules, and the state they are in.
#[derive(Debug)]
pub(super) struct Rules {
    state: i64,
    errors: Vec<InjectError>,
    changes: Vec<SetState>,
    /// Which of `errors` are active.
    active: Vec<usize>,
    /// Which of `errors` have failed their one request.
    spent: Vec<bool>,
}

impl Rules {
    /// In state 1, with the event that happens at creation behind it.
    pub(super) fn new(errors: Vec<InjectError>, changes: Vec<SetState>) -> Self {
        let spent = alloc::vec![false; errors.len()];
        let mut rules = Self { state: 1, errors, changes, active: Vec::new(), spent };
        rules.event(DebugEvent::None);
        rules
    }

    pub(super) fn event(&mut self, event: DebugEvent) {
        let state = self.state;
        let fits = |of: DebugEvent, wanted: i64| of == event && (wanted == 0 || wanted == state);
        let found = |(_, rule): &(usize, &InjectError)| fits(rule.event, rule.state);
        let active: Vec<usize> = self
            .errors
            .iter()
            .enumerate()
            .filter(|(index, _)| !self.spent.get(*index).is_some_and(|spent| *spent))
            .filter(found)
            .map(|(index, _)| index)
            .collect();
        if !active.is_empty() {
            self.active = active;
        }
        if let Some(change) = self.changes.iter().find(|change| fits(change.event, change.state)) {
            self.state = change.new_state;
        }
    }

    /// Whether a request fails.
    pub(super) fn check(&mut self, kind: BlkdebugIoType, offset: u64, len: u64) -> Result<()> {
        let matching = |index: &usize| {
            self.errors.get(*index).is_some_and(|rule| rule.matches(kind, offset, len))
        };
        let Some(index) = self.active.iter().copied().find(matching) else { return Ok(()) };
        let Some(rule) = self.errors.get(index) else { return Ok(()) };
        let errno = rule.errno;
        if errno <= 0 {
            return Ok(());
        }
        if rule.once {
            self.active.retain(|active| *active != index);
            self.spent[index] = true;
        }
        Err(InjectedError::new(errno).into())
    }
}
