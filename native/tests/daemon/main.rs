//! The daemon against the reference: command lines that end at once, conversations over standard
//! input and sockets, hostile peers, changes under load, and a client library of others.

mod backends;
mod descriptors;
mod exports;
mod fuse;
mod hostile;
mod lines;
mod load;
#[path = "../shared/loop_device.rs"]
mod loop_device;
mod loops;
mod monitor;
mod nbd;
mod python;
mod replication;
mod setup;
mod talks;
mod vhost;
mod virtio;

use libtest_mimic::{Arguments, Trial};
use setup::have;

/// A test: its name, what it does, and the programs it needs.
type Test<'a> = (&'a str, fn(), &'a [&'a str]);

const REFERENCE: &str = "qemu-storage-daemon";

/// Files can be mounted.
const FUSE: &str = "fuse";

fn main() {
    let tests: [Test; 33] = [
        ("backends::a_stopped_backend_holds_its_clients", backends::stopped, &[]),
        ("backends::errors_are_told_or_not", backends::told, &[]),
        ("backends::commands_for_people", backends::people, &[]),
        ("backends::without_devices_nothing_of_it_is_there", backends::absent, &[]),
        ("descriptors::files_and_sockets_are_handed_over", descriptors::over, &[]),
        ("descriptors::of_the_line_and_absent_unless_asked_for", descriptors::asked, &[]),
        ("loops::block_devices_are_nodes_as_the_reference_has_them", loops::devices, &[REFERENCE]),
        ("hostile::monitors_survive_what_is_sent_to_them", hostile::monitors, &[]),
        ("hostile::exports_survive_what_is_sent_to_them", hostile::clients, &[]),
        ("hostile::no_ring_comes_of_a_snapshot", hostile::rings, &[]),
        ("load::the_graph_changes_under_requests", load::changes, &[]),
        ("lines::mistakes_and_help_are_the_same", lines::the_same, &[REFERENCE]),
        ("lines::a_pid_file_belongs_to_one", lines::pid_file, &[]),
        ("lines::a_daemon_goes_to_the_background", lines::background, &[]),
        ("talks::protocol_over_stdio", talks::protocol, &[REFERENCE]),
        ("talks::protocol_over_a_socket", talks::over_socket, &[REFERENCE]),
        ("talks::devices_and_objects", talks::devices, &[REFERENCE]),
        ("talks::clients_come_and_go", talks::come_and_go, &[]),
        ("talks::a_client_that_never_reads_is_held_up", talks::never_reads, &[]),
        (
            "exports::commands_are_answered_as_the_reference_does",
            exports::commands,
            &[REFERENCE, FUSE],
        ),
        ("exports::options_of_the_line_are_refused_in_its_words", exports::line, &[REFERENCE]),
        ("exports::sockets_are_those_that_were_named", exports::sockets, &[REFERENCE, "qemu-io"]),
        (
            "exports::clients_keep_exports_from_a_safe_removal",
            exports::clients,
            &[REFERENCE, "qemu-io"],
        ),
        (
            "exports::clients_are_let_in_by_their_certificates",
            exports::encrypted,
            &[REFERENCE, "qemu-nbd", "openssl"],
        ),
        (
            "fuse::calls_do_what_they_do_on_the_references_file",
            fuse::differential,
            &[REFERENCE, FUSE],
        ),
        ("fuse::a_file_comes_grows_and_goes", fuse::life, &[FUSE]),
        ("vhost::a_guest_sees_what_the_reference_shows", vhost::differential, &[REFERENCE]),
        ("vhost::queues_work_side_by_side", vhost::queues, &[]),
        ("vhost::chains_that_no_driver_makes_do_no_harm", vhost::hostile, &[]),
        ("vhost::guests_and_exports_come_and_go", vhost::come_and_go, &[]),
        ("replication::a_machine_takes_over_what_was_confirmed", replication::failover, &[]),
        ("replication::a_guest_is_not_told_of_the_other_machine", replication::alone, &[]),
        ("python::the_library_of_others_connects", python::connects, &["python3", python::PACKAGE]),
    ];
    let trials = tests.map(|(name, test, needs)| {
        let lacks = |program: &&str| match *program {
            python::PACKAGE => python::python().is_none(),
            FUSE => !fuse::can_mount(name),
            program => !have(name, program),
        };
        let missing = needs.iter().any(lacks);
        let run = move || {
            test();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(missing)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}
