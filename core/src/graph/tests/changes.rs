//! Nodes handed over and taken back, children that come and go, points in time.

use super::world::{SIZE, World};
use crate::graph::{Filter, Node, Permissions};
use crate::io::{BlockDevice, DeviceExt};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

fn set_active(world: &World, node: Option<&Arc<Node>>, active: bool) -> Result<(), String> {
    world.sim.block_on(world.graph.set_active(node, active)).map_err(|e| e.what().into())
}

#[test]
fn what_another_program_has_is_not_written_to() {
    let world = World::new(1);
    let a = world.image("a");
    let root = world.attach(&a, true).unwrap();
    world.write(&root, 0, 1);
    let below = world.graph.find("file-a").unwrap();
    assert_eq!(set_active(&world, Some(&below), false).unwrap_err(), "Node has active parent node");
    set_active(&world, Some(&a), false).unwrap();
    assert!(!below.settings().active, "what only it stands on goes with it");
    let file = world.sim.block_on(below.device().read(0, below.device().len())).unwrap().to_bytes();
    assert_eq!(world.byte(&root, 0), 1, "it can be read");
    let data = Vec::from([2; 512]).into();
    let flags = crate::io::WriteFlags::empty();
    assert!(world.sim.block_on(root.write(0, data, flags)).is_err());
    assert!(world.sim.block_on(root.discard(0, 65536)).is_err());
    let resize = world.sim.block_on(world.graph.resize(&a, 2 * SIZE)).unwrap_err();
    assert_eq!(resize.what(), "Permission 'resize' unavailable on inactive node");
    assert!(world.sim.block_on(root.flush()).is_err(), "who writes is told that it is another's");
    let after = world.sim.block_on(below.device().read(0, below.device().len())).unwrap();
    assert!(after.to_bytes() == file, "not a byte of the file has changed");

    // Another program writes meanwhile.
    let other = World::new(2);
    let copy = other.image("a");
    let theirs = other.attach(&copy, true).unwrap();
    other.write(&theirs, 0, 3);
    other.sim.block_on(other.graph.detach(&theirs)).unwrap();
    other.remove("a").unwrap();
    let written = world.files["a"].clone();
    let bytes = other.sim.block_on(other.files["a"].read(0, other.files["a"].len())).unwrap();
    world.sim.block_on(written.write(0, bytes, flags)).unwrap();

    set_active(&world, None, true).unwrap();
    assert_eq!(world.byte(&root, 0), 3, "it is read anew");
    world.write(&root, 512, 4);
    assert_eq!(world.byte(&root, 512), 4);
}

#[test]
fn active_nodes_stand_on_active_ones() {
    let world = World::new(1);
    world.add("{'driver': 'null-co', 'node-name': 'n', 'active': false}").unwrap();
    let error = world.add("{'driver': 'raw', 'node-name': 'r', 'file': 'n'}").unwrap_err();
    assert_eq!(error, "Inactive 'n' can't be a file child of active 'r'");
    let r = world.add("{'driver': 'raw', 'node-name': 'r', 'file': 'n', 'active': false}").unwrap();
    set_active(&world, Some(&r), true).unwrap();
    assert!(world.graph.find("n").unwrap().settings().active);
    assert!(world.attach(&r, true).is_ok());
}

