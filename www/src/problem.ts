// Errors as boxes: what happened in plain words, the engine's own words below, and what one can do.

import { SectoraError } from "sectora";
import { h } from "./dom.ts";
import { errorVerdict, type KindedError, type Verdict } from "./words.ts";

/** Whatever was thrown, as a kind and a text. */
export function asKinded(error: unknown): KindedError {
  if (error instanceof SectoraError) return { kind: error.kind, message: error.message };
  if (error instanceof DOMException && error.name === "AbortError") return { kind: "Cancelled", message: error.message };
  if (error instanceof DOMException && error.name === "QuotaExceededError") return { kind: "NoSpace", message: error.message };
  if (error instanceof DOMException && error.name.startsWith("Not")) return { kind: "Io", message: error.message };
  return { message: error instanceof Error ? error.message : String(error) };
}

export function isCancelled(error: unknown): boolean {
  return asKinded(error).kind === "Cancelled";
}

/** A verdict as a box. `heading`: `h1` where it is all that the page shows. */
export function verdictBox(verdict: Verdict, more: (Node | undefined)[] = [], heading: "h1" | "h3" = "h3"): HTMLElement {
  return h(
    "div",
    { class: `box ${verdict.tone}` },
    h(heading, null, verdict.title),
    h("p", null, verdict.meaning),
    verdict.advice && h("p", null, verdict.advice),
    ...more,
  );
}

/** An error as a box. `doing`: what was being done, as the beginning of a headline. */
export function errorBox(error: unknown, doing: string, more: (Node | undefined)[] = [], heading: "h1" | "h3" = "h3"): HTMLElement {
  const kinded = asKinded(error);
  const words = kinded.kind === "Cancelled" ? undefined : h("p", { class: "words" }, kinded.message);
  return verdictBox(errorVerdict(kinded, doing), [words, ...more], heading);
}
