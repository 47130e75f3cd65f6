/** Ranges of bytes: checked, and moved in parts. */

import { invalid } from "./errors.js";

/** A read or write is done in parts of this size, so that memory of the module stays bounded. */
const STEP = 4 * 1024 * 1024;
/** Nobody wants more at once, and typed arrays end soon after. */
const MOST = 2 ** 30;

/** `value` as an offset up to `end`. */
export function offsetOf(value: bigint, end: bigint, what: string): bigint {
  if (typeof value !== "bigint") throw invalid(`${what} must be a bigint, not a ${typeof value}`);
  if (value < 0n || value > end) throw invalid(`${what} is ${value}, which is outside 0 to ${end}`);
  return value;
}

/** Reads a range of what is `size` bytes long; `read` is asked for short parts. */
export async function readParts(
  size: bigint,
  offset: bigint,
  length: number,
  read: (offset: bigint, length: number) => Promise<Uint8Array>,
): Promise<Uint8Array> {
  const start = offsetOf(offset, size, "offset");
  if (!Number.isSafeInteger(length) || length < 0 || length > MOST) {
    throw invalid(`length is ${length}, which is no length up to 2^30`);
  }
  offsetOf(BigInt(length), size - start, "offset + length");
  if (length <= STEP) return read(start, length);
  const out = new Uint8Array(length);
  for (let done = 0; done < length; done += STEP) {
    out.set(await read(start + BigInt(done), Math.min(STEP, length - done)), done);
  }
  return out;
}

/** Writes `data` into what is `size` bytes long; `write` is given short parts, in order. */
export async function writeParts(
  size: bigint,
  offset: bigint,
  data: Uint8Array,
  write: (offset: bigint, part: Uint8Array) => Promise<void>,
): Promise<void> {
  const start = offsetOf(offset, size, "offset");
  if (!(data instanceof Uint8Array)) throw invalid("the data must be a Uint8Array");
  offsetOf(BigInt(data.length), size - start, "offset + length");
  for (let done = 0; done < data.length; done += STEP) {
    await write(start + BigInt(done), data.subarray(done, done + STEP));
  }
}
