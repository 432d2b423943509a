/* The bars above and below the picture: tools, undo, zoom, and changes of the whole mask. */
import { el } from "./dom.js";
import { TOOLS } from "./tools.js";
import { t } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  brush: "M14.5 3.5l2 2-7.6 7.6-2-2zM6.2 12l1.9 1.9c-.4 2-2 2.8-4.8 2.6 1-.7 1-3.9 2.9-4.5z",
  eraser: "M3.5 12.3l7.8-7.8 4.7 4.7-6.8 6.8H6.2zM7.4 8.4l4.7 4.7M9 16h8",
  box: "M4 5h12v10H4z",
  lasso: "M10 4c3.6 0 6.5 1.9 6.5 4.3S13.6 12.6 10 12.6c-.9 0-1.8-.1-2.6-.3M7.4 12.3c-2.3-.7-3.9-2.2-3.9-4C3.5 5.9 6.4 4 10 4M7.4 12.3c.3 1.5-.3 3-2 4.2M7.4 12.3a1.5 1.5 0 1 0-2.6-1",
  colour: "M5 15l5.5-5.5M12 4.5l.7 2.3 2.3.7-2.3.7-.7 2.3-.7-2.3-2.3-.7 2.3-.7zM16 11.5l.4 1.3 1.3.4-1.3.4-.4 1.3-.4-1.3-1.3-.4 1.3-.4z",
  hand: "M10 3v14M3 10h14M10 3L8 5m2-2l2 2M10 17l-2-2m2 2l2-2M3 10l2-2m-2 2l2 2M17 10l-2-2m2 2l-2 2",
  undo: "M7.5 5L4 8.5 7.5 12M4.5 8.5H12a4 4 0 0 1 0 8H9",
  redo: "M12.5 5L16 8.5 12.5 12M15.5 8.5H8a4 4 0 0 0 0 8h3",
  out: "M5 10h10", in: "M5 10h10M10 5v10", fit: "M4 7.5V4h3.5M12.5 4H16v3.5M16 12.5V16h-3.5M7.5 16H4v-3.5",
};
export const KEYS = { b: "brush", e: "eraser", r: "box", l: "lasso", w: "colour", h: "hand" };

