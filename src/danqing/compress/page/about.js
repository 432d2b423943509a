/* What is known of the model, and how to get the same images elsewhere. */

import { $, el, size, t } from "./dom.js";
import { FAMILIES } from "./words.js";

const MOST_LABELS = 40, MOST_SIZES = 6;

const shell = (text) => (/^[\w./=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
const quoted = (value) => (typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value));

/** Return the rest of a request, by the names that Danqing has for it. */
function others({ label, prompt, size: sides }) {
  return Object.entries({ label, prompt, size: sides }).filter(([, value]) => value !== undefined);
}

const CODE = {
  commandLine(model, request) {
    const words = ["danqing", "sample", shell(model.name), "--seed", String(request.seed), "-n", String(request.n)];
    for (const [name, value] of others(request)) words.push(`--${name}`, shell(value));
    for (const [name, value] of Object.entries(request.attributes)) words.push("--attribute", shell(`${name}=${value}`));
    for (const [name, value] of Object.entries(request.options)) {
      words.push(...(name === "negative_prompt" ? ["--negative-prompt", shell(value)] : ["--set", shell(`${name}=${value}`)]));
    }
    return [...words, "--each", "images/"].join(" ");
  },
  python(model, request) {
    const values = [["seed", String(request.seed)], ...others(request).map(([name, value]) =>
      [name, name === "size" ? `(${value.replace("x", ", ")})` : quoted(value)])];
    if (Object.keys(request.attributes).length) values.push(["attributes", `{${Object.entries(request.attributes).map(([name, value]) => `${quoted(name)}: ${quoted(value)}`).join(", ")}}`]);
    for (const [name, value] of Object.entries(request.options)) values.push([name, quoted(value)]);
    const all = [request.n, ...values.map(([name, value]) => `${name}=${value}`)].join(", ");
    return `import danqing as dq\n\nmodel = dq.load(${quoted(model.name)})\nimages = model.sample(${all})\nimages.save_each("images")`;
  },
};

let tab = "commandLine", shown = null;

/** Show the request as code. */
export function drawCode(model, request) {
  shown = [model, request];
  $("code-section").hidden = false;
  if (!$("tabs").children.length) {
    $("tabs").append(...Object.keys(CODE).map((name) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "code", "data-t": name, click: () => choose(name) }, t(name))));
  }
  for (const button of $("tabs").children) {
    const isChosen = button.id === `tab-${tab}`;
    button.setAttribute("aria-selected", String(isChosen));
    button.tabIndex = isChosen ? 0 : -1;
  }
  $("code").setAttribute("aria-labelledby", `tab-${tab}`);
  $("code").textContent = CODE[tab](model, request);
}

/** Show it again, in the language of the page or under another tab. */
export function redrawCode() {
  if (shown) drawCode(...shown);
}

function choose(name) {
  tab = name;
  redrawCode();
}

$("tabs").addEventListener("keydown", (event) => {
  const names = Object.keys(CODE), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  choose(names[(names.indexOf(tab) + step + names.length) % names.length]);
  $(`tab-${tab}`).focus();
});
$("copy").addEventListener("click", async () => {
  const isCopied = await navigator.clipboard?.writeText($("code").textContent).then(() => true, () => false);
  if (!isCopied) return getSelection().selectAllChildren($("code")); // the clipboard needs https or localhost
  $("copy").textContent = t("copied");
  setTimeout(() => { $("copy").textContent = t("copy"); }, 1500);
});

/** Show the facts of the model. */
export function drawCard(model, threads) {
  const { labels } = model, some = labels.slice(0, MOST_LABELS).join(", ");
  const facts = {
    name: model.name, family: FAMILIES[model.family] ?? model.family, sizes: model.sizes.slice(0, MOST_SIZES).map((one) => one.replace("x", " × ")).join(", ") + (model.sizes.length > MOST_SIZES ? ", …" : ""),
    labels: labels.length > MOST_LABELS ? `${some}, … (${labels.length})` : some,
    weights: size(model.bytes), licence: model.licence, creator: model.creator,
    runtime: t("runtimeText", { threads: threads === 1 ? t("oneThread") : t("threads", { n: threads }) }),
    marks: t(model.xmp ? "marksText" : "noMarks"),
  };
  $("card").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [el("dt", {}, t(name)), el("dd", {}, value)]));
}
