/* A mask: which pixels of a picture are filled, and the operations that made it. Nothing here knows of the page.

   Each operation is the list of pixels that it flipped, as runs of [start, length] in rows from top to bottom. To flip them again
   undoes it exactly, and costs as much as it changed, however many operations there were before. */

export class Mask {
  /* operations: [{ kind, flips }], of which the first `done` are applied; the others can be redone. */
  constructor(width, height, operations = [], done = operations.length) {
    Object.assign(this, { width, height, operations, done, count: 0 });
    this.pixels = bytes(width * height);
    this.settled = bytes(width * height);
    this.dirty = null;
    for (const { flips } of operations.slice(0, done)) this.#flip(this.pixels, flips);
    this.count = this.pixels.reduce((sum, one) => sum + one, 0);
    this.settled.set(this.pixels);
  }

  get canUndo() { return this.done > 0; }
  get canRedo() { return this.done < this.operations.length; }
  get all() { return { left: 0, top: 0, right: this.width, bottom: this.height }; }

  /* drawing: each call returns the rectangle that it may have changed, or null; nothing is final before `commit` */

  /* A line with round ends whose radius changes from one to the other, in pixels. Discs overlap so much that no edge shows. */
  line(x0, y0, r0, x1, y1, r1, value) {
    const length = Math.hypot(x1 - x0, y1 - y0), count = Math.ceil(length / Math.sqrt(Math.max(1, 2 * Math.min(r0, r1)))) || 1;
    let rect = null;
    for (let i = 0; i <= count; i++) rect = union(rect, this.disc(x0 + (i / count) * (x1 - x0), y0 + (i / count) * (y1 - y0), r0 + (i / count) * (r1 - r0), value));
    return rect;
  }

