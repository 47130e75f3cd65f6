//! The Python package `qemu.qmp` as a client.

use super::setup::{Place, start};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The package, as the tests' own script installs it.
pub(crate) const PACKAGE: &str = "qemu.qmp==0.0.5";

const CLIENT: &str = r#"
import asyncio, sys
from qemu.qmp import QMPClient, ExecuteError

async def main():
    client = QMPClient("test")
    await client.connect(sys.argv[1])
    names = [command["name"] for command in await client.execute("query-commands")]
    assert "query-version" in names and "quit" in names, names
    version = await client.execute("query-version")
    assert version["qemu"] == {"major": 10, "minor": 0, "micro": 2}, version
    try:
        await client.execute("nope", {"a": 1})
        raise AssertionError("it was carried out")
    except ExecuteError as error:
        assert error.error_class == "CommandNotFound", error
    await client.execute("quit")
    try:
        await client.disconnect()
    except EOFError:
        # The daemon has gone first, as it was told.
        pass
    print("done")

asyncio.run(main())
"#;

/// A Python with the package: in the folder of what is built, made once. Says what is skipped
/// where there is none.
#[expect(clippy::print_stderr, reason = "says what is skipped, where nobody looks for results")]
pub(crate) fn python() -> Option<PathBuf> {
    let found = installed();
    if found.is_none() {
        eprintln!("SKIPPED python: {PACKAGE} cannot be installed");
    }
    found
}

fn installed() -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_sectora")).parent()?;
    let home = built.join("qemu-qmp");
    let python = home.join("bin/python3");
    let has = |python: &Path| {
        let mut command = Command::new(python);
        command.args(["-c", "import qemu.qmp"]).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if has(&python) {
        return Some(python);
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv"]).arg(&home).stdout(Stdio::null()).stderr(Stdio::null());
    make.status().ok().filter(std::process::ExitStatus::success)?;
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "-q", "--disable-pip-version-check", PACKAGE]);
    install.stdout(Stdio::null()).stderr(Stdio::null());
    install.status().ok().filter(std::process::ExitStatus::success)?;
    has(&python).then_some(python)
}

pub(crate) fn connects() {
    let python = installed().expect("it was there");
    let place = Place::new();
    let path = place.path("socket");
    let (mut running, stream) = start(place.ours(), &path, &[]);
    drop(stream);
    let client = Command::new(python).args(["-c", CLIENT, &path]).output().expect("a process");
    let text = String::from_utf8_lossy(&client.stderr);
    assert!(client.status.success() && client.stdout == b"done\n", "{text}");
    assert!(running.0.wait().expect("an end").success());
}
