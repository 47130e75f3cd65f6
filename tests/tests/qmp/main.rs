//! Random sequences of QMP commands, right and wrong, and of requests that the reference's client makes
//! through exports between them, sent to the installed qemu-storage-daemon and to ours in copies of
//! the same folder: what they return, the class and every word of what they
//! complain of, the events and their order, and the images must be the same.
//!
//! Under its name this program *is* ours: nothing else has to be built.
//! The same is done with ours and with the engine in the npm package, which speaks QMP by
//! `tests/package/daemon.mjs`; `SECTORA_PACKAGE` names the folder where the package is installed, and
//! without it that test is counted as ignored (`npm run test:package` runs it).
//!
//! Sequences that showed a mistake are kept in `kept.txt`, and sent every time.
//!
//! `SECTORA_CASES=n` runs so many sequences, `SECTORA_SEED=n` others, `SECTORA_LENGTH=n` of so many
//! commands.

// What a long test has looked at is worth a line.
#![allow(clippy::print_stdout)]

mod client;
mod compare;
mod drivers;
mod generate;
mod talk;

use libtest_mimic::{Arguments, Trial};
use sectora_core::io::testing::Rng;
use sectora_tests::have_reference_tools;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;

/// The name under which this program is the daemon.
const NAME: &str = "qemu-storage-daemon";

