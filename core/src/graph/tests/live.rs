//! The live graph: nodes come, go and change while they are used.

use super::world::{SIZE, World};
use crate::graph::Permissions;
use crate::io::testing::Rng;
use crate::io::{BlockDevice, Segments, WriteFlags};
use crate::sync::Mutex;
use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use serde_json::json;

#[test]
fn nodes_come_with_their_children_and_go_with_them() {
    let world = World::new(1);
    world.image("a");
    let overlay = "{'driver': 'qcow2', 'node-name': 'top', 'file': {'driver': 'file', \
                   'filename': 'on-base'}}";
    world.add(overlay).unwrap();
    let names = world.names();
    assert_eq!((names[0].as_str(), names[1].as_str()), ("file-a", "a"));
    assert_eq!(names.len(), 6, "{names:?}");
    assert_eq!(world.add(overlay).unwrap_err(), "Duplicate nodes with node-name='top'");
    assert_eq!(world.names().len(), 6, "a failed node leaves no trace");
    assert_eq!(world.remove("file-a").unwrap_err(), "Node file-a is not owned by the monitor");
    let user = world.attach(&world.graph.find("a").unwrap(), false).unwrap();
    assert_eq!(world.remove("a").unwrap_err(), "Node a is in use");
    world.sim.block_on(world.graph.detach(&user)).unwrap();
    assert_eq!(world.remove("x").unwrap_err(), "Failed to find node with node-name='x'");
    world.remove("top").unwrap();
    world.remove("a").unwrap();
    assert!(world.names().is_empty());
    world.image("a");
}

#[test]
fn wrong_options_are_refused_in_the_words_of_the_reference() {
    let world = World::new(1);
    for (options, want) in [
        ("{'driver': 'raw', 'file': 'x'}", "'node-name' must be specified for the root node"),
        (
            "{'driver': 'raw', 'node-name': '1', 'file': {'driver': 'file', 'filename': 'raw'}}",
            "Invalid node-name: '1'",
        ),
        ("{'driver': 'raw', 'node-name': 'n'}", "A block device must be specified for \"file\""),
        (
            "{'driver': 'raw', 'node-name': 'n', 'file': 'x'}",
            "Cannot find device='x' nor node-name='x'",
        ),
        (
            "{'driver': 'qcow2', 'node-name': 'n', 'file': {'driver': 'file', 'filename': 'raw'}}",
            "Image is not in qcow2 format",
        ),
    ] {
        assert_eq!(world.add(options).unwrap_err(), want, "{options}");
    }
    assert!(world.names().is_empty());
}

#[test]
fn users_of_one_node_have_to_get_along() {
    let world = World::new(1);
    let image = world.image("a");
    let file = world.graph.find("file-a").unwrap();
    let conflict = |taken, first, second| {
        format!(
            "Permission conflict on node 'file-a': permissions '{taken}' are both required by \
             {first} and unshared by {second}."
        )
    };
    let image_uses = "node 'a' (uses node 'file-a' as 'file' child)";
    let root_uses = "an unnamed block device (uses node 'file-a' as 'root' child)";
    assert_eq!(world.attach(&file, true).unwrap_err(), conflict("resize", image_uses, root_uses));
    assert_eq!(world.attach(&file, false).unwrap_err(), conflict("resize", image_uses, root_uses));
    let second = "{'driver': 'qcow2', 'node-name': 'b', 'read-only': true, 'file': 'file-a'}";
    assert_eq!(
        world.add(second).unwrap_err(),
        conflict("write, resize", image_uses, "node 'b' (uses node 'file-a' as 'file' child)")
    );
    let root = world.attach(&image, true).unwrap();
    let claim = image.children()[0].claim();
    let changing = Permissions::WRITE | Permissions::RESIZE;
    assert_eq!(claim.taken, Permissions::CONSISTENT_READ | changing);
    assert_eq!(world.remove("a").unwrap_err(), "Node a is in use");
    world.sim.block_on(world.graph.detach(&root)).unwrap();
    world.remove("a").unwrap();
}

