/* The images of one request, as they appear. */

import { $, el, t } from "./dom.js";
import { packet } from "./marks.js";
import { png } from "./png.js";

const CRISP = 160;

/** Return how many columns show n images. */
const columns = (n) => (n < 2 ? 1 : n < 5 ? 2 : n < 10 ? 3 : 4);

export class Round {
  /** request: of form.js, with its seed. onReuse: called by the button that puts the request back. */
  constructor(model, request, onReuse) {
    Object.assign(this, { model, request, urls: [], began: performance.now(), seconds: null, count: 0, settled: Promise.resolve() });
    const [width, height] = (request.size ?? model.sizes[0]).split("x").map(Number);
    const crisp = Math.max(width, height) <= CRISP ? " crisp" : "";
    this.tiles = Array.from({ length: request.n }, () => el("li", { class: `tile waiting${crisp}` }));
    for (const tile of this.tiles) tile.style.aspectRatio = `${width} / ${height}`;
    this.heading = el("h3");
    this.facts = el("span", { class: "facts" });
    this.reuse = el("button", { class: "button small", type: "button", hidden: true, click: () => onReuse(request) });
    this.bar = el("div", { class: "bar", "aria-hidden": "true" });
    const sheet = el("ul", { class: "sheet", "data-columns": columns(request.n) }, ...this.tiles);
    this.node = el("article", { class: "panel round" }, el("header", {}, this.heading, this.facts, this.reuse), this.bar, sheet);
    this.draw();
  }

  get what() {
    return this.request.prompt || this.request.label || t("nothing");
  }

  draw() {
    this.heading.textContent = this.what;
    this.facts.textContent = this.seconds === null ? t("progress", { done: this.count, total: this.tiles.length })
      : t("facts", { seed: this.request.seed, seconds: this.seconds.toFixed(this.seconds < 10 ? 1 : 0) });
    this.reuse.textContent = t("again");
    this.tiles.forEach((tile, i) => {
      for (const node of tile.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
      tile.querySelector("img, canvas")?.setAttribute(tile.querySelector("img") ? "alt" : "aria-label", t("alt", { what: this.what, i: i + 1, n: this.tiles.length }));
    });
  }

  /** Show how far the request is, and an unfinished image. share: in [0, 1], of image i. */
  step(i, share, preview) {
    this.bar.style.setProperty("--share", (i + share) / this.tiles.length);
    if (!preview) return;
    const tile = this.tiles[i];
    let canvas = tile.querySelector("canvas");
    if (!canvas) {
      canvas = el("canvas", { width: preview.width, height: preview.height, role: "img" });
      tile.classList.add("begun");
      tile.replaceChildren(canvas);
      this.draw();
    }
    canvas.getContext("2d").putImageData(imageData(preview), 0, 0);
  }

  /** Show image i as the file that is saved, after those before it; `settled` is a promise of all of them. */
  put(i, image) {
    this.settled = this.settled.then(() => this.#put(i, image));
  }

  async #put(i, image) {
    const text = this.model.xmp && packet(this.model.xmp, image.pixels);
    const url = URL.createObjectURL(await png(image, text)), tile = this.tiles[i];
    this.urls.push(url);
    const name = `${this.model.name}-${this.request.seed}-${i + 1}.png`.replace(/[^\p{L}\p{N}._-]+/gu, "-");
    const shown = el("img", { src: url });
    await shown.decode().catch(() => {}); // no flash between the unfinished image and this one
    tile.classList.remove("waiting");
    tile.replaceChildren(shown, el("span", { class: "over" }, el("a", { class: "button", href: url, download: name, "data-t": "download" })));
    this.count += 1;
    this.bar.style.setProperty("--share", this.count / this.tiles.length);
    this.draw();
    if (!performance.getEntriesByName("first image").length) performance.mark("first image");
  }

  finish() {
    this.seconds = (performance.now() - this.began) / 1000;
    this.reuse.hidden = false;
    this.bar.remove();
    this.draw();
  }

  remove() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    this.node.remove();
  }
}

/** Return pixels as a canvas takes them. image: as of `png`. */
function imageData({ pixels, width, height, channels }) {
  const data = new ImageData(width, height), shift = pixels.BYTES_PER_ELEMENT === 2 ? 8 : 0;
  const isGrey = channels < 3, hasAlpha = channels % 2 === 0;
  for (let i = 0; i < width * height; i++) {
    const own = (channel) => pixels[i * channels + channel] >> shift;
    data.data.set([own(0), own(isGrey ? 0 : 1), own(isGrey ? 0 : 2), hasAlpha ? own(channels - 1) : 255], 4 * i);
  }
  return data;
}
