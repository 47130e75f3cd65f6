/** The error classes, and how whatever is thrown becomes it. */

import type { ErrorKind, QmpErrorClass, Reference } from "./types.js";

/** An error on its way out of the engine or of a worker. */
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

  constructor(
    kind: ErrorKind,
    message: string,
    more: {
      format?: string | undefined;
      offset?: bigint | undefined;
      wanted?: Reference | undefined;
      cause?: unknown;
    } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.kind = kind;
    this.format = more.format;
    this.offset = more.offset;
    this.wanted = more.wanted;
  }
}

/** What a command of the monitor answered instead of a value. */
export class QmpError extends Error {
  override readonly name = "QmpError";
  /** For code; most errors are `GenericError`. */
  readonly class: QmpErrorClass;
  /** In words: the same as `message`. */
  readonly desc: string;

  constructor(errorClass: QmpErrorClass, desc: string) {
    super(desc);
    this.class = errorClass;
    this.desc = desc;
  }
}

const KINDS: ReadonlySet<string> = new Set<ErrorKind>([
  "Io",
  "Unsupported",
  "Corrupt",
  "Limit",
  "Denied",
  "InUse",
  "InvalidInput",
  "NotFound",
  "NoSpace",
  "Cancelled",
  "Bug",
]);

/** By the system's code (Node) or the name of an exception (browsers). */
const KIND_OF: Readonly<Record<string, ErrorKind>> = {
  ENOENT: "NotFound",
  ENOTDIR: "NotFound",
  EACCES: "Denied",
  EPERM: "Denied",
  EROFS: "Denied",
  ENOSPC: "NoSpace",
  EDQUOT: "NoSpace",
  EFBIG: "Limit",
  EBUSY: "InUse",
  ETXTBSY: "InUse",
  EISDIR: "InvalidInput",
  EINVAL: "InvalidInput",
  NotFoundError: "NotFound",
  NotAllowedError: "Denied",
  SecurityError: "Denied",
  QuotaExceededError: "NoSpace",
  NoModificationAllowedError: "InUse",
  TypeMismatchError: "InvalidInput",
  AbortError: "Cancelled",
};

/** Anything thrown, as this package's error. */
export function toError(thrown: unknown): SectoraError {
  if (thrown instanceof SectoraError) return thrown;
  const data = (typeof thrown === "object" && thrown !== null ? thrown : {}) as Partial<ErrorData> & {
    name?: unknown;
    code?: unknown;
  };
  if (typeof data.kind === "string" && KINDS.has(data.kind)) {
    return new SectoraError(data.kind, String(data.message), {
      format: data.format,
      offset: data.offset,
      wanted: data.wanted,
      cause: thrown instanceof Error ? thrown : undefined,
    });
  }
  if (typeof WebAssembly === "object" && thrown instanceof WebAssembly.RuntimeError) {
    return new SectoraError("Bug", `the engine has stopped: ${thrown.message}`, { cause: thrown });
  }
  const kind = KIND_OF[String(data.code)] ?? KIND_OF[String(data.name)] ?? "Io";
  return new SectoraError(kind, String(data.message ?? thrown), { cause: thrown });
}

/** The part of an error that can be sent to another thread. */
export function toData(thrown: unknown): ErrorData {
  const { kind, message, format, offset, wanted } = toError(thrown);
  return { kind, message, format, offset, wanted };
}

/** The error of a call that its caller gave up. */
export function cancelled(reason?: unknown): SectoraError {
  return new SectoraError("Cancelled", "the work was cancelled", { cause: reason });
}

export function invalid(message: string): SectoraError {
  return new SectoraError("InvalidInput", message);
}