  disc(x, y, radius, value) {
    const first = Math.max(0, Math.ceil(y - radius - 0.5)), last = Math.min(this.height - 1, Math.floor(y + radius - 0.5));
    for (let row = first; row <= last; row++) {
      const half = Math.sqrt(radius * radius - (row + 0.5 - y) ** 2);
      this.#span(row, Math.ceil(x - half - 0.5), Math.floor(x + half - 0.5) + 1, value);
    }
    const column = Math.floor(x);
    this.#span(Math.floor(y), column, column + 1, value); // a disc smaller than a pixel still draws one
    return this.#touch(Math.min(column, Math.floor(x - radius)), Math.min(first, Math.floor(y)),
      Math.max(column, Math.ceil(x + radius)) + 1, Math.max(last, Math.floor(y)) + 1);
  }

  box(left, top, width, height, value) {
    for (let row = Math.max(0, top); row < Math.min(this.height, top + height); row++) this.#span(row, left, left + width, value);
    return this.#touch(left, top, left + width, top + height);
  }

  /* The inside of a closed path of [x, y], by the even-odd rule, at the centres of pixels. */
  polygon(path, value) {
    const ys = path.map(([, y]) => y), xs = path.map(([x]) => x);
    for (let row = Math.max(0, Math.floor(Math.min(...ys))); row <= Math.min(this.height - 1, Math.max(...ys)); row++) {
      const crossings = [], y = row + 0.5;
      path.forEach(([x0, y0], i) => {
        const [x1, y1] = path[(i + 1) % path.length];
        if (y0 <= y !== y1 <= y) crossings.push(x0 + ((y - y0) / (y1 - y0)) * (x1 - x0));
      });
      crossings.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossings.length; i += 2) this.#span(row, Math.ceil(crossings[i] - 0.5), Math.ceil(crossings[i + 1] - 0.5), value);
    }
    return this.#touch(Math.floor(Math.min(...xs)), Math.floor(Math.min(...ys)), Math.ceil(Math.max(...xs)) + 1, Math.ceil(Math.max(...ys)) + 1);
  }

  /* Pixels whose channels each differ from those of one pixel by at most a tolerance: those that touch it, or all of them.
     colours: RGBA of the picture at the size of the mask. */
  similar(colours, x, y, tolerance, everywhere, value) {
    const { width, height } = this, seed = 4 * (y * width + x), [r, g, b, a] = colours.subarray(seed, seed + 4);
    const fits = (i) => Math.abs(colours[i] - r) <= tolerance && Math.abs(colours[i + 1] - g) <= tolerance
      && Math.abs(colours[i + 2] - b) <= tolerance && Math.abs(colours[i + 3] - a) <= tolerance;
    if (everywhere) {
      for (let i = 0; i < width * height; i++) if (fits(4 * i)) this.pixels[i] = value;
      return this.#touch(0, 0, width, height);
    }
    const seen = new Uint8Array(width * height), left = [y * width + x];
    let rect = null;
    while (left.length) {
      const at = left.pop();
      if (seen[at]) continue;
      const row = Math.floor(at / width), base = row * width;
      let from = at, to = at + 1;
      while (from > base && !seen[from - 1] && fits(4 * (from - 1))) from--;
      while (to < base + width && !seen[to] && fits(4 * to)) to++;
      seen.fill(1, from, to);
      this.pixels.fill(value, from, to);
      rect = union(rect, { left: from - base, top: row, right: to - base, bottom: row + 1 });
      for (const next of [row > 0 && -width, row + 1 < height && width]) {
        if (next === false) continue;
        for (let i = from + next, open = false; i < to + next; i++) {
          const enters = !seen[i] && fits(4 * i);
          if (enters && !open) left.push(i);
          open = enters;
        }
      }
    }
    return this.#touch(rect.left, rect.top, rect.right, rect.bottom);
  }

  fill(value) {
    this.pixels.fill(value);
    return this.#touch(0, 0, this.width, this.height);
  }

  invert() {
    for (let i = 0; i < this.pixels.length; i++) this.pixels[i] ^= 1;
    return this.#touch(0, 0, this.width, this.height);
  }

  /* Reach so many pixels further in all directions; with a negative number, less far. The edge of the picture is not one of the mask. */
  grow(pixels) {
    const value = pixels > 0 ? 1 : 0, far = Math.abs(pixels), around = pixels > 0 ? this.bounds(far) : this.bounds(0);
    if (!around || !far) return null;
    const squares = squaredDistances(this.pixels, this.width, widened(around, pixels > 0 ? 0 : 1, this), value, far), { left, top, right, bottom } = squares.rect;
    for (let row = top, i = 0; row < bottom; row++) {
      for (let at = row * this.width + left; at < row * this.width + right; at++, i++) if (squares.values[i] <= far * far) this.pixels[at] = value;
    }
    return this.#touch(left, top, right, bottom);
  }

  /* making it final, and taking it back */

  /* End an operation; returns it, or null if it changed nothing. What could be redone no longer can. */
  commit(kind) {
    if (!this.dirty) return null;
    const { left, top, right, bottom } = this.dirty, runs = [], [now, before] = [this.pixels, this.settled].map(({ buffer }) => new Uint32Array(buffer));
    let end = -1;
    for (let row = top; row < bottom; row++) {
      const stop = row * this.width + right;
      for (let at = row * this.width + left; at < stop;) {
        if (!(at & 3) && now[at >> 2] === before[at >> 2]) { // four pixels at once
          at += 4;
          continue;
        }
        if (this.pixels[at] === this.settled[at]) {
          at++;
          continue;
        }
        const start = at;
        while (at < stop && this.pixels[at] !== this.settled[at]) {
          this.count += this.pixels[at] ? 1 : -1;
          at++;
        }
        if (start === end) runs[runs.length - 1] += at - start;
        else runs.push(start, at - start);
        end = at;
      }
      this.settled.set(this.pixels.subarray(row * this.width + left, stop), row * this.width + left);
    }
    this.dirty = null;
    if (!runs.length) return null;
    const operation = { kind, flips: Uint32Array.from(runs) };
    this.operations.length = this.done;
    this.operations.push(operation);
    this.done++;
    return operation;
  }

  /* Forget what was drawn since the last operation; returns the rectangle. */
  revert() {
    const rect = this.dirty;
    for (let row = rect?.top ?? 0; row < (rect?.bottom ?? 0); row++) {
      const from = row * this.width + rect.left;
      this.pixels.set(this.settled.subarray(from, row * this.width + rect.right), from);
    }
    this.dirty = null;
    return rect;
  }

  undo() {
    return this.canUndo ? this.#apply(this.operations[--this.done]) : null;
  }

  redo() {
    return this.canRedo ? this.#apply(this.operations[this.done++]) : null;
  }

  /* The smallest rectangle around all pixels of the mask, widened within the picture; null if it is empty. */
  bounds(margin = 0) {
    const first = this.pixels.indexOf(1);
    if (first < 0) return null;
    const { width } = this, top = Math.floor(first / width), bottom = Math.floor(this.pixels.lastIndexOf(1) / width) + 1;
    let left = width, right = 0;
    for (let row = top; row < bottom; row++) {
      const line = this.pixels.subarray(row * width, (row + 1) * width), start = line.indexOf(1);
      if (start < 0) continue;
      left = Math.min(left, start);
      right = Math.max(right, line.lastIndexOf(1) + 1);
    }
    return widened({ left, top, right, bottom }, margin, this);
  }

  #apply({ flips }) {
    this.revert();
    const before = this.#flip(this.pixels, flips);
    this.#flip(this.settled, flips);
    this.count += before;
    let rect = null;
    for (let i = 0; i < flips.length; i += 2) {
      const top = Math.floor(flips[i] / this.width), left = flips[i] - top * this.width, right = left + flips[i + 1];
      rect = union(rect, right > this.width ? { left: 0, top, right: this.width, bottom: top + Math.ceil(right / this.width) } : { left, top, right, bottom: top + 1 });
    }
    return rect;
  }

  /* Flip runs of pixels; returns by how many more are in the mask. */
  #flip(pixels, flips) {
    let more = 0;
    for (let i = 0; i < flips.length; i += 2) {
      for (let at = flips[i], end = at + flips[i + 1]; at < end; at++) more += (pixels[at] ^= 1) ? 1 : -1;
    }
    return more;
  }

  #span(row, from, to, value) {
    if (row < 0 || row >= this.height) return;
    const start = Math.max(0, from), end = Math.min(this.width, to);
    if (start < end) this.pixels.fill(value, row * this.width + start, row * this.width + end);
  }

  #touch(left, top, right, bottom) {
    const rect = { left: Math.max(0, left), top: Math.max(0, top), right: Math.min(this.width, right), bottom: Math.min(this.height, bottom) };
    if (rect.left >= rect.right || rect.top >= rect.bottom) return null;
    this.dirty = union(this.dirty, rect);
    return rect;
  }
}

