// The page: find scenes, have them made 10 m, look.
import * as api from "./api.js";
import { curve, spectrum } from "./charts.js";
import { $, h, options, s, say } from "./dom.js";
import { composite, difference, RAMPS, single, Stage } from "./map.js";

const state = { about: null, area: null, source: "api", scenes: [], chosen: new Set(), query: null, jobs: [], open: null,
  shown: 0, pixel: null, series: {}, stretch: {}, waiting: null };

const PRESETS = [
  ["true", "True colour (B4, B3, B2)", ["B04", "B03", "B02"]],
  ["swir", "Shortwave infrared (B12, B8A, B4)", ["B12", "B8A", "B04"]],
  ["fine", "B12, B5, B1: nothing was measured at 10 m", ["B12", "B05", "B01"]],
  ["edge", "Red edge (B7, B6, B5)", ["B07", "B06", "B05"]],
  ["nir", "Infrared (B8, B4, B3)", ["B08", "B04", "B03"]],
  ["moist", "Moisture (B11, B8A, B2)", ["B11", "B8A", "B02"]],
];

const STAGES = { starting: "starting", searching: "looking up the scenes", reading: "reading pixels", sharpening: "making 10 m bands", writing: "writing files" };

/** Whether the browser itself does what a server would: the page without one, see browser/engine.js. */
const own = () => state.about?.engine === "browser";

const stage = new Stage($("map"), $("swipe"), (shape) => setArea(shape, false), (at) => askPixel(at));

// --- steps --------------------------------------------------------------------------------------------

function show(name) {
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-current", button.dataset.show === name);
  for (const id of ["find", "jobs", "look"]) $(id).hidden = id !== name;
  const looking = name === "look" && state.open;
  $("legend").hidden = !looking || !$("legend").childNodes.length;
  if (name === "find") stage.setPrints(state.prints ?? []);
}
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => show(button.dataset.show));

// --- theme --------------------------------------------------------------------------------------------

