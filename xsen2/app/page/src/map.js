// The map: where it is, what is drawn on it, and the result's pixels with their swipe.
import Map from "ol/Map.js";
import View from "ol/View.js";
import { defaults as defaultControls } from "ol/control/defaults.js";
import MousePosition from "ol/control/MousePosition.js";
import ScaleLine from "ol/control/ScaleLine.js";
import GeoJSON from "ol/format/GeoJSON.js";
import TopoJSON from "ol/format/TopoJSON.js";
import Draw, { createBox } from "ol/interaction/Draw.js";
import Graticule from "ol/layer/Graticule.js";
import TileLayer from "ol/layer/Tile.js";
import VectorLayer from "ol/layer/Vector.js";
import WebGLTileLayer from "ol/layer/WebGLTile.js";
import { get as getProjection, transform, transformExtent } from "ol/proj.js";
import { getRenderPixel } from "ol/render.js";
import GeoTIFF from "ol/source/GeoTIFF.js";
import OSM from "ol/source/OSM.js";
import VectorSource from "ol/source/Vector.js";
import Feature from "ol/Feature.js";
import Point from "ol/geom/Point.js";
import Polygon from "ol/geom/Polygon.js";
import { Circle, Fill, Stroke, Style, Text } from "ol/style.js";

const MERCATOR = "EPSG:3857";
const NOTHING = -32767; // no pixel has it: -32768, what the files have for no data, then stays as it is

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A UTM zone, which OpenLayers knows by its number; its extent has to be told, for the graticule. */
function known(code) {
  const zone = code.match(/^EPSG:32([67])(\d\d)$/), projection = getProjection(code);
  if (code === MERCATOR) return projection;
  if (!zone || !projection) throw new Error(`the result is in ${code}, which is no UTM zone`);
  if (!projection.getWorldExtent() || !projection.getExtent()) {
    const west = +zone[2] * 6 - 183;
    const world = zone[1] === "7" ? [west - 1, -80, west + 7, 0] : [west - 1, 0, west + 7, 84];
    projection.setWorldExtent(world);
    projection.setExtent(transformExtent(world, "EPSG:4326", code, 8));
  }
  return projection;
}

/** Coasts. Rings that cross 180 degrees jump there from one side of a map to the other: they go on beyond it instead. */
async function coasts() {
  const features = new TopoJSON({ layers: ["land"] }).readFeatures(await (await fetch("static/land.json")).json());
  const polygons = features.flatMap((feature) => {
    const shape = feature.getGeometry();
    return shape.getType() === "MultiPolygon" ? shape.getPolygons() : [shape];
  });
  return polygons.map((polygon) => {
    const rings = polygon.getCoordinates().map((ring) => {
      let turn = 0;
      return ring.map(([x, y], i) => {
        if (i) turn -= 360 * Math.round((x - ring[i - 1][0]) / 360);
        return [x + turn, Math.max(y, -85)];
      });
    });
    return new Feature(new Polygon(rings).transform("EPSG:4326", MERCATOR));
  });
}

export class Stage {
  constructor(target, swipe, onArea, onPixel) {
    this.swipe = swipe;
    this.onArea = onArea;
    this.onPixel = onPixel;
    this.share = 0.5;
    this.area = null;
    this.prints = [];
    this.dot = null;
    this.shown = null;
    this.land = new VectorLayer({ source: new VectorSource({ overlaps: false }) });
    coasts().then((features) => this.land.getSource().addFeatures(features), () => {}); // the map does without, if need be
    this.streets = new TileLayer({ visible: false, source: null });
    this.footprints = new VectorLayer({ source: new VectorSource() });
    this.outline = new VectorLayer({ source: new VectorSource() });
    this.mark = new VectorLayer({ source: new VectorSource() });
    this.land.setZIndex(0); this.streets.setZIndex(1); this.footprints.setZIndex(5); this.outline.setZIndex(8); this.mark.setZIndex(9);
    this.position = new MousePosition({ projection: "EPSG:4326", coordinateFormat: (c) => `${c[1].toFixed(5)}°, ${c[0].toFixed(5)}°`, placeholder: "" });
    this.map = new Map({
      target,
      layers: [this.land, this.streets, this.footprints, this.outline, this.mark],
      view: new View({ projection: MERCATOR, center: [0, 4e6], zoom: 2 }),
      controls: defaultControls({ rotate: false, attributionOptions: { collapsible: false } }).extend([new ScaleLine(), this.position]),
    });
    this.map.on("click", (event) => {
      if (this.draw || !this.shown) return;
      this.onPixel(event.coordinate);
    });
    this.#grid();
    this.restyle();
    this.#swiping(target);
  }

