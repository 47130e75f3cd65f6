//! Which image of a chain a name means.

use super::setup::{Folder, report};

/// Two files of the same name in different folders, and overlays of one of them.
fn chain() -> Folder {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("sub")).expect("make a folder");
    folder.file("five.raw", 1 << 20, &[(0, vec![5; 1 << 16])]);
    folder.file("nine.raw", 1 << 20, &[(0, vec![9; 1 << 16])]);
    for line in [
        "convert -O qcow2 five.raw short.qcow2",
        "convert -O qcow2 nine.raw sub/short.qcow2",
        "create -q -f qcow2 -b short.qcow2 -F qcow2 over.qcow2",
        "create -q -f qcow2 -b over.qcow2 -F qcow2 top.qcow2",
        "create -q -f qcow2 -b five.raw -F raw raw.qcow2",
        "create -q -f qcow2 -b ../short.qcow2 -F qcow2 sub/low.qcow2",
        "create -q -f qcow2 -b low.qcow2 -F qcow2 sub/high.qcow2",
        "create -q -u -f qcow2 -b file:short.qcow2 -F qcow2 named.qcow2 1M",
    ] {
        folder.reference("qemu-img", line);
    }
    folder
}

const ALONE: &str =
    "json:{'driver':'qcow2','file':{'driver':'file','filename':'over.qcow2'},'backing':null}";

/// A member of the chain was taken for what the new name means where only the file was the same, or
/// the name meant it in the working directory: the image then read otherwise.
pub(crate) fn rebased() {
    for (image, name, format, possible) in [
        ("over.qcow2", "short.qcow2", "qcow2", true),
        ("over.qcow2", "short.qcow2", "raw", true),
        ("over.qcow2", "file:short.qcow2", "raw", true),
        ("over.qcow2", "json:{'driver':'file','filename':'short.qcow2'}", "raw", false),
        ("over.qcow2", "json:{'file':{'driver':'file','filename':'short.qcow2'}}", "raw", true),
        ("top.qcow2", "over.qcow2", "raw", true),
        ("top.qcow2", "short.qcow2", "qcow2", true),
        ("top.qcow2", ALONE, "qcow2", true),
        ("top.qcow2", "top.qcow2", "raw", false),
        ("raw.qcow2", "five.raw", "raw", true),
        ("raw.qcow2", "five.raw", "qcow2", false),
        ("sub/low.qcow2", "short.qcow2", "qcow2", true),
        ("sub/low.qcow2", "../short.qcow2", "qcow2", true),
        ("sub/high.qcow2", "../short.qcow2", "raw", true),
        ("sub/high.qcow2", "short.qcow2", "qcow2", true),
    ] {
        let folder = chain();
        folder.reference("qemu-img", &format!("convert -O raw {image} before.raw"));
        let line = format!("rebase -b {name} -F {format} {image}");
        let output = folder.ours(&line);
        assert_eq!(output.status.success(), possible, "{line}: {output:?}");
        folder.reference("qemu-img", &format!("compare -f raw before.raw {image}"));
        folder.reference("qemu-img", &format!("check -q {image}"));
    }
}

/// Names were taken from the folder of the top image only, and from the working directory too.
pub(crate) fn committed() {
    let mut problems = Vec::new();
    let here = chain();
    let full = here.path().join("short.qcow2").display().to_string();
    for (image, names) in [
        (
            "sub/high.qcow2",
            &[
                "short.qcow2",
                "../short.qcow2",
                "sub/../short.qcow2",
                "low.qcow2",
                "sub/low.qcow2",
                "../sub/low.qcow2",
                "file:../short.qcow2",
                &full,
            ][..],
        ),
        ("top.qcow2", &["short.qcow2", "./short.qcow2", "file:short.qcow2", "sub/../over.qcow2"]),
        ("named.qcow2", &["short.qcow2", "file:short.qcow2", "./short.qcow2"]),
    ] {
        for name in names {
            here.agree(&format!("commit -d -b {name} {image}"), &mut problems);
        }
    }
    report(&problems);
}
