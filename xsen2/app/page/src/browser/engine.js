// What the server does, done by the browser itself: the same calls as api.js, and nothing but the scene's files is asked for.
import { transform, transformExtent } from "ol/proj.js";
import { percentiles } from "./pixels.js";
import { scene } from "./scene.js";
import { geotiff } from "./tiff.js";

const NODATA = -32768;
const RADIUS = 6371.0072; // km, of the sphere with the Earth's area

let facts = null, opened = null, worker = null, running = null;
const all = [];

export async function about() {
  const response = await fetch("static/about.json");
  if (!response.ok) throw new Error("static/about.json is missing: the page was not copied whole.");
  facts = await response.json();
  return facts;
}

// --- areas --------------------------------------------------------------------------------------------

function positions(shape) {
  if (shape?.type === "FeatureCollection") return shape.features.flatMap(positions);
  if (shape?.type === "Feature") return positions(shape.geometry);
  if (shape?.type === "GeometryCollection") return shape.geometries.flatMap(positions);
  const flat = (value) => (typeof value?.[0] === "number" ? [value] : (value ?? []).flatMap(flat));
  return flat(shape?.coordinates);
}

export async function measure(area) {
  const crs = area?.crs?.properties?.name;
  if (crs && !/CRS84$|EPSG:+4326$/.test(crs)) throw new Error(`The area is in ${crs}: this page takes longitudes and latitudes.`);
  const points = Array.isArray(area) ? [[area[0], area[1]], [area[2], area[3]]] : positions(area);
  const lons = points.map(([lon]) => lon), lats = points.map(([, lat]) => lat);
  const [west, south, east, north] = [Math.min(...lons), Math.min(...lats), Math.max(...lons), Math.max(...lats)];
  if (!points.length || ![west, south, east, north].every(Number.isFinite) || east <= west || north <= south) throw new Error("This is no area: give GeoJSON, or west south east north in degrees.");
  if (south < -90 || north > 90 || west < -180 || east > 180) throw new Error("This is nowhere on the Earth: degrees are wanted, west south east north.");
  const rad = Math.PI / 180, km2 = RADIUS ** 2 * (east - west) * rad * (Math.sin(north * rad) - Math.sin(south * rad));
  const ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
  return { bbox: [west, south, east, north], km2: +km2.toFixed(3), most: facts.limits.km2, shape: { type: "Polygon", coordinates: [ring] } };
}

/** The 10 m pixels that the box of an area touches, from the scene's corner. */
function touched([west, south, east, north], { epsg, box }) {
  const [left, bottom, right, top] = transformExtent([west, south, east, north], "EPSG:4326", `EPSG:${epsg}`, 8);
  const near = 1e-6;
  const from = [Math.max(0, Math.floor((box.north - top) / 10 + near)), Math.max(0, Math.floor((left - box.west) / 10 + near))];
  const to = [Math.min((box.north - box.south) / 10, Math.ceil((box.north - bottom) / 10 - near)), Math.min((box.east - box.west) / 10, Math.ceil((right - box.west) / 10 - near))];
  if (to[0] <= from[0] || to[1] <= from[1]) throw new Error("The area lies outside the scene.");
  return { top: from[0], left: from[1], tall: to[0] - from[0], wide: to[1] - from[1] };
}

// --- scenes -------------------------------------------------------------------------------------------

/** Open the files that are named or dropped. */
export async function openScene(text, files) {
  opened = await scene(text, files, facts);
  const { epsg, box } = opened, code = `EPSG:${epsg}`;
  const corners = [[box.west, box.south], [box.east, box.south], [box.east, box.north], [box.west, box.north], [box.west, box.south]];
  const models = networks(opened);
  if (!running) started().postMessage({ warm: models }); // while an area is drawn
  return {
    id: opened.id, time: opened.time, offset: opened.offset, epsg, bands: opened.heads.map((head) => head.name), made: models.flatMap((model) => model.produces),
    size: [(box.east - box.west) / 1000, (box.north - box.south) / 1000],
    footprint: { type: "Polygon", coordinates: [corners.map((corner) => transform(corner, code, "EPSG:4326"))] },
  };
}

// --- jobs ---------------------------------------------------------------------------------------------

export const jobs = async () => all.map((one) => one.said);
export const job = async (id) => of(id).said;
const of = (id) => all.find((one) => one.said.id === id);

export async function start({ area, offset, title }) {
  if (!opened) throw new Error("Open a scene first.");
  const { bbox, km2, most } = await measure(area);
  if (km2 > most) throw new Error(`The area spans ${km2.toFixed(0)} km², and this page takes ${most}: draw a smaller one.`);
  const one = { scene: opened, offset, area: touched(bbox, opened), bbox, said: null };
  one.said = { id: String(all.length + Date.now()), title: title || opened.id, scenes: 1, source: "browser", state: "waiting", created: Date.now() / 1000, bytes: 0, progress: {}, request: { scenes: [opened.id], area: bbox } };
  all.unshift(one);
  next();
  return one.said;
}

export async function cancel(id) {
  const one = of(id);
  if (running === one) { worker.terminate(); worker = running = null; }
  if (one.said.state === "waiting" || one.said.state === "running") one.said = { ...one.said, state: "cancelled" };
  next();
}

export async function retry(id) {
  const one = of(id);
  one.said = { ...one.said, state: "waiting", progress: {}, created: Date.now() / 1000 };
  next();
}

export async function remove(id) {
  const one = of(id);
  for (const url of Object.values(one.urls ?? {})) URL.revokeObjectURL(url);
  all.splice(all.indexOf(one), 1);
}

