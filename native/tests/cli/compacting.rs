//! Space is given back in place.

use super::setup::Folder;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the JSON of `compact` says under `name`.
fn number(json: &serde_json::Value, name: &str) -> u64 {
    json[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"))
}

pub(crate) fn given_back() {
    let folder = Folder::new();
    folder.file("base.raw", 4 << 20, &[(0, vec![7; 1 << 20])]);
    folder.reference("qemu-img", "create -q -f qcow2 -b base.raw -F raw a.qcow2");
    let commands = "-f qcow2 -c write_-P_7_0_512k -c write_-P_1_1M_1M -c write_-P_0_2M_2M a.qcow2";
    let commands: Vec<String> = commands.split(' ').map(|word| word.replace('_', " ")).collect();
    let status = std::process::Command::new("qemu-io")
        .args(commands)
        .current_dir(folder.path())
        .output()
        .expect("qemu-io starts")
        .status;
    assert!(status.success());
    folder.reference("qemu-img", "convert -O raw a.qcow2 before.raw");
    let compact = |args: &str| {
        let output = folder.sectora(&format!("img compact --output=json {args} a.qcow2"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).expect("JSON")
    };
    let promised = compact("--dry-run --backing");
    assert_eq!(
        (number(&promised, "zeroes"), number(&promised, "same-as-backing")),
        (2 << 20, 512 << 10)
    );
    assert_eq!(number(&promised, "length-before"), number(&promised, "length-after"));
    let done = compact("");
    assert_eq!((number(&done, "zeroes"), number(&done, "same-as-backing")), (2 << 20, 0));
    // The zeroes lay last.
    assert!(number(&done, "length-after") + (2 << 20) <= number(&done, "length-before"), "{done}");
    let done = compact("--backing");
    assert_eq!((number(&done, "zeroes"), number(&done, "same-as-backing")), (0, 512 << 10));
    folder.reference("qemu-img", "check a.qcow2");
    folder.reference("qemu-img", "compare before.raw a.qcow2");
    let length = std::fs::metadata(folder.path().join("a.qcow2")).expect("metadata").len();
    assert_eq!(length, number(&done, "length-after"));
    // A gap before data closes.
    folder.reference("qemu-img", "create -q -f qcow2 gap.qcow2 8M");
    let commands = ["-f", "qcow2", "-c", "write -P 1 0 4M", "-c", "write -P 2 4M 2M", "-c"];
    let status = std::process::Command::new("qemu-io")
        .args(commands)
        .args(["discard 0 4M", "gap.qcow2"])
        .current_dir(folder.path())
        .output()
        .expect("qemu-io starts")
        .status;
    assert!(status.success());
    folder.reference("qemu-img", "convert -O raw gap.qcow2 before.raw");
    let output = folder.sectora("img compact --output=json gap.qcow2");
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((number(&done, "moved"), number(&done, "free")), (2 << 20, 0), "{done}");
    assert_eq!(number(&done["not-moved"], "compressed"), 0, "{done}");
    assert_eq!(number(&done, "length-before"), number(&done, "length-after") + (4 << 20), "{done}");
    folder.reference("qemu-img", "check gap.qcow2");
    folder.reference("qemu-img", "compare before.raw gap.qcow2");
    // In words, and where there is nothing to do.
    let output = folder.sectora("img compact a.qcow2");
    assert!(text(&output.stdout).starts_with("zeroes given up: 0 B (0 bytes)\n"), "{output:?}");
    let output = folder.sectora("img compact -f raw base.raw");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("does not support compacting in place"), "{output:?}");
    // The tool whose name this is has no such command.
    let output = folder.ours("compact a.qcow2");
    assert!(text(&output.stderr).contains("Command not found: compact"), "{output:?}");
}
