// The picture of the allocation map: a grid of cells, each an equal part of the disk, filled with
// what lies there. Beside it the same in words, a slider that reads out any cell, and a table.

import type { Image } from "sectora";
import { h, table } from "../dom.ts";
import { CLASSES, CLASS_WORDS, type Cell, MapModel, cellWords, grid, runsCaption } from "../mapmodel.ts";
import { errorBox, isCancelled } from "../problem.ts";
import { TaskView } from "../task.ts";
import { hex, share, size } from "../units.ts";

const CELL = 10;
const GAP = 2;
const MAX_ROWS = 32;

/** Fills `body` with the map of an image. Ends when `signal` says so. */
export async function showMap(body: HTMLElement, image: Image, signal: AbortSignal): Promise<void> {
  const task = new TaskView("Reading the map", "Stop");
  body.replaceChildren(task.element);
  const stop = (): void => task.cancel();
  signal.addEventListener("abort", stop, { once: true });
  const model = new MapModel(image.size);
  let stopped = false;
  try {
    for await (const entries of image.mapEntries({ signal: task.signal, onProgress: task.progress })) {
      for (const entry of entries) model.add(entry);
    }
  } catch (error) {
    if (signal.aborted) return;
    if (!isCancelled(error)) {
      body.replaceChildren(errorBox(error, "The map"));
      return;
    }
    stopped = true;
  } finally {
    signal.removeEventListener("abort", stop);
    task.end();
  }
  draw(body, model, stopped, signal);
}

function draw(body: HTMLElement, model: MapModel, stopped: boolean, signal: AbortSignal): void {
  const summary = h("p", { id: "map-summary" }, stopped ? `Stopped; what was read so far: ${model.summary()}` : model.summary());
  if (model.size === 0n) {
    body.replaceChildren(summary);
    return;
  }
  const picture = new Picture(model);
  body.replaceChildren(summary, picture.element, legend(model), runsTable(model));
  picture.follow(signal);
}

/** The canvas and its slider. */
class Picture {
  readonly element: HTMLElement;
  readonly #model: MapModel;
  readonly #canvas = h("canvas", { role: "img", "aria-describedby": "map-summary", "aria-label": "Picture of what lies where on the disk" });
  readonly #slider = h("input", { type: "range", id: "map-cell", min: "0", value: "0", step: "1" });
  readonly #readout = h("output", { for: "map-cell", "aria-hidden": "true" });
  #columns = 0;
  #cells: Cell[] = [];
  #marked = -1;

  constructor(model: MapModel) {
    this.#model = model;
    this.#slider.addEventListener("input", () => this.#mark(Number(this.#slider.value)));
    this.#slider.addEventListener("focus", () => this.#mark(Number(this.#slider.value)));
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    this.#canvas.addEventListener("pointerdown", (event) => this.#point(event));
    this.element = h(
      "div",
      { class: "map" },
      this.#canvas,
      h("div", { class: "range" }, h("label", { for: "map-cell", class: "quiet" }, "Position on the disk"), this.#slider, this.#readout),
    );
  }

  /** Draws now, and again whenever the width or the colours change, until `signal`. */
  follow(signal: AbortSignal): void {
    const again = (): void => this.#layout();
    const observer = new ResizeObserver(again);
    observer.observe(this.element);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", again, { signal });
    signal.addEventListener("abort", () => observer.disconnect(), { once: true });
    this.#layout();
  }

  #layout(): void {
    const width = this.element.clientWidth;
    if (width === 0) return;
    const { columns, rows } = grid(width, CELL, GAP, MAX_ROWS);
    if (columns * rows !== this.#cells.length) {
      this.#cells = this.#model.cells(columns * rows);
      this.#marked = -1;
      this.#slider.max = String(columns * rows - 1);
      this.#slider.value = "0";
      this.#describe(0);
    }
    this.#columns = columns;
    const scale = window.devicePixelRatio || 1;
    const height = rows * (CELL + GAP) - GAP;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    this.#canvas.style.height = `${height}px`;
    this.#paint(width / columns, scale);
  }

  #paint(pitch: number, scale: number): void {
    const context = this.#canvas.getContext("2d");
    if (!context) return;
    const style = getComputedStyle(this.#canvas);
    const colours = CLASSES.map((is) => style.getPropertyValue(`--m-${is}`).trim());
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    const side = pitch - GAP;
    for (const [i, cell] of this.#cells.entries()) {
      const x = (i % this.#columns) * pitch;
      const y = Math.floor(i / this.#columns) * (CELL + GAP);
      context.fillStyle = colours.at(-1) ?? "";
      context.fillRect(x, y, side, CELL);
      // From the bottom up, in the legend's order; what is there at all is seen.
      let filled = 0;
      for (const [which, part] of cell.shares.entries()) {
        if (part <= 0 || which === CLASSES.length - 1 || filled >= CELL) continue;
        const height = Math.min(CELL - filled, Math.max(2, part * CELL));
        context.fillStyle = colours[which] ?? "";
        context.fillRect(x, y + CELL - filled - height, side, height);
        filled += height;
      }
    }
    if (this.#marked >= 0) {
      context.strokeStyle = style.color;
      context.lineWidth = 2;
      const x = (this.#marked % this.#columns) * pitch;
      const y = Math.floor(this.#marked / this.#columns) * (CELL + GAP);
      context.strokeRect(x - 1, y - 1, side + 2, CELL + 2);
    }
  }

  #point(event: PointerEvent): void {
    const width = this.element.clientWidth;
    const column = Math.min(this.#columns - 1, Math.floor((event.offsetX / width) * this.#columns));
    const row = Math.floor(event.offsetY / (CELL + GAP));
    const cell = row * this.#columns + column;
    if (cell < 0 || cell >= this.#cells.length || cell === this.#marked) return;
    this.#slider.value = String(cell);
    this.#mark(cell);
  }

  #mark(cell: number): void {
    this.#marked = cell;
    this.#describe(cell);
    this.#paint(this.element.clientWidth / this.#columns, window.devicePixelRatio || 1);
  }

  #describe(index: number): void {
    const cell = this.#cells[index];
    if (!cell) return;
    const { start, end } = this.#model.cellRange(index, this.#cells.length);
    const text = cellWords(cell, start, end);
    this.#readout.textContent = text;
    this.#slider.setAttribute("aria-valuetext", text);
  }
}

function legend(model: MapModel): HTMLElement {
  const items = CLASSES.filter((is) => model.totals[is] > 0n).map((is) =>
    h(
      "li",
      { title: CLASS_WORDS[is].long },
      h("span", { class: "swatch", "data-is": is, "aria-hidden": "true" }),
      h("span", null, CLASS_WORDS[is].short),
      h("span", { class: "mono" }, `${size(model.totals[is])}, ${share(model.totals[is], model.size)}`),
    ),
  );
  return h("ul", { class: "legend", "aria-label": "What the colours mean" }, ...items);
}

function runsTable(model: MapModel): HTMLElement {
  const details = h("details", null, h("summary", null, "The map as a table"));
  // Only when somebody wants it: it can be long.
  details.addEventListener(
    "toggle",
    () => {
      const rows = model.runs.map((run) => [
        h("span", { class: "mono" }, hex(run.start)),
        size(run.length),
        `${CLASS_WORDS[run.is].short}: ${CLASS_WORDS[run.is].long}`,
      ]);
      details.append(table(runsCaption(model), ["From", "Length", "What is there"], rows));
    },
    { once: true },
  );
  return details;
}
