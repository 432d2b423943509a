/* The models as cards to choose from, and everything about the chosen one. */
import { call, get } from "./api.js";
import { $, el } from "./dom.js";
import { isWord, language, locale, number, t } from "./words.js";

export const FAMILIES = { gan: "GAN", vae: "VAE", vqvae: "VQ-VAE", transformer: "Transformer", flow: "Flow" };
const MOST_LABELS = 40;
const thumbs = new Map(), cards = new Map();

export const familyOf = (one) => FAMILIES[one.family] ?? one.family;
export const reading = (one) =>
  one.reads === "text" ? t("readsText") : one.reads === "label" ? t("readsLabel", { n: one.labels.length }) : t("readsNone");

/* Fill a fieldset with one card for each model; choose: called with the model that was chosen. */
export function drawModels(place, models, chosen, choose) {
  place.replaceChildren(place.firstElementChild, ...models.map((one) => {
    const thumb = el("span", { class: "thumb", "aria-hidden": "true" }, one.id.slice(0, 1).toUpperCase());
    if (one.available) sample(one, thumb);
    const about = one.available ? `${familyOf(one)} · ${one.size.replace("x", " × ")}` : t("unavailable");
    const radio = el("input", { type: "radio", name: "model", value: one.id, disabled: !one.available, change: () => choose(one) });
    radio.checked = one.id === chosen.id;
    return el("label", { class: "model" }, radio, thumb,
      el("span", { class: "about" }, el("b", {}, one.id), el("span", { class: "small quiet" }, about,
        one.available && el("br"), one.available && reading(one))));
  }));
}

async function sample(one, place) {
  if (!thumbs.has(one.id)) {
    thumbs.set(one.id, call(`/models/${encodeURIComponent(one.id)}/samples.png`)
      .then((answer) => answer.blob()).then((blob) => URL.createObjectURL(blob), () => ""));
  }
  const url = await thumbs.get(one.id);
  if (url) place.replaceChildren(el("img", { src: url, alt: "" }));
}

/* Fill the panel #card with the facts of a model, and its card of which only text is used. */
export async function drawCard(one, isChosen) {
  $("card-title").textContent = t("cardTitle", { model: one.id });
  const some = one.labels.slice(0, MOST_LABELS).join(", ");
  const facts = {
    family: familyOf(one), size: one.size.replace("x", " × "), channels: one.channels, parameters: number(one.parameters), reads: reading(one),
    endpoints: one.endpoints.map((name) => (isWord(name) ? t(name) : name)).join(language === "zh" ? "，" : ", "),
    options: Object.entries(one.options).map(([name, value]) => `${name} = ${value ?? t("auto")}`).join(", "),
    labels: some + (one.labels.length > MOST_LABELS ? ", …" : ""),
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== "").flatMap(([name, value]) => [el("dt", {}, t(name)), el("dd", {}, String(value))]);
  $("card").replaceChildren(el("dl", { class: "facts" }, ...rows));
  if (!cards.has(one.id)) cards.set(one.id, get(`/v1/models/${encodeURIComponent(one.id)}`).then((told) => told.card ?? "", () => ""));
  const card = await cards.get(one.id);
  if (isChosen(one) && card && !$("card").querySelector("details")) {
    $("card").append(el("details", { class: "card-text", lang: "en" }, el("summary", { lang: locale() }, t("whole")), ...markdown(card)));
  }
}

/* As much of Markdown as model cards use; all of it text, nothing of it HTML. */
function markdown(source) {
  const nodes = [];
  let table = null, list = null, fence = null;
  const plain = (text) => text.replace(/\*\*|`/g, "").replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1");
  for (const line of source.replace(/^---\n[\s\S]*?\n---\n/, "").split("\n")) {
    if (line.startsWith("```")) {
      if (fence) fence = null;
      else nodes.push((fence = el("pre", { tabindex: "0" })));
    } else if (fence) fence.append(`${line}\n`);
    else if (line.startsWith("- ")) {
      if (!list) nodes.push((list = el("ul")));
      list.append(el("li", {}, plain(line.slice(2))));
    } else if (line.startsWith("|")) {
      const cells = line.split("|").slice(1, -1).map((cell) => cell.trim());
      const first = !table;
      if (first) nodes.push(el("div", { class: "scroll", tabindex: "0" }, (table = el("table"))));
      if (!cells.every((cell) => /^:?-+:?$/.test(cell))) table.append(el("tr", {}, ...cells.map((cell) => el(first ? "th" : "td", {}, plain(cell)))));
    } else {
      table = list = null;
      if (/^#+ /.test(line)) nodes.push(el(line.startsWith("# ") ? "h3" : "h4", {}, plain(line.replace(/^#+ /, ""))));
      else if (line.trim() && !line.startsWith("![")) nodes.push(el("p", {}, plain(line)));
    }
  }
  return nodes;
}