  get projection() { return this.map.getView().getProjection().getCode(); }

  /** Change the map's CRS, and bring along what is drawn. */
  project(code, bounds) {
    if (this.projection !== code) {
      const projection = known(code);
      this.map.setView(new View({ projection, center: [(bounds[0] + bounds[2]) / 2, (bounds[1] + bounds[3]) / 2],
        resolution: 20, minResolution: 0.5, maxResolution: code === MERCATOR ? undefined : 400, constrainResolution: false }));
      this.land.setVisible(code === MERCATOR);
      this.#grid();
      this.#redraw();
    }
    this.map.getView().fit(bounds, { padding: [50, 30, 50, 30], maxZoom: 20 });
  }

  /** Back to the map of the world, at the same place. */
  world() {
    if (this.projection === MERCATOR) return;
    const view = this.map.getView();
    const extent = transformExtent(view.calculateExtent(), this.projection, MERCATOR, 8);
    this.clear();
    this.map.setView(new View({ projection: MERCATOR }));
    this.land.setVisible(true);
    this.map.getView().fit(extent);
    this.#grid();
    this.#redraw();
  }

  #grid() {
    if (this.graticule) this.map.removeLayer(this.graticule);
    const label = () => new Text({ font: "11px system-ui, sans-serif", fill: new Fill({ color: colour("--soft") }), stroke: new Stroke({ color: colour("--paper"), width: 3 }) });
    const side = (base, align) => { const text = label(); text.setTextBaseline(base); text.setTextAlign(align); return text; };
    this.graticule = new Graticule({ strokeStyle: new Stroke({ color: colour("--grid"), width: 0.6, lineDash: [3, 5] }), showLabels: true, wrapX: false,
      lonLabelStyle: side("bottom", "center"), latLabelStyle: side("middle", "end"), lonLabelPosition: 0.03, latLabelPosition: 0.995,
      intervals: [90, 45, 30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01], targetSize: 160 });
    this.graticule.setZIndex(4);
    this.map.addLayer(this.graticule);
  }

  /** Colours of the theme, which the canvas has to be told. */
  restyle() {
    this.land.setStyle(new Style({ fill: new Fill({ color: colour("--land") }), stroke: new Stroke({ color: colour("--line"), width: 0.8 }) }));
    this.footprints.setStyle((feature) => new Style({ stroke: new Stroke({ color: colour(feature.get("chosen") ? "--measured" : "--grid"), width: feature.get("chosen") ? 1.6 : 0.8 }) }));
    this.outline.setStyle([new Style({ stroke: new Stroke({ color: colour("--paper"), width: 4.5 }) }),
      new Style({ stroke: new Stroke({ color: colour("--accent"), width: 2 }), fill: new Fill({ color: "rgba(0,0,0,0)" }) })]);
    this.mark.setStyle(new Style({ image: new Circle({ radius: 6, stroke: new Stroke({ color: "#fff", width: 2.5 }), fill: new Fill({ color: "rgba(0,0,0,.35)" }) }) }));
    this.#grid();
  }

  #redraw() {
    const format = new GeoJSON({ dataProjection: "EPSG:4326", featureProjection: this.projection });
    const features = (shape, more) => format.readFeatures(shape).map((f) => { f.setProperties(more ?? {}); return f; });
    for (const layer of [this.outline, this.footprints, this.mark]) layer.getSource().clear();
    if (this.area) this.outline.getSource().addFeatures(features(this.area));
    // A tile is a hundred kilometres wide: on the image's own map its outline only lies in the way.
    if (this.projection === MERCATOR)
      for (const print of this.prints) if (print.shape) this.footprints.getSource().addFeatures(features(print.shape, { chosen: print.chosen }));
    if (this.dot) this.mark.getSource().addFeature(new Feature(new Point(transform(this.dot, "EPSG:4326", this.projection))));
  }

  setArea(shape, look = true) {
    this.area = shape;
    this.#redraw();
    if (look && shape) this.map.getView().fit(this.outline.getSource().getExtent(), { padding: [60, 40, 60, 40], maxZoom: 16 });
  }

  /** Show all of a shape. */
  look(shape) { this.map.getView().fit(new GeoJSON({ dataProjection: "EPSG:4326", featureProjection: this.projection }).readFeatures(shape)[0].getGeometry().getExtent(), { padding: [50, 30, 50, 30] }); }

  setPrints(prints) { this.prints = prints; this.#redraw(); }

  setDot(lonlat) { this.dot = lonlat; this.#redraw(); }

  lonlat(coordinate) { return transform(coordinate, this.projection, "EPSG:4326"); }

  viewBox() { return transformExtent(this.map.getView().calculateExtent(), this.projection, "EPSG:4326", 8); }

  /** Draw a box or a polygon; Escape gives it up. */
  startDraw(kind, onEnd) {
    this.stopDraw();
    this.world();
    const source = new VectorSource();
    this.draw = new Draw(kind === "box" ? { source, type: "Circle", geometryFunction: createBox() } : { source, type: "Polygon" });
    this.draw.on("drawend", (event) => {
      const shape = JSON.parse(new GeoJSON().writeGeometry(event.feature.getGeometry(), { featureProjection: this.projection, dataProjection: "EPSG:4326", decimals: 7, rightHanded: true }));
      // After the click that ended it: else that click would be one on the map as well.
      setTimeout(() => { this.stopDraw(); onEnd(); this.onArea(shape); }, 0);
    });
    this.map.addInteraction(this.draw);
    this.escape = (event) => { if (event.key === "Escape") { this.stopDraw(); onEnd(); } };
    document.addEventListener("keydown", this.escape);
  }

  stopDraw() {
    if (this.draw) this.map.removeInteraction(this.draw);
    if (this.escape) document.removeEventListener("keydown", this.escape);
    this.draw = null;
  }

  setStreets(on) {
    if (on && !this.streets.getSource()) this.streets.setSource(new OSM({ url: "https://tile.openstreetmap.org/{z}/{x}/{y}.png", transition: 0 }));
    this.streets.setVisible(on);
  }

  // --- the pixels ----------------------------------------------------------------------------------

  /** Show two GeoTIFFs of one grid, by `url` or as a `blob`, the left one as far as the swipe. */
  async show(left, right, style, code, bounds) {
    const make = ({ zero, ...where }) => new WebGLTileLayer({ style, source: new GeoTIFF({ sources: [zero ? where : { ...where, nodata: NOTHING }], normalize: false, interpolate: false, projection: known(code), wrapX: false, transition: 0 }) });
    const layers = { right: make(right), left: left ? make(left) : null };
    const keep = this.shown;
    layers.right.setZIndex(2);
    this.map.addLayer(layers.right);
    if (layers.left) {
      layers.left.setZIndex(3);
      layers.left.on("prerender", (event) => {
        const gl = event.context;
        gl.enable(gl.SCISSOR_TEST);
        const size = this.map.getSize();
        const low = getRenderPixel(event, [0, size[1]]), high = getRenderPixel(event, [size[0], 0]);
        gl.scissor(low[0], low[1], Math.round((high[0] - low[0]) * this.share), high[1] - low[1]);
      });
      layers.left.on("postrender", (event) => event.context.disable(event.context.SCISSOR_TEST));
      this.map.addLayer(layers.left);
    }
    this.shown = layers;
    if (keep) this.#drop(keep);
    this.swipe.hidden = !layers.left;
    this.project(code, bounds);
    await Promise.all([layers.left, layers.right].filter(Boolean).map((layer) => ready(layer.getSource())));
  }

  restyleShown(style) {
    for (const layer of [this.shown?.left, this.shown?.right]) layer?.setStyle(style);
  }

  #drop(layers) {
    for (const layer of [layers.left, layers.right]) if (layer) { this.map.removeLayer(layer); layer.dispose(); }
  }

  clear() {
    if (this.shown) this.#drop(this.shown);
    this.shown = null;
    this.swipe.hidden = true;
  }

  #swiping(target) {
    const set = (share) => {
      this.share = Math.min(1, Math.max(0, share));
      this.swipe.style.left = `${this.share * 100}%`;
      this.swipe.setAttribute("aria-valuenow", Math.round(this.share * 100));
      this.swipe.setAttribute("aria-valuetext", `${Math.round(this.share * 100)} % of the map as measured`);
      this.map.render();
    };
    const move = (event) => {
      const box = target.getBoundingClientRect();
      set((event.clientX - box.left) / box.width);
    };
    this.swipe.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.swipe.focus();
      this.swipe.setPointerCapture(event.pointerId);
      this.swipe.addEventListener("pointermove", move);
    });
    const end = () => this.swipe.removeEventListener("pointermove", move);
    this.swipe.addEventListener("pointerup", end);
    this.swipe.addEventListener("pointercancel", end);
    this.swipe.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.02, ArrowRight: 0.02, ArrowDown: -0.02, ArrowUp: 0.02, PageDown: -0.1, PageUp: 0.1 }[event.key];
      if (event.key === "Home") set(0);
      else if (event.key === "End") set(1);
      else if (step) set(this.share + step);
      else return;
      event.preventDefault();
    });
  }

  /** What the map shows, as a PNG; without its buttons. */
  picture() {
    return new Promise((resolve, reject) => {
      this.map.once("rendercomplete", () => {
        const size = this.map.getSize(), ratio = window.devicePixelRatio || 1;
        const canvas = document.createElement("canvas");
        canvas.width = Math.round(size[0] * ratio);
        canvas.height = Math.round(size[1] * ratio);
        const context = canvas.getContext("2d");
        context.fillStyle = colour("--sea");
        context.fillRect(0, 0, canvas.width, canvas.height);
        for (const one of this.map.getViewport().querySelectorAll(".ol-layer canvas, canvas.ol-layer")) {
          if (!one.width) continue;
          const opacity = one.parentNode.style.opacity || one.style.opacity;
          context.globalAlpha = opacity === "" ? 1 : Number(opacity);
          const matrix = one.style.transform.match(/^matrix\(([^(]*)\)$/)?.[1].split(",").map(Number);
          const scale = matrix ? [matrix[0] * ratio, matrix[3] * ratio, matrix[4] * ratio, matrix[5] * ratio]
            : [(parseFloat(one.style.width) / one.width || 1 / ratio) * ratio, (parseFloat(one.style.height) / one.height || 1 / ratio) * ratio, 0, 0];
          context.setTransform(scale[0], 0, 0, scale[1], scale[2], scale[3]);
          context.drawImage(one, 0, 0);
        }
        context.setTransform(1, 0, 0, 1, 0, 0);
        context.globalAlpha = 1;
        if (!this.swipe.hidden) {
          context.fillStyle = "#fff";
          context.fillRect(this.share * canvas.width - ratio, 0, 2 * ratio, canvas.height);
        }
        canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser makes no PNG of the map"))), "image/png");
      });
      this.map.render();
    });
  }
}

