// Which files the bands of a scene are in, where they lie, and what their numbers mean.
import { fromBlob, fromUrl } from "geotiff";
import { offset } from "./offset.js";

/** Bands by the words of catalogues and of file names: those that the library knows, see `xsen2.bands`. */
export function bandOf(text, words) {
  const name = decodeURIComponent(text).split(/[?#]/)[0].split("/").pop().replace(/\.[^.]*$/, "");
  const known = name.split(/[_\-. ]/).concat(name).map((word) => words[word.toUpperCase()]).filter(Boolean);
  return known.at(-1) ?? null;
}

/** The bands of a STAC item: of several assets of a band, that which is a GeoTIFF on the band's own grid. */
function ofItem(item, base, about) {
  const bands = {};
  for (const [key, asset] of Object.entries(item.assets ?? {})) {
    const said = asset["eo:bands"]?.[0]?.name ?? asset.bands?.[0]?.name;
    const name = about.words[key.split("_")[0].toUpperCase()] ?? (key.endsWith("-jp2") || !said ? null : about.words[said.toUpperCase()]);
    if (!name || typeof asset.href !== "string" || !/tiff/i.test(asset.type ?? asset.href)) continue;
    const size = asset["proj:transform"]?.[0] ?? asset.gsd ?? asset["raster:bands"]?.[0]?.spatial_resolution;
    const own = about.bands.find((band) => band.name === name).gsd;
    if (size !== undefined && size !== own) continue;
    bands[name] = { url: new URL(asset.href, base).href };
  }
  return bands;
}

async function fetched(url) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new Error(`${url} cannot be read from this page: it is not there, or its server does not let other pages read it (CORS).`);
  }
  if (!response.ok) throw new Error(`${url} answers ${response.status}.`);
  return response;
}

/** What the text names: a STAC item, or GeoTIFFs, one address a line, `B02=address` where a name does not say its band. */
export async function find(text, files, about) {
  const lines = text.split(/\s+/).filter(Boolean);
  const found = { bands: {}, item: null };
  for (const file of files) {
    if (/\.json$/i.test(file.name)) { found.item = JSON.parse(await file.text()); continue; }
    const name = bandOf(file.name, about.words);
    if (!name) throw new Error(`${file.name} does not say which band it is: call it B02.tif, or the like.`);
    found.bands[name] = { file, name: file.name };
  }
  if (found.item && !files.some((file) => /tif/i.test(file.name))) Object.assign(found.bands, ofItem(found.item, location.href, about));
  if (lines.length === 1 && !/\.tiff?([?#]|$)/i.test(lines[0])) {
    const response = await fetched(lines[0]);
    try { found.item = await response.json(); } catch { throw new Error(`${lines[0]} is no STAC item.`); }
    if (found.item?.type !== "Feature" || !found.item.assets) throw new Error(`${lines[0]} is no STAC item.`);
    Object.assign(found.bands, ofItem(found.item, response.url, about));
  } else
    for (const line of lines) {
      const [, given, url] = line.match(/^(?:(\w+)=)?(.*)$/);
      const name = given ? about.words[given.toUpperCase()] : bandOf(url, about.words);
      if (!name) throw new Error(`${line} does not say which band it is: write B02=address.`);
      found.bands[name] = { url: new URL(url, location.href).href };
    }
  return found;
}

export const open = (source) => (source.file ? fromBlob(source.file) : fromUrl(source.url));

/** Look at the files' headers: the scene that they make together, or an error that says what is wrong with it. */
export async function scene(text, files, about) {
  const { bands, item } = await find(text, files, about);
  const need = about.bands.filter((band) => band.gsd < 60).map((band) => band.name);
  const missing = need.filter((name) => !bands[name]);
  if (missing.length) throw new Error(Object.keys(bands).length ? `There is no GeoTIFF of ${missing.join(", ")}: all bands of 10 m and 20 m are needed.` : "There are no GeoTIFFs of bands here.");
  const order = about.bands.filter((band) => bands[band.name]);
  const heads = await Promise.all(order.map(async ({ name, gsd }) => {
    let image;
    try {
      image = await (await open(bands[name])).getImage();
    } catch (error) {
      throw new Error(`${name} cannot be read (${bands[name].name ?? bands[name].url}): ${/magic|byte order/i.test(error.message) ? "it is no GeoTIFF" : /fetch/i.test(error.message) ? "it is not there, or its server does not let other pages read it (CORS)" : error.message}.`);
    }
    const [west, north] = image.getOrigin(), [x, y] = image.getResolution(), keys = image.getGeoKeys() ?? {};
    const head = { name, gsd, west, north, width: image.getWidth(), height: image.getHeight(), epsg: keys.ProjectedCSTypeGeoKey, nodata: image.getGDALNoData() };
    if (x !== gsd || y !== -gsd) throw new Error(`${name} has pixels of ${x} x ${-y} m, where ${gsd} m are measured: give the file on the band's own grid.`);
    return head;
  }));
  const epsg = heads[0].epsg;
  if (!/^32[67]\d\d$/.test(String(epsg))) throw new Error(`The files are in EPSG:${epsg ?? "?"}, which is no UTM zone.`);
  const other = heads.find((head) => head.epsg !== epsg);
  if (other) throw new Error(`${other.name} is in EPSG:${other.epsg}, the others in EPSG:${epsg}: give files of one scene.`);
  // Where 60 m pixels lie, see `xsen2.grid.lattice`: northings of the southern zones are 40 more.
  const first = { west: 0, north: epsg > 32700 ? 40 : 0 };
  for (const head of heads)
    if ((head.west - first.west) % head.gsd || (head.north - first.north) % head.gsd) throw new Error(`The pixels of ${head.name} lie off Sentinel-2's own grid: give files that were not resampled.`);
  const up = (value, from) => Math.ceil((value - from) / 60) * 60 + from, down = (value, from) => Math.floor((value - from) / 60) * 60 + from;
  const box = {
    west: Math.max(...heads.map((head) => up(head.west, first.west))), north: Math.min(...heads.map((head) => down(head.north, first.north))),
    east: Math.min(...heads.map((head) => down(head.west + head.width * head.gsd, first.west))), south: Math.max(...heads.map((head) => up(head.north - head.height * head.gsd, first.north))),
  };
  if (box.east <= box.west || box.north <= box.south) throw new Error("The files have no area in common.");
  const names = [item?.id, ...Object.values(bands).map((source) => source.name ?? source.url)].filter(Boolean);
  const stamp = item?.properties?.datetime ?? names.map((name) => name.match(/(20\d\d)([01]\d)([0-3]\d)/)).filter(Boolean).map(([, y, m, d]) => `${y}-${m}-${d}T00:00:00Z`)[0] ?? null;
  return { id: item?.id ?? "files", bands, heads, epsg, box, time: stamp, offset: offset(item) };
}
