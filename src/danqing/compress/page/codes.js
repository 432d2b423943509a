/* Images of a transformer: codes are drawn from logits, one after another or many in a step, as
compress/runtime/codes.py does. */

import { lerp } from "./arithmetic.js";
import { conditions, twice } from "./conditions.js";
import { uniform } from "./normals.js";
import { pixelsOf } from "./pixels.js";

const PREVIEWS = 8;
const TINY = 2 ** -126;

/** Return the guidance scale at a share of writing; it is constant, or rises from 1. */
function scaleAt(scale, schedule, progress) {
  const share = { constant: 1, linear: progress, cosine: (1 - Math.cos(Math.PI * progress)) / 2 }[schedule];
  return 1 + (scale - 1) * share;
}

/** Runs the graphs of an image, two rows where guidance compares them. */
class Writer {
  constructor(model, graphs, seed, request) {
    Object.assign(this, { loop: model.loop, graphs, options: { ...model.defaults, ...request.options } });
    this.isGuided = this.options.guidance_scale !== 1;
    this.count = this.loop.shape.reduce((product, side) => product * side, 1);
    this.uniforms = uniform([seed], this.count, "codes");
    this.codes = new Int32Array(this.count).fill(-1);
    const { given, away } = conditions(model, seed, request);
    this.inputs = this.isGuided ? twice(given, away) : given;
  }

  async begin() {
    const rows = this.isGuided ? 2 : 1, count = { data: new Float32Array(rows), dims: [rows] };
    const found = await this.graphs.begin({ ...this.inputs, count });
    [this.logits, this.cache] = [found[0].data, found.at(-1)];
  }

  /** Take codes [...dims]; compute the next logits. */
  async step(codes, dims, inputs) {
    const given = { data: codes, dims: [1, ...dims] };
    const both = this.isGuided ? twice({ codes: given }, { codes: given }) : { codes: given };
    const [logits, cache] = await this.graphs.step({ ...inputs, ...both, cache: this.cache });
    [this.logits, this.cache] = [logits.data, cache];
  }

  /** Draw the codes of places from the latest logits. progress: the share that is written. */
  draw(places, progress) {
    let { logits } = this;
    if (this.isGuided) {
      const half = logits.length / 2, scale = scaleAt(this.options.guidance_scale, this.options.guidance_schedule, progress);
      logits = lerp(logits.subarray(half), logits.subarray(0, half), Math.fround(scale));
    }
    const vocabulary = logits.length / places.length;
    places.forEach((place, i) => {
      this.codes[place] = choose(logits.slice(i * vocabulary, (i + 1) * vocabulary), this.uniforms[place], this.options);
    });
  }

  /** Turn the codes into an image, grey where they are unknown. */
  async image() {
    const [rows, columns, depth] = this.loop.shape, written = this.codes.map((code) => Math.max(code, 0));
    let images;
    if (this.loop.are_pixels) {
      const data = new Float32Array(this.count), plane = rows * columns;
      written.forEach((code, i) => { data[(i % depth) * plane + Math.floor(i / depth)] = Math.fround(code / 127.5) - 1; });
      images = { data, dims: [1, depth, rows, columns] };
    } else {
      [images] = await this.graphs.decode({ codes: { data: written, dims: [1, rows, columns, depth] } });
    }
    const [, channels, height, width] = images.dims, cell = [Math.ceil(height / rows), Math.ceil(width / columns)];
    const isHidden = Array.from({ length: rows * columns }, (_, place) => this.codes.subarray(place * depth, (place + 1) * depth).includes(-1));
    if (isHidden.includes(true)) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++) {
          if (!isHidden[Math.floor(y / cell[0]) * columns + Math.floor(x / cell[1])]) continue;
          for (let c = 0; c < channels; c++) images.data[(c * height + y) * width + x] = 0;
        }
      }
    }
    return pixelsOf(images);
  }
}

