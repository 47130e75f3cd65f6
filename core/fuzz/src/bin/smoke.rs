//! A short run of every target on stable Rust, without coverage: seeds, mutated by a seeded
//! generator.
//!
//! `smoke [--seconds N] [--iterations N] [--seed N] [--target NAME] [--write-corpus] [FILE…]`
//!
//! With files it runs the target on them and nothing else. Before each run the input is written to
//! `artifacts/last`, so that it is there whatever ends the process.

use cap::Cap;
use sectora_core::io::testing::Rng;
use sectora_fuzz::{TARGETS, seeds};
use std::alloc::System;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use std::{env, fs, io};

/// All the memory a run may have, the corpus included. The budget of an image's tables is 32 MiB,
/// that of a check 144 MiB.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 384 << 20);

/// The longest input.
const LONGEST: usize = 16 << 10;

struct Options {
    seconds: u64,
    iterations: u64,
    seed: u64,
    target: Option<String>,
    write_corpus: bool,
    files: Vec<PathBuf>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        seconds: 20,
        iterations: u64::MAX,
        seed: 1,
        target: None,
        write_corpus: false,
        files: Vec::new(),
    };
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("'{text}' is no number"));
        match arg.as_str() {
            "--seconds" => options.seconds = number(value()?)?,
            "--iterations" => options.iterations = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--target" => options.target = Some(value()?),
            "--write-corpus" => options.write_corpus = true,
            file if !file.starts_with("--") => options.files.push(file.into()),
            other => return Err(format!("unknown option '{other}'")),
        }
    }
    Ok(options)
}

/// The folder of this crate, where corpus and artifacts are.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is in the repository of a target, or in the code where nothing is.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut found: Vec<(PathBuf, Vec<u8>)> = fs::read_dir(here().join("corpus").join(target))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.path(), fs::read(entry.path()).ok()?)))
        .collect();
    // In an order that does not depend on the file system.
    found.sort();
    match found.is_empty() {
        true => seeds(target),
        false => found.into_iter().map(|(_, bytes)| bytes).collect(),
    }
}

fn write_corpus() -> io::Result<()> {
    for (name, _) in TARGETS {
        let folder = here().join("corpus").join(name);
        fs::create_dir_all(&folder)?;
        for (i, bytes) in seeds(name).into_iter().enumerate() {
            fs::write(folder.join(format!("seed-{i}")), bytes)?;
        }
    }
    Ok(())
}

/// Changes an input in a few places.
fn mutate(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut out = rng.pick(corpus).clone();
    for _ in 0..rng.between(1, 6) {
        let at = rng.index(out.len() + 1);
        let rest = out.len() - at;
        match rng.below(9) {
            0 if rest > 0 => out[at] ^= 1 << rng.below(8),
            1 if rest > 0 => out[at] = *rng.pick(&[0, 1, 2, 0x7f, 0x80, 0xfe, 0xff]),
            2 if rest >= 8 => {
                let value = (1u64 << rng.below(64)).wrapping_sub(rng.below(2));
                let at = at & !7;
                out[at..at + 8].copy_from_slice(&value.to_be_bytes());
            }
            3 if rest >= 8 => {
                // Another cluster of a small image.
                let value = rng.below(9) << 9 | *rng.pick(&[0, 1, 1 << 62, 1 << 63]);
                let at = at & !7;
                out[at..at + 8].copy_from_slice(&value.to_be_bytes());
            }
            4 if rest >= 4 => {
                let value = rng.next_u64() as u32 >> rng.below(32);
                out[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            5 => out.truncate(at),
            6 => {
                let mut more = vec![0; rng.between(1, 64) as usize];
                rng.fill(&mut more);
                out.splice(at..at, more);
            }
            7 => {
                let other = rng.pick(corpus);
                let from = rng.index(other.len() + 1);
                out.truncate(at);
                out.extend_from_slice(&other[from..]);
            }
            _ if rest > 1 => {
                let len = rng.between(1, rest as u64 - 1) as usize;
                let copy = out[at..at + len].to_vec();
                out.splice(at..at, copy);
            }
            _ => {}
        }
    }
    out.truncate(LONGEST);
    out
}

fn run() -> Result<(), String> {
    let options = options()?;
    let fail = |e: io::Error| e.to_string();
    if options.write_corpus {
        return write_corpus().map_err(fail);
    }
    let targets: Vec<_> = TARGETS
        .into_iter()
        .filter(|(name, _)| options.target.as_ref().is_none_or(|wanted| wanted == name))
        .collect();
    if targets.is_empty() {
        return Err("there is no such target".into());
    }
    if !options.files.is_empty() {
        for file in &options.files {
            let bytes = fs::read(file).map_err(fail)?;
            targets.iter().for_each(|(_, target)| target(&bytes));
        }
        return Ok(());
    }
    let artifacts = here().join("artifacts");
    fs::create_dir_all(&artifacts).map_err(fail)?;
    let share = Duration::from_secs(options.seconds) / targets.len() as u32;
    for (name, target) in targets {
        let corpus = corpus(name);
        let mut rng = Rng::new(options.seed);
        let (begin, mut runs, mut slowest) = (Instant::now(), 0, Duration::ZERO);
        let mut inputs: Vec<Vec<u8>> = corpus.clone();
        while runs < options.iterations && begin.elapsed() < share {
            let input = inputs.pop().unwrap_or_else(|| mutate(&mut rng, &corpus));
            fs::write(artifacts.join("last"), &input).map_err(fail)?;
            let start = Instant::now();
            if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
                let saved = artifacts.join(format!("{name}-{:x}-{runs}", options.seed));
                fs::write(&saved, &input).map_err(fail)?;
                return Err(format!("{name} panics on {}", saved.display()));
            }
            slowest = slowest.max(start.elapsed());
            runs += 1;
        }
        println!("{name}: {runs} runs, the slowest took {} ms", slowest.as_millis());
        if slowest > Duration::from_secs(10) {
            return Err(format!("{name} takes {} s for one input", slowest.as_secs()));
        }
    }
    fs::remove_file(artifacts.join("last")).map_err(fail)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("smoke: {what}");
            ExitCode::FAILURE
        }
    }
}
