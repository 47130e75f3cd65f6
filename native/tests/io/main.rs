//! `io` against the installed qemu-io: the same scripts on copies of the same images.
//!
//! Compared are standard output, standard error and exit status, of which only times, rates and
//! generated node names are taken out; then both images: `qemu-img compare`, `qemu-img check` of
//! ours, and where `qemu-img map` sees data, zeroes and layers. Where several requests are in
//! flight their lines may come in any order.
//!
//! `SECTORA_CASES` is the number of generated scripts, `SECTORA_SEED` what they come from.

mod damage;
mod generate;
mod images;
mod qcow2;
mod scripts;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let skipped = !images::have_reference_tools();
    let mut trials = Vec::new();
    for image in images::ALL {
        trials.push(Trial::test(format!("scripts_on_{}", image.name), move || {
            verdict(scripts::written(image))
        }));
        trials.push(Trial::test(format!("generated_scripts_on_{}", image.name), move || {
            verdict(generate::scripts(image))
        }));
    }
    trials.push(Trial::test("command_lines", || verdict(scripts::command_lines())));
    trials.push(Trial::test("lines_from_a_pipe", || verdict(scripts::piped())));
    trials.push(Trial::test("damage_is_told_and_marked", || verdict(damage::tables())));
    trials.push(Trial::test("options_of_qcow2", || verdict(damage::options())));
    trials.push(Trial::test("discards_can_be_ignored", || verdict(scripts::discards())));
    trials.push(Trial::test("a_temporary_image_takes_the_writes", || verdict(scripts::snapshot())));
    trials.push(Trial::test("reads_can_copy", || verdict(scripts::copy_on_read())));
    trials.push(Trial::test("discards_are_passed_on", || verdict(qcow2::discards())));
    trials.push(Trial::test("what_cannot_be_freed_is_told", || verdict(qcow2::not_freed())));
    trials.push(Trial::test("backing_files_named_by_options", || verdict(qcow2::json_backed())));
    trials.push(Trial::test("states_of_machines", || verdict(qcow2::vm_states())));
    trials.push(Trial::test("options_of_encryption", || verdict(qcow2::encryption_options())));
    trials.push(Trial::test("stale_bitmaps_are_warned_of", || verdict(qcow2::stale_bitmaps())));
    trials.push(Trial::test("what_is_not_supported_is_refused", scripts::unsupported));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(skipped)).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn verdict(problems: Vec<String>) -> Result<(), Failed> {
    match problems.len() {
        0 => Ok(()),
        n => Err(format!("{n} differences\n{}", problems.join("\n")).into()),
    }
}
