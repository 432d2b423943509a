/* The page that paints: a model, a request, and the pictures of each request. */
import { call, events, post } from "./api.js";
import { $, el, show } from "./dom.js";
import { drawCard, drawModels } from "./model_cards.js";
import { complain, drawForm, formParts, requested, restore } from "./paint_form.js";
import { codeSection } from "./request_code.js";
import { Round } from "./rounds.js";
import { addWords, t } from "./words.js";
import words from "./words/paint.js";

addWords(words);

const MOST_ROUNDS = 12;
const drawnSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export function mount(container, context) {
  let model = null, painting = null;
  const rounds = [], code = codeSection();
  const paintable = () => context.models.filter((one) => one.endpoints.includes("generations"));
  const actions = { restore: reuse, vary };

  container.append(
    el("div", { class: "lead" }, el("h1", { "data-t": "title" }), el("p", { "data-t": "lead" })),
    el("div", { class: "error", id: "unpaintable", role: "alert", hidden: true }),
    el("div", { id: "studio", hidden: true },
      el("fieldset", { class: "models", id: "models" }, el("legend", { "data-t": "models" })),
      el("div", { class: "desk" }, formParts(),
        el("div", { class: "easel" },
          el("div", { class: "empty", id: "empty" }, $("mountains").content.cloneNode(true),
            el("span", { class: "seal", lang: "zh", "aria-hidden": "true" }, "丹青"),
            el("p", {}, el("span", { "data-t": "emptyTitle" }), el("small", { "data-t": "emptyText" }))),
          el("div", { id: "rounds", class: "easel" }))),
      code.node,
      el("section", { class: "wide", "aria-labelledby": "card-title" }, el("h2", { id: "card-title" }), el("div", { class: "panel", id: "card" }))));

  function draw() {
    model = paintable().find((one) => one.id === model?.id) ?? paintable().find((one) => one.available) ?? null;
    show($("unpaintable"), model ? "" : t("none"));
    $("studio").hidden = !model;
    if (!model) return;
    $("shortcut").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
    drawModels($("models"), paintable(), model, choose);
    drawForm(model, changed);
    changed();
    drawCard(model, (one) => one === model);
    rounds.forEach((round) => round.draw());
    busy(Boolean(painting));
  }

  function changed() {
    $("n-out").value = $("n").value;
    code.draw(requested(model), !context.account.local);
  }

  function choose(one) {
    model = one;
    $("prompt").value = $("named").value = "";
    drawForm(model, changed);
    changed();
    drawCard(model, (chosen) => chosen === model);
  }

  function reuse(round) {
    const one = paintable().find((other) => other.id === round.body.model) ?? model;
    if (one !== model) choose(one);
    restore(round.body, model, changed);
    drawModels($("models"), paintable(), model, choose);
    changed();
    $("go").focus();
  }

  async function paint() {
    const body = { seed: drawnSeed(), ...requested(model) };
    const about = { size: body.size ?? model.size, varies: model.endpoints.includes("variations") };
    await run(new Round(body, body.prompt, about, actions), async (round, signal) => {
      if (!model.partial_images) return (await post("/v1/images/generations", body, { signal })).json();
      let painted = 0;
      for await (const { data } of events(await post("/v1/images/generations", { ...body, stream: true, partial_images: 3 }, { signal }))) {
        if (data.error) throw Object.assign(new Error(data.error.message), { param: data.error.param });
        const finished = data.type.endsWith("completed");
        round.put(data.image_index ?? painted, data.b64_json, finished);
        painted += finished;
      }
      return { data: [] };
    });
  }

  async function vary(origin, blob) {
    const one = paintable().find((other) => other.id === origin.body.model);
    const label = one.reads === "label" ? { label: origin.body.label ?? origin.body.prompt } : {};
    const body = { model: one.id, n: Number($("n").value), seed: drawnSeed(), ...label };
    const form = new FormData();
    for (const [name, value] of Object.entries(body)) form.append(name, value);
    form.append("image", blob, "picture.png");
    await run(new Round(body, origin.title, { size: one.size, varies: true, variation: true }, actions),
      async (_, signal) => (await call("/v1/images/variations", { method: "POST", body: form, signal })).json());
  }

  async function run(round, work) {
    if (painting) return;
    painting = new AbortController();
    show($("error"), "");
    for (const field of container.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
    busy(true);
    $("empty").hidden = true;
    rounds[0]?.node.classList.add("past");
    rounds.unshift(round);
    $("rounds").prepend(round.node);
    round.node.scrollIntoView({ block: "nearest" });
    try {
      const answer = await work(round, painting.signal);
      answer.data.forEach((picture, i) => round.put(i, picture.b64_json, true));
      round.finish();
      context.announce(t("done", { n: round.tiles.length, what: round.what }));
      while (rounds.length > MOST_ROUNDS) rounds.pop().remove();
    } catch (error) {
      rounds.shift().remove();
      rounds[0]?.node.classList.remove("past");
      $("empty").hidden = rounds.length > 0;
      if (error.name === "AbortError") context.announce(t("stopped"));
      else complain(error, model);
    } finally {
      painting = null;
      busy(false);
    }
  }

  function busy(now) {
    $("go").disabled = now;
    $("go").firstElementChild.textContent = t(now ? "painting" : "paint");
    $("shortcut").hidden = now;
    $("stop").hidden = !now;
  }

  $("paint").addEventListener("submit", (event) => {
    event.preventDefault();
    paint();
  });
  $("paint").addEventListener("input", changed);
  $("stop").addEventListener("click", () => painting?.abort());
  document.addEventListener("keydown", (event) => {
    if (container.hidden || !model) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) paint();
    else if (event.key === "Escape") painting?.abort();
  });
  return { draw };
}
