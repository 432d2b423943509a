/* The pictures of one request, from the first glimpse to the files. */
import { bytesOf } from "./api.js";
import { el } from "./dom.js";
import { sides } from "./paint_form.js";
import { t } from "./words.js";

const CRISP = 160;

export class Round {
  /* body: the request. title: what it shows. source: { size, varies, variation }. actions: { restore(round), vary(round, blob) }. */
  constructor(body, title, source, actions) {
    Object.assign(this, { body, title, source, actions, urls: [], began: performance.now(), seconds: null });
    this.sides = sides(source.size);
    this.sheet = el("ul", { class: "sheet", "data-columns": body.n < 2 ? 1 : body.n < 5 ? 2 : body.n < 10 ? 3 : 4 });
    this.tiles = Array.from({ length: body.n }, () => el("li", { class: `tile waiting${Math.max(...this.sides) <= CRISP ? " crisp" : ""}` }));
    for (const tile of this.tiles) tile.style.aspectRatio = this.sides.join(" / ");
    this.sheet.append(...this.tiles);
    this.heading = el("h3");
    this.facts = el("span", { class: "facts" });
    this.reuse = el("button", { class: "button small", type: "button", hidden: true, click: () => actions.restore(this) });
    this.node = el("article", { class: "panel round" }, el("header", {}, this.heading, this.facts, this.reuse), this.sheet);
    this.draw();
  }

  get what() {
    return this.title || t("nothing");
  }

  draw() {
    this.heading.textContent = this.source.variation ? `${t("variation")}${this.title && `: ${this.title}`}` : this.what;
    this.facts.textContent = this.seconds === null ? t("painting")
      : t("facts", { model: this.body.model, seed: this.body.seed, seconds: this.seconds.toFixed(this.seconds < 10 ? 1 : 0) });
    this.reuse.textContent = t("again");
    this.tiles.forEach((tile, i) => {
      for (const node of tile.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
      tile.querySelector("img")?.setAttribute("alt", t("alt", { what: this.what, i: i + 1, n: this.tiles.length }));
    });
  }

  put(i, base64, finished) {
    const tile = this.tiles[i], kind = this.body.output_format ?? "png";
    const blob = new Blob([bytesOf(base64)], { type: `image/${kind}` }), url = URL.createObjectURL(blob);
    this.urls.push(url);
    tile.classList.toggle("waiting", !finished);
    tile.classList.add("begun");
    tile.replaceChildren(...[el("img", { src: url }), finished && el("span", { class: "over" },
      this.source.varies && el("button", { class: "button", type: "button", "data-t": "vary", click: () => this.actions.vary(this, blob) }),
      el("a", { class: "button", href: url, download: `${this.body.model}-${this.body.seed}-${i + 1}.${kind}`, "data-t": "download" }))].filter(Boolean));
    this.draw();
  }

  finish() {
    this.seconds = (performance.now() - this.began) / 1000;
    this.reuse.hidden = Boolean(this.source.variation);
    this.draw();
  }

  remove() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    this.node.remove();
  }
}
