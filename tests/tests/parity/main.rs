//! Random command lines, right and wrong, run by the installed qemu-img and by ours under its name,
//! on copies of the same folder: what is printed, the exit status and the images must be the same.
//!
//! Under the name `qemu-img` this program *is* ours: nothing else has to be built.
//! `SECTORA_CASES=n` runs so many lines, `SECTORA_SEED=n` others.

// What a long test has looked at is worth a line.
#![allow(clippy::print_stdout)]

mod lines;
mod worlds;

use libtest_mimic::{Arguments, Trial};
use sectora_core::io::testing::Rng;
use sectora_tests::have_reference_tools;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    if name.as_deref().and_then(|name| Path::new(name).file_stem()).is_some_and(|n| n == "qemu-img")
    {
        return sectora::cli::main();
    }
    let skipped = !have_reference_tools("parity");
    let trial = Trial::test("command_lines_do_what_the_reference_does", || {
        command_lines();
        Ok(())
    });
    let trials = vec![trial.with_ignored_flag(skipped)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn command_lines() {
    let (cases, seed) = (number("SECTORA_CASES", 300), number("SECTORA_SEED", 1));
    let worlds = worlds::Worlds::new();
    let mut rng = Rng::new(seed);
    let (mut problems, mut succeeded, mut crashed) = (Vec::new(), 0, 0);
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..cases {
        let line = lines::random(&mut rng);
        match worlds.differences(&line) {
            worlds::Verdict::Same { success } => succeeded += u64::from(success),
            worlds::Verdict::Known(reason) => *known.entry(reason).or_default() += 1,
            worlds::Verdict::ReferenceCrashed => crashed += 1,
            worlds::Verdict::Differ(what) => problems.push(format!("{}\n{what}", line.join(" "))),
        }
    }
    println!(
        "{cases} command lines, seed {seed}: {succeeded} succeeded with both, the reference crashed \
         {crashed} times, {} differ",
        problems.len()
    );
    for (reason, times) in known {
        println!("{times} not compared: {reason}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    assert!(succeeded * 5 > cases, "too few lines do something: {succeeded} of {cases}");
}
