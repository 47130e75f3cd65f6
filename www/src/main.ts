// The page's entry: starts the engine, takes files by picker and by drop, keeps the page for
// offline use. Everything else is in app.ts.

import { configure, version } from "sectora";
import { App } from "./app.ts";
import { byId } from "./dom.ts";
import { sweep } from "./save.ts";
import { MODULES } from "./modules.ts";

configure(MODULES);

const app = new App();

const choose = byId<HTMLInputElement>("choose");
choose.addEventListener("change", () => {
  const files = [...(choose.files ?? [])];
  // The same file may be chosen again after it has changed.
  choose.value = "";
  void app.choose(files);
});

// The whole page takes drops: missing the box must not navigate away to the file.
let depth = 0;
const dragging = (on: boolean): void => void document.body.classList.toggle("dragging", on);
addEventListener("dragenter", (event) => {
  event.preventDefault();
  depth++;
  dragging(true);
});
addEventListener("dragleave", () => {
  depth = Math.max(0, depth - 1);
  if (depth === 0) dragging(false);
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  dragging(false);
  void app.choose([...(event.dataTransfer?.files ?? [])]);
});

addEventListener("beforeunload", (event) => {
  if (app.busy) event.preventDefault();
});

byId("version").textContent = `Version ${version}.`;
void sweep().catch(() => {});

/** Keeps the page and its module for use without a network. */
async function keepOffline(): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
  await navigator.serviceWorker.ready;
  byId("offline").textContent = "It works without a network from now on.";
}
void keepOffline().catch(() => {});
