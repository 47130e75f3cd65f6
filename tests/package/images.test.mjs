// Images of qemu-img's here, and ours there: every option, both directions, every kind of storage.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createWriteStream, openAsBlob, openSync, closeSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { open as openHandle } from "node:fs/promises";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { clean, contents, install, kind, leftovers, load, needsQemu, qemu, qemuJson, run, same, scratch, sha, shaOf } from "./support.mjs";

const sectora = await load(install());
const { open, create, measure, startEngine, toJson } = sectora;

const folder = scratch();
const file = (name) => join(folder, name);
const MiB = 2 ** 20;
/** No multiple of a cluster: the last one is short. */
const SIZE = 12 * MiB + 512;

const original = contents(SIZE);
writeFileSync(file("disk.raw"), original);

/** As people and programs see it, without the order of members. */
const plain = (value) => JSON.parse(toJson(value));

/**
 * A map without the names of files, which qemu-img keeps to itself, and without the holes of the
 * image file, which Node has no way to see.
 */
function unnamed(entries) {
  const out = [];
  for (const { filename: _, ...entry } of plain(entries)) {
    if (entry.data && entry.present) entry.zero = false;
    const { start, length, offset, ...status } = entry;
    const last = out.at(-1);
    const { start: lastStart, length: lastLength, offset: lastOffset, ...lastStatus } = last ?? {};
    const continues = last && lastStart + lastLength === start && (offset === undefined ? lastOffset === undefined : lastOffset + lastLength === offset);
    if (continues && JSON.stringify(Object.entries(status).sort()) === JSON.stringify(Object.entries(lastStatus).sort())) last.length += length;
    else out.push(entry);
  }
  return out;
}

const qcow2Options = [];
for (const compat of ["0.10", "1.1"]) {
  for (const clusterSize of [512, 4096, 65536, 2 * MiB]) qcow2Options.push({ compat, clusterSize });
}
for (const refcountBits of [1, 2, 4, 8, 32, 64]) qcow2Options.push({ refcountBits });
for (const clusterSize of [16384, 65536, 2 * MiB]) qcow2Options.push({ extendedL2: true, clusterSize });
qcow2Options.push({ lazyRefcounts: true });
for (const compressionType of ["zlib", "zstd"]) {
  for (const clusterSize of [512, 65536, 2 * MiB]) qcow2Options.push({ compressed: true, compressionType, clusterSize });
  qcow2Options.push({ compressed: true, compressionType, extendedL2: true });
}
qcow2Options.push({ compressed: true, compat: "0.10" });
qcow2Options.push({ sparseSize: 0 }, { sparseSize: 65536 });

/** The same for qemu-img convert. */
function flags({ compressed, sparseSize, ...options }) {
  const names = { compat: "compat", clusterSize: "cluster_size", refcountBits: "refcount_bits", extendedL2: "extended_l2", lazyRefcounts: "lazy_refcounts", compressionType: "compression_type", preallocation: "preallocation" };
  const given = Object.entries(options).map(([name, value]) => `${names[name]}=${value === true ? "on" : value}`);
  return [...(compressed ? ["-c"] : []), ...(sparseSize === undefined ? [] : ["-S", String(sparseSize)]), ...(given.length ? ["-o", given.join(",")] : [])];
}

