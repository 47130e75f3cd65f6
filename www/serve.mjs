#!/usr/bin/env node
// Serves dist/ on 127.0.0.1 with the headers that the page's promises need. `--build` builds the package
// and the page first; `--port N` picks a port (default 8080, or the next free one).

import { spawnSync } from "node:child_process";
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, extname, join, normalize, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { HEADERS } from "./policy.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
  ".map": "application/json",
  ".webmanifest": "application/manifest+json",
};

/** Serves `folder`; gives the URL and a function that ends it. `port` 0: any. */
export async function serve({ folder = join(HERE, "dist"), port = 0 } = {}) {
  const server = createServer((request, response) => answer(folder, request, response));
  const listening = (at) =>
    new Promise((done, failed) => {
      server.once("error", failed);
      server.listen(at, "127.0.0.1", () => {
        server.off("error", failed);
        done();
      });
    });
  for (let at = port; ; at++) {
    try {
      await listening(at);
      break;
    } catch (error) {
      if (error.code !== "EADDRINUSE" || at >= port + 20) throw error;
    }
  }
  const close = () =>
    new Promise((done) => {
      server.close(done);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}/`, close };
}

function answer(folder, request, response) {
  const refuse = (status, text) => response.writeHead(status, { ...HEADERS, "Content-Type": "text/plain; charset=utf-8" }).end(`${text}\n`);
  if (request.method !== "GET" && request.method !== "HEAD") return refuse(405, "only GET");
  let path;
  try {
    path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  } catch {
    return refuse(400, "not a path");
  }
  const file = normalize(join(folder, path.endsWith("/") ? `${path}index.html` : path));
  const type = TYPES[extname(file)];
  // Nothing outside the folder, and nothing that is not part of a page.
  if (!file.startsWith(folder + sep) || !type) return refuse(404, "not found");
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat?.isFile()) return refuse(404, "not found");
  response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": stat.size, "Cache-Control": "no-cache" });
  if (request.method === "HEAD") return response.end();
  createReadStream(file).pipe(response);
}

function run(command, args, cwd) {
  const { status, error } = spawnSync(command, args, { cwd, stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { argv } = process;
  if (argv.includes("--build")) {
    run("npm", ["run", "--silent", "build", "-w", "sectora"], join(HERE, ".."));
    run("npm", ["run", "--silent", "build"], HERE);
  }
  const named = argv.indexOf("--port");
  const { url } = await serve({ port: named < 0 ? 8080 : Number(argv[named + 1]) });
  console.log(`The page is at ${url} (end with Ctrl-C)`);
}
