/* The results of a picture as a strip, and the slider between the picture and one of them. */
import { el } from "./dom.js";
import { t } from "./words.js";

export class EditResults {
  /* view: a CanvasView. actions: { use(result, file), shown(result) }; result is one of the draft's. */
  constructor(view, actions) {
    Object.assign(this, { view, actions, results: [], chosen: null, urls: new Map() });
    this.strip = el("ul", { class: "strip" });
    this.node = el("section", { class: "panel results", hidden: true, "aria-labelledby": "edit-results" }, el("h2", { id: "edit-results", "data-t": "edit.results" }), this.strip);
    this.slider = el("input", { type: "range", min: 0, max: 100, value: 50, class: "divider", "data-label": "edit.compare", input: () => this.divide(this.slider.value / 100) });
    this.facts = el("p", { class: "small quiet" });
    this.save = el("a", { class: "button small", "data-t": "edit.save" });
    const act = (name, click) => el("button", { class: "button small", type: "button", "data-t": `edit.${name}`, click });
    this.bar = el("div", { class: "compare", hidden: true },
      el("div", { class: "toolbar ends" }, el("span", { "data-t": "edit.before", "aria-hidden": "true" }), this.slider, el("span", { "data-t": "edit.after", "aria-hidden": "true" })),
      el("div", { class: "toolbar options" }, this.facts,
        el("div", { class: "group" }, act("back", () => this.choose(null)), act("use", () => this.actions.use(this.chosen, this.files.get(this.chosen.file))), this.save)));
  }

  /* Show the results of a draft. */
  show(name, results, files) {
    for (const url of this.urls.values()) URL.revokeObjectURL(url);
    this.urls = new Map(results.map(({ file }) => [file, URL.createObjectURL(files.get(file))]));
    Object.assign(this, { name, results, files, chosen: null });
    this.draw();
  }

  /* Compare the picture with a result from a share of its width on; null goes back to the mask. */
  choose(result, share = this.view.share ?? 0.5) {
    this.chosen = result;
    this.view.compare(result && this.urls.get(result.file), result?.size, result && (result.borders.some(Boolean) ? result.borders : null));
    this.divide(share);
    this.draw();
    this.actions.shown(result);
  }

  divide(share) {
    this.slider.value = Math.round(100 * share);
    this.slider.setAttribute("aria-valuetext", t("edit.parts", { before: Math.round(100 * share), after: Math.round(100 * (1 - share)) }));
    if (this.chosen) this.view.divide(share);
  }

  draw() {
    this.node.hidden = !this.results.length;
    this.bar.hidden = !this.chosen;
    this.strip.replaceChildren(...this.results.map((result) => {
      const name = t("edit.result", { task: t(`edit.${result.task}`), i: result.number + 1, n: result.of, seed: result.seed });
      return el("li", {}, el("button", { type: "button", class: "thumb-button", "aria-pressed": String(result === this.chosen),
        click: () => this.choose(result === this.chosen ? null : result) }, el("img", { src: this.urls.get(result.file), alt: name, class: Math.max(...result.size) <= 160 && "crisp" })));
    }));
    if (!this.chosen) return;
    const { task, model, seed, size, file, number } = this.chosen, stem = this.name.replace(/\.\w+$/, ""), ending = this.files.get(file).type.replace("image/", "");
    this.facts.textContent = t("edit.resultFacts", { task: t(`edit.${task}`), model, seed, size: size.join(" × ") });
    this.save.href = this.urls.get(file);
    this.save.download = `${stem}-${task}-${seed}-${number + 1}.${ending === "jpeg" ? "jpg" : ending}`;
  }
}
