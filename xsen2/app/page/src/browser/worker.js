// Reads the area's pixels, runs the networks over them block by block, and hands back the bands: off the page's own thread.
import { cut, fillTogether, mirrored, repeated } from "./pixels.js";
import { open } from "./scene.js";

const SIDE = 252; // of a block, in 10 m pixels: as quick as larger ones, and a page shows how far it is

const here = (name) => new URL(name, self.location.href).href;
const sessions = new Map();
let ort = null;

/** A network, loaded once: thousands of small sums take seconds to load. */
function session(model) {
  if (!sessions.has(model.file)) sessions.set(model.file, loaded(model));
  return sessions.get(model.file);
}

async function loaded(model) {
  ort ??= import(here("ort/ort.wasm.min.mjs")).then((module) => {
    module.env.wasm.wasmPaths = here("ort/");
    // Threads need two headers from whoever serves the page (docs/app.md); without them there is one.
    module.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency || 1) : 1;
    module.env.logLevel = "error";
    return module;
  });
  const { InferenceSession } = await ort;
  return InferenceSession.create(here(`networks/${model.file}`), { executionProviders: ["wasm"], graphOptimizationLevel: "basic" });
}

/** One band over rows and columns of its own grid that lie in the image, DN, NaN where there are none. */
async function band(source, head, box, from, to, offset) {
  const image = await (await open(source)).getImage();
  const top = (head.north - box.north) / head.gsd, left = (box.west - head.west) / head.gsd;
  const [raw] = await image.readRasters({ window: [left + from[1], top + from[0], left + to[1], top + to[0]], samples: [0] });
  const nodata = head.nodata ?? 0, out = new Float32Array(raw.length), add = Math.fround(offset);
  for (let i = 0; i < raw.length; i++) out[i] = raw[i] === nodata || Number.isNaN(raw[i]) ? NaN : Math.fround(raw[i]) + add;
  return { data: out, height: to[0] - from[0], width: to[1] - from[1] };
}