/// An inactive filter claimed to copy up, and gave up what it does in any case: its child was inactive
/// under a user that writes there.
#[test]
fn what_a_filter_writes_to_cannot_become_inactive() {
    let world = World::new(1);
    for name in ["a", "b"] {
        world.add(&alloc::format!("{{'driver': 'null-co', 'node-name': '{name}'}}")).unwrap();
    }
    let d = world
        .add(
            "{'driver': 'blkdebug', 'node-name': 'd', 'image': 'a', 'take-child-perms': ['write'], \
             'unshare-child-perms': ['resize']}",
        )
        .unwrap();
    let q = world
        .add("{'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 1, 'children': ['b', 'd']}")
        .unwrap();
    for node in [Some(&q), None] {
        set_active(&world, None, true).unwrap();
        let what = if node.is_some() { "node" } else { "all nodes" };
        assert_eq!(
            set_active(&world, node, false).unwrap_err(),
            alloc::format!("Failed to inactivate {what}: Operation not permitted")
        );
        let active = |name: &str| world.graph.find(name).unwrap().settings().active;
        assert_eq!(["q", "d", "a", "b"].map(active), [false, false, true, true]);
    }
    let claim = d.children()[0].claim();
    assert_eq!(claim.taken, Permissions::WRITE);
    let of_quorum = Permissions::CONSISTENT_READ | Permissions::WRITE_UNCHANGED;
    assert_eq!((claim.shared, q.children()[0].claim().shared), (of_quorum, of_quorum));
    set_active(&world, Some(&q), false).expect("it is inactive already");

    // A quorum rewrites what has lost a vote: it wrote without saying so.
    let rewriting = |name: &str, rest: &str| {
        world.add(&alloc::format!(
            "{{'driver': 'quorum', 'node-name': '{name}', 'vote-threshold': 1, 'children': \
             [{{'driver': 'null-co', 'node-name': 'of-{name}'}}], 'rewrite-corrupted': true{rest}}}"
        ))
    };
    let taken = |node: Arc<Node>| node.children()[0].claim().taken;
    assert_eq!(taken(rewriting("v", "").unwrap()), Permissions::WRITE);
    assert_eq!(taken(rewriting("w", ", 'read-pattern': 'fifo'").unwrap()), Permissions::empty());
    let error = rewriting("x", ", 'read-only': true").unwrap_err();
    assert_eq!(error, "Block node is read-only");

    world.add("{'driver': 'null-co', 'node-name': 'n', 'active': false}").unwrap();
    let error = world
        .add(
            "{'driver': 'blkdebug', 'node-name': 'e', 'image': 'n', 'active': false, \
             'take-child-perms': ['resize']}",
        )
        .unwrap_err();
    assert_eq!(error, "Permission 'resize' unavailable on inactive node");
    let copying = "{'driver': 'copy-on-read', 'node-name': 'c', 'file': 'n', 'active': false}";
    let copying = world.add(copying).unwrap();
    assert_eq!(copying.children()[0].claim().taken, Permissions::empty());
    set_active(&world, Some(&copying), true).unwrap();
    assert_eq!(copying.children()[0].claim().taken, Permissions::WRITE_UNCHANGED);
}

#[test]
fn children_of_a_quorum_come_and_go_while_it_is_used() {
    let world = World::new(1);
    for name in ["a", "b", "c"] {
        world
            .add(&alloc::format!(
                "{{'driver': 'null-co', 'node-name': '{name}', 'size': 65536, 'read-zeroes': true}}"
            ))
            .unwrap();
    }
    let q = world
        .add("{'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 2, 'children': ['a', 'b']}")
        .unwrap();
    let cycle = world.sim.block_on(world.graph.add_child(&q, &q)).unwrap_err();
    assert_eq!(cycle.what(), "Making 'q' a children.2 child of 'q' would create a cycle");
    let root = world.attach(&q, true).unwrap();
    let c = world.graph.find("c").unwrap();
    let a = world.graph.find("a").unwrap();
    let add =
        |below| world.sim.block_on(world.graph.add_child(&q, below)).map_err(|e| e.to_string());
    let remove =
        |name| world.sim.block_on(world.graph.remove_child(&q, name)).map_err(|e| e.to_string());
    assert_eq!(add(&a).unwrap_err(), "The node a already has a parent");
    assert_eq!(remove("children.7").unwrap_err(), "Node 'q' does not have child 'children.7'");
    assert_eq!(
        remove("children.0").unwrap_err(),
        "The number of children cannot be lower than the vote threshold 2"
    );
    add(&c).unwrap();
    world.write(&root, 0, 0);
    remove("children.0").unwrap();
    world.write(&root, 0, 0);
    let names: Vec<String> = q.children().iter().map(|edge| edge.name().into()).collect();
    assert_eq!(names, ["children.1", "children.2"]);
    let children = r#""children": [{"read-zeroes": true, "driver": "null-co", "size": 65536}, "#;
    assert!(q.filename().contains(children), "{}", q.filename());
    let r = world.add("{'driver': 'raw', 'node-name': 'r', 'file': 'a'}").unwrap();
    let other = world.sim.block_on(world.graph.remove_child(&r, "file")).unwrap_err();
    assert_eq!(other.what(), "The node r does not support removing a child");
}