const system = matchMedia("(prefers-color-scheme: dark)");
function theme() {
  const wish = localStorage.getItem("xsen2-theme") ?? "auto";
  document.documentElement.toggleAttribute("data-dark", wish === "dark" || (wish === "auto" && system.matches));
  $("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[wish];
  $("theme").setAttribute("aria-label", `Theme: ${wish}`);
  stage.restyle();
}
$("theme").addEventListener("click", () => {
  const next = { auto: "light", light: "dark", dark: "auto" }[localStorage.getItem("xsen2-theme") ?? "auto"];
  localStorage.setItem("xsen2-theme", next);
  theme();
});
system.addEventListener("change", theme);
$("basemap").addEventListener("click", () => {
  const on = $("basemap").getAttribute("aria-pressed") !== "true";
  $("basemap").setAttribute("aria-pressed", on);
  stage.setStreets(on);
});

// --- area ---------------------------------------------------------------------------------------------

async function setArea(area, look = true) {
  try {
    const found = await api.measure(area);
    state.area = area;
    stage.world();
    stage.setArea(found.shape, look);
    const much = found.km2 > found.most;
    say($("area-said"), `${number(found.km2)} km²${much ? `: ${own() ? "this page" : "this server"} takes ${number(found.most)} km² in one job, so draw a smaller one` : `, of ${number(found.most)} km² at most`}.`, much);
    $("go").disabled = much;
    forgetScenes();
  } catch (error) {
    say($("area-said"), error.message, true);
  }
}

function drawing(button, kind) {
  const other = button.getAttribute("aria-pressed") === "true";
  for (const id of ["draw-box", "draw-polygon"]) $(id).setAttribute("aria-pressed", "false");
  hint("");
  if (other) { stage.stopDraw(); return; }
  button.setAttribute("aria-pressed", "true");
  hint(kind === "box" ? "Click two opposite corners. Escape gives up." : "Click the corners, the last one twice. Escape gives up.");
  stage.startDraw(kind, () => { button.setAttribute("aria-pressed", "false"); hint(""); });
}
$("draw-box").addEventListener("click", () => drawing($("draw-box"), "box"));
$("draw-polygon").addEventListener("click", () => drawing($("draw-polygon"), "polygon"));
$("use-view").addEventListener("click", () => setArea(stage.viewBox().map((v) => +v.toFixed(6)), false));
$("area-set").addEventListener("click", () => takeText($("area-text").value));
$("area-file").addEventListener("change", async (event) => {
  const file = event.target.files[0];
  event.target.value = "";
  if (!file) return;
  if (file.size > state.about.limits.body) { say($("area-said"), `${file.name} has ${number(file.size / 2 ** 20)} MB, and 1 MB is taken: simplify it.`, true); return; }
  takeText(await file.text());
});

function takeText(text) {
  const words = text.trim().split(/[\s,;]+/);
  let area;
  if (words.length === 4 && words.every((word) => word !== "" && Number.isFinite(+word))) area = words.map(Number);
  else {
    try { area = JSON.parse(text); } catch { say($("area-said"), "This is neither GeoJSON nor four numbers (west, south, east, north).", true); return; }
  }
  setArea(area);
}

function hint(text) {
  $("hint").textContent = text;
  $("hint").hidden = !text;
}

// --- scenes -------------------------------------------------------------------------------------------

$("cloud").addEventListener("input", () => { $("cloud-said").textContent = `${$("cloud").value} %`; });

$("search").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (own()) return;
  if (!state.area) { say($("area-said"), "Draw an area first, or paste one.", true); return; }
  const query = { area: state.area, start: $("start").value, end: $("end").value, cloud: +$("cloud").value, source: state.source };
  if (!query.start || !query.end) { say($("found-said"), "Give two dates.", true); return; }
  forgetScenes();
  $("go").disabled = true;
  say($("found-said"), `Asking ${sourceName()} …`);
  try {
    const found = await api.search(query);
    state.query = query;
    listScenes(found);
  } catch (error) {
    say($("found-said"), error.message, true);
    if (error.unreachable) $("found").replaceChildren(h("button", { type: "button", id: "use-sample", onclick: () => useSample("chosen") }, "Use the embedded sample"));
  } finally {
    $("go").disabled = false;
  }
});

function forgetScenes() {
  if (own()) return; // the scene that is open stays so
  state.scenes = [];
  state.chosen.clear();
  $("found").replaceChildren();
  $("found-said").textContent = "";
  $("start-job").hidden = true;
  $("run-said").textContent = "";
  prints();
}

function listScenes({ scenes, notes }) {
  state.scenes = scenes;
  if (!scenes.length) {
    say($("found-said"), "No scenes found: try other dates, more cloud, or another area.");
    return;
  }
  // Those that cover the area best and have the least cloud; of a pass, all tiles.
  const rank = (scene) => (scene.cloud ?? 50) + 100 * (1 - (scene.covers ?? 1));
  const best = [...scenes].sort((p, q) => rank(p) - rank(q))[0];
  for (const scene of scenes) if (scene.time.slice(0, 16) === best.time.slice(0, 16) && scene.tile === best.tile) state.chosen.add(scene.id);
  say($("found-said"), `${scenes.length} ${scenes.length === 1 ? "scene" : "scenes"} found. ${notes.join(" ")}`);
  const row = (scene) => {
    const box = h("input", { type: "checkbox", value: scene.id, onchange: () => { box.checked ? state.chosen.add(scene.id) : state.chosen.delete(scene.id); chosen(); } });
    box.checked = state.chosen.has(scene.id);
    return h("tr", { title: scene.id }, h("td", {}, h("label", {}, box, scene.time.slice(0, 10))), h("td", { class: "num" }, scene.cloud === null ? "?" : `${scene.cloud.toFixed(0)} %`),
      h("td", {}, scene.tile.replace("MGRS-", "")), h("td", { class: "num" }, scene.covers === null ? "" : `${(scene.covers * 100).toFixed(0)} %`));
  };
  const all = (on) => { for (const box of $("found").querySelectorAll("input")) { box.checked = on; on ? state.chosen.add(box.value) : state.chosen.delete(box.value); } chosen(); };
  $("found").replaceChildren(
    h("p", { class: "row" }, h("button", { type: "button", class: "plain", onclick: () => all(true) }, "Choose all"), h("button", { type: "button", class: "plain", onclick: () => all(false) }, "Choose none")),
    h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Date"), h("th", { class: "num", scope: "col" }, "Cloud"), h("th", { scope: "col" }, "Tile"), h("th", { class: "num", scope: "col" }, "Covers"))),
      h("tbody", {}, ...scenes.map(row)))));
  $("start-job").hidden = false;
  chosen();
}

