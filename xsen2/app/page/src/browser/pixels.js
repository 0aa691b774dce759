// Blocks of pixels as the library cuts them: mirrored at the image's edges, nodata filled from its surroundings.
// `xsen2.engine.halo`, `xsen2.engine.fill` and `xsen2.engine.block` say why; a test holds the pixels against theirs.

/** Where the pixels of a window lie in an image of `size` pixels: beyond its edges it is mirrored, the last one twice. */
export function mirrored(from, to, size) {
  const out = new Int32Array(to - from);
  for (let i = from; i < to; i++) {
    const place = ((i % (2 * size)) + 2 * size) % (2 * size);
    out[i - from] = place < size ? place : 2 * size - 1 - place;
  }
  return out;
}

const AROUND = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => [dy, dx])).filter(([dy, dx]) => dy || dx);

/**
 * Fill nodata of nested grids, all bands of a cell alike: `xsen2.engine.fill.fill_together`.
 *
 * `grids` are `{ f, bands: [{ data, height, width }] }`, NaN where there is nothing; a cell is a pixel of the coarsest.
 */
export function fillTogether(grids, steps) {
  if (!grids.some(({ bands }) => bands.some(({ data }) => data.some(Number.isNaN)))) return;
  const cell = Math.max(...grids.map(({ f }) => f)), finest = Math.min(...grids.map(({ f }) => f)), ratio = cell / finest;
  const coarsest = grids.find(({ f }) => f === cell).bands[0], height = coarsest.height, width = coarsest.width;
  // A frame of cells that nobody knows lies round all.
  const wide = width + 2, at = (y, x) => (y + 1) * wide + x + 1;
  const known = new Uint8Array(wide * (height + 2));
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      let some = false;
      for (let i = 0; i < ratio && !some; i++)
        for (let j = 0; j < ratio && !some; j++)
          some = grids.every(({ f, bands }) => bands.every((band) => {
            const times = f / finest;
            return !Number.isNaN(band.data[Math.floor((y * ratio + i) / times) * band.width + Math.floor((x * ratio + j) / times)]);
          }));
      known[at(y, x)] = some ? 1 : 0;
      for (const { f, bands } of grids)
        for (const band of bands) {
          const side = cell / f;
          if (some) grownWithin(band, y * side, x * side, side);
          else for (let i = 0; i < side; i++) band.data.fill(0, (y * side + i) * band.width + x * side, (y * side + i) * band.width + (x + 1) * side);
        }
    }
  for (let step = 0; step < steps; step++) {
    const rim = [];
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        if (known[at(y, x)]) continue;
        const beside = AROUND.filter(([dy, dx]) => known[at(y + dy, x + dx)]);
        if (beside.length) rim.push([y, x, beside]);
      }
    if (!rim.length) break;
    // The mean of the neighbours, mirrored at the common edge; only known cells are read, so that order is no matter.
    for (const [y, x, beside] of rim)
      for (const { f, bands } of grids)
        for (const { data, width: w } of bands) {
          const side = cell / f;
          for (let i = 0; i < side; i++)
            for (let j = 0; j < side; j++) {
              let total = 0;
              for (const [dy, dx] of beside)
                total = Math.fround(total + data[((y + dy) * side + (dy ? side - 1 - i : i)) * w + (x + dx) * side + (dx ? side - 1 - j : j)]);
              data[(y * side + i) * w + x * side + j] = total / beside.length;
            }
        }
    for (const [y, x] of rim) known[at(y, x)] = 1;
  }
}

/** What a cell of a band lacks, grown from what it has; Float32 throughout. */
function grownWithin({ data, width }, top, left, side) {
  const place = (i, j) => (top + i) * width + left + j, holes = [];
  for (let i = 0; i < side; i++) for (let j = 0; j < side; j++) if (Number.isNaN(data[place(i, j)])) holes.push([i, j]);
  for (let rest = holes; rest.length;) {
    const made = [], still = [];
    for (const [i, j] of rest) {
      let total = 0, count = 0;
      for (const [dy, dx] of AROUND) {
        if (i + dy < 0 || j + dx < 0 || i + dy >= side || j + dx >= side) continue;
        const value = data[place(i + dy, j + dx)];
        if (!Number.isNaN(value)) { total = Math.fround(total + value); count++; }
      }
      if (count) made.push([place(i, j), total / count]); else still.push([i, j]);
    }
    for (const [where, value] of made) data[where] = value;
    if (!made.length) return;
    rest = still;
  }
}

/** A window of an image, `{ data, height, width }`. */
export function cut({ data, width }, top, left, tall, wide) {
  const out = new Float32Array(tall * wide);
  for (let y = 0; y < tall; y++) out.set(data.subarray((top + y) * width + left, (top + y) * width + left + wide), y * wide);
  return { data: out, height: tall, width: wide };
}

/** Every pixel `factor` times along both axes. */
export function repeated({ data, height, width }, factor) {
  const out = new Float32Array(height * width * factor * factor);
  for (let y = 0; y < height * factor; y++)
    for (let x = 0; x < width * factor; x++) out[y * width * factor + x] = data[Math.floor(y / factor) * width + Math.floor(x / factor)];
  return { data: out, height: height * factor, width: width * factor };
}

/** Percentiles, as numpy has them, of what is a number. */
export function percentiles(values, shares) {
  const kept = Float32Array.from(values.filter((v) => !Number.isNaN(v))).sort();
  return shares.map((share) => {
    if (!kept.length) return null;
    const at = (share / 100) * (kept.length - 1), low = Math.floor(at);
    return kept[low] + (at - low) * (kept[Math.min(low + 1, kept.length - 1)] - kept[low]);
  });
}