#[test]
fn a_point_in_time_stays_while_the_disk_changes() {
    let world = World::new(1);
    let (n, _) = (world.image("a"), world.image("b"));
    let before = world.attach(&n, true).unwrap();
    world.write(&before, 0, 1);
    world.sim.block_on(world.graph.detach(&before)).unwrap();
    let c = world
        .add("{'driver': 'copy-before-write', 'node-name': 'c', 'file': 'a', 'target': 'b'}")
        .unwrap();
    let s = world.add("{'driver': 'snapshot-access', 'node-name': 's', 'file': 'c'}").unwrap();
    let (now, then) = (world.attach(&c, true).unwrap(), world.attach(&s, false).unwrap());
    let around = world.attach(&n, true).unwrap_err();
    assert!(around.contains("unshared by node 'c' (uses node 'a' as 'file' child)"), "{around}");
    world.write(&now, 0, 2);
    world.write(&now, 1 << 17, 3);
    assert_eq!((world.byte(&now, 0), world.byte(&then, 0)), (2, 1));
    assert_eq!((world.byte(&now, 1 << 17), world.byte(&then, 1 << 17)), (3, 0));
    let Some(Filter::CopyBeforeWrite(filter)) = c.body().filter else { panic!() };
    let cluster = filter.cluster_size();
    assert_eq!(filter.progress(), (SIZE, 2 * cluster, SIZE - 2 * cluster));
    let plain = world.add("{'driver': 'snapshot-access', 'node-name': 'p', 'file': 'b'}").unwrap();
    let error = world.sim.block_on(plain.device().read_array::<1>(0)).unwrap_err();
    assert!(error.what().contains("keeps no point in time"), "{error}");
}

/// Every write that needed room failed: a raw image does not grow with what is written to it.
#[test]
fn an_image_grows_in_a_raw_image() {
    let world = World::new(1);
    let top = world
        .add(
            "{'driver': 'qcow2', 'node-name': 'q', 'file': {'driver': 'copy-on-read', 'file': \
             {'driver': 'raw', 'file': {'driver': 'file', 'node-name': 'f', 'filename': 'a'}}}}",
        )
        .unwrap();
    let root = world.attach(&top, true).unwrap();
    let file = world.graph.find("f").unwrap();
    let before = file.device().len();
    for at in (0..SIZE).step_by(4096) {
        world.write(&root, at, 7);
    }
    world.sim.block_on(root.flush()).unwrap();
    assert!(file.device().len() >= before + SIZE);
    world.sim.block_on(world.graph.detach(&root)).unwrap();
    world.remove("q").unwrap();
    let image = world.image("a");
    let root = world.attach(&image, false).unwrap();
    assert_eq!((world.byte(&root, 0), world.byte(&root, SIZE - 4096)), (7, 7));
}

#[test]
fn what_an_image_holds_is_written_into_the_one_below() {
    let world = World::new(1);
    let top = world
        .add(
            "{'driver': 'qcow2', 'node-name': 'top', 'file': {'driver': 'file', 'filename': \
             'on-base'}}",
        )
        .unwrap();
    let root = world.attach(&top, true).unwrap();
    for (at, byte) in [(0, 1), (1 << 18, 2), (SIZE - 512, 3)] {
        world.write(&root, at, byte);
    }
    world.sim.block_on(world.graph.commit(&top)).unwrap();
    let below = top.child("backing").unwrap();
    assert!(below.settings().read_only, "it is only read again");
    let get =
        |node: &Arc<Node>, at| world.sim.block_on(node.device().read_array::<1>(at)).unwrap()[0];
    for (at, byte) in [(0, 1), (512, 0), (1 << 18, 2), (SIZE - 512, 3)] {
        assert_eq!((get(&top, at), get(&below, at)), (byte, byte), "{at}");
    }
    let extents = world.sim.block_on(top.device().extents(0, SIZE)).unwrap();
    assert!(extents.iter().all(|extent| extent.depth > 0), "nothing is left in it: {extents:?}");
    world.write(&root, 0, 9);
    assert_eq!((get(&top, 0), get(&below, 0)), (9, 1));
    let bottom = world.sim.block_on(world.graph.commit(&below)).unwrap_err();
    assert!(bottom.what().contains("no backing file to commit to"), "{bottom}");
}

