// Cases of many small requests, by `bench` and over NBD, and of changes to an image's tables.
//
// A case is as in run.mjs, and may have `fresh(out)`, which makes the image that is going to change,
// and `serve(tools, out)`, which starts a server and gives the function that ends it. Neither is timed.
// With `seconds(text)` the time is what a command's output says.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";

const MIB = 1 << 20;
/** From one request to the next: an odd number of blocks, so that neighbours come late. */
const STRIDE = 4096 * 104729;
const DEPTHS = [1, 32];
const CACHES = [
  { words: "page cache", mode: "writeback", count: 40000 },
  { words: "direct", mode: "none", count: 10000 },
];

/** The images that requests go to, made of a full one of `mib` MiB. */
function makeImages(folder, full, mib) {
  const at = (name) => join(folder, name);
  const create = (path, ...args) => (execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...args, path, `${mib}M`]), path);
  return {
    preallocated: create(at("preallocated.qcow2"), "-o", "preallocation=full"),
    sparse: create(at("unwritten.qcow2")),
    backed: create(at("backed.qcow2"), "-b", full, "-F", "qcow2"),
  };
}

/** Copies an image, holes and all, and lets the disk have it. */
function copy(from, to) {
  execFileSync("cp", ["--sparse=always", from, to]);
  execFileSync("sync", [to]);
}

/**
 * The image that writes of a case go to, and what makes it. The preallocated one is written in
 * place: its clusters have their blocks, before and after, and a copy of it might not.
 */
function target(kind, image) {
  if (kind === "preallocated") return { fresh: undefined, written: () => image };
  return { fresh: (out) => copy(image, out), written: (out) => out };
}

/** `bench` by both tools: reads of the images, writes to copies of them. */
function requestCases(images, ours, theirs) {
  const cases = [];
  for (const [kind, image] of Object.entries(images)) {
    const { fresh, written } = target(kind, image);
    for (const depth of DEPTHS) {
      for (const { words, mode, count } of CACHES) {
        const flags = ["-f", "qcow2", "-t", mode, "-d", String(depth), "-S", String(STRIDE)];
        const read = ["bench", ...flags, "-c", String(count), image];
        cases.push({ name: `read 4 KiB, ${kind}, ${words}, depth ${depth}`, ours: () => [...ours, ...read], theirs: () => [...theirs, ...read] });
        const writes = (name, more) => {
          const write = (out) => ["bench", "-w", ...flags, "-c", String(count / 4), ...more, written(out)];
          cases.push({
            name: `write 4 KiB, ${kind}, ${words}, depth ${depth}${name}`,
            fresh,
            ours: (out) => [...ours, ...write(out)],
            theirs: (out) => [...theirs, ...write(out)],
          });
        };
        writes("", []);
        if (mode === "writeback") writes(", flushes", ["--flush-interval", "200"]);
      }
    }
  }
  return cases;
}

/**
 * The same over NBD, from the page cache: client and server of the same maker, and the reference's
 * client with both servers.
 */
function nbdCases(images, program, ours, theirs, folder) {
  const socket = join(folder, "nbd.sock");
  const address = `nbd+unix:///?socket=${socket}`;
  const serve = (side, image) => {
    const server = side === "ours" ? [program, "nbd"] : ["qemu-nbd"];
    const child = spawn(server[0], [...server.slice(1), "-t", "-k", socket, "-f", "qcow2", "--cache=writeback", image], { stdio: "ignore" });
    while (!existsSync(socket)) spawnSync("sleep", ["0.02"]);
    return () => {
      execFileSync("kill", [String(child.pid)]);
      while (!isDead(child.pid)) spawnSync("sleep", ["0.02"]);
      rmSync(socket, { force: true });
    };
  };
  const read = ["bench", "-f", "raw", "-c", "20000", "-S", String(STRIDE), "-d", "1", address];
  const cases = [floorCase(images.preallocated, [...theirs, ...read], serve)];
  for (const [kind, image] of Object.entries(images)) {
    for (const depth of DEPTHS) {
      for (const [what, flags] of [["read", []], ["write", ["-w"]]]) {
        const command = ["bench", ...flags, "-f", "raw", "-c", "20000", "-d", String(depth), "-S", String(STRIDE), address];
        const { fresh, written } = what === "read" ? { fresh: undefined, written: () => image } : target(kind, image);
        for (const [who, client] of [["", ours], [", server", theirs]]) {
          cases.push({
            name: `NBD${who}: ${what} 4 KiB, ${kind}, depth ${depth}`,
            fresh,
            serve: (side, out) => serve(side, written(out)),
            ours: () => [...client, ...command],
            theirs: () => [...theirs, ...command],
          });
        }
      }
    }
  }
  return cases;
}

