/* The adaptive method of Dormand and Prince (1980), of order 5, as danqing/dormand_prince.py has it, for one image. */

import { sum } from "./arithmetic.js";

const MOST_ATTEMPTS = 1000;
const TOLERANCE = 1e-3;
const STAGES = [
  [1 / 5],
  [3 / 40, 9 / 40],
  [44 / 45, -56 / 15, 32 / 9],
  [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
  [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
  [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];

/** Follow a velocity from x at time 0 to time 1; yields {x, t} after each step, and at the end the predicted image.

at: async, from x and t to dx/dt. first: the length of the first step. */
export async function* follow(at, x, first) {
  const end = 1 - TOLERANCE;
  let t = 0, size = first, velocity = await at(x, t);
  for (let attempts = 1; t !== end; attempts++) {
    const rest = end - t, length = Math.min(size, rest), slopes = [velocity];
    let found = x;
    for (const weights of STAGES) {
      found = sum(x, ...weights.map((weight, i) => [length * weight, slopes[i]]));
      slopes.push(await at(found, t + length * weights.reduce((a, b) => a + b)));
    }
    const error = norm(ERROR, slopes, length, x, found);
    if (attempts > MOST_ATTEMPTS || !Number.isFinite(error)) throw new Error("the adaptive sampler does not arrive");
    if (error <= 1) {
      [x, velocity] = [found, slopes.at(-1)];
      t = length === rest ? end : t + length;
    }
    size = length * Math.min(Math.max(0.9 * Math.max(error, 1e-10) ** -0.2, 0.2), 5);
    yield { x, t };
  }
  yield { x: sum(x, [1 - end, velocity]), t: 1 };
}

/** Return the error of a step in units of the tolerance, as a root mean square. */
function norm(weights, slopes, length, before, after) {
  let squares = 0;
  for (let i = 0; i < before.length; i++) {
    const error = length * weights.reduce((total, weight, stage) => total + weight * slopes[stage][i], 0);
    squares += (error / (TOLERANCE + TOLERANCE * Math.max(Math.abs(before[i]), Math.abs(after[i])))) ** 2;
  }
  return Math.sqrt(squares / before.length);
}