#[test]
fn what_lies_below_the_bottom_is_not_copied() {
    let world = World::new(1);
    let base = world.image("a");
    let root = world.attach(&base, true).unwrap();
    world.write(&root, 0, 1);
    world.sim.block_on(world.graph.detach(&root)).unwrap();
    for (name, below) in [("b", "a"), ("c", "b")] {
        world
            .add(&alloc::format!(
                "{{'driver': 'qcow2', 'node-name': '{name}', 'backing': '{below}', 'file': \
                 {{'driver': 'file', 'filename': '{name}'}}}}"
            ))
            .unwrap();
        if name == "b" {
            let root = world.attach(&world.graph.find("b").unwrap(), true).unwrap();
            world.write(&root, 65536, 2);
            world.sim.block_on(world.graph.detach(&root)).unwrap();
        }
    }
    let with = |bottom: &str| {
        world.add(&alloc::format!(
            "{{'driver': 'copy-on-read', 'node-name': 'r', 'file': 'c', 'bottom': '{bottom}'}}"
        ))
    };
    assert_eq!(with("x").unwrap_err(), "Bottom node 'x' not found");
    world.image("d");
    assert!(with("d").unwrap_err().contains("is not in the chain"));
    let filter = with("b").unwrap();
    let root = world.attach(&filter, true).unwrap();
    for (at, byte) in [(0, 1), (65536, 2), (1 << 18, 0)] {
        assert_eq!(world.byte(&root, at), byte, "{at}");
    }
    let top = world.graph.find("c").unwrap();
    let own = |at| world.sim.block_on(top.device().extents(at, 1)).unwrap()[0].depth == 0;
    assert_eq!((own(0), own(65536), own(1 << 18)), (false, true, false));
}

#[test]
fn a_test_driver_claims_what_it_is_told() {
    let world = World::new(1);
    world.add("{'driver': 'null-co', 'node-name': 'n'}").unwrap();
    world
        .add(
            "{'driver': 'blkdebug', 'node-name': 'd1', 'image': 'n', 'take-child-perms': ['write'], \
             'unshare-child-perms': ['consistent-read']}",
        )
        .unwrap();
    let clash = |options: &str| world.add(options).unwrap_err();
    assert_eq!(
        clash(
            "{'driver': 'blkdebug', 'node-name': 'd2', 'image': 'n', 'take-child-perms': \
             ['consistent-read']}"
        ),
        "Permission conflict on node 'n': permissions 'consistent read' are both required by node \
         'd2' (uses node 'n' as 'image' child) and unshared by node 'd1' (uses node 'n' as 'image' \
         child)."
    );
    assert!(
        clash(
            "{'driver': 'blkdebug', 'node-name': 'd3', 'image': 'n', 'unshare-child-perms': \
             ['write']}"
        )
        .contains("permissions 'write' are both required by node 'd1'")
    );
}

