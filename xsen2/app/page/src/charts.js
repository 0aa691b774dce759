// Two small charts: the spectrum of a pixel, and an index over the dates.
import { h, s } from "./dom.js";

const W = 350, H = 190, L = 42, R = 8, T = 8, B = 30;

function ticks(low, high, about = 5) {
  const span = high - low || 1;
  const raw = span / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const out = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-6; value += step) out.push(+value.toFixed(10));
  return out;
}

function frame(x, y, xs, ys, said, formatX, formatY, unit) {
  const svg = s("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": said });
  for (const value of ys) {
    svg.append(s("line", { class: "rule", x1: L, x2: W - R, y1: y(value), y2: y(value) }));
    svg.append(s("text", { x: L - 5, y: y(value) + 3.5, "text-anchor": "end" }, formatY(value)));
  }
  svg.append(s("line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }));
  for (const value of xs) {
    svg.append(s("line", { class: "axis", x1: x(value), x2: x(value), y1: H - B, y2: H - B + 4 }));
    svg.append(s("text", { x: x(value), y: H - B + 15, "text-anchor": "middle" }, formatX(value)));
  }
  svg.append(s("text", { x: W - R, y: H - 1, "text-anchor": "end" }, unit));
  return svg;
}

const path = (points) => {
  let d = "", pen = "M";
  for (const point of points) {
    if (point === null) { pen = "M"; continue; }
    d += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  return d;
};

/** The spectrum of a pixel: reflectance against wavelength, before and after. */
export function spectrum(bands, found, date) {
  const rows = bands
    .filter((band) => band.name in (found.sharp ?? {}))
    .map((band) => ({ ...band, measured: found.measured?.[band.name] ?? null, sharp: found.sharp[band.name] ?? null,
                      error: found.error?.[band.name] ?? null }))
    .sort((p, q) => p.wavelength - q.wavelength);
  const values = rows.flatMap((row) => [row.measured, row.sharp && row.sharp + (row.error ?? 0)]).filter((v) => v !== null);
  if (!values.length) return h("p", { class: "said" }, "This pixel has no data on this date.");
  const top = Math.max(...values, 100) / 10000 * 1.06, bottom = Math.min(0, ...values) / 10000;
  const x = (nm) => L + ((nm - 400) / (2300 - 400)) * (W - L - R);
  const y = (value) => H - B - ((value - bottom) / (top - bottom)) * (H - B - T);
  const said = `Reflectance of the pixel on ${date}: ` + rows.map((row) =>
    `${row.name} ${dn(row.measured)} as measured, ${dn(row.sharp)} at 10 m${row.error ? ` plus or minus ${dn(row.error)}` : ""}`).join("; ");
  const svg = frame(x, y, [500, 1000, 1500, 2000], ticks(bottom, top), said, String, (v) => v.toFixed(2), "nm");
  const at = (row, key) => (row[key] === null ? null : [x(row.wavelength), y(row[key] / 10000)]);
  svg.append(s("path", { class: "measured", d: path(rows.map((row) => at(row, "measured"))) }));
  svg.append(s("path", { class: "sharp", d: path(rows.map((row) => at(row, "sharp"))) }));
  for (const row of rows) {
    const fine = at(row, "sharp"), coarse = at(row, "measured");
    if (coarse) svg.append(s("rect", { class: "measured dot", x: coarse[0] - 2.5, y: coarse[1] - 2.5, width: 5, height: 5 }));
    if (fine && row.error) {
      const low = y((row.sharp - row.error) / 10000), high = y((row.sharp + row.error) / 10000);
      svg.append(s("path", { class: "sharp", d: `M${fine[0]} ${low}V${high}M${fine[0] - 3} ${low}h6M${fine[0] - 3} ${high}h6` }));
    }
    if (fine) svg.append(s("circle", { class: "sharp dot", cx: fine[0], cy: fine[1], r: 2.4 }, s("title", {}, row.name)));
  }
  const table = h("table", {},
    h("thead", {}, h("tr", {}, ...["Band", "measured", "at 10 m", "± SE"].map((t, i) => h("th", { class: i ? "num" : "", scope: "col" }, t)))),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, h("td", {}, row.name), h("td", { class: "num" }, dn(row.measured)),
      h("td", { class: "num" }, dn(row.sharp)), h("td", { class: "num" }, row.error ? dn(row.error) : row.gsd === 10 ? "measured" : "")))));
  return h("figure", { class: "chart" }, h("figcaption", {}, `Reflectance, ${date}`), svg,
    h("p", { class: "key" }, h("span", { class: "k-measured" }, "as measured"), h("span", { class: "k-sharp" }, "at 10 m ± 1 standard error")),
    h("details", {}, h("summary", {}, "In numbers"), table));
}

