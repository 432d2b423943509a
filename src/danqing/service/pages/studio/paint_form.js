/* The form of a request: a prompt or label, the right control for each option, and what they hold. */
import { $, el, show } from "./dom.js";
import { isWord, t } from "./words.js";

const MOST_CHIPS = 40;

export const sides = (size) => size.split("x").map(Number);
const numeric = (text) => (Number.isNaN(Number(text)) ? text : Number(text));

/* The elements of the form, empty. */
export function formParts() {
  return el("form", { class: "panel", id: "paint", novalidate: true },
    el("div", { class: "field", id: "prompt-field" },
      el("label", { for: "prompt", id: "prompt-label" }),
      el("textarea", { id: "prompt", rows: 3, maxlength: 32000 }),
      el("input", { id: "named", type: "text", list: "names", autocomplete: "off", hidden: true }), el("datalist", { id: "names" }),
      el("span", { class: "hint", id: "prompt-hint" }),
      el("div", { class: "chips", id: "chips", role: "group" })),
    el("div", { class: "row" },
      el("div", { class: "field" },
        el("label", { for: "n" }, el("span", { "data-t": "count" }), "\u2002", el("output", { id: "n-out", for: "n" }, "4")),
        el("input", { id: "n", type: "range", min: 1, max: 10, value: 4 })),
      el("div", { class: "field" }, el("label", { for: "seed", "data-t": "seed" }),
        el("input", { id: "seed", type: "number", step: 1, min: 0, inputmode: "numeric", "data-hint": "anySeed" }))),
    el("details", { class: "more" }, el("summary", { "data-t": "more" }), el("div", { id: "settings" })),
    el("div", { class: "error", id: "error", role: "alert", hidden: true }),
    el("div", { class: "act" },
      el("button", { class: "button paint", id: "go" }, el("span", { "data-t": "paint" }), " ", el("kbd", { "aria-hidden": "true", id: "shortcut" })),
      el("button", { class: "button", id: "stop", type: "button", "data-t": "stop", hidden: true })));
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
  const kept = settings();
  const options = { ...(model.reads === "text" && { negative_prompt: "" }), ...model.options };
  const fields = Object.entries(options).map(([name, normal]) => {
    const id = `option-${name}`, told = isWord(name) ? t(name) : null;
    const about = [el("label", { for: id }, told ?? name), told && el("span", { class: "hint" }, el("code", {}, name))];
    const value = kept[name] ?? "";
    const field = typeof normal === "boolean"
      ? el("input", { id, type: "checkbox", checked: value === "" ? normal : value })
      : el("input", { id, type: typeof normal === "number" ? "number" : "text", step: "any", value, placeholder: normal == null ? t("auto") : normal });
    Object.assign(field.dataset, { option: name, normal: JSON.stringify(normal) });
    return el("div", { class: "field" }, ...about, field);
  });
  const [width, height] = sides(model.size);
  const sizes = model.other_sizes ? [2, 4, 8, 16].filter((times) => Math.max(width, height) * times <= 2048) : [];
  const size = el("select", { id: "size" }, el("option", { value: "" }, t("own", { size: model.size.replace("x", " × ") })),
    ...sizes.map((times) => el("option", { value: `${width * times}x${height * times}` }, `${width * times} × ${height * times}`)));
  const format = el("select", { id: "format" }, ...["png", "webp", "jpeg"].map((name) => el("option", { value: name === "png" ? "" : name }, name.toUpperCase())));
  size.value = [...size.options].some((option) => option.value === kept.size) ? kept.size : "";
  format.value = kept.output_format ?? "";
  $("settings").replaceChildren(...fields, el("div", { class: "row" },
    el("div", { class: "field" }, el("label", { for: "size" }, t("size")), size),
    el("div", { class: "field" }, el("label", { for: "format" }, t("format")), format)));
}

/* Only what differs from what the model does anyway. */
function settings() {
  const wanted = {};
  for (const field of document.querySelectorAll("[data-option]")) {
    const normal = JSON.parse(field.dataset.normal);
    if (field.type === "checkbox") {
      if (field.checked !== normal) wanted[field.dataset.option] = field.checked;
    } else if (field.value.trim()) {
      wanted[field.dataset.option] = field.type === "number" || normal === null ? numeric(field.value) : field.value.trim();
    }
  }
  if ($("size")?.value) wanted.size = $("size").value;
  if ($("format")?.value) wanted.output_format = $("format").value;
  return wanted;
}

/* The request in the form, as the API takes it. */
export function requested(model) {
  const prompt = model.reads === "text" ? $("prompt").value.trim() : model.reads === "label" ? $("named").value.trim() : "";
  const seed = $("seed").value === "" ? {} : { seed: Number($("seed").value) };
  return { model: model.id, prompt, n: Number($("n").value), ...seed, ...settings() };
}

/* Put a request back into the form, which is that of its model. */
export function restore(body, model, changed) {
  $("prompt").value = $("named").value = body.prompt ?? "";
  $("n").value = $("n-out").value = body.n ?? 1;
  $("seed").value = body.seed ?? "";
  drawForm(model, changed);
  for (const field of document.querySelectorAll("[data-option]")) {
    const value = body[field.dataset.option];
    if (value !== undefined) field[field.type === "checkbox" ? "checked" : "value"] = value;
  }
  $("size").value = body.size ?? "";
  $("format").value = body.output_format ?? "";
}

/* Say what is wrong beside the field that it is about. */
export function complain(error, model) {
  show($("error"), error.message);
  const places = { prompt: model.reads === "text" ? "prompt" : "named", label: "named", n: "n", seed: "seed", size: "size" };
  const field = $(places[error.param] ?? `option-${error.param}`);
  if (!field || field.hidden) return;
  const closed = field.closest("details");
  if (closed) closed.open = true;
  field.setAttribute("aria-invalid", "true");
  field.focus();
}
