/* Images of a flow: a sampler follows a velocity from noise to an image, as compress/runtime/flow.py does. */

import { lerp, sum } from "./arithmetic.js";
import { conditions, twice } from "./conditions.js";
import { normal } from "./normals.js";
import { pixelsOf } from "./pixels.js";
import { integrate, timeGrid } from "./samplers.js";

const LEAST_NOISE = 1e-3;
const PREVIEWS = 6; // of latents, which cost a run of the decoder each

const bounded = (values) => values.map((value) => Math.min(Math.max(value, -1), 1));

export async function flow(model, graphs, seed, request, onStep) {
  const { loop } = model, options = { ...model.defaults, ...request.options };
  const [channels, ownHeight, ownWidth] = loop.shape;
  const [width, height] = request.size ? request.size.split("x").map(Number) : [ownWidth, ownHeight];
  const count = channels * height * width, dims = [1, channels, height, width];
  const imageOf = async (z) => pixelsOf(loop.is_latent ? (await graphs.decode({ latents: { data: z, dims } }))[0] : { data: bounded(z), dims });
  const velocity = velocityOf(model, graphs, seed, request, options, dims);
  const told = async (done, steps, predicted) => {
    const isShown = !loop.is_latent || Math.floor(done * PREVIEWS / steps) > Math.floor((done - 1) * PREVIEWS / steps);
    await onStep(done, steps, done < steps && isShown ? await imageOf(predicted) : null);
  };
  const noise = (step) => normal([seed], count, `step ${step}`);
  const times = timeGrid(options.num_steps, options.time_shift);
  return imageOf(await integrate(options.sampler, velocity, normal([seed], count, "latents"), times, noise, told));
}

/** Return the velocity towards predictions, which guidance moves. */
function velocityOf(model, graphs, seed, request, options, dims) {
  const { given, away } = conditions(model, seed, request), both = twice(given, away);
  const { guidance_scale: scale = 1, guidance_start: first = 0, guidance_end: last = 1 } = options;

  async function predicted(z, time) {
    const t = Math.fround(time), inputs = { z: { data: z, dims }, t: { data: [t], dims: [1] } };
    const isGuided = scale !== 1 && t >= first && t <= last;
    if (!isGuided) return (await graphs.step({ ...given, ...inputs }))[0].data;
    if (options.guidance === "guide") {
      const [wanted] = await graphs.step({ ...given, ...inputs }), [other] = await graphs.guide({ ...given, ...inputs });
      return lerp(other.data, wanted.data, scale);
    }
    const { data } = (await graphs.step({ ...both, ...twice(inputs, inputs) }))[0];
    return lerp(data.slice(z.length), data.slice(0, z.length), scale);
  }

  return async (z, t) => {
    const image = await predicted(z, t), target = model.loop.is_latent ? image : bounded(image);
    return sum(target, [-1, z]).map((value) => value / Math.max(1 - t, LEAST_NOISE));
  };
}
