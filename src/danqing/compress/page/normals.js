/* The CPU generator of PyTorch: mt19937 (Matsumoto and Nishimura 1998), torch.rand and torch.randn in float32.

A seed gives the same numbers as in PyTorch; normal ones differ by the rounding of logarithm and cosine. */

import { derivedSeed } from "./seeds.js";

const SIZE = 624, HALF = 397, VECTOR = 16;
const TWO_PI = Math.fround(2 * Math.PI);

export class Generator {
  /** seed: a whole number or a BigInt, of which 32 bits count, as in PyTorch. */
  constructor(seed) {
    const state = new Uint32Array(SIZE);
    state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
    for (let i = 1; i < SIZE; i++) {
      const before = state[i - 1] ^ (state[i - 1] >>> 30);
      state[i] = Math.imul(1812433253, before) + i;
    }
    this.state = state;
    this.next = SIZE;
    this.spare = null;
  }

  /** Return 32 random bits. */
  bits() {
    if (this.next === SIZE) this.#refill();
    let y = this.state[this.next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  #refill() {
    const state = this.state;
    for (let i = 0; i < SIZE; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % SIZE] & 0x7fffffff);
      state[i] = state[(i + HALF) % SIZE] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    this.next = 0;
  }

  /** Return a float32 in [0, 1) with 24 random bits. */
  uniform() {
    return (this.bits() & 0xffffff) * 2 ** -24;
  }

  /** Return a double in [0, 1) with 53 random bits. */
  #uniformDouble() {
    const high = this.bits() & 0x1fffff, low = this.bits();
    return (high * 2 ** 32 + low) * 2 ** -53;
  }

  /** Return `count` indices drawn with replacement as torch.multinomial does; weights need not add up to 1. */
  multinomial(weights, count) {
    if (count === 1) { // the first of some independent events
      const shares = weights.map((weight) => weight / -Math.log1p(-this.#uniformDouble()));
      return [shares.indexOf(shares.reduce((a, b) => Math.max(a, b)))];
    }
    let sum = 0;
    const sums = weights.map((weight) => (sum += weight)).map((each) => each / sum);
    return Array.from({ length: count }, () => {
      const share = this.#uniformDouble();
      return sums.findIndex((each) => each >= share);
    });
  }

  /** Return a normal number, one at a time as PyTorch draws fewer than 16: in double precision, by pairs. */
  #normal() {
    if (this.spare !== null) {
      const spare = this.spare;
      this.spare = null;
      return spare;
    }
    const angle = 2 * Math.PI * this.#uniformDouble();
    const radius = Math.sqrt(-2 * Math.log1p(-this.#uniformDouble()));
    this.spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** Return `count` uniform numbers as torch.rand does. */
  rand(count) {
    return Float32Array.from({ length: count }, () => this.uniform());
  }

  /** Return `count` normal numbers as torch.randn does. */
  randn(count) {
    if (count < VECTOR) return Float32Array.from({ length: count }, () => this.#normal());
    const values = this.rand(count);
    for (let start = 0; start + VECTOR <= count; start += VECTOR) boxMuller(values, start);
    if (count % VECTOR) { // the last 16 are drawn once more
      values.set(this.rand(VECTOR), count - VECTOR);
      boxMuller(values, count - VECTOR);
    }
    return values;
  }
}

/** Turn 16 uniform numbers into normal ones (Box and Muller 1958), in float32. */
function boxMuller(values, start) {
  for (let i = start; i < start + 8; i++) {
    const radius = Math.sqrt(Math.fround(-2 * Math.fround(Math.log(1 - values[i]))));
    const angle = Math.fround(TWO_PI * values[i + 8]);
    values[i] = radius * Math.cos(angle);
    values[i + 8] = radius * Math.sin(angle);
  }
}

const rows = (draw) => (seeds, count, purpose) => {
  const all = new Float32Array(seeds.length * count);
  seeds.forEach((seed, i) => all.set(draw(new Generator(derivedSeed(seed, purpose)), count), i * count));
  return all;
};

/** Draw `count` normal numbers for each seed, as danqing.randomness.normal does. */
export const normal = rows((generator, count) => generator.randn(count));

/** Draw `count` uniform numbers for each seed, as danqing.randomness.uniform does. */
export const uniform = rows((generator, count) => generator.rand(count));
