/* The settings of an edit: the model, what it does, and the controls that this needs. */
import { el } from "./dom.js";
import { fills, tasksOf, verbOf } from "./edit_job.js";
import { isWord, t } from "./words.js";

export const NORMAL = {
  model: "", task: "", prompt: "", label: "", source: "", options: {}, n: 1, seed: null, fine: false, feather: 0, expand: [0, 0, 0, 0], format: "png",
  tool: "brush", brush: 0, tolerance: 24, everywhere: false, subtract: false, grow: 8,
};
const SIDES = ["left", "top", "right", "bottom"], FORMATS = ["png", "webp", "jpeg", "input"];
const READING = ["prompt", "label", "source"];

const field = (id, label, control, hint) =>
  el("div", { class: "field" }, el("label", { for: id }, label), control, hint && el("span", { class: "hint", id: `${id}-hint` }, hint));

export class EditForm {
  /* settings: an object as NORMAL, which the form changes. changed(name): called after each change. started, stopped: for the buttons. */
  constructor(settings, { changed, started, stopped }) {
    Object.assign(this, { settings, changed });
    this.node = el("form", { class: "panel edit-form", novalidate: true, "data-label": "edit.vertical", submit: (event) => {
      event.preventDefault();
      started();
    } });
    this.body = el("div", { class: "edit-fields" });
    this.error = el("div", { class: "error", role: "alert", hidden: true });
    this.go = el("button", { class: "button paint" });
    this.stop = el("button", { class: "button", type: "button", hidden: true, click: stopped });
    this.bar = el("progress", { class: "progress", max: 1, hidden: true });
    this.status = el("div", { class: "edit-status small quiet", role: "status" });
    this.node.append(this.body, this.error, el("div", { class: "act" }, this.go, this.stop), this.bar, this.status);
  }

