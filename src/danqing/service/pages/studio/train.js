/* The page that trains: images, a preset with its cost, and the runs as they go on. */
import { get, post } from "./api.js";
import { $, el, remember, remembered, show } from "./dom.js";
import { runList } from "./train_runs.js";
import { dataSets } from "./train_sets.js";
import { addWords, number, t } from "./words.js";
import words from "./words/train.js";

addWords(words);

await new Promise((resolve) => {
  document.head.append(el("link", { rel: "stylesheet", href: new URL("train.css", import.meta.url).href, load: resolve, error: resolve }));
});

export function mount(container, context) {
  let presets = null, set = null;
  const sets = dataSets(context, (told) => { set = told; drawForm(); });
  const runs = runList(context);
  const preset = el("select", { id: "train-preset", change: () => { remember("train-preset", preset.value); drawCost(); } });
  const name = el("input", { id: "train-name", type: "text", maxlength: 60, required: true });
  const minutes = el("input", { id: "train-minutes", type: "number", min: 0.1, step: "any", "data-hint": "train_ownBudget", input: () => drawCost() });
  const form = el("form", { class: "train-form", submit: (event) => { event.preventDefault(); start(); } },
    el("div", { class: "row" },
      el("div", { class: "field" }, el("label", { for: "train-preset", "data-t": "train_preset" }), preset),
      el("div", { class: "field" }, el("label", { for: "train-minutes", "data-t": "train_minutes" }), minutes)),
    el("p", { class: "small quiet", id: "train-cost", role: "status" }),
    el("div", { class: "field" }, el("label", { for: "train-name", "data-t": "train_runName" }), name),
    el("div", { class: "act" }, el("button", { class: "button paint", id: "train-start", "data-t": "train_start" })));
  container.append(
    el("div", { class: "lead" }, el("h1", { "data-t": "page_train" }), el("p", { "data-t": "train_lead" })),
    el("div", { class: "easel" }, sets.node,
      el("section", { class: "panel", "aria-labelledby": "train-new-title" }, el("h2", { id: "train-new-title", "data-t": "train_new" }), el("div", { class: "error", id: "train-error", role: "alert", hidden: true }), form),
      runs.node));

  async function open() {
    show($("train-error"), "");
    try {
      presets ??= await get("/v1/runs/presets");
    } catch (error) {
      show($("train-error"), error.message);
    }
    drawForm();
    await Promise.all([sets.reload(), runs.open()]);
  }

  async function start() {
    show($("train-error"), "");
    const body = { dataset: set.id, name: name.value.trim(), preset: preset.value };
    if (minutes.value) body.minutes = Number(minutes.value);
    try {
      await post("/v1/runs", body);
      name.value = "";
      drawForm();
      await runs.reload();
      $("train-runs-title").scrollIntoView({ block: "nearest" });
    } catch (error) {
      show($("train-error"), error.message);
    }
  }

  function drawForm() {
    if (!presets) return;
    const wanted = preset.value || remembered("train-preset") || "gan-32";
    preset.replaceChildren(...presets.data.map((one) => el("option", { value: one.name }, one.needs ? `${one.name} (${t(`train_needs_${one.needs}`)})` : one.name)));
    preset.value = presets.data.some((one) => one.name === wanted) ? wanted : presets.data[0].name;
    minutes.max = presets.most_minutes;
    if (!name.value && set) name.value = set.name;
    $("train-start").disabled = !set?.images;
    drawCost();
  }

  /* How long a budget in images took where the same preset was measured. */
  function measured({ name, images, nearest }) {
    if (nearest?.preset !== name || !nearest.images) return "";
    return t("train_about", { minutes: number(Math.max(1, Math.round((images * nearest.minutes) / nearest.images))), machine: nearest.machine });
  }

  function drawCost() {
    const one = presets?.data.find(({ name }) => name === preset.value);
    if (!one) return;
    const asked = Number(minutes.value) || one.minutes;
    const cost = asked ? t("train_cost", { minutes: number(asked), cores: number(presets.cores), hours: number((asked * presets.cores) / 60, { maximumFractionDigits: 2 }) }) : t("train_costImages", { images: number(one.images), about: measured(one) });
    const near = one.nearest && t("train_near", { ...one.nearest, score: number(one.nearest.score) });
    $("train-cost").textContent = [one.description + ".", cost, near].filter(Boolean).join(" ");
  }

  return { open, close() { sets.close(); runs.close(); }, draw() { drawForm(); sets.draw(); runs.draw(); } };
}