/** Do a job: `area` is in 10 m pixels from the scene's corner, `top`, `left`, `tall`, `wide`. */
async function run({ scene, offset, area, models }) {
  const cell = Math.max(6, ...models.map((model) => model.multiple));
  const size = [(scene.box.north - scene.box.south) / 10, (scene.box.east - scene.box.west) / 10];
  const start = [Math.floor(area.top / cell) * cell, Math.floor(area.left / cell) * cell];
  const end = [Math.min(size[0], Math.ceil((area.top + area.tall) / cell) * cell), Math.min(size[1], Math.ceil((area.left + area.wide) / cell) * cell)];
  const whole = [end[0] - start[0], end[1] - start[1]];
  // The margin, and as much again: what fills nodata within the margin may lie as far off.
  const reach = 2 * Math.max(0, ...models.map((model) => model.margin));
  const tell = (stage, done, total, unit, share) => self.postMessage({ kind: "progress", stage, done, total, unit, share });

  const windows = {}; // band: the area and its context, mirrored beyond the image
  let done = 0;
  tell("reading", 0, scene.heads.length, "band", 0.01);
  await Promise.all(scene.heads.map(async (head) => {
    const f = head.gsd / 10;
    const places = [0, 1].map((axis) => mirrored((start[axis] - reach) / f, (end[axis] + reach) / f, size[axis] / f));
    const from = places.map((place) => place.reduce((p, q) => Math.min(p, q))), to = places.map((place) => place.reduce((p, q) => Math.max(p, q)) + 1);
    const seen = await band(scene.bands[head.name], head, scene.box, from, to, offset);
    const height = places[0].length, width = places[1].length, data = new Float32Array(height * width);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) data[y * width + x] = seen.data[(places[0][y] - from[0]) * seen.width + places[1][x] - from[1]];
    windows[head.name] = { data, height, width };
    tell("reading", ++done, scene.heads.length, "band", 0.01 + 0.14 * done / scene.heads.length);
  }));

  const measured = {}, sharp = {}, error = {};
  for (const head of scene.heads) {
    const f = head.gsd / 10, native = cut(windows[head.name], reach / f, reach / f, whole[0] / f, whole[1] / f);
    measured[head.name] = f > 1 ? repeated(native, f).data : native.data;
    if (f === 1) sharp[head.name] = measured[head.name];
  }
  const blocks = [];
  for (let y = 0; y < whole[0]; y += SIDE) for (let x = 0; x < whole[1]; x += SIDE) blocks.push([y, x, Math.min(SIDE, whole[0] - y), Math.min(SIDE, whole[1] - x)]);
  // By how long they take, about.
  const weights = models.map((model) => (model.produces.length > 2 ? 4 : 1)), all = weights.reduce((p, q) => p + q, 0) * blocks.length;
  let spent = 0, counted = 0;
  for (const [number, model] of models.entries()) {
    tell("starting", counted, models.length * blocks.length, "block", 0.15 + 0.83 * spent / all);
    const network = await session(model), { Tensor } = await ort, margin = model.margin;
    // What the network sees: the area with its margin, nodata filled from what lies up to a margin farther off.
    const grids = model.inputs.map((names) => {
      const f = Math.round(windows[model.bands[0]].height / windows[names[0]].height), edge = (reach - 2 * margin) / f;
      return { f, bands: names.map((name) => cut(windows[name], edge, edge, (whole[0] + 4 * margin) / f, (whole[1] + 4 * margin) / f)) };
    });
    fillTogether(grids, Math.ceil(margin / Math.max(...grids.map(({ f }) => f))));
    const inputs = grids.map(({ f, bands }) => bands.map((x) => ({ ...cut(x, margin / f, margin / f, (whole[0] + 2 * margin) / f, (whole[1] + 2 * margin) / f), f })));
    for (const name of model.produces) { sharp[name] = new Float32Array(whole[0] * whole[1]); error[name] = new Float32Array(whole[0] * whole[1]); }
    for (const [y, x, tall, wide] of blocks) {
      const feeds = Object.fromEntries(inputs.map((bands, i) => {
        const f = bands[0].f, h = (tall + 2 * margin) / f, w = (wide + 2 * margin) / f, data = new Float32Array(bands.length * h * w);
        bands.forEach((one, k) => {
          const part = cut(one, y / f, x / f, h, w).data;
          for (let j = 0; j < part.length; j++) data[k * h * w + j] = part[j] / model.scale;
        });
        return [network.inputNames[i], new Tensor("float32", data, [1, bands.length, h, w])];
      }));
      const made = await network.run(feeds);
      network.outputNames.forEach((output, k) => {
        const { data } = made[output];
        model.produces.forEach((name, i) => {
          const target = (k ? error : sharp)[name];
          for (let r = 0; r < tall; r++) for (let c = 0; c < wide; c++) target[(y + r) * whole[1] + x + c] = data[(i * tall + r) * wide + c] * model.scale;
        });
        made[output].dispose?.();
      });
      spent += weights[number];
      tell("sharpening", ++counted, models.length * blocks.length, "block", 0.15 + 0.83 * spent / all);
    }
    // A pixel is nodata where any band that the network reads has no data.
    for (const name of model.bands)
      measured[name].forEach((value, i) => { if (Number.isNaN(value)) for (const made of model.produces) sharp[made][i] = error[made][i] = NaN; });
  }
  const crop = (bands) => Object.fromEntries(Object.entries(bands).map(([name, data]) => [name, cut({ data, width: whole[1] }, area.top - start[0], area.left - start[1], area.tall, area.wide).data]));
  const result = { measured: crop(measured), sharp: crop(sharp), error: crop(error) };
  self.postMessage({ kind: "done", result }, Object.values(result).flatMap((bands) => Object.values(bands).map((data) => data.buffer)).filter((buffer, i, list) => list.indexOf(buffer) === i));
}

self.onmessage = async ({ data }) => {
  try {
    if (data.warm) for (const model of data.warm) await session(model).catch(() => sessions.delete(model.file)); // a job will say why
    else await run(data);
  } catch (problem) {
    self.postMessage({ kind: "failed", message: problem?.message ?? String(problem) });
  }
};
