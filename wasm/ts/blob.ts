/**
 * Files and blobs as sources.
 *
 * A read of a blob goes through the browser's other processes and costs about half a millisecond,
 * whatever its size. So small reads (tables, mostly) share blocks, and who reads much in order is
 * served from a stream that reads ahead.
 */

import { Ahead, SKIP } from "./ahead.js";
import { readOnly } from "./storage.js";
import type { OpenedSource, Put } from "./storage.js";

/** Small reads are answered from blocks of this size: reading 4 KiB of a file costs as much. */
const BLOCK = 256 * 1024;
/** So many blocks are kept. */
const BLOCKS = 64;
/** When nobody has read in order for so many milliseconds, the stream is let go. */
const IDLE = 2000;

/** A map that keeps the `most` entries that were used last. */
class Recent<T> {
  readonly #most: number;
  /** The least recently used first. */
  readonly #entries = new Map<number, Promise<T>>();

  constructor(most: number) {
    this.#most = most;
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

export function blobSource(blob: Blob, name: string, named: boolean): OpenedSource {
  const size = blob.size;
  const blocks = new Recent<Uint8Array>(BLOCKS);
  let ahead: Ahead | undefined;
  let idle: ReturnType<typeof setTimeout> | undefined;
  /** Reads from the stream that have not been answered. */
  let active = 0;
  let closed = false;
  /** Where the last long read ended. */
  let last = -1;

  const inPlace = async (from: number, to: number) => new Uint8Array(await blob.slice(from, to).arrayBuffer());

  const short = async (offset: number, end: number, put: Put) => {
    const parts: Promise<Uint8Array>[] = [];
    const first = Math.floor(offset / BLOCK);
    for (let number = first; number * BLOCK < end; number++) {
      parts.push(blocks.get(number, () => inPlace(number * BLOCK, Math.min((number + 1) * BLOCK, size))));
    }
    for (const [i, bytes] of (await Promise.all(parts)).entries()) {
      const at = (first + i) * BLOCK;
      put(bytes.subarray(Math.max(offset - at, 0), end - at));
    }
  };

  const rest = () => {
    clearTimeout(idle);
    ahead?.close();
    ahead = undefined;
  };

  const answered = () => {
    active -= 1;
    if (active > 0 || closed) return;
    idle = setTimeout(rest, IDLE);
    // Nothing to keep a process of Node alive for.
    (idle as { unref?(): void }).unref?.();
  };

  const long = async (offset: number, end: number, put: Put) => {
    const inOrder = last >= 0 && offset >= last && offset <= last + SKIP;
    last = end;
    if (inOrder && !ahead?.reaches(offset, end)) {
      ahead?.close();
      ahead = new Ahead(blob, offset);
    }
    if (!ahead?.reaches(offset, end)) return put(await inPlace(offset, end));
    clearTimeout(idle);
    active += 1;
    let at = offset;
    try {
      await ahead.fill(offset, end, (bytes) => {
        put(bytes);
        at += bytes.length;
      });
    } catch (e) {
      if (closed) throw e;
      // Read once more in place, it fails with the error that the caller is to see.
      put(await inPlace(at, end));
    } finally {
      answered();
    }
  };

  return {
    storage: readOnly(name, size, (offset, length, put) =>
      length >= BLOCK ? long(offset, offset + length, put) : short(offset, offset + length, put),
    ),
    named,
    close: async () => {
      closed = true;
      rest();
      blocks.clear();
    },
  };
}
