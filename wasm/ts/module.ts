/** A module of this thread: loading it, and calls of its bindings. */

import { SectoraError, cancelled, toError } from "./errors.js";
import { makeHost } from "./host.js";
import * as imageBindings from "./pkg/sectora.js";
import * as monitorBindings from "./pkg-monitor/sectora_monitor.js";
import type { TaskOptions } from "./types.js";

/** One call from the side of its caller. */
export interface Task {
  cancel(): void;
  free(): void;
}

/** What the glue of every module has. */
interface Glue {
  default(input: { module_or_path: never }): Promise<unknown>;
  install(host: never): void;
  Task: new (progress?: ((done: number, total: number) => void) | null) => Task;
}

/** One of the package's two modules; there is one instance of each in a thread. */
export class Module<G extends Glue> {
  readonly #glue: G;
  #loading: Promise<G> | undefined;
  #loaded = false;
  /** Why it has stopped, once it has. */
  #dead: SectoraError | undefined;
  /** Calls under way, to fail when it stops. */
  readonly #waiting = new Set<(error: SectoraError) => void>();

  constructor(glue: G) {
    this.#glue = glue;
  }

  /** Loads it into this thread; later calls wait for the first. */
  load(input: () => Promise<unknown>): Promise<G> {
    const loading = (this.#loading ??= this.#load(input));
    loading.catch(() => {
      // The next call may have more luck.
      if (this.#loading === loading) this.#loading = undefined;
    });
    return loading;
  }

  async #load(input: () => Promise<unknown>): Promise<G> {
    const glue = this.#glue;
    const module = await input();
    try {
      await glue.default({ module_or_path: module as never });
    } catch (e) {
      throw new SectoraError("Io", `the engine could not be loaded: ${(e as Error).message}`, { cause: e });
    }
    glue.install(makeHost((message) => this.#panicked(message)) as never);
    this.#loaded = true;
    return glue;
  }

  #panicked(message: string): void {
    this.#dead = new SectoraError("Bug", `the engine has stopped: ${message}`);
    for (const fail of this.#waiting) fail(this.#dead);
    this.#waiting.clear();
  }

  /** Its bindings. It has to be loaded. */
  get bindings(): G {
    if (!this.#loaded) throw new SectoraError("Bug", "the module is not loaded");
    return this.#glue;
  }

  /** Whether it has stopped for good: nothing of it can be called any more. */
  get hasStopped(): boolean {
    return this.#dead !== undefined;
  }

  /** Runs one call of the bindings: cancelling, progress, and errors as people know them. */
  async run<T>(
    options: TaskOptions | undefined,
    start: (task: InstanceType<G["Task"]>) => Promise<unknown>,
    tasks?: Set<Task>,
  ): Promise<T> {
    const { signal, onProgress } = options ?? {};
    if (this.#dead) throw this.#dead;
    if (signal?.aborted) throw cancelled(signal.reason);
    const task = new this.bindings.Task(
      onProgress && ((done: number, total: number) => report(onProgress, done, total)),
    ) as InstanceType<G["Task"]>;
    const cancel = () => task.cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    tasks?.add(task);
    let fail: (error: SectoraError) => void = () => {};
    try {
      return await new Promise<T>((resolve, reject) => {
        fail = reject;
        this.#waiting.add(fail);
        start(task).then(resolve as (value: unknown) => void, reject);
      });
    } catch (e) {
      const error = toError(e);
      throw error.kind === "Cancelled" && signal?.aborted ? cancelled(signal.reason) : error;
    } finally {
      this.#waiting.delete(fail);
      tasks?.delete(task);
      signal?.removeEventListener("abort", cancel);
      task.free();
    }
  }
}

/** Calls a listener; what it throws is reported as if an event listener had thrown it. */
function report(listener: (done: bigint, total: bigint) => void, done: number, total: number): void {
  try {
    listener(BigInt(done), BigInt(total));
  } catch (e) {
    queueMicrotask(() => {
      throw e;
    });
  }
}

/** Images: inspect, check, convert. */
export const images = /* @__PURE__ */ new Module(imageBindings);

/** QMP over a graph of nodes: loaded when it is first used. */
export const monitors = /* @__PURE__ */ new Module(monitorBindings);
