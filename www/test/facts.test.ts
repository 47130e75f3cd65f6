import assert from "node:assert/strict";
import { test } from "node:test";
import type { ImageInfo } from "sectora";
import { bitmapFlags, chainOf, facts, sentence, snapshotRow } from "../src/facts.ts";

const base: ImageInfo = { filename: "base.img", format: "raw", "virtual-size": 1n << 30n, children: [] };
const top: ImageInfo = {
  filename: "top.qcow2",
  format: "qcow2",
  "virtual-size": 10n << 30n,
  "cluster-size": 65536n,
  "backing-filename": "base.img",
  "backing-image": base,
  children: [],
  "format-specific": {
    type: "qcow2",
    data: { compat: "1.1", "compression-type": "zstd", "refcount-bits": 16, "extended-l2": true, corrupt: true, "lazy-refcounts": false },
  },
};

test("the image in a sentence", () => {
  assert.equal(sentence(base), "A raw image: the plain bytes of a disk of 1 GiB.");
  assert.equal(sentence(top), "A qcow2 image of a disk of 10 GiB, on top of 1 backing file.");
  const { "backing-image": _, ...alone } = top;
  assert.equal(sentence(alone), "A qcow2 image of a disk of 10 GiB, seen without its backing file base.img.");
});

test("facts name what is there and are silent about what is not", () => {
  const values = Object.fromEntries(facts(top, 200n << 20n).map((f) => [f.term, f.value]));
  assert.deepEqual(values, {
    Format: "qcow2",
    "Disk size": "10 GiB (10,737,418,240 bytes)",
    "File size": "200 MiB (209,715,200 bytes)",
    "Cluster size": "64 KiB (65,536 bytes)",
    Version: "3 (compat 1.1)",
    "Compression type": "zstd",
    "Reference counts": "16 bits",
    Subclusters: "on (extended L2 entries)",
    "Marked corrupt": "yes",
  });
  assert.deepEqual(facts(base, 1n << 30n).map((f) => f.term), ["Format", "Disk size", "File size"]);
});

test("the chain goes from the top down", () => {
  assert.deepEqual(chainOf(top).map((i) => i.filename), ["top.qcow2", "base.img"]);
});

test("snapshots and bitmaps in words", () => {
  const row = snapshotRow(
    { id: "1", name: "", "vm-state-size": 0n, "date-sec": 1700000000, "date-nsec": 0, "vm-clock-sec": 3723, "vm-clock-nsec": 0 },
    "en",
    "UTC",
  );
  assert.equal(row.name, "(without a name)");
  assert.match(row.taken, /^Nov 14, 2023, 10:13\sPM$/);
  assert.deepEqual([row.state, row.clock], ["none", "1 h 2 min"]);
  assert.equal(bitmapFlags({ name: "b", granularity: 65536, flags: ["in-use", "auto"] }), "not saved properly, recording");
  assert.equal(bitmapFlags({ name: "b", granularity: 65536, flags: [] }), "stopped");
});
