// Which DN are to be added to a scene's pixels, where its STAC item leaves no doubt: `xsen2.sources.offsets` has the rule,
// and says of doubtful items what contradicts what. Here a doubt is one for whoever looks at the page.

const KEYS = ["s2:processing_baseline", "sentinel2:processing_baseline", "sentinel:processing_baseline"];
const NAMES = ["s2:product_uri", "sentinel:product_id", "sentinel2:product_title", "s2:granule_id", "s2:tile_id", "s2:datastrip_id", "s2:datatake_id", "title"];

/** { value: number or null, why } */
export function offset(item) {
  if (!item) return { value: null, why: "Files do not say it: −1000 from processing baseline 04.00 on (since 25 January 2022), unless it has been taken off; 0 before." };
  const properties = item.properties ?? {};
  const flags = ["earthsearch:boa_offset_applied", "sentinel:boa_offset_applied"].map((key) => properties[key]).filter((said) => said !== undefined && said !== null);
  const flag = flags[0] ?? null;
  const unsure = (why) => ({ value: null, why: `${why}: give −1000 if the pixels carry +1000, 0 if not.` });
  if (flag !== null && typeof flag !== "boolean") return unsure("The item does not say clearly whether its offset has been taken off");
  const declared = new Set();
  for (const asset of Object.values(item.assets ?? {}))
    for (const [prefix, holders] of [["", asset["raster:bands"]], ["raster:", asset.bands], ["raster:", [asset]]])
      for (const holder of Array.isArray(holders) ? holders : []) {
        const scale = holder?.[`${prefix}scale`], said = holder?.[`${prefix}offset`];
        if (scale !== undefined && !(Math.abs(scale - 1e-4) < 1e-9)) return unsure(`The item gives a scale of ${scale}`);
        if (said !== undefined && said !== null) declared.add(Math.round(said / (scale ?? 1)) + 0);
      }
  if (declared.size > 1) return unsure("The item names several offsets");
  const [named] = declared;
  if (flag && !named) return { value: 0, why: "The item says that it has been taken off." };
  const told = [...KEYS.map((key) => String(properties[key] ?? "")).filter((text) => /^\d{1,2}\.\d{1,4}$/.test(text)),
    ...[...NAMES.map((key) => properties[key]), item.id].map((name) => String(name ?? "").match(/_N(?!9999)(\d\d)\.?(\d\d)(?=_|\.|$)/)).filter(Boolean).map(([, a, b]) => `${a}.${b}`)];
  const shifted = new Set(told.map((text) => (+text < 90 ? +text >= 4 : null)));
  if (shifted.size > 1) return unsure(`The item tells several processing baselines, ${told.join(" and ")}`);
  const [carries = null] = shifted;
  if (carries === null && named === undefined) return unsure("The item has neither an offset nor a processing baseline of ESA's");
  if (carries !== null && named !== undefined && carries !== (named !== 0)) return unsure(`The item's processing baseline is ${told[0]}, its offset ${named} DN`);
  if (flag) return { value: 0, why: "The item says that it has been taken off." };
  return { value: named ?? (carries ? -1000 : 0), why: told.length ? `As the item says, of processing baseline ${told[0]}.` : "As the item says." };
}
