//! Block devices over files. They are loop devices, which need the superuser and a kernel that has
//! them.

use std::path::Path;
use std::process::Command;

/// A device over a file, until dropped.
#[derive(Debug)]
pub(crate) struct LoopDevice(String);

impl LoopDevice {
    /// A device over the file at `path`; `None` where there can be none.
    pub(crate) fn over(path: impl AsRef<Path>) -> Option<Self> {
        let made =
            Command::new("losetup").args(["-f", "--show"]).arg(path.as_ref()).output().ok()?;
        let name = String::from_utf8(made.stdout).ok()?;
        made.status.success().then(|| Self(name.trim().to_owned()))
    }

    /// Its path.
    pub(crate) fn path(&self) -> &str {
        &self.0
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

/// Says that a test is left out.
#[expect(clippy::print_stderr, reason = "says what is skipped")]
pub(crate) fn skipped(test: &str) {
    eprintln!("SKIPPED {test}: there can be no loop devices");
}
