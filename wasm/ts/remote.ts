/** What the two sides of a worker say to each other: storage, resolvers and streams as references. */

import type { OpenOptions, WasmInput } from "./types.js";

/** A source or target on its way to the worker. */
export type Sent =
  /** It can be copied as it is: files, handles, paths. */
  | { type: "plain"; value: unknown }
  /** Storage of the caller's own, which the worker calls back for. */
  | {
      type: "custom";
      id: number;
      size: bigint;
      name: string | undefined;
      /** The optional calls that it has. */
      has: string[];
    };

/** A file that a resolver gave. */
export interface SentResolved {
  source: Sent;
  name: string | undefined;
}

/** Options for `open`, with a resolver as a number. */
export interface SentOpen {
  options: Omit<OpenOptions, "resolve" | "signal">;
  resolver: number | undefined;
}

/** The modules that an engine is started with; those that are not given are the package's own. */
export interface Modules {
  wasm?: WasmInput | undefined;
  monitorWasm?: WasmInput | undefined;
}

/** A node in the worker that was opened. */
export interface SentNode {
  id: number;
  size: bigint;
}

/** An opened image in the worker. */
export interface SentImage {
  id: number;
  size: bigint;
  format: string;
  name: string;
}

/** The optional calls of storage of the caller's own. */
export const OPTIONAL = ["write", "flush", "truncate", "abort", "close"] as const;

