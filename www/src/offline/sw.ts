// The service worker: keeps one complete version of the page and answers from it. A new version is
// fetched whole before it is used, and old ones are deleted; a page never gets parts of two.


export {};

declare const self: ServiceWorkerGlobalScope;
/** Filled in by the build: a digest of all files, and their names. */
declare const VERSION: string;
declare const FILES: string[];

const PREFIX = "sectora-page-";
const CACHE = PREFIX + VERSION;

self.addEventListener("install", (event) => {
  const keep = async (): Promise<void> => {
    const cache = await caches.open(CACHE);
    // Past the HTTP cache: it may hold files of an older version.
    await cache.addAll(FILES.map((file) => new Request(file, { cache: "reload" })));
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const tidy = async (): Promise<void> => {
    for (const name of await caches.keys()) {
      if (name.startsWith(PREFIX) && name !== CACHE) await caches.delete(name);
    }
    await self.clients.claim();
  };
  event.waitUntil(tidy());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || url.origin !== self.location.origin) return;
  const answer = async (): Promise<Response> => {
    const cache = await caches.open(CACHE);
    const page = event.request.mode === "navigate" ? "./" : event.request;
    return (await cache.match(page, { ignoreSearch: true })) ?? (await fetch(event.request));
  };
  event.respondWith(answer());
});
