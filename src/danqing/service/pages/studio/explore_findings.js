/* What is behind a picture: the training images most like it, and maps of what counts in it. */
import { at, bytesOf, get, post } from "./api.js";
import { el, show } from "./dom.js";
import { number, t } from "./words.js";

const NEAREST = 12, CRISP = 160, AGAIN = 1000;
const percent = (share) => number(share, { style: "percent", maximumFractionDigits: 1 });

/* picture(): the file of the present picture; asked(): its model and prompt, { model, prompt }. */
export function findings(context, picture, asked) {
  let runs = [], asking = null, addresses = [];
  const trouble = el("div", { class: "error", role: "alert", hidden: true }), status = el("p", { class: "small quiet", role: "status" });
  const found = el("ul", { class: "findings" });
  const button = (word, click) => el("button", { type: "button", class: "button", "data-t": word, click });
  const nearest = button("explore.nearest", () => find(showNearest)), words = button("explore.words", () => find(showWords)), label = button("explore.counts", () => find(showLabels));
  const judge = el("select", { id: "explore-judge", change: () => drawLabels() }), labels = el("select", { id: "explore-judged" });
  const byLabel = el("div", { class: "by-label" },
    el("div", { class: "field" }, el("label", { for: "explore-judge", "data-t": "explore.judge" }), judge),
    el("div", { class: "field" }, el("label", { for: "explore-judged", "data-t": "explore.judged" }), labels), label);
  const node = el("section", { class: "panel behind", "aria-labelledby": "explore-behind" },
    el("h2", { id: "explore-behind", "data-t": "explore.behind" }), el("div", { class: "acts" }, nearest, words), byLabel, trouble, status, found);

  const judges = () => (context.may("recognize") ? context.models.filter((one) => one.available && one.endpoints.includes("attributions") && !one.endpoints.includes("generations")) : []);
  const run = () => runs.find((one) => one.model && one.model === asked().model?.id);

  /* Ask for something; what was asked for before is dropped. */
  async function find(ask) {
    clear();
    const own = asking = new AbortController();
    status.textContent = t("explore.looking");
    try {
      const { figures, said } = await ask(own.signal);
      if (own.signal.aborted) return;
      found.replaceChildren(...figures);
      status.textContent = said;
    } catch (error) {
      if (own.signal.aborted) return;
      status.textContent = "";
      show(trouble, error.message);
    }
  }

  async function form(fields, signal) {
    const sent = new FormData();
    sent.append("image", await picture(signal), "picture.png");
    for (const [name, value] of Object.entries(fields)) sent.append(name, value);
    return sent;
  }

  const figure = (src, alt, caption) => el("li", {}, el("figure", {},
    el("img", { src, alt, load: ({ target }) => target.classList.toggle("crisp", Math.max(target.naturalWidth, target.naturalHeight) <= CRISP) }),
    el("figcaption", {}, caption)));

  /* The images of a large run are read by several requests: each goes on where the last one ran out of time. */
  async function untilRead(request, signal) {
    for (;;) {
      try {
        return await request();
      } catch (error) {
        if (error.code !== "overloaded") throw error;
      }
      await new Promise((resolve) => { setTimeout(resolve, AGAIN); });
      signal.throwIfAborted();
    }
  }

  async function showNearest(signal) {
    const { id } = run(), sent = await form({ count: NEAREST }, signal);
    const { data } = await (await untilRead(() => post(`/v1/runs/${id}/nearest`, sent, { signal }), signal)).json();
    const figures = data.map((one) => {
      const distance = number(one.distance, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
      return figure(at(`/v1/runs/${id}/images/${one.image}/thumbnail`), t("explore.trained", { name: one.source }), t("explore.distance", { name: one.label || one.caption || one.source, distance }));
    });
    return { figures, said: t("explore.nearestFound", { n: figures.length }) };
  }

  async function maps(fields, alt, signal) {
    const answer = await (await post("/v1/attributions", await form(fields, signal), { signal })).json();
    return answer.data[0].maps.map((one) => {
      const src = URL.createObjectURL(new Blob([bytesOf(one.b64_json)], { type: "image/png" }));
      addresses.push(src);
      return figure(src, t(alt, { name: one.name }), `${one.name} · ${percent(one.probability ?? one.share)}`);
    });
  }

  async function showWords(signal) {
    const { model, prompt } = asked();
    return { figures: await maps({ model: model.id, prompt }, "explore.wordAlt", signal), said: t("explore.wordsFound") };
  }

  async function showLabels(signal) {
    const chosen = labels.value ? { label: labels.value } : {};
    return { figures: await maps({ model: judge.value, ...chosen }, "explore.labelAlt", signal), said: t("explore.labelsFound", { model: judge.value }) };
  }

  /* Forget what was found for another picture. */
  function clear() {
    asking?.abort();
    addresses.forEach((one) => URL.revokeObjectURL(one));
    addresses = [];
    found.replaceChildren();
    status.textContent = "";
    show(trouble, "");
  }

  function drawLabels() {
    const names = judges().find((one) => one.id === judge.value)?.labels ?? [];
    labels.replaceChildren(el("option", { value: "" }, t("explore.likeliest")), ...names.map((one) => el("option", { value: one }, one)));
  }

  function drawActions() {
    const { model, prompt } = asked();
    nearest.hidden = !run();
    words.hidden = !(model?.endpoints.includes("attributions") && prompt);
    byLabel.hidden = !judges().length;
    node.hidden = nearest.hidden && words.hidden && byLabel.hidden;
  }

  async function draw() {
    clear();
    const kept = judge.value;
    judge.replaceChildren(...judges().map((one) => el("option", { value: one.id }, one.id)));
    if (judges().some((one) => one.id === kept)) judge.value = kept;
    drawLabels();
    drawActions();
    if (!context.features.train || !context.may("train")) return;
    try {
      runs = (await get("/v1/runs")).data;
      drawActions();
    } catch (error) {
      show(trouble, error.message);
    }
  }

  return { node, draw, drawActions, clear };
}