const dn = (value) => (value === null || value === undefined ? "no data" : (value / 10000).toFixed(4));

/** An index over the dates: of a pixel, and of the whole area. */
export function curve(name, times, area, pixel) {
  const stamps = times.map((time) => Date.parse(time));
  const all = [...area.flatMap((a) => [a.low, a.high]), ...(pixel ?? []).flatMap((p) => [p?.sharp, p?.measured])]
    .filter((v) => v !== null && v !== undefined);
  if (!all.length) return h("p", { class: "said" }, `${name} has no data in this area.`);
  let low = Math.min(...all), high = Math.max(...all);
  const room = Math.max((high - low) * 0.08, 0.02);
  low -= room; high += room;
  const first = Math.min(...stamps), last = Math.max(...stamps);
  const x = (t) => (last === first ? (L + W - R) / 2 : L + 12 + ((t - first) / (last - first)) * (W - L - R - 24));
  const y = (value) => H - B - ((value - low) / (high - low)) * (H - B - T);
  const day = (t) => new Date(t).toISOString().slice(0, 10);
  const said = `${name} over ${times.length} dates: ` + area.map((a, i) =>
    `${day(stamps[i])} median ${a.median ?? "no data"}${pixel?.[i] ? `, pixel ${pixel[i].sharp ?? "no data"}` : ""}`).join("; ");
  const marks = last === first ? [first] : stamps.length < 4 ? stamps : [first, (first + last) / 2, last];
  const svg = frame(x, y, marks, ticks(low, high), said, day, (v) => v.toFixed(2), "");
  const ok = area.map((a, i) => (a.median === null ? null : { ...a, t: stamps[i] })).filter(Boolean);
  if (ok.length > 1)
    svg.append(s("path", { class: "band", d: path([...ok.map((a) => [x(a.t), y(a.high)]), ...ok.toReversed().map((a) => [x(a.t), y(a.low)])]) + "Z" }));
  const line = (values) => values.map((v, i) => (v === null || v === undefined ? null : [x(stamps[i]), y(v)]));
  const draw = (values, css, dot) => {
    const points = line(values);
    svg.append(s("path", { class: css, d: path(points) }));
    for (const p of points) if (p) svg.append(dot === "rect"
      ? s("rect", { class: `${css} dot`, x: p[0] - 2.5, y: p[1] - 2.5, width: 5, height: 5 })
      : s("circle", { class: `${css} dot`, cx: p[0], cy: p[1], r: 2.4 }));
  };
  draw(area.map((a) => a.median), "middle", "circle");
  if (pixel) {
    draw(pixel.map((p) => p?.measured), "measured", "rect");
    draw(pixel.map((p) => p?.sharp), "sharp", "circle");
  }
  return h("figure", { class: "chart" }, h("figcaption", {}, `${name} over the dates`), svg,
    h("p", { class: "key" }, h("span", { class: "k-middle" }, "median of the area, 10–90 % shaded"),
      ...(pixel ? [h("span", { class: "k-measured" }, "pixel as measured"), h("span", { class: "k-sharp" }, "pixel at 10 m")] : [])));
}
