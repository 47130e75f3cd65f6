/** The monitor in this thread: what is attached, requests one after the other, and nodes. */

import { SectoraError, invalid, toError } from "./errors.js";
import { toJson } from "./json.js";
import { monitors } from "./module.js";
import type { Task } from "./module.js";
import { Queues } from "./queue.js";
import type { QmpAnswer } from "./queue.js";
import { offsetOf, readParts, writeParts } from "./ranges.js";
import type * as bindings from "./pkg-monitor/sectora_monitor.js";
import type { Platform } from "./engine.js";
import type { OpenedDevice } from "./storage.js";
import type { AttachOptions, BlockNode, CommandName, QmpEvent, QmpRequest, Source, TaskOptions } from "./types.js";

/** Storage under a name. It is open while a node stands on it. */
interface Attachment {
  source: Source;
  options: AttachOptions;
  users: number;
  opening: Promise<OpenedDevice> | undefined;
  /** Set once it is open. */
  opened: OpenedDevice | undefined;
  /** Settles when what was open before is closed. */
  closing: Promise<void>;
}

/** What nodes may stand on: the `Attachments` of the bindings. */
class Attachments {
  readonly #platform: Platform;
  readonly #all = new Map<string, Attachment>();

  constructor(platform: Platform) {
    this.#platform = platform;
  }

  #refuseBusy(name: string): void {
    if (this.#all.get(name)?.users) throw new SectoraError("InUse", `a node stands on '${name}': remove it first`);
  }

  async attach(name: string, source: Source, options: AttachOptions): Promise<void> {
    if (typeof name !== "string" || name === "") throw invalid("the name to attach under is missing");
    this.#refuseBusy(name);
    const before = this.#all.get(name);
    this.#all.set(name, { source, options, users: 0, opening: undefined, opened: undefined, closing: Promise.resolve() });
    if (before) await this.#close(before);
  }

  async detach(name: string): Promise<void> {
    this.#refuseBusy(name);
    const attachment = this.#all.get(name);
    if (!attachment) throw new SectoraError("NotFound", `nothing is attached as '${name}'`);
    this.#all.delete(name);
    await this.#close(attachment);
  }

