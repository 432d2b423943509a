/* The view of a picture: zoom and pan by mouse, pen, touch and keys, the mask over it, and the result beside it.

   Picture and result are elements of one layer that is moved and scaled as a whole. The mask is drawn over it in pixels of the screen,
   so that a stroke costs what it shows, however large the picture is; each draws only the rectangle that it changes. */
import { el } from "./dom.js";
import { feathered, widened } from "./mask.js";

const MOST = 64, MARGIN = 20, RED = [185, 58, 37], OPACITY = [170, 120], SVG = "http://www.w3.org/2000/svg";
const STRIPE = 7, MOST_RATIO = 2; // pixels of the screen; pixels of the mask's canvas for one of them

export class CanvasView {
  /* stage: the element that shows it. actions: { down(point), move(points), up(), cancel(), hover(point), changed() }, with points
     { x, y, pressure, type } in pixels of the picture; `changed` follows each zoom and pan. */
  constructor(stage, actions) {
    Object.assign(this, { stage, actions, scale: 1, x: 0, y: 0, size: null, borders: [0, 0, 0, 0], mask: null, mode: "draw", isFitted: true });
    this.picture = el("img", { class: "picture", draggable: "false", alt: "" });
    this.after = el("img", { class: "after", draggable: "false", alt: "", hidden: true });
    this.veil = el("canvas", { class: "veil" });
    this.frame = el("div", { class: "frame" });
    this.layer = el("div", { class: "layer" }, this.frame, this.picture, this.after);
    this.guides = document.createElementNS(SVG, "svg");
    this.guides.setAttribute("class", "guides");
    this.guide = document.createElementNS(SVG, "path");
    this.guides.append(this.guide);
    this.pen = el("div", { class: "pen", hidden: true });
    this.seam = el("div", { class: "seam", hidden: true });
    stage.append(this.layer, this.veil, this.guides, this.pen, this.seam);
    this.context = this.veil.getContext("2d");
    this.pointers = new Map();
    this.#listen();
    new ResizeObserver(() => {
      this.#measure();
      if (this.isFitted) this.fit();
      else this.#place();
    }).observe(stage);
  }

  /* Show a picture with its mask. cell: pixels of the picture that one of the mask stands for. */
  show(url, size, mask, cell) {
    Object.assign(this, { size, mask, cell });
    this.picture.src = url;
    [this.picture.width, this.picture.height] = size;
    this.weights = null;
    this.compare(null);
    this.expand([0, 0, 0, 0]);
    this.#measure();
  }

  /* Show that the picture will be wider by pixels at its left, top, right and bottom. */
  expand(borders) {
    this.borders = borders;
    const [left, top, right, bottom] = borders;
    this.frame.hidden = !borders.some(Boolean);
    Object.assign(this.frame.style, { left: `${-left}px`, top: `${-top}px`, width: `${this.size[0] + left + right}px`, height: `${this.size[1] + top + bottom}px` });
    if (this.isFitted) this.fit();
  }

  /* Show a result over the picture, from a share of the width on; null ends it. offset: where the picture lies in the result. */
  compare(url, size, offset) {
    this.mode = url ? "compare" : "draw";
    this.after.hidden = this.seam.hidden = !url;
    this.veil.hidden = Boolean(url);
    this.pen.hidden = true;
    this.stage.classList.toggle("comparing", Boolean(url));
    if (!url) return;
    this.after.src = url;
    const scale = offset ? 1 : this.size[0] / size[0], [left, top] = offset ?? [0, 0];
    this.after.width = size[0] * scale;
    this.after.height = size[1] * scale;
    Object.assign(this.after.style, { left: `${-left}px`, top: `${-top}px` });
    this.result = { left: -left, width: this.after.width };
    this.divide(this.share ?? 0.5);
  }

  divide(share) {
    this.share = share;
    this.after.style.clipPath = `inset(0 0 0 ${100 * share}%)`;
    this.#place();
  }

  /* Show the mask with a soft edge of so many of its pixels. */
  soften(feather) {
    this.feather = feather;
    this.weights = feather ? new Uint8Array(this.mask.pixels.length) : null;
    this.settle(this.mask.all);
  }

  /* Draw what an operation has changed, with its edge. */
  settle(rect) {
    if (!rect || !this.weights) return this.draw(rect);
    const around = widened(rect, this.feather + 1, this.mask), columns = around.right - around.left, soft = feathered(this.mask, this.feather, around);
    for (let row = around.top, i = 0; row < around.bottom; row++, i += columns) this.weights.set(soft.subarray(i, i + columns), row * this.mask.width + around.left);
    this.draw(around);
  }

