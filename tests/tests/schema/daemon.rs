//! A session with the reference daemon.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const PROGRAM: &str = "qemu-storage-daemon";

/// The daemon, and a monitor on its standard input and output. It ends with this value.
pub(crate) struct Daemon {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    // What it might make by mistake goes away with it.
    _folder: tempfile::TempDir,
}

/// True where the reference daemon is installed.
pub(crate) fn is_installed() -> bool {
    let found = Command::new(PROGRAM).arg("--version").stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}

impl Daemon {
    pub(crate) fn start() -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut child = Command::new(PROGRAM)
            .args(["--chardev", "stdio,id=m", "--monitor", "chardev=m"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| format!("{PROGRAM}: {e}"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".into()) };
        let output = BufReader::new(output);
        let mut daemon = Self { child, input, output, _folder: folder };
        let greeting = daemon.read()?;
        if greeting.get("QMP").is_none() {
            return Err(format!("no greeting: {greeting}"));
        }
        daemon.execute("qmp_capabilities", &json!({})).map_err(|e| e.to_string())?;
        Ok(daemon)
    }

    fn read(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(0) => Err(format!("{PROGRAM} has ended")),
            Ok(_) => serde_json::from_str(&line).map_err(|e| format!("{e}: {line}")),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Executes a command: what it returns, or its error as an object of class and text.
    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Value> {
        let line = json!({"execute": command, "arguments": arguments});
        writeln!(self.input, "{line}").map_err(|e| Value::from(e.to_string()))?;
        loop {
            let mut answer = self.read()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get_mut("error") {
                return Err(error.take());
            }
            // An event.
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It holds nothing; nobody is left to tell if it cannot be ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