#[test]
fn damage_and_lost_votes_are_told() {
    let world = World::new(1);
    let heard = || {
        core::iter::from_fn(|| world.heard.try_next())
            .map(|event| (event.name, event.data))
            .collect::<Vec<_>>()
    };
    // An L1 entry that no table can lie at.
    let file = world.files["a"].clone();
    let l1 = u64::from_be_bytes(world.sim.block_on(file.read_array::<8>(40)).unwrap());
    let entry = (1_u64 << 63 | 0x1_0200).to_be_bytes().to_vec();
    let flags = crate::io::WriteFlags::empty();
    world.sim.block_on(file.write(l1, entry.into(), flags)).unwrap();
    let a = world.image("a");
    let root = world.attach(&a, true).unwrap();
    world.sim.block_on(root.read(0, 512)).unwrap_err();
    let told = heard();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0, &told[0].1["node-name"]), ("BLOCK_IMAGE_CORRUPTED", &"a".into()));

    world.add("{'driver': 'file', 'node-name': 'f', 'filename': 'raw'}").unwrap();
    let first = world.graph.find("f").unwrap();
    world.sim.block_on(first.device().write(0, Vec::from([5; 512]).into(), flags)).unwrap();
    let null = "{'driver': 'null-co', 'node-name': 'n', 'size': 1048576, 'read-zeroes': true}";
    world.add(null).unwrap();
    let q = world
        .add("{'driver': 'quorum', 'node-name': 'q', 'vote-threshold': 2, 'children': ['f', 'n']}")
        .unwrap();
    let root = world.attach(&q, false).unwrap();
    world.sim.block_on(root.read(0, 512)).unwrap_err();
    let failure = heard().into_iter().find(|(name, _)| *name == "QUORUM_FAILURE").unwrap().1;
    assert_eq!((&failure["reference"], &failure["sectors-count"]), (&"q".into(), &1.into()));
    world
        .add("{'driver': 'null-co', 'node-name': 'm', 'size': 1048576, 'read-zeroes': true}")
        .unwrap();
    let m = world.graph.find("m").unwrap();
    world.sim.block_on(world.graph.detach(&root)).unwrap();
    world.sim.block_on(world.graph.add_child(&q, &m)).unwrap();
    let root = world.attach(&q, false).unwrap();
    world.sim.block_on(root.read(0, 512)).unwrap();
    let bad = heard().into_iter().find(|(name, _)| *name == "QUORUM_REPORT_BAD").unwrap().1;
    assert_eq!((&bad["node-name"], &bad["type"]), (&"f".into(), &"read".into()));
}

#[test]
fn zeroes_and_discards_hide_what_an_image_does_not_name() {
    // The image took what it does not name for nothing: zeroes written to a part of a cluster were
    // lost, and those of a discard showed what was below.
    let world = World::new(1);
    world
        .add("{'driver': 'raw', 'node-name': 'r', 'file': {'driver': 'file', 'filename': 'raw'}}")
        .unwrap();
    let below = world.graph.find("r").unwrap();
    let root = world.attach(&below, true).unwrap();
    for at in (0..SIZE).step_by(512) {
        world.write(&root, at, 7);
    }
    let top = world.add(
        "{'driver': 'qcow2', 'node-name': 'b', 'discard': 'unmap', 'backing': 'r', 'file': \
         {'driver': 'file', 'filename': 'b'}}",
    );
    let root = world.attach(&top.unwrap(), true).unwrap();
    let none = crate::io::ZeroFlags::empty();
    world.sim.block_on(root.write_zeroes(1000, 3000, none)).unwrap();
    world.sim.block_on(root.write_zeroes(100_000, 200_000, none)).unwrap();
    world.sim.block_on(root.discard(524_288, 65_536)).unwrap();
    let found = world.sim.block_on(root.read(0, SIZE)).unwrap().to_bytes();
    for (at, byte) in found.iter().enumerate() {
        let zero = matches!(at, 1000..4000 | 100_000..300_000 | 524_288..589_824);
        assert_eq!(*byte, if zero { 0 } else { 7 }, "at {at}");
    }
}

/// It claims nothing: whoever writes goes on, and it can be opened over what is only read.
#[test]
fn an_inactive_node_is_opened_over_what_others_write_to() {
    let world = World::new(1);
    let a = world.image("a");
    let root = world.attach(&a, true).unwrap();
    let second = "{'driver': 'qcow2', 'node-name': 'n', 'file': 'file-a'}";
    world.add(second).unwrap_err();
    let n = world.add(&second.replace("'n',", "'n', 'active': false,")).unwrap();
    world.write(&root, 0, 1);
    assert!(set_active(&world, Some(&n), true).unwrap_err().starts_with("Permission conflict"));
    assert!(!n.settings().active);
    let over_read_only = "{'driver': 'qcow2', 'node-name': 'r', 'active': false, 'file': \
                          {'driver': 'file', 'filename': 'b', 'read-only': true}}";
    world.add(over_read_only).unwrap();
}