function chosen() {
  const count = state.chosen.size, most = state.about.limits.dates;
  $("run").disabled = !count || count > most;
  $("run").textContent = count > 1 ? `Make 10 m bands of ${count} scenes` : "Make 10 m bands";
  say($("run-said"), count > most ? `${most} scenes are the most of one job.` : "", count > most);
  prints();
}

function prints() {
  state.prints = state.scenes.map((scene) => ({ shape: scene.footprint, chosen: state.chosen.has(scene.id) }));
  stage.setPrints(state.prints);
}

$("start-job").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("run").disabled = true;
  try {
    const started = own() ? await api.start({ ...asked(), title: $("title").value.trim() }) : await api.start({ ...state.query, scenes: state.scenes.filter((scene) => state.chosen.has(scene.id)).map((scene) => scene.id), method: $("method").value, title: $("title").value.trim() });
    state.waiting = started.id;
    show("jobs");
    await refresh();
  } catch (error) {
    say($("run-said"), error.message, true);
  } finally {
    $("run").disabled = !state.chosen.size;
  }
});

// --- a scene of one's own, where there is no server -------------------------------------------------------

let dropped = [];
$("scene-files").addEventListener("change", (event) => { takeFiles([...event.target.files]); event.target.value = ""; });
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => {
  if (!own() || !event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  if (name === "drop") { show("find"); takeFiles([...event.dataTransfer.files]); }
});

function takeFiles(files) {
  dropped = files;
  $("scene-text").value = "";
  openScene();
}

$("open-scene").addEventListener("submit", (event) => { event.preventDefault(); dropped = []; openScene(); });

async function openScene() {
  say($("scene-said"), "Reading the files' headers …");
  $("start-job").hidden = true;
  $("scene-open").disabled = true;
  try {
    const found = await api.openScene($("scene-text").value, dropped);
    state.scenes = [{ id: found.id, footprint: found.footprint }];
    state.chosen = new Set([found.id]);
    say($("scene-said"), `${found.id}${found.time ? `, ${found.time.slice(0, 10)}` : ""}: ${found.bands.length} bands, ${found.size.map(number).join(" × ")} km in EPSG:${found.epsg}. ${found.made.join(", ")} will be made at 10 m.`);
    $("offset").value = found.offset.value ?? "";
    say($("offset-said"), found.offset.why, found.offset.value === null);
    $("offset-row").hidden = false;
    $("start-job").hidden = false;
    stage.world();
    prints();
    if (state.area) stage.setArea((await api.measure(state.area)).shape);
    else stage.look(found.footprint);
  } catch (error) {
    say($("scene-said"), error.message, true);
  } finally {
    $("scene-open").disabled = false;
  }
}

function asked() {
  if (!state.area) throw new Error("Draw an area first, or paste one.");
  const offset = $("offset").value.trim() === "" ? NaN : +$("offset").value;
  if (!(offset >= -10000 && offset <= 0)) throw new Error("Say the offset: −1000 where pixels carry +1000, 0 where not.");
  return { area: state.area, offset };
}

// --- jobs ---------------------------------------------------------------------------------------------

