/* One picture, large, with what can be done with it. */
import { el } from "./dom.js";
import { t } from "./words.js";

/* about: { src, alt, title, facts, actions: [{ label, run, href, download }], crisp }. Others of the same series: step(±1) returns an about or null. */
export function openPicture(about, step = () => null) {
  const image = el("img", {}), heading = el("h2", { id: "lightbox-title" }), facts = el("p", { class: "small quiet" }), actions = el("div", { class: "actions" });
  const dialog = el("dialog", { class: "lightbox", "aria-labelledby": "lightbox-title", keydown: (event) => {
    const way = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (way && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) move(way);
  } },
  el("div", { class: "stage" }, image),
  el("div", { class: "side" }, heading, facts, actions,
    el("div", { class: "actions end" },
      el("button", { class: "button small", type: "button", click: () => move(-1) }, t("previous")),
      el("button", { class: "button small", type: "button", click: () => move(1) }, t("next")),
      el("button", { class: "button small", type: "button", click: () => dialog.close() }, t("close")))));

  function draw() {
    Object.assign(image, { src: about.src, alt: about.alt });
    image.classList.toggle("crisp", Boolean(about.crisp));
    heading.textContent = about.title;
    facts.textContent = about.facts;
    actions.replaceChildren(...about.actions.map((one) => (one.node ? one.node : one.href
      ? el("a", { class: "button", href: one.href, download: one.download }, one.label)
      : el("button", { class: "button", type: "button", click: () => {
        if (!one.stays) dialog.close();
        one.run();
      } }, one.label))));
  }

  async function move(way) {
    const next = await step(way);
    if (!next) return;
    about = next;
    draw();
  }

  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  draw();
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
