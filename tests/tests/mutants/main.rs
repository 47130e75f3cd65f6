//! Images whose structures are broken, used by both tools on copies: opened and read, checked,
//! repaired, and read again.
//!
//! Bases are made by the reference in many combinations of options, encrypted ones too; each case
//! breaks one to three fields of the header, its extensions, tables, snapshots, bitmaps or the
//! encryption header. Both tools have to come to the same: both read the image or neither does, and
//! they read the same; both call it sound, leaking or corrupt; both repair it, and it reads the same
//! afterwards. Ours never ends by a signal or takes more than 60 seconds, and never has 64 MiB more
//! in memory at once than it needs for the images before they were broken. Where ours is stricter
//! or more lenient on purpose the reason has a name, and is counted.
//!
//! Under the name `qemu-img` this program *is* ours: nothing else has to be built.
//! `SECTORA_CASES=n` runs `n` cases instead of 100; `SECTORA_SEED=n` begins at another.

// What a long test has looked at is worth a line.
#![allow(clippy::print_stdout)]

#[path = "../check/damage.rs"]
mod damage;
mod verdict;

use damage::{Base, break_it};
use libtest_mimic::{Arguments, Trial};
use sectora_core::io::testing::Rng;
use sectora_tests::have_reference_tools;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use verdict::{Difference, Pair, Step, Tools};

/// More than this above what sound images need, in KiB, is without bound.
const MEMORY: u64 = 64 << 10;

/// Cases that were found to differ once, whatever the seed: data taken for L2 tables by a repair (of
/// the reference, and in the last one of ours too), snapshots lost beside autoclear bits, refcounts
/// rebuilt over data, and where the disk refers to past the end of the file; a disk that shows the
/// image's own structures; a broken entry that leads to its own table.
const ALWAYS: [u64; 11] = [
    950_050, 950_889, 1_503_898, 1_502_872, 1_502_416, 1_500_857, 9_003_647, 9_004_882, 9_100_233,
    9_102_679, 9_102_900,
];

/// The passphrase of encrypted images.
const SECRET: &str = "0123456789";

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    if name.as_deref().and_then(|name| Path::new(name).file_stem()).is_some_and(|n| n == "qemu-img")
    {
        let code = sectora::cli::main();
        verdict::tell_peak();
        return code;
    }
    let skipped = !have_reference_tools("mutants");
    let trial = Trial::test("broken_images_are_what_the_reference_says_they_are", || {
        broken_images();
        Ok(())
    });
    let trials = vec![trial.with_ignored_flag(skipped)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[derive(Debug, Default)]
struct Tally {
    steps: u64,
    /// Both did it, and what both read is the same.
    both: u64,
    /// Both refused, or both found damage.
    neither: u64,
    /// The reference ended by a signal, or did not end.
    reference_crashed: u64,
    /// Not compared, and why.
    named: BTreeMap<&'static str, u64>,
}

fn broken_images() {
    let (cases, seed) = (number("SECTORA_CASES", 100), number("SECTORA_SEED", 1));
    let tools = Tools::new(SECRET);
    let bases: Vec<Base> =
        Base::all(tools.folder()).into_iter().map(Base::with_whole_header).collect();
    let encrypted = Base::encrypted(tools.folder(), SECRET).with_whole_header();
    let (mut tally, mut problems) = (Tally::default(), Vec::new());

    let mut needed = 0;
    let sound = bases.iter().step_by(8).map(|base| (base, false)).chain([(&encrypted, true)]);
    for (base, is_encrypted) in sound {
        let pair = tools.pair(&base.bytes, is_encrypted);
        for step in Step::ALL {
            match pair.compare(step, "") {
                Ok(done) => needed = needed.max(done.peak),
                Err(difference) => problems.push(format!("{}: {difference:?}", base.name)),
            }
        }
    }
    assert!(problems.is_empty(), "sound images differ:\n{}", problems.join("\n"));

    for seed in ALWAYS.into_iter().chain(seed..seed + cases) {
        let mut rng = Rng::new(seed);
        let is_encrypted = rng.below(10) == 0;
        let base = if is_encrypted { &encrypted } else { rng.pick(&bases) };
        let mut bytes = base.bytes.clone();
        let mut what = format!("seed {seed}, {}", base.name);
        for _ in 0..rng.between(1, 4) {
            what.push_str(&format!(", {}", break_it(&mut rng, base, &mut bytes)));
        }
        let pair = tools.pair(&bytes, is_encrypted);
        judge(&pair, needed, &what, &mut tally, &mut problems);
    }
    println!("{cases} broken images, seed {seed}, {tally:#?}");
    assert!(problems.is_empty(), "{} differ:\n\n{}", problems.len(), problems.join("\n\n"));
    assert!(tally.both * 4 > tally.steps, "much of it has to be readable: {tally:?}");
}

fn judge(pair: &Pair<'_>, needed: u64, what: &str, tally: &mut Tally, problems: &mut Vec<String>) {
    for step in Step::ALL {
        tally.steps += 1;
        match pair.compare(step, what) {
            Ok(done) => {
                if done.peak > needed + MEMORY {
                    problems.push(format!("{what}, {step:?}: {} KiB at once", done.peak));
                }
                match done.success {
                    true => tally.both += 1,
                    false => tally.neither += 1,
                }
                if done.hopeless {
                    return;
                }
            }
            Err(Difference::ReferenceCrashed) => {
                tally.reference_crashed += 1;
                return;
            }
            Err(Difference::Named(reason)) => {
                *tally.named.entry(reason).or_default() += 1;
                // From here on they are different images.
                return;
            }
            Err(Difference::Unexplained(how)) => {
                problems.push(format!("{what}, {step:?}: {how}"));
                return;
            }
        }
    }
}
