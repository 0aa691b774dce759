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

/** Grow valid pixels into nodata, a step at a time; what lies farther than `steps` becomes 0. Float32 throughout. */
export function fill(values, height, width, steps) {
  let bad = 0;
  for (const value of values) if (Number.isNaN(value)) bad++;
  if (!bad) return values;
  if (bad === values.length) return values.fill(0);
  const wide = width + 2, many = wide * (height + 2);
  const out = new Float32Array(many), known = new Uint8Array(many), inside = new Uint8Array(many);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const at = (y + 1) * wide + x + 1, value = values[y * width + x];
      inside[at] = 1;
      if (!Number.isNaN(value)) { out[at] = value; known[at] = 1; }
    }
  const around = [-1, 0, 1].flatMap((dy) => [-1, 0, 1].map((dx) => dy * wide + dx)).filter((step) => step);
  let rim = [];
  for (let at = 0; at < many; at++) if (inside[at] && !known[at] && around.some((step) => known[at + step])) rim.push(at);
  for (let step = 0; step < steps && rim.length; step++) {
    const made = new Float32Array(rim.length);
    rim.forEach((at, i) => {
      let total = 0, count = 0;
      for (const by of around) if (known[at + by]) { total = Math.fround(total + out[at + by]); count++; }
      made[i] = total / count;
    });
    rim.forEach((at, i) => { out[at] = made[i]; known[at] = 1; });
    const next = new Set();
    for (const at of rim) for (const by of around) if (inside[at + by] && !known[at + by]) next.add(at + by);
    rim = [...next];
  }
  for (let y = 0; y < height; y++) values.set(out.subarray((y + 1) * wide + 1, (y + 1) * wide + 1 + width), y * width);
  return values;
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