  /* Draw a rectangle of the mask; a soft edge is that of the last operation. */
  draw(rect) {
    if (!rect || !this.veil.width || this.mode === "compare") return;
    const { ratio, mask: { pixels, width, height }, weights } = this, step = 1 / (ratio * this.scale * this.cell);
    const onto = (place, origin) => (place * this.cell * this.scale + origin) * ratio;
    const left = Math.max(0, Math.floor(onto(rect.left, this.x)) - 1), right = Math.min(this.veil.width, Math.ceil(onto(rect.right, this.x)) + 1);
    const top = Math.max(0, Math.floor(onto(rect.top, this.y)) - 1), bottom = Math.min(this.veil.height, Math.ceil(onto(rect.bottom, this.y)) + 1);
    if (left >= right || top >= bottom) return;
    const image = new ImageData(right - left, bottom - top), words = new Uint32Array(image.data.buffer), [r, g, b] = RED, stripe = STRIPE * ratio;
    const columns = Int32Array.from({ length: right - left }, (_, i) => Math.floor((left + i + 0.5 - this.x * ratio) * step));
    const tints = Uint32Array.from({ length: right - left + bottom - top }, (_, i) => (OPACITY[Math.floor((left + top + i) / stripe) & 1] << 24) | (b << 16) | (g << 8) | r);
    for (let y = top, i = 0; y < bottom; y++) {
      const row = Math.floor((y + 0.5 - this.y * ratio) * step);
      if (row < 0 || row >= height) {
        i += columns.length;
        continue;
      }
      for (let x = 0; x < columns.length; x++, i++) {
        const column = columns[x], at = row * width + column;
        if (column < 0 || column >= width || !pixels[at]) continue;
        words[i] = tints[x + y - top];
        if (weights && weights[at]) image.data[4 * i + 3] = (image.data[4 * i + 3] * weights[at]) / 255; // 0: not settled yet
      }
    }
    this.context.putImageData(image, left, top);
  }