function ready(source) {
  return new Promise((resolve, reject) => {
    const look = () => {
      if (source.getState() === "ready") resolve();
      else if (source.getState() === "error") reject(new Error(`The image cannot be read: ${source.getError?.()?.message ?? "it is not there"}`));
      else return false;
      source.removeEventListener("change", look);
      return true;
    };
    if (!look()) source.addEventListener("change", look);
  });
}

// --- what pixels look like ---------------------------------------------------------------------------

const band = (number) => ["band", number];
const stretched = (number) => ["^", ["clamp", ["/", ["-", band(number), ["var", `low${number}`]], ["-", ["var", `high${number}`], ["var", `low${number}`]]], 0, 1], ["var", "power"]];
const seen = (numbers, alpha) => ["case", ["any", ...numbers.map((n) => ["<", band(n), -32000]), ["==", band(alpha), 0]], 0, 1];

/** Three bands as red, green and blue. `limits` are low and high of each, in DN. */
export function composite(numbers, count, limits, gamma) {
  const variables = { power: 1 / gamma };
  numbers.forEach((number, i) => { variables[`low${number}`] = limits[i][0]; variables[`high${number}`] = limits[i][1]; });
  const distinct = [...new Set(numbers), ...(new Set(numbers).size === 1 ? [numbers[0]] : [])];
  return { variables, color: ["array", ...numbers.map(stretched), seen(distinct, count + 1)] };
}

