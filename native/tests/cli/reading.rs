//! Verbs that only read: whatever they are asked, both programs answer alike.

use super::setup::{images, report};

pub(crate) fn every_verb_on_every_image() {
    let (folder, images) = images();
    let mut problems = Vec::new();
    for image in images {
        for verb in [
            "info",
            "info --output=json",
            "info --backing-chain",
            "info --backing-chain --output=json",
            "map",
            "map --output=json",
            "check",
            "check -q",
            "check --output=json",
            "measure",
            "measure -O qcow2",
            "measure -O qcow2 -o cluster_size=4k,extended_l2=off --output=json",
            "measure -O qcow2 -o preallocation=full,compat=0.10",
            "compare plain.raw",
            "compare -s zlib.qcow2",
        ] {
            folder.agree(&format!("{verb} {image}"), &mut problems);
        }
    }
    report(&problems);
}

pub(crate) fn options_of_reading_verbs() {
    let (folder, _) = images();
    let mut problems = Vec::new();
    for line in [
        "map --output=json -s 1M --max-length 5M plain.raw",
        "map --output=json --start-offset=1000 --max-length=65k over.qcow2",
        "map --start-offset=3M zlib.qcow2",
        "map --start-offset=30M plain.raw",
        "map --output json --start-offset=30M plain.raw",
        "map --output=json --max-length=0 plain.raw",
        "map -f raw --output=json small.qcow2",
        "info -f raw small.qcow2",
        "info -U plain.raw",
        "info --output=human --format qcow2 new.qcow2",
        "info --backing over.qcow2",
        "info sub/top.qcow2 --backing-chain -f qcow2",
        "check -T none new.qcow2",
        "check -f raw new.qcow2",
        "measure --size 1G",
        "measure --size 1000",
        "measure --size 1.5G -O qcow2 --output=json",
        "measure --size 1G -O qcow2 -o cluster_size=512",
        "measure --size 1G -O qcow2 -o cluster_size=1k,preallocation=full",
        "measure --size 1G -O qcow2 -o refcount_bits=64,extended_l2=on",
        "measure --size 1T -O qcow2 -o cluster_size=2M -o compat=0.10",
        "measure --size 1G -O qcow2 -o size=3",
        "measure -O qcow2 -o backing_file=plain.raw,backing_fmt=raw over.qcow2",
        "compare -q plain.raw zlib.qcow2",
        "compare -f raw -F qcow2 plain.raw zlib.qcow2",
        "compare -F raw zlib.qcow2 zlib.qcow2",
        "compare -s plain.raw plain.raw",
        "compare -s zlib.qcow2 zlib.qcow2",
        "compare -s plain.raw new.qcow2",
        "compare new.qcow2 empty.raw",
        "compare empty.raw plain.raw",
        "compare -U -T none plain.raw zlib.qcow2",
        "create -f qcow2 -o help",
        "create -f raw -o help",
        "create -f raw -o help x",
        "create -f qcow2 -o cluster_size=4k,? x",
        "convert -O qcow2 -o help",
    ] {
        folder.agree(line, &mut problems);
    }
    report(&problems);
}

pub(crate) fn wrong_command_lines() {
    let (folder, _) = images();
    let before = folder.names();
    let mut problems = Vec::new();
    for line in [
        "",
        "nothing",
        "--nothing",
        "info",
        "info plain.raw new.qcow2",
        "info --output=xml plain.raw",
        "info -f nothing plain.raw",
        "info -f qcow2 plain.raw",
        "info -Z plain.raw",
        "info --nothing",
        "info -f",
        "info ''",
        "map",
        "map --start-offset=x plain.raw",
        "map --start-offset=-1 plain.raw",
        "map --max-length=1Q plain.raw",
        "check",
        "check -r nothing new.qcow2",
        "check -T nothing new.qcow2",
        "measure",
        "measure plain.raw new.qcow2",
        "measure --size 1G plain.raw",
        "measure --size -1",
        "measure --size 8E",
        "measure --size x",
        "measure --size 1G -f raw",
        "measure --size 1G -O nothing",
        "measure --size 1G -O qcow2 -o nothing=1",
        "measure --size 1G -O qcow2 -o cluster_size=5",
        "measure -O qcow2 -o cluster_size=512,extended_l2=on --size 1G",
        "compare plain.raw",
        "compare plain.raw missing",
        "compare missing plain.raw",
        "compare -T nothing plain.raw plain.raw",
        "compare -f nothing plain.raw plain.raw",
        "create",
        "create x",
        "create x 10Q",
        "create x 1.5",
        "create x ''",
        "create x -- -5",
        "create x 10M 20M",
        "create -f nothing x 10M",
        "create -f qcow2 -o nothing=1 x 10M",
        "create -f qcow2 -o cluster_size=x x 10M",
        "create -f qcow2 -o size=-1 x",
        "create -f qcow2 -o , x 10M",
        "create -f qcow2 -o lazy_refcounts=maybe x 10M",
        "create -f qcow2 -o size=1M x 2M",
        "create -f qcow2 -b plain.raw x",
        "create -f qcow2 -b missing -F raw x",
        "create -f qcow2 -b plain.raw -F nothing x",
        "create -f qcow2 -b '' x 1M",
        "create -f qcow2 -u -b missing -F raw x",
        "create -f qcow2 -b x -F qcow2 x 1M",
        "create -f raw -b plain.raw -F raw x",
        "create -f raw -F raw x 1M",
        "create missing/x 1M",
        "convert",
        "convert plain.raw",
        "convert missing x",
        "convert plain.raw missing/x",
        "convert -O nothing plain.raw x",
        "convert -f nothing plain.raw x",
        "convert -m 0 plain.raw x",
        "convert -m 17 plain.raw x",
        "convert -m x plain.raw x",
        "convert -S x plain.raw x",
        "convert -S 513 plain.raw x",
        "convert -S 32M plain.raw x",
        "convert -T nothing plain.raw x",
        "convert -c plain.raw x",
        "convert -O qcow2 -o nothing=1 plain.raw x",
        "convert -O qcow2 -o cluster_size=5 plain.raw x",
        "convert --target-is-zero plain.raw x",
        "convert -n plain.raw x",
        "convert -n -o size=1 plain.raw new.qcow2",
        "convert -n plain.raw three.raw",
        "convert -B plain.raw -F raw plain.raw x",
        "convert -O qcow2 -B plain.raw plain.raw x",
        "convert -O qcow2 -F raw plain.raw x",
        "convert plain.raw plain.raw",
        "convert -O qcow2 plain.raw plain.raw",
    ] {
        folder.agree(line, &mut problems);
    }
    // Whatever either program makes before it refuses, a wrong command line leaves nothing of ours.
    let after: Vec<String> = folder.names().into_iter().filter(|n| n != "x").collect();
    assert_eq!(after, before);
    report(&problems);
}
