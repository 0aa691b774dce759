// A GeoTIFF of float32 bands, one strip each, with what GDAL and OpenLayers read: CRS by its number, place, nodata, names.

const escaped = (text) => text.replace(/[&<>]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" })[sign]);

/**
 * @param bands [{ name, data: Float32Array }], all of one size; NaN becomes nodata
 * @param at { epsg, west, north, height, width, size } with the pixels' size in metres
 * @param tags what goes into the file's metadata
 */
export function geotiff(bands, { epsg, west, north, height, width, size }, nodata, tags = {}) {
  const metadata = `<GDALMetadata>${Object.entries(tags).map(([key, text]) => `<Item name="${escaped(key)}">${escaped(String(text))}</Item>`).join("")}${bands
    .map((band, i) => `<Item name="DESCRIPTION" sample="${i}" role="description">${escaped(band.name)}</Item>`).join("")}</GDALMetadata>`;
  const text = (string) => [...new TextEncoder().encode(string), 0];
  const many = bands.length, bytes = height * width * 4;
  const ASCII = 2, SHORT = 3, LONG = 4, DOUBLE = 12;
  const entries = [
    [256, LONG, [width]], [257, LONG, [height]], [258, SHORT, bands.map(() => 32)], [259, SHORT, [1]], [262, SHORT, [1]],
    [273, LONG, bands.map(() => 0)], // where the strips lie: filled in below
    [277, SHORT, [many]], [278, LONG, [height]], [279, LONG, bands.map(() => bytes)], [284, SHORT, [2]],
    ...(many > 1 ? [[338, SHORT, bands.slice(1).map(() => 0)]] : []), [339, SHORT, bands.map(() => 3)],
    [33550, DOUBLE, [size, size, 0]], [33922, DOUBLE, [0, 0, 0, west, north, 0]],
    [34735, SHORT, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, epsg]],
    [42112, ASCII, text(metadata)], [42113, ASCII, text(String(nodata))],
  ];
  const lengths = { [ASCII]: 1, [SHORT]: 2, [LONG]: 4, [DOUBLE]: 8 };
  let end = 8 + 2 + 12 * entries.length + 4;
  const places = entries.map(([, type, values]) => {
    const length = lengths[type] * values.length;
    if (length <= 4) return null;
    const place = (end = Math.ceil(end / 8) * 8);
    end += length;
    return place;
  });
  const start = Math.ceil(end / 8) * 8;
  entries.find(([tag]) => tag === 273)[2] = bands.map((_, i) => start + i * bytes);
  const buffer = new ArrayBuffer(start + many * bytes), view = new DataView(buffer);
  view.setUint16(0, 0x4949, true);
  view.setUint16(2, 42, true);
  view.setUint32(4, 8, true);
  view.setUint16(8, entries.length, true);
  entries.forEach(([tag, type, values], i) => {
    const at = 10 + 12 * i;
    view.setUint16(at, tag, true);
    view.setUint16(at + 2, type, true);
    view.setUint32(at + 4, values.length, true);
    if (places[i] !== null) view.setUint32(at + 8, places[i], true);
    let place = places[i] ?? at + 8;
    for (const value of values) {
      if (type === ASCII) view.setUint8(place, value);
      else if (type === SHORT) view.setUint16(place, value, true);
      else if (type === LONG) view.setUint32(place, value, true);
      else view.setFloat64(place, value, true);
      place += lengths[type];
    }
  });
  bands.forEach((band, i) => {
    const out = new Float32Array(buffer, start + i * bytes, height * width); // every machine with a browser is little-endian
    for (let k = 0; k < out.length; k++) out[k] = Number.isNaN(band.data[k]) ? nodata : band.data[k];
  });
  return new Blob([buffer], { type: "image/tiff; application=geotiff" });
}
