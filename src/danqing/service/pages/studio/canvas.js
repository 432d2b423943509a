/* The view of a picture: zoom and pan by mouse, pen, touch and keys, the mask over it, and the result beside it.

   Picture, mask and result are elements of one layer that is moved and scaled as a whole. Nothing is drawn again while the view
   moves, and a stroke draws only the rectangle of the mask that it changes. */
import { el } from "./dom.js";
import { feathered, widened } from "./mask.js";

const MOST = 64, MARGIN = 20, RED = [185, 58, 37], OPACITY = [168, 122], SVG = "http://www.w3.org/2000/svg";
const STRIPES = 96; // of the mask along the longer side of a picture

export class CanvasView {
  /* stage: the element that shows it. actions: { down(point), move(points), up(), cancel(), hover(point), changed() }, with points
     { x, y, pressure, type } in pixels of the picture; `changed` follows each zoom and pan. */
  constructor(stage, actions) {
    Object.assign(this, { stage, actions, scale: 1, x: 0, y: 0, size: null, borders: [0, 0, 0, 0], feather: 0, mask: null, mode: "draw", isFitted: true });
    this.picture = el("img", { class: "picture", draggable: "false", alt: "" });
    this.after = el("img", { class: "after", draggable: "false", alt: "", hidden: true });
    this.veil = el("canvas", { class: "veil" });
    this.frame = el("div", { class: "frame" });
    this.layer = el("div", { class: "layer" }, this.frame, this.picture, this.veil, this.after);
    this.guides = document.createElementNS(SVG, "svg");
    this.guides.setAttribute("class", "guides");
    this.guide = document.createElementNS(SVG, "path");
    this.guides.append(this.guide);
    this.pen = el("div", { class: "pen", hidden: true });
    this.seam = el("div", { class: "seam", hidden: true });
    stage.append(this.layer, this.guides, this.pen, this.seam);
    this.context = this.veil.getContext("2d", { willReadFrequently: true });
    this.pointers = new Map();
    this.#listen();
    new ResizeObserver(() => (this.isFitted ? this.fit() : this.#place())).observe(stage);
  }

  /* Show a picture with its mask. cell: pixels of the picture that one of the mask stands for. */
  show(url, size, mask, cell) {
    Object.assign(this, { size, mask, cell });
    this.picture.src = url;
    [this.picture.width, this.picture.height] = size;
    [this.veil.width, this.veil.height] = [mask.width, mask.height];
    this.veil.style.width = `${mask.width * cell}px`;
    this.veil.style.height = `${mask.height * cell}px`;
    this.stripe = Math.max(1, Math.round(Math.max(mask.width, mask.height) / STRIPES));
    this.compare(null);
    this.expand([0, 0, 0, 0]);
    this.draw(mask.all);
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

  /* Draw a rectangle of the mask. A soft edge is shown once an operation has ended: `soft` says so. */
  draw(rect, soft = true) {
    if (!rect) return;
    const feather = soft ? this.feather : 0, { left, top, right, bottom } = feather ? widened(rect, feather + 1, this.mask) : rect;
    const image = new ImageData(right - left, bottom - top), words = new Uint32Array(image.data.buffer);
    const weights = feather ? feathered(this.mask, feather, { left, top, right, bottom }) : null;
    const [r, g, b] = RED, tints = OPACITY.map((a) => ((a << 24) | (b << 16) | (g << 8) | r) >>> 0);
    const { pixels, width } = this.mask, { stripe } = this;
    for (let row = top, i = 0; row < bottom; row++) {
      for (let at = row * width + left, column = left; column < right; column++, at++, i++) {
        if (!pixels[at]) continue;
        const which = Math.floor((row + column) / stripe) & 1;
        words[i] = weights && weights[i] < 255 ? ((Math.round((OPACITY[which] * weights[i]) / 255) << 24) | (tints[0] & 0xffffff)) >>> 0 : tints[which];
      }
    }
    this.context.putImageData(image, left, top);
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
