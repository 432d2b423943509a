/* What this browser remembers of earlier requests: prompts, favourites and presets of settings. */
import { el, remember, remembered } from "./dom.js";
import { t } from "./words.js";

const MOST = 100;

/* A list of earlier prompts, the favourites first; use(entry): called with { prompt, model } that was chosen. */
export function promptHistory(use) {
  const list = el("ul", { class: "earlier" });
  const node = el("details", { class: "more", id: "history" }, el("summary", { "data-t": "history" }), el("div", {}, list,
    el("button", { class: "button small", type: "button", "data-t": "forget", click: () => save(known().filter((one) => one.favourite)) })));
  const known = () => remembered("prompts", []);

  function save(entries) {
    remember("prompts", entries);
    draw();
  }

  function add(prompt, model) {
    if (!prompt) return;
    const old = known(), same = old.find((one) => one.prompt === prompt);
    const rest = old.filter((one) => one !== same);
    const kept = [...rest.filter((one) => one.favourite), ...rest.filter((one) => !one.favourite).slice(0, MOST)];
    save([{ prompt, model, favourite: same?.favourite ?? false }, ...kept]);
  }

  function draw() {
    const entries = known();
    node.hidden = !entries.length;
    list.replaceChildren(...[...entries].sort((a, b) => Number(b.favourite) - Number(a.favourite)).map((entry) => el("li", {},
      el("button", { class: "star", type: "button", "aria-pressed": String(entry.favourite), "aria-label": t("favourite", { what: entry.prompt }),
        click: (event) => {
          save(entries.map((one) => (one === entry ? { ...one, favourite: !one.favourite } : one)));
          event.preventDefault();
        } }, entry.favourite ? "★" : "☆"),
      el("button", { class: "entry", type: "button", click: () => use(entry) }, entry.prompt))));
  }

  return { node, add, draw };
}

/* Saved settings by name; read(): those in the form; use(settings): puts them there. */
export function presets(read, use) {
  const choice = el("select", { id: "preset", change: () => { if (choice.value) use(known()[choice.value]); } });
  const name = el("input", { id: "preset-name", type: "text", maxlength: 60, "data-hint": "presetName", "data-label": "presetName", keydown: (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    save();
  } });
  const node = el("div", { class: "field" }, el("label", { for: "preset", "data-t": "preset" }), el("div", { class: "joined" }, choice,
    el("button", { class: "button", type: "button", "data-t": "presetDelete", click: () => {
      const { [choice.value]: _, ...rest } = known();
      remember("presets", rest);
      draw();
    } })),
  el("div", { class: "joined" }, name, el("button", { class: "button", type: "button", "data-t": "presetSave", click: save })));
  const known = () => remembered("presets", {});

  function save() {
    const wanted = name.value.trim();
    if (!wanted) return name.focus();
    remember("presets", { ...known(), [wanted]: read() });
    name.value = "";
    draw();
    choice.value = wanted;
  }

  function draw() {
    const kept = choice.value;
    choice.replaceChildren(el("option", { value: "" }, t("presetNone")), ...Object.keys(known()).sort().map((one) => el("option", { value: one }, one)));
    choice.value = kept in known() ? kept : "";
  }

  return { node, draw };
}