function icon(name) {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  for (const [attribute, value] of Object.entries({ viewBox: "0 0 20 20", width: 20, height: 20, "aria-hidden": "true" })) svg.setAttribute(attribute, value);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

const number = (id, label, value, min) =>
  el("div", { class: "field" }, el("label", { for: id, "data-t": label }), el("input", { id, type: "number", step: 1, min, value, inputmode: "numeric" }));

export class EditToolbar {
  /* settings: those of the edit. actions: { chosen(), undo(), redo(), zoom(factor), fit(), change(kind, work), changed(name) }, with
     work as Tools.change takes it. */
  constructor(settings, actions) {
    Object.assign(this, { settings, actions });
    const button = (name, click, classes = "tool") =>
      el("button", { class: classes, type: "button", "data-label": `edit.${name}`, "data-title": `edit.${name}`, click }, icon(name));
    this.tools = TOOLS.map((name) => {
      const radio = el("input", { type: "radio", name: "edit-tool", class: "sr", value: name, "data-label": `edit.${name}`, change: () => this.choose(name) });
      return el("label", { class: "tool", "data-title": `edit.${name}` }, radio, icon(name));
    });
    this.undo = button("undo", actions.undo);
    this.redo = button("redo", actions.redo);
    this.scale = el("button", { class: "tool scale", type: "button", "data-title": "edit.fit", click: () => actions.fit() });
    this.top = el("div", { class: "toolbar" },
      el("div", { class: "group", role: "radiogroup", "data-label": "edit.toolbar" }, ...this.tools),
      el("div", { class: "group" }, this.undo, this.redo),
      el("div", { class: "group end" }, button("out", () => actions.zoom(1 / 1.4), "tool step"), this.scale, button("in", () => actions.zoom(1.4), "tool step"), button("fit", () => actions.fit())));
    this.brush = this.#slider("brush", "edit.size", 0, 100);
    this.tolerance = this.#slider("tolerance", "edit.tolerance", 0, 255);
    this.everywhere = this.#check("everywhere", "edit.everywhere");
    this.subtract = this.#check("subtract", "edit.subtract");
    this.grow = el("input", { id: "edit-grow", type: "number", min: 1, max: 1000, step: 1, value: settings.grow, "data-label": "edit.pixels", inputmode: "numeric",
      input: () => { this.#set("grow", Number(this.grow.value)); } });
    const change = (name, kind, work) => el("button", { class: "button small", type: "button", "data-t": `edit.${name}`, click: () => actions.change(kind, work) });
    const by = () => Math.round(Math.min(1000, Math.max(0, settings.grow)) / this.cell);
    this.options = el("div", { class: "toolbar options" }, el("div", { class: "group grows" }, this.brush.node, this.tolerance.node, this.everywhere.node, this.subtract.node));
    this.whole = el("div", { class: "toolbar whole" },
      el("div", { class: "group" }, el("span", { class: "label", "data-t": "edit.mask" }),
        change("all", "fill", (mask) => mask.fill(1)), change("clear", "clear", (mask) => mask.fill(0)), change("invert", "invert", (mask) => mask.invert())),
      el("div", { class: "group" }, this.grow, change("grow", "grow", (mask) => mask.grow(by())), change("shrink", "shrink", (mask) => mask.grow(-by()))));
    this.cell = 1;
    this.box = { left: number("edit-box-left", "edit.left", 0, 0), top: number("edit-box-top", "edit.top", 0, 0),
      width: number("edit-box-width", "edit.width", 1, 1), height: number("edit-box-height", "edit.height", 1, 1) };
    const boxed = (value) => (mask) => {
      const [left, top, width, height] = Object.values(this.box).map((one) => Math.round(Number(one.querySelector("input").value)));
      const [x0, y0] = [left, top].map((one) => Math.floor(one / this.cell)), [x1, y1] = [left + width, top + height].map((one) => Math.ceil(one / this.cell));
      return x1 > x0 && y1 > y0 ? mask.box(x0, y0, x1 - x0, y1 - y0, value) : null;
    };
    const put = (name, value) => el("button", { class: "button", type: "button", "data-t": `edit.${name}`, click: () => actions.change("box", boxed(value)) });
    this.boxFields = el("details", { class: "more" }, el("summary", { "data-t": "edit.boxFields" }),
      el("div", { class: "boxes" }, ...Object.values(this.box), put("add", 1), put("take", 0)));
  }

  /* Prepare for a picture. cell: as of CanvasView.show. */
  prepare([width, height], cell) {
    this.cell = cell;
    this.longest = Math.max(width, height);
    this.settings.brush ||= Math.max(1, Math.round(this.longest / 16));
    const fields = Object.values(this.box).map((one) => one.querySelector("input"));
    [Math.round(width / 4), Math.round(height / 4), Math.round(width / 2), Math.round(height / 2)].forEach((value, i) => { fields[i].value = value; });
    this.draw();
  }

  choose(name) {
    this.settings.tool = name;
    this.actions.changed("tool");
    this.draw();
    this.actions.chosen();
  }

  /* Make the brush larger or smaller by a factor. */
  resize(factor) {
    const { brush } = this.settings;
    this.#set("brush", Math.min(this.longest, Math.max(1, factor > 1 ? Math.ceil(brush * factor) : Math.floor(brush * factor))));
    this.draw();
    return this.settings.brush;
  }

  /* Show the settings as they are. */
  draw() {
    const { settings } = this, { tool } = settings;
    this.tools.forEach((node, i) => { node.firstElementChild.checked = TOOLS[i] === tool; });
    this.brush.node.hidden = tool !== "brush" && tool !== "eraser";
    this.tolerance.node.hidden = this.everywhere.node.hidden = tool !== "colour";
    this.subtract.node.hidden = !["box", "lasso", "colour"].includes(tool);
    this.brush.control.value = this.longest ? (100 * Math.log(settings.brush)) / Math.log(this.longest) : 0; // even steps are even factors
    this.brush.output.textContent = settings.brush;
    this.tolerance.control.value = this.tolerance.output.textContent = settings.tolerance;
    this.brush.control.setAttribute("aria-valuetext", `${settings.brush} ${t("edit.pixels")}`);
    this.everywhere.control.checked = settings.everywhere;
    this.subtract.control.checked = settings.subtract;
    for (const node of this.top.querySelectorAll("[data-title]")) node.title = t(node.dataset.title);
  }

  /* Show what can be undone, and the scale. */
  state(mask, scale) {
    this.undo.disabled = !mask?.canUndo;
    this.redo.disabled = !mask?.canRedo;
    this.scale.textContent = `${Math.round(100 * scale)}%`;
    this.scale.setAttribute("aria-label", `${t("edit.fit")} (${Math.round(100 * scale)}%)`);
  }

  #set(name, value) {
    this.settings[name] = value;
    this.actions.changed(name);
  }

  #slider(name, label, min, max) {
    const output = el("output", { for: `edit-tool-${name}` });
    const control = el("input", { id: `edit-tool-${name}`, type: "range", min, max, step: name === "brush" ? "any" : 1, input: () => {
      this.#set(name, name === "brush" ? Math.max(1, Math.round(this.longest ** (control.value / 100))) : Number(control.value));
      output.textContent = this.settings[name];
      control.setAttribute("aria-valuetext", `${this.settings[name]} ${t("edit.pixels")}`);
    } });
    return { control, output, node: el("div", { class: "slider" }, el("label", { for: control.id, "data-t": label }), control, output) };
  }

  #check(name, label) {
    const control = el("input", { type: "checkbox", id: `edit-tool-${name}`, change: () => this.#set(name, control.checked) });
    return { control, node: el("label", { class: "tick", for: control.id }, control, el("span", { "data-t": label })) };
  }
}
