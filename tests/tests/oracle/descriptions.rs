//! What an image is, by us and by the reference: `info`, `map`, `check` and `measure`, member for
//! member.

use crate::{commands, image_options, products};
use sectora::runtime::{NativeRuntime, block_on};
use sectora::storage::FileOpener;
use sectora_core::Result;
use sectora_core::format::qcow2::CreateOptions;
use sectora_core::format::{Backing, DataSource, Env, FormatName, OpenOptions, Repair, open};
use sectora_core::image::{self, NewImage, no_progress};
use sectora_core::io::testing::Rng;
use sectora_core::io::{Access, Device, Opener, Unrestricted};
use sectora_core::qapi::pretty;
use sectora_tests::run;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Cases of one run; `SECTORA_CASES` asks for more.
const CASES: usize = 150;

pub(crate) fn descriptions_are_the_references() {
    let cases = std::env::var("SECTORA_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let all = products();
    let folder = tempfile::tempdir().expect("folder");
    let mut wrong = Vec::new();
    for case in 0..cases {
        let mut rng = Rng::new(77_000 + case as u64);
        let folder = folder.path().join(case.to_string());
        std::fs::create_dir(&folder).expect("folder");
        let create = &all[rng.below(all.len() as u64) as usize];
        let story = make_chain(&folder, &mut rng, create);
        settle(&folder);
        let mut found = compare(&folder);
        if !found.is_empty() {
            // Where a file has holes depends on what the kernel has in its cache just then: what
            // counts is what the two disagree about again.
            found.retain({
                let again = compare(&folder);
                move |what| again.contains(what)
            });
        }
        for found in found {
            wrong.push((found, format!("case {case}, made by:\n{}", story.join("\n"))));
        }
        std::fs::remove_dir_all(&folder).expect("remove");
    }
    let count = wrong.len();
    // Shown are some of each kind.
    let mut shown: HashMap<String, usize> = HashMap::new();
    wrong.retain(|(what, _)| {
        let kind = what.split_once('\n').map_or(what.as_str(), |(first, _)| first);
        let seen = shown.entry(kind.to_string()).or_default();
        *seen += 1;
        *seen <= 2
    });
    let wrong: Vec<String> = wrong.iter().map(|(what, how)| format!("{what}\n{how}")).collect();
    assert!(
        count == 0,
        "{count} differences in {cases} cases: {shown:?}\n\n{}",
        wrong.join("\n\n")
    );
}

/// One to three images, the top one of the kind of `create`. Returns the commands.
fn make_chain(folder: &Path, rng: &mut Rng, create: &CreateOptions) -> Vec<String> {
    let mut story = Vec::new();
    let mut tell = |tool: &str, args: &[&str]| {
        story.push(format!("{tool} {}", args.join(" ")));
        run(folder, tool, args)
    };
    let mut below: Option<(String, &str)> = None;
    let layers = rng.between(1, 3);
    for layer in 0..layers {
        let top = layer + 1 == layers;
        let name = if top { "image".to_string() } else { format!("layer{layer}") };
        let raw = !top && below.is_none() && rng.chance(50);
        let size = match rng.below(3) {
            0 => create.size,
            1 => create.size / 512 * 512 - rng.below(2000) * 512,
            _ => create.size + rng.below(4000) * 512,
        };
        let mut options = match raw {
            true => String::new(),
            false => image_options(create),
        };
        let with_data_file = !raw && top && create.data_file.is_some();
        if with_data_file {
            let how = create.data_file.as_ref().is_some_and(|d| d.raw) && below.is_none();
            options += if how { ",data_file=data,data_file_raw=on" } else { ",data_file=data" };
        }
        if let (Some((file, format)), false) = (&below, raw) {
            options += &format!(",backing_file={file},backing_fmt={format}");
        } else if rng.chance(30) {
            let mode = *rng.pick(&["metadata", "falloc", "full"]);
            if !(raw && mode == "metadata") {
                options += &format!(",preallocation={mode}");
            }
        }
        let format = if raw { "raw" } else { "qcow2" };
        let options = options.trim_start_matches(',');
        let size = size.to_string();
        let mut args = vec!["create", "-q", "-f", format];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([name.as_str(), size.as_str()]);
        let made = tell("qemu-img", &args);
        assert!(made.status.success(), "{args:?}: {}", String::from_utf8_lossy(&made.stderr));
        for _ in 0..rng.below(3) {
            // Some of them fail, as they exceed this size: the reference says so and goes on.
            let chosen: Vec<String> = commands(rng, create)
                .into_iter()
                .filter(|c| !raw || !c.starts_with("write -c"))
                .take(rng.between(1, 6) as usize)
                .collect();
            let mut args = vec!["-f", format];
            for command in &chosen {
                args.extend(["-c", command]);
            }
            args.push(&name);
            tell("qemu-io", &args);
            if !raw && create.data_file.is_none() && rng.chance(25) {
                let tag = format!("snap {}", rng.below(100));
                tell("qemu-img", &["snapshot", "-c", &tag, &name]);
            }
        }
        let v3 = create.version == sectora_core::format::qcow2::Version::V3;
        if top && v3 && rng.chance(25) {
            let granularity = (512u64 << rng.below(10)).to_string();
            let args = ["bitmap", "--add", "-g", &granularity, "-f", "qcow2", &name, "bitmap0"];
            tell("qemu-img", &args);
            if rng.chance(50) {
                tell(
                    "qemu-img",
                    &["bitmap", "--add", "--disable", "-f", "qcow2", &name, "b \u{e9}"],
                );
            }
        }
        below = Some((name, format));
    }
    story
}

/// Makes the file system give every file its final space: both sides look at what it is.
fn settle(folder: &Path) {
    for entry in std::fs::read_dir(folder).expect("folder") {
        let file = File::open(entry.expect("entry").path()).expect("open");
        file.sync_all().expect("sync");
    }
}

/// Where the two differ.
fn compare(folder: &Path) -> Vec<String> {
    let ours = block_on(|runtime| async { describe(runtime, folder).await }).expect("runtime");
    let file = folder.join("image");
    let file = file.to_str().expect("a name in UTF-8");
    let mut wrong = Vec::new();
    let mut hold = |what: &str, args: &[&str], ours: Result<String>| {
        let output = run(folder, "qemu-img", args);
        let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
        let failed = theirs.is_empty();
        match ours {
            Err(e) if !failed => wrong.push(format!("{what}: ours fails: {e}")),
            Err(_) => {}
            Ok(_) if failed => {
                let theirs = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{what}: theirs fails: {theirs}"));
            }
            Ok(ours) => {
                let a: Value = serde_json::from_str(&ours).expect("JSON");
                let b: Value = serde_json::from_str(&theirs).expect("JSON");
                if a != b {
                    wrong.push(format!("{what}\n{}", difference(&ours, &theirs)));
                }
            }
        }
    };
    let [info, map, check] = ours.basic;
    hold("info", &["info", "--output=json", "--backing-chain", file], info);
    hold("map", &["map", "--output=json", file], map);
    hold("check", &["check", "--output=json", file], check);
    for (options, measured) in ours.measured {
        let mut args = vec!["measure", "--output=json"];
        args.extend(options.split(' '));
        args.push(file);
        hold(&format!("measure {options}"), &args, measured);
    }
    wrong
}

/// The lines that are not the same, with what goes before.
fn difference(ours: &str, theirs: &str) -> String {
    let pretty = |text: &str| {
        let value: Value = serde_json::from_str(text).expect("JSON");
        serde_json::to_string_pretty(&value).expect("JSON")
    };
    let (ours, theirs) = (pretty(ours), pretty(theirs));
    let (a, b): (Vec<&str>, Vec<&str>) = (ours.lines().collect(), theirs.lines().collect());
    let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(8);
    let part = |lines: &[&str]| lines[from..lines.len().min(same + 12)].join("\n");
    format!("ours:\n{}\ntheirs:\n{}", part(&a), part(&b))
}

struct Ours {
    basic: [Result<String>; 3],
    measured: Vec<(&'static str, Result<String>)>,
}

async fn describe(runtime: NativeRuntime, folder: &Path) -> Ours {
    let opener = FileOpener::default();
    let env = Env { runtime: Arc::new(runtime), policy: Arc::new(Unrestricted(opener)) };
    let path = folder.join("image");
    let path = path.to_str().expect("a name in UTF-8");
    let info = async {
        let file = opener.open(path, Access::ReadOnly).await?;
        let alone = OpenOptions {
            backing: Backing::Ignore,
            data_file: DataSource::Ignore,
            ..OpenOptions::default()
        };
        let top = open(&env, file, path, alone).await?;
        text(&image::info_chain(&env, top).await?)
    };
    let info = info.await;
    let layer = async {
        let file = opener.open(path, Access::ReadOnly).await?;
        open(&env, file, path, OpenOptions::default()).await
    };
    let layer = layer.await.expect("opens");
    let device: Device = layer.clone();
    let map = async {
        let mut map = image::map(&device).await?;
        // The reference tells offsets without saying in which file.
        map.iter_mut().for_each(|entry| entry.filename = None);
        text(&map)
    };
    let map = map.await;
    let check = async {
        let file = opener.open(path, Access::ReadOnly).await?;
        let options = OpenOptions { backing: Backing::Ignore, ..OpenOptions::default() };
        let layer = open(&env, file, path, options).await?;
        let found = image::check(&layer, Repair::Nothing, &no_progress).await?;
        text(&found.expect("qcow2").summary)
    };
    let check = check.await;
    let mut measured = Vec::new();
    for (options, new) in targets(&device) {
        let found = image::measure_source(&new, &layer, &no_progress).await;
        measured.push((options, found.and_then(|found| text(&found))));
    }
    Ours { basic: [info, map, check], measured }
}

fn targets(source: &Device) -> Vec<(&'static str, NewImage)> {
    let size = source.len();
    let qcow2 = |change: fn(&mut CreateOptions)| {
        let mut options = CreateOptions { size, ..CreateOptions::default() };
        change(&mut options);
        NewImage::Qcow2(options)
    };
    vec![
        ("-O raw", NewImage::with_defaults(FormatName::Raw, size).expect("raw")),
        ("-O qcow2", qcow2(|_| {})),
        ("-O qcow2 -o cluster_size=512", qcow2(|o| o.cluster_size = 512)),
        (
            "-O qcow2 -o cluster_size=2M,refcount_bits=64",
            qcow2(|o| (o.cluster_size, o.refcount_bits) = (2 << 20, 64)),
        ),
        (
            "-O qcow2 -o extended_l2=on,cluster_size=16k,refcount_bits=1",
            qcow2(|o| (o.extended_l2, o.cluster_size, o.refcount_bits) = (true, 16 << 10, 1)),
        ),
    ]
}

fn text(value: &impl Serialize) -> Result<String> {
    pretty(value)
}
