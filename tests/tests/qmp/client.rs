//! What a client of NBD does between commands, and what it is told.

use sectora_core::io::testing::Rng;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A line that begins like this is for the client: the export's name and one of its commands follow.
const CLIENT: &str = "qemu-io ";

/// No request takes longer.
const PATIENCE: Duration = Duration::from_secs(4);

/// A line for the client: a request to an export, which may be there.
pub(crate) fn line(rng: &mut Rng) -> String {
    let name = match rng.below(10) {
        0..=5 => "x",
        6 => "y",
        _ => rng.pick(&["n0", "n1", "n2"]),
    };
    let at = match rng.chance(70) {
        true => rng.below(64) << 16,
        false => rng.below(9000) << 9,
    };
    let length = match rng.chance(60) {
        true => 1 << 16,
        false => (1 + rng.below(300)) << 9,
    };
    let pattern = rng.below(4);
    let request = match rng.below(12) {
        0..=2 => format!("write -P {pattern} {at} {length}"),
        3 => format!("write -z {at} {length}"),
        4 => format!("write -z -u {at} {length}"),
        5 => format!("write -f -P {pattern} {at} {length}"),
        6 => format!("discard {at} {length}"),
        7 => "flush".to_owned(),
        8 => format!("read -P {pattern} {at} {length}"),
        9 => "length".to_owned(),
        _ => format!("read -v {at} 512"),
    };
    format!("{CLIENT}{name} {request}")
}

/// True where a line is for the client and writes zeroes.
pub(crate) fn writes_zeroes(line: &str) -> bool {
    line.strip_prefix(CLIENT).is_some_and(|request| request.contains(" write -z "))
}

/// What the client says to a line that is for it, and how it ends; `late` where it does not.
pub(crate) fn run(folder: &Path, line: &str, late: &mut bool) -> Option<Value> {
    let (name, request) = line.strip_prefix(CLIENT)?.split_once(' ')?;
    let address = format!("nbd+unix:///{name}?socket=nbd.sock");
    if *late {
        // A client waits already, and others would wait with it.
        return Some(json!({ "late": "before" }));
    }
    // Where only reading is allowed, who wants to write cannot even open it.
    let reads = request.starts_with("read") || request == "length";
    let mode: &[&str] = if reads { &["-r"] } else { &[] };
    let mut client = Command::new("qemu-io")
        .args(mode)
        .args(["-f", "raw", "-c", request, &address])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the client starts");
    let end = Instant::now() + PATIENCE;
    *late = loop {
        if client.try_wait().expect("it was started").is_some() {
            break false;
        }
        if Instant::now() > end {
            // Only this one is ended.
            let _ = client.kill();
            break true;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let output = client.wait_with_output().expect("it was started");
    let text = |bytes: &[u8]| -> Vec<String> {
        // How fast it was is of no interest.
        let plain = |line: &str| match line.find(" ops; ") {
            Some(at) => line[..at].to_owned(),
            None => line.to_owned(),
        };
        String::from_utf8_lossy(bytes).lines().map(plain).collect()
    };
    Some(json!({
        "client": text(&output.stdout), "complaints": text(&output.stderr),
        "code": output.status.code(), "late": *late,
    }))
}
