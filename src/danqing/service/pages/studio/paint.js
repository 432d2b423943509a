/* The page that paints: a model, a request, and the pictures of each request. */
import { send } from "./api.js";
import { $, el, remember, remembered, show } from "./dom.js";
import { cancel, follow, newKey, picture, start } from "./jobs.js";
import { drawCard, drawModels } from "./model_cards.js";
import { carry, complain, drawForm, fill, formParts, requested, restore, settings } from "./paint_form.js";
import { presets, promptHistory } from "./prompts.js";
import { codeSection } from "./request_code.js";
import { Round } from "./rounds.js";
import { addWords, t } from "./words.js";
import words from "./words/paint.js";

addWords(words);

const MOST_ROUNDS = 12;
const drawnSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export function mount(container, context) {
  let model = null;
  const rounds = [], code = codeSection();
  const paintable = () => context.models.filter((one) => one.endpoints.includes("generations"));
  const named = (name) => paintable().find((one) => one.id === name && one.available);
  const actions = { restore: (round) => reuse(round.body), repeat, vary, input, cancel: stop, dismiss };
  const earlier = promptHistory((entry) => reuse({ ...requested(model), model: named(entry.model) ? entry.model : model.id, prompt: entry.prompt }));
  const saved = presets(settings, (wanted) => {
    fill(wanted);
    changed();
  });

  container.append(
    el("div", { class: "lead" }, el("h1", { "data-t": "title" }), el("p", { "data-t": "lead" })),
    el("div", { class: "error", id: "unpaintable", role: "alert", hidden: true }),
    el("div", { id: "studio", hidden: true },
      el("fieldset", { class: "models", id: "models" }, el("legend", { "data-t": "models" })),
      el("div", { class: "desk" }, formParts(earlier.node, saved.node),
        el("div", { class: "easel" },
          el("div", { class: "empty", id: "empty" }, $("mountains").content.cloneNode(true),
            el("span", { class: "seal", lang: "zh", "aria-hidden": "true" }, "丹青"),
            el("p", {}, el("span", { "data-t": "emptyTitle" }), el("small", { "data-t": "emptyText" }))),
          el("h2", { class: "sr", "data-t": "count" }), el("div", { id: "rounds", class: "easel" }))),
      code.node,
      el("section", { class: "wide", "aria-labelledby": "card-title" }, el("h2", { id: "card-title" }), el("div", { class: "panel", id: "card" }))));

  /* the form */

  function draw() {
    const first = !model, draft = remembered("draft");
    model = named(model?.id) ?? (first && named(draft?.model)) ?? null;
    model ||= paintable().find((one) => one.available) ?? null;
    show($("unpaintable"), model ? "" : t("none"));
    $("studio").hidden = !model;
    if (!model) return;
    $("shortcut").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
    if (first) {
      $("embed").checked = remembered("embed", false);
      if (draft?.model === model.id) restore(draft, model, changed);
    }
    drawModels($("models"), paintable(), model, choose);
    drawForm(model, changed);
    earlier.draw();
    saved.draw();
    changed();
    drawCard(model, (one) => one === model);
    rounds.forEach((round) => round.draw());
    if (first) reattach();
  }

  function changed() {
    $("n-out").value = $("n").value;
    const body = requested(model);
    remember("draft", body);
    remember("embed", $("embed").checked);
    code.draw(body, !context.account.local);
  }

  function choose(one) {
    model = one;
    $("prompt").value = $("named").value = "";
    carry({});
    drawForm(model, changed);
    changed();
    drawCard(model, (chosen) => chosen === model);
  }

  function reuse(body) {
    const one = named(body.model) ?? model;
    if (one !== model) choose(one);
    restore(body, model, changed);
    drawModels($("models"), paintable(), model, choose);
    changed();
    $("go").focus();
  }

  /* Settings from a picture that was dropped on the page, or chosen. */
  async function open(file) {
    show($("error"), "");
    const form = new FormData();
    form.append("image", file, "picture");
    try {
      const { settings: found } = await (await send("POST", "/v1/gallery/settings", form)).json();
      const body = found.request;
      if (found.endpoint && found.endpoint !== "generations") throw new Error(t("dropEdited"));
      if (!named(body.model)) throw new Error(t("dropModel", { model: String(body.model) }));
      reuse(body);
      context.announce(t("dropped", { i: (Number(found.index) || 0) + 1, n: body.n ?? 1 }));
    } catch (error) {
      show($("error"), error.message);
    }
  }

  /* painting */

  const paint = () => {
    earlier.add($("prompt").hidden ? "" : $("prompt").value.trim(), model.id);
    return begin({ seed: drawnSeed(), ...requested(model) }, model);
  };

  function repeat(round, seed) {
    return begin({ ...round.body, seed: seed ?? drawnSeed() }, named(round.body.model) ?? model);
  }

  function begin({ seed, ...body }, one) {
    if (!body.mix) body.seed = seed; // a mix has seeds of its own
    const about = { endpoint: "generations", body, title: String(body.prompt || body.label || ""), size: body.size ?? one.size, varies: one.endpoints.includes("variations") };
    return run(add({ ...about, key: newKey(), began: Date.now() }));
  }

  async function vary(origin, blob) {
    const one = named(origin.body.model) ?? model;
    const label = one.reads === "label" ? { label: origin.body.label ?? origin.body.prompt } : {};
    const body = { model: one.id, n: Number($("n").value), seed: drawnSeed(), ...label };
    const url = await new Promise((resolve) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.readAsDataURL(blob);
    });
    const about = { endpoint: "variations", body, title: origin.title, size: one.size, varies: true, variation: true };
    return run(add({ ...about, key: newKey(), began: Date.now() }), { ...body, images: [{ image_url: url }] });
  }

  function input(round, blob) {
    if (context.has("edit")) context.go("edit", { image: blob, name: round.what });
    else vary(round, blob);
  }

  function add(about) {
    const round = new Round(about, actions);
    rounds.unshift(round);
    arrange();
    $("rounds").prepend(round.node);
    keep();
    return round;
  }

  /* Send a request, wait for its pictures and show them. body: with the picture that is varied, which is not kept here. */
  async function run(round, body = round.body) {
    show($("error"), "");
    for (const field of container.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    round.node.scrollIntoView({ block: "nearest" });
    const isNew = !round.about.job, before = performance.now();
    try {
      if (isNew) {
        round.about.job = (await start(round.about.endpoint, body, round.about.key, round.sending.signal)).id;
        keep();
      }
    } catch (error) {
      drop(round);
      return error.name === "AbortError" ? context.announce(t("stopped")) : complain(error, model);
    }
    try {
      const job = await follow(round.about.job, (event, data) => round.see(event, data));
      if (job.status === "cancelled") {
        drop(round);
        return context.announce(t("stopped"));
      }
      if (job.status === "failed") return round.fail(job.error.message);
      await Promise.all(round.tiles.map(async (_, i) => round.put(i, await picture(job.id, i), true)));
      round.finish(isNew ? (performance.now() - before) / 1000 : null);
      if (isNew) context.announce(t("done", { n: round.tiles.length, what: round.what }));
    } catch (error) {
      if (error.status === 404) drop(round); // it has expired, or belongs to another key
      else round.fail(error.message);
    }
  }

  async function stop(round) {
    if (!round.about.job) round.sending.abort(); // nobody knows whether it arrived: it ends by itself, unseen
    else await cancel(round.about.job).catch((error) => show($("error"), error.message));
  }

  function dismiss(round) {
    drop(round);
  }

  function drop(round) {
    rounds.splice(rounds.indexOf(round), 1);
    round.remove();
    arrange();
    keep();
  }

  function arrange() {
    while (rounds.length > MOST_ROUNDS && rounds.at(-1).isOver) rounds.pop().remove();
    rounds.forEach((round, i) => round.node.classList.toggle("past", i > 0 && round.isOver));
    $("empty").hidden = rounds.length > 0;
  }

  /* Requests survive a reload: their jobs are found again by id, or by the key that they were sent with. */
  function keep() {
    remember("rounds", rounds.map((round) => round.about).filter((about) => about.job || about.endpoint === "generations"));
  }

  function reattach() {
    for (const about of remembered("rounds", []).reverse()) {
      if (!rounds.some((round) => round.about.key === about.key)) run(add(about));
    }
  }

  $("paint").addEventListener("submit", (event) => {
    event.preventDefault();
    paint();
  });
  $("paint").addEventListener("input", (event) => {
    if (model && event.target.type !== "file") changed();
  });
  $("dropped").addEventListener("change", () => {
    if ($("dropped").files[0]) open($("dropped").files[0]);
    $("dropped").value = "";
  });
  for (const name of ["dragover", "drop"]) {
    container.addEventListener(name, (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      if (name === "drop" && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
    });
  }
  document.addEventListener("keydown", (event) => {
    if (container.hidden || !model || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) paint();
    else if (event.key === "Escape") rounds.filter((round) => !round.isOver).slice(0, 1).forEach(stop);
  });
  setInterval(() => rounds.filter((round) => !round.isOver).forEach((round) => round.draw()), 1000);

  return {
    draw,
    open: (given) => {
      if (given.request && model) reuse(given.request);
    },
  };
}