export const RAMPS = {
  water: ["#7a4a12", "#c9a66b", "#f4efe2", "#7fb7cf", "#0b4a6f"],
  green: ["#6b3d0c", "#c7a15f", "#f5f1dd", "#86b36a", "#12541f"],
  error: ["#fbf7ec", "#f0cf9a", "#d8865a", "#a1405a", "#4a1a52"],
};

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

/** (a - b) / (a + b), on a ramp. */
export function difference(a, b, count, limits, gamma, ramp) {
  const value = ["/", ["-", band(a), band(b)], ["+", band(a), band(b)]];
  const empty = ["any", ["<", band(a), -32000], ["<", band(b), -32000], ["==", band(count + 1), 0], ["==", ["+", band(a), band(b)], 0]];
  return ramped(value, empty, limits, gamma, ramp);
}

/** One band on a ramp; 0 is no data. */
export function single(number, count, limits, gamma, ramp) {
  return ramped(band(number), ["any", ["==", band(number), 0], ["==", band(count + 1), 0]], limits, gamma, ramp);
}

function ramped(value, empty, limits, gamma, ramp) {
  const share = ["^", ["clamp", ["/", ["-", value, ["var", "low"]], ["-", ["var", "high"], ["var", "low"]]], 0, 1], ["var", "power"]];
  const colours = RAMPS[ramp], stops = colours.flatMap((hex, i) => [i / (colours.length - 1), [...rgb(hex), 1]]);
  return { variables: { low: limits[0], high: limits[1], power: 1 / gamma },
    color: ["case", empty, [0, 0, 0, 0], ["interpolate", ["linear"], share, ...stops]] };
}
