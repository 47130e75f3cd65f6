// The check: runs by itself, says in words what it found, and lists the places for those who repair.

import { type CheckResult, type Image, SectoraError } from "sectora";
import { announce, h, table } from "../dom.ts";
import { errorBox, isCancelled, verdictBox } from "../problem.ts";
import { TaskView } from "../task.ts";
import { count, hex } from "../units.ts";
import { checkVerdicts } from "../words.ts";

/** Findings in the table. */
const SHOWN = 200;
const KIND_WORDS = { leak: "leak", corruption: "damage", error: "not readable", note: "remark" } as const;

/** Fills `body` with the check of an image. Ends when `signal` says so. */
export async function showCheck(body: HTMLElement, image: Image, signal: AbortSignal): Promise<void> {
  const task = new TaskView("Checking", "Stop the check");
  body.replaceChildren(task.element);
  const stop = (): void => task.cancel();
  signal.addEventListener("abort", stop, { once: true });
  try {
    const result = await image.check({ signal: task.signal, onProgress: task.progress });
    if (!signal.aborted) draw(body, result);
  } catch (error) {
    if (signal.aborted) return;
    if (error instanceof SectoraError && error.kind === "Unsupported") {
      body.replaceChildren(...checkVerdicts(null, image.format).map((v) => verdictBox(v)));
      return;
    }
    const retry = h("button", { type: "button", class: "small", onclick: () => void showCheck(body, image, signal) }, "Check again");
    body.replaceChildren(errorBox(error, "The check", [retry]));
    if (isCancelled(error)) retry.focus();
  } finally {
    signal.removeEventListener("abort", stop);
    task.end();
  }
}

function draw(body: HTMLElement, result: CheckResult): void {
  const verdicts = checkVerdicts(
    {
      format: result.format,
      checkErrors: result["check-errors"],
      corruptions: result.corruptions,
      leaks: result.leaks,
      allocatedClusters: result["allocated-clusters"],
      totalClusters: result["total-clusters"],
      fragmentedClusters: result["fragmented-clusters"],
      compressedClusters: result["compressed-clusters"],
    },
    result.format,
  );
  body.replaceChildren(...verdicts.map((v) => verdictBox(v)));
  const [first] = verdicts;
  if (first) announce(`Check: ${first.title}`);
  if (result.findings.length > 0) body.append(findings(result));
}

function findings(result: CheckResult): HTMLElement {
  const shown = result.findings.slice(0, SHOWN);
  const all = Math.max(result.findings.length, (result.corruptions ?? 0) + (result.leaks ?? 0) + result["check-errors"]);
  const caption = shown.length < all ? `The first ${count(shown.length)} of ${count(all)} findings` : "Every finding";
  const rows = shown.map((f) => [
    KIND_WORDS[f.kind],
    h("span", { class: "mono" }, f.offset === undefined ? "" : hex(f.offset)),
    f.what,
  ]);
  return h("details", null, h("summary", null, "Findings one by one"), table(caption, ["Kind", "Place in the file", "What"], rows));
}
