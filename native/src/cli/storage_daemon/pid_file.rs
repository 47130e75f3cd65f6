//! The file that tells the process, and that it is the only one.

use crate::cli::failure::Failure;
use crate::cli::nbd::words;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// A file with the number of this process, locked. It goes with the process.
#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    /// Keeps the lock.
    _file: File,
}

impl PidFile {
    pub(super) fn new(path: &str) -> Result<Self, Failure> {
        loop {
            let cannot =
                |what: &str, e: std::io::Error| Failure::new(format!("{what}: {}", words(&e)));
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = options.open(path);
            let mut file = file.map_err(|e| cannot(&format!("Could not create '{path}'"), e))?;
            rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
                .map_err(|e| cannot("Cannot lock pid file", e.into()))?;
            // Another process may have removed it in between.
            let stat = |m: fs::Metadata| (m.dev(), m.ino());
            let ours = file.metadata().map(stat).ok();
            if fs::metadata(path).map(stat).ok() != ours {
                continue;
            }
            let write = |file: &mut File| {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())
            };
            write(&mut file).map_err(|e| cannot("Failed to write pid file", e))?;
            let path = fs::canonicalize(path);
            let path = path.map_err(|e| cannot("Cannot find the pid file again", e))?;
            return Ok(Self { path, _file: file });
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = fs::remove_file(&self.path);
    }
}
