// How fast a running operation is and how long it still takes. No clock in here: the caller says
// what time it is, so that a test can.

/** What can be told of a running operation. */
export interface Pace {
  /** Part done, 0 to 1. */
  fraction: number;
  /** Units of work per second of late; undefined until there is something to go by. */
  perSecond?: number;
  /** Seconds left at that pace. */
  secondsLeft?: number;
}

/** Progress of the last few seconds is what counts. */
const WINDOW_MS = 5000;
/** No figure before this much has been seen: the first ones only alarm. */
const SETTLE_MS = 750;

/** Turns `(done, total)` reports into a pace, from a sliding window of recent reports. */
export class PaceMeter {
  #samples: { at: number; done: number }[] = [];

  /** A report at `now` (milliseconds of any steady clock). */
  update(now: number, done: bigint | number, total: bigint | number): Pace {
    const d = Number(done);
    const t = Number(total);
    const fraction = t > 0 ? Math.min(1, d / t) : 0;
    const last = this.#samples.at(-1);
    // Work that shrinks is a new phase: what was measured before says nothing about it.
    if (last && d < last.done) this.#samples = [];
    this.#samples.push({ at: now, done: d });
    // One sample older than the window stays, so that a slow operation still has a base.
    while (this.#samples.length > 2 && now - (this.#samples[1]?.at ?? now) > WINDOW_MS) this.#samples.shift();

    const first = this.#samples[0];
    if (!first || now - first.at < SETTLE_MS) return { fraction };
    const perSecond = ((d - first.done) * 1000) / (now - first.at);
    if (perSecond <= 0) return { fraction, perSecond: 0 };
    return { fraction, perSecond, secondsLeft: Math.max(0, t - d) / perSecond };
  }
}