/* Bytes whose buffer can be read as words of four. */
const bytes = (length) => new Uint8Array(new ArrayBuffer(4 * Math.ceil(length / 4)), 0, length);

export function union(one, other) {
  if (!one || !other) return one ?? other;
  return {
    left: Math.min(one.left, other.left), top: Math.min(one.top, other.top),
    right: Math.max(one.right, other.right), bottom: Math.max(one.bottom, other.bottom),
  };
}

/* A rectangle with a margin, within a size. */
export function widened(rect, margin, { width, height }) {
  return {
    left: Math.max(0, rect.left - margin), top: Math.max(0, rect.top - margin),
    right: Math.min(width, rect.right + margin), bottom: Math.min(height, rect.bottom + margin),
  };
}

/* How much of each new pixel shows near the edge of a mask, from 0 outside to 255 from `pixels` inside on: what the service mixes.
   Returns bytes of a rectangle, row by row. */
export function feathered(mask, pixels, rect) {
  const around = widened(rect, pixels + 1, mask), { values } = squaredDistances(mask.pixels, mask.width, around, 0, pixels);
  const columns = around.right - around.left, weights = new Uint8Array((rect.right - rect.left) * (rect.bottom - rect.top));
  const shares = Uint8Array.from({ length: (pixels + 1) ** 2 + 1 }, (_, square) =>
    square > pixels * pixels ? 255 : Math.floor(255 * Math.fround(Math.fround(Math.sqrt(square)) / (pixels + 1)) + 0.5));
  for (let row = rect.top, i = 0; row < rect.bottom; row++) {
    const from = (row - around.top) * columns - around.left;
    for (let column = rect.left; column < rect.right; column++, i++) weights[i] = shares[values[from + column]];
  }
  return weights;
}

/* The square of the distance of each pixel of a rectangle to the nearest of a value in it; (most + 1)² where it is longer than `most`.
   Rows first, then the lower envelope of parabolas in columns (Felzenszwalb and Huttenlocher 2012, section 2.1). */
export function squaredDistances(pixels, width, rect, value, most) {
  const columns = rect.right - rect.left, rows = rect.bottom - rect.top, far = (most + 1) ** 2;
  const values = new Uint32Array(columns * rows);
  for (let row = 0, i = 0; row < rows; row++, i += columns) {
    const from = (rect.top + row) * width + rect.left;
    for (let column = 0, near = most + 1; column < columns; column++) {
      near = pixels[from + column] === value ? 0 : Math.min(near + 1, most + 1);
      values[i + column] = near;
    }
    for (let column = columns - 1, near = most + 1; column >= 0; column--) {
      near = Math.min(values[i + column], near + 1, most + 1);
      values[i + column] = near * near;
      near = Math.sqrt(values[i + column]);
    }
  }
  const line = new Float64Array(rows), lowest = new Int32Array(rows), starts = new Float64Array(rows + 1);
  for (let column = 0; column < columns; column++) {
    let plain = true;
    for (let row = 0; row < rows; row++) {
      line[row] = values[row * columns + column];
      plain &&= line[row] === line[0];
    }
    if (plain) continue;
    let last = 0;
    lowest[0] = 0;
    starts[0] = -Infinity;
    for (let row = 1; row < rows; row++) {
      let meets;
      while ((meets = (line[row] - line[lowest[last]] + row * row - lowest[last] ** 2) / (2 * (row - lowest[last]))) <= starts[last]) last--;
      lowest[++last] = row;
      starts[last] = meets;
    }
    starts[last + 1] = Infinity;
    for (let row = 0, k = 0; row < rows; row++) {
      while (starts[k + 1] < row) k++;
      values[row * columns + column] = Math.min(far, (row - lowest[k]) ** 2 + line[lowest[k]]);
    }
  }
  return { values, rect };
}
