/* The form of a request: a prompt or label, the right control for each option, and what they hold. */
import { $, el, show } from "./dom.js";
import { isWord, t } from "./words.js";

const MOST_CHIPS = 40, CARRIED = ["mix", "directions"];
let carried = {}; // what a picture brought that the form has no controls for

export const sides = (size) => size.split("x").map(Number);
const numeric = (text) => (Number.isNaN(Number(text)) ? text : Number(text));

/* The elements of the form, empty. earlier, presets: what is put below the prompt, and into the settings. */
export function formParts(earlier, presets) {
  return el("form", { class: "panel", id: "paint", novalidate: true },
    el("div", { class: "field", id: "prompt-field" },
      el("label", { for: "prompt", id: "prompt-label" }),
      el("textarea", { id: "prompt", rows: 3, maxlength: 32000 }),
      el("input", { id: "named", type: "text", list: "names", autocomplete: "off", hidden: true }), el("datalist", { id: "names" }),
      el("span", { class: "hint", id: "prompt-hint" }),
      el("div", { class: "chips", id: "chips", role: "group" })),
    earlier,
    el("div", { id: "attributes", hidden: true }),
    el("div", { class: "row" },
      el("div", { class: "field" },
        el("label", { for: "n" }, el("span", { "data-t": "count" }), "\u2002", el("output", { id: "n-out", for: "n" }, "4")),
        el("input", { id: "n", type: "range", min: 1, max: 10, value: 4 })),
      el("div", { class: "field" }, el("label", { for: "seed", "data-t": "seed" }),
        el("input", { id: "seed", type: "number", step: 1, min: 0, inputmode: "numeric", "data-hint": "anySeed" }))),
    el("p", { class: "hint", id: "carried", hidden: true }, el("span", { "data-t": "carried" }), " ", el("button", { class: "button small", type: "button", "data-t": "dismiss", click: () => {
      carry({});
      $("paint").dispatchEvent(new Event("input"));
    } })),
    el("details", { class: "more" }, el("summary", { "data-t": "more" }), el("div", {}, el("div", { id: "settings" }),
      el("label", { class: "check" }, el("input", { id: "embed", type: "checkbox" }), el("span", { "data-t": "embed" })), presets)),
    el("div", { class: "error", id: "error", role: "alert", hidden: true }),
    el("div", { class: "act" },
      el("button", { class: "button paint", id: "go" }, el("span", { "data-t": "paint" }), " ", el("kbd", { "aria-hidden": "true", id: "shortcut" }))),
    el("div", { class: "field drop" }, el("label", { for: "dropped", "data-t": "dropLabel" }), el("span", { class: "hint", "data-t": "dropHint" }),
      el("input", { id: "dropped", type: "file", accept: "image/png,image/jpeg,image/webp" })));
}

/* Draw the form for a model; changed: called when the visitor chose a word. */
export function drawForm(model, changed) {
  const { reads, labels, captions } = model, many = labels.length > MOST_CHIPS;
  const kind = reads === "text" ? "Text" : reads === "label" ? "Label" : "None";
  $("prompt-label").textContent = t(`prompt${kind}`);
  $("prompt").hidden = reads !== "text";
  $("named").hidden = !(reads === "label" && many);
  $("prompt-label").htmlFor = reads === "text" ? "prompt" : "named";
  $("prompt").placeholder = (captions[0] ?? "").split("\n")[0];
  if (reads === "label" && !labels.includes($("named").value)) $("named").value = many ? "" : labels[0];
  $("names").replaceChildren(...(many ? labels.map((label) => el("option", { value: label })) : []));
  const hints = { text: captions.length ? "hintText" : "", label: many ? "hintLabels" : "", none: "hintNone" };
  show($("prompt-hint"), hints[reads] && t(hints[reads], { n: labels.length }));
  const words = reads === "text" ? captions.slice(0, 5) : reads === "label" && !many ? labels : [];
  $("chips").hidden = !words.length;
  $("chips").setAttribute("aria-label", t(reads === "text" ? "examples" : "promptLabel"));
  $("chips").replaceChildren(...words.map((word) => el("button", {
    type: "button", class: "chip", "aria-pressed": reads === "label" && String(word === $("named").value),
    click: () => {
      (reads === "text" ? $("prompt") : $("named")).value = word;
      for (const chip of $("chips").children) if (reads === "label") chip.setAttribute("aria-pressed", String(chip.textContent === word));
      changed();
    },
  }, word)));
  drawSettings(model);
}

function drawSettings(model) {
  const kept = $("size") ? settings() : {};
  const attributes = model.attributes.map((one) => field("attribute", one.name, one.name, null, attributeControl(one)));
  $("attributes").hidden = !attributes.length;
  $("attributes").replaceChildren(...attributes);
  const options = { ...(model.reads === "text" && { negative_prompt: "" }), ...model.options };
  const fields = Object.entries(options).map(([name, normal]) =>
    field("option", name, isWord(name) ? t(name) : name, isWord(name) && el("code", {}, name), optionControl(normal, model.option_values[name] ?? {})));
  const [width, height] = sides(model.size);
  const sizes = model.other_sizes ? [2, 4, 8, 16].filter((times) => Math.max(width, height) * times <= 2048) : [];
  const size = el("select", { id: "size" }, el("option", { value: "" }, t("own", { size: model.size.replace("x", " × ") })),
    ...sizes.map((times) => el("option", { value: `${width * times}x${height * times}` }, `${width * times} × ${height * times}`)));
  const format = el("select", { id: "format" }, ...["png", "webp", "jpeg"].map((name) => el("option", { value: name === "png" ? "" : name }, name.toUpperCase())));
  $("settings").replaceChildren(...fields, el("div", { class: "row" },
    el("div", { class: "field" }, el("label", { for: "size" }, t("size")), size),
    el("div", { class: "field" }, el("label", { for: "format" }, t("format")), format)));
  fill(kept);
}