fn main() -> ExitCode {
    let name = std::env::args_os().next();
    let name = name.as_deref().and_then(|name| Path::new(name).file_stem());
    if name.is_some_and(|name| name == NAME) {
        return sectora::cli::main();
    }
    let skipped = !have_reference_tools("qmp");
    let without_package = std::env::var_os("SECTORA_PACKAGE").is_none();
    let reference = Trial::test("sequences_of_commands_do_what_the_reference_does", || {
        let world = talk::World::new();
        sequences(&world, NAME, &world.ours(), |_| true);
        Ok(())
    });
    let kept = Trial::test("sequences_that_were_kept_do_what_the_reference_does", || {
        keep(&talk::World::new());
        Ok(())
    });
    let package = Trial::test("sequences_of_commands_do_the_same_in_the_package", || {
        let world = talk::World::new();
        sequences(&world, &world.ours(), &talk::package(), generate::is_portable);
        Ok(())
    });
    let trials = vec![
        kept.with_ignored_flag(skipped),
        reference.with_ignored_flag(skipped),
        package.with_ignored_flag(skipped || without_package),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Sends the sequences of `kept.txt`, each of which showed a mistake once.
fn keep(world: &talk::World) {
    let (mut problems, mut count) = (Vec::new(), 0);
    let text = include_str!("kept.txt");
    for part in text.split("\n# ").skip(1) {
        let (title, body) = part.split_once('\n').expect("a title");
        let lines: Vec<String> =
            body.lines().filter(|line| !line.is_empty()).map(ToOwned::to_owned).collect();
        let mut verdict =
            compare::compare(&lines, &world.run(NAME, &lines), &world.run(&world.ours(), &lines));
        if matches!(verdict, compare::Verdict::Differ(_)) {
            // On a machine that is busy otherwise something can be late; a mistake is there every time.
            verdict = compare::compare(
                &lines,
                &world.run(NAME, &lines),
                &world.run(&world.ours(), &lines),
            );
        }
        match verdict {
            compare::Verdict::Same => count += 1,
            compare::Verdict::Known(reason) => {
                problems.push(format!("{title}: not compared: {reason}"))
            }
            compare::Verdict::Differ(what) => problems.push(format!("{title}\n{what}")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 30, "{count} sequences were kept");
}

/// Sends sequences, of which only the lines that are `wanted`, to both programs.
fn sequences(world: &talk::World, theirs: &str, ours: &str, wanted: fn(&str) -> bool) {
    let (cases, seed) = (number("SECTORA_CASES", 60), number("SECTORA_SEED", 10));
    let length = number("SECTORA_LENGTH", 16);
    let (mut problems, mut returned, mut refused, mut crashed) = (Vec::new(), 0, 0, 0);
    let mut known: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut seen, mut options) = (BTreeSet::new(), BTreeSet::new());
    let (mut requests, mut unsteady) = (0, Vec::new());
    for case in 0..cases {
        let mut rng = Rng::new(seed.wrapping_mul(1_000_003).wrapping_add(case));
        let mut lines = Vec::from_iter(generate::scripted(case));
        lines.extend(generate::sequence(&mut rng, length));
        lines.retain(|line| wanted(line));
        let both = || {
            std::thread::scope(|scope| {
                let theirs = scope.spawn(|| world.run(theirs, &lines));
                let ours = world.run(ours, &lines);
                (theirs.join().expect("the other conversation"), ours)
            })
        };
        let (mut theirs, mut ours) = both();
        if theirs.died || ours.died {
            // On a machine that is busy otherwise an answer can be late; an end is one every time.
            (theirs, ours) = both();
        }
        if theirs.died || !theirs.status.is_some_and(|status| status.success()) {
            crashed += 1;
            continue;
        }
        for answer in theirs.answers.iter().flatten() {
            returned += u64::from(answer.get("return").is_some());
            refused += u64::from(answer.get("error").is_some());
        }
        for line in &lines {
            match serde_json::from_str::<Value>(line) {
                Ok(value) => drivers::occurring(&value, &mut options),
                Err(_) => requests += 1,
            }
            seen.extend(generate::command(line));
        }
        let mut verdict = compare::compare(&lines, &theirs, &ours);
        if matches!(verdict, compare::Verdict::Differ(_)) {
            // A client's end may be noticed late; a mistake is there every time.
            let (theirs, ours) = both();
            if !theirs.died {
                verdict = match compare::compare(&lines, &theirs, &ours) {
                    compare::Verdict::Same => {
                        unsteady.push(case);
                        compare::Verdict::Same
                    }
                    again => again,
                };
            }
        }
        match verdict {
            compare::Verdict::Same => {}
            compare::Verdict::Known(reason) => *known.entry(reason).or_default() += 1,
            compare::Verdict::Differ(what) => {
                println!("sequence {case} of seed {seed}\n{what}");
                problems.push(format!("sequence {case} of seed {seed}"));
            }
        }
    }
    println!(
        "{cases} sequences of {length} lines, seed {seed}: {returned} returned and {refused} were \
         refused, {requests} requests of clients, the reference crashed {crashed} times, {} differ; {} \
         commands were sent; different only once: {unsteady:?}",
        problems.len(),
        seen.len(),
    );
    let never = never(world, &seen, &options);
    println!("never: {never:?}");
    for (reason, times) in known {
        println!("{times} not compared to the end: {reason}");
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(returned > refused / 4, "too few commands do something");
    let enough = cases >= 3000 && theirs == NAME;
    assert!(!enough || never.is_empty(), "commands or options that never occur: {never:?}");
}

/// Commands of others: of character devices, objects and the monitor itself, which have tests of their
/// own, and one that ends the conversation.
const ELSEWHERE: &[&str] = &[
    "chardev-",
    "qom-",
    "ringbuf-",
    "query-chardev",
    "query-qmp-schema",
    "query-commands",
    "quit",
    "qmp_capabilities",
    "query-version",
];

/// The commands, and the options of drivers, that ours has and that did not occur.
fn never(
    world: &talk::World,
    commands: &BTreeSet<String>,
    options: &BTreeSet<(String, String)>,
) -> Vec<String> {
    let lines = ["query-commands", "query-qmp-schema"]
        .map(|name| serde_json::json!({ "execute": name }).to_string());
    let talk = world.run(&world.ours(), &lines);
    let told = |at: usize| talk.answers.get(at).and_then(|list| list.first()?.get("return"));
    let known = told(2).and_then(Value::as_array).expect("the commands");
    let known = known.iter().filter_map(|command| command["name"].as_str());
    let elsewhere = |name: &&str| !ELSEWHERE.iter().any(|start| name.starts_with(start));
    let missing = known.filter(elsewhere).filter(|name| !commands.contains(*name));
    let mut out: Vec<String> = missing.map(ToOwned::to_owned).collect();
    let all = drivers::of_schema(told(3).expect("the schema"));
    assert!(all.len() > 100, "the schema tells the options: {}", all.len());
    out.extend(all.difference(options).map(|(driver, name)| format!("{driver}.{name}")));
    out
}
