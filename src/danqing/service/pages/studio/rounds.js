/* The pictures of one request, from its place in the queue to the files. */
import { bytesOf, seedOf } from "./api.js";
import { el } from "./dom.js";
import { openPicture } from "./lightbox.js";
import { sides } from "./paint_form.js";
import { number, t } from "./words.js";

const CRISP = 160;

export class Round {
  /* about: { body, title, size, varies, variation, began }, which is kept in local storage.
     actions: { restore(round), repeat(round, seed), vary(round, blob), input(blob), cancel(round), dismiss(round) }. */
  constructor(about, actions) {
    Object.assign(this, { ...about, about, actions, urls: [], blobs: [], state: "sent", seconds: null, progress: null, since: null, ahead: null, sending: new AbortController() });
    const { n } = this.body, ratio = sides(this.size);
    this.isCrisp = Math.max(...ratio) <= CRISP;
    this.sheet = el("ul", { class: "sheet", "data-columns": n < 2 ? 1 : n < 5 ? 2 : n < 10 ? 3 : 4 });
    this.tiles = Array.from({ length: n }, () => el("li", { class: `tile waiting${this.isCrisp ? " crisp" : ""}` }));
    for (const tile of this.tiles) tile.style.aspectRatio = ratio.join(" / ");
    this.sheet.append(...this.tiles);
    this.heading = el("h3");
    this.facts = el("span", { class: "facts" });
    this.bar = el("progress", { max: 1, "data-label": "progress", hidden: true });
    this.error = el("p", { class: "error", hidden: true });
    this.buttons = el("span", { class: "actions" });
    this.node = el("article", { class: "panel round" }, el("header", {}, this.heading, this.facts, this.buttons), this.bar, this.error, this.sheet);
    this.draw();
  }

  get what() {
    return this.title || t("nothing");
  }

  get isOver() {
    return this.state === "done" || this.state === "failed";
  }

  draw() {
    this.heading.textContent = this.variation ? `${t("variation")}${this.title && `: ${this.title}`}` : this.what;
    this.facts.textContent = this.said();
    this.bar.setAttribute("aria-label", t("progress"));
    this.bar.hidden = this.isOver;
    if (this.progress?.total) this.bar.value = this.progress.done / this.progress.total;
    else this.bar.removeAttribute("value");
    const button = (name, run) => el("button", { class: "button small", type: "button", click: run }, t(name));
    this.buttons.replaceChildren(...(this.isOver
      ? [!this.variation && button("again", () => this.actions.restore(this)),
        !this.variation && button("newSeed", () => this.actions.repeat(this, null)),
        this.state === "done" && this.tiles.length > 1 && button("contactSheet", () => this.contactSheet()),
        this.state === "failed" && button("dismiss", () => this.actions.dismiss(this))]
      : [button("stop", () => this.actions.cancel(this))]).filter(Boolean));
    this.tiles.forEach((tile, i) => {
      for (const node of tile.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
      tile.querySelector("img")?.setAttribute("alt", this.alt(i));
      tile.querySelector(".open")?.setAttribute("aria-label", t("open", { what: this.alt(i) }));
    });
  }

  alt(i) {
    return t("alt", { what: this.what, i: i + 1, n: this.tiles.length });
  }

  /* In words: its place in the queue, how long it will still take, or what it was made with. */
  said() {
    const { model } = this.body, seed = seedOf(this.body);
    if (this.state === "failed") return t("failedRound", { model });
    if (this.state === "done") return t(this.seconds === null ? "factsKept" : "facts", { model, seed, seconds: this.seconds?.toFixed(this.seconds < 10 ? 1 : 0) });
    if (this.ahead) return t("ahead", { n: number(this.ahead) });
    if (!this.progress?.done || this.since === null) return t("painting");
    const { done, total } = this.progress, left = ((performance.now() - this.since) / done) * (total - done) / 1000;
    return t("left", { seconds: number(Math.max(1, Math.round(left))) });
  }

  /* What an event of its job says. */
  see(event, data) {
    if (event === "job.position") this.ahead = data.jobs;
    if (event === "job.running") Object.assign(this, { ahead: null, since: performance.now() });
    if (event === "job.progress") {
      this.ahead = null;
      this.progress = { done: data.done, total: data.total };
      this.since ??= performance.now();
    }
    if (event === "job.preview") data.images.forEach((one, i) => this.put(i, new Blob([bytesOf(one)]), false));
    this.draw();
  }

  put(i, blob, isFinished) {
    const tile = this.tiles[i], kind = this.body.output_format ?? "png", url = URL.createObjectURL(blob);
    if (this.urls[i]) URL.revokeObjectURL(this.urls[i]);
    this.urls[i] = url;
    this.blobs[i] = blob;
    tile.classList.toggle("waiting", !isFinished);
    tile.classList.add("begun");
    const image = el("img", { src: url });
    const name = `${this.body.model}-${seedOf(this.body)}-${i + 1}.${kind}`;
    tile.replaceChildren(...(isFinished ? [el("button", { class: "open", type: "button", click: () => this.enlarge(i) }, image), el("span", { class: "over" },
      this.varies && el("button", { class: "button", type: "button", "data-t": "vary", click: () => this.actions.vary(this, this.blobs[i]) }),
      el("a", { class: "button", href: url, download: name, "data-t": "download" }))] : [image]));
    this.draw();
  }

  enlarge(i) {
    const about = (at) => ({
      src: this.urls[at], alt: this.alt(at), title: this.what, facts: `${this.said()} · ${at + 1} / ${this.tiles.length}`, crisp: this.isCrisp,
      actions: [
        !this.variation && { label: t("repeat"), run: () => this.actions.repeat(this, this.body.seed) },
        !this.variation && { label: t("newSeed"), run: () => this.actions.repeat(this, null) },
        this.varies && { label: t("vary"), run: () => this.actions.vary(this, this.blobs[at]) },
        { label: t("asInput"), run: () => this.actions.input(this, this.blobs[at]) },
        { label: t("download"), href: this.urls[at], download: `${this.body.model}-${seedOf(this.body)}-${at + 1}.${this.body.output_format ?? "png"}` },
      ].filter(Boolean),
    });
    openPicture(about(i), (way) => about((i = (i + way + this.tiles.length) % this.tiles.length)));
  }

  /* All pictures on one sheet, as a file. */
  async contactSheet() {
    const images = await Promise.all(this.blobs.map((blob) => createImageBitmap(blob)));
    const [width, height] = [images[0].width, images[0].height], gap = Math.max(2, Math.round(width / 32));
    const columns = Math.ceil(Math.sqrt(images.length)), rows = Math.ceil(images.length / columns);
    const canvas = el("canvas", { width: columns * (width + gap) + gap, height: rows * (height + gap) + gap });
    const context = canvas.getContext("2d");
    images.forEach((image, i) => context.drawImage(image, gap + (i % columns) * (width + gap), gap + Math.floor(i / columns) * (height + gap)));
    const url = URL.createObjectURL(await new Promise((resolve) => { canvas.toBlob(resolve); }));
    el("a", { href: url, download: `${this.body.model}-${seedOf(this.body)}-sheet.png` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  finish(seconds) {
    Object.assign(this, { state: "done", seconds });
    this.draw();
  }

  fail(message) {
    this.state = "failed";
    this.error.textContent = message;
    this.error.hidden = false;
    this.sheet.hidden = true;
    this.draw();
  }

  remove() {
    this.urls.forEach((url) => URL.revokeObjectURL(url));
    this.node.remove();
  }
}
