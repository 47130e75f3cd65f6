//! Types of `common.json`.

use super::names;
use serde::{Deserialize, Serialize};

/// A switch that can be left to the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnOffAuto {
    /// The program decides.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

names!("value", OnOffAuto { Auto => "auto", On => "on", Off => "off" });
