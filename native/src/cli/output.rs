//! Everything that is printed, and how numbers read.

use super::failure::Failure;
use std::cell::RefCell;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;

/// The version whose command line, output and exit codes are taken over.
pub(super) const QEMU_IMG_VERSION: &str =
    concat!("version 10.0.2 (sectora ", env!("CARGO_PKG_VERSION"), ")");

/// The name the program goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// Its own.
    Sectora,
    /// That of the tool it stands in for.
    QemuImg,
    /// That of the tool `io` stands in for.
    QemuIo,
    /// The same, for the server.
    QemuNbd,
    /// The same, for the daemon.
    QemuStorageDaemon,
}

impl Program {
    /// The name as messages have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sectora => "sectora",
            Self::QemuImg => "qemu-img",
            Self::QemuIo => "qemu-io",
            Self::QemuNbd => "qemu-nbd",
            Self::QemuStorageDaemon => "qemu-storage-daemon",
        }
    }
}

/// What the process goes by: messages that do not end it need it as well.
static PROGRAM: OnceLock<Program> = OnceLock::new();

/// Says once what the process goes by.
pub(super) fn set_program(program: Program) {
    // A second time there is nothing to say.
    let _ = PROGRAM.set(program);
}

/// True under a name that is not our own: what the tool of that name says is what counts.
pub(super) fn stands_in() -> bool {
    PROGRAM.get().is_some_and(|program| *program != Program::Sectora)
}

/// True where the process goes by this name.
pub(super) fn is(program: Program) -> bool {
    PROGRAM.get() == Some(&program)
}

/// The name that messages begin with.
pub(super) fn name() -> &'static str {
    PROGRAM.get().copied().unwrap_or(Program::Sectora).name()
}

/// Says that something is not as it should be, and goes on.
pub(super) fn warn(text: &str) {
    let program = PROGRAM.get().copied().unwrap_or(Program::Sectora);
    complain(&format!("{}: warning: {text}", program.name()));
}

/// Says what did not work, and goes on.
pub(super) fn complain_of(failure: Failure) {
    let program = PROGRAM.get().copied().unwrap_or(Program::Sectora);
    failure.report(program, program.name());
}

/// Says that a guess is no good base for writing to the image `name`.
pub(super) fn warn_of_guess(name: &str) {
    complain(&format!(
        "WARNING: Image format was not specified for '{name}' and probing guessed raw.\n         \
         Automatically detecting the format is dangerous for raw images, write operations on block \
         0 will be restricted.\n         \
         Specify the 'raw' format explicitly to remove the restrictions."
    ));
}

/// The most that is kept of what is caught, in bytes.
const MAX_CAUGHT: usize = 16 << 20;

tokio::task_local! {
    /// Where text goes that would go to the terminal.
    static CAUGHT: RefCell<String>;
}

/// Carries out `work`, and keeps what it prints and complains of.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> (T, String) {
    CAUGHT
        .scope(RefCell::default(), async {
            let result = work.await;
            (result, CAUGHT.with(RefCell::take))
        })
        .await
}

/// True where the text was kept for somebody else.
fn catch(text: &str) -> bool {
    let keep = |kept: &RefCell<String>| {
        let mut kept = kept.borrow_mut();
        // What does not fit is not begun.
        if kept.len().saturating_add(text.len()) <= MAX_CAUGHT {
            kept.push_str(text);
        }
    };
    CAUGHT.try_with(keep).is_ok()
}

/// Writes to standard output, at once.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    if catch(text) {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        ErrorKind::BrokenPipe => Failure::reader_gone(),
        _ => Failure::new(format!("cannot write to standard output: {e}")),
    })
}

/// Writes a line to standard error. There is nowhere to tell that this fails.
pub(super) fn complain(line: &str) {
    if catch(&format!("{line}\n")) {
        return;
    }
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Says something that does not end the command, under the name of the program that is stood in for.
pub(super) fn complain_as(text: &str) {
    complain(&format!("qemu-img: {text}"));
}

/// A value of the schema as JSON, laid out as QEMU's tools do it.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let mut text = sectora_core::qapi::pretty(value)?;
    text.push('\n');
    print(&text)
}

/// A number of bytes for people: three digits and a unit.
pub(super) fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // Exact enough for three digits.
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", three_digits(value), UNITS[unit])
}

/// As C's `%.3g`.
fn three_digits(value: f64) -> String {
    let scientific = format!("{value:.2e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match usize::try_from(2 - exponent) {
        Ok(decimals) if exponent > -5 => trim(&format!("{value:.decimals$}")),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", trim(digits), exponent.abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_know_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1023, "0.999 KiB"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (1023488, "1e+03 KiB"),
            (1024000, "0.977 MiB"),
            (10488320, "10 MiB"),
            (1500000256, "1.4 GiB"),
            (1 << 40, "1 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
