//! The check and its repairs side by side with the reference's, on images whose structures are
//! broken one by one.
//!
//! Bases are made by the reference in many combinations of options; each case breaks one to three
//! fields of the header, of tables, of the snapshot table or of the bitmap directory. Both tools
//! check and repair copies: they have to find the same, leave the same, and show the guest the same.
//! Where ours is stricter on purpose ("Deviations" of `docs/formats/qcow2.md`) the reference still
//! has to agree with what our repair left.
//!
//! `SECTORA_CASES=n` runs `n` cases instead of 200; `SECTORA_SEED=n` begins at another.

// What a long test has looked at is worth a line.
#![allow(clippy::print_stdout)]

mod damage;

use damage::{Base, break_it};
use libtest_mimic::{Arguments, Trial};
use sectora_core::format::{Env, FormatName, OpenOptions, Repair, open};
use sectora_core::image::{self, no_progress};
use sectora_core::io::testing::{Rng, SimRuntime};
use sectora_core::io::{
    Access, BlockDevice, BoxFuture, Device, MemoryDevice, OpenPolicy, Opened, Reference,
};
use sectora_tests::{STRICTER, have_reference_tools, load, run, save};
use std::path::Path;
use std::sync::Arc;

fn main() {
    let skipped = !have_reference_tools("check");
    let test = || {
        repairs_are_the_references();
        Ok(())
    };
    let trials = vec![Trial::test("repairs_are_the_references", test).with_ignored_flag(skipped)];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|n| n.parse().ok())
}

/// Every file that an image names is one of so many zero bytes.
struct Zeroes(u64);

impl OpenPolicy for Zeroes {
    fn open<'a>(&'a self, reference: Reference<'a>) -> BoxFuture<'a, sectora_core::Result<Opened>> {
        let device: Device = Arc::new(MemoryDevice::new(self.0));
        let opened = Opened { device, filename: reference.name.to_string() };
        Box::pin(std::future::ready(Ok(opened)))
    }
}

/// What a check came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// The program's exit code: 0 sound, 1 not completed, 2 damaged, 3 leaks only.
    code: i32,
    corruptions: u64,
    leaks: u64,
    /// What was said on the way.
    words: String,
}

fn repair_words(repair: Repair) -> &'static [&'static str] {
    match repair {
        Repair::Nothing => &["check", "--output=json"],
        Repair::Leaks => &["check", "--output=json", "-r", "leaks"],
        Repair::All => &["check", "--output=json", "-r", "all"],
    }
}

