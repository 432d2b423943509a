/* Arithmetic of arrays, float32. */

/** Return x + Σ scale · array, float32. terms: pairs of a scale and an array. */
export function sum(x, ...terms) {
  return x.map((value, i) => terms.reduce((total, [scale, array]) => total + scale * array[i], value));
}

/** Interpolate as torch.lerp does, which is exact at both ends. */
export function lerp(start, end, weight) {
  const isNear = Math.abs(weight) < 0.5;
  return start.map((from, i) => (isNear ? from + weight * (end[i] - from) : end[i] - (end[i] - from) * (1 - weight)));
}
