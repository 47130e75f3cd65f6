// The graph of nodes that an image is opened as: boxes and lines, details of the chosen node, and the
// monitor itself for those who want to ask more. It is read only: nothing can be written to from here.

import { type Engine, type ImageInfo, QmpError, type qapi, startEngine, toJson } from "sectora";
import { announce, h, svg, table } from "../dom.ts";
import { baseName } from "../chosen.ts";
import { chainOf } from "../facts.ts";
import { type Arrow, type Box, type Picture, boxText, boxWords, chainOptions, childrenOf, neighbour, picture, shortened } from "../graphmodel.ts";
import { MODULES } from "../modules.ts";
import { errorBox } from "../problem.ts";
import { size } from "../units.ts";

const [WIDTH, HEIGHT, GAP_X, GAP_Y] = [236, 64, 28, 56];
/** Events that are kept on the page. */
const EVENTS = 100;

/** Fills `body` with a button that opens the graph of the image. `find` has the files that were chosen. */
export function showGraph(body: HTMLElement, info: ImageInfo, find: (name: string) => File | undefined, signal: AbortSignal): void {
  const button = h("button", { type: "button", class: "small", onclick: () => void start() }, "Draw the graph");
  const offer = h(
    "div",
    { class: "actions" },
    button,
    h("span", { class: "quiet" }, "The nodes that QEMU’s block layer would open for this image, and the monitor (QMP) over them."),
  );
  body.replaceChildren(offer);

  const start = async (): Promise<void> => {
    button.disabled = true;
    button.textContent = "Opening…";
    let engine: Engine | undefined;
    try {
      engine = await startEngine(MODULES);
      const opened = engine;
      signal.addEventListener("abort", () => void opened.close().catch(() => {}), { once: true });
      const view = new GraphView(engine);
      await openChain(engine, info, find);
      await view.draw();
      if (signal.aborted) return;
      body.replaceChildren(view.element);
      view.focus();
    } catch (error) {
      await engine?.close().catch(() => {});
      if (signal.aborted) return;
      button.disabled = false;
      button.textContent = "Try again";
      body.replaceChildren(errorBox(error, "Opening the graph", [button]));
    }
  };
}

/** Attaches the files of a chain and adds the image as a node called `image`. */
async function openChain(engine: Engine, info: ImageInfo, find: (name: string) => File | undefined): Promise<void> {
  const levels = [];
  const attach = async (name: string): Promise<string> => {
    const file = find(name);
    if (file) await engine.attach(baseName(name), file);
    return baseName(name);
  };
  for (const level of chainOf(info)) {
    const specific = level["format-specific"];
    const data = specific?.type === "qcow2" ? specific.data["data-file"] : undefined;
    levels.push({
      filename: await attach(level.filename),
      format: level.format,
      dataFile: data === undefined ? undefined : await attach(data),
    });
  }
  const options = chainOptions(levels) as unknown as qapi.BlockdevOptions;
  await engine.execute({ execute: "blockdev-add", arguments: options });
}