let timer = null;
async function refresh() {
  clearTimeout(timer);
  let pause = 5000;
  try {
    const before = new Map(state.jobs.map((job) => [job.id, job.state]));
    state.jobs = await api.jobs();
    $("offline").hidden = true;
    listJobs();
    if (state.jobs.some((job) => active(job))) pause = 500;
    const done = state.jobs.find((job) => job.id === state.waiting && job.state === "done" && before.get(job.id) !== "done");
    if (done) { state.waiting = null; await open(done.id); }
  } catch (error) {
    say($("offline"), error.message, true);
    $("offline").hidden = false;
    pause = 1500;
  }
  timer = setTimeout(refresh, document.hidden ? 5000 : pause);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });

const active = (job) => job.state === "waiting" || job.state === "running";
const known = new Map();

function listJobs() {
  const busy = state.jobs.filter(active).length;
  $("busy").textContent = busy;
  $("busy").hidden = !busy;
  $("jobs-none").hidden = state.jobs.length > 0;
  const list = $("job-list");
  const ids = new Set(state.jobs.map((job) => job.id));
  for (const [id, item] of known) if (!ids.has(id)) { item.remove(); known.delete(id); }
  state.jobs.forEach((job, place) => {
    // A row is made anew when its state changes; while it runs only its numbers do, so that focus stays.
    let item = known.get(job.id);
    if (!item || item.dataset.state !== job.state) {
      const made = jobRow(job);
      if (item) item.replaceWith(made);
      known.set(job.id, made);
      item = made;
    }
    update(item, job);
    if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
  });
}

function jobRow(job) {
  const act = (text, what) => h("button", { type: "button", class: "plain", onclick: async () => { try { await what(job.id); } catch (error) { say($("jobs-none"), error.message, true); $("jobs-none").hidden = false; } await refresh(); } }, text);
  const buttons = { done: [act("Look", open), act("Delete", gone)], failed: [act("Try again", again), act("Delete", gone)], cancelled: [act("Go on", again), act("Delete", gone)] }[job.state] ?? [act("Cancel", api.cancel)];
  const item = h("li", {}, h("h3", {}, job.title || `${job.scenes} ${job.scenes === 1 ? "scene" : "scenes"}, ${job.source === "sample" ? "embedded sample" : state.about.source.name}`, h("span", {}, when(job.created))),
    active(job) ? h("progress", { max: 1, "aria-label": "How far the job is" }) : null, h("p", { class: "fine", role: "status" }), h("div", { class: "row" }, ...buttons));
  item.dataset.state = job.state;
  item.dataset.id = job.id;
  return item;
}

async function again(id) { await api.retry(id); state.waiting = id; }
async function gone(id) {
  await api.remove(id);
  if (state.open?.id === id) { state.open = null; stage.clear(); $("look-body").hidden = true; $("look-none").hidden = false; $("legend").hidden = true; sides(false); }
}

function update(item, job) {
  const line = item.querySelector("p"), bar = item.querySelector("progress");
  const p = job.progress;
  if (bar) bar.value = p.share ?? 0;
  const counted = p.total ? `, ${p.done} of ${p.total} ${p.unit}s` : "";
  const ahead = state.jobs.filter((one) => active(one) && one.created < job.created).length;
  const text = {
    waiting: ahead ? `waits for ${ahead} before it` : "waits for its turn",
    running: `${STAGES[p.stage] ?? p.stage ?? "starting"}${counted} (${Math.round((p.share ?? 0) * 100)} %)`,
    done: `done in ${duration(job.ended - job.began)}, ${number(job.bytes / 1e6)} MB`,
    failed: job.message,
    cancelled: "cancelled",
  }[job.state];
  if (line.textContent !== text) line.textContent = text;
  line.classList.toggle("bad", job.state === "failed");
}

// --- a result -----------------------------------------------------------------------------------------

