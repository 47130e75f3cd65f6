/**
 * The public types of the monitor: QMP over a graph of nodes.
 *
 * Whole numbers of 64 bits (the schema's `int`, `size` and `uint64`) are `bigint` in answers and
 * events, all others `number`. In arguments either is taken.
 */

import type { Commands, Events } from "./qapi.js";
import type { Source } from "./types.js";

export type { Commands, Events } from "./qapi.js";

/** Commands by name; each with the types of its arguments and of what it returns. */
export type CommandName = keyof Commands;
/** Events by name. */
export type EventName = keyof Events;

/** A request. */
export type QmpRequest<C extends CommandName = CommandName> = C extends CommandName
  ? {
      execute: C;
      /** Has no use here: a promise is its own answer. It is taken, so that requests can be copied. */
      id?: unknown;
    } & (Record<never, never> extends Commands[C]["arguments"]
      ? { arguments?: Commands[C]["arguments"] }
      : { arguments: Commands[C]["arguments"] })
  : never;

/** Something that happened. */
export type QmpEvent<E extends EventName = EventName> = E extends EventName
  ? {
      event: E;
      /** Absent where the event has none. */
      data: Events[E];
      /** When. */
      timestamp: { seconds: number; microseconds: number };
    }
  : never;

/** By which programs may tell errors of commands apart. */
export type QmpErrorClass = "GenericError" | "CommandNotFound" | "DeviceNotActive" | "DeviceNotFound" | "KVMMissingCap";

/**
 * Events as they come, from the call of `events()` on. Up to 4096 wait to be read; then the oldest
 * are lost. It ends with the engine, or by `return()` (which leaving a `for await` loop calls).
 */
export interface EventStream<T = QmpEvent> extends AsyncIterableIterator<T, undefined>, AsyncDisposable {
  /** How many were lost. */
  readonly lost: number;
  return(): Promise<IteratorResult<T, undefined>>;
}

/** How storage is attached. */
export interface AttachOptions {
  /** Nodes may write to it, in place. */
  writable?: boolean | undefined;
  /** A path or private file that is not there is made when a node first opens it, empty. */
  create?: boolean | undefined;
}

/** A node of the graph, used from outside of it. Close it when done. */
export interface BlockNode extends AsyncDisposable {
  /** Its name in the graph. */
  readonly name: string;
  /** Whether it was opened for writing. */
  readonly writable: boolean;
  /** Its length in bytes. While it is open nobody can change that. */
  readonly size: bigint;
  /** Reads a range, which must lie within `size`; `length` at most 1 GiB. */
  read(offset: bigint, length: number, options?: { signal?: AbortSignal }): Promise<Uint8Array>;
  /** Writes all of `data`. Where it is longer than 4 MiB, parts of it may be there after a failure. */
  write(offset: bigint, data: Uint8Array, options?: { signal?: AbortSignal }): Promise<void>;
  /** Makes a range read as zeroes. */
  writeZeroes(offset: bigint, length: bigint, options?: { signal?: AbortSignal }): Promise<void>;
  /** Gives up the contents of a range. */
  discard(offset: bigint, length: bigint, options?: { signal?: AbortSignal }): Promise<void>;
  /** Returns when everything that was written is durable. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** A graph of nodes, and the commands and events that control it. */
export interface Monitor {
  /**
   * Lets nodes stand on `source` under `name`: what options of the driver `file` call `filename`,
   * and what images name as their backing or data file. Nothing else can be opened. The storage is
   * open while a node stands on it, and all nodes on it share it; storage of your own is closed when
   * it is detached, or with the engine.
   */
  attach(name: string, source: Source, options?: AttachOptions): Promise<void>;
  /** Takes the name back. `InUse` while a node stands on it. */
  detach(name: string): Promise<void>;
  /**
   * Carries out a command and gives what it returns; requests are carried out one after the other.
   * An error of the command is thrown as a `QmpError`.
   */
  execute<C extends CommandName>(request: QmpRequest<C>): Promise<Commands[C]["returns"]>;
  /** Events from now on, or only those of a name or of several. */
  events<E extends EventName = EventName>(filter?: E | readonly E[]): EventStream<QmpEvent<E>>;
  /** Uses a node from outside of the graph: as an export does. */
  openNode(name: string, options?: { writable?: boolean | undefined }): Promise<BlockNode>;
}