  /** Nothing is in flight there, and everything that was confirmed is durable. */
  #close(attachment: Attachment): Promise<void> {
    const { opened } = attachment;
    attachment.opening = undefined;
    attachment.opened = undefined;
    if (opened) attachment.closing = opened.close().catch(() => {});
    return attachment.closing;
  }

  async open(name: string): Promise<unknown> {
    const attachment = this.#all.get(name);
    if (!attachment) return undefined;
    attachment.users += 1;
    const opening = (attachment.opening ??= attachment.closing.then(() =>
      this.#platform.device(attachment.source, attachment.options),
    ));
    try {
      attachment.opened = await opening;
      return attachment.opened.storage;
    } catch (e) {
      attachment.users -= 1;
      if (attachment.opening === opening) attachment.opening = undefined;
      throw toError(e);
    }
  }

  release(name: string): void {
    const attachment = this.#all.get(name);
    if (!attachment) return;
    attachment.users -= 1;
    if (attachment.users === 0 && !attachment.opened?.lasting) void this.#close(attachment);
  }

  /** Closes everything. */
  async close(): Promise<void> {
    await Promise.all([...this.#all.values()].map((attachment) => this.#close(attachment)));
  }
}

export class LocalMonitor {
  readonly queues = new Queues();
  readonly #attachments: Attachments;
  readonly #load: () => Promise<unknown>;
  readonly #nodes = new Set<LocalNode>();
  /** Made when first used. */
  #made: Promise<bindings.Monitor> | undefined;
  /** The request before the next one. */
  #last: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  constructor(platform: Platform, load: () => Promise<unknown>) {
    this.#attachments = new Attachments(platform);
    this.#load = load;
  }

  readonly #tell = (event: QmpEvent): void => {
    // Where the engine tells events, nobody may throw.
    try {
      this.queues.tell(event);
    } catch (e) {
      queueMicrotask(() => {
        throw e;
      });
    }
  };

  #handle(): Promise<bindings.Monitor> {
    const made = (this.#made ??= monitors
      .load(this.#load)
      .then(
        ({ Monitor }) => new Monitor(this.#attachments as unknown as bindings.Attachments, this.#tell),
        (e: unknown) => {
          throw toError(e);
        },
      ));
    made.catch(() => {
      // The next call may have more luck.
      if (this.#made === made) this.#made = undefined;
    });
    return made;
  }

  attach(name: string, source: Source, options: AttachOptions): Promise<void> {
    return this.#attachments.attach(name, source, options);
  }

  detach(name: string): Promise<void> {
    return this.#attachments.detach(name);
  }

  /** Requests are carried out one after the other, in the order in which they were made. */
  execute(request: QmpRequest<CommandName>): Promise<QmpAnswer> {
    if (typeof request !== "object" || request === null || Array.isArray(request)) {
      return Promise.reject(invalid("a request is an object with a member 'execute'"));
    }
    let text: string;
    try {
      text = toJson(request, 0);
    } catch (e) {
      // It refers to itself.
      return Promise.reject(invalid(`the request is no JSON: ${(e as Error).message}`));
    }
    const answer = this.#last.then(async () => {
      const handle = await this.#handle();
      return monitors.run<QmpAnswer>(undefined, () => handle.execute(text));
    });
    this.#last = answer.catch(() => {});
    return answer;
  }

  async open(name: string, writable: boolean): Promise<BlockNode> {
    if (typeof name !== "string") throw invalid("the name of the node is missing");
    const handle = await this.#handle();
    const opened = await monitors.run<bindings.NodeHandle>(undefined, () => handle.open(name, writable));
    const node = new LocalNode(opened, name, writable, () => this.#nodes.delete(node));
    this.#nodes.add(node);
    return node;
  }

  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    try {
      const handle = await this.#made?.catch(() => undefined);
      await this.#last;
      if (handle && !monitors.hasStopped) {
        await Promise.all([...this.#nodes].map((node) => node.close()));
        await monitors.run(undefined, () => handle.close());
        handle.free();
      }
    } finally {
      this.queues.end();
      await this.#attachments.close();
    }
  }
}

class LocalNode implements BlockNode {
  readonly size: bigint;
  readonly name: string;
  readonly writable: boolean;
  readonly #handle: bindings.NodeHandle;
  readonly #closing: () => void;
  readonly #tasks = new Set<Task>();
  #closed: Promise<void> | undefined;

  constructor(handle: bindings.NodeHandle, name: string, writable: boolean, closing: () => void) {
    this.#handle = handle;
    this.#closing = closing;
    this.size = handle.size;
    this.name = name;
    this.writable = writable;
  }

  #run<T>(options: TaskOptions | undefined, start: (task: bindings.Task) => Promise<unknown>): Promise<T> {
    if (this.#closed) return Promise.reject(invalid(`node '${this.name}' is closed`));
    return monitors.run(options, start, this.#tasks);
  }

  #change<T>(options: TaskOptions | undefined, start: (task: bindings.Task) => Promise<unknown>): Promise<T> {
    if (!this.writable) {
      return Promise.reject(new SectoraError("Denied", `node '${this.name}' was opened for reading only`));
    }
    return this.#run(options, start);
  }

  read(offset: bigint, length: number, options: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    return readParts(this.size, offset, length, (at, step) =>
      this.#run(options, (task) => this.#handle.read(at, step, task)),
    );
  }

  write(offset: bigint, data: Uint8Array, options: { signal?: AbortSignal } = {}): Promise<void> {
    return writeParts(this.size, offset, data, (at, part) =>
      this.#change(options, (task) => this.#handle.write(at, part, task)),
    );
  }

  async writeZeroes(offset: bigint, length: bigint, options: { signal?: AbortSignal } = {}): Promise<void> {
    const start = offsetOf(offset, this.size, "offset");
    offsetOf(length, this.size - start, "length");
    await this.#change(options, (task) => this.#handle.writeZeroes(start, length, task));
  }

  async discard(offset: bigint, length: bigint, options: { signal?: AbortSignal } = {}): Promise<void> {
    const start = offsetOf(offset, this.size, "offset");
    offsetOf(length, this.size - start, "length");
    await this.#change(options, (task) => this.#handle.discard(start, length, task));
  }

  async flush(): Promise<void> {
    await this.#run(undefined, (task) => this.#handle.flush(task));
  }

  close(): Promise<void> {
    this.#closed ??= (async () => {
      this.#closing();
      for (const task of this.#tasks) task.cancel();
      if (monitors.hasStopped) return;
      await monitors.run(undefined, () => this.#handle.close());
      this.#handle.free();
    })();
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
