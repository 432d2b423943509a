/* The tools that change a mask: by a pointer, and by keys at a place that arrow keys move. */
import { union } from "./mask.js";

export const TOOLS = ["brush", "eraser", "box", "lasso", "colour", "hand"];
const LEAST_PRESSURE = 0.15, NEAR = 2.5; // a lasso leaves out points that are this near in pixels of the screen

export class Tools {
  /* view: a CanvasView. settings: { tool, brush, tolerance, everywhere, subtract }, which may change at any time; brush: the diameter.
     colours(): RGBA at the size of the mask. committed(operation): called after each operation. */
  constructor(view, settings, colours, committed) {
    Object.assign(this, { view, settings, colours, committed, drawing: null, key: null });
  }

  get mask() { return this.view.mask; }
  get radius() { return this.settings.brush / 2; }
  get value() { return this.settings.tool === "eraser" || this.settings.subtract ? 0 : 1; }
  get draws() { return this.settings.tool === "brush" || this.settings.tool === "eraser"; }

  /* Run a change of the whole mask, such as (mask) => mask.invert(). */
  change(kind, work) {
    this.cancel();
    const rect = work(this.mask);
    this.#end(kind, rect);
    return rect;
  }

  down(point) {
    this.key = null;
    this.#start(point);
    if (this.settings.tool === "colour") this.#pick(point);
  }

  move(points) {
    if (!this.drawing) return;
    for (const point of points) this.#extend(point);
    this.view.point(points.at(-1), this.draws ? this.#radiusOf(points.at(-1)) : 0);
  }

  up() {
    const drawing = this.drawing, { tool } = this.settings;
    this.drawing = null;
    this.view.outline(null);
    if (!drawing || tool === "colour") return;
    if (tool === "box") {
      const [left, top, right, bottom] = this.#cornersOf(drawing);
      this.#end("box", this.mask.box(left, top, right - left, bottom - top, this.value));
    } else if (tool === "lasso") {
      if (drawing.path.length > 2) this.#end("lasso", this.mask.polygon(drawing.path.map((one) => this.#cells(one)), this.value));
    } else this.#end(tool, this.view.feather ? drawing.rect : null); // a hard edge has been drawn already
  }

  cancel() {
    this.drawing = this.key = null;
    this.view.outline(null);
    this.view.settle(this.mask.revert());
  }

  hover(point) {
    if (!this.key) this.view.point(point, this.draws ? this.radius : 0);
  }

  /* Move the place of the keys; the first time it is in the middle. Returns it. */
  step(dx, dy) {
    const [width, height] = this.view.size, { x, y } = this.place ?? { x: Math.floor(width / 2) + 0.5, y: Math.floor(height / 2) + 0.5 };
    this.place = { x: Math.min(width - 0.5, Math.max(0.5, x + dx)), y: Math.min(height - 0.5, Math.max(0.5, y + dy)), pressure: 1 };
    if (this.key) this.#extend(this.place);
    this.view.reveal(this.place);
    this.view.point(this.place, this.draws ? this.radius : 0);
    return this.place;
  }

  /* Put the pen down at the place of the keys, or lift it; returns whether it is down now. */
  press() {
    const place = this.step(0, 0);
    if (this.key) {
      this.key = null;
      this.up();
      return false;
    }
    this.#start(place);
    if (this.settings.tool === "colour") this.#pick(place);
    else this.key = true;
    return Boolean(this.key);
  }

  #start(point) {
    this.drawing = { first: point, last: point, path: [[point.x, point.y]], rect: null };
    if (this.draws) this.#line(point, point);
  }

  #extend(point) {
    const { drawing, view } = this, { tool } = this.settings;
    if (this.draws) this.#line(drawing.last, point);
    else if (tool === "box") {
      drawing.last = point;
      const [left, top, right, bottom] = this.#cornersOf(drawing).map((one) => one * view.cell);
      view.outline([[left, top], [right, top], [right, bottom], [left, bottom]], true);
    } else if (tool === "lasso") {
      const [x, y] = drawing.path.at(-1);
      if (Math.hypot(point.x - x, point.y - y) * view.scale < NEAR) return;
      drawing.path.push([point.x, point.y]);
      view.outline(drawing.path, true);
    }
    drawing.last = point;
  }

  #radiusOf(point) {
    return this.radius * Math.max(LEAST_PRESSURE, point.pressure ?? 1);
  }

  #line(from, to) {
    const { cell } = this.view, rect = this.mask.line(from.x / cell, from.y / cell, this.#radiusOf(from) / cell, to.x / cell, to.y / cell, this.#radiusOf(to) / cell, this.value);
    this.drawing.rect = union(this.drawing.rect, rect);
    this.view.draw(rect);
  }

  #pick(point) {
    const [x, y] = this.#cells([point.x, point.y]).map(Math.floor);
    this.drawing = null;
    if (x < 0 || y < 0 || x >= this.mask.width || y >= this.mask.height) return;
    this.#end("colour", this.mask.similar(this.colours(), x, y, this.settings.tolerance, this.settings.everywhere, this.value));
  }

  #end(kind, rect) {
    const operation = this.mask.commit(kind);
    this.view.settle(rect);
    if (operation) this.committed(operation);
  }

  #cells([x, y]) {
    return [x / this.view.cell, y / this.view.cell];
  }

  /* The cells of the mask that a box covers: left, top, right, bottom. */
  #cornersOf({ first, last }) {
    const { cell } = this.view, [x0, x1] = [first.x, last.x].sort((a, b) => a - b), [y0, y1] = [first.y, last.y].sort((a, b) => a - b);
    return [Math.floor(x0 / cell), Math.floor(y0 / cell), Math.max(Math.floor(x0 / cell) + 1, Math.ceil(x1 / cell)), Math.max(Math.floor(y0 / cell) + 1, Math.ceil(y1 / cell))]
      .map((one, i) => Math.min(Math.max(0, one), i % 2 ? this.mask.height : this.mask.width));
  }
}
