//! Objects that are made of numbers: `iothread` and `main-loop`. They are kept and told; requests
//! of all nodes run on all threads, so there is nothing that they would set.

use super::Definition;
use crate::cli::failure::Failure;
use std::collections::BTreeMap;

/// An object of numbers.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Numbers {
    pub(super) kind: &'static str,
    values: BTreeMap<&'static str, i64>,
}

impl Numbers {
    /// `iothread`.
    pub(super) fn iothread(definition: &mut Definition) -> Result<Self, Failure> {
        let values = [
            ("aio-max-batch", 0),
            ("poll-grow", 0),
            ("poll-max-ns", 32768),
            ("poll-shrink", 0),
            ("thread-pool-max", 64),
            ("thread-pool-min", 0),
        ];
        Self { kind: "iothread", values: values.into() }.read(definition)
    }

    /// `main-loop`.
    pub(super) fn main_loop(definition: &mut Definition) -> Result<Self, Failure> {
        let values = [("aio-max-batch", 0), ("thread-pool-max", 64), ("thread-pool-min", 0)];
        Self { kind: "main-loop", values: values.into() }.read(definition)
    }

    fn read(mut self, definition: &mut Definition) -> Result<Self, Failure> {
        let names: Vec<_> = self.values.keys().copied().collect();
        let mut given = Vec::new();
        for name in names {
            let Some(text) = definition.take(name) else { continue };
            let value: i64 = text
                .parse()
                .map_err(|_| Failure::new(format!("Parameter '{name}' expects integer")))?;
            given.push((name, value));
        }
        definition.end()?;
        for (name, value) in given {
            check(name, value)?;
            self.values.insert(name, value);
        }
        self.check_pool()?;
        Ok(self)
    }

    /// The value called `name`.
    pub(in crate::cli) fn get(&self, name: &str) -> Option<i64> {
        self.values.get(name).copied()
    }

    /// Changes the value called `name`, where there is one.
    pub(super) fn set(&mut self, name: &str, value: i64) -> Result<(), Failure> {
        check(name, value)?;
        let mut changed = self.clone();
        if let Some(slot) = changed.values.get_mut(name) {
            *slot = value;
        }
        changed.check_pool()?;
        *self = changed;
        Ok(())
    }

    fn check_pool(&self) -> Result<(), Failure> {
        let get = |name| self.get(name).unwrap_or_default();
        match get("thread-pool-min") <= get("thread-pool-max") {
            true => Ok(()),
            false => Err(Failure::new("bad thread-pool-min/thread-pool-max values")),
        }
    }
}

fn check(name: &str, value: i64) -> Result<(), Failure> {
    match value >= 0 {
        true => Ok(()),
        false => {
            let most = i64::MAX;
            Err(Failure::new(format!("{name} value must be in range [0, {most}]")))
        }
    }
}