/// What was opened with a node is inactive with it, but for its file: that was there before.
#[test]
fn what_is_opened_with_an_inactive_node_is_inactive() {
    let world = World::new(1);
    world
        .add(
            "{'driver': 'qcow2', 'node-name': 'n', 'active': false, 'file': {'driver': 'file', \
             'node-name': 'f', 'filename': 'on-base'}, 'backing': {'driver': 'qcow2', \
             'node-name': 'b', 'active': true, 'file': {'driver': 'file', 'node-name': 'g', \
             'filename': 'base'}}}",
        )
        .unwrap();
    let active = |name: &str| world.graph.find(name).unwrap().settings().active;
    assert_eq!(["n", "f", "b", "g"].map(active), [false, true, false, false]);
}

#[test]
fn what_was_opened_with_a_node_is_opened_again_with_it() {
    let world = World::new(1);
    let a = world.image("a");
    let root = world.attach(&a, true).unwrap();
    world.write(&root, 0, 1);
    let file = world.graph.find("file-a").unwrap();
    world.sim.block_on(world.graph.detach(&root)).unwrap();
    let with = |rest: &str| {
        alloc::format!("{{'driver': 'qcow2', 'node-name': 'a', 'file': 'file-a'{rest}}}")
    };
    world.reopen(&[&with(", 'read-only': true, 'cache': {'no-flush': true}")]).unwrap();
    assert!(file.settings().read_only && file.settings().no_flush);
    world.reopen(&[&with("")]).unwrap();
    assert!(!file.settings().read_only && !file.settings().no_flush);
    let root = world.attach(&a, true).unwrap();
    world.write(&root, 512, 2);
    assert_eq!((world.byte(&root, 0), world.byte(&root, 512)), (1, 2));
    // What was said of it by itself stays.
    let b = "{'driver': 'qcow2', 'node-name': 'b', 'file': {'driver': 'file', 'filename': 'b', \
             'node-name': 'file-b', 'read-only': false}}";
    world.add(b).unwrap();
    let b = "{'driver': 'qcow2', 'node-name': 'b', 'file': 'file-b', 'read-only': true}";
    world.reopen(&[b]).unwrap();
    assert!(!world.graph.find("file-b").unwrap().settings().read_only);
}

#[test]
fn what_is_said_of_a_node_twice_counts_together() {
    let world = World::new(1);
    let a = world.image("a");
    let with = |rest: &str| {
        alloc::format!("{{'driver': 'qcow2', 'node-name': 'a', 'file': 'file-a'{rest}}}")
    };
    world.reopen(&[&with(", 'discard': 'unmap'"), &with(", 'detect-zeroes': 'unmap'")]).unwrap();
    assert!(a.settings().discard);
    let first = with(", 'l2-cache-entry-size': 1000");
    let error = world.reopen(&[&first, &with(", 'backing': 'nope'")]).unwrap_err();
    assert!(error.starts_with("L2 cache entry size"), "{error}");
    assert!(a.settings().discard, "nothing has changed");
}

#[test]
fn a_node_that_was_said_to_be_active_cannot_be_opened_again() {
    let world = World::new(1);
    let add = "{'driver': 'qcow2', 'node-name': 'n', 'active': true, 'file': {'driver': 'file', \
               'node-name': 'f', 'filename': 'a'}}";
    let n = world.add(add).unwrap();
    let again = "{'driver': 'qcow2', 'node-name': 'n', 'file': 'f', 'active': true}";
    let error = "Option 'active' cannot be reset to its default value";
    assert_eq!(world.reopen(&[again]).unwrap_err(), error);
    // Under an overlay it stays what it is.
    let overlay = world.image("b");
    world.sim.block_on(world.graph.snapshot(&n, &overlay)).unwrap();
    assert!(!n.settings().read_only);
}
