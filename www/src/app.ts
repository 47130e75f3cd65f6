// The page's course of events: files are chosen, one of them is opened with the others as its
// references, its sections are filled, and whatever ran for the image before is ended.

import { type FormatName, type Image, type OpenOptions, type Reference, SectoraError, open } from "sectora";
import { ChosenFiles, baseName } from "./chosen.ts";
import { announce, byId, focusOn, h } from "./dom.ts";
import { sentence } from "./facts.ts";
import { errorBox } from "./problem.ts";
import { size } from "./units.ts";
import { showCheck } from "./views/check.ts";
import { showConvert } from "./views/convert.ts";
import { bitmapTable, chainList, showFacts, snapshotTable } from "./views/details.ts";
import { showGraph } from "./views/graph.ts";
import { showMap } from "./views/map.ts";

const TITLE = document.title;

/** How the file at hand is to be opened. */
interface Look {
  file: File;
  format?: FormatName | undefined;
  snapshot?: string | undefined;
  /** Without its backing file, which the person does not have. */
  alone?: boolean | undefined;
}

export class App {
  #chosen = new ChosenFiles();
  /** Ends everything that runs for the open image. */
  #current = new AbortController();
  #image: Image | undefined;
  #busy = false;

  /** Files chosen or dropped: they take the place of all before. */
  async choose(files: File[]): Promise<void> {
    if (files.length === 0 || !this.#mayLeave()) return;
    this.#chosen = new ChosenFiles();
    this.#chosen.add(files);
    const first = files.length === 1 ? files[0] : await this.#findTop();
    if (first) await this.#look({ file: first });
  }

  /** A conversion is running: leaving would end it. */
  get busy(): boolean {
    return this.#busy;
  }

  #mayLeave(): boolean {
    return !this.#busy || window.confirm("A conversion is running. Cancel it?");
  }