  #measure() {
    this.ratio = Math.min(devicePixelRatio, MOST_RATIO);
    [this.veil.width, this.veil.height] = [this.stage.clientWidth, this.stage.clientHeight].map((one) => Math.round(one * this.ratio));
  }

  /* Show a path of [x, y] in the picture as a dashed line; null hides it. */
  outline(path, closed = false) {
    this.path = path && { points: path, closed };
    this.#placeGuide();
  }

  /* Show the brush at a place of the picture; null hides it. radius: in pixels of the picture, 0 for a cross. */
  point(place, radius = 0) {
    this.pen.hidden = !place || this.mode === "compare";
    if (this.pen.hidden) return;
    const side = Math.max(2 * radius * this.scale, radius ? 5 : 17);
    this.pen.classList.toggle("cross", !radius);
    Object.assign(this.pen.style, { width: `${side}px`, height: `${side}px`,
      transform: `translate(${place.x * this.scale + this.x - side / 2}px, ${place.y * this.scale + this.y - side / 2}px)` });
  }

  fit() {
    if (!this.size) return;
    const [left, top, right, bottom] = this.borders, width = this.size[0] + left + right, height = this.size[1] + top + bottom;
    const room = [this.stage.clientWidth - 2 * MARGIN, this.stage.clientHeight - 2 * MARGIN];
    if (Math.min(...room) <= 0) return;
    this.scale = Math.min(room[0] / width, room[1] / height, MOST);
    this.x = (this.stage.clientWidth - width * this.scale) / 2 + left * this.scale;
    this.y = (this.stage.clientHeight - height * this.scale) / 2 + top * this.scale;
    this.isFitted = true;
    this.#place();
  }

  /* Change the scale by a factor, and keep what is at a place of the stage there; by default its middle. */
  zoom(factor, at = [this.stage.clientWidth / 2, this.stage.clientHeight / 2]) {
    const scale = Math.min(MOST, Math.max(0.02, this.scale * factor)), ratio = scale / this.scale;
    this.x = at[0] - (at[0] - this.x) * ratio;
    this.y = at[1] - (at[1] - this.y) * ratio;
    this.scale = scale;
    this.isFitted = false;
    this.#place();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.isFitted = false;
    this.#place();
  }

  /* Move the view so that a place of the picture is visible. */
  reveal({ x, y }) {
    const at = [x * this.scale + this.x, y * this.scale + this.y], room = [this.stage.clientWidth, this.stage.clientHeight];
    const off = at.map((one, i) => (one < MARGIN ? MARGIN - one : one > room[i] - MARGIN ? room[i] - MARGIN - one : 0));
    if (off[0] || off[1]) this.pan(...off);
  }

  #place() {
    if (!this.size) return;
    // Half of the stage stays covered: a picture cannot get lost.
    const keep = (at, side, room) => Math.min(room / 2, Math.max(room / 2 - side * this.scale, at));
    this.x = keep(this.x, this.size[0], this.stage.clientWidth);
    this.y = keep(this.y, this.size[1], this.stage.clientHeight);
    this.layer.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.layer.classList.toggle("crisp", this.scale * devicePixelRatio >= 2);
    this.frame.style.outlineWidth = `${1.5 / this.scale}px`;
    if (this.mode === "compare") this.seam.style.transform = `translateX(${this.x + (this.result.left + this.share * this.result.width) * this.scale}px)`;
    this.#placeGuide();
    this.frameDue ||= requestAnimationFrame(() => {
      this.frameDue = 0;
      this.context.clearRect(0, 0, this.veil.width, this.veil.height);
      this.draw(this.mask.all);
    });
    this.actions.changed();
  }

  #placeGuide() {
    const { points = [], closed } = this.path ?? {};
    const text = points.map(([x, y], i) => `${i ? "L" : "M"}${(x * this.scale + this.x).toFixed(1)} ${(y * this.scale + this.y).toFixed(1)}`).join("");
    this.guide.setAttribute("d", points.length ? text + (closed ? "Z" : "") : "");
  }

  /* pointers */

  #at(event) {
    return { x: (event.clientX - this.corner.left - this.x) / this.scale, y: (event.clientY - this.corner.top - this.y) / this.scale,
      pressure: event.pointerType === "pen" ? event.pressure : 1, type: event.pointerType };
  }

  #listen() {
    const { stage, pointers } = this, on = (name, listener, options) => stage.addEventListener(name, listener, options);
    on("pointerdown", (event) => {
      if (!this.size || (event.pointerType === "mouse" && event.button > 1)) return;
      this.corner = stage.getBoundingClientRect();
      stage.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      if (pointers.size > 1) {
        if (this.gesture === "draw") this.actions.cancel();
        this.gesture = "pinch";
      } else {
        this.gesture = event.button === 1 || this.hand ? "pan" : this.mode === "compare" ? "divide" : "draw";
        if (this.gesture === "draw") this.actions.down(this.#at(event));
        else if (this.gesture === "divide") this.#divideAt(event);
      }
      if (event.button === 1) event.preventDefault();
    });
    on("pointermove", (event) => {
      if (!this.size) return;
      this.corner ??= stage.getBoundingClientRect();
      if (!pointers.has(event.pointerId)) {
        if (event.pointerType !== "touch") this.actions.hover(this.#at(event));
        return;
      }
      if (this.gesture === "draw") {
        const several = event.getCoalescedEvents?.() ?? [];
        this.actions.move((several.length ? several : [event]).map((one) => this.#at(one)));
      } else if (this.gesture === "divide") this.#divideAt(event);
      else if (this.gesture === "pan" || this.gesture === "pinch") this.#drag(event);
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    const end = (event) => {
      if (!pointers.delete(event.pointerId) || pointers.size) return;
      if (this.gesture === "draw") this.actions[event.type === "pointerup" ? "up" : "cancel"]();
      this.gesture = null;
    };
    on("pointerup", end);
    on("pointercancel", end);
    on("pointerleave", () => { if (!pointers.size) this.actions.hover(null); });
    on("pointerenter", () => { this.corner = stage.getBoundingClientRect(); });
    addEventListener("scroll", () => { this.corner = null; }, { passive: true });
    on("wheel", (event) => {
      if (!this.size || !(event.ctrlKey || event.metaKey || !this.isFitted)) return; // a page with a fitted picture scrolls
      event.preventDefault();
      const { left, top } = stage.getBoundingClientRect(), lines = event.deltaMode ? 16 : 1;
      if (event.ctrlKey || event.metaKey) this.zoom(Math.exp(-Math.max(-60, Math.min(60, event.deltaY * lines)) / 150), [event.clientX - left, event.clientY - top]);
      else this.pan(-(event.shiftKey ? event.deltaY : event.deltaX) * lines, -(event.shiftKey ? 0 : event.deltaY) * lines);
    }, { passive: false });
  }

  #divideAt(event) {
    const { x } = this.#at(event);
    this.actions.divided(Math.min(1, Math.max(0, (x - this.result.left) / this.result.width)));
  }

  #drag(event) {
    const [x, y] = this.pointers.get(event.pointerId);
    if (this.pointers.size < 2) return this.pan(event.clientX - x, event.clientY - y);
    const [ox, oy] = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
    const before = Math.hypot(x - ox, y - oy), after = Math.hypot(event.clientX - ox, event.clientY - oy);
    const middle = [(event.clientX + ox) / 2 - this.corner.left, (event.clientY + oy) / 2 - this.corner.top];
    this.pan((event.clientX - x) / 2, (event.clientY - y) / 2);
    if (before > 8) this.zoom(after / before, middle);
  }
}