async function open(id) {
  const job = await api.job(id);
  state.open = job;
  state.series = {};
  state.stretch = {};
  state.pixel = null;
  const result = job.result;
  show("look");
  $("look-none").hidden = true;
  $("look-body").hidden = false;
  $("look-title").textContent = job.title || `${result.dates.length === 1 ? result.times[0].slice(0, 10) : `${result.dates.length} dates`}, ${result.size.join(" × ")} pixels`;
  options($("date"), result.dates.map((date, i) => [date, result.times[i].replace("T", " ").replace("Z", " UTC")]));
  const bands = state.about.bands.filter((b) => result.bands.includes(b.name));
  for (const id of ["red", "green", "blue"]) options($(id), bands.map((b) => [b.name, `${b.name} · ${b.gsd} m`]));
  const presets = PRESETS.filter(([, , three]) => three.every((b) => result.bands.includes(b)));
  options($("preset"), [...presets.map(([key, text]) => [key, text]), ["own", "Own choice"]]);
  const indices = state.about.indices.filter((i) => result.bands.includes(i.a) && result.bands.includes(i.b));
  options($("index"), indices.map((i) => [i.name, `${i.name}: ${i.long_name}`]), "NDWI");
  options($("error"), result.errors.map((b) => [b, b]), "B11");
  document.querySelector("input[value=index]").disabled = !indices.length;
  document.querySelector("input[value=error]").disabled = !result.errors.length;
  document.querySelector("input[value=bands]").checked = true;
  const first = presets.find(([key]) => key === "swir") ?? presets[0];
  if (first) preset(first[0]);
  $("spectrum").replaceChildren();
  $("curve").replaceChildren();
  say($("pixel-said"), "Click into the image, or take its middle.");
  downloads();
  $("made").replaceChildren(...Object.entries({ Method: result.method, CRS: result.crs, "West, south, east, north": result.bounds.join(", "), Scenes: job.request.scenes.join(", "), Attribution: result.attribution, Took: duration(result.seconds), Notes: result.notes.join(" ") })
    .filter(([, text]) => text).flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
  stage.setDot(null);
  stage.setArea(Array.isArray(job.request.area) ? box(job.request.area) : (await api.measure(job.request.area)).shape, false);
  await draw(true);
}

const box = ([w, s_, e, n]) => ({ type: "Polygon", coordinates: [[[w, s_], [e, s_], [e, n], [w, n], [w, s_]]] });
const mode = () => document.querySelector("input[name=show]:checked").value;
const date = () => $("date").value;

let files = null;
async function draw(fit = false) {
  const { id, result } = state.open;
  const error = mode() === "error";
  for (const name of ["bands", "index", "error"]) $(`show-${name}`).hidden = name !== mode();
  stretchFields();
  const wish = `${id} ${date()} ${error}`;
  try {
    if (files !== wish || !stage.shown) {
      files = wish;
      const left = error ? null : api.image(id, "measured", date());
      const right = { ...api.image(id, error ? "error" : "sharp", date()), zero: error };
      await stage.show(left, right, style(), result.crs, fit ? result.bounds : stage.map.getView().calculateExtent());
    } else stage.restyleShown(style());
    sides(true, error);
    const share = result.valid[date()];
    say($("date-said"), share === 0 ? "There is no data on this date." : share < 0.9995 ? `${(share * 100).toFixed(1)} % of the pixels have data.` : "");
  } catch (problem) {
    say($("date-said"), problem.message, true);
  }
  legend();
}

function sides(on, error = false) {
  $("side-left").hidden = !on || error;
  $("side-right").hidden = !on;
  $("side-right").textContent = error ? "standard error" : "at 10 m";
}

/** What the stretch belongs to: three bands, an index, or an error. */
function subject() {
  if (mode() === "index") return `index ${$("index").value}`;
  if (mode() === "error") return `error ${$("error").value}`;
  return `bands ${$("red").value} ${$("green").value} ${$("blue").value}`;
}

function fresh() {
  const { result } = state.open;
  if (mode() === "index") return { low: -1, high: 1, gamma: 1, each: null };
  if (mode() === "error") return { low: 0, high: +(result.stretch[`${$("error").value}_se`][1] / 100).toFixed(2), gamma: 1, each: null };
  const each = ["red", "green", "blue"].map((id) => result.stretch[$(id).value]);
  return { low: null, high: null, gamma: 1, each };
}

function stretchFields() {
  const now = (state.stretch[subject()] ??= fresh());
  const bands = mode() === "bands";
  for (const unit of document.querySelectorAll(".unit")) unit.textContent = mode() === "index" ? "" : "%";
  $("low").value = now.low ?? "";
  $("high").value = now.high ?? "";
  $("gamma").value = now.gamma;
  $("low").placeholder = $("high").placeholder = bands ? "by band" : "";
  $("stretch-said").textContent = bands && now.each && now.low === null && now.high === null
    ? `Each band from its 2nd to its 98th percentile at 10 m, over all dates: ${["red", "green", "blue"].map((id, i) => `${$(id).value} ${(now.each[i][0] / 100).toFixed(1)} to ${(now.each[i][1] / 100).toFixed(1)} %`).join(", ")}. The same on both sides.`
    : bands ? "Reflectance, the same on both sides." : mode() === "index" ? "The same on both sides." : "Reflectance.";
}

function readStretch() {
  const now = (state.stretch[subject()] ??= fresh());
  const value = (id) => ($(id).value === "" ? null : +$(id).value);
  const low = value("low"), high = value("high"), gamma = value("gamma");
  now.gamma = gamma && gamma >= 0.2 && gamma <= 5 ? gamma : 1;
  if (mode() !== "bands" && (low === null || high === null)) Object.assign(now, { low: fresh().low, high: fresh().high });
  else if (low !== null && high !== null && high <= low) { say($("stretch-said"), "The brightest must be above the darkest.", true); return false; }
  else Object.assign(now, { low, high });
  $("stretch-said").classList.remove("bad");
  return true;
}

function style() {
  const { result } = state.open, now = state.stretch[subject()] ?? fresh();
  if (mode() === "error") return single(result.errors.indexOf($("error").value) + 1, result.errors.length, [now.low * 100, now.high * 100], now.gamma, "error");
  const at = (name) => result.bands.indexOf(name) + 1, count = result.bands.length;
  if (mode() === "index") {
    const spec = state.about.indices.find((i) => i.name === $("index").value);
    return difference(at(spec.a), at(spec.b), count, [now.low, now.high], now.gamma, ramp());
  }
  const limits = ["red", "green", "blue"].map((id) => {
    const own = result.stretch[$(id).value];
    const low = now.low === null ? own[0] : now.low * 100;
    return [low, Math.max(low + 1, now.high === null ? own[1] : now.high * 100)];
  });
  return composite(["red", "green", "blue"].map((id) => at($(id).value)), count, limits, now.gamma);
}

const ramp = () => (mode() === "error" ? "error" : $("index").value === "NDVI" ? "green" : "water");

function legend() {
  const now = state.stretch[subject()];
  $("legend").replaceChildren();
  if (mode() === "bands") { $("legend").hidden = true; return; }
  const svg = s("svg", { width: 170, height: 32, role: "img", "aria-label": `${subject()} from ${now.low} to ${now.high}` });
  const colours = RAMPS[ramp()];
  const gradient = s("linearGradient", { id: "ramp" }, ...colours.map((c, i) => s("stop", { offset: i / (colours.length - 1), "stop-color": c })));
  svg.append(s("defs", {}, gradient), s("rect", { width: 170, height: 12, fill: "url(#ramp)" }));
  for (const [x, anchor, text] of [[0, "start", now.low], [85, "middle", ((now.low + now.high) / 2).toFixed(2)], [170, "end", now.high]])
    svg.append(s("text", { x, y: 27, "text-anchor": anchor, fill: "currentColor" }, `${text}${mode() === "error" ? " %" : ""}`));
  $("legend").append(mode() === "error" ? `Standard error of ${$("error").value}, reflectance` : $("index").value, svg);
  $("legend").hidden = $("look").hidden;
}

function preset(key) {
  const found = PRESETS.find(([name]) => name === key);
  $("preset").value = key;
  if (found) ["red", "green", "blue"].forEach((id, i) => { $(id).value = found[2][i]; });
}

$("preset").addEventListener("change", () => { preset($("preset").value); draw(); });
for (const id of ["red", "green", "blue"]) $(id).addEventListener("change", () => {
  const now = ["red", "green", "blue"].map((c) => $(c).value).join();
  $("preset").value = PRESETS.find(([, , three]) => three.join() === now)?.[0] ?? "own";
  draw();
});
for (const input of document.querySelectorAll("input[name=show]")) input.addEventListener("change", () => { draw(); course(); });
$("index").addEventListener("change", () => { draw(); course(); });
$("error").addEventListener("change", () => draw());
$("date").addEventListener("change", async () => { await draw(); pixelCharts(); });
for (const id of ["low", "high", "gamma"]) $(id).addEventListener("change", () => { if (readStretch()) draw(); });
$("restretch").addEventListener("click", () => { delete state.stretch[subject()]; draw(); });

// --- a pixel ------------------------------------------------------------------------------------------

async function askPixel(at) {
  if (!state.open) return;
  const { id, result } = state.open;
  const [w, south, e, n] = result.bounds;
  if (at[0] < w || at[0] >= e || at[1] <= south || at[1] > n) { say($("pixel-said"), "This is outside of the image."); return; }
  show("look");
  try {
    const found = await api.pixel(id, at[0], at[1]);
    state.pixel = { ...found, at };
    const centre = [w + (found.column + 0.5) * 10, n - (found.row + 0.5) * 10];
    stage.setDot(stage.lonlat(centre));
    say($("pixel-said"), `Row ${found.row}, column ${found.column}; ${centre[0].toFixed(0)}, ${centre[1].toFixed(0)} in ${result.crs}.`);
    pixelCharts();
    await course();
  } catch (error) {
    say($("pixel-said"), error.message, true);
  }
}
$("pixel-middle").addEventListener("click", () => {
  const [w, south, e, n] = state.open.result.bounds;
  askPixel([(w + e) / 2, (south + n) / 2]);
});

function pixelCharts() {
  const found = state.pixel?.dates.find((one) => one.date === date());
  if (found) $("spectrum").replaceChildren(spectrum(state.about.bands, found, state.open.result.times[$("date").selectedIndex].slice(0, 10)));
}

async function course() {
  const { id, result } = state.open;
  if (!state.pixel || !$("index").value) return;
  const name = $("index").value;
  const area = (state.series[name] ??= (await api.series(id, name)).dates);
  $("curve").replaceChildren(curve(name, result.times, area, state.pixel.dates.map((one) => one.indices?.[name])));
}

// --- downloads ----------------------------------------------------------------------------------------

function downloads() {
  const { id, result } = state.open;
  const link = (text, href, name = true) => h("a", { href, download: name }, text);
  const kind = own() ? "GeoTIFF" : "COG";
  const rows = [];
  if (api.store(id)) rows.push(h("li", {}, h("span", {}, "All dates, with standard errors"), link("Zarr (zip)", api.store(id))));
  result.dates.forEach((one, i) => {
    const day = result.times[i].slice(0, 10);
    rows.push(h("li", {}, h("span", {}, `${day}, at 10 m`), link(kind, api.file(id, "sharp", one), own() && `xsen2-${one}-10m.tif`)));
    if (result.errors.length) rows.push(h("li", {}, h("span", {}, `${day}, standard errors`), link(kind, api.file(id, "error", one), own() && `xsen2-${one}-error.tif`)));
    rows.push(h("li", {}, h("span", {}, `${day}, as measured`), link(kind, api.file(id, "measured", one), own() && `xsen2-${one}-measured.tif`)));
  });
  $("downloads").replaceChildren(...rows);
}

$("png").addEventListener("click", async () => {
  const url = URL.createObjectURL(await stage.picture());
  const what = subject().replaceAll(" ", "-");
  const link = h("a", { href: url, download: `xsen2-${date()}-${what}.png` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});

// --- start --------------------------------------------------------------------------------------------

function useSample(why) {
  state.source = "sample";
  const scenes = state.about.sample, ring = scenes[0].footprint.coordinates[0];
  $("start").value = "2024-01-01";
  $("end").value = "2024-12-31";
  forgetScenes();
  sourceSaid(why);
  stage.world();
  state.prints = scenes.map((scene) => ({ shape: scene.footprint, chosen: true }));
  stage.setPrints(state.prints);
  const lons = ring.map((p) => p[0]), lats = ring.map((p) => p[1]);
  const [w, e] = [Math.min(...lons), Math.max(...lons)], [south, n] = [Math.min(...lats), Math.max(...lats)];
  setArea([w + (e - w) * 0.2, south + (n - south) * 0.2, e - (e - w) * 0.2, n - (n - south) * 0.2].map((v) => +v.toFixed(5)));
}

const sourceName = () => (state.source === "sample" ? "the embedded sample" : state.about.source.name);

function sourceSaid(why) {
  const { source } = state.about;
  if (own()) {
    $("source").textContent = "All of it happens in this browser: pixels of your area are fetched from where the scene lies, and nothing is sent anywhere.";
    return;
  }
  const back = source.sample_only ? null : h("button", { type: "button", class: "plain", onclick: () => { state.source = "api"; forgetScenes(); sourceSaid(); } }, `Search ${source.name}`);
  if (state.source === "sample") {
    const because = why === "unreachable" ? `${source.name} cannot be reached from here. ` : "";
    $("source").replaceChildren(because, "Scenes: ", h("b", {}, "the embedded sample"), ", drawn by code; two dates. ", back ?? "");
  } else
    $("source").replaceChildren("Scenes: ", h("b", {}, source.name), ` (${new URL(source.url).host}). `, h("button", { type: "button", class: "plain", onclick: () => useSample("chosen") }, "Use the sample"));
}

function number(value) {
  return value >= 100 ? Math.round(value).toLocaleString("en") : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
const duration = (seconds) => (seconds < 90 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`);
const when = (stamp) => new Date(stamp * 1000).toISOString().slice(0, 16).replace("T", " ");

async function begin() {
  theme();
  try {
    state.about = await api.about();
  } catch (error) {
    say($("offline"), error.message, true);
    $("offline").hidden = false;
    setTimeout(begin, 2000);
    return;
  }
  $("offline").hidden = true;
  const today = new Date(), day = (date_) => date_.toISOString().slice(0, 10);
  $("end").value = day(today);
  $("start").value = day(new Date(today - 60 * 86400e3));
  options($("method"), state.about.methods.map((m) => [m.name, m.name === "default" ? "default (best network)" : `${m.name} (${m.kind})`]), "default");
  $("jobs-kept").textContent = own() ? "Results are kept until this page is closed: download what you want to keep." : `Results are kept for ${state.about.keep.days} days, and ${state.about.keep.gb} GB of all together; then the oldest are deleted.`;
  $("foot").textContent = `xsen2 ${state.about.version}. Coasts: Natural Earth. ${own() ? "" : "Pixels never leave this server's machine but to this page."}`;
  for (const part of document.querySelectorAll("[data-engine]")) part.hidden = (part.dataset.engine === "browser") !== own();
  if (!state.about.source.reachable) useSample(state.about.source.sample_only ? "only" : "unreachable");
  else sourceSaid();
  document.documentElement.dataset.ready = "true";
  await refresh();
}
begin();
