// Chromium with the built package in it: an empty page on 127.0.0.1 that has the package as
// `sectora`, a new profile in a folder of its own, and files given by path.

import { createReadStream, existsSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const TOP = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const WASM = join(TOP, "wasm");

/** Debian's; another by environment. */
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** For tests that need the browser: they are counted as skipped without it. */
export const needsChromium = { skip: existsSync(CHROMIUM) ? false : `${CHROMIUM} is not installed` };

const TYPES = { ".html": "text/html", ".js": "text/javascript", ".wasm": "application/wasm" };

const PAGE = `<!doctype html><meta charset="utf-8"><title>sectora</title><link rel="icon" href="data:,">
<input type="file" multiple>
<script type="module">
  import * as sectora from "/dist/browser.js";
  window.sectora = sectora;
  window.files = () => [...document.querySelector("input").files];
  window.sha = async (bytes) => [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))].map((b) => b.toString(16).padStart(2, "0")).join("");
</script>`;

function serve() {
  const requests = [];
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://x");
    const path = normalize(decodeURIComponent(url.pathname));
    requests.push(path);
    const type = TYPES[extname(path)];
    if (path === "/") {
      response.writeHead(200, { "content-type": "text/html" });
      return response.end(PAGE);
    }
    const file = join(WASM, path);
    if (!type || !/^\/dist(-contract)?\//.test(path) || !existsSync(file)) {
      response.writeHead(404);
      return response.end();
    }
    response.writeHead(200, { "content-type": type });
    return createReadStream(file).pipe(response);
  });
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve({ server, requests })));
}

/** Nothing here takes as long, except on a machine that is busy with something else. */
const PATIENCE = 180_000;

/** A browser with a page; `close` ends both and takes the profile away. */
export async function launch() {
  const { server, requests } = await serve();
  const profile = mkdtempSync(join(tmpdir(), "sectora-browser-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM,
    headless: true,
    timeout: PATIENCE,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const errors = [];
  page.on("pageerror", (e) => errors.push(e));
  const origin = `http://127.0.0.1:${server.address().port}`;
  await page.goto(`${origin}/`);
  await page.waitForFunction("window.sectora");
  return {
    page,
    requests,
    errors,
    origin,
    async close() {
      await context.close();
      server.close();
      rmSync(profile, { recursive: true, force: true });
    },
  };
}
