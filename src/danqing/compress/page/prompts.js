/* From a prompt to the ids that a graph reads, as danqing/text/bpe.py does: byte pairs (Sennrich et al. 2016). */

const END = 1, FIRST = 2;
const MOST_CHARACTERS = 16384;
const UNSPACED = ["Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar"].map((script) => `\\p{Script=${script}}`).join("");
const PIECES = new RegExp(`[${UNSPACED}]| ?(?:(?![${UNSPACED}])[\\p{L}\\p{M}])+| ?\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+`, "gu");
const SPACE_BEFORE = new RegExp(` (?=[${UNSPACED}])`, "gu");

/** The letters that stand for the 256 bytes: printable ones for themselves (Radford et al. 2019). */
const LETTERS = (() => {
  const isPrintable = (byte) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
})();

/** Return text as its bytes are paired: lower case, one form of each letter, single spaces. */
function normalized(text) {
  const clean = text.slice(0, MOST_CHARACTERS).toWellFormed?.() ?? text.slice(0, MOST_CHARACTERS);
  const single = clean.toLowerCase().normalize("NFC").replace(/\s+/g, " ").trim();
  return ` ${single}`.replace(SPACE_BEFORE, "");
}

export class Prompts {
  /** form: `text` of export.json. */
  constructor({ bpe, length }) {
    const { vocab, merges } = JSON.parse(bpe).model;
    this.length = length;
    this.vocabulary = vocab;
    this.ranks = new Map(merges.map((pair, rank) => [pair.join(" "), rank]));
  }

  /** Return the ids of a text, without its end. */
  ids(text) {
    const pieces = text.trim() ? normalized(text).match(PIECES) ?? [] : [];
    return pieces.flatMap((piece) => this.#paired(piece).map((token) => FIRST + this.vocabulary[token]));
  }

  /** Return the inputs of a graph: `tokens`, 0 beyond an end, and whether the text is `blank`. */
  inputs(text) {
    const data = new Int32Array(this.length);
    data.set([...this.ids(text), END].slice(0, this.length));
    return { tokens: { data, dims: [1, this.length] }, blank: { data: [Number(!text.trim())], dims: [1] } };
  }

  /** Join the most frequent pair of letters again and again. */
  #paired(piece) {
    let parts = [...new TextEncoder().encode(piece)].map((byte) => LETTERS[byte]);
    for (;;) {
      const ranks = parts.slice(1).map((part, i) => this.ranks.get(`${parts[i]} ${part}`) ?? Infinity);
      const least = ranks.reduce((a, b) => Math.min(a, b), Infinity);
      if (least === Infinity) return parts;
      const joined = [];
      for (let i = 0; i < parts.length; i++) {
        if (ranks[i] === least) joined.push(parts[i] + parts[++i]);
        else joined.push(parts[i]);
      }
      parts = joined;
    }
  }
}
