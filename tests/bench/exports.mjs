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

/** All of them; none where fio lacks its NBD engine. */
export function exportCases({ folder, full, mib, program }) {
  const engines = spawnSync("fio", ["--enghelp"], { encoding: "utf8" }).stdout ?? "";
  if (!/\bnbd\b/.test(engines)) {
    console.error("fio with its NBD engine is not installed (Debian: apt-get install fio): the cases of exports are left out");
    return [];
  }
  const socket = join(folder, "export.sock");
  const images = { raw: join(folder, "export.raw"), qcow2: join(folder, "export.qcow2") };
  let made = false;
  // Both daemons write to the same image in turn: it is allocated, so that it stays as it is.
  const make = () => {
    if (made) return;
    for (const [format, image] of Object.entries(images)) {
      execFileSync("qemu-img", ["convert", "-m", "16", "-f", "raw", "-O", format, "-S", "0", full, image]);
    }
    execFileSync("sync");
    made = true;
  };
  const serve = (format) => (side) => {
    const daemon = side === "ours" ? [program, "storage-daemon"] : ["qemu-storage-daemon"];
    const words = [
      ["--blockdev", `file,node-name=f,filename=${images[format]},discard=unmap`],
      ["--blockdev", `${format},node-name=d,file=f,discard=unmap`],
      ["--nbd-server", `addr.type=unix,addr.path=${socket}`],
      ["--export", "nbd,id=e,node-name=d,name=d,writable=on"],
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
              "fio",
              "--name=x",
              "--ioengine=nbd",
              `--uri=nbd+unix:///d?socket=${socket}`,
              `--rw=${mode}${direction}`,
              `--bs=${block}`,
              `--iodepth=${depth}`,
              `--numjobs=${connections}`,
              `--size=${share}m`,
              `--offset_increment=${share}m`,
              `--io_size=${Math.floor(amounts[at] / connections)}m`,
              "--norandommap",
              "--group_reporting",
              "--output-format=json",
            ];
            cases.push({
              name: `export of ${format}: ${words} ${direction}, depth ${depth}, ${connections} conn.`,
              fresh: make,
              serve: serve(format),
              ours: command,
              theirs: command,
              seconds: (text) => JSON.parse(text.slice(text.indexOf("{"))).jobs[0][direction].runtime / 1000,
            });
          }
        }
      }
    }
  }
  return cases;
}
