// What goes wrong: bad input, storage that fails, callers that give up. Every error has its kind,
// nothing is left under a final name, and memory and time stay bounded.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, openSync, closeSync, readFileSync, symlinkSync, readlinkSync, statSync, chmodSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { contents, clean, install, kind, leftovers, load, needsQemu, qemu, random, run, same, scratch, sha } from "./support.mjs";

const installed = install();
const { open, create, startEngine, SectoraError } = await load(installed);

const folder = scratch();
const file = (name) => join(folder, name);
const MiB = 2 ** 20;
const SIZE = 24 * MiB;
const original = contents(SIZE, 3);
writeFileSync(file("disk.raw"), original);

/** A source that fails, or waits, where it is told to. */
function source(bytes, { failAt = Infinity, error, waitAt = Infinity } = {}) {
  return {
    size: BigInt(bytes.length),
    async read(offset, length) {
      const end = Number(offset) + length;
      if (end > failAt) throw error ?? new Error("the cable came off");
      if (end > waitAt) await new Promise(() => {});
      return new Uint8Array(bytes.subarray(Number(offset), end));
    },
  };
}

describe("a conversion that does not end well", () => {
  for (const where of ["here", "worker"]) {
    let engine;
    before(async () => {
      engine = await startEngine({ where });
    });
    after(() => engine.close());

    for (const options of [{ format: "raw" }, { format: "qcow2" }, { format: "qcow2", compressed: true }]) {
      const title = `${JSON.stringify(options)} ${where}`;

      test(`storage fails: ${title}`, async () => {
        const inner = join(folder, `fail-${where}`);
        mkdirSync(inner, { recursive: true });
        const old = join(inner, "old.img");
        writeFileSync(old, "what was there");
        const image = await engine.open(source(original, { failAt: 15 * MiB }), { format: "raw" });
        for (const name of ["old.img", "new.img"]) {
          await assert.rejects(image.convert(join(inner, name), options), kind("Io", /the cable came off/));
        }
        await image.close();
        assert.equal(readFileSync(old, "utf8"), "what was there");
        assert.deepEqual(leftovers(inner, "old.img"), []);
      });

      test(`the caller gives up: ${title}`, async () => {
        const inner = join(folder, `abort-${where}`);
        mkdirSync(inner, { recursive: true });
        const image = await engine.open(source(original, { waitAt: 15 * MiB }), { format: "raw" });
        const stop = new AbortController();
        const reason = new Error("changed my mind");
        const done = image.convert(join(inner, "new.img"), { ...options, signal: stop.signal });
        setTimeout(() => stop.abort(reason), 50);
        await assert.rejects(done, (e) => kind("Cancelled")(e) && e.cause === reason);
        assert.deepEqual(leftovers(inner), []);
        await assert.rejects(image.convert(join(inner, "new.img"), { ...options, signal: stop.signal }), kind("Cancelled"));
        await image.close();
      });
    }

    test(`closing ends what is under way: ${where}`, async () => {
      const image = await engine.open(source(original, { waitAt: 5 * MiB }), { format: "raw" });
      const done = assert.rejects(image.convert(file("closed.img"), { format: "raw" }), kind("Cancelled"));
      const read = assert.rejects(image.read(8n * 2n ** 20n, 4096), kind("Cancelled"));
      await new Promise((resolve) => setTimeout(resolve, 30));
      // The storage never answers: closing must not wait for it.
      await image.close();
      await Promise.all([done, read]);
      assert.ok(!existsSync(file("closed.img")));
    });

    test(`a stream fails, and is cancelled: ${where}`, async () => {
      const broken = await engine.open(source(original, { failAt: 15 * MiB }), { format: "raw" });
      await assert.rejects(async () => {
        for await (const _ of broken.stream({ format: "raw" }));
      }, kind("Io", /the cable/));
      await broken.close();
      const image = await engine.open(file("disk.raw"), { format: "raw" });
      const reader = image.stream({ format: "raw" }).getReader();
      await reader.read();
      await reader.cancel();
      const stop = new AbortController();
      const aborted = image.stream({ format: "raw", signal: stop.signal }).getReader();
      await aborted.read();
      stop.abort();
      await assert.rejects(async () => {
        while (!(await aborted.read()).done);
      }, kind("Cancelled"));
      await image.close();
    });
  }

  test("a target that fails keeps its error", async () => {
    const image = await open(file("disk.raw"), { format: "raw" });
    let ended = "";
    const full = Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
    const target = {
      size: 0n,
      read: async (_, length) => new Uint8Array(length),
      write: async (offset) => {
        if (offset > 4n * 2n ** 20n) throw full;
      },
      abort: () => {
        ended += "abort";
      },
      close: () => {
        ended += "close";
      },
    };
    await assert.rejects(image.convert(target, { format: "raw" }), kind("NoSpace", /no space left/));
    assert.equal(ended, "abort");
    await image.close();
  });
});

