/**
 * Files and blobs as sources.
 *
 * A read of a blob goes through the browser's other processes and costs about half a millisecond,
 * whatever its size. So small reads (tables, mostly) share blocks, and who reads much in order is
 * read ahead for, in chunks that neighbouring reads share: there, other threads read where the
 * platform has them, because the engine's own is kept busy by what it writes.
 */

import { readOnly } from "./storage.js";
import type { OpenedSource } from "./storage.js";

/** What reads a blob in other threads. */
export interface Readers {
  /** `undefined` where it cannot, yet or any more: read in place then. */
  read(start: number, end: number): Promise<Uint8Array> | undefined;
  /** Ends the threads; what they have not answered fails. */
  close(): void;
}

export type StartReaders = (blob: Blob) => Readers;

/** Small reads are answered from blocks of this size: reading 4 KiB of a file costs as much. */
const BLOCK = 256 * 1024;
/** So many blocks are kept. */
const BLOCKS = 64;
/** Who reads in order is read ahead for in chunks of this size … */
const CHUNK = 4 * 1024 * 1024;
/** … so many of them beyond what was asked for. */
const AHEAD = 4;
/** Chunks that are kept: those ahead, and those that requests side by side still want. */
const CHUNKS = 10;
/** A read that skips less than this is still in order: the hole of a sparse file. */
const SKIP = CHUNK;
/** Readers are worth their start for one who has read so much in order. */
const WORTH = 16 * 1024 * 1024;
/** When nobody has read in order for so many milliseconds, readers and chunks are let go. */
const IDLE = 2000;

/** A map that keeps the `most` entries that were used last. */
class Recent<T> {
  readonly #most: number;
  /** The least recently used first. */
  readonly #entries = new Map<number, Promise<T>>();

  constructor(most: number) {
    this.#most = most;
  }

  has(key: number): boolean {
    return this.#entries.has(key);
  }

  /** The entry, made by `make` where there is none. One that fails is not kept. */
  get(key: number, make: () => Promise<T>): Promise<T> {
    let entry = this.#entries.get(key);
    this.#entries.delete(key);
    if (!entry) {
      const made = make();
      // Whoever waits for it learns of it.
      made.catch(() => this.#entries.get(key) === made && this.#entries.delete(key));
      entry = made;
      const [oldest] = this.#entries.keys();
      if (this.#entries.size >= this.#most && oldest !== undefined) this.#entries.delete(oldest);
    }
    this.#entries.set(key, entry);
    return entry;
  }

  clear(): void {
    this.#entries.clear();
  }
}

export function blobSource(blob: Blob, name: string, named: boolean, start?: StartReaders): OpenedSource {
  const size = blob.size;
  const blocks = new Recent<Uint8Array>(BLOCKS);
  const chunks = new Recent<Uint8Array>(CHUNKS);
  let readers: Readers | undefined;
  let idle: ReturnType<typeof setTimeout> | undefined;
  /** Reads in order that have not been answered. */
  let active = 0;
  let closed = false;
  /** Where the last long read ended, and since where all of them were in order. */
  let last = -1;
  let begun = -1;

  const inPlace = async (from: number, to: number) => new Uint8Array(await blob.slice(from, to).arrayBuffer());
  const block = (number: number) =>
    blocks.get(number, () => inPlace(number * BLOCK, Math.min((number + 1) * BLOCK, size)));
  const chunk = (number: number) =>
    chunks.get(number, () => {
      const [from, to] = [number * CHUNK, Math.min((number + 1) * CHUNK, size)];
      return readers?.read(from, to) ?? inPlace(from, to);
    });

  const rest = () => {
    clearTimeout(idle);
    readers?.close();
    readers = undefined;
    chunks.clear();
  };

  const answered = () => {
    active -= 1;
    if (active > 0 || closed) return;
    idle = setTimeout(rest, IDLE);
    // Nothing to keep a process of Node alive for.
    (idle as { unref?(): void }).unref?.();
  };

  /** `[offset, offset + length)` of parts of `unit` bytes each. */
  const join = async (part: (number: number) => Promise<Uint8Array>, unit: number, offset: number, length: number) => {
    const [first, final] = [Math.floor(offset / unit), Math.floor((offset + length - 1) / unit)];
    const from = offset - first * unit;
    if (first === final) return (await part(first)).subarray(from, from + length);
    const numbers = Array.from({ length: final - first + 1 }, (_, i) => first + i);
    const out = new Uint8Array(length);
    for (const [i, bytes] of (await Promise.all(numbers.map(part))).entries()) {
      const at = i * unit - from;
      out.set(at < 0 ? bytes.subarray(from) : bytes.subarray(0, length - at), Math.max(at, 0));
    }
    return out;
  };

  /** Keeps the chunks behind `at` on their way. */
  const readAhead = (at: number) => {
    const next = Math.ceil(at / CHUNK);
    for (let number = next; number < next + AHEAD && number * CHUNK < size; number++) {
      if (!chunks.has(number)) void chunk(number);
    }
  };

  const long = (offset: number, length: number): Promise<Uint8Array> => {
    const inOrder = last >= 0 && offset >= last && offset <= last + SKIP;
    if (!inOrder) begun = offset;
    last = offset + length;
    if (!inOrder || length > AHEAD * CHUNK) return inPlace(offset, last);
    if (last - begun >= WORTH) readers ??= start?.(blob);
    clearTimeout(idle);
    active += 1;
    const bytes = join(chunk, CHUNK, offset, length);
    readAhead(last);
    return bytes.finally(answered);
  };

  return {
    storage: readOnly(name, size, (offset, length) =>
      length >= BLOCK ? long(offset, length) : join(block, BLOCK, offset, length),
    ),
    named,
    close: async () => {
      closed = true;
      rest();
      blocks.clear();
    },
  };
}