#[test]
fn an_image_is_opened_again_with_other_options_and_children() {
    let world = World::new(1);
    let (image, _) = (world.image("a"), world.image("b"));
    let root = world.attach(&image, true).unwrap();
    world.write(&root, 0, 7);
    let with =
        |rest: &str| format!("{{'driver': 'qcow2', 'node-name': 'a', 'file': 'file-a'{rest}}}");
    world.reopen(&[&with(", 'lazy-refcounts': true, 'discard': 'unmap'")]).unwrap();
    assert!(image.settings().discard);
    assert_eq!(world.byte(&root, 0), 7);
    world.reopen(&[&with(", 'backing': 'b'")]).unwrap();
    assert_eq!(image.child("backing").unwrap().name(), "b");
    assert!(image.settings().discard, "it stays where nothing is said of it");
    assert_eq!(world.reopen(&[&with("")]).unwrap_err(), "backing is missing for 'a'");
    let cycle = "Making 'a' a backing child of 'a' would create a cycle";
    assert_eq!(world.reopen(&[&with(", 'backing': 'a'")]).unwrap_err(), cycle);
    assert_eq!(
        world.reopen(&[&with(", 'backing': 'x'")]).unwrap_err(),
        "Cannot find device='' nor node-name='x'"
    );
    let read_only = with(", 'backing': null, 'read-only': true");
    assert_eq!(
        world.reopen(&[&read_only]).unwrap_err(),
        "Read-only block node 'a' cannot support read-write users"
    );
    assert_eq!(image.child("backing").unwrap().name(), "b", "all or nothing");
    world.write(&root, 512, 8);
    world.reopen(&[&with(", 'backing': null, 'discard': 'ignore'")]).unwrap();
    assert_eq!((world.byte(&root, 0), world.byte(&root, 512)), (7, 8));
    // Several at once: the second cannot be, so neither is.
    let second = "{'driver': 'qcow2', 'node-name': 'b', 'file': 'file-a'}";
    world.reopen(&[&with(", 'discard': 'unmap'"), second]).unwrap_err();
    assert!(!image.settings().discard);
    world.write(&root, 1024, 9);
    assert_eq!(world.byte(&root, 1024), 9);
}

#[test]
fn a_snapshot_takes_the_place_of_what_it_stands_on() {
    let world = World::new(1);
    let (base, overlay) = (world.image("a"), world.image("b"));
    let root = world.attach(&base, true).unwrap();
    world.write(&root, 0, 1);
    world.sim.block_on(world.graph.snapshot(&base, &overlay)).unwrap();
    assert_eq!(root.node().unwrap().name(), "b");
    assert!(base.settings().read_only);
    world.write(&root, 512, 2);
    assert_eq!((world.byte(&root, 0), world.byte(&root, 512)), (1, 2));
    let below = world.attach(&base, false).unwrap();
    assert_eq!((world.byte(&below, 0), world.byte(&below, 512)), (1, 0));
    let third = world.image("c");
    let busy = world.sim.block_on(world.graph.snapshot(&base, &third)).unwrap_err().to_string();
    assert_eq!(busy, "Node 'a' is busy: node is used as backing hd of 'b'");
    let used = world.sim.block_on(world.graph.snapshot(&third, &overlay)).unwrap_err().to_string();
    assert_eq!(used, "The overlay is already in use");
    world.sim.block_on(world.graph.detach(&below)).unwrap();
    assert_eq!(world.remove("a").unwrap_err(), busy);
}

#[test]
fn an_overlay_that_nobody_reads_can_have_users() {
    // It was refused, as if they read it; and an overlay that was taken away again took them along.
    let world = World::new(1);
    let (base, overlay) = (world.image("a"), world.image("b"));
    let over = world.add("{'driver': 'raw', 'node-name': 'r', 'file': 'b'}").unwrap();
    let cycle = world.sim.block_on(world.graph.snapshot(&over, &overlay)).unwrap_err();
    assert_eq!(cycle.what(), "Making 'r' a backing child of 'b' would create a cycle");
    let root = world.attach(&base, true).unwrap();
    world.write(&root, 0, 1);
    let done = world.sim.block_on(world.graph.snapshot(&base, &overlay)).unwrap();
    assert_eq!(root.node().unwrap().name(), "b");
    let second = world.attach(&over, false).unwrap();
    assert_eq!(world.byte(&second, 0), 1);
    world.sim.block_on(world.graph.undo_snapshot(&done)).unwrap();
    assert_eq!(root.node().unwrap().name(), "a");
    assert_eq!(over.child("file").unwrap().name(), "b");
    assert_eq!((world.byte(&root, 0), world.byte(&second, 0)), (1, 0));
}