function next() {
  if (running) return;
  const one = all.findLast((other) => other.said.state === "waiting");
  if (!one) return;
  running = one;
  one.said = { ...one.said, state: "running", began: Date.now() / 1000, progress: { stage: "starting", share: 0 } };
  const end = (more) => { one.said = { ...one.said, ended: Date.now() / 1000, ...more }; running = null; next(); };
  started().onmessage = ({ data }) => {
    if (data.kind === "progress") one.said = { ...one.said, progress: data };
    else if (data.kind === "failed") {
      worker.terminate(); // and with it whatever memory it holds
      worker = null;
      end({ state: "failed", message: worded(data.message) });
    }
    else {
      keep(one, data.result);
      end({ state: "done" });
      one.said.result.seconds = one.said.ended - one.said.began;
    }
  };
  worker.onerror = (event) => { worker = null; end({ state: "failed", message: worded(event.message ?? "the worker did not start") }); };
  const { scene, offset, area } = one;
  worker.postMessage({ scene: { bands: scene.bands, heads: scene.heads, box: scene.box }, offset, area, models: networks(scene) });
}

const started = () => (worker ??= new Worker(new URL("worker.js", import.meta.url), { type: "module" }));
const networks = ({ bands }) => facts.networks.filter((model) => model.bands.every((band) => bands[band]));

const worded = (text) => (/memory|allocat/i.test(text) ? `The browser has no memory for it (${text}): draw a smaller area, or close other pages.` : text);

/** Files of a result, and what the page needs to show them. */
function keep(one, { measured, sharp, error }) {
  const { scene, area, bbox } = one;
  const west = scene.box.west + 10 * area.left, north = scene.box.north - 10 * area.top;
  const bands = facts.bands.map((band) => band.name).filter((name) => sharp[name]), errors = bands.filter((name) => error[name]);
  const method = facts.networks.filter((model) => model.produces.some((name) => error[name])).map((model) => model.name).join(", ");
  const stamp = scene.time ?? new Date().toISOString(), date = stamp.slice(0, 10).replaceAll("-", "");
  const place = { epsg: scene.epsg, west, north, height: area.tall, width: area.wide, size: 10 };
  const tags = { xsen2_method: method, xsen2_version: facts.version, source: scene.id, units: "1e-4", offset_added: one.offset, time: stamp };
  const made = (of_, names) => geotiff(names.map(([name, key]) => ({ name, data: of_[key] })), place, NODATA, tags);
  one.blobs = { measured: made(measured, bands.map((name) => [name, name])), sharp: made(sharp, bands.map((name) => [name, name])), error: made(error, errors.map((name) => [`${name}_se`, name])) };
  one.urls = Object.fromEntries(Object.entries(one.blobs).map(([kind, blob]) => [kind, URL.createObjectURL(blob)]));
  one.pixels = { measured, sharp, error };
  const limits = (data) => { const [low, high] = percentiles(data, [2, 98]); return [+(low ?? 0).toFixed(1), +Math.max(high ?? 1, (low ?? 0) + 1).toFixed(1)]; };
  const some = sharp[bands[0]], valid = some.reduce((count, value) => count + !Number.isNaN(value), 0) / some.length;
  one.said.bytes = Object.values(one.blobs).reduce((total, blob) => total + blob.size, 0);
  one.said.request = { scenes: [scene.id], area: bbox };
  one.said.result = {
    dates: [date], times: [stamp.slice(0, 19).replace(/Z?$/, "Z")], bands, errors, made: errors, crs: `EPSG:${scene.epsg}`, bounds: [west, north - 10 * area.tall, west + 10 * area.wide, north],
    size: [area.wide, area.tall], stretch: { ...Object.fromEntries(bands.map((name) => [name, limits(sharp[name])])), ...Object.fromEntries(errors.map((name) => [`${name}_se`, limits(error[name])])) },
    valid: { [date]: valid }, method, attribution: facts.attribution, notes: [`${one.offset} DN were added to the files' pixels.`], seconds: 0,
  };
}

export const file = (id, kind) => of(id).urls[kind];
export const image = (id, kind) => ({ blob: of(id).blobs[kind] });
export const store = () => null;
export const search = null; // what a server alone can do

// --- looking ------------------------------------------------------------------------------------------

const ratio = (bands, { a, b }, at) => {
  if (!bands[a] || !bands[b]) return null;
  const value = (bands[a][at] - bands[b][at]) / (bands[a][at] + bands[b][at]);
  return Number.isFinite(value) ? +value.toFixed(4) : null;
};

export async function pixel(id, x, y) {
  const one = of(id), { bounds, dates, size } = one.said.result;
  const row = Math.floor((bounds[3] - y) / 10), column = Math.floor((x - bounds[0]) / 10), at = row * size[0] + column;
  const values = (bands) => Object.fromEntries(Object.entries(bands).map(([name, data]) => [name, Number.isNaN(data[at]) ? null : Math.round(data[at])]));
  const indices = Object.fromEntries(facts.indices.map((index) => [index.name, { measured: ratio(one.pixels.measured, index, at), sharp: ratio(one.pixels.sharp, index, at) }]));
  return { row, column, dates: [{ date: dates[0], measured: values(one.pixels.measured), sharp: values(one.pixels.sharp), error: values(one.pixels.error), indices }] };
}

export async function series(id, name) {
  const one = of(id), index = facts.indices.find((other) => other.name === name), { sharp } = one.pixels;
  const values = Float32Array.from(sharp[index.a], (_, i) => ratio(sharp, index, i) ?? NaN);
  const [low, median, high] = percentiles(values, [10, 50, 90]);
  const share = values.reduce((count, value) => count + !Number.isNaN(value), 0) / values.length;
  return { dates: [{ date: one.said.result.dates[0], median, low, high, share }] };
}
