/** Events on their way to those who listen, and answers of the monitor. */

import { QmpError } from "./errors.js";
import type { EventName, EventStream, QmpErrorClass, QmpEvent } from "./qmp.js";

/** What answers a request. */
export type QmpAnswer =
  | { return: unknown; id?: unknown }
  | { error: { class: QmpErrorClass; desc: string }; id?: unknown };

/** What a command returned. */
export function settled<T>(answer: QmpAnswer): T {
  if ("error" in answer) throw new QmpError(answer.error.class, answer.error.desc);
  return answer.return as T;
}

/** So many events wait for one reader; then its oldest are lost. */
const MOST = 4096;

class Queue<T extends QmpEvent> implements EventStream<T> {
  readonly #wanted: ReadonlySet<string> | undefined;
  readonly #ended: () => void;
  readonly #waiting: T[] = [];
  readonly #readers: ((result: IteratorResult<T, undefined>) => void)[] = [];
  #lost = 0;
  #done = false;

  constructor(wanted: ReadonlySet<string> | undefined, ended: () => void) {
    this.#wanted = wanted;
    this.#ended = ended;
  }

  get lost(): number {
    return this.#lost;
  }

  push(event: QmpEvent): void {
    if (this.#done || (this.#wanted && !this.#wanted.has(event.event))) return;
    const reader = this.#readers.shift();
    if (reader) return reader({ done: false, value: event as T });
    if (this.#waiting.length >= MOST) {
      this.#waiting.shift();
      this.#lost += 1;
    }
    this.#waiting.push(event as T);
  }

  /** Nothing more will come; what waits can still be read. */
  end(): void {
    this.#done = true;
    for (const reader of this.#readers.splice(0)) reader({ done: true, value: undefined });
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    const value = this.#waiting.shift();
    if (value) return { done: false, value };
    if (this.#done) return { done: true, value: undefined };
    return new Promise((resolve) => this.#readers.push(resolve));
  }

  async return(): Promise<IteratorResult<T, undefined>> {
    this.#waiting.length = 0;
    this.end();
    this.#ended();
    return { done: true, value: undefined };
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }
}

/** Everybody who listens. */
export class Queues {
  readonly #open = new Set<Queue<QmpEvent>>();
  /** Is told as well, at once. */
  listener: ((event: QmpEvent) => void) | undefined;

  open<E extends EventName>(filter?: E | readonly E[]): EventStream<QmpEvent<E>> {
    const names = typeof filter === "string" ? [filter] : filter;
    const queue: Queue<QmpEvent> = new Queue(names && new Set<string>(names), () => this.#open.delete(queue));
    this.#open.add(queue);
    return queue as unknown as EventStream<QmpEvent<E>>;
  }

  readonly tell = (event: QmpEvent): void => {
    this.listener?.(event);
    for (const queue of this.#open) queue.push(event);
  };

  end(): void {
    for (const queue of this.#open) queue.end();
    this.#open.clear();
  }
}
