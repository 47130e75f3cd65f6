//! `vhost-user-blk`: the same guest at the reference's export and at ours, guests that break the
//! rules, and exports that come and go.

use super::monitor::Monitor;
use super::setup::Place;
use super::virtio::{
    DISCARD, Descriptor, FLUSH, GET_ID, Guest, IN, INDIRECT, NEXT, OUT, START, WRITE, WRITE_ZEROES,
    Wanted, range,
};
use serde_json::{Value, json};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// A daemon with a disk of 16 MiB in a file, and the path of the socket that it is to be served on.
fn daemon(place: &Place, program: usize, name: &str) -> (Monitor, String) {
    let disk = place.path(&format!("{name}.raw"));
    let file = std::fs::File::create(&disk).expect("a file");
    file.set_len(16 * MIB).expect("a length");
    let mut monitor = Monitor::start(&place.both()[program], &place.path(&format!("{name}.qmp")));
    monitor.done(
        "blockdev-add",
        json!({ "driver": "file", "node-name": "d", "filename": disk, "discard": "unmap" }),
    );
    (monitor, place.path(&format!("{name}.sock")))
}

fn export(path: &str, more: Value) -> Value {
    let mut options = json!({
        "type": "vhost-user-blk", "id": "e", "node-name": "d",
        "addr": { "type": "unix", "path": path },
    });
    let options_map = options.as_object_mut().expect("an object");
    options_map.extend(more.as_object().expect("an object").clone());
    options
}

/// What differs by design: whether the driver has to flush. The reference says at first that it need
/// not, whatever the cache mode is.
const WRITEBACK: usize = 32;

/// Features that only the reference has: notification when a ring is empty (24), which no driver of
/// version 1 has, and a log of what was written (26).
const NOT_OURS: u64 = 1 << 24 | 1 << 26;

pub(crate) fn differential() {
    for more in [
        json!({}),
        json!({ "writable": true }),
        json!({ "writable": true, "num-queues": 3, "logical-block-size": 4096 }),
        json!({ "writable": true, "writethrough": true, "logical-block-size": 512 }),
    ] {
        let place = Place::new();
        let [ours, theirs] = [0, 1].map(|program| one_guest(&place, program, &more));
        for (got, want) in ours.iter().zip(&theirs) {
            assert_eq!(got, want, "{more}");
        }
        assert_eq!(ours.len(), theirs.len());
        let [got, want] = ["a", "b"]
            .map(|name| std::fs::read(place.path(&format!("{name}.raw"))).expect("the disk"));
        assert!(got == want, "{more}: the disks differ");
    }
}

