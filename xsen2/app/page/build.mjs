// Bundles the page into ../static, which goes into the wheel and not into git; with --browser FOLDER the page that
// needs no server, into that folder: the same page, with browser/engine.js in the place of api.js.
import { build } from "esbuild";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const [flag, folder] = process.argv.slice(2);
const alone = flag === "--browser";
const site = alone ? resolve(folder) : null;
const out = alone ? join(site, "static") : join(here, "..", "static");

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const engine = { name: "engine", setup: (one) => one.onResolve({ filter: /^\.\/api\.js$/ }, () => ({ path: join(here, "src", "browser", "engine.js") })) };
const result = await build({
  entryPoints: [join(here, "src", "main.js"), join(here, "src", "page.css"), ...(alone ? [join(here, "src", "browser", "worker.js")] : [])],
  outdir: out,
  entryNames: "[name]",
  plugins: alone ? [engine] : [],
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  legalComments: "eof",
  logLevel: "warning",
  metafile: true,
});
const page = await readFile(join(here, "src", "index.html"), "utf8");
// What a server says in a header: the page loads its own code alone, and asks for the scene's files wherever they are.
const policy = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src * blob: data:; img-src 'self' data: blob: https://tile.openstreetmap.org; worker-src 'self' blob:; base-uri 'none'; form-action 'none'";
if (alone) {
  await writeFile(join(site, "index.html"), page.replace("<title>", `<meta http-equiv="Content-Security-Policy" content="${policy}">\n<title>`));
  const ort = join(here, "node_modules", "onnxruntime-web", "dist");
  for (const file of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) await cp(join(ort, file), join(out, "ort", file));
} else await writeFile(join(out, "index.html"), page);
// Coasts for a map without any outside address: Natural Earth, public domain, 1:50 million.
await cp(join(here, "node_modules", "world-atlas", "land-50m.json"), join(out, "land.json"));

// Whose code is in the bundle, and under which terms: licences ask for their text to come along.
const names = new Set(
  Object.keys(result.metafile.inputs)
    .map((path) => path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1])
    .filter(Boolean),
);
const licences = {};
for (const name of [...names, "world-atlas", ...(alone ? ["onnxruntime-web"] : [])].sort()) {
  const folder = join(here, "node_modules", name);
  const about = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const files = (await readdir(folder)).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file));
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
  licences[`${name} ${about.version}`] = { licence: about.license ?? "see its text", text: texts.join("\n\n") };
}
await writeFile(join(out, "licences.json"), JSON.stringify(licences, null, 1));
