// Converts an image to raw with the npm package: node convert.mjs SOURCE TARGET
import { open } from "../../wasm/dist/node.mjs";

const [source, target] = process.argv.slice(2);
const image = await open(source, { format: "qcow2" });
await image.convert(target, { format: "raw" });
await image.close();