describe("images of qemu-img's", needsQemu, () => {
  for (const options of qcow2Options) {
    test(JSON.stringify(options), async () => {
      const name = file("theirs.qcow2");
      qemu("convert", "-f", "raw", "-O", "qcow2", ...flags(options), file("disk.raw"), name);
      const image = await open(name);
      try {
        assert.equal(image.size, BigInt(SIZE));
        assert.equal(image.format, "qcow2");
        assert.deepEqual(plain(await image.info()), qemuJson("info", "--output=json", name));
        assert.deepEqual(unnamed(await image.map()), unnamed(qemuJson("map", "--output=json", name)));
        const { findings, ...check } = plain(await image.check());
        assert.deepEqual(findings, []);
        assert.deepEqual(check, qemuJson("check", "--output=json", name));
        await image.convert(file("back.raw"), { format: "raw" });
        assert.equal(shaOf(file("back.raw")), sha(original));
        for (const [at, length] of [[0, 1], [511, 70000], [SIZE - 3 * MiB, 3 * MiB], [SIZE, 0]]) {
          const bytes = await image.read(BigInt(at), length);
          assert.ok(Buffer.from(bytes).equals(original.subarray(at, at + length)), `${at}+${length}`);
        }
      } finally {
        await image.close();
      }
    });
  }

  test("a long read is the same as many short ones", async () => {
    const image = await open(file("disk.raw"));
    assert.equal(sha(await image.read(0n, SIZE)), sha(original));
    await image.close();
  });

  test("measure, for new images and for contents", async () => {
    qemu("convert", "-O", "qcow2", file("disk.raw"), file("m.qcow2"));
    const image = await open(file("m.qcow2"));
    for (const options of [{ format: "raw" }, { format: "qcow2" }, { format: "qcow2", clusterSize: 4096, extendedL2: false }, { format: "qcow2", refcountBits: 64 }]) {
      const { format, ...rest } = options;
      const theirs = (...source) => qemuJson("measure", "--output=json", "-O", format, ...flags(rest), ...source);
      assert.deepEqual(plain(await image.measure(options)), theirs(file("m.qcow2")));
      assert.deepEqual(plain(await measure({ ...options, size: 5n * 2n ** 30n })), theirs("--size", "5G"));
    }
    await image.close();
  });

  test("internal snapshots and bitmaps", async () => {
    const name = file("snap.qcow2");
    qemu("create", "-q", "-f", "qcow2", name, "4M");
    run("qemu-io", ["-c", "write -P 1 0 1M", name]);
    qemu("snapshot", "-c", "before", name);
    run("qemu-io", ["-c", "write -P 2 0 1M", name]);
    qemu("bitmap", "--add", "-g", "65536", name, "dirty");
    const image = await open(name);
    assert.deepEqual(plain(await image.info()), qemuJson("info", "--output=json", name));
    assert.equal((await image.read(0n, 1))[0], 2);
    await image.close();
    const old = await open(name, { snapshot: "before" });
    assert.equal((await old.read(0n, 1))[0], 1);
    await old.close();
    await assert.rejects(open(name, { snapshot: "none" }), kind("NotFound"));
  });
});

describe("images of ours", needsQemu, () => {
  const preallocated = ["metadata", "falloc", "full"].map((preallocation) => ({ preallocation }));
  for (const options of [...qcow2Options, ...preallocated]) {
    test(JSON.stringify(options), async () => {
      const image = await open(file("disk.raw"), { format: "raw" });
      const name = file("ours.qcow2");
      const { size } = await image.convert(name, { format: "qcow2", ...options });
      await image.close();
      assert.equal(size, BigInt(readFileSync(name).length));
      clean(name);
      same(file("disk.raw"), "raw", name, "qcow2");
      const { data } = qemuJson("info", "--output=json", name)["format-specific"];
      assert.equal(data.compat, options.compat ?? "1.1");
      assert.equal(data["refcount-bits"], options.refcountBits ?? 16);
      assert.equal(data["compression-type"], options.compressionType ?? "zlib");
      assert.equal(data["extended-l2"] ?? false, options.extendedL2 ?? false);
    });
  }

  test("a stream, for every option that one can have", async () => {
    for (const options of [{ format: "raw" }, ...qcow2Options.filter((o) => !o.compressed).map((o) => ({ format: "qcow2", ...o }))]) {
      const image = await open(file("disk.raw"), { format: "raw" });
      const name = file("stream.img");
      const out = createWriteStream(name);
      for await (const chunk of image.stream(options)) if (!out.write(chunk)) await once(out, "drain");
      await new Promise((resolve) => out.end(resolve));
      await image.close();
      same(file("disk.raw"), "raw", name, options.format);
      if (options.format === "qcow2") clean(name);
    }
  });

  test("empty images", async () => {
    for (const options of [{}, { preallocation: "metadata" }, { clusterSize: 2 * MiB }, { compat: "0.10" }]) {
      const name = file("empty.qcow2");
      await create(name, { format: "qcow2", size: 3n * 2n ** 30n, ...options });
      clean(name);
      assert.equal(qemuJson("info", "--output=json", name)["virtual-size"], 3 * 2 ** 30);
    }
    await create(file("empty.raw"), { format: "raw", size: 12345 });
    assert.equal(readFileSync(file("empty.raw")).length, 12800);
  });
});

