/** The one error class, its kinds, and how errors of storage become it. */

import type { ErrorKind, Reference } from "./types.js";

/** What crosses from the engine or from a worker. */
export interface ErrorData {
  kind: ErrorKind;
  /** The whole text. */
  message: string;
  format?: string | undefined;
  offset?: bigint | undefined;
  wanted?: Reference | undefined;
}

/** What went wrong: match on `kind`, show `message`. */
export class SectoraError extends Error {
  override readonly name = "SectoraError";
  /** For code. */
  readonly kind: ErrorKind;
  /** The image format whose rule or limit it is. */
  readonly format: string | undefined;
  /** The offset in the file at which the trouble lies. */
  readonly offset: bigint | undefined;
  /** The file that an image wanted and was not given (kind `Denied`). */
  readonly wanted: Reference | undefined;

  constructor(kind: ErrorKind, message: string, more: Partial<Omit<ErrorData, "kind" | "message">> & { cause?: unknown } = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.kind = kind;
    this.format = more.format;
    this.offset = more.offset;
    this.wanted = more.wanted;
  }
}