describe("targets by path", () => {
  test("keep mode and links of what they replace", async () => {
    const image = await open(new Uint8Array(4096), { format: "raw" });
    writeFileSync(file("secret.img"), "old");
    chmodSync(file("secret.img"), 0o600);
    symlinkSync("secret.img", file("link.img"));
    await image.convert(file("link.img"), { format: "raw" });
    assert.equal(readlinkSync(file("link.img")), "secret.img");
    assert.equal(statSync(file("secret.img")).size, 4096);
    assert.equal(statSync(file("secret.img")).mode & 0o777, 0o600);
    await image.close();
  });

  test("may be the source itself: it is replaced when the copy is complete", needsQemu, async () => {
    writeFileSync(file("self.img"), original);
    const image = await open(file("self.img"), { format: "raw" });
    await image.convert(file("self.img"), { format: "qcow2" });
    await image.close();
    same(file("disk.raw"), "raw", file("self.img"), "qcow2");
  });

  test("in place, the source is refused", async () => {
    writeFileSync(file("place.img"), original);
    const image = await open(file("place.img"), { format: "raw" });
    const fd = openSync(file("place.img"), "r+");
    await assert.rejects(image.convert(fd, { format: "raw" }), kind("InvalidInput", /being read/));
    closeSync(fd);
    await image.close();
    assert.equal(sha(readFileSync(file("place.img"))), sha(original));
  });

  test("what is no regular file is refused, and stays", async () => {
    const image = await open(new Uint8Array(4096), { format: "raw" });
    await assert.rejects(image.convert(folder, { format: "raw" }), kind("InvalidInput"));
    await assert.rejects(image.convert("/dev/null", { format: "raw" }), kind("Unsupported", /no regular file/));
    assert.ok(statSync("/dev/null").isCharacterDevice());
    await assert.rejects(image.convert(join(folder, "no", "such", "folder"), { format: "raw" }), kind("NotFound"));
    await image.close();
  });
});

describe("input of the caller's", () => {
  const bad = [
    [() => open("missing.img"), "NotFound"],
    [() => open(folder), "InvalidInput"],
    [() => open("/dev/zero"), "Unsupported"],
    [() => open({}), "InvalidInput"],
    [() => open(null), "InvalidInput"],
    [() => open({ opfs: "x" }), "InvalidInput"],
    [() => open({ size: -1, read() {} }), "InvalidInput"],
    [() => open({ size: 2n ** 60n, read() {} }), "InvalidInput"],
    [() => open(new Uint8Array(1), { format: "qcow3" }), "Unsupported"],
    [() => open(new Uint8Array(1), { format: "qcow2" }), /Corrupt|InvalidInput|Unsupported/],
    [() => open(new Uint8Array(1), { fromat: "raw" }), "InvalidInput"],
    [() => open({ size: 512n, read: () => new Uint8Array(3) }), "Io"],
    [() => open({ size: 512n, read: () => "bytes" }), "Io"],
    [() => create(file("x"), { format: "qcow2" }), "InvalidInput"],
    [() => create(file("x"), { format: "qcow2", size: -5 }), "InvalidInput"],
    [() => create(file("x"), { format: "qcow2", size: 1n << 63n }), "InvalidInput"],
    [() => create(file("x"), { format: "qcow2", size: 512, clusterSize: 1000 }), "InvalidInput"],
    [() => create(file("x"), { format: "qcow2", size: 512, clusterSize: 1e9 }), "InvalidInput"],
    [() => create(file("x"), { format: "vmdk", size: 512 }), "Unsupported"],
    [() => create(file("x"), { format: "raw", size: 512, clusterSize: 512 }), "InvalidInput"],
  ];
  for (const [call, expected] of bad) {
    test(`${call.toString().slice(6)} is ${expected}`, async () => {
      await assert.rejects(call(), (e) => {
        assert.ok(e instanceof SectoraError, e.stack);
        assert.match(e.kind, expected instanceof RegExp ? expected : new RegExp(`^${expected}$`), e.message);
        return true;
      });
      assert.ok(!existsSync(file("x")));
    });
  }

  test("ranges outside the image", async () => {
    const image = await open(new Uint8Array(4096), { format: "raw" });
    for (const [offset, length] of [[0n, 4097], [4097n, 0], [-1n, 1], [0n, -1], [0n, 1.5], [0, 1], [2n ** 64n, 1], [0n, 2 ** 40]]) {
      await assert.rejects(image.read(offset, length), kind("InvalidInput"));
    }
    assert.equal((await image.read(4096n, 0)).length, 0);
    await assert.rejects(image.map({ start: 5000n }), kind("InvalidInput"));
    await assert.rejects(image.check(), kind("Unsupported"));
    await image.close();
  });
});

