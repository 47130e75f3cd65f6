// Runs the engine's storage contract over storage of this package; built for tests only.

import * as bindings from "../ts/pkg/sectora.js";
import { makeHost } from "../ts/host.ts";
import { customTarget } from "../ts/storage.ts";

/** Loads the module that has the suite. */
export async function load(wasm) {
  await bindings.default({ module_or_path: wasm });
  let fail;
  const panicked = new Promise((_, reject) => {
    fail = reject;
  });
  panicked.catch(() => {});
  bindings.install(makeHost((message) => fail(new Error(message))));
  return {
    cases: bindings.contractCases(),
    /** `[outcome, words]` of a case on storage that `make` and `readOnly` give. */
    run: (name, make, readOnly, seed = 1) =>
      Promise.race([bindings.contractCase(name, make, readOnly, seed), panicked]),
  };
}

/** Storage of a user's over memory, whose calls take a turn of the event loop or two. */
export function custom(bytes, { truncate = true } = {}) {
  let held = bytes.slice();
  const turn = () => new Promise((resolve) => setTimeout(resolve, 0));
  const resize = (size) => {
    const next = new Uint8Array(size);
    next.set(held.subarray(0, size));
    held = next;
  };
  const target = {
    size: held.length,
    async read(offset, length) {
      await turn();
      return held.slice(Number(offset), Number(offset) + length);
    },
    async write(offset, data) {
      await turn();
      const end = Number(offset) + data.length;
      if (end > held.length) resize(end);
      held.set(data, Number(offset));
    },
    flush: turn,
  };
  if (truncate) {
    target.truncate = async (size) => {
      await turn();
      resize(Number(size));
    };
  }
  return customTarget(target).storage;
}

export { customSource } from "../ts/storage.ts";
