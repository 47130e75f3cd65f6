// Cases of the storage daemon's NBD export: fio as the client of both daemons, over a Unix socket.
//
// A case is as in run.mjs; what counts is the time that fio says its requests took, without its own start.

import { execFileSync, spawn, spawnSync } from "node:child_process";
import { existsSync, rmSync } from "node:fs";
import { join } from "node:path";
import { isDead } from "./requests.mjs";

const PATTERNS = [
  { words: "random 4 KiB", block: "4k", mode: "rand", mib: [64, 256, 256] },
  { words: "sequential 1 MiB", block: "1m", mode: "", mib: [1024, 2048, 2048] },
];
const DEPTHS = [1, 16, 64];
const CONNECTIONS = [1, 4];
/** So long requests take that a group of throttles lets through at its limit; ratios say nothing there. */
const LIMITED = 10;
const LIMITS = [
  [`${2000 * LIMITED} reads of 4 KiB at 2000/s`, "iops-total=2000", ["--bs=4k", `--io_size=${2000 * LIMITED * 4}k`]],
  [`${64 * LIMITED} MiB of reads at 64 MiB/s`, `bps-total=${64 << 20}`, ["--bs=64k", `--io_size=${64 * LIMITED}m`]],
];

/** All of them; none where fio lacks its NBD engine. */
export function exportCases({ folder, full, mib, program }) {
  const engines = spawnSync("fio", ["--enghelp"], { encoding: "utf8" }).stdout ?? "";
  if (!/\bnbd\b/.test(engines)) {
    console.error("fio with its NBD engine is not installed (Debian: apt-get install fio): the cases of exports are left out");
    return [];
  }
  const socket = join(folder, "export.sock");
  const fio = ["fio", "--name=x", "--ioengine=nbd", `--uri=nbd+unix:///d?socket=${socket}`, "--norandommap", "--group_reporting", "--output-format=json"];
  const images = { raw: join(folder, "export.raw"), qcow2: join(folder, "export.qcow2") };
  let made = false;
  // Both daemons write to the same image in turn: it is allocated, so that it stays as it is, and
  // what the last one wrote is on the disk before the next begins. It is written in pieces of
  // 64 KiB: a converter's leave folios of 2 MiB in the page cache, where ext4 takes 60 µs for each
  // write of 4 KiB and lets nobody else write meanwhile, whoever asks.
  const make = () => {
    if (!made) {
      for (const [format, image] of Object.entries(images)) {
        const converted = `${image}.converted`;
        execFileSync("qemu-img", ["convert", "-m", "16", "-f", "raw", "-O", format, "-S", "0", full, converted]);
        execFileSync("dd", [`if=${converted}`, `of=${image}`, "bs=64k", "status=none"]);
        rmSync(converted);
      }
      made = true;
    }
    execFileSync("sync");
  };
  const serve = (format, top = []) => (side) => {
    const daemon = side === "ours" ? [program, "storage-daemon"] : ["qemu-storage-daemon"];
    const words = [
      ["--blockdev", `file,node-name=f,filename=${images[format]},discard=unmap`],
      ["--blockdev", `${format},node-name=d,file=f,discard=unmap`],
      ...top,
      ["--nbd-server", `addr.type=unix,addr.path=${socket}`],
      ["--export", `nbd,id=e,node-name=${top.length ? "t" : "d"},name=d,writable=on`],
    ].flat();
    const child = spawn(daemon[0], [...daemon.slice(1), ...words], { stdio: "ignore" });
    while (!existsSync(socket)) {
      if (isDead(child.pid)) throw new Error(`${daemon.join(" ")} has ended: ${words.join(" ")}`);
      spawnSync("sleep", ["0.02"]);
    }
    // The export comes after the server.
    spawnSync("sleep", ["0.2"]);
    return () => {
      execFileSync("kill", [String(child.pid)]);
      while (!isDead(child.pid)) spawnSync("sleep", ["0.02"]);
      rmSync(socket, { force: true });
    };
  };
  const cases = [];
  for (const format of Object.keys(images)) {
    for (const { words, block, mode, mib: amounts } of PATTERNS) {
      for (const direction of ["read", "write"]) {
        for (const [at, depth] of DEPTHS.entries()) {
          for (const connections of CONNECTIONS) {
            const share = Math.floor(mib / connections);
            const command = () => [
              ...fio,
              `--rw=${mode}${direction}`,
              `--bs=${block}`,
              `--iodepth=${depth}`,
              `--numjobs=${connections}`,
              `--size=${share}m`,
              `--offset_increment=${share}m`,
              `--io_size=${Math.floor(amounts[at] / connections)}m`,
            ];
            cases.push({
              name: `export of ${format}: ${words} ${direction}, depth ${depth}, ${connections} conn.`,
              fresh: make,
              serve: serve(format),
              ours: command,
              theirs: command,
              seconds: runtime(direction),
            });
          }
        }
      }
    }
  }
  for (const [words, limit, flags] of LIMITS) {
    const command = () => [...fio, "--rw=randread", "--iodepth=16", `--size=${mib}m`, ...flags];
    const group = ["--object", `throttle-group,id=g,limits.${limit}`];
    const top = [group, ["--blockdev", "throttle,node-name=t,throttle-group=g,file=d"]];
    cases.push({ name: `throttle group: ${words} in ${LIMITED} s`, fresh: make, serve: serve("raw", top), ours: command, theirs: command, seconds: runtime("read") });
  }
  return cases;
}

/** What fio says its requests took, in seconds. */
function runtime(direction) {
  return (text) => JSON.parse(text.slice(text.indexOf("{"))).jobs[0][direction].runtime / 1000;
}
