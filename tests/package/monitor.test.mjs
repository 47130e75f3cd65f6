// The monitor of the package in Node: what is attached and what is not, commands, events, nodes, and
// what is durable in the end.

import assert from "node:assert/strict";
import { closeSync, existsSync, openSync, openAsBlob, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { TOP, clean, contents, install, kind, load, needsQemu, qemu, qemuJson, run, same, scratch, sha } from "./support.mjs";

const { QmpError, open, startEngine, toJson } = await load(install());

const folder = scratch();
const file = (name) => join(folder, name);
const MiB = 2 ** 20;
const SIZE = 8 * MiB;

const original = contents(SIZE, 11);
writeFileSync(file("disk.raw"), original);

/** Memory that can grow. */
const memory = (most = 64 * MiB) => new Uint8Array(new ArrayBuffer(0, { maxByteLength: most }));

/** An error of a command with this class, and words that match. */
function qmp(errorClass, words) {
  return (e) => {
    assert.ok(e instanceof QmpError, e.stack);
    assert.equal(e.class, errorClass, e.message);
    assert.equal(e.desc, e.message);
    assert.match(e.message, words);
    return true;
  };
}

/** Runs `body(engine, x)` with an engine here and with one in a worker; `x(command, arguments)`. */
function both(name, options, body) {
  for (const where of ["here", "worker"]) {
    test(`${name} (${where})`, options, async () => {
      const engine = await startEngine({ where });
      const x = (execute, args) => engine.execute({ execute, ...(args && { arguments: args }) });
      try {
        await body(engine, x);
      } finally {
        await engine.close();
      }
    });
  }
}

/** Waits until a job is over, and lets it go. */
async function job(engine, x, id, start) {
  const events = engine.events("JOB_STATUS_CHANGE");
  await start();
  for await (const { data } of events) if (data.id === id && data.status === "concluded") break;
  const [info] = (await x("query-jobs")).filter((found) => found.id === id);
  await x("job-dismiss", { id });
  return info;
}

describe("the monitor", () => {
  both("has named backends that are stopped and continue", {}, async (engine, x) => {
    await x("blockdev-add", { driver: "null-co", "node-name": "n", size: 65536, "read-zeroes": true });
    await x("device_add", { id: "d0", "node-name": "n", werror: "stop" });
    await assert.rejects(x("device_add", { id: "d0", "node-name": "n" }), qmp("GenericError", /Duplicate device ID 'd0'/));
    const disk = await engine.openNode("d0", { writable: true });
    const events = engine.events();
    await x("stop");
    assert.equal((await events.next()).value.event, "STOP");
    assert.deepEqual(await x("query-status"), { running: false, status: "paused" });
    let ended = false;
    const writing = disk.write(0n, new Uint8Array(512)).then(() => { ended = true; });
    await x("query-block");
    assert.equal(ended, false);
    await x("cont");
    await writing;
    const [stats] = await x("query-blockstats");
    assert.equal(stats.device, "d0");
    assert.equal(stats.stats.wr_operations, 1n);
    await assert.rejects(x("device_del", { id: "d0" }), qmp("GenericError", /in use/));
    await disk.close();
    await x("device_del", { id: "d0" });
    await assert.rejects(x("device_del", { id: "d0" }), qmp("DeviceNotFound", /Device 'd0' not found/));
    await events.return();
  });

  both("keeps a disk of the last checkpoint, and takes over with it", {}, async (engine, x) => {
    const disk = new Uint8Array(MiB).fill(7);
    await engine.attach("disk", disk, { writable: true });
    for (const name of ["active", "hidden"]) {
      await engine.attach(name, memory(), { writable: true });
      await x("blockdev-add", { driver: "file", "node-name": `${name}-file`, filename: name });
      const options = { driver: "qcow2", file: `${name}-file`, size: MiB };
      const info = await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options }));
      assert.equal(info.error, undefined);
    }
    await x("blockdev-add", { driver: "raw", "node-name": "disk", file: { driver: "file", filename: "disk" } });
    const hidden = { driver: "qcow2", "node-name": "hidden", file: "hidden-file", backing: "disk" };
    const active = { driver: "qcow2", "node-name": "active", file: "active-file", backing: hidden };
    await x("blockdev-add", { driver: "replication", "node-name": "side", mode: "secondary", "top-id": "side", file: active });
    const start = { enable: true, primary: false };
    await assert.rejects(x("xen-set-replication", start), qmp("GenericError", /secondary disk doesn't have block backend/));
    const sent = await engine.openNode("disk", { writable: true });
    assert.deepEqual(await x("query-xen-replication-status"), { error: true, desc: "Block replication is not running" });
    await x("xen-set-replication", start);
    const guest = await engine.openNode("side", { writable: true });
    const byte = async (node, at) => (await node.read(BigInt(at), 1))[0];
    await sent.write(0n, new Uint8Array(1000).fill(1));
    await guest.write(500n, new Uint8Array(1000).fill(2));
    assert.deepEqual([await byte(guest, 0), await byte(guest, 600), await byte(sent, 600)], [7, 2, 1]);
    await x("xen-colo-do-checkpoint");
    assert.deepEqual([await byte(guest, 0), await byte(guest, 600), await byte(guest, 1200)], [1, 1, 7]);
    await sent.write(2000n, new Uint8Array(1000).fill(3));
    await guest.write(4000n, new Uint8Array(1000).fill(4));
    await x("xen-set-replication", { enable: false, primary: false, failover: true });
    assert.deepEqual(await x("query-xen-replication-status"), { error: false });
    await guest.close();
    await sent.close();
    assert.deepEqual([0, 1200, 2100, 4100].map((at) => disk[at]), [1, 7, 7, 4]);
  });

  both("has the commands that its types have", {}, async (_, x) => {
    const text = readFileSync(join(TOP, "wasm/ts/qapi.ts"), "utf8");
    const [, body] = /export interface Commands \{\n(.*?)\n\}/s.exec(text);
    const typed = [...body.matchAll(/^ {2}"?([\w-]+)"?: \{ arguments:/gm)].map(([, name]) => name);
    assert.deepEqual((await x("query-commands")).map(({ name }) => name).sort(), typed);
    const { qemu: version, package: program } = await x("query-version");
    assert.deepEqual([version.major, typeof version.minor], [10n, "bigint"]);
    assert.match(program, /sectora/);
  });

  both("tells errors of commands by class and words", {}, async (engine, x) => {
    await assert.rejects(x("no-such-command"), qmp("CommandNotFound", /The command no-such-command has not been found/));
    await assert.rejects(x("blockdev-add", { driver: "null-co" }), qmp("GenericError", /node-name/));
    await assert.rejects(x("blockdev-add", { driver: "null-co", "node-name": "n", foo: 1 }), qmp("GenericError", /Parameter 'foo' is unexpected/));
    await assert.rejects(x("blockdev-del", { "node-name": "n" }), qmp("GenericError", /Failed to find node/));
    await assert.rejects(engine.execute({ execute: "query-version", more: 1 }), qmp("GenericError", /'more' is unexpected/));
    await assert.rejects(engine.execute({}), qmp("GenericError", /lacks member 'execute'/));
    for (const request of [undefined, null, "query-version", 7, []]) await assert.rejects(engine.execute(request), kind("InvalidInput"));
    const circle = { execute: "query-version", id: {} };
    circle.id.id = circle;
    await assert.rejects(engine.execute(circle), kind("InvalidInput"));
    // And then it still works.
    assert.deepEqual(await engine.execute({ execute: "query-named-block-nodes", id: "7" }), []);
  });

  both("opens nothing that is not attached", needsQemu, async (engine, x) => {
    qemu("convert", "-O", "qcow2", file("disk.raw"), file("base.qcow2"));
    qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", file("top.qcow2"));
    const top = { driver: "qcow2", "node-name": "top", "read-only": true, file: { driver: "file", filename: "top.qcow2" } };
    await assert.rejects(x("blockdev-add", top), qmp("GenericError", /Could not open 'top.qcow2': nothing is attached under that name/));
    await engine.attach("top.qcow2", file("top.qcow2"));
    await assert.rejects(x("blockdev-add", top), qmp("GenericError", /base.qcow2': nothing is attached under that name/));
    assert.deepEqual(await x("query-named-block-nodes"), []);
    await engine.attach("base.qcow2", file("base.qcow2"));
    await x("blockdev-add", top);
    const nodes = await x("query-named-block-nodes");
    assert.deepEqual(nodes.map(({ drv }) => drv).sort(), ["file", "file", "qcow2", "qcow2"]);
    assert.deepEqual(nodes.filter(({ drv }) => drv === "file").map((node) => node.file).sort(), ["base.qcow2", "top.qcow2"]);
    const node = await engine.openNode("top");
    assert.equal(node.size, BigInt(SIZE));
    assert.equal(sha(await node.read(0n, SIZE)), sha(original));
    await node.close();
    for (const filename of ["nbd:localhost:10809", "ssh://host/disk", file("disk.raw")]) {
      await assert.rejects(x("blockdev-add", { driver: "file", "node-name": "n", filename }), qmp("GenericError", /nothing is attached/));
    }
    await assert.rejects(x("blockdev-add", { driver: "nbd", "node-name": "n", server: { type: "inet", host: "localhost", port: "10809" } }), qmp("GenericError", /Unknown driver 'nbd'/));
    // What an image names by options is opened by the same rules.
    qemu("create", "-q", "-u", "-f", "qcow2", "-b", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"elsewhere"}}', "-F", "qcow2", file("named.qcow2"), "1M");
    await engine.attach("named.qcow2", file("named.qcow2"));
    await assert.rejects(x("blockdev-add", { driver: "qcow2", "node-name": "n", file: { driver: "file", filename: "named.qcow2" }, "read-only": true }), qmp("GenericError", /elsewhere': nothing is attached/));
  });

  both("takes every kind of storage", {}, async (engine, x) => {
    const fd = openSync(file("disk.raw"), "r");
    const read = async (offset, length) => original.subarray(Number(offset), Number(offset) + length);
    const sources = { path: file("disk.raw"), fd, memory: new Uint8Array(original), blob: await openAsBlob(file("disk.raw")), custom: { size: SIZE, read } };
    for (const [name, source] of Object.entries(sources)) {
      await engine.attach(name, source);
      await x("blockdev-add", { driver: "file", "node-name": "n", filename: name, "read-only": true });
      const node = await engine.openNode("n");
      assert.equal(sha(await node.read(0n, SIZE)), sha(original), name);
      await assert.rejects(node.write(0n, new Uint8Array(1)), kind("Denied"));
      await assert.rejects(engine.detach(name), kind("InUse"));
      await assert.rejects(engine.attach(name, source), kind("InUse"));
      await node.close();
      await x("blockdev-del", { "node-name": "n" });
      // Without `writable` nothing is written to, whatever is asked for.
      await assert.rejects(x("blockdev-add", { driver: "file", "node-name": "n", filename: name }), qmp("GenericError", /attached for reading only/));
      await engine.detach(name);
      await assert.rejects(engine.detach(name), kind("NotFound"));
    }
    closeSync(fd);
    await engine.attach("blob", sources.blob, { writable: true });
    await assert.rejects(x("blockdev-add", { driver: "file", "node-name": "n", filename: "blob" }), qmp("GenericError", /cannot be written to in place/));
    await engine.attach("none", file("none"), { writable: true });
    await assert.rejects(x("blockdev-add", { driver: "file", "node-name": "n", filename: "none" }), qmp("GenericError", /Could not open 'none'/));
    assert.ok(!existsSync(file("none")));
  });

  both("makes an image, writes to it, and has it durable at the end", needsQemu, async (engine, x) => {
    const name = file("made.qcow2");
    await engine.attach("made", name, { writable: true, create: true });
    await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options: { driver: "file", filename: "made", size: 0 } }));
    await x("blockdev-add", { driver: "file", "node-name": "f", filename: "made" });
    const made = await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options: { driver: "qcow2", file: "f", size: SIZE, "cluster-size": 4096 } }));
    assert.deepEqual([made.status, made.error], ["concluded", undefined]);
    await x("blockdev-add", { driver: "qcow2", "node-name": "q", file: "f", discard: "unmap" });
    await x("block-dirty-bitmap-add", { node: "q", name: "b", persistent: true, granularity: 65536 });
    const node = await engine.openNode("q", { writable: true });
    await node.write(0n, new Uint8Array(original));
    await node.writeZeroes(BigInt(MiB), BigInt(MiB));
    await node.discard(BigInt(2 * MiB), BigInt(MiB));
    await node.flush();
    await assert.rejects(node.write(BigInt(SIZE), new Uint8Array(1)), kind("InvalidInput"));
    await assert.rejects(x("blockdev-del", { "node-name": "q" }), qmp("GenericError", /in use/));
    await x("blockdev-snapshot-internal-sync", { device: "q", name: "s" });
    const [q] = (await x("query-named-block-nodes")).filter((found) => found["node-name"] === "q");
    assert.equal(q.image["virtual-size"], BigInt(SIZE));
    assert.equal(q["dirty-bitmaps"][0].count, BigInt(SIZE));
    const expected = Buffer.from(original);
    expected.fill(0, MiB, 3 * MiB);
    assert.equal(sha(await node.read(0n, SIZE)), sha(expected));
    await engine.close();
    clean(name);
    writeFileSync(file("expected.raw"), expected);
    same(file("expected.raw"), "raw", name, "qcow2");
    const info = qemuJson("info", "--output=json", name);
    assert.equal(info["format-specific"].data.bitmaps[0].name, "b");
    assert.equal(info.snapshots[0].name, "s");
    await assert.rejects(x("query-version"), kind("InvalidInput"));
    await assert.rejects(node.read(0n, 1), kind("InvalidInput"));
  });

  both("writes to memory, which it makes longer as far as that can be", needsQemu, async (engine, x) => {
    const bytes = memory();
    await engine.attach("m", bytes, { writable: true });
    await x("blockdev-add", { driver: "file", "node-name": "f", filename: "m" });
    await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options: { driver: "qcow2", file: "f", size: 4 * MiB } }));
    await x("blockdev-add", { driver: "qcow2", "node-name": "q", file: "f" });
    const node = await engine.openNode("q", { writable: true });
    await node.write(123n, new Uint8Array(original.subarray(0, MiB)));
    await node.close();
    await x("blockdev-del", { "node-name": "q" });
    await x("blockdev-del", { "node-name": "f" });
    writeFileSync(file("memory.qcow2"), bytes);
    clean(file("memory.qcow2"));
    const image = await open(bytes);
    assert.equal(sha(await image.read(123n, MiB)), sha(original.subarray(0, MiB)));
    await image.close();
    const short = new Uint8Array(1000);
    await engine.attach("short", short, { writable: true });
    const failed = await job(engine, x, "k", () => x("blockdev-create", { "job-id": "k", options: { driver: "file", filename: "short", size: 2000 } }));
    assert.match(failed.error, /cannot change its length/);
    assert.equal(short.length, 1000);
  });

  both("knows how long storage of the caller's has become, and closes it in the end", {}, async (engine, x) => {
    const bytes = memory();
    const calls = [];
    const storage = {
      size: 0,
      read: (offset, length) => bytes.slice(Number(offset), Number(offset) + length),
      write(offset, data) {
        const end = Number(offset) + data.length;
        if (end > bytes.length) bytes.buffer.resize(end);
        bytes.set(data, Number(offset));
      },
      flush: () => void calls.push("flush"),
      close: () => void calls.push("close"),
    };
    await engine.attach("own", storage, { writable: true });
    await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options: { driver: "file", filename: "own", size: 65536 } }));
    for (const value of [1, 2]) {
      await x("blockdev-add", { driver: "file", "node-name": "f", filename: "own" });
      const node = await engine.openNode("f", { writable: true });
      assert.equal(node.size, 65536n);
      assert.equal((await node.read(65535n, 1))[0], value - 1);
      await node.write(65535n, new Uint8Array([value]));
      await node.close();
      await x("blockdev-del", { "node-name": "f" });
    }
    assert.deepEqual([bytes.length, bytes[65535]], [65536, 2]);
    assert.ok(calls.includes("flush") && !calls.includes("close"));
    await engine.detach("own");
    assert.equal(calls.filter((call) => call === "close").length, 1);
  });

  both("keeps nodes on one storage out of each other's way", {}, async (engine, x) => {
    await engine.attach("m", new Uint8Array(MiB), { writable: true });
    const raw = (name, more) => ({ driver: "raw", "node-name": name, file: { driver: "file", filename: "m", ...more } });
    await x("blockdev-add", raw("a"));
    await x("blockdev-add", raw("b", { "read-only": true, "force-share": true }));
    const [a, b] = [await engine.openNode("a", { writable: true }), await engine.openNode("b")];
    await a.write(512n, new Uint8Array(512).fill(7));
    assert.equal((await b.read(512n, 1))[0], 7);
    await assert.rejects(x("block_resize", { "node-name": "a", size: 4096 }), QmpError);
    await assert.rejects(engine.openNode("missing"), kind("NotFound"));
    await Promise.all([a.close(), b.close()]);
    for (const name of ["a", "b"]) await x("blockdev-del", { "node-name": name });
    // Two images in one place would destroy each other: the second is refused, as a second program is.
    await engine.attach("q", memory(), { writable: true });
    const file = { driver: "file", filename: "q" };
    await x("blockdev-add", { ...file, "node-name": "f" });
    await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options: { driver: "qcow2", file: "f", size: MiB } }));
    await x("blockdev-add", { driver: "qcow2", "node-name": "a", file: "f" });
    await assert.rejects(x("blockdev-add", { driver: "qcow2", "node-name": "b", file }), qmp("GenericError", /Failed to get .*lock/));
    const refused = await job(engine, x, "k", () => x("blockdev-create", { "job-id": "k", options: { driver: "file", filename: "q", size: 0 } }));
    assert.match(refused.error, /Failed to get .*lock/);
    for (const name of ["a", "f"]) await x("blockdev-del", { "node-name": name });
    await x("blockdev-add", { driver: "qcow2", "node-name": "b", file });
    await x("blockdev-del", { "node-name": "b" });
    assert.deepEqual(await x("query-named-block-nodes"), []);
  });

  both("tells events to everybody, by name, in order, before the answer", {}, async (engine, x) => {
    await engine.attach("m", memory(), { writable: true });
    await x("blockdev-add", { driver: "file", "node-name": "f", filename: "m" });
    const [all, some, other] = [engine.events(), engine.events(["BLOCK_WRITE_THRESHOLD"]), engine.events("JOB_STATUS_CHANGE")];
    await job(engine, x, "j", () => x("blockdev-create", { "job-id": "j", options: { driver: "qcow2", file: "f", size: MiB } }));
    await x("blockdev-add", { driver: "qcow2", "node-name": "q", file: "f" });
    await x("block-set-write-threshold", { "node-name": "q", "write-threshold": 4096 });
    const node = await engine.openNode("q", { writable: true });
    await node.write(8192n, new Uint8Array(512));
    await node.close();
    const { value: passed } = await some.next();
    assert.deepEqual(passed.data, { "node-name": "q", "amount-exceeded": 4608n, "write-threshold": 4096n });
    assert.equal(typeof passed.timestamp.seconds, "number");
    const states = [];
    for await (const { event, data } of other) {
      assert.equal(event, "JOB_STATUS_CHANGE");
      states.push(data.status);
      if (data.status === "null") break;
    }
    assert.deepEqual(states, ["created", "running", "waiting", "pending", "concluded", "null"]);
    // Leaving the loop has ended it.
    assert.equal((await other.next()).done, true);
    const waiting = some.next();
    await engine.close();
    assert.equal((await waiting).done, true);
    const names = [];
    for await (const { event } of all) names.push(event);
    assert.equal(names.filter((name) => name === "JOB_STATUS_CHANGE").length, 6);
    assert.ok(names.includes("BLOCK_WRITE_THRESHOLD"));
    assert.deepEqual([all.lost, some.lost], [0, 0]);
  });

  test("keeps 4096 events for a reader, and counts those that it lost", async () => {
    const engine = await startEngine();
    const events = engine.events();
    await engine.execute({ execute: "blockdev-add", arguments: { driver: "null-co", "node-name": "n", size: MiB } });
    const options = { driver: "qcow2", file: "n", size: 65536 };
    // Nothing stays in such a node, so that each of them fails: five events.
    for (let i = 0; i < 900; i++) {
      await engine.execute({ execute: "blockdev-create", arguments: { "job-id": "j", options } });
      for (let status; status !== "concluded"; ) [{ status }] = await engine.execute({ execute: "query-jobs" });
      await engine.execute({ execute: "job-dismiss", arguments: { id: "j" } });
    }
    assert.equal(events.lost, 900 * 5 - 4096);
    await engine.close();
    let read = 0;
    for await (const { data } of events) if (data.id === "j") read += 1;
    assert.equal(read, 4096);
  });

  both("carries out requests in their order", {}, async (engine, x) => {
    const order = [];
    const requests = Array.from({ length: 20 }, (_, i) => x("blockdev-add", { driver: "null-co", "node-name": `n${i}`, size: 9007199254740993n }).then(() => order.push(i)));
    await Promise.all(requests);
    assert.deepEqual(order, [...order.keys()]);
    const nodes = await x("query-named-block-nodes", { flat: true });
    // The newest is told first.
    assert.deepEqual(nodes.map((node) => node["node-name"]), order.map((i) => `n${i}`).reverse());
    const graph = await x("x-debug-query-block-graph");
    assert.equal(graph.nodes.length, 20);
    assert.equal(typeof toJson(graph), "string");
  });

  both("does all of a transaction or nothing", {}, async (_, x) => {
    await x("blockdev-add", { driver: "null-co", "node-name": "n", size: MiB });
    const add = (name) => ({ type: "block-dirty-bitmap-add", data: { node: "n", name } });
    await assert.rejects(x("transaction", { actions: [add("a"), { type: "abort", data: {} }] }), QmpError);
    await x("transaction", { actions: [add("b"), add("c")] });
    const [node] = await x("query-named-block-nodes");
    assert.deepEqual(node["dirty-bitmaps"].map(({ name }) => name).sort(), ["b", "c"]);
  });

  both("has secrets and groups of throttles", needsQemu, async (engine, x) => {
    const name = file("secret.qcow2");
    qemu("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=word", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", name, "1M");
    run("qemu-io", ["--object", "secret,id=s,data=word", "--image-opts", "-c", "write -P 9 0 64k", `driver=qcow2,encrypt.key-secret=s,file.filename=${name}`]);
    await engine.attach("e", name);
    const options = (id) => ({ driver: "qcow2", "node-name": "q", "read-only": true, file: { driver: "file", filename: "e" }, encrypt: { format: "luks", "key-secret": id } });
    await assert.rejects(x("blockdev-add", options("s")), qmp("GenericError", /No secret with id 's'/));
    await x("object-add", { "qom-type": "secret", id: "s", data: "d29yZA==", format: "base64" });
    await assert.rejects(x("object-add", { "qom-type": "secret", id: "s", data: "x" }), qmp("GenericError", /duplicate property 's'/));
    await assert.rejects(x("object-add", { "qom-type": "secret", id: "t", file: "/etc/passwd" }), qmp("GenericError", /give it as 'data'/));
    await assert.rejects(x("object-add", { "qom-type": "iothread", id: "t" }), qmp("GenericError", /not there in WebAssembly/));
    await x("blockdev-add", options("s"));
    await x("object-add", { "qom-type": "throttle-group", id: "g", limits: { "iops-total": 1000 } });
    await x("blockdev-add", { driver: "throttle", "node-name": "t", file: "q", "throttle-group": "g", "read-only": true });
    const node = await engine.openNode("t");
    assert.deepEqual([...new Set(await node.read(0n, 65536))], [9]);
    await node.close();
    await x("object-del", { id: "g" });
    await assert.rejects(x("object-del", { id: "g" }), qmp("GenericError", /object 'g' not found/));
  });

  test("what read() returns stays its owner's, whatever kind of array it is", async () => {
    // A Buffer's slice() is a view: what should have been a copy was sent away with all of its memory.
    const engine = await startEngine({ where: "worker" });
    const buffer = Buffer.from(new Uint8Array(8192).fill(3).buffer);
    const image = await engine.open({ size: buffer.length, read: (offset, length) => buffer.subarray(Number(offset), Number(offset) + length) });
    assert.equal((await image.read(1n, 1))[0], 3);
    assert.deepEqual([buffer.length, buffer[8191]], [8192, 3]);
    await engine.close();
  });

  test("loads its module only when it is used", async () => {
    const engine = await startEngine({ where: "worker", monitorWasm: file("no-such-module.wasm") });
    const image = await engine.open(new Uint8Array(4096));
    await image.close();
    await assert.rejects(engine.execute({ execute: "query-version" }), kind("NotFound"));
    await engine.close();
  });
});
