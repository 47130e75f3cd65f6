//! Random command lines, right and wrong, run by the installed qemu-img, qemu-io and qemu-nbd and by
//! ours under their names, on copies of the same folder: what is printed, every word of what is
//! complained of, the exit status and the images must be the same.
//!
//! Under those names this program *is* ours: nothing else has to be built.
//! `SECTORA_CASES=n` runs so many lines of each, `SECTORA_SEED=n` others.

// What a long test has looked at is worth a line.
#![allow(clippy::print_stdout)]

mod help;
mod lines;
mod worlds;

use libtest_mimic::{Arguments, Trial};
use lines::Program;
use sectora_core::io::testing::Rng;
use sectora_tests::have_reference_tools;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|name| Path::new(name).file_stem());
    if Program::ALL.iter().any(|program| name.is_some_and(|name| name == program.name())) {
        return sectora::cli::main();
    }
    let skipped = !have_reference_tools("parity");
    let help = Trial::test("help_names_every_option", || {
        let folder = tempfile::tempdir().expect("a scratch folder");
        Program::ALL.iter().for_each(|program| worlds::link(*program, folder.path()));
        help::compare(folder.path());
        Ok(())
    });
    let trials = Program::ALL.map(|program| {
        let name = format!("lines_of_{}_do_what_the_reference_does", program.name());
        let trial = Trial::test(name, move || {
            command_lines(program);
            Ok(())
        });
        trial.with_ignored_flag(skipped)
    });
    let trials = trials.into_iter().chain([help.with_ignored_flag(skipped)]).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn command_lines(program: Program) {
    let usual = if program == Program::Img { 250 } else { 70 };
    let (cases, seed) = (number("SECTORA_CASES", usual), number("SECTORA_SEED", 1));
    let mut worlds = worlds::Worlds::new(program);
    let mut rng = Rng::new(seed);
    let (mut problems, mut succeeded, mut crashed) = (Vec::new(), 0, 0);
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    for _ in 0..cases {
        let line = program.random(&mut rng);
        match worlds.differences(&line) {
            worlds::Verdict::Same { success } => succeeded += u64::from(success),
            worlds::Verdict::Known(reason) => *known.entry(reason).or_default() += 1,
            worlds::Verdict::ReferenceCrashed => crashed += 1,
            worlds::Verdict::Differ(what) => {
                problems.push(format!("{} {line:?}\n{what}", program.name()));
            }
        }
    }
    println!(
        "{cases} lines of {}, seed {seed}: {succeeded} succeeded with both, the reference crashed \
         {crashed} times, {} differ",
        program.name(),
        problems.len()
    );
    for (reason, times) in known {
        println!("{times} not compared: {reason}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));
    // A server that ends by itself has failed.
    let enough = program == Program::Nbd || succeeded * 5 > cases;
    assert!(enough, "too few lines do something: {succeeded} of {cases}");
}
