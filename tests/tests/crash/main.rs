//! What a loss of power leaves, before the eyes of the reference.
//!
//! The crash campaign of the core (`core/src/format/qcow2/tests/campaign/`) judges its points by the
//! check of ours. Here a sample of them goes to `qemu-img check` too, through files: it has to find
//! leaks at worst.
//!
//! `SECTORA_CRASH_POINTS=n` takes `n` points instead of 400, `SECTORA_CRASH_SEED=n` others.

// What a long test has looked at is worth a line.
#![allow(clippy::print_stdout)]

extern crate alloc;

#[allow(dead_code, unused_imports, reason = "its own crate does more with it")]
#[path = "../../../core/src/format/qcow2/tests/campaign/mod.rs"]
mod campaign;

// What the campaign takes from its own crate.
use sectora_core::{Error, ErrorKind, Result, bitmap, codec, crypto, format, image, io, sync};

use campaign::Sample;
use libtest_mimic::{Arguments, Trial};
use sectora_tests::{have_reference_tools, run, save};
use std::process::ExitCode;

fn main() -> ExitCode {
    let skipped = !have_reference_tools("crash");
    let trial = Trial::test("what_a_crash_leaves_is_sound_to_the_reference", || {
        sample();
        Ok(())
    });
    let trials = vec![trial.with_ignored_flag(skipped)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn sample() {
    let (points, seed) = (number("SECTORA_CRASH_POINTS", 400), number("SECTORA_CRASH_SEED", 2));
    let folder = tempfile::tempdir().expect("a scratch folder");
    let folder = folder.path();
    let (mut sound, mut leaking, mut excused, mut problems) = (0, 0, 0, Vec::new());
    let tally = campaign::run(seed, points, &mut |point: &Sample<'_>| {
        if point.excused {
            excused += 1;
            return;
        }
        for (name, file) in point.files {
            save(file, &folder.join(name));
        }
        // Only the image itself: its backing file may have any name.
        let key = if point.encrypted { r#","encrypt.key-secret":"s""# } else { "" };
        let image = format!(
            r#"json:{{"driver":"qcow2","file":{{"driver":"file","filename":"image"}},"backing":null{key}}}"#
        );
        let args = ["check", "--object", "secret,id=s,data=first", &image];
        let found = run(folder, "qemu-img", &args);
        match found.status.code() {
            Some(0) => sound += 1,
            Some(3) => leaking += 1,
            // That key may be the one that is gone.
            Some(1) if point.encrypted => excused += 1,
            _ => problems.push(format!(
                "{}: {}\n{}{}",
                point.name,
                found.status,
                String::from_utf8_lossy(&found.stdout),
                String::from_utf8_lossy(&found.stderr)
            )),
        }
    });
    problems.extend(tally.broken);
    println!(
        "{} points: {sound} sound, {leaking} leaking, {excused} not asked for: dirty, damaged \
         before, with flags that a repair corrects, or without the key",
        tally.points
    );
    assert!(problems.is_empty(), "{} broken:\n\n{}", problems.len(), problems.join("\n\n"));
    assert!((sound + leaking) * 2 > tally.points, "most of them have to be looked at");
}
