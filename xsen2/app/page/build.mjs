// Bundles the page into ../static, which goes into the wheel and not into git.
import { build } from "esbuild";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
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

// Whose code is in the bundle.
const names = new Set(
  Object.keys(result.metafile.inputs)
    .map((path) => path.match(/.*node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1])
    .filter(Boolean),
);
const lines = [];
for (const name of [...names, "world-atlas"].sort()) {
  const about = JSON.parse(await readFile(join(here, "node_modules", name, "package.json"), "utf8"));
  lines.push(`${name} ${about.version}: ${about.license ?? JSON.stringify(about.licenses ?? "see its home page")}`);
}
await writeFile(join(out, "licences.json"), JSON.stringify(lines, null, 1));
