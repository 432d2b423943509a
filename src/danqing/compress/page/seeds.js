/* Seeds that are derived from others: the same as danqing.randomness.derived_seed, with BLAKE2b of RFC 7693. */

const MASK = (1n << 64n) - 1n;
const START = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const ORDER = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
  [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
  [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
  [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
  [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
const LINES = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];
const BLOCK = 128;

const turned = (word, bits) => ((word >> bits) | (word << (64n - bits))) & MASK;

function compress(state, words, length, isLast) {
  const v = [...state, ...START];
  v[12] ^= BigInt(length);
  if (isLast) v[14] ^= MASK;
  for (let round = 0; round < 12; round++) {
    const order = ORDER[round % 10];
    LINES.forEach(([a, b, c, d], i) => {
      v[a] = (v[a] + v[b] + words[order[2 * i]]) & MASK;
      v[d] = turned(v[d] ^ v[a], 32n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = turned(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + words[order[2 * i + 1]]) & MASK;
      v[d] = turned(v[d] ^ v[a], 16n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = turned(v[b] ^ v[c], 63n);
    });
  }
  return state.map((word, i) => word ^ v[i] ^ v[i + 8]);
}

/** Return the first 8 bytes of BLAKE2b with a digest of 8 bytes, as a number in little-endian order. */
function blake2b8(bytes) {
  let state = [START[0] ^ 0x01010008n, ...START.slice(1)];
  const blocks = Math.max(1, Math.ceil(bytes.length / BLOCK));
  const padded = new Uint8Array(blocks * BLOCK);
  padded.set(bytes);
  const view = new DataView(padded.buffer);
  for (let block = 0; block < blocks; block++) {
    const words = Array.from({ length: 16 }, (_, i) => view.getBigUint64(block * BLOCK + 8 * i, true));
    const isLast = block === blocks - 1;
    state = compress(state, words, isLast ? bytes.length : (block + 1) * BLOCK, isLast);
  }
  return state[0];
}

/** Return the 63-bit seed, a BigInt, of one use of a seed. */
export function derivedSeed(seed, purpose, ...numbers) {
  const digest = blake2b8(new TextEncoder().encode([seed, purpose, ...numbers].join(":")));
  let swapped = 0n; // the digest is read as a big-endian number
  for (let byte = 0n; byte < 8n; byte++) swapped = (swapped << 8n) | ((digest >> (8n * byte)) & 255n);
  return swapped >> 1n;
}

/** Return the seeds of images 0 to count - 1 of one request, as `danqing sample --seed` has them. */
export const imageSeeds = (seed, count) => Array.from({ length: count }, (_, i) => derivedSeed(seed, "image", i));
