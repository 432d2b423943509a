/* Sliders that move a picture along the directions of its model's noise. */
import { el } from "./dom.js";
import { number, t } from "./words.js";

const FARTHEST = 5, STEP = 0.5;
const signed = (value) => number(value, { signDisplay: "exceptZero", minimumFractionDigits: 1 });

/* changed(distances): called when one is moved; distances: of all directions, in their order. */
export function directionSliders(changed) {
  let distances = [];
  const sliders = el("div", { class: "sliders" });
  const reset = el("button", { type: "button", class: "button small", "data-t": "explore.reset", click: () => {
    distances = distances.map(() => 0);
    show();
    changed(distances);
  } });
  const node = el("fieldset", { class: "directions", hidden: true }, el("legend", { "data-t": "explore.directions" }), el("p", { class: "hint", "data-t": "explore.directionsHint" }), sliders, reset);

  function show() {
    distances.forEach((distance, i) => {
      const control = sliders.children[i].querySelector("input");
      control.value = distance;
      control.setAttribute("aria-valuetext", t("explore.deviations", { distance: signed(distance) }));
      sliders.children[i].querySelector("output").value = signed(distance);
    });
    reset.disabled = !distances.some(Boolean);
  }

  /* Draw as many sliders as a model has directions. */
  function draw(count, values) {
    distances = Array.from({ length: count }, (_, i) => values[i] ?? 0);
    node.hidden = !count;
    sliders.replaceChildren(...distances.map((_, i) => {
      const id = `explore-direction-${i + 1}`;
      return el("div", { class: "field" },
        el("label", { for: id }, t("explore.direction", { i: i + 1 }), "\u2002", el("output", { for: id })),
        el("input", { type: "range", id, min: -FARTHEST, max: FARTHEST, step: STEP, input: (event) => {
          distances[i] = Number(event.target.value);
          show();
          changed(distances);
        } }));
    }));
    show();
  }

  return { node, draw };
}

/* Distances as a request names them: those that move nothing are left out. */
export const directionsOf = (distances) =>
  distances.map((distance, i) => ({ number: i + 1, distance })).filter((one) => one.distance);