/// What a guest sees and does, in words.
fn one_guest(place: &Place, program: usize, more: &Value) -> Vec<String> {
    let (mut monitor, path) = daemon(place, program, ["a", "b"][program]);
    monitor.done("block-export-add", export(&path, more.clone()));
    let queues = more["num-queues"].as_u64().unwrap_or(1);
    let mut guest = Guest::new(&path, queues as usize, Wanted::default());
    let mut seen = Vec::new();
    seen.push(format!("features {:#x}", guest.features & !NOT_OURS));
    seen.push(format!("queues {}", guest.queue_count()));
    let mut config = guest.config(0, 60);
    let writeback = config[WRITEBACK];
    if program == 0 {
        let wanted = more["writethrough"] != json!(true);
        assert_eq!(writeback, u8::from(wanted), "{more}");
    }
    config[WRITEBACK] = 0;
    seen.push(format!("config {config:?}"));

    let pattern: Vec<u8> = (0..MIB as usize).map(|i| (i / 7 % 251) as u8).collect();
    let last = 16 * MIB / 512;
    let cases: Vec<(u32, u64, Vec<u8>, u32, u32)> = vec![
        (OUT, 0, pattern[..4096].to_vec(), 0, 1),
        (OUT, 8, pattern[..65536].to_vec(), 0, 5),
        (OUT, 2048, pattern.clone(), 0, 100),
        (OUT, 1, pattern[..512].to_vec(), 0, 1),
        (OUT, 8, pattern[..1000].to_vec(), 0, 1),
        (OUT, last, pattern[..4096].to_vec(), 0, 1),
        (OUT, last - 8, pattern[..4096].to_vec(), 0, 1),
        (OUT, last - 8, pattern[..8192].to_vec(), 0, 1),
        (OUT, u64::MAX, pattern[..4096].to_vec(), 0, 1),
        (OUT, u64::MAX / 512 - 7, pattern[..4096].to_vec(), 0, 1),
        (OUT, 0, Vec::new(), 0, 1),
        (IN, 0, Vec::new(), 4096, 1),
        (IN, 8, Vec::new(), 65536, 7),
        (IN, 2048, Vec::new(), MIB as u32, 64),
        (IN, 3, Vec::new(), 512, 1),
        (IN, 0, Vec::new(), 100, 1),
        (IN, last, Vec::new(), 4096, 1),
        (IN, last - 8, Vec::new(), 4096, 1),
        (IN, u64::MAX, Vec::new(), 4096, 1),
        (IN, 0, Vec::new(), 0, 1),
        (FLUSH, 0, Vec::new(), 0, 1),
        (FLUSH, 77, Vec::new(), 0, 1),
        (GET_ID, 0, Vec::new(), 20, 1),
        (GET_ID, 0, Vec::new(), 4, 1),
        (GET_ID, 0, Vec::new(), 64, 3),
        (DISCARD, 0, range(16, 16, 0), 0, 1),
        (DISCARD, 0, range(16, 16, 1), 0, 1),
        (DISCARD, 0, range(last, 8, 0), 0, 1),
        (DISCARD, 0, range(0, 40000, 0), 0, 1),
        (DISCARD, 0, range(u64::MAX, 8, 0), 0, 1),
        (DISCARD, 0, range(1, 1, 0), 0, 1),
        (DISCARD, 0, range(0, 0, 0), 0, 1),
        (DISCARD, 0, [range(0, 8, 0), range(8, 8, 0)].concat(), 0, 1),
        (DISCARD, 0, range(0, 8, 0)[..8].to_vec(), 0, 1),
        (WRITE_ZEROES, 0, range(2056, 64, 0), 0, 1),
        (WRITE_ZEROES, 0, range(2200, 64, 1), 0, 1),
        (WRITE_ZEROES, 0, range(2400, 64, 2), 0, 1),
        (WRITE_ZEROES, 0, range(last - 8, 16, 0), 0, 1),
        (WRITE_ZEROES, 0, range(0, 8, 0)[..15].to_vec(), 0, 1),
        (WRITE_ZEROES, 0, Vec::new(), 0, 1),
        (IN, 2048, Vec::new(), MIB as u32, 3),
        (IN, 0, Vec::new(), 65536, 3),
        (2, 0, Vec::new(), 512, 1),
        (9, 0, Vec::new(), 0, 1),
        (0xffff_ffff, 0, vec![1; 512], 512, 1),
    ];
    for (i, (kind, sector, out, room, cuts)) in cases.into_iter().enumerate() {
        let queue = i % queues as usize;
        let answer = guest.try_request(queue, (kind, sector), &out, room, cuts);
        let (status, mut data, written) = answer.unwrap_or_else(|| {
            let who = ["ours", "theirs"][program];
            panic!("{who}: the connection ended at {i}: {kind} at {sector}, {more}")
        });
        if kind == GET_ID {
            // The reference leaves what comes after the name as it is; the specification wants zeroes.
            data.truncate(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
        }
        // What a failed read has left there means nothing.
        let sum = match status {
            0 => data.iter().fold(0_u64, |sum, b| sum.wrapping_mul(31).wrapping_add((*b).into())),
            _ => 0,
        };
        let what = format!("{i}: {kind} at {sector}, {} out, {room} in", out.len());
        // What the device says that it wrote matters where it wrote data.
        let told =
            if status == 0 && kind != GET_ID { format!(", {written} told") } else { String::new() };
        seen.push(format!("{what}: status {status}, sum {sum}{told}"));
    }
    drop(guest);
    monitor.done("block-export-del", json!({ "id": "e" }));
    assert_eq!(monitor.event("BLOCK_EXPORT_DELETED")["data"], json!({ "id": "e" }));
    monitor.quit();
    seen
}

/// Several queues with many requests each, in whatever order they come back.
pub(crate) fn queues() {
    let place = Place::new();
    let (mut monitor, path) = daemon(&place, 0, "q");
    monitor.done("block-export-add", export(&path, json!({ "writable": true, "num-queues": 4 })));
    let mut guest = Guest::new(&path, 4, Wanted { features: 1 << 29 | Wanted::default().features });
    for round in 0..8_u64 {
        for write in [true, false] {
            for slot in 0..16_u64 {
                for queue in 0..4_u64 {
                    let sector = (queue * 16 + slot) * 16 + 2048 * (round % 3);
                    let data = vec![(queue * 31 + slot + round) as u8; 8192];
                    let place = (slot as u16 * 4, slot * 16384);
                    let (kind, out, room) =
                        if write { (OUT, &*data, 0) } else { (IN, &[][..], 8192) };
                    guest.lay(queue as usize, place, (kind, sector), out, room, 1);
                    guest.offer(queue as usize, place.0);
                }
            }
            for queue in 0..4_u64 {
                let mut heads = Vec::new();
                for _ in 0..16 {
                    let (head, written) = guest.next_used(queue as usize).expect("it lasts");
                    assert_eq!(written, if write { 1 } else { 8193 });
                    heads.push(head);
                }
                heads.sort_unstable();
                assert_eq!(heads, (0..16).map(|slot| slot * 4).collect::<Vec<_>>());
                for slot in (0..16_u64).filter(|_| !write) {
                    let at = guest.data(queue as usize, slot * 16384);
                    assert_eq!(guest.get(at + 16, 1), [0]);
                    let want = vec![(queue * 31 + slot + round) as u8; 8192];
                    assert!(guest.get(at + 512, 8192) == want, "queue {queue}, slot {slot}");
                }
            }
        }
    }
    // A queue that is stopped says where to go on, and does.
    assert_eq!(guest.stop(2), 8 * 2 * 16);
    monitor.quit();
}

/// Chains that no driver makes.
pub(crate) fn hostile() {
    let place = Place::new();
    let (mut monitor, path) = daemon(&place, 0, "h");
    let more = json!({ "writable": true, "num-queues": 2 });
    monitor.done("block-export-add", export(&path, more));
    let one = |address, len, flags, next| Descriptor { address, len, flags, next };
    let header = START + 0x1_0000;
    // Each: the descriptors of queue 0, and whether the device can still answer.
    let cases: Vec<(&str, Vec<Descriptor>, bool)> = vec![
        ("empty", vec![one(0, 0, 0, 0)], false),
        ("no status", vec![one(header, 16, 0, 0)], false),
        ("no header", vec![one(header, 1, WRITE, 0)], false),
        ("a short header", vec![one(header, 15, NEXT, 1), one(header + 16, 1, WRITE, 0)], false),
        ("a loop", vec![one(header, 16, NEXT, 1), one(header + 16, 1, WRITE | NEXT, 0)], false),
        ("a loop of itself", vec![one(header, 16, NEXT, 0)], false),
        ("next out of the table", vec![one(header, 16, NEXT, 4000)], false),
        (
            "input before output",
            vec![one(header + 16, 1, WRITE | NEXT, 1), one(header, 16, 0, 0)],
            false,
        ),
        ("a header outside", vec![one(1, 16, NEXT, 1), one(header + 16, 1, WRITE, 0)], false),
        ("a status outside", vec![one(header, 16, NEXT, 1), one(u64::MAX, 1, WRITE, 0)], false),
        (
            "data outside",
            vec![
                one(header, 16, NEXT, 1),
                one(u64::MAX - 100, 4096, WRITE | NEXT, 2),
                one(header + 16, 1, WRITE, 0),
            ],
            true,
        ),
        (
            "more than the disk",
            vec![
                one(header, 16, NEXT, 1),
                one(header, u32::MAX, WRITE | NEXT, 2),
                one(header + 16, 1, WRITE, 0),
            ],
            false,
        ),
        ("a table of no descriptors", vec![one(header, 0, INDIRECT, 0)], false),
        ("a table that is cut", vec![one(header, 17, INDIRECT, 0)], false),
        ("a table outside", vec![one(u64::MAX - 5, 32, INDIRECT, 0)], false),
        ("a table of millions", vec![one(header, u32::MAX - 15, INDIRECT, 0)], false),
    ];
    for (what, chain, answers) in cases {
        let mut guest = Guest::new(&path, 2, Wanted::default());
        guest.put(header, &[0; 16]);
        guest.put(header + 16, &[0xff]);
        guest.descriptors(0, 0, &chain);
        guest.offer(0, 0);
        match guest.next_used(0) {
            Some(_) => {
                assert!(answers, "{what}: it is answered");
                assert_eq!(guest.get(header + 16, 1), [1], "{what}");
            }
            None => assert!(!answers, "{what}: the connection ends"),
        }
    }
    // More chains than the ring has.
    let mut guest = Guest::new(&path, 2, Wanted::default());
    guest.pretend(1, 1000);
    assert_eq!(guest.next_used(1), None);
    // A table within a table.
    let mut guest = Guest::new(&path, 2, Wanted::default());
    let table = START + 0x2_0000;
    guest.table(table, &[one(table, 32, INDIRECT, 0), one(0, 0, 0, 0)]);
    guest.descriptors(0, 0, &[one(table, 32, INDIRECT, 0)]);
    guest.offer(0, 0);
    assert_eq!(guest.next_used(0), None);
    // The same request 128 times at once: each is answered, no more are under way than the ring has.
    let mut guest = Guest::new(&path, 2, Wanted::default());
    guest.lay(0, (0, 0), (IN, 0), &[], MIB as u32, 1);
    for _ in 0..100 {
        guest.offer(0, 0);
    }
    for _ in 0..100 {
        assert_eq!(guest.next_used(0), Some((0, MIB as u32 + 1)));
    }
    drop(guest);
    // Words that mean nothing.
    for bytes in [&[0xff_u8; 64][..], &[0; 12], &[1, 0, 0, 0, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]] {
        use std::io::{Read, Write};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.write_all(bytes).expect("it listens");
        let mut rest = Vec::new();
        // It may be gone before all is read.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{rest:?}");
    }
    // A table inside of a descriptor works, and the export does.
    let mut guest = Guest::new(&path, 2, Wanted::default());
    let list = [
        one(header, 16, NEXT, 1),
        one(header + 512, 512, WRITE | NEXT, 2),
        one(header + 16, 1, WRITE, 0),
    ];
    guest.put(header, &[0; 16]);
    guest.table(table, &list);
    guest.descriptors(1, 5, &[one(table, 48, INDIRECT, 0)]);
    guest.offer(1, 5);
    assert_eq!(guest.next_used(1), Some((5, 513)));
    assert_eq!(guest.get(header + 16, 1), [0]);
    monitor.quit();
}

/// Guests that leave and come, exports that end under them, disks that become longer.
pub(crate) fn come_and_go() {
    let place = Place::new();
    let (mut monitor, path) = daemon(&place, 0, "c");
    monitor.done("block-export-add", export(&path, json!({ "writable": true })));
    let told = monitor.ask("query-block-exports", json!({}));
    let want = json!([{
        "id": "e", "type": "vhost-user-blk", "node-name": "d", "shutting-down": false
    }]);
    assert_eq!(told["return"], want);
    for byte in 1..4_u8 {
        let mut guest = Guest::new(&path, 1, Wanted::default());
        let before = guest.request(0, (IN, 0), &[], 512, 1);
        assert_eq!((before.0, before.1[0]), (0, byte - 1), "what the last guest wrote");
        assert_eq!(guest.request(0, (OUT, 0), &[byte; 512], 0, 1).0, 0);
        // It leaves while a request is under way.
        guest.lay(0, (0, 0), (OUT, 4096), &vec![byte; 1 << 20], 0, 1);
        guest.offer(0, 0);
    }
    let mut guest = Guest::new(&path, 1, Wanted::default());
    assert_eq!(guest.config(0, 8), (16 * MIB / 512).to_le_bytes());
    monitor.done("block_resize", json!({ "node-name": "d", "size": 32 * MIB }));
    let told = guest.told(Duration::from_secs(20)).expect("it is told");
    assert_eq!(told, [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(guest.config(0, 8), (32 * MIB / 512).to_le_bytes());
    assert_eq!(guest.request(0, (OUT, 32 * MIB / 512 - 1), &[9; 512], 0, 1).0, 0);
    // The cache mode is the driver's.
    assert_eq!(guest.config(WRITEBACK as u32, 1), [1]);
    guest.set_config(WRITEBACK as u32, &[0]);
    assert_eq!(guest.config(WRITEBACK as u32, 1), [0]);
    assert_eq!(guest.request(0, (OUT, 0), &[5; 512], 0, 1).0, 0);
    // A guest does not keep its export.
    monitor.done("block-export-del", json!({ "id": "e", "mode": "safe" }));
    assert_eq!(monitor.event("BLOCK_EXPORT_DELETED")["data"], json!({ "id": "e" }));
    assert_eq!(guest.next_used(0), None);
    assert!(!std::path::Path::new(&path).exists(), "the socket is gone");
    monitor.done("block-export-add", export(&path, json!({})));
    let mut guest = Guest::new(&path, 1, Wanted::default());
    assert_eq!(guest.request(0, (IN, 0), &[], 512, 1).1[0], 5);
    assert_eq!(guest.request(0, (OUT, 0), &[5; 512], 0, 1).0, 1, "it may not write");
    monitor.done("block-export-del", json!({ "id": "e", "mode": "hard" }));
    assert_eq!(monitor.ask("query-block-exports", json!({}))["return"], json!([]));
    monitor.quit();
}