test("progress never goes back and ends complete; other work goes on meanwhile", async () => {
  const image = await open(file("disk.raw"), { format: "raw" });
  const told = [];
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  await image.convert(file("p.qcow2"), { format: "qcow2", compressed: true, onProgress: (done, total) => told.push([done, total]) });
  clearInterval(timer);
  await image.close();
  assert.ok(told.length > 1);
  for (let i = 1; i < told.length; i++) assert.ok(told[i][0] >= told[i - 1][0]);
  assert.deepEqual(told.at(-1), [BigInt(SIZE), BigInt(SIZE)]);
  assert.ok(ticks > 5, `${ticks} turns of the event loop`);
});

describe("images of any size", needsQemu, () => {
  /** Runs a script in a process of its own and gives what it prints. */
  const child = (script) => {
    // The system's own count of the peak begins with that of the process it was started by.
    const peak = `const peak = () => Number(/VmHWM:\\s+(\\d+) kB/.exec(fs.readFileSync("/proc/self/status", "utf8"))[1]) * 1024;`;
    const text = `import fs from "node:fs";\nimport { open } from "sectora";\n${peak}\n${script}`;
    return JSON.parse(run(process.execPath, ["--input-type=module", "-e", text], { cwd: installed }));
  };

  test("a sparse 1 TiB image maps and converts at once, in bounded memory", () => {
    const name = file("huge.qcow2");
    qemu("create", "-q", "-f", "qcow2", name, "1T");
    run("qemu-io", ["-c", "write -P 1 0 1M", "-c", "write -P 2 500G 1M", "-c", "write -P 3 1048575M 1M", name]);
    const result = child(`
      const image = await open(${JSON.stringify(name)});
      const start = performance.now();
      const entries = (await image.map()).length;
      await image.convert(${JSON.stringify(file("huge2.qcow2"))}, { format: "qcow2" });
      await image.convert(${JSON.stringify(file("huge.raw"))}, { format: "raw" });
      const ms = performance.now() - start;
      let streamed = 0;
      for await (const chunk of image.stream({ format: "qcow2", clusterSize: 2097152 })) streamed += chunk.length;
      await image.close();
      console.log(JSON.stringify({ entries, ms, streamed, rss: peak() }));`);
    assert.equal(result.entries, JSON.parse(qemu("map", "--output=json", name)).length);
    assert.ok(result.rss < 256 * MiB, `${result.rss} bytes`);
    assert.ok(result.streamed < 64 * MiB);
    clean(file("huge2.qcow2"));
    same(name, "qcow2", file("huge2.qcow2"), "qcow2");
    assert.equal(statSync(file("huge.raw")).size, 2 ** 40);
  });

  test("memory stays bounded while 512 MiB are converted, compressed and streamed", () => {
    writeFileSync(file("big.raw"), Buffer.concat(Array(20).fill(original)));
    truncateSync(file("big.raw"), 512 * MiB);
    const result = child(`
      const image = await open(${JSON.stringify(file("big.raw"))}, { format: "raw" });
      await image.convert(${JSON.stringify(file("big.qcow2"))}, { format: "qcow2", compressed: true, compressionType: "zstd" });
      const back = await open(${JSON.stringify(file("big.qcow2"))});
      await back.convert(${JSON.stringify(file("big2.raw"))}, { format: "raw" });
      let streamed = 0;
      for await (const chunk of back.stream({ format: "qcow2" })) streamed += chunk.length;
      await back.close();
      await image.close();
      console.log(JSON.stringify({ rss: peak() }));`);
    assert.ok(result.rss < 256 * MiB, `${result.rss} bytes`);
    same(file("big.raw"), "raw", file("big2.raw"), "raw");
    clean(file("big.qcow2"));
  });
});

