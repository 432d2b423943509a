/* Samplers that follow a velocity field from noise to an image, as danqing/samplers.py has them, for one image.

Time t runs from 0 (noise) to 1 (image); x + (1 - t)·v is the predicted image. */

import { sum } from "./arithmetic.js";
import { follow } from "./dormand_prince.js";

const CHURN = 3, MOST_CHURN = Math.SQRT2 - 1;

/** Return the time at which the ratio of noise to signal is `factor` times as large as at t. */
const noisier = (t, factor) => t / (t + factor * (1 - t));

const logRatio = (t) => (t <= 0 ? -Infinity : t >= 1 ? Infinity : Math.log(t / (1 - t)));

/** Return steps + 1 times from 0 to 1, uniform up to the shift (Esser et al. 2024, equation 23). */
export function timeGrid(steps, shift) {
  return [...Array.from({ length: steps }, (_, step) => noisier(step / steps, shift)), 1];
}

/** Heun's method (Karras et al. 2022, algorithm 1); the step to time 1 is Euler's. */
async function heunStep(at, x, t, s) {
  const first = await at(x, t), guess = sum(x, [s - t, first]);
  return s >= 1 ? guess : sum(x, [(s - t) / 2, first], [(s - t) / 2, await at(guess, s)]);
}

/* Each takes one step, from x at time t to time s. state: what a sampler keeps between steps. */
const STEPS = {
  euler: async ({ at }, x, t, s) => sum(x, [s - t, await at(x, t)]),
  heun: ({ at }, x, t, s) => heunStep(at, x, t, s),
  midpoint: async ({ at }, x, t, s) => {
    const half = sum(x, [(s - t) / 2, await at(x, t)]);
    return sum(x, [s - t, await at(half, (t + s) / 2)]);
  },
  // Adams and Bashforth for steps of any length; the first is Heun's, and the second reuses the end of its guess.
  ab2: async ({ at, state, step }, x, t, s) => {
    const velocity = state.following ?? await at(x, t);
    state.following = null;
    let terms = [[s - t, velocity]];
    if (step > 0) {
      const share = (s - t) / (2 * state.length);
      terms = [[(s - t) * (1 + share), velocity], [-(s - t) * share, state.before]];
    } else if (s < 1) {
      state.following = await at(sum(x, [s - t, velocity]), s);
      terms = [[(s - t) / 2, velocity], [(s - t) / 2, state.following]];
    }
    Object.assign(state, { before: velocity, length: s - t });
    return sum(x, ...terms);
  },
  // DPM-Solver++(2M) (Lu et al. 2022, algorithm 2) with α = t and σ = 1 - t.
  "dpm++": async ({ at, state, step }, x, t, s) => {
    const image = sum(x, [1 - t, await at(x, t)]), growth = logRatio(s) - logRatio(t);
    let aim = image;
    if (step > 0 && s < 1) {
      const share = growth / (2 * state.length);
      aim = sum(image, [share, image], [-share, state.before]);
    }
    Object.assign(state, { before: image, length: growth });
    return x.map((value, i) => (1 - s) / (1 - t) * value + (s - t) / (1 - t) * aim[i]);
  },
  // More noise before each step of Heun's (Karras et al. 2022, algorithm 2).
  stochastic: async ({ at, step, steps, noise }, x, t, s) => {
    const churn = Math.min(CHURN / steps, MOST_CHURN), added = (1 - t) * Math.sqrt((1 + churn) ** 2 - 1);
    const noised = sum(x, [added, noise(step)]).map((value) => value / (1 + churn * (1 - t)));
    return heunStep(at, noised, noisier(t, 1 + churn), s);
  },
  // The predicted image, with fresh noise for the next step (Song et al. 2023, algorithm 1).
  consistency: async ({ at, step, noise }, x, t, s) => {
    const image = sum(x, [1 - t, await at(x, t)]).map((value) => s * value);
    return s < 1 ? sum(image, [1 - s, noise(step)]) : image;
  },
};

const predicted = ([x, t, velocity]) => sum(x, [1 - t, velocity]);

/** Follow a velocity from x at times[0] to the last time; return x there.

velocity: async, from x and t to dx/dt. noise: from the number of a step to normal numbers.
onStep: async, called with the steps done, all steps, and the predicted image. */
export async function integrate(name, velocity, x, times, noise, onStep) {
  const steps = times.length - 1, state = {};
  let latest = null;
  const at = async (point, t) => {
    const found = await velocity(point, t);
    latest = [point, t, found];
    return found;
  };
  if (name === "adaptive") {
    for await (const { x: reached, t } of follow(at, x, times[1])) {
      x = reached;
      await onStep(Math.min(times.filter((time) => time <= t).length - 1, steps), steps, t < 1 ? predicted(latest) : x);
    }
    return x;
  }
  for (let step = 0; step < steps; step++) {
    x = await STEPS[name]({ at, state, step, steps, noise }, x, times[step], times[step + 1]);
    await onStep(step + 1, steps, predicted(latest));
  }
  return x;
}
