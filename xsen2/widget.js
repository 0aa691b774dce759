// The map in the notebook: a canvas over pixels that the kernel sends. No library, no address outside.

const PRESETS = {
  "Shortwave infrared (B12, B8A, B4)": ["B12", "B8A", "B04"],
  "True colour (B4, B3, B2)": ["B04", "B03", "B02"],
  "B12, B5, B1": ["B12", "B05", "B01"],
  "Red edge (B7, B6, B5)": ["B07", "B06", "B05"],
};
const RAMP = [[122, 74, 18], [201, 166, 107], [244, 239, 226], [127, 183, 207], [11, 74, 111]];

function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    key.startsWith("on") ? made.addEventListener(key.slice(2), value) : made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function render({ model, el: root }) {
  const info = model.get("info");
  const [width, height] = info.size;
  const names = info.bands.map((band) => band.name);
  const both = info.sides.length > 1;
  let centre = [width / 2, height / 2], scale = 1, share = 0.5, drawing = false, from = null, rectangle = null, spot = null;
  let tiles = {}, asked = 0, timer = null, stretch = null, waiting = new Map();

  const pick = (label, options, chosen, onchange) => {
    const select = el("select", { onchange }, ...options.map(([value, text]) => el("option", { value }, text)));
    if (chosen !== undefined) select.value = chosen;
    return [el("label", {}, label, select), select];
  };
  const presets = Object.entries(PRESETS).filter(([, three]) => three.every((b) => names.includes(b)));
  const shows = [...presets.map(([text]) => [`preset ${text}`, text]), ...info.indices.map((i) => [`index ${i.name}`, `${i.name}: ${i.long_name}`]), ["own", "Own choice of bands"]];
  const [showLabel, show] = pick("Show", shows, shows[0][0], () => { stretch = null; sync(); ask(); });
  const [dateLabel, date] = pick("Date", info.dates.map((d, i) => [String(i), d || "one"]), "0", () => { stretch = null; ask(); });
  const own = ["Red", "Green", "Blue"].map((label, i) => pick(label, info.bands.map((b) => [b.name, `${b.name} · ${b.gsd} m`]), (presets[0]?.[1] ?? names)[i], () => { show.value = "own"; stretch = null; sync(); ask(); }));
  const low = el("input", { type: "number", step: "any", onchange: restretch }), high = el("input", { type: "number", step: "any", onchange: restretch });
  const draw = el("button", { type: "button", "aria-pressed": "false", onclick: () => press(!drawing) }, "Draw a rectangle");
  const canvas = el("canvas", { tabindex: "0", role: "application", "aria-label": "Map: arrow keys move it, plus and minus change its scale, Enter asks for the middle pixel" });
  const swipe = el("div", { class: "swipe", role: "slider", tabindex: "0", "aria-label": "Swipe: as measured on the left, 10 m on the right", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "50" });
  const stage = el("div", { class: "stage" }, canvas, ...(both ? [swipe, el("span", { class: "side left" }, "as measured"), el("span", { class: "side right" }, `at ${info.resolution} m`)] : []));
  stage.style.height = `${model.get("height")}px`;
  const said = el("div", { class: "said", role: "status" }), chart = el("div", { class: "chart" });
  root.classList.add("xsen2-map");
  root.append(el("div", { class: "bar" }, showLabel, ...own.map(([label]) => label), dateLabel),
    el("div", { class: "bar" }, el("label", {}, "Darkest", low), el("label", {}, "Brightest", high), el("button", { type: "button", onclick: () => { stretch = null; paint(); } }, "Stretch to what is shown"), draw), stage, said, chart);

  const index = () => info.indices.find((i) => `index ${i.name}` === show.value);
  const bands = () => { const i = index(); return i ? [i.a, i.b] : own.map(([, select]) => select.value); };
  function sync() {
    const preset = PRESETS[show.value.slice(7)];
    if (show.value.startsWith("preset ") && preset) preset.forEach((b, i) => { own[i][1].value = b; });
  }
  sync();

  // --- asking the kernel ---
  const send = (content) => new Promise((resolve) => { const id = ++asked; waiting.set(id, resolve); model.send({ ...content, id }); });
  model.on("msg:custom", (message, buffers) => {
    const resolve = waiting.get(message.id);
    waiting.delete(message.id);
    resolve?.({ ...message, buffers });
  });

  const visible = () => {
    const w = canvas.clientWidth / scale, h = canvas.clientHeight / scale;
    return [Math.max(0, Math.floor(centre[1] - h / 2)), Math.max(0, Math.floor(centre[0] - w / 2)), Math.min(height, Math.ceil(centre[1] + h / 2)), Math.min(width, Math.ceil(centre[0] + w / 2))];
  };
  function ask() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const box = visible(), wish = bands(), when = +date.value, what = show.value;
      if (box[2] <= box[0] || box[3] <= box[1]) return;
      const ratio = devicePixelRatio || 1, size = [Math.ceil((box[2] - box[0]) * scale * ratio), Math.ceil((box[3] - box[1]) * scale * ratio)];
      say("computing …");
      const mine = (ask.turn = (ask.turn ?? 0) + 1);
      for (const side of info.sides) {
        const back = await send({ kind: "look", side, bands: wish, date: when, box, size });
        if (mine !== ask.turn) return; // the map has moved on
        if (back.error) { say(back.error); return; }
        if (back.none) { tiles[side] = null; continue; }
        const [n, rows, columns] = back.shape, view = back.buffers[0];
        const values = new Float32Array(view.buffer ? view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength) : view);
        tiles[side] = { box, what, rows, columns, planes: Array.from({ length: n }, (_, i) => values.subarray(i * rows * columns, (i + 1) * rows * columns)) };
        paint();
      }
      say(tiles.sharp ? "" : `Come closer to see ${info.resolution} m: more than ${(info.most * info.resolution ** 2 / 1e6).toFixed(0)} km² are shown.`);
      root.dataset.drawn = String(mine);
    }, 120);
  }
  const say = (text) => { said.textContent = text; };

  // --- drawing ---
  function limits(tile) {
    if (index()) return [[-1, 1]];
    return tile.planes.map((plane) => {
      const some = [];
      for (let i = 0, step = Math.max(1, Math.floor(plane.length / 20000)); i < plane.length; i += step) if (!Number.isNaN(plane[i])) some.push(plane[i]);
      some.sort((p, q) => p - q);
      return some.length ? [some[Math.floor(some.length * 0.02)], Math.max(some[Math.floor(some.length * 0.98)], some[Math.floor(some.length * 0.02)] + 1)] : [0, 1];
    });
  }
  function restretch() {
    const a = parseFloat(low.value), b = parseFloat(high.value);
    if (Number.isFinite(a) && Number.isFinite(b) && b > a) stretch = index() ? [[a, b]] : [0, 1, 2].map(() => [a * 100, b * 100]);
    paint(false);
  }
  function image(tile) {
    const out = new ImageData(tile.columns, tile.rows), data = out.data, i = index();
    for (let p = 0; p < tile.rows * tile.columns; p++) {
      if (i) {
        const a = tile.planes[0][p], b = tile.planes[1][p], v = (a - b) / (a + b);
        if (!Number.isFinite(v)) continue;
        const t = Math.min(0.9999, Math.max(0, (v - stretch[0][0]) / (stretch[0][1] - stretch[0][0]))) * 4, k = Math.floor(t);
        for (let c = 0; c < 3; c++) data[4 * p + c] = RAMP[k][c] + (t - k) * (RAMP[k + 1][c] - RAMP[k][c]);
      } else {
        let seen = true;
        for (let c = 0; c < 3; c++) {
          const v = tile.planes[c][p];
          if (Number.isNaN(v)) { seen = false; break; }
          data[4 * p + c] = 255 * Math.min(1, Math.max(0, (v - stretch[c][0]) / (stretch[c][1] - stretch[c][0])));
        }
        if (!seen) continue;
      }
      data[4 * p + 3] = 255;
    }
    const made = new OffscreenCanvas(tile.columns, tile.rows);
    made.getContext("2d").putImageData(out, 0, 0);
    return made;
  }
  const at = (x, y) => [(x - centre[0]) * scale + canvas.clientWidth / 2, (y - centre[1]) * scale + canvas.clientHeight / 2];
  function paint(fields = true) {
    const tile = tiles.sharp ?? tiles.measured;
    if (!tile) return;
    if (!stretch) stretch = limits(tile);
    if (fields) { const k = index() ? 1 : 100; low.value = (stretch[0][0] / k).toFixed(2); high.value = (stretch.at(-1)[1] / k).toFixed(2); }
    for (const side of info.sides) if (tiles[side]) tiles[side].drawn = tiles[side].what === show.value ? image(tiles[side]) : null;
    compose();
  }
  function compose() {
    const ratio = devicePixelRatio || 1, context = canvas.getContext("2d");
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    context.scale(ratio, ratio);
    context.imageSmoothingEnabled = false;
    const place = (tile) => {
      const [x0, y0] = at(tile.box[1], tile.box[0]), [x1, y1] = at(tile.box[3], tile.box[2]);
      context.drawImage(tile.drawn, x0, y0, x1 - x0, y1 - y0);
    };
    const right = tiles.sharp?.drawn ? tiles.sharp : tiles.measured;
    if (right?.drawn) place(right);
    if (both && tiles.measured?.drawn) {
      context.save();
      context.beginPath();
      context.rect(0, 0, canvas.clientWidth * share, canvas.clientHeight);
      context.clip();
      context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
      place(tiles.measured);
      context.restore();
    }
    context.lineWidth = 2;
    if (rectangle) {
      const [x0, y0] = at(rectangle[1], rectangle[0]), [x1, y1] = at(rectangle[3], rectangle[2]);
      context.strokeStyle = "#fff"; context.lineWidth = 4; context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      context.strokeStyle = "#0b7a88"; context.lineWidth = 2; context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    if (spot) { const [x, y] = at(spot[1] + 0.5, spot[0] + 0.5); context.strokeStyle = "#fff"; context.beginPath(); context.arc(x, y, 6, 0, 7); context.stroke(); }
  }

  // --- hands ---
  const under = (event) => { const r = canvas.getBoundingClientRect(); return [centre[0] + (event.clientX - r.left - r.width / 2) / scale, centre[1] + (event.clientY - r.top - r.height / 2) / scale]; };
  function press(on) { drawing = on; draw.setAttribute("aria-pressed", String(on)); say(on ? "Pull a rectangle over the map." : ""); }
  canvas.addEventListener("pointerdown", (event) => { from = { at: under(event), x: event.clientX, y: event.clientY, centre: [...centre], moved: false }; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointermove", (event) => {
    if (!from) return;
    from.moved ||= Math.hypot(event.clientX - from.x, event.clientY - from.y) > 3;
    if (drawing) { const to = under(event); rectangle = box(from.at, to); }
    else if (from.moved) centre = [from.centre[0] - (event.clientX - from.x) / scale, from.centre[1] - (event.clientY - from.y) / scale];
    compose();
  });
  const box = (p, q) => [Math.max(0, Math.floor(Math.min(p[1], q[1]))), Math.max(0, Math.floor(Math.min(p[0], q[0]))), Math.min(height, Math.ceil(Math.max(p[1], q[1]))), Math.min(width, Math.ceil(Math.max(p[0], q[0])))];
  canvas.addEventListener("pointerup", async (event) => {
    const start = from;
    from = null;
    if (!start) return;
    if (drawing) { press(false); if (rectangle && rectangle[2] > rectangle[0] && rectangle[3] > rectangle[1]) { const back = await send({ kind: "area", box: rectangle }); say(back.error ?? "The rectangle is in .area."); } }
    else if (start.moved) ask();
    else pixel(under(event));
  });
  const zoom = (by, about = centre) => { const next = Math.min(40, Math.max(0.02, scale * by)), k = 1 - scale / next; centre = [centre[0] + (about[0] - centre[0]) * k, centre[1] + (about[1] - centre[1]) * k]; scale = next; compose(); ask(); };
  canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.25 : 0.8, under(event)); }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 60 / scale, move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move) { centre = [centre[0] + move[0], centre[1] + move[1]]; compose(); ask(); }
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "Enter") pixel(centre);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const slide = (to) => { share = Math.min(1, Math.max(0, to)); swipe.style.left = `${share * 100}%`; swipe.setAttribute("aria-valuenow", String(Math.round(share * 100))); compose(); };
  swipe.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    swipe.focus();
    swipe.setPointerCapture(event.pointerId);
    const pull = (e) => { const r = stage.getBoundingClientRect(); slide((e.clientX - r.left) / r.width); };
    swipe.addEventListener("pointermove", pull);
    swipe.addEventListener("pointerup", () => swipe.removeEventListener("pointermove", pull), { once: true });
  });
  swipe.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -0.02, ArrowRight: 0.02, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 }[event.key];
    if (!step) return;
    slide(share + step);
    event.preventDefault();
    event.stopPropagation();
  });

  // --- a pixel ---
  async function pixel([x, y]) {
    const row = Math.floor(y), column = Math.floor(x);
    if (row < 0 || column < 0 || row >= height || column >= width) return;
    spot = [row, column];
    compose();
    say(`Row ${row}, column ${column} …`);
    const back = await send({ kind: "pixel", row, column, date: +date.value });
    if (back.error) { say(back.error); return; }
    const [west, , , north] = info.bounds, r = info.resolution;
    say(`Row ${row}, column ${column}; ${(west + (column + 0.5) * r).toFixed(0)}, ${(north - (row + 0.5) * r).toFixed(0)} in ${info.crs}`);
    chart.replaceChildren(spectrum(back));
  }
  function spectrum(found) {
    const W = 460, H = 170, L = 40, B = 24;
    const values = ["measured", "sharp"].flatMap((side) => Object.values(found[side] ?? {})).filter((v) => v !== null);
    const top = Math.max(100, ...values) * 1.06, bottom = Math.min(0, ...values);
    const X = (nm) => L + ((nm - 400) / 1900) * (W - L - 8), Y = (v) => H - B - ((v - bottom) / (top - bottom)) * (H - B - 8);
    const text = info.bands.map((b) => `${b.name} ${["measured", "sharp"].filter((s) => found[s]).map((s) => `${s} ${found[s][b.name] ?? "no data"}`).join(", ")}${found.error?.[b.name] ? ` plus or minus ${found.error[b.name]}` : ""}`).join("; ");
    const out = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Spectrum in DN: ${text}` });
    for (let i = 0; i <= 4; i++) {
      const v = bottom + ((top - bottom) * i) / 4;
      out.append(svg("line", { class: "rule", x1: L, x2: W - 8, y1: Y(v), y2: Y(v) }), svg("text", { x: L - 4, y: Y(v) + 3, "text-anchor": "end" }, (v / 10000).toFixed(2)));
    }
    for (const nm of [500, 1000, 1500, 2000]) out.append(svg("text", { x: X(nm), y: H - 8, "text-anchor": "middle" }, `${nm} nm`));
    const line = [...info.bands].sort((p, q) => p.wavelength - q.wavelength);
    for (const side of ["measured", "sharp"]) {
      if (!found[side]) continue;
      const points = line.filter((b) => (found[side][b.name] ?? null) !== null).map((b) => [X(b.wavelength), Y(found[side][b.name]), b]);
      out.append(svg("path", { class: side, d: points.map((p, i) => `${i ? "L" : "M"}${p[0].toFixed(1)} ${p[1].toFixed(1)}`).join("") }));
      for (const [x, y, b] of points) {
        out.append(svg("circle", { class: side, cx: x, cy: y, r: 2 }));
        const error = side === "sharp" ? found.error?.[b.name] : null;
        if (error) out.append(svg("path", { class: side, d: `M${x} ${Y(found.sharp[b.name] - error)}V${Y(found.sharp[b.name] + error)}` }));
      }
    }
    return out;
  }

  const fit = () => { scale = Math.min(canvas.clientWidth / width, canvas.clientHeight / height) || 1; slide(share); ask(); };
  const watch = new ResizeObserver(() => { if (!fit.done && canvas.clientWidth) { fit.done = true; fit(); } else { compose(); ask(); } });
  watch.observe(stage);
  return () => watch.disconnect();
}

export default { render };
