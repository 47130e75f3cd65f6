/** The caller's side of a node in a worker. */

import { SectoraError, invalid } from "./errors.js";
import { offsetOf, readParts, writeParts } from "./ranges.js";
import type { SentNode } from "./remote.js";
import type { Peer } from "./rpc.js";
import type { BlockNode, TaskOptions } from "./types.js";

export class RemoteNode implements BlockNode {
  readonly name: string;
  readonly size: bigint;
  readonly writable: boolean;
  readonly #peer: Peer;
  readonly #id: number;
  #closed: Promise<void> | undefined;

  constructor(peer: Peer, sent: SentNode, name: string, writable: boolean) {
    this.#peer = peer;
    this.#id = sent.id;
    this.size = sent.size;
    this.name = name;
    this.writable = writable;
  }

  async #call<T>(method: string, args: unknown[], options?: TaskOptions): Promise<T> {
    if (this.#closed) throw invalid(`node '${this.name}' is closed`);
    return this.#peer.call<T>(method, [this.#id, ...args], options);
  }

  async #change(method: string, args: unknown[], options?: TaskOptions): Promise<void> {
    if (!this.writable) throw new SectoraError("Denied", `node '${this.name}' was opened for reading only`);
    return this.#call(method, args, options);
  }

  read(offset: bigint, length: number, options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    return readParts(this.size, offset, length, (at, step) => this.#call("nodeRead", [at, step], options));
  }

  write(offset: bigint, data: Uint8Array, options: { signal?: AbortSignal } = {}): Promise<void> {
    return writeParts(this.size, offset, data, (at, part) =>
      // A part of a larger buffer would be sent with all of it.
      this.#change("nodeWrite", [at, new Uint8Array(part)], options),
    );
  }

  async writeZeroes(offset: bigint, length: bigint, options: { signal?: AbortSignal } = {}): Promise<void> {
    const start = offsetOf(offset, this.size, "offset");
    await this.#change("nodeZero", [start, offsetOf(length, this.size - start, "length")], options);
  }

  async discard(offset: bigint, length: bigint, options: { signal?: AbortSignal } = {}): Promise<void> {
    const start = offsetOf(offset, this.size, "offset");
    await this.#change("nodeDiscard", [start, offsetOf(length, this.size - start, "length")], options);
  }

  flush(): Promise<void> {
    return this.#call("nodeFlush", []);
  }

  close(): Promise<void> {
    this.#closed ??= this.#peer.call("nodeClose", [this.#id]);
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