describe("references", needsQemu, () => {
  const names = ["base.qcow2", "mid.qcow2", "top.qcow2"];
  before(() => {
    qemu("convert", "-O", "qcow2", file("disk.raw"), file("base.qcow2"));
    qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", file("mid.qcow2"));
    run("qemu-io", ["-c", "write -P 5 1M 64k", file("mid.qcow2")]);
    qemu("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", file("top.qcow2"));
    run("qemu-io", ["-c", "write -z 2M 1M", "-c", "write -P 6 4M 100k", file("top.qcow2")]);
    qemu("convert", "-O", "raw", file("top.qcow2"), file("top.raw"));
  });

  test("are denied, and the error says what was wanted", async () => {
    await assert.rejects(open(file("top.qcow2")), (e) => {
      kind("Denied", /backing file 'mid\.qcow2'/)(e);
      assert.deepEqual(e.wanted, { kind: "backing", name: "mid.qcow2", referrer: file("top.qcow2") });
      return true;
    });
    const asked = [];
    await assert.rejects(open(file("top.qcow2"), { resolve: (r) => (asked.push(r.name), r.name === "mid.qcow2" ? file("mid.qcow2") : null) }), (e) => {
      kind("Denied")(e);
      assert.equal(e.wanted.name, "base.qcow2");
      return true;
    });
    assert.deepEqual(asked, ["mid.qcow2", "base.qcow2"]);
  });

  test("a chain of chosen files, as paths or as blobs", async () => {
    const ways = [(name) => file(name), async (name) => new File([await openAsBlob(file(name))], name)];
    for (const way of ways) {
      const image = await open(await way("top.qcow2"), { resolve: ({ name }) => way(name) });
      const chain = [];
      for (let i = await image.info(); i; i = i["backing-image"]) chain.push(i.filename.split("/").at(-1));
      assert.deepEqual(chain, names.toReversed());
      await image.convert(file("chain.raw"), { format: "raw" });
      assert.equal(shaOf(file("chain.raw")), shaOf(file("top.raw")));
      await image.close();
    }
    const image = await open(file("top.qcow2"), { resolve: ({ name }) => file(name) });
    assert.deepEqual(unnamed(await image.map()), unnamed(qemuJson("map", "--output=json", file("top.qcow2"))));
    await image.close();
  });

  test("the image alone: it can be looked at, but not copied as if it were whole", async () => {
    const image = await open(file("top.qcow2"), { backing: "ignore" });
    assert.deepEqual(plain(await image.info()), qemuJson("info", "--output=json", file("top.qcow2")));
    await assert.rejects(image.convert(file("no.raw"), { format: "raw" }), kind("InvalidInput", /without its backing file/));
    await image.convert(file("copy.qcow2"), { format: "qcow2", backing: { name: "mid.qcow2", format: "qcow2" } });
    await image.close();
    clean(file("copy.qcow2"));
    same(file("top.raw"), "raw", file("copy.qcow2"), "qcow2");
    assert.ok(readFileSync(file("copy.qcow2")).length < 2 * MiB);
  });

  test("a chain that is a loop ends", async () => {
    for (const [name, backing] of [["a.qcow2", "b.qcow2"], ["b.qcow2", "a.qcow2"]]) {
      qemu("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "qcow2", file(name), "1M");
    }
    await assert.rejects(open(file("a.qcow2"), { resolve: ({ name }) => file(name) }), kind("Corrupt", /loop/));
    // With other names each time, by depth.
    let n = 0;
    const endless = () => ({ source: file("a.qcow2"), name: `a${n++}` });
    await assert.rejects(open(file("a.qcow2"), { resolve: endless }), kind("Limit"));
    assert.ok(n < 1000);
  });

  test("an external data file", async () => {
    qemu("convert", "-O", "qcow2", "-o", `data_file=${file("data.raw")},data_file_raw=on`, file("disk.raw"), file("ext.qcow2"));
    await assert.rejects(open(file("ext.qcow2")), (e) => kind("Denied")(e) && e.wanted.kind === "data-file");
    const image = await open(file("ext.qcow2"), { resolve: ({ name }) => name });
    await image.convert(file("ext.raw"), { format: "raw" });
    assert.equal(shaOf(file("ext.raw")), sha(original));
    await image.close();
  });
});

/** Storage of a user's, over memory. */
function memory(bytes, { truncate = true, delay = false } = {}) {
  const turn = () => (delay ? new Promise((resolve) => setImmediate(resolve)) : undefined);
  const storage = {
    bytes: Buffer.from(bytes),
    flushes: 0,
    get size() {
      return BigInt(this.bytes.length);
    },
    async read(offset, length) {
      await turn();
      return new Uint8Array(this.bytes.subarray(Number(offset), Number(offset) + length));
    },
    async write(offset, data) {
      await turn();
      const end = Number(offset) + data.length;
      if (end > this.bytes.length) this.bytes = Buffer.concat([this.bytes, Buffer.alloc(end - this.bytes.length)]);
      this.bytes.set(data, Number(offset));
    },
    flush() {
      this.flushes++;
    },
  };
  if (truncate) {
    storage.truncate = async (size) => {
      const old = storage.bytes;
      storage.bytes = Buffer.alloc(Number(size));
      old.copy(storage.bytes);
    };
  }
  return storage;
}

for (const where of ["here", "worker"]) {
  describe(`storage of every kind, engine ${where}`, () => {
    let engine;
    before(async () => {
      engine = await startEngine({ where });
    });
    after(() => engine.close());

    test("sources", async () => {
      const handle = await openHandle(file("disk.raw"));
      const fd = openSync(file("disk.raw"));
      const sources = {
        path: file("disk.raw"),
        url: pathToFileURL(file("disk.raw")),
        handle,
        fd,
        bytes: new Uint8Array(original),
        blob: await openAsBlob(file("disk.raw")),
        custom: memory(original),
        slow: memory(original, { delay: true }),
      };
      for (const [name, source] of Object.entries(sources)) {
        const image = await engine.open(source, { format: "raw" });
        assert.equal(image.size, BigInt(SIZE), name);
        assert.equal(sha(await image.read(0n, SIZE)), sha(original), name);
        await image.convert(file("copy.raw"), { format: "raw" });
        assert.equal(shaOf(file("copy.raw")), sha(original), name);
        await image.close();
      }
      // What the caller opened is the caller's.
      await handle.close();
      closeSync(fd);
    });

    test("targets", needsQemu, async () => {
      const image = await engine.open(file("disk.raw"), { format: "raw" });
      for (const options of [{ format: "raw" }, { format: "qcow2" }, { format: "qcow2", compressed: true, compressionType: "zstd" }]) {
        const check = (name) => {
          same(file("disk.raw"), "raw", name, options.format);
          if (options.format === "qcow2") clean(name);
        };
        await image.convert(pathToFileURL(file("t.img")), options);
        check(file("t.img"));
        const handle = await openHandle(file("t.img"), "r+");
        await image.convert(handle, options);
        await handle.close();
        check(file("t.img"));
        const fd = openSync(file("t2.img"), "w+");
        await image.convert(fd, options);
        closeSync(fd);
        check(file("t2.img"));
        for (const target of [memory(""), memory("", { truncate: false }), memory("what was there before"), memory("", { delay: true })]) {
          const { size } = await image.convert(target, options);
          assert.equal(size, BigInt(target.bytes.length));
          assert.ok(target.flushes > 0);
          writeFileSync(file("t3.img"), target.bytes);
          check(file("t3.img"));
        }
      }
      await image.close();
    });

    test("a stream and its backpressure", async () => {
      const image = await engine.open(file("disk.raw"), { format: "raw" });
      const reader = image.stream({ format: "raw" }).getReader();
      const parts = [];
      for (let i = 0; ; i++) {
        const { done, value } = await reader.read();
        if (done) break;
        parts.push(value);
        if (i % 4 === 0) await new Promise((resolve) => setTimeout(resolve, 2));
      }
      assert.equal(sha(Buffer.concat(parts)), sha(original));
      await image.close();
    });

    test("a resolver and storage of the user's together", needsQemu, async () => {
      qemu("create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", file("over.qcow2"));
      const image = await engine.open(memory(readFileSync(file("over.qcow2"))), {
        name: "over.qcow2",
        resolve: async ({ name, referrer }) => {
          assert.deepEqual([name, referrer], ["disk.raw", "over.qcow2"]);
          return { source: memory(original), name: "base" };
        },
      });
      assert.equal(sha(await image.read(0n, SIZE)), sha(original));
      assert.equal((await image.info())["backing-image"].filename, "base");
      const batches = [];
      for await (const batch of image.mapEntries()) batches.push(...batch);
      assert.deepEqual(batches, await image.map());
      await image.close();
    });

    test("a closed image says so", async () => {
      const image = await engine.open(file("disk.raw"), { format: "raw" });
      await image.close();
      await image.close();
      await assert.rejects(image.info(), kind("InvalidInput", /closed/));
      await assert.rejects(image.read(0n, 1), kind("InvalidInput", /closed/));
    });
  });
}

test("nothing is left behind", () => {
  assert.deepEqual(leftovers(folder).filter((name) => name.startsWith(".")), []);
});