/** Draw a code by inverse transform sampling. logits: float32; share: in [0, 1). */
function choose(logits, share, { temperature, top_k: topK, top_p: topP }) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  if (temperature < TINY) return logits.indexOf(most);
  const scaled = logits.map((value) => (temperature === 1 ? value : (value - most) / temperature));
  const kept = Math.min(topK || scaled.length, scaled.length);
  if (kept === scaled.length && topP === 1) return inverted(softmax(scaled), share);
  const codes = [...scaled.keys()].sort((a, b) => scaled[b] - scaled[a] || a - b).slice(0, kept);
  let probabilities = softmax(Float32Array.from(codes, (code) => scaled[code]));
  if (topP < 1) {
    const sums = cumulated(probabilities);
    probabilities = probabilities.map((value, i) => {
      const before = Math.fround(sums[i] - value);
      return before >= topP && before > 0 ? 0 : value;
    });
  }
  return codes[inverted(probabilities, share)];
}

function softmax(logits) {
  const most = logits.reduce((a, b) => Math.max(a, b)), powers = logits.map((value) => Math.exp(value - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

/** Return the cumulative sums, float32. */
function cumulated(values) {
  let sum = 0;
  return values.map((value) => (sum += value));
}

/** Return the first index at which the cumulative sum exceeds a share. */
function inverted(probabilities, share) {
  const sums = cumulated(probabilities), total = sums.at(-1);
  const below = Math.min(Math.fround(share * total), before(total));
  return sums.findIndex((sum) => sum > below);
}

/** Return the float32 below a positive one. */
function before(value) {
  const bits = new Uint32Array(Float32Array.of(value).buffer);
  bits[0] -= 1;
  return new Float32Array(bits.buffer)[0];
}

/** Return how many codes are unknown after each step (Chang et al. 2022, section 3.2). */
function leftUnknown(wanted, steps) {
  let left = wanted;
  return Array.from({ length: steps }, (_, step) => {
    const share = Math.fround(Math.cos(0.5 * Math.PI * (step + 1) / steps));
    const kept = Math.floor(Math.fround(Math.fround(wanted * share) + Math.fround(1e-6)));
    left = Math.max(0, Math.min(kept, left - 1));
    return left;
  });
}

/** Return a function that reports a step, now and then with the image so far. */
function reporter(writer, onStep) {
  return async (done, steps) => {
    const isShown = Math.floor(done * PREVIEWS / steps) > Math.floor((done - 1) * PREVIEWS / steps);
    await onStep(done, steps, isShown && done < steps ? await writer.image() : null);
  };
}

/** Write codes row by row, each from all before it. */
export async function raster(model, graphs, seed, request, onStep) {
  const writer = new Writer(model, graphs, seed, request), report = reporter(writer, onStep);
  await writer.begin();
  for (let place = 0; place < writer.count; place++) {
    if (place) await writer.step([writer.codes[place - 1]], [], { place: { data: [place - 1], dims: [1] } });
    writer.draw([place], place / Math.max(writer.count - 1, 1));
    await report(place + 1, writer.count);
  }
  return writer.image();
}

/** Write many codes in each step, in the order of the model. */
export async function masked(model, graphs, seed, request, onStep) {
  const writer = new Writer(model, graphs, seed, request), report = reporter(writer, onStep);
  await writer.begin();
  const steps = writer.options.num_steps;
  let known = 0, entering = [];
  for (const [step, left] of leftUnknown(writer.count, steps).entries()) {
    const requested = model.loop.order.slice(known, writer.count - left);
    if (requested.length) {
      const places = (values) => ({ data: values, dims: [values.length] });
      await writer.step(entering.map((place) => writer.codes[place]), [entering.length], { entering: places(entering), requested: places(requested) });
      writer.draw(requested, step / Math.max(steps - 1, 1));
      [known, entering] = [writer.count - left, requested];
    }
    await report(step + 1, steps);
  }
  return writer.image();
}
