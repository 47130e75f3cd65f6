// Converting: what will be written, where to, how far it is, and what became of it.

import type { Image } from "sectora";
import { announce, focusOn, h } from "../dom.ts";
import { type Choices, DEFAULTS, cleanName, conflicts, outputName, planWords, toOptions } from "../plan.ts";
import { errorBox, isCancelled } from "../problem.ts";
import { downloadLink, hasPicker, pickDestination, roomLeft, type Destination } from "../save.ts";
import { TaskView } from "../task.ts";
import { duration, rate, size } from "../units.ts";

/** Told when a conversion begins and ends, so that the page can warn before it is left. */
export type Busy = (part: string | undefined) => void;

/** Fills `body` with the form. `signal` ends whatever runs when another image is opened. */
export function showConvert(body: HTMLElement, image: Image, signal: AbortSignal, busy: Busy): void {
  new ConvertView(body, image, signal, busy).start();
}

class ConvertView {
  readonly #form: HTMLFormElement;
  readonly #name: HTMLInputElement;
  readonly #plan = h("p", { class: "quiet", id: "plan", role: "status" });
  readonly #outcome = h("div", { class: "outcome" });
  readonly #fields: HTMLFieldSetElement;
  readonly #body: HTMLElement;
  readonly #image: Image;
  readonly #signal: AbortSignal;
  readonly #busy: Busy;
  /** The name was typed by the person: it does not follow the format any more. */
  #named = false;
  #measuring: AbortController | undefined;

