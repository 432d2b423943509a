/* The inputs of a graph that say what an image shows, as compress/runtime/conditions.py makes them. */

import { Prompts } from "./prompts.js";
import { derivedSeed } from "./seeds.js";

const MISMATCH = 1e6, NEAR = 0.01;

/** What the model cannot do with a request. key: of the text that says so. field: the id of its control. */
export class Refusal extends Error {
  constructor(key, values, field) {
    super(key);
    Object.assign(this, { key, values, field });
  }
}

/** Return the inputs of one image, {name: {data, dims}}: `given`, and `away`, what guidance leads away from.

request: of form.js. */
export function conditions(model, seed, request) {
  const given = { absent: { data: [0], dims: [1] } }, label = model.labels.indexOf(request.label);
  if (label >= 0) given.label = { data: [label], dims: [1] };
  if (model.attributes.length) {
    const values = attributes(model, seed, request.attributes, label), dims = [1, values.length];
    given.attributes = { data: values.map((value) => (Number.isNaN(value) ? 0 : value)), dims };
    given.known = { data: values.map((value) => Number(!Number.isNaN(value))), dims };
  }
  const away = { ...given, absent: { data: [1], dims: [1] } };
  if (!model.text) return { given, away };
  const { negative_prompt: negative = "", guidance_scale: scale = model.defaults.guidance_scale } = request.options;
  if (negative && scale === 1) throw new Refusal("needsGuidance", {}, "option-negative_prompt");
  Object.assign(given, tokens(model, request.prompt, "prompt"));
  const led = negative ? { ...given, ...tokens(model, negative, "option-negative_prompt") } : { ...given, absent: away.absent };
  return { given, away: led };
}

function tokens(model, text, field) {
  model.prompts ??= new Prompts(model.text);
  const n = model.prompts.ids(text).length, most = model.prompts.length;
  if (n > most) throw new Refusal("tooLong", { n, most }, field);
  return model.prompts.inputs(text);
}

/** Return inputs with the rows of both. */
export function twice(first, second) {
  const joined = (a, b) => (Array.isArray(a) ? a.concat(b) : a.constructor.from({ length: a.length + b.length }, (_, i) => (i < a.length ? a[i] : b[i - a.length])));
  return Object.fromEntries(Object.entries(first).map(([name, { data, dims }]) =>
    [name, { data: joined(data, second[name].data), dims: [2, ...dims.slice(1)] }]));
}

/** Return the attributes of an image, NaN where unknown: those that are requested, and those of one of the training
images that are most like them. */
function attributes(model, seed, requested, label) {
  const columns = model.attributes.flatMap((one) => {
    const value = requested[one.name];
    const values = value === undefined ? Array(one.width).fill(NaN) : one.kind === "category" ? [one.categories.indexOf(value)] : [value].flat();
    return values.map((number, i) => ({ number, isCategory: one.kind === "category", scale: one.deviation[i] || 1 }));
  });
  const examples = model.attribute_examples;
  if (!examples.length) return columns.map(({ number }) => number);
  const distances = examples.map((example) => {
    let sum = label >= 0 && example.label !== label ? MISMATCH : 0;
    columns.forEach(({ number, isCategory, scale }, i) => {
      if (Number.isNaN(number)) return;
      const own = example.values[i];
      if (isCategory) sum += own === number ? 0 : MISMATCH;
      else sum += own === null ? 1 : ((own - number) / scale) ** 2;
    });
    return sum;
  });
  const least = distances.reduce((a, b) => Math.min(a, b));
  const near = examples.filter((_, i) => distances[i] <= least + NEAR);
  const drawn = near[Number(derivedSeed(seed, "attributes") % BigInt(near.length))];
  return columns.map(({ number }, i) => (Number.isNaN(number) ? drawn.values[i] ?? NaN : number));
}