  /* Draw the fields for the chosen model, one of `models`. */
  draw(models) {
    const { settings } = this, focused = document.activeElement?.id;
    this.models = models;
    this.model = models.find((one) => one.id === settings.model) ?? models.find((one) => one.available) ?? models[0];
    if (!this.model) return;
    settings.model = this.model.id;
    const tasks = tasksOf(this.model);
    if (!tasks.includes(settings.task)) [settings.task] = tasks;
    this.verb = verbOf(settings.task, this.model);
    const picker = el("select", { id: "edit-model", change: () => this.#set("model", picker.value, true) },
      ...models.map((one) => el("option", { value: one.id, disabled: !one.available, selected: one === this.model }, one.id)));
    this.body.replaceChildren(
      field("edit-model", t("edit.model"), picker),
      el("fieldset", { class: "tasks" }, el("legend", { class: "label" }, t("edit.task")),
        el("div", { class: "chips" }, ...tasks.map((task) => this.#task(task))),
        el("p", { class: "hint" }, t(`edit.about.${this.verb === "relabel" ? "relabel" : settings.task}`, { n: this.model.scale }))),
      ...this.#reading(), ...this.#shape(),
      el("div", { class: "row" },
        field("edit-n", t("edit.count"), this.#number("n", { min: 1, max: 8 })),
        field("edit-seed", t("edit.seed"), this.#number("seed", { min: 0, placeholder: t("edit.anySeed") }))),
      el("details", { class: "more", open: this.isOpen, toggle: (event) => { this.isOpen = event.target.open; } }, el("summary", {}, t("edit.more")),
        el("div", {}, ...this.#options(), this.#format())));
    this.busy(Boolean(this.isBusy));
    this.stop.textContent = t("edit.stop");
    if (focused?.startsWith("edit-") && this.body.contains(document.getElementById(focused))) document.getElementById(focused).focus();
  }

  busy(now) {
    this.isBusy = now;
    this.go.disabled = now;
    this.go.textContent = t(now ? "edit.working" : "edit.go");
    this.stop.hidden = this.bar.hidden = !now;
    if (!now) this.status.textContent = "";
  }

  /* Say how far the work is. done, total: 0 before it has begun. began: when, in milliseconds since 1970. ahead: requests before it. */
  progress(done, total, began, ahead = 0) {
    if (total) this.bar.value = done / total;
    else this.bar.removeAttribute("value");
    this.bar.setAttribute("aria-label", t("edit.working"));
    if (!total) return void (this.status.textContent = ahead ? t("ahead", { n: ahead }) : t("edit.waiting"));
    const progress = t("edit.progress", { done, total }), seconds = ((Date.now() - began) / 1000) * (total / done - 1);
    this.status.textContent = done > 1 && seconds >= 2 ? t("edit.remaining", { progress, seconds: Math.round(seconds) }) : progress;
  }

  /* Say what is wrong beside the field that it is about; "" takes it back. */
  complain(message, param = "") {
    this.error.textContent = message;
    this.error.hidden = !message;
    for (const one of this.node.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
    const names = { source_label: "source", expand: "left", task: "task-fill" };
    const place = document.getElementById(`edit-${names[param] ?? param}`) ?? document.getElementById(`edit-option-${param}`);
    if (!message || !place || !this.node.contains(place)) return;
    const closed = place.closest("details");
    if (closed) closed.open = true;
    place.setAttribute("aria-invalid", "true");
    place.focus();
  }

  #set(name, value, redraw = false) {
    this.settings[name] = value;
    this.changed(name);
    if (redraw) {
      this.draw(this.models);
      this.changed("task");
    }
  }

  #task(task) {
    const radio = el("input", { type: "radio", name: "edit-task", id: `edit-task-${task}`, value: task, class: "sr", change: () => this.#set("task", task, true) });
    radio.checked = task === this.settings.task;
    return el("label", { class: "chip task" }, radio, t(`edit.${task}`));
  }

  #number(name, { min, max, placeholder, get = () => this.settings[name], set = (value) => this.#set(name, value), id = `edit-${name}`, label, normal = null } = {}) {
    const control = el("input", { id, type: "number", step: 1, min, max, placeholder, inputmode: "numeric", "aria-label": label, value: get(), input: () => {
      set(control.value === "" ? normal ?? (name === "seed" ? null : min) : Number(control.value));
    } });
    return control;
  }

  /* What the model reads: a text, or labels. */
  #reading() {
    const { model, settings, verb } = this, words = { prompt: "edit.prompt", label: verb === "relabel" ? "edit.becomes" : "edit.label", source: "edit.source" };
    const names = [model.reads === "text" && settings.task !== "vary" && "prompt", verb === "relabel" && "source",
      model.labels.length > 0 && (model.reads === "label" || verb === "relabel") && "label"];
    return READING.filter((name) => names.includes(name)).sort((a) => (a === "source" ? -1 : 0)).map((name) => {
      const id = `edit-${name}`, isText = name === "prompt", change = () => this.#set(name, control.value);
      if (!isText && !model.labels.includes(settings[name])) settings[name] = model.labels[name === "label" && verb === "relabel" ? model.labels.length - 1 : 0];
      const control = isText
        ? el("textarea", { id, rows: 2, maxlength: 32000, placeholder: (model.captions[0] ?? "").split("\n")[0], "aria-describedby": `${id}-hint`, input: change })
        : el("select", { id, change }, ...model.labels.map((label) => el("option", { value: label }, label)));
      control.value = settings[name];
      return field(id, t(words[name]), control, isText && t("edit.promptHint"));
    });
  }

  /* What only a fill has: the pixels to add, and the edge. */
  #shape() {
    const { settings } = this;
    const sides = settings.task === "expand" && el("fieldset", { class: "sides" }, el("legend", { class: "label" }, t("edit.sides")),
      ...SIDES.map((side, i) => field(`edit-${side}`, t(`edit.${side}`), this.#number(side, { min: 0, max: 4096, get: () => settings.expand[i], set: (value) => {
        settings.expand = settings.expand.map((one, k) => (k === i ? Math.max(0, Math.round(value)) : one));
        this.changed("expand");
      } }))));
    const feather = fills(settings.task) && field("edit-feather", t("edit.feather"),
      this.#number("feather", { min: 0, max: 1000, set: (value) => this.#set("feather", Math.min(1000, Math.max(0, Math.round(value)))) }), t("edit.featherHint"));
    return [sides, feather].filter(Boolean);
  }

  #options() {
    const own = (this.settings.options[this.verb] ??= {}), known = this.model.verb_options[this.verb] ?? {};
    const fine = fills(this.settings.task) && this.#check("edit-fine", t("edit.fine"), this.settings.fine, (value) => this.#set("fine", value), t("edit.fineHint"));
    return [fine, ...Object.entries(known).map(([name, normal]) => {
      const id = `edit-option-${name}`, told = isWord(`edit.${name}`) ? t(`edit.${name}`) : isWord(name) ? t(name) : t("edit.option", { name });
      const set = (value) => {
        if (value === "" || value === normal || value === null) delete own[name];
        else own[name] = value;
        this.changed("options");
      };
      if (typeof normal === "boolean") return this.#check(id, told, own[name] ?? normal, set);
      const isNumber = typeof normal === "number", { choices, low, high } = this.model.option_values[name] ?? {};
      if (choices) {
        const picker = el("select", { id, change: () => set(picker.value) }, ...choices.map((one) => el("option", { value: one }, one)));
        picker.value = own[name] ?? normal;
        return field(id, told, picker, el("code", {}, name));
      }
      const control = el("input", { id, min: low, max: high, type: isNumber ? "number" : "text", step: "any", value: own[name] ?? "", placeholder: normal ?? t("auto"), input: () => {
        set(isNumber && control.value !== "" ? Number(control.value) : normal === null && control.value && !Number.isNaN(Number(control.value)) ? Number(control.value) : control.value.trim());
      } });
      return field(id, told, control, el("code", {}, name));
    })].filter(Boolean);
  }

  #check(id, label, value, set, hint) {
    const control = el("input", { id, type: "checkbox", change: () => set(control.checked) });
    control.checked = value;
    return el("div", { class: "field check" }, el("label", { for: id }, control, " ", label), hint && el("span", { class: "hint" }, hint));
  }

  #format() {
    const control = el("select", { id: "edit-output_format", change: () => this.#set("format", control.value) },
      ...FORMATS.map((name) => el("option", { value: name }, name === "input" ? t("edit.input") : name.toUpperCase())));
    control.value = this.settings.format;
    return field("edit-output_format", t("edit.format"), control);
  }
}
