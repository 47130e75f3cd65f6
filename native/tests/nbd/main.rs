//! NBD in both roles: the contract of devices over our client and our server, random operations
//! through an export against a flat model, peers that break the protocol, and the installed
//! programs of others (qemu-nbd, qemu-img, qemu-io, nbdinfo, nbdcopy, nbdkit) as the other side.

mod devices;
mod encrypted;
mod exports;
mod hostile;
mod peers;
mod programs;
mod setup;

use libtest_mimic::{Arguments, Trial};
use setup::have;

/// A test with another program: its name, what it does, and the programs it needs.
type Peer<'a> = (&'a str, fn(), &'a [&'a str]);

fn main() {
    let mut trials = devices::trials();
    let own: [(&str, fn()); 10] = [
        ("exports::they_come_and_go", exports::come_and_go),
        ("exports::slow_requests_and_many_clients", exports::slow_requests_and_many_clients),
        ("hostile::handshakes_end_and_harm_nobody", hostile::handshakes),
        ("hostile::requests_end_and_harm_nobody", hostile::requests),
        ("hostile::a_client_that_never_reads_is_held_up", hostile::never_reads),
        ("hostile::servers_that_lie_are_found_out", hostile::lying_servers),
        ("hostile::a_slow_handshake_is_cut_off", hostile::slow_handshake),
        ("programs::replies_are_late_and_end", programs::late),
        ("devices::a_lost_connection_fails_what_waits", devices::lost_connection),
        ("devices::requests_are_sent_again_after_reconnecting", devices::reconnects),
    ];
    trials.extend(own.map(|(name, test)| trial(name, test, &[])));
    let peers: [Peer; 10] = [
        ("peers::our_client_on_qemu_nbd", peers::client_on_qemu, &["qemu-nbd", "qemu-img"]),
        ("peers::our_client_on_nbdkit", peers::client_on_nbdkit, &["nbdkit"]),
        ("peers::qemu_io_on_our_server", peers::qemu_on_server, &["qemu-io", "qemu-img"]),
        ("peers::libnbd_on_our_server", peers::libnbd_on_server, &["nbdinfo", "nbdcopy"]),
        ("programs::lists_are_the_same", programs::lists, &["qemu-nbd", "nbdkit"]),
        (
            "programs::messages_are_the_same",
            programs::messages,
            &["qemu-nbd", "qemu-img", "qemu-io"],
        ),
        ("programs::images_by_address", programs::images, &["qemu-nbd", "qemu-img"]),
        ("programs::bitmaps_are_contexts", programs::bitmaps, &["qemu-nbd", "qemu-img", "qemu-io"]),
        ("programs::writes_are_recorded", programs::recorded, &["qemu-nbd", "qemu-img", "qemu-io"]),
        ("encrypted::both_ways", encrypted::both_ways, &["qemu-nbd", "openssl"]),
    ];
    trials.extend(peers.map(|(name, test, needs)| trial(name, test, needs)));
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A test that needs `programs`; without them it counts as ignored.
fn trial(name: &str, test: fn(), programs: &[&str]) -> Trial {
    let missing = programs.iter().any(|program| !have(name, program));
    let run = move || {
        test();
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(missing)
}