  constructor(body: HTMLElement, image: Image, signal: AbortSignal, busy: Busy) {
    this.#body = body;
    this.#image = image;
    this.#signal = signal;
    this.#busy = busy;
    const format = image.format === "qcow2" ? "raw" : "qcow2";
    this.#name = h("input", { type: "text", id: "option-name", name: "name", autocomplete: "off", spellcheck: false, value: outputName(image.name, format) });
    this.#fields = h(
      "fieldset",
      { "aria-label": "Options of the conversion" },
      h(
        "fieldset",
        { role: "radiogroup" },
        h("legend", null, "Convert to"),
        choice("format", "qcow2", format === "qcow2", "qcow2", "takes only the space of its data; for QEMU, KVM, Proxmox, libvirt"),
        choice("format", "raw", format === "raw", "raw", "the plain bytes of the disk; every program reads it"),
      ),
      h(
        "div",
        { class: "fields" },
        select("compression", "Compression", "none", { none: "none", zlib: "zlib: read by everything", zstd: "zstd: faster to read, needs QEMU 5.1 or later" }),
        h("div", { class: "field" }, h("label", { for: "option-name" }, "File name"), this.#name),
      ),
      h(
        "details",
        { class: "advanced" },
        h("summary", null, "Advanced options"),
        h(
          "div",
          { class: "fields" },
          select("clusterSize", "Cluster size", String(DEFAULTS.clusterSize), clusterSizes(), "The unit in which space is given out. 64 KiB suits nearly everybody."),
          select("compat", "Version", DEFAULTS.compat, { "1.1": "1.1 (version 3)", "0.10": "0.10 (version 2), for QEMU before 1.1" }),
          select("refcountBits", "Bits in a reference count", "16", Object.fromEntries([1, 2, 4, 8, 16, 32, 64].map((n) => [n, `${n}`]))),
          h("div", { class: "field" }, box("extendedL2", "Subclusters (extended L2 entries)"), box("lazyRefcounts", "Lazy reference counts")),
        ),
      ),
    );
    const button = h("button", { type: "submit", class: "primary" }, "Convert and save…");
    const where = hasPicker()
      ? "Next you choose where to save. The file is complete or not there at all."
      : "It is put together in this browser’s private storage, then given to you as a download.";
    this.#form = h(
      "form",
      { noValidate: true, "aria-describedby": "plan" },
      this.#fields,
      this.#plan,
      h("div", { class: "actions" }, button, h("span", { class: "quiet" }, where)),
    );
  }

  start(): void {
    this.#form.addEventListener("change", () => this.#changed());
    this.#name.addEventListener("input", () => (this.#named = true));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.#convert();
    });
    this.#signal.addEventListener("abort", () => this.#measuring?.abort(), { once: true });
    this.#body.replaceChildren(this.#form, this.#outcome);
    this.#changed();
  }

  #choices(): Choices {
    const data = new FormData(this.#form);
    const text = (key: string): string => String(data.get(key) ?? "");
    return {
      format: text("format") === "raw" ? "raw" : "qcow2",
      compression: (text("compression") || "none") as Choices["compression"],
      compat: text("compat") === "0.10" ? "0.10" : "1.1",
      clusterSize: Number(text("clusterSize")) || DEFAULTS.clusterSize,
      refcountBits: Number(text("refcountBits")) || DEFAULTS.refcountBits,
      extendedL2: data.has("extendedL2"),
      lazyRefcounts: data.has("lazyRefcounts"),
    };
  }

  #changed(): void {
    const choices = this.#choices();
    const raw = choices.format === "raw";
    for (const control of this.#form.querySelectorAll<HTMLElement>("[name=compression], .advanced")) {
      const field = control.closest<HTMLElement>(".field, .advanced");
      if (field) field.hidden = raw;
    }
    if (!this.#named) this.#name.value = outputName(this.#image.name, choices.format);
    void this.#measure(choices);
  }

  async #measure(choices: Choices): Promise<void> {
    this.#measuring?.abort();
    const [conflict] = conflicts(choices);
    if (conflict) {
      this.#plan.textContent = conflict;
      return;
    }
    const measuring = new AbortController();
    this.#measuring = measuring;
    try {
      const { compressed: _, sparseSize: __, ...options } = toOptions(choices) as ReturnType<typeof toOptions> & { compressed?: boolean };
      const measured = await this.#image.measure({ ...options, signal: measuring.signal });
      const room = hasPicker() ? undefined : await roomLeft();
      if (measuring.signal.aborted) return;
      const short = room !== undefined && choices.compression === "none" && measured.required > room;
      const warning = short ? ` That is more than the ${size(room)} that this browser gives to a page: it will probably fail.` : "";
      this.#plan.textContent = planWords(choices, measured) + warning;
    } catch (error) {
      if (!measuring.signal.aborted) this.#plan.textContent = `How large it gets cannot be told: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  async #convert(): Promise<void> {
    const choices = this.#choices();
    const name = cleanName(this.#name.value);
    const [conflict] = conflicts(choices);
    if (conflict || !name) {
      this.#plan.textContent = conflict ?? "Give the file a name.";
      announce(this.#plan.textContent);
      if (!name) this.#name.focus();
      return;
    }
    this.#outcome.replaceChildren();
    let destination: Destination | undefined;
    try {
      destination = await pickDestination(name);
    } catch (error) {
      this.#show(errorBox(error, "Saving"));
      return;
    }
    if (destination) await this.#run(choices, destination);
  }

  async #run(choices: Choices, destination: Destination): Promise<void> {
    const task = new TaskView("Converting", "Cancel", this.#busy);
    const stop = (): void => task.cancel();
    this.#signal.addEventListener("abort", stop, { once: true });
    this.#fields.disabled = true;
    this.#form.hidden = true;
    this.#outcome.replaceChildren(h("p", null, "Writing ", h("code", null, destination.name), "…"), task.element);
    task.cancelButton.focus();
    announce(`Converting to ${destination.name}`);
    task.progress(0n, this.#image.size);
    const begun = performance.now();
    let outcome: HTMLElement;
    try {
      const { size: written } = await this.#image.convert(destination.target, { ...toOptions(choices), signal: task.signal, onProgress: task.progress });
      const seconds = (performance.now() - begun) / 1000;
      const file = await destination.finish();
      outcome = this.#done(destination, file, written, seconds);
    } catch (error) {
      await destination.discard();
      outcome = errorBox(error, isCancelled(error) ? "Converting" : `Converting to ${destination.name}`);
    }
    this.#signal.removeEventListener("abort", stop);
    task.end();
    this.#fields.disabled = false;
    this.#form.hidden = false;
    // With the form back in its place, so that it is the outcome that is seen.
    this.#show(outcome);
  }

  #done(destination: Destination, file: File | undefined, written: bigint, seconds: number): HTMLElement {
    const { name } = destination;
    const pace = `The disk of ${size(this.#image.size)} took ${duration(seconds)}, ${rate(Number(this.#image.size) / Math.max(seconds, 0.001))}.`;
    if (!file) {
      return h("div", { class: "box good" }, h("h3", null, `Saved ${name}, ${size(written)}`), h("p", null, pace));
    }
    const link = downloadLink(file, name);
    link.className = "button small";
    const outcome = h("div", { class: "box good" });
    const remove = h(
      "button",
      {
        type: "button",
        class: "small",
        onclick: async () => {
          URL.revokeObjectURL(link.href);
          await destination.discard();
          outcome.replaceChildren(h("h3", null, "The browser’s copy is deleted"));
          this.#show(outcome);
        },
      },
      "Delete the browser’s copy",
    );
    outcome.append(
      h("h3", null, `${name}, ${size(written)}, is complete and handed to your downloads`),
      h("p", null, pace),
      h("p", { class: "quiet" }, "The browser keeps a copy in its private storage until this tab is closed. Delete it only when the download has finished."),
      h("div", { class: "actions" }, link, remove),
    );
    link.click();
    return outcome;
  }

  /** Shows how it ended, and takes keyboard and screen reader there. */
  #show(outcome: HTMLElement): void {
    this.#outcome.replaceChildren(outcome);
    const heading = outcome.querySelector<HTMLElement>("h3");
    if (heading) {
      focusOn(heading);
      announce(heading.textContent ?? "");
    }
  }
}

function choice(name: string, value: string, checked: boolean, label: string, note: string): HTMLElement {
  return h("label", { class: "choice" }, h("input", { type: "radio", name, value, checked }), h("span", null, label, h("small", null, note)));
}

function box(name: string, label: string): HTMLElement {
  return h("label", { class: "choice" }, h("input", { type: "checkbox", name }), h("span", null, label));
}

function select(name: string, label: string, value: string, options: Record<string, string>, note?: string): HTMLElement {
  // Keys that look like numbers would come in their own order: here that is the right one.
  const list = Object.entries(options).map(([key, text]) => h("option", { value: key, selected: key === value }, text));
  const id = `option-${name}`;
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    h("select", { name, id, "aria-describedby": note && `${id}-note` }, ...list),
    note && h("small", { id: `${id}-note` }, note),
  );
}

function clusterSizes(): Record<string, string> {
  const out: Record<string, string> = {};
  for (let bytes = 512; bytes <= 2 << 20; bytes *= 2) out[bytes] = size(bytes);
  return out;
}
