/* How an image is made with the graphs of a model, as compress/runtime does it in NumPy; one image at a time.

A loop is an async function of the model, its graphs, a seed, a request and `onStep`, which is called with the steps
done, all steps, and the image so far or null. */

import { masked, raster } from "./codes.js";
import { conditions } from "./conditions.js";
import { flow } from "./flow.js";
import { Generator, normal } from "./normals.js";
import { pixelsOf } from "./pixels.js";
import { derivedSeed } from "./seeds.js";

/** Images in one evaluation: noise in, images out. */
async function oneShot(model, graphs, seed, request) {
  const { loop } = model, options = { ...model.defaults, ...request.options }, count = loop.shape.reduce((a, b) => a * b, 1);
  let data = loop.distribution === "codes" ? drawnCodes(loop, seed) : normal([seed], count, loop.purpose);
  if (loop.scale_option) data = data.map((value) => value * Math.fround(options[loop.scale_option]));
  const inputs = { ...conditions(model, seed, request).given, [loop.noise]: { data, dims: [1, ...loop.shape] } };
  return pixelsOf((await graphs.generate(inputs))[0]);
}

/** Draw codes [rows, columns, depth] independently of each other. */
function drawnCodes({ shape: [rows, columns, depth], shares, purpose }, seed) {
  const generator = new Generator(derivedSeed(seed, purpose)), codes = new Int32Array(rows * columns * depth);
  shares.forEach((weights, level) => {
    generator.multinomial(weights, rows * columns).forEach((code, place) => { codes[place * depth + level] = code; });
  });
  return codes;
}

export const LOOPS = { one_shot: oneShot, flow, raster, masked };
