//! Servers in scratch folders.

use sectora::export::nbd::{Ended, Listener, ServerOptions, run};
use sectora::protocol::nbd::{NbdDevice, NbdOptions, Server};
use sectora_core::io::{Access, Device};
use sectora_core::nbd::{Export, ExportOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

/// True where a program is installed; says what is skipped if not.
#[expect(clippy::print_stderr, reason = "says what is skipped, where nobody looks for results")]
pub(crate) fn have(test: &str, program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
    if !found {
        eprintln!("SKIPPED {test}: {program} is not installed");
    }
    found
}

pub(crate) fn folder() -> TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// Serves `device` at the socket `path` until the runtime ends.
pub(crate) fn serve(
    path: &Path,
    device: Device,
    options: ExportOptions,
    server: ServerOptions,
) -> (tokio::task::JoinHandle<()>, mpsc::UnboundedReceiver<Ended>) {
    let listener = Listener::Unix(UnixListener::bind(path).expect("a socket"));
    let export = Export::new("", device, options).expect("an export");
    let (tell, told) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let exports = Arc::from([Arc::new(export)]);
        run(vec![listener], exports, server, tell).await.expect("the server");
    });
    (task, told)
}

pub(crate) fn options(path: &Path) -> NbdOptions {
    NbdOptions::new(Server::Unix { path: text(path) }, "")
}

pub(crate) async fn connect(path: &Path, access: Access) -> NbdDevice {
    NbdDevice::connect(&options(path), access).await.expect("a connection")
}

/// A program in the background, ended when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Ends the server by a signal, which it takes as an end.
    pub(crate) fn end(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        assert!(self.0.wait().expect("an end").success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server and waits until its socket is there.
pub(crate) fn start(program: impl AsRef<std::ffi::OsStr>, args: &[&str], socket: &Path) -> Running {
    start_in(Path::new("."), &mut Command::new(program), args, socket)
}

/// The same in a folder of its own.
pub(crate) fn start_in(
    folder: &Path,
    command: &mut Command,
    args: &[&str],
    socket: &Path,
) -> Running {
    command.args(args).current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    let child = Running(command.spawn().expect("the server starts"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < deadline, "the server does not listen");
        std::thread::yield_now();
    }
    child
}

/// The program under one of its names.
pub(crate) fn ours(folder: &Path, name: &str) -> PathBuf {
    let link = folder.join(name);
    if !link.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_sectora"), &link).expect("a link");
    }
    link
}

pub(crate) fn output(folder: &Path, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command.output().expect("the program starts")
}

/// Runs a program that must succeed; what it prints.
pub(crate) fn succeed(
    folder: &Path,
    program: impl AsRef<std::ffi::OsStr>,
    args: &[&str],
) -> String {
    let output = output(folder, program, args);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {}\n{out}{error}", output.status);
    out
}