/** The round trip alone, by the least program there can be, against the whole of the reference's read. */
function floorCase(image, theirs, serve) {
  return {
    name: "NBD: the least that a read at depth 1 can cost",
    serve: (side) => (side === "ours" ? undefined : serve(side, image)),
    ours: () => [pingpong(dirname(image)), image, "20000"],
    theirs: () => theirs,
  };
}

/** The program of `pingpong.rs`, compiled when it is first asked for. */
function pingpong(folder) {
  const program = join(folder, "pingpong");
  if (!existsSync(program)) execFileSync("rustc", ["-O", "--edition", "2024", "-o", program, join(import.meta.dirname, "pingpong.rs")]);
  return program;
}

/** Ended; it may wait to be asked how. */
export function isDead(pid) {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return true;
  }
}

/** Checks, snapshots, rebase and commit. */
function tableCases(full, ours, theirs, folder, mib) {
  const img = (...args) => execFileSync("qemu-img", args);
  // 1 TiB of which 8 GiB have their place: the disk grows after that.
  const large = join(folder, "large.qcow2");
  img("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", large, "8G");
  img("resize", "-q", "-f", "qcow2", large, "1T");
  // Another backing file that differs in places, and an overlay with a quarter of its own.
  const other = join(folder, "other.qcow2");
  const overlay = join(folder, "overlay.qcow2");
  copy(full, other);
  img("create", "-q", "-f", "qcow2", "-b", full, "-F", "qcow2", overlay);
  const writes = (step, len, pattern) =>
    Array.from({ length: Math.floor((mib * MIB) / step) }, (_, i) => ["-c", `write -P ${pattern} ${i * step} ${len}`]).flat();
  execFileSync("qemu-io", ["-f", "qcow2", ...writes(16 * MIB, MIB, 0x5a), other], { stdio: "ignore" });
  execFileSync("qemu-io", ["-f", "qcow2", ...writes(4 * MIB, MIB, 0xa5), overlay], { stdio: "ignore" });
  const base = join(folder, "base.qcow2");
  const both = (name, fresh, command) => ({
    name,
    fresh,
    ours: (out) => [...ours, ...command(out)],
    theirs: (out) => [...theirs, ...command(out)],
  });
  return [
    both("check, 1 TiB with 8 GiB allocated", undefined, () => ["check", "-f", "qcow2", large]),
    both("snapshot, 1 TiB with 8 GiB allocated", (out) => copy(large, out), (out) => ["snapshot", "-c", "one", out]),
    both("rebase", (out) => copy(overlay, out), (out) => ["rebase", "-f", "qcow2", "-b", other, "-F", "qcow2", out]),
    both(
      "commit",
      (out) => {
        copy(full, base);
        copy(overlay, out);
        img("rebase", "-q", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", out);
      },
      (out) => ["commit", "-q", "-f", "qcow2", out],
    ),
  ];
}

/** All of them. Images are made only when the cases are asked for. */
export function smallCases({ folder, full, mib, program, theirs }) {
  const ours = [program, "img"];
  const images = makeImages(folder, full, mib);
  return [
    ...requestCases(images, ours, [theirs]),
    ...nbdCases(images, program, ours, [theirs], folder),
    ...tableCases(full, ours, [theirs], folder, mib),
  ];
}