#[test]
fn a_write_past_the_threshold_is_told_once() {
    let world = World::new(1);
    let image = world.image("a");
    let root = world.attach(&image, true).unwrap();
    image.set_write_threshold(1000);
    world.write(&root, 0, 1);
    assert!(world.heard.try_next().is_none());
    world.write(&root, 1024, 1);
    world.write(&root, 2048, 1);
    let event = world.heard.try_next().unwrap();
    assert_eq!(event.name, "BLOCK_WRITE_THRESHOLD");
    let want = json!({"node-name": "a", "amount-exceeded": 536, "write-threshold": 1000});
    assert_eq!(serde_json::Value::Object(event.data), want);
    assert!(world.heard.try_next().is_none());
    let counts = image.counts();
    assert_eq!((counts.threshold, counts.highest_offset), (0, 2560));
}

/// Writers keep at it while images are opened again, put on top of each other and given other
/// files below: the bytes are always the model's, and nobody waits for ever.
#[test]
fn changes_under_load_lose_nothing() {
    let mut all_changes = (0, 0);
    for seed in 0..40 {
        let world = World::new(seed);
        let image = world.image("a");
        let root = world.attach(&image, true).unwrap();
        let model = Arc::new(Mutex::new(alloc::vec![0u8; SIZE as usize]));
        let left = Arc::new(AtomicUsize::new(0));
        for lane in 0..8u64 {
            let (root, model, left) = (root.clone(), model.clone(), left.clone());
            let runtime = world.sim.handle();
            let mut rng = Rng::new(seed * 8 + lane);
            left.fetch_add(1, Ordering::SeqCst);
            world.sim.spawn_named(
                "writer",
                Box::pin(async move {
                    for _ in 0..60 {
                        // Every lane has sectors of its own.
                        let at = (rng.below(SIZE / 512 / 8) * 8 + lane) * 512;
                        let byte = rng.below(255) as u8 + 1;
                        let data = Segments::from(alloc::vec![byte; 512]);
                        root.write(at, data, WriteFlags::empty()).await.unwrap();
                        let range = at as usize..at as usize + 512;
                        model.lock()[range.clone()].fill(byte);
                        let at = (rng.below(SIZE / 512 / 8) * 8 + lane) * 512;
                        let read = root.read(at, 512).await.unwrap().to_bytes();
                        let range = at as usize..at as usize + 512;
                        assert_eq!(read[..], model.lock()[range], "seed {seed} at {at:#x}");
                        runtime.sleep(Duration::from_micros(rng.below(50))).await;
                    }
                    left.fetch_sub(1, Ordering::SeqCst);
                }),
            );
        }
        let mut rng = Rng::new(seed + 1000);
        let mut spare = Vec::from(["d", "c", "b"]);
        let mut top = image;
        let (mut changes, mut reopened) = (0, 0);
        while left.load(Ordering::SeqCst) > 0 && changes < 200 {
            changes += 1;
            match rng.below(4) {
                0 if !spare.is_empty() => {
                    let overlay = world.image(spare.pop().unwrap());
                    world.sim.block_on(world.graph.snapshot(&top, &overlay)).unwrap();
                    top = overlay;
                }
                1 => {
                    let below = top.child("backing").map(|node| node.name().to_string());
                    let name = top.name();
                    let below = below.map_or("null".into(), |name| format!("'{name}'"));
                    let lazy = rng.below(2) == 0;
                    let options = format!(
                        "{{'driver': 'qcow2', 'node-name': '{name}', 'file': 'file-{name}', \
                         'backing': {below}, 'lazy-refcounts': {lazy}, 'discard': 'unmap'}}"
                    );
                    world.reopen(&[&options]).unwrap();
                    reopened += 1;
                }
                2 => {
                    let name = top.name();
                    let options = format!(
                        "{{'driver': 'qcow2', 'node-name': '{name}', 'file': 'file-{name}', \
                         'backing': null, 'read-only': true}}"
                    );
                    world.reopen(&[&options]).unwrap_err();
                }
                _ => {
                    let runtime = world.sim.handle();
                    world.sim.block_on(runtime.sleep(Duration::from_micros(100)));
                }
            }
        }
        let snapshots = 3 - spare.len();
        all_changes = (all_changes.0 + reopened, all_changes.1 + snapshots);
        world.sim.run_until_idle();
        assert_eq!(left.load(Ordering::SeqCst), 0, "seed {seed}: writers are stuck");
        let all = world.sim.block_on(root.read(0, SIZE)).unwrap().to_bytes();
        assert!(all[..] == model.lock()[..], "seed {seed}");
        world.sim.block_on(world.graph.close()).unwrap();
        assert!(world.names().is_empty());
    }
    let (reopened, snapshots) = all_changes;
    assert!(reopened > 100 && snapshots > 60, "{reopened} reopened, {snapshots} snapshots");
}
