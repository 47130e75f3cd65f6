//! The program against the installed qemu-img: the same command lines on the same images, and the
//! promises that the program makes beyond it.
//!
//! Ours runs through a symbolic link called `qemu-img`, so that what both print on standard output
//! must be the same to the letter. Messages on standard error have the same shape and their own
//! words; only their presence is compared.

mod bitmaps;
mod chains;
mod changing;
mod compacting;
mod devices;
mod layout;
#[path = "../shared/loop_device.rs"]
mod loop_device;
mod promises;
mod reading;
mod repair;
mod setup;
mod writing;

use libtest_mimic::{Arguments, Trial};

fn main() {
    let skipped = !setup::have_reference_tools();
    let against_reference: [(&str, fn()); 12] = [
        ("files_are_laid_out_as_the_reference_lays_them_out", layout::is_as_asked),
        ("block_devices_are_used_as_the_reference_uses_them", devices::like_files),
        ("reading_verbs_print_what_the_reference_prints", reading::every_verb_on_every_image),
        ("ranges_and_formats_are_understood_alike", reading::options_of_reading_verbs),
        ("wrong_command_lines_are_refused_alike", reading::wrong_command_lines),
        ("new_images_are_what_the_reference_makes", writing::new_images),
        ("copies_hold_what_their_sources_hold", writing::copies),
        ("bitmaps_are_copied_as_the_reference_copies_them", bitmaps::copied),
        ("repairs_say_and_leave_what_the_references_do", repair::repairs),
        ("images_change_in_place_as_the_reference_changes_them", changing::sequences),
        ("bases_to_commit_to_are_found_alike", chains::committed),
        ("images_in_use_are_refused_alike", promises::images_in_use),
    ];
    let own: [(&str, fn()); 10] = [
        ("a_rebased_image_reads_as_before", chains::rebased),
        ("space_is_given_back_in_place", compacting::given_back),
        ("a_failed_copy_leaves_what_was_there", promises::failed_copy),
        ("a_stopped_copy_leaves_what_was_there", promises::stopped_copy),
        ("an_image_streams_to_standard_output", promises::stream),
        ("a_reader_that_goes_away_is_no_error", promises::broken_pipe),
        ("progress_is_told_as_json_lines", promises::progress),
        ("a_dry_run_says_what_a_repair_would_do", repair::dry_run),
        ("the_sample_shows_itself_and_leaves_nothing", promises::sample),
        ("what_is_not_supported_is_refused", promises::unsupported),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
        .with_ignored_flag(skipped)
    };
    let trials = against_reference.into_iter().chain(own).map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