fn theirs(folder: &Path, repair: Repair, file: &str) -> Verdict {
    let mut args = vec!["-s", "KILL", "60", "qemu-img"];
    args.extend_from_slice(repair_words(repair));
    args.extend_from_slice(&["-f", "qcow2", file]);
    let output = run(folder, "timeout", &args);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let count = |name: &str| found.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Verdict {
        code: output.status.code().unwrap_or(99),
        corruptions: count("corruptions"),
        leaks: count("leaks"),
        words: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn ours(runtime: &SimRuntime, file: &Arc<MemoryDevice>, repair: Repair) -> Verdict {
    let env = Env { runtime: runtime.handle(), policy: Arc::new(Zeroes(1 << 20)) };
    let access = if repair == Repair::Nothing { Access::ReadOnly } else { Access::ReadWrite };
    let options = OpenOptions {
        format: Some(FormatName::Qcow2),
        access,
        check: true,
        ..OpenOptions::default()
    };
    let failed = |words: String| Verdict { code: 1, words, ..Verdict::default() };
    runtime.block_on(async {
        let layer = match open(&env, file.clone(), "image.qcow2", options).await {
            Ok(layer) => layer,
            Err(e) => return failed(format!("Could not open: {e}")),
        };
        let found = match image::check(&layer, repair, &no_progress).await {
            Ok(found) => found.expect("qcow2 has a check"),
            Err(e) => return failed(e.to_string()),
        };
        layer.close().await.expect("memory");
        let last = found.last();
        let words: Vec<&str> = found
            .report
            .findings
            .iter()
            .chain(found.second.iter().flat_map(|second| &second.findings))
            .map(|finding| finding.what.as_str())
            .collect();
        let words = words.join("\n");
        if let Some(why) = &last.failed {
            return failed(format!("{words}\n{why}"));
        }
        let code = match (last.check_errors, last.corruptions, last.leaks) {
            (0, 0, 0) => 0,
            (0, 0, _) => 3,
            (0, _, _) => 2,
            _ => 1,
        };
        Verdict { code, corruptions: last.corruptions, leaks: last.leaks, words }
    })
}

/// Where ours looks closer than the reference, by what it says then.
fn is_stricter(ours: &Verdict, base: &Base) -> bool {
    STRICTER.iter().any(|word| ours.words.contains(word))
        || base.is_v2 && ours.words.contains("reserved bits set")
}

/// Where the reference cannot go on, by what it says then.
fn gives_up(theirs: &Verdict) -> bool {
    theirs.code == 1 || theirs.code > 3
}

/// Where the reference does not open an image for something that a check of ours leaves alone: bits
/// of bitmaps that only their users know, and what stands behind the end of the header extensions.
fn is_about_others(theirs: &Verdict) -> bool {
    theirs.code == 1 && ["itmap", "xtension"].iter().any(|word| theirs.words.contains(word))
}

/// The reference loses all snapshots where it writes the header anew before it repairs: to clear
/// autoclear bits, or to use bitmaps.
fn loses_snapshots(bytes: &[u8], repair: Repair) -> bool {
    let snapshots = bytes[60..64] != [0; 4];
    let rewrites = bytes[4..8] == [0, 0, 0, 3] && bytes[88..96] != [0; 8];
    repair != Repair::Nothing && snapshots && rewrites
}

fn repairs_are_the_references() {
    let folder = tempfile::tempdir().expect("folder");
    let folder = folder.path();
    let bases = Base::all(folder);
    let (cases, seed) = (number("SECTORA_CASES").unwrap_or(200), number("SECTORA_SEED"));
    let runtime = SimRuntime::new(1);
    let (mut tally, mut problems) = (Tally::default(), Vec::new());
    for case in 0..cases {
        let seed = seed.unwrap_or(0) + case;
        let mut rng = Rng::new(seed);
        let base = &bases[rng.below(bases.len() as u64) as usize];
        let mut bytes = base.bytes.clone();
        let mut what = format!("seed {seed}, {}", base.name);
        for _ in 0..rng.between(1, 4) {
            what.push_str(&format!(", {}", break_it(&mut rng, base, &mut bytes)));
        }
        for repair in [Repair::Nothing, Repair::Leaks, Repair::All] {
            let done = compare_one(folder, &runtime, base, &bytes, repair, &what, &mut tally);
            problems.extend(done.err());
        }
    }
    println!("{cases} broken images, {tally:?}");
    assert!(problems.is_empty(), "{} differ:\n\n{}", problems.len(), problems.join("\n\n"));
    assert!(tally.same * 3 > tally.all, "much of it has to be comparable: {tally:?}");
}

#[derive(Debug, Default)]
struct Tally {
    all: u64,
    /// Equal in verdict and counts.
    same: u64,
    /// Ours was stricter on purpose.
    stricter: u64,
    /// The reference could not complete.
    given_up: u64,
    /// The guest sees the same.
    guests: u64,
}

fn compare_one(
    folder: &Path,
    runtime: &SimRuntime,
    base: &Base,
    bytes: &[u8],
    repair: Repair,
    what: &str,
    tally: &mut Tally,
) -> Result<(), String> {
    let what = format!("{what}, {repair:?}");
    std::fs::write(folder.join("theirs.qcow2"), bytes).expect("write");
    let reference = theirs(folder, repair, "theirs.qcow2");
    let file = Arc::new(MemoryDevice::with_data(bytes));
    let found = ours(runtime, &file, repair);
    tally.all += 1;
    let grown = file.len().saturating_sub(bytes.len() as u64);
    let ensure = |holds: bool, problem: String| if holds { Ok(()) } else { Err(problem) };
    ensure(grown < 32 << 20, format!("{what}: the file grows by {grown:#x}"))?;
    let show = || format!("{what}\nreference {reference:#?}\nours {found:#?}");
    if loses_snapshots(bytes, repair) {
        tally.given_up += 1;
        return Ok(());
    }
    if is_stricter(&found, base) {
        tally.stricter += 1;
        ensure(
            repair == Repair::All || found.code != 0,
            format!("stricter, and sound: {}", show()),
        )?;
    } else if gives_up(&reference) {
        tally.given_up += 1;
        // What it cannot even look at is not sound to us.
        let may = repair == Repair::All || is_about_others(&reference);
        ensure(found.code != 0 || may, format!("the reference gives up: {}", show()))?;
    } else {
        let counts = |v: &Verdict| (v.code, v.corruptions, v.leaks);
        ensure(counts(&reference) == counts(&found), format!("they differ: {}", show()))?;
        tally.same += 1;
    }
    if repair == Repair::Nothing {
        let unchanged = file.len() == bytes.len() as u64;
        return ensure(unchanged, format!("{what}: a check changes the file"));
    }
    // The reference is the judge of what our repair leaves.
    save(&file, &folder.join("ours.qcow2"));
    let judged = theirs(folder, Repair::Nothing, "ours.qcow2");
    let agreed = found.code != 0 || judged.code == 0 || is_about_others(&judged);
    ensure(
        agreed,
        format!(
            "repaired, says ours: {}
judged {judged:#?}",
            show()
        ),
    )?;
    if found.code == 1 {
        return Ok(());
    }
    if !gives_up(&reference) && !is_stricter(&found, base) && reference.code == found.code {
        let args = ["compare", "-f", "qcow2", "-F", "qcow2", "theirs.qcow2", "ours.qcow2"];
        let guest = run(folder, "qemu-img", &args);
        let said = String::from_utf8_lossy(&guest.stdout).into_owned();
        ensure(guest.status.code() != Some(1), format!("the guests differ: {said}{}", show()))?;
        tally.guests += u64::from(guest.status.success());
    }
    let again = ours(runtime, &Arc::new(load(&folder.join("ours.qcow2"))), Repair::Nothing);
    ensure(again.code == found.code, format!("it does not stay: {again:#?} {}", show()))
}
