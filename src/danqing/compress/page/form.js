/* The form: the right control for everything that can be requested of the model, and what they hold. */

import { $, el, hasText, show, t } from "./dom.js";

const MOST_CHIPS = 40, MOST_SEED = 2n ** 63n;

/** A value that the model does not take; `field` is the id of its control. */
export class Mistake extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** Draw the form of a model in the language of the page, and keep what it holds. */
export function drawForm(model) {
  $("seed").placeholder = t("anySeed");
  drawLabels(model);
  drawPrompt(model);
  redraw($("attributes"), model.attributes.map((one) => field(one, "attribute", one.name, t("unknown"))));
  const sizes = model.sizes.length > 1 ? [{ name: "size", choices: model.sizes, default: model.sizes[0] }] : [];
  redraw($("settings"), [...model.options, ...sizes].map((one) => field(one, "option", hasText(one.name) ? t(one.name) : one.name, t("auto"))));
  $("more").hidden = !$("settings").children.length;
}

/** Put new fields in a place, with the values that the old ones had. */
function redraw(place, fields) {
  const kept = new Map([...place.querySelectorAll("[data-kind]")].map((node) => [node.id, node.type === "checkbox" ? node.checked : node.value]));
  place.replaceChildren(...fields);
  place.hidden = !fields.length;
  for (const node of place.querySelectorAll("[data-kind]")) {
    if (!kept.has(node.id)) continue;
    node[node.type === "checkbox" ? "checked" : "value"] = kept.get(node.id);
    node.dispatchEvent(new Event("input"));
  }
}

/** Return a label and a control. one: {name, default, choices, low, high}. */
function field(one, kind, label, empty) {
  const id = `${kind}-${one.name}`, data = { id, "data-kind": kind, "data-name": one.name };
  const isExplained = kind === "option" && label !== one.name;
  let control;
  if (typeof one.default === "boolean") {
    control = el("input", { ...data, type: "checkbox", checked: one.default });
  } else if (one.choices) {
    const choices = one.choices.map((value) => el("option", { value, selected: value === one.default }, String(value).replace(/^(\d+)x(\d+)$/, "$1 × $2")));
    if (one.default == null) choices.unshift(el("option", { value: "" }, empty));
    control = el("select", data, ...choices);
  } else if (one.low === 0 && one.high === 1) {
    control = el("input", { ...data, type: "range", min: 0, max: 1, step: 0.05, value: one.default });
    const output = el("output", { for: id }, one.default);
    control.addEventListener("input", () => { output.value = control.value; });
    label = el("span", {}, `${label} `, output);
  } else if (one.isText) {
    control = el("input", { ...data, type: "text", maxlength: 2000 });
  } else if (one.isVector) {
    control = el("input", { ...data, type: "text", spellcheck: "false", placeholder: empty });
  } else {
    const limits = { min: one.low, max: one.high, step: one.isWhole ? 1 : "any", inputmode: "decimal" };
    control = el("input", { ...data, type: "number", ...limits, placeholder: one.default ?? empty });
  }
  const name = isExplained && el("span", { class: "hint" }, el("code", {}, one.name));
  return el("div", { class: "field" }, el("label", { for: id }, label), name, control);
}

function drawLabels(model) {
  const { labels } = model, isMany = labels.length > MOST_CHIPS;
  $("label-field").hidden = model.reads !== "label";
  if (model.reads !== "label") return;
  $("label").hidden = !isMany;
  if (!isMany && !labels.includes($("label").value)) $("label").value = labels[0];
  $("names").replaceChildren(...(isMany ? labels.map((label) => el("option", { value: label })) : []));
  show($("label-hint"), isMany ? t("labelHint", { n: labels.length }) : "");
  const choose = (label) => {
    $("label").value = label;
    for (const chip of $("chips").children) chip.setAttribute("aria-pressed", String(chip.textContent === label));
  };
  $("chips").replaceChildren(...(isMany ? [] : labels).map((label) =>
    el("button", { type: "button", class: "chip", "aria-pressed": String(label === $("label").value), click: () => choose(label) }, label)));
}

