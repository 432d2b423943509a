/* The page that moves between four pictures, each place of a square mixes the seeds of its corners, and along directions of the noise. */
import { bytesOf, post } from "./api.js";
import { el, remember, remembered, show } from "./dom.js";
import { directionSliders, directionsOf } from "./explore_directions.js";
import { findings } from "./explore_findings.js";
import { addWords, number, t, translate } from "./words.js";
import words from "./words/explore.js";

addWords(words);
await new Promise((resolve) => {
  document.head.append(el("link", { rel: "stylesheet", href: new URL("explore.css", import.meta.url).href, load: resolve, error: resolve }));
});

const CORNERS = [[0, 0], [1, 0], [0, 1], [1, 1]], SHEET = 5, STEPS = 20, MOST_KEPT = 400, CRISP = 160;
const drawnSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export function mount(container, context) {
  const state = { model: "", prompt: "", label: "", seeds: CORNERS.map(drawnSeed), across: 0.5, down: 0.5, distances: [], ...remembered("explore") };
  const kept = new Map(); // pictures by their request
  let wanted = null, sheet = null;

  const trouble = el("div", { class: "error", role: "alert", hidden: true });
  const picker = el("select", { id: "explore-model", change: () => set("model", picker.value) });
  const reading = el("div", { class: "field" });
  const corners = CORNERS.map((_, i) => ({ image: el("img", { alt: "" }), button: el("button", { type: "button", class: "button small", click: () => reseed([i]) }, "↻") }));
  const place = el("img", { class: "here", alt: "" }), handle = el("span", { class: "handle", "aria-hidden": "true" });
  const pad = el("div", { class: "pad", "aria-hidden": "true", pointerdown: (event) => { pad.setPointerCapture(event.pointerId); point(event); }, pointermove: (event) => { if (pad.hasPointerCapture(event.pointerId)) point(event); } }, handle);
  const slider = (name) => el("input", { type: "range", id: `explore-${name}`, min: 0, max: STEPS, step: 1, "data-label": `explore.${name}`, input: (event) => move({ [name]: event.target.value / STEPS }) });
  const across = slider("across"), down = slider("down");
  const directions = directionSliders((distances) => {
    cells.replaceChildren();
    sheet?.abort();
    move({ distances });
  });
  const behind = findings(context, (signal) => picture(weights(), signal), () => ({ model: model(), prompt: model()?.reads === "text" ? state.prompt.trim() : "" }));
  const shares = el("p", { class: "small quiet" }), status = el("p", { class: "small quiet", role: "status" });
  const save = el("a", { class: "button small", "data-t": "explore.save" });
  const edit = el("button", { class: "button small", type: "button", "data-t": "explore.edit", click: async () => context.go("edit", { image: kept.get(keyOf(weights())), name: "between.png" }) });
  const cells = el("div", { class: "cells" }), sheetButton = el("button", { class: "button", type: "button", click: drawSheet });
  const cornerNode = (i) => el("div", { class: `corner corner-${i}` }, corners[i].image, corners[i].button);
  const desk = el("div", { class: "desk explore-desk" },
    el("div", { class: "panel square" }, cornerNode(0), cornerNode(1), el("div", { class: "middle" }, place), cornerNode(2), cornerNode(3)),
    el("div", { class: "panel explore-side" },
      el("div", { class: "field" }, el("label", { for: "explore-model", "data-t": "explore.model" }), picker), reading,
      el("div", { class: "field" }, el("span", { class: "label", "data-t": "explore.pad" }), pad),
      el("div", { class: "field" }, el("label", { for: "explore-across", "data-t": "explore.across" }), across),
      el("div", { class: "field" }, el("label", { for: "explore-down", "data-t": "explore.down" }), down),
      directions.node, shares, status, el("div", { class: "acts" }, edit, save, el("button", { class: "button small", type: "button", "data-t": "explore.all", click: () => reseed([0, 1, 2, 3]) }))),
    el("div", { class: "easel below" }, behind.node, el("div", { class: "panel sheet-panel" }, sheetButton, cells)));
  container.append(el("div", { class: "lead" }, el("h1", { "data-t": "explore.title" }), el("p", { "data-t": "explore.lead" })), trouble, desk);

  const able = () => context.models.filter((one) => one.available && one.endpoints.includes("generations") && one.runtime === "torch");
  const model = () => able().find((one) => one.id === state.model);

  /* the pictures */

  /* The shares of the corners at a place, which are bilinear. */
  const weights = (x = state.across, y = state.down) => CORNERS.map(([i, j]) => (i ? x : 1 - x) * (j ? y : 1 - y));

  function request(parts, distances) {
    const { reads, labels, directions: count } = model(), moved = directionsOf(distances.slice(0, count)), prompt = reads === "text" ? state.prompt.trim() : reads === "label" ? (labels.includes(state.label) ? state.label : labels[0]) : "";
    const merged = new Map();
    parts.forEach((share, i) => merged.set(state.seeds[i], (merged.get(state.seeds[i]) ?? 0) + share));
    return { model: state.model, prompt, mix: [...merged].filter(([, share]) => share > 0).map(([seed, share]) => ({ seed, share: Math.min(1, share) })), ...(moved.length && { directions: moved }) };
  }

  const keyOf = (parts, distances = state.distances) => JSON.stringify(request(parts, distances));

  /* The picture of some shares as a Blob, moved along the directions. */
  async function picture(parts, signal, distances) {
    const key = keyOf(parts, distances);
    if (!kept.has(key)) {
      const answer = await (await post("/v1/images/generations", JSON.parse(key), { signal })).json();
      kept.set(key, new Blob([bytesOf(answer.data[0].b64_json)], { type: "image/png" }));
      if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
    }
    return kept.get(key);
  }

  function put(image, blob, alt) {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(blob);
    image.alt = alt;
    image.classList.toggle("crisp", Math.max(...model().size.split("x").map(Number)) <= CRISP);
  }

  /* Show the picture of a corner, unless it is shown already. */
  async function drawCorner(i) {
    const corner = corners[i], parts = CORNERS.map((_, k) => Number(k === i)), key = keyOf(parts, []), alt = t("explore.corner", { i: i + 1, seed: state.seeds[i] });
    if (corner.key !== key) put(corner.image, await picture(parts, undefined, []), alt);
    Object.assign(corner, { key });
    corner.image.alt = alt;
  }

  /* Show the corners and the picture of the present place, and then those of what was chosen meanwhile. */
  async function follow() {
    if (wanted) return void (wanted = "again");
    wanted = "now";
    status.textContent = t("explore.working");
    show(trouble, "");
    try {
      do {
        wanted = "now";
        for (const i of CORNERS.keys()) await drawCorner(i);
        const parts = weights(), blob = await picture(parts);
        put(place, blob, t("explore.between", percents()));
        save.href = place.src;
        save.download = `${state.model}-${state.seeds.join("-")}.png`;
      } while (wanted === "again");
      status.textContent = t("explore.between", percents());
    } catch (error) {
      status.textContent = "";
      show(trouble, error.message);
    }
    wanted = null;
  }

  async function drawSheet() {
    if (sheet) return sheet.abort();
    sheet = new AbortController();
    sheetButton.textContent = t("explore.stop");
    const spots = Array.from({ length: SHEET * SHEET }, (_, k) => [(k % SHEET) / (SHEET - 1), Math.floor(k / SHEET) / (SHEET - 1)]);
    const buttons = spots.map(([x, y]) => el("button", { type: "button", class: "cell waiting", "aria-label": t("explore.cell", percents(x, y)), click: () => move({ across: x, down: y }) }));
    cells.replaceChildren(...buttons);
    try {
      for (const [k, [x, y]] of spots.entries()) {
        const image = el("img", { alt: "" });
        put(image, await picture(weights(x, y), sheet.signal), "");
        buttons[k].classList.remove("waiting");
        buttons[k].append(image);
      }
    } catch (error) {
      if (error.name !== "AbortError") show(trouble, error.message);
      buttons.filter((one) => !one.children.length).forEach((one) => one.remove());
    }
    sheet = null;
    sheetButton.textContent = t("explore.sheet");
  }

  /* what a visitor changes */

  const percents = (x = state.across, y = state.down) => ({ across: Math.round(100 * x), down: Math.round(100 * y) });

  function set(name, value) {
    state[name] = value;
    if (name === "model") {
      state.distances = [];
      directions.draw(model().directions, state.distances);
      drawReading();
    }
    remember("explore", state);
    behind.clear();
    behind.drawActions();
    cells.replaceChildren();
    sheet?.abort();
    follow();
  }

  function reseed(which) {
    set("seeds", state.seeds.map((seed, i) => (which.includes(i) ? drawnSeed() : seed)));
    drawPlace();
  }

  function move(change) {
    Object.assign(state, change);
    remember("explore", state);
    drawPlace();
    behind.clear();
    follow();
  }

  function point(event) {
    const { left, top, width, height } = pad.getBoundingClientRect(), snap = (one) => Math.round(STEPS * Math.min(1, Math.max(0, one))) / STEPS;
    move({ across: snap((event.clientX - left) / width), down: snap((event.clientY - top) / height) });
  }

  function drawPlace() {
    across.value = STEPS * state.across;
    down.value = STEPS * state.down;
    for (const [name, control] of Object.entries({ across, down })) control.setAttribute("aria-valuetext", `${percents()[name]}%`);
    Object.assign(handle.style, { left: `${100 * state.across}%`, top: `${100 * state.down}%` });
    shares.textContent = t("explore.shares", { shares: weights().map((one) => number(one, { style: "percent", maximumFractionDigits: 0 })).join(" · ") });
    corners.forEach(({ button }, i) => button.setAttribute("aria-label", t("explore.again", { i: i + 1 })));
  }

  function drawReading() {
    const { reads, labels, captions } = model(), isText = reads === "text", id = "explore-reading";
    const control = isText
      ? el("textarea", { id, rows: 2, maxlength: 32000, placeholder: (captions[0] ?? "").split("\n")[0], change: () => set("prompt", control.value) })
      : el("select", { id, change: () => set("label", control.value) }, ...labels.map((one) => el("option", { value: one }, one)));
    control.value = isText ? state.prompt : labels.includes(state.label) ? state.label : labels[0] ?? "";
    reading.hidden = reads === "none";
    reading.replaceChildren(el("label", { for: id }, t(isText ? "explore.prompt" : "explore.label")), control);
  }

  function draw() {
    const models = able();
    desk.hidden = !models.length;
    show(trouble, models.length ? "" : t("explore.none"));
    if (!models.length) return;
    if (!model()) state.model = models[0].id;
    picker.replaceChildren(...models.map((one) => el("option", { value: one.id }, one.id)));
    picker.value = state.model;
    edit.hidden = !context.has("edit");
    sheetButton.textContent = t(sheet ? "explore.stop" : "explore.sheet");
    directions.draw(model().directions, state.distances);
    drawReading();
    drawPlace();
    behind.draw();
    translate(container);
    follow();
  }

  return { draw };
}
