// Random sequences of QMP commands to the daemon and to the engine in the package: the same answers, the
// same events, the same images. `cargo test -p sectora-tests --test qmp` has the sequences.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { test } from "node:test";
import { TOP, install, needsQemu } from "./support.mjs";

const hasCargo = spawnSync("cargo", ["--version"]).status === 0;
const skip = needsQemu.skip || (hasCargo ? false : "cargo is not installed");

const folder = skip ? undefined : install();

for (const [where, own] of [["files", {}], ["memory", { SECTORA_MEMORY: "1" }]]) {
  test(`sequences of commands do the same as in the daemon, over ${where}`, { skip, timeout: 1_800_000 }, () => {
    // With the packages that all suites are built with, so that nothing is built twice.
    const packages = ["-p", "sectora-core", "-p", "sectora", "-p", "sectora-tests"];
    const args = ["test", "-q", ...packages, "--test", "qmp", "--", "sequences_of_commands_do_the_same_in_the_package", "--exact"];
    const env = { SECTORA_CASES: "30", ...process.env, ...own, SECTORA_PACKAGE: folder };
    const out = execFileSync("cargo", args, { cwd: TOP, env, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
    assert.match(out, /1 passed/, out);
  });
}