class GraphView {
  readonly element: HTMLElement;
  readonly #engine: Engine;
  readonly #drawing = h("div", { class: "graph scroll" });
  readonly #details = h("div", { class: "graph-node", id: "graph-node" });
  readonly #table = h("div", null);
  readonly #boxes = new Map<Box, SVGGElement>();
  #picture: Picture = { boxes: [], lines: [], columns: 0, rows: 0 };
  #chosen: string | undefined;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.element = h(
      "div",
      null,
      this.#drawing,
      this.#details,
      h("details", null, h("summary", null, "The graph as a table"), this.#table),
      new Console(engine, () => this.draw()).element,
    );
  }

  focus(): void {
    const [first] = this.#boxes.values();
    first?.focus();
  }

  /** Asks what there is, and draws it anew. */
  async draw(): Promise<void> {
    const graph = await this.#engine.execute({ execute: "x-debug-query-block-graph" });
    const nodes = await this.#engine.execute({ execute: "query-named-block-nodes", arguments: { flat: true } });
    this.#picture = picture(graph, nodes);
    this.#show();
  }

  #show(): void {
    const { boxes, lines, columns, rows } = this.#picture;
    this.#boxes.clear();
    if (boxes.length === 0) {
      this.#drawing.replaceChildren(h("p", { class: "quiet" }, "There are no nodes."));
      this.#details.replaceChildren();
      this.#table.replaceChildren();
      return;
    }
    const x = (column: number): number => column * (WIDTH + GAP_X) + 4;
    const y = (row: number): number => row * (HEIGHT + GAP_Y) + 4;
    const [width, height] = [x(columns) - GAP_X + 4, y(rows) - GAP_Y + 4];
    const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": "The graph of nodes; arrow keys go from one to the next" });
    for (const { parent, child, role } of lines) {
      const siblings = childrenOf(parent, lines);
      // Lines that begin at one box leave it beside each other.
      const part = (siblings.findIndex((line) => line.child === child && line.role === role) + 1) / (siblings.length + 1);
      const [x1, y1] = [x(parent.column) + WIDTH * part, y(parent.row) + HEIGHT];
      const [x2, y2] = [x(child.column) + WIDTH / 2, y(child.row)];
      const middle = (y1 + y2) / 2;
      drawn.append(
        svg("path", { class: `line ${role === "backing" ? "backing" : ""}`, d: `M${x1} ${y1}C${x1} ${middle} ${x2} ${middle} ${x2} ${y2}` }),
        svg("text", { class: "role", x: x2 + 8, y: y2 - 8 }, role),
      );
    }
    for (const box of boxes) {
      const group = svg(
        "g",
        { class: "node", role: "button", tabindex: 0, transform: `translate(${x(box.column)} ${y(box.row)})`, "aria-label": boxWords(box, this.#picture), "aria-pressed": "false" },
        svg("rect", { width: WIDTH, height: HEIGHT, rx: 4 }),
        svg("text", {}, svg("tspan", { class: "label", x: 12, y: 26 }, shortened(box.label)), " ", svg("tspan", { x: 12, y: 48 }, boxText(box))),
      );
      group.addEventListener("click", () => this.#choose(box));
      group.addEventListener("keydown", (event) => this.#key(box, event));
      this.#boxes.set(box, group);
      drawn.append(group);
    }
    this.#drawing.replaceChildren(drawn);
    const uses = (box: Box): string => lines.filter(({ child }) => child === box).map(({ parent, role }) => `${role} of ${parent.label}`).join(", ");
    this.#table.replaceChildren(
      table("Every node", ["Node", "Driver", "Size", "Access", "Is"], boxes.map((box) => [box.label, box.driver, size(box.size), box.readOnly ? "read-only" : "writable", uses(box)])),
    );
    const chosen = boxes.find((box) => box.name === this.#chosen) ?? boxes.find((box) => box.row === 0);
    if (chosen) this.#choose(chosen);
  }

  #key(box: Box, event: KeyboardEvent): void {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#choose(box);
      announce(`${box.label} is shown below`);
    }
    if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    const to = neighbour(box, event.key as Arrow, this.#picture);
    if (to) this.#boxes.get(to)?.focus();
  }

  /** Shows what is known of a node. */
  #choose(box: Box): void {
    this.#chosen = box.name;
    for (const [other, group] of this.#boxes) group.setAttribute("aria-pressed", String(other === box));
    const fact = (term: string, value: string): HTMLElement => h("div", null, h("dt", null, term), h("dd", null, value));
    const uses = this.#picture.lines.filter(({ child }) => child === box);
    const list = [
      fact("Node name", box.name),
      fact("Driver", box.driver),
      fact("File", box.file),
      fact("Size", size(box.size)),
      fact("Access", box.readOnly ? "read-only" : "writable"),
      ...uses.map(({ parent, role, permissions }) => fact(`Used by ${parent.label}`, `as ${role}, for ${permissions.join(", ") || "nothing yet"}`)),
    ];
    this.#details.replaceChildren(h("h3", null, box.label), h("dl", { class: "facts" }, ...list));
  }
}

/** A line to type commands in, their answers, and events as they come. */
class Console {
  readonly element: HTMLElement;
  readonly #engine: Engine;
  readonly #changed: () => Promise<void>;
  readonly #input = h("textarea", { id: "command", rows: 3, spellcheck: false, autocomplete: "off", value: '{ "execute": "query-named-block-nodes" }' });
  readonly #answer = h("pre", { id: "answer", tabIndex: 0, "aria-label": "Answer", role: "region" });
  readonly #events = h("ol", { id: "events", class: "events" });

  constructor(engine: Engine, changed: () => Promise<void>) {
    this.#engine = engine;
    this.#changed = changed;
    const form = h(
      "form",
      {
        onsubmit: (event: Event) => {
          event.preventDefault();
          void this.#send();
        },
      },
      h("div", { class: "field" }, h("label", { for: "command" }, "Command (QMP)"), this.#input),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "small" }, "Send"), h("span", { class: "quiet" }, "Ctrl+Enter sends too. Commands reach only the files that you chose, and only for reading.")),
    );
    this.#input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    this.#answer.hidden = true;
    this.element = h("details", { class: "console" }, h("summary", null, "Talk to the monitor"), form, this.#answer, h("h3", null, "Events"), h("div", { role: "log", "aria-label": "Events" }, this.#events));
    void this.#listen();
  }

  async #listen(): Promise<void> {
    for await (const event of this.#engine.events()) {
      const { seconds, microseconds } = event.timestamp;
      const time = new Date(seconds * 1000 + microseconds / 1000).toLocaleTimeString();
      const data = event.data === undefined ? "" : toJson(event.data, 0);
      this.#events.append(h("li", null, h("code", null, `${time} ${event.event} ${data}`)));
      while (this.#events.childElementCount > EVENTS) this.#events.firstElementChild?.remove();
    }
  }

  async #send(): Promise<void> {
    let text: string;
    try {
      text = toJson({ return: await this.#engine.execute(JSON.parse(this.#input.value)) }, 2);
    } catch (error) {
      text = error instanceof QmpError ? toJson({ error: { class: error.class, desc: error.desc } }, 2) : `Not sent: ${error instanceof Error ? error.message : String(error)}`;
    }
    this.#answer.hidden = false;
    this.#answer.textContent = text;
    announce("The monitor has answered");
    await this.#changed().catch(() => {});
  }
}