  /** Of several files, the one that no other refers to. */
  async #findTop(): Promise<File | undefined> {
    const references = new Map<File, string[]>();
    for (const file of this.#chosen.list()) {
      const names: string[] = [];
      references.set(file, names);
      const note = (reference: Reference): null => {
        names.push(reference.name);
        return null;
      };
      try {
        await using image = await open(file, { backing: "ignore", resolve: note });
        const backing = (await image.info())["backing-filename"];
        if (backing !== undefined) names.push(backing);
      } catch {
        // Opening it in earnest will say what is wrong with it, if it comes to that.
      }
    }
    return this.#chosen.top(references);
  }

  async #look(look: Look): Promise<void> {
    this.#current.abort();
    const current = new AbortController();
    this.#current = current;
    await this.#image?.close().catch(() => {});
    this.#image = undefined;
    byId("problem").replaceChildren();
    byId("image").replaceChildren(h("p", { class: "title quiet" }, `Opening ${look.file.name}…`));
    document.title = TITLE;

    const options: OpenOptions = {
      name: look.file.name,
      resolve: this.#chosen.resolve,
      backing: look.alone ? "ignore" : "follow",
      format: look.format,
      snapshot: look.snapshot,
      signal: current.signal,
    };
    let image: Image;
    try {
      image = await open(look.file, options);
    } catch (error) {
      if (!current.signal.aborted) this.#failed(look, error);
      return;
    }
    if (current.signal.aborted) {
      await image.close().catch(() => {});
      return;
    }
    this.#image = image;
    try {
      await this.#show(look, image, current.signal);
    } catch (error) {
      if (!current.signal.aborted) this.#failed(look, error);
    }
  }

  #failed(look: Look, error: unknown): void {
    byId("image").replaceChildren();
    document.body.classList.add("opened");
    const wanted = error instanceof SectoraError ? error.wanted : undefined;
    const box = wanted ? this.#missing(look, wanted) : errorBox(error, `Opening ${look.file.name}`, [this.#asRaw(look, error)], "h1");
    byId("problem").replaceChildren(box);
    const heading = box.querySelector<HTMLElement>("h1");
    if (heading) focusOn(heading);
    announce(heading?.textContent ?? "");
  }

  /** A file whose contents cannot be read as what they say can still be looked at as bytes. */
  #asRaw(look: Look, error: unknown): HTMLElement | undefined {
    const kinds = ["Corrupt", "Unsupported", "Limit"];
    if (look.format === "raw" || !(error instanceof SectoraError) || !kinds.includes(error.kind)) return undefined;
    const button = h("button", { type: "button", class: "small", onclick: () => void this.#look({ file: look.file, format: "raw" }) }, "Open it as plain bytes (raw)");
    return h("div", { class: "actions" }, button);
  }

  /** Says which file is wanted, and takes it. */
  #missing(look: Look, wanted: Reference): HTMLElement {
    const name = baseName(wanted.name);
    const backing = wanted.kind === "backing";
    const input = h("input", {
      type: "file",
      multiple: true,
      id: "add",
      onchange: () => {
        this.#chosen.addFor(wanted, input.files ?? []);
        if (input.files?.length) void this.#look(look);
      },
    });
    return h(
      "div",
      { class: "box warning" },
      h("h1", null, `The file ${name} is needed too`),
      h(
        "p",
        null,
        h("code", null, baseName(wanted.referrer)),
        backing
          ? " holds only what changed since it was put on top of another image, its backing file: "
          : " keeps its data in a file of its own: ",
        h("code", null, wanted.name),
        ". A page can open only what you give it, so please add that file.",
      ),
      h(
        "div",
        { class: "actions" },
        h("label", { class: "button primary" }, input, h("span", null, `Add ${name}…`)),
        backing &&
          h("button", { type: "button", onclick: () => void this.#look({ ...look, alone: true }) }, "Look at it without"),
      ),
      backing && h("p", { class: "quiet" }, "Without it, all that lies in the backing file reads as zeroes: good for a look, not for a conversion."),
    );
  }

  async #show(look: Look, image: Image, signal: AbortSignal): Promise<void> {
    const info = await image.info();
    if (signal.aborted) return;
    document.body.classList.add("opened");
    document.title = `${image.name}: sectora`;
    const title = h("h1", { id: "image-title" }, image.name);
    const sections = [this.#title(look, image, title, sentence(info))];
    const add = (id: string, heading: string, body: HTMLElement | undefined): HTMLElement => {
      const div = h("div", null, body);
      if (body || !id.startsWith("?")) sections.push(sheet(id.replace("?", ""), heading, div));
      return div;
    };
    const map = add("map", "Map", undefined);
    showFacts(add("details", "Details", undefined), info, BigInt(look.file.size));
    add("?chain", "Backing chain", chainList(info));
    add("?snapshots", "Snapshots", snapshotTable(info, look.snapshot, (id) => this.#mayLeave() && void this.#look({ ...look, snapshot: id })));
    add("?bitmaps", "Bitmaps", bitmapTable(info));
    showGraph(add("graph", "Graph", undefined), info, (name) => this.#chosen.find(name), signal);
    const check = add("check", "Check", undefined);
    const convert = add("convert", "Convert", undefined);
    byId("image").replaceChildren(...sections);
    focusOn(title);
    announce(`${image.name}. ${sentence(info)}`);

    showConvert(convert, image, signal, (part) => {
      this.#busy = part !== undefined;
      document.title = part === undefined ? `${image.name}: sectora` : `${part}: ${image.name}`;
    });
    await Promise.all([showMap(map, image, signal), showCheck(check, image, signal)]);
  }

  #title(look: Look, image: Image, title: HTMLElement, text: string): HTMLElement {
    const others = this.#chosen.list();
    const actions = h("div", { class: "actions" });
    for (const [href, name] of [
      ["#map", "Map"],
      ["#details", "Details"],
      ["#graph", "Graph"],
      ["#check", "Check"],
      ["#convert", "Convert"],
    ] as const) {
      actions.append(h("a", { href }, name));
    }
    if (others.length > 1) {
      const options = others.map((file) => h("option", { value: file.name, selected: file === look.file }, `${file.name}, ${size(file.size)}`));
      const pick = h("select", {
        "aria-label": "Which of the chosen files to look at",
        onchange: () => {
          const file = others.find((f) => f.name === pick.value);
          if (file && this.#mayLeave()) void this.#look({ file });
        },
      }, ...options);
      actions.append(pick);
    }
    // Contents may claim to be another format than they are.
    const as: FormatName | undefined = image.format === "raw" ? undefined : "raw";
    if (as) actions.append(h("button", { type: "button", class: "small", onclick: () => this.#mayLeave() && void this.#look({ file: look.file, format: as }) }, "Open as plain bytes (raw)"));
    else if (look.format === "raw") actions.append(h("button", { type: "button", class: "small", onclick: () => this.#mayLeave() && void this.#look({ file: look.file }) }, "Open as what the contents say"));
    const notes: HTMLElement[] = [];
    if (look.snapshot !== undefined) {
      notes.push(
        h("p", null, `Showing the snapshot ${look.snapshot}, not the present state. `,
          h("button", { type: "button", class: "small", onclick: () => this.#mayLeave() && void this.#look({ ...look, snapshot: undefined }) }, "Show the present state")),
      );
    }
    if (look.alone) notes.push(h("p", { class: "box warning" }, "Shown without its backing file: what lies there reads as zeroes, here and in a conversion."));
    return h("div", { class: "title" }, title, h("p", { id: "sentence" }, text), ...notes, actions);
  }
}

function sheet(id: string, heading: string, body: HTMLElement): HTMLElement {
  return h("section", { class: "sheet", id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, heading), body);
}