/* A control with its label; kind: attribute or option. */
function field(kind, name, label, code, control) {
  Object.assign(control, { id: `${kind}-${name}` });
  Object.assign(control.dataset, { kind, name });
  const output = control.type === "range" && el("output", { for: control.id }, control.value);
  if (output) control.addEventListener("input", () => { output.value = control.value; });
  return el("div", { class: "field" }, el("label", { for: control.id }, label, output && "\u2002", output), code && el("span", { class: "hint" }, code), control);
}

/* The control that fits an option: a switch, a choice, a slider, a number or a text. */
function optionControl(normal, { choices, low, high, isWhole }) {
  const data = { "data-normal": JSON.stringify(normal) };
  if (typeof normal === "boolean") return el("input", { ...data, type: "checkbox", checked: normal });
  if (choices) {
    return el("select", data, ...(normal === null ? [el("option", { value: "" }, t("auto"))] : []),
      ...choices.map((value) => el("option", { value, selected: value === normal }, value)));
  }
  if (high === 1 && normal !== null) return el("input", { ...data, type: "range", min: low, max: high, step: 0.01, value: normal });
  if (typeof normal === "number" || low !== undefined) {
    return el("input", { ...data, type: "number", min: low, max: high, step: isWhole ? 1 : "any", inputmode: "decimal", placeholder: normal ?? t("auto") });
  }
  return el("input", { ...data, type: "text", placeholder: normal || t("auto") });
}

function attributeControl(one) {
  const data = { "data-normal": "null", "data-width": one.width, "data-is": one.kind };
  if (one.kind === "category") {
    return el("select", data, el("option", { value: "" }, t("unknown")), ...one.categories.map((value) => el("option", { value }, value)));
  }
  if (one.kind === "vector") return el("input", { ...data, type: "text", spellcheck: "false", placeholder: t("numbers", { n: one.width }) });
  const some = one.mean.length ? `${Number(one.lowest[0]).toPrecision(3)} – ${Number(one.highest[0]).toPrecision(3)}` : t("unknown");
  return el("input", { ...data, type: "number", step: "any", inputmode: "decimal", placeholder: some });
}

/* What a control holds; undefined for what the model does anyway. */
function valueOf(control) {
  const normal = JSON.parse(control.dataset.normal);
  if (control.type === "checkbox") return control.checked === normal ? undefined : control.checked;
  const text = control.value.trim();
  if (!text || text === String(normal)) return undefined;
  if (control.dataset.is === "vector") return text.split(",").map(Number);
  return control.type === "number" || control.type === "range" ? Number(text) : normal === null && !control.dataset.is ? numeric(text) : text;
}

/* Only what differs from what the model does anyway. */
export function settings() {
  const wanted = {}, attributes = {};
  for (const control of $("paint").querySelectorAll("[data-kind]")) {
    const value = valueOf(control);
    if (value !== undefined) (control.dataset.kind === "attribute" ? attributes : wanted)[control.dataset.name] = value;
  }
  if (Object.keys(attributes).length) wanted.attributes = attributes;
  if ($("size")?.value) wanted.size = $("size").value;
  if ($("format")?.value) wanted.output_format = $("format").value;
  return wanted;
}

/* Put settings into the controls; what they do not name gets the model's own value. */
export function fill(wanted) {
  for (const control of $("paint").querySelectorAll("[data-kind]")) {
    const { kind, name } = control.dataset, normal = JSON.parse(control.dataset.normal);
    const value = kind === "attribute" ? wanted.attributes?.[name] : wanted[name];
    if (control.type === "checkbox") control.checked = value ?? normal;
    else control.value = value ?? (control.type === "range" || control.tagName === "SELECT" ? normal ?? "" : "");
    control.dispatchEvent(new Event("input"));
  }
  $("size").value = [...$("size").options].some((option) => option.value === wanted.size) ? wanted.size : "";
  $("format").value = ["webp", "jpeg"].includes(wanted.output_format) ? wanted.output_format : "";
}

/* Keep what a request has that the form does not show; an empty one forgets it. */
export function carry(body) {
  carried = Object.fromEntries(CARRIED.filter((name) => body[name]?.length).map((name) => [name, body[name]]));
  $("carried").hidden = !Object.keys(carried).length;
  $("seed").disabled = "mix" in carried;
}

/* The request in the form, as the API takes it. */
export function requested(model) {
  const prompt = model.reads === "text" ? $("prompt").value.trim() : model.reads === "label" ? $("named").value.trim() : "";
  const seed = $("seed").value === "" || carried.mix ? {} : { seed: Number($("seed").value) };
  return { model: model.id, prompt, n: Number($("n").value), ...seed, ...settings(), ...carried, ...($("embed").checked && { embed_settings: true }) };
}

/* Put a request back into the form, which is that of its model. */
export function restore(body, model, changed) {
  const shown = body.prompt || body.label;
  $("prompt").value = $("named").value = shown === undefined ? "" : String(shown);
  $("n").value = $("n-out").value = body.n ?? 1;
  $("seed").value = body.seed ?? "";
  drawForm(model, changed);
  fill(body);
  carry(body);
}

/* Say what is wrong beside the field that it is about. */
export function complain(error, model) {
  show($("error"), error.message);
  const param = error.param?.replace(/^body\./, "");
  const places = { prompt: model.reads === "text" ? "prompt" : "named", label: "named", n: "n", seed: "seed", size: "size" };
  const field = $(places[param] ?? `option-${param}`);
  if (!field || field.hidden) return;
  const closed = field.closest("details");
  if (closed) closed.open = true;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}
