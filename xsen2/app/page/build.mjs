// Bundles the page into ../static, which goes into the wheel and not into git.
import { build } from "esbuild";
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "static");

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
const result = await build({
  entryPoints: [join(here, "src", "main.js"), join(here, "src", "page.css")],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022"],
  legalComments: "eof",
  logLevel: "warning",
  metafile: true,
});
await cp(join(here, "src", "index.html"), join(out, "index.html"));
// Coasts for a map without any outside address: Natural Earth, public domain, 1:50 million.
await cp(join(here, "node_modules", "world-atlas", "land-50m.json"), join(out, "land.json"));

// Whose code is in the bundle, and under which terms: licences ask for their text to come along.
const names = new Set(
  Object.keys(result.metafile.inputs)
    .map((path) => path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1])
    .filter(Boolean),
);
const licences = {};
for (const name of [...names, "world-atlas"].sort()) {
  const folder = join(here, "node_modules", name);
  const about = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const files = (await readdir(folder)).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file));
  const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
  licences[`${name} ${about.version}`] = { licence: about.license ?? "see its text", text: texts.join("\n\n") };
}
await writeFile(join(out, "licences.json"), JSON.stringify(licences, null, 1));
