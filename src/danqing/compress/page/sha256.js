/* SHA-256 (FIPS 180-4). The browser's own needs https or localhost, and this page may be served to a phone. */

const primes = (count) => {
  const found = [];
  for (let n = 2; found.length < count; n++) if (found.every((prime) => n % prime)) found.push(n);
  return found;
};
const fraction = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32);
const CONSTANTS = Uint32Array.from(primes(64), (prime) => fraction(Math.cbrt(prime)));
const START = Uint32Array.from(primes(8), (prime) => fraction(Math.sqrt(prime)));
const BLOCK = 64;

const turned = (word, bits) => (word >>> bits) | (word << (32 - bits));

/** Return the digest of bytes in hexadecimal digits. */
export function sha256(bytes) {
  const padded = new Uint8Array(Math.ceil((bytes.length + 9) / BLOCK) * BLOCK);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer), state = START.slice(), w = new Uint32Array(64);
  view.setBigUint64(padded.length - 8, 8n * BigInt(bytes.length));
  for (let block = 0; block < padded.length; block += BLOCK) {
    for (let i = 0; i < 64; i++) {
      if (i < 16) w[i] = view.getUint32(block + 4 * i);
      else {
        const a = w[i - 15], b = w[i - 2];
        const first = turned(a, 7) ^ turned(a, 18) ^ (a >>> 3), second = turned(b, 17) ^ turned(b, 19) ^ (b >>> 10);
        w[i] = w[i - 16] + first + w[i - 7] + second;
      }
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const one = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + CONSTANTS[i] + w[i];
      const two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => { state[i] += word; });
  }
  return [...state].map((word) => word.toString(16).padStart(8, "0")).join("");
}
