//! The project held against the schema of the block layer: the types, commands and events of
//! `core/src/qapi` and the table of `COMPAT.md`; and what is told of the schema and refused by it
//! against the reference daemon.
//!
//! The schema files are not part of the project (their text has a licence of its own). They are
//! looked for in the folder that `SECTORA_SCHEMA` names, else in `../shared/spec/qapi` beside the
//! project; where they are not, the tests that need them are counted as ignored and say so. What
//! needs no schema (evidence, wording, totals of `COMPAT.md`) is always tested.

mod compat;
mod compat_table;
mod daemon;
mod qapi_schema;
mod refusals;
mod told;
mod wire_types;

use libtest_mimic::{Arguments, Trial};
use qapi_schema::Schema;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The top folder of the project.
fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the schema files, if there is one.
fn schema_folder() -> Option<PathBuf> {
    let folder = std::env::var_os("SECTORA_SCHEMA")
        .map_or_else(|| project().join("../shared/spec/qapi"), PathBuf::from);
    folder.join("block-core.json").is_file().then_some(folder)
}

// A test program talks on standard error.
#[allow(clippy::print_stderr)]
fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let folder = schema_folder();
    if folder.is_none() && !arguments.list {
        eprintln!(
            "skipped: the tests against the schema, which is not in ../shared/spec/qapi \
             (SECTORA_SCHEMA names another folder)"
        );
    }
    let mut trials = vec![
        Trial::test("every_claim_of_the_compat_table_has_evidence", || run(compat::evidence())),
        Trial::test("every_driver_in_the_code_is_in_the_compat_table", || run(compat::drivers())),
        Trial::test("the_totals_of_the_compat_table_are_right", || run(compat::totals())),
        Trial::test("the_schema_parser_reads_its_notation", || run(qapi_schema::self_test())),
    ];
    type NeedsSchema = fn(&Schema) -> Vec<String>;
    let needs_schema: [(&str, NeedsSchema); 2] = [
        ("wire_types_are_those_of_the_schema", wire_types::check),
        ("the_compat_table_has_every_name_of_the_schema", compat::names),
    ];
    for (name, test) in needs_schema {
        let missing = folder.is_none();
        let folder = folder.clone();
        let trial = Trial::test(name, move || {
            let folder = folder.ok_or("the schema files are not there")?;
            run(test(&Schema::load(&folder)?))
        });
        trials.push(trial.with_ignored_flag(missing));
    }
    let has_daemon = daemon::is_installed();
    if !has_daemon && !arguments.list {
        eprintln!("skipped: the comparison with qemu-storage-daemon, which is not installed");
    }
    type NeedsDaemon = fn() -> Vec<String>;
    let needs_daemon: [(&str, NeedsDaemon); 2] = [
        ("the_schema_that_clients_are_told_is_the_references", told::check),
        ("wrong_arguments_are_refused_in_the_references_words", refusals::check),
    ];
    for (name, test) in needs_daemon {
        trials.push(Trial::test(name, move || run(test())).with_ignored_flag(!has_daemon));
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test passes when it finds nothing.
fn run(findings: Vec<String>) -> Result<(), libtest_mimic::Failed> {
    if findings.is_empty() {
        return Ok(());
    }
    Err(findings.join("\n").into())
}
