// The view of something that takes long: a bar, figures, and a button that ends it.

import { announce, h } from "./dom.ts";
import { PaceMeter } from "./rate.ts";
import { rate, share, size, timeLeft } from "./units.ts";

/** Figures change no faster than one can read. */
const REFRESH_MS = 200;
/** Screen readers are told this often at most. */
const SPEAK_MS = 10_000;

export class TaskView {
  readonly element: HTMLElement;
  readonly signal: AbortSignal;
  readonly cancelButton: HTMLButtonElement;
  readonly #controller = new AbortController();
  readonly #meter = new PaceMeter();
  readonly #bar = h("progress", { max: 1 });
  readonly #figures = h("p", { class: "figures" });
  readonly #name: string;
  readonly #onShare: ((part: string | undefined) => void) | undefined;
  #shown = -Infinity;
  #spoken = performance.now();

  /** `onShare` is told the share done, and `undefined` at the end. */
  constructor(name: string, cancel: string, onShare?: (part: string | undefined) => void) {
    this.#name = name;
    this.#onShare = onShare;
    this.signal = this.#controller.signal;
    this.#bar.setAttribute("aria-label", name);
    this.cancelButton = h("button", { type: "button", class: "small", onclick: () => this.cancel() }, cancel);
    this.element = h("div", { class: "task" }, this.#bar, this.#figures, this.cancelButton);
  }

  cancel(): void {
    this.cancelButton.disabled = true;
    this.cancelButton.textContent = "Stopping…";
    this.#controller.abort();
  }

  /** The engine's report. */
  readonly progress = (done: bigint, total: bigint): void => {
    const now = performance.now();
    if (now - this.#shown < REFRESH_MS && done < total) return;
    this.#shown = now;
    const pace = this.#meter.update(now, done, total);
    this.#bar.value = pace.fraction;
    const part = share(done, total);
    const texts = [part, `${size(done)} of ${size(total)}`];
    if (pace.perSecond) texts.push(rate(pace.perSecond));
    if (pace.secondsLeft !== undefined && done < total) texts.push(timeLeft(pace.secondsLeft));
    this.#figures.replaceChildren(...texts.map((text) => h("span", null, text)));
    this.#onShare?.(part);
    if (now - this.#spoken > SPEAK_MS) {
      this.#spoken = now;
      announce(`${this.#name}: ${[part, texts[3]].filter(Boolean).join(", ")}`);
    }
  };

  /** Takes it off the page. */
  end(): void {
    this.#onShare?.(undefined);
    this.element.remove();
  }
}
