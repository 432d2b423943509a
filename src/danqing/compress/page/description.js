/* What the page needs to know of the model, from export.json and page.json. */

import { t } from "./dom.js";

const FORMAT = 1;
const WASM = "runtime/ort-wasm-simd-threaded.wasm";
const SCALES = [0.5, 0.75, 1, 1.5, 2];
const FEW = 4; // images that a page begins with, where one evaluation makes an image

/** Return a description of the model; throws where export.json is newer than this page. */
export function describe(manifest, page) {
  if (manifest.format !== FORMAT) throw new Error(t("newer", { format: manifest.format, known: FORMAT }));
  const graphs = Object.values(manifest.graphs).map((graph) => graph.file);
  const sum = (files) => files.reduce((total, file) => total + page.files[file], 0);
  const sizes = sizesOf(manifest.sizes);
  return {
    ...manifest, ...page, sizes,
    captions: manifest.captions.flatMap((caption) => caption.split("\n").slice(0, 1)),
    reads: manifest.text ? "text" : manifest.labels.length ? "label" : "nothing",
    defaults: manifest.options,
    options: options(manifest, page.controls),
    attributes: manifest.attributes.map(attribute),
    firstCount: manifest.loop.kind === "one_shot" ? FEW : 1,
    bytes: sum(graphs),
    bytesToLoad: sum([WASM, ...graphs]),
  };
}

/** Return the sizes that the form offers: the model's own, and some others where it samples any in a range. */
function sizesOf([own, multiple, least, most]) {
  const found = [...own];
  if (multiple) {
    const sides = (side) => SCALES.map((scale) => Math.round(side * scale / multiple) * multiple);
    for (const height of sides(own[0][1])) for (const width of sides(own[0][0])) found.push([width, height]);
  }
  const isOffered = ([width, height], i) => i < own.length || (width * height >= least && width * height <= most);
  return [...new Set(found.filter(isOffered).map(([width, height]) => `${width}x${height}`))];
}

/** Return the options of sampling with what their controls may hold; guidance only where the model can follow it. */
function options({ options: defaults, loop, text }, controls) {
  const byCondition = loop.has_condition && loop.has_dropout, byGuide = loop.has_guide && loop.guide_trained;
  const names = Object.keys(defaults).filter((name) => name in controls && (byCondition || byGuide || !name.startsWith("guidance")));
  const found = names.map((name) => ({ name, default: defaults[name], ...controls[name] }));
  const choices = [byCondition && "condition", byGuide && "guide"].filter(Boolean);
  for (const one of found) if (one.name === "guidance") one.choices = choices;
  const negative = { name: "negative_prompt", default: "", isText: true };
  return text && byCondition ? [negative, ...found] : found;
}

/** Return an attribute with what its control may hold. */
function attribute(one) {
  const choices = one.kind === "category" ? { choices: one.categories } : {};
  return { ...one, ...choices, default: null, isVector: one.kind === "vector" };
}
