// What the page may do, said once: the build puts it into the HTML and into `_headers`, the server
// sends it. `connect-src 'self'` is the promise that nothing leaves the computer, kept by the browser:
// the only thing the page fetches is its own module, from where it came itself.

const RULES = {
  "default-src": "'none'",
  "script-src": "'self' 'wasm-unsafe-eval'",
  "worker-src": "'self'",
  "connect-src": "'self'",
  "style-src": "'self'",
  "img-src": "'self'",
  "manifest-src": "'self'",
  "base-uri": "'none'",
  "form-action": "'none'",
};

const join = (rules) =>
  Object.entries(rules)
    .map(([name, value]) => `${name} ${value}`)
    .join("; ");

/** For `<meta http-equiv>`, where some rules do not count. */
export const META_POLICY = join(RULES);

/** Headers for every file. */
export const HEADERS = {
  "Content-Security-Policy": join({ ...RULES, "frame-ancestors": "'none'" }),
  "X-Content-Type-Options": "nosniff",
  "Referrer-Policy": "no-referrer",
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Resource-Policy": "same-origin",
  "Permissions-Policy": "camera=(), geolocation=(), microphone=(), usb=()",
};