describe("hostile images", needsQemu, () => {
  /** Everything that can be asked of an image; gives the errors. */
  async function everything(bytes) {
    const errors = [];
    const attempt = async (work) => {
      try {
        return await work();
      } catch (e) {
        assert.ok(e instanceof SectoraError, e.stack);
        assert.notEqual(e.kind, "Bug", e.message);
        errors.push(e);
        return undefined;
      }
    };
    const image = await attempt(() => open(bytes, { format: "qcow2" }));
    if (!image) return errors;
    const signal = AbortSignal.timeout(20_000);
    await attempt(() => image.info());
    await attempt(async () => {
      let count = 0;
      for await (const batch of image.mapEntries({ signal })) if ((count += batch.length) > 1e5) break;
    });
    await attempt(() => image.check({ signal }));
    await attempt(() => image.read(0n, Number(image.size < 1n << 20n ? image.size : 1n << 20n), { signal }));
    const before = leftovers(folder).length;
    await attempt(() => image.measure({ format: "qcow2", signal }));
    if (image.size <= 64n * 2n ** 20n) {
      const failed = errors.length;
      await attempt(() => image.convert(file("hostile.img"), { format: "qcow2", signal }));
      if (errors.length > failed) assert.equal(leftovers(folder).length, before, "a failed conversion left something");
    }
    await image.close();
    assert.ok(!errors.some((e) => e.kind === "Cancelled"), "it took too long");
    return errors;
  }

  let small;
  before(() => {
    const disk = file("small.raw");
    writeFileSync(disk, contents(2 * MiB, 9));
    qemu("convert", "-c", "-O", "qcow2", "-o", "cluster_size=4096", disk, file("small.qcow2"));
    qemu("snapshot", "-c", "one", file("small.qcow2"));
    small = readFileSync(file("small.qcow2"));
  });

  test("cut off at any length", async () => {
    for (let length = 0; length < small.length; length = Math.ceil(length * 1.3) + 7) {
      const errors = await everything(small.subarray(0, length));
      assert.ok(errors.length > 0, `${length} of ${small.length} bytes`);
    }
  });

  test("with bits flipped in the header and the tables", async () => {
    const next = random(42);
    for (let i = 0; i < 300; i++) {
      const bytes = Uint8Array.from(small);
      const span = i % 3 === 0 ? 112 : i % 3 === 1 ? 32768 : bytes.length;
      for (let n = 0; n <= i % 4; n++) bytes[Math.floor(next() * span)] ^= 1 << Math.floor(next() * 8);
      await everything(bytes);
    }
  });

  test("with numbers that lie", async () => {
    const fields = { backingOffset: 8, backingLength: 16, clusterBits: 20, size: 24, crypt: 32, l1Size: 36, l1Offset: 40, refcountOffset: 48, refcountClusters: 56, snapshots: 60, snapshotsOffset: 64, incompatible: 72, refcountOrder: 96, headerLength: 100 };
    const narrow = new Set(["backingLength", "clusterBits", "crypt", "l1Size", "refcountClusters", "snapshots", "refcountOrder", "headerLength"]);
    for (const [name, at] of Object.entries(fields)) {
      for (const value of [0n, 1n, 63n, 0x7fffffffn, 0xffffffffn, 2n ** 32n, 2n ** 62n, 2n ** 63n, 2n ** 64n - 1n]) {
        const bytes = Uint8Array.from(small);
        const view = new DataView(bytes.buffer);
        if (narrow.has(name)) view.setUint32(at, Number(value & 0xffffffffn));
        else view.setBigUint64(at, value);
        const errors = await everything(bytes);
        for (const e of errors) assert.ok(e.message.length < 1000, e.message);
      }
    }
  });
});

test("nothing is left behind", () => {
  assert.deepEqual(leftovers(folder).filter((name) => name.startsWith(".")), []);
});