function drawPrompt(model) {
  $("prompt-field").hidden = model.reads !== "text";
  if (model.reads !== "text") return;
  $("prompt").placeholder = model.captions[0] ?? "";
  $("prompt-hint").hidden = !model.captions.length;
  $("captions").setAttribute("aria-label", t("captions"));
  $("captions").replaceChildren(...model.captions.slice(0, 5).map((caption) => el("button", { type: "button", class: "chip", click: () => { $("prompt").value = caption; } }, caption)));
}

/** Return what the form requests: {n, seed, label, prompt, attributes, options, size}; throws a Mistake. */
export function requested(model) {
  const request = { n: Number($("n").value), seed: seed(), attributes: {}, options: {} };
  if (model.reads === "label") {
    const label = $("label").value.trim();
    if (!model.labels.includes(label)) throw new Mistake(t("unlabelled"), "label");
    request.label = label;
  }
  if (model.reads === "text") request.prompt = $("prompt").value.trim();
  read("attribute", model.attributes, request.attributes);
  read("option", model.options, request.options);
  if ($("option-size")) request.size = $("option-size").value;
  return request;
}

/** Return the seed in the form, a BigInt; null where it is left open. */
function seed() {
  const text = $("seed").value.trim();
  if ($("seed").validity.badInput || (text && !/^\d+$/.test(text)) || (text && BigInt(text) >= MOST_SEED)) {
    throw new Mistake(t("notASeed"), "seed");
  }
  return text ? BigInt(text) : null;
}

/** Read all controls of a kind that differ from their default. */
function read(kind, known, values) {
  for (const one of known) {
    const control = $(`${kind}-${one.name}`);
    if (typeof one.default === "boolean") {
      if (control.checked !== one.default) values[one.name] = control.checked;
    } else if (one.choices) {
      if (control.value !== String(one.default ?? "")) values[one.name] = one.choices.find((choice) => String(choice) === control.value);
    } else if (control.type === "range") {
      if (Number(control.value) !== one.default) values[one.name] = Number(control.value);
    } else if (control.value.trim() || control.validity.badInput) {
      values[one.name] = one.isText ? control.value.trim() : one.isVector ? vector(one, control) : number(one, control);
    }
  }
}

/** Return the numbers of a vector, which are separated by commas. */
function vector(one, control) {
  const numbers = control.value.split(",").map((text) => (text.trim() ? Number(text) : NaN));
  if (numbers.length === one.width && numbers.every(Number.isFinite)) return numbers;
  throw new Mistake(t("outOfRange", { name: one.name, range: t("numbers", { n: one.width }) }), control.id);
}

function number(one, control) {
  const value = Number(control.value);
  const low = one.low ?? -Infinity, high = one.high ?? Infinity;
  const isAllowed = control.value.trim() && value >= low && value <= high && (!one.isWhole || Number.isInteger(value));
  if (isAllowed) return value;
  const range = one.high != null ? t("between", { low: one.low ?? "−∞", high: one.high }) : one.low != null ? t("atLeast", { low: one.low }) : t("anyNumber");
  throw new Mistake(t("outOfRange", { name: one.name, range }), control.id);
}

/** Put a request back into the form. */
export function restore(model, request) {
  $("n").value = $("n-out").value = request.n;
  $("seed").value = request.seed === null ? "" : String(request.seed);
  $("label").value = request.label ?? "";
  $("prompt").value = request.prompt ?? "";
  const fill = (kind, known, values) => {
    for (const one of known) {
      const control = $(`${kind}-${one.name}`), value = values[one.name];
      if (typeof one.default === "boolean") control.checked = value ?? one.default;
      else control.value = value ?? (one.choices || control.type === "range" ? one.default ?? "" : "");
      control.dispatchEvent(new Event("input"));
    }
  };
  fill("attribute", model.attributes, request.attributes);
  fill("option", model.options, request.options);
  if ($("option-size")) $("option-size").value = request.size ?? model.sizes[0];
  drawLabels(model);
}

/** Say in the form what is wrong, at its control. */
export function complain(error) {
  show($("error"), error.message);
  const control = $(error.field ?? "");
  if (!control) return;
  const closed = control.closest("details");
  if (closed) closed.open = true;
  control.setAttribute("aria-invalid", "true");
  control.setAttribute("aria-describedby", "error");
  if (!control.hidden) control.focus();
}

export function forget() {
  show($("error"), "");
  for (const control of document.querySelectorAll("[aria-invalid]")) {
    control.removeAttribute("aria-invalid");
    control.removeAttribute("aria-describedby");
  }
}
