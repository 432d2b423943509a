/* Curves of runs as a small SVG. */
import { el } from "./dom.js";
import { number, t } from "./words.js";

const WIDTH = 320, HEIGHT = 120, EDGE = 6;

const digits = (value) => number(value, { maximumSignificantDigits: 4 });

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/* The name of the curve that says most: a held-out score, or else the loss. */
export const mainCurve = (curves) => Object.keys(curves).sort((a, b) => b.startsWith("score/") - a.startsWith("score/"))[0];

/* curves: a list of { name, points }, points as [images, value]; several are drawn over each other with one scale. */
export function plot(curves) {
  const shown = curves.filter((one) => one.points?.length);
  const all = shown.flatMap((one) => one.points);
  if (!all.length) return el("div", {});
  const [left, right] = range(all.map(([images]) => images)), [low, high] = range(all.map(([, value]) => value));
  const x = (images) => EDGE + ((images - left) / (right - left || 1)) * (WIDTH - 2 * EDGE);
  const y = (value) => HEIGHT - EDGE - ((value - low) / (high - low || 1)) * (HEIGHT - 2 * EDGE);
  const told = shown.map(({ name, points }) => t("train_curve", { name, value: digits(points.at(-1)[1]), images: number(points.at(-1)[0]) }));
  const lines = shown.map(({ points }, place) => points.length === 1
    ? svg("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 2.5, class: `curve-${place} dot` })
    : svg("polyline", { points: points.map(([images, value]) => `${x(images).toFixed(1)},${y(value).toFixed(1)}`).join(" "), class: `curve-${place}` }));
  return el("figure", { class: "train-plot" },
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told.join("; "), preserveAspectRatio: "none" }, ...lines),
    el("figcaption", { class: "small quiet" }, ...told.map((text, place) => el("span", {}, el("i", { class: `key curve-${place}`, "aria-hidden": "true" }), text))));
}

function range(values) {
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}
