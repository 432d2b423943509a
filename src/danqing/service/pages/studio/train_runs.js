/* The runs of the page that trains: their curves and samples as they form, and what can be done with them. */
import { at, get, post, send } from "./api.js";
import { $, el, show } from "./dom.js";
import { mainCurve, plot } from "./train_curves.js";
import { number, t } from "./words.js";

const LOOK = 2000, DONE = ["stopped", "finished", "failed"];

export function runList(context) {
  const runs = new Map(); // by id: what is known, and its parts of the page
  let timer = null, open = false;
  const selects = ["a", "b"].map((place) => el("select", { id: `train-compare-${place}`, change: drawCompared }));
  const node = el("section", { class: "panel train-runs", "aria-labelledby": "train-runs-title" },
    el("h2", { id: "train-runs-title", "data-t": "train_runs" }),
    el("div", { class: "error", id: "train-run-error", role: "alert", hidden: true }),
    el("p", { class: "quiet", id: "train-no-runs", "data-t": "train_noRuns" }),
    el("div", { id: "train-run-list", class: "easel" }),
    el("details", { class: "more", id: "train-compare", hidden: true }, el("summary", { "data-t": "train_compare" }),
      el("div", {}, el("h3", { "data-t": "train_compareTitle" }),
        el("div", { class: "row" }, ...selects.map((select, place) => el("div", { class: "field" }, el("label", { for: select.id, "data-t": place ? "train_compareB" : "train_compareA" }), select))),
        el("div", { id: "train-compared" }))));

  async function attempt(action) {
    show($("train-run-error"), "");
    try {
      await action();
    } catch (error) {
      show($("train-run-error"), error.message);
    }
  }

  async function reload() {
    clearTimeout(timer);
    await attempt(async () => {
      const { data } = await get("/v1/runs");
      for (const id of runs.keys()) if (!data.some((one) => one.id === id)) runs.delete(id);
      for (const one of data) {
        const known = runs.get(one.id);
        if (known && DONE.includes(known.told.state) && known.told.state === one.state && known.told.model === one.model) continue;
        const told = await get(`/v1/runs/${one.id}`);
        if (known && known.told.state !== told.state) context.announce(`${told.name}: ${t(`train_state_${told.state}`)}`);
        runs.set(one.id, { ...(known ?? makeCard()), told });
      }
      arrange(data);
      draw();
    });
    if (open && [...runs.values()].some(({ told }) => !DONE.includes(told.state))) timer = setTimeout(reload, LOOK);
  }

  /* Put the cards in order, and leave those where they are that are there already. */
  function arrange(data) {
    const wanted = data.map((one) => runs.get(one.id).node), list = $("train-run-list");
    for (const child of [...list.children]) if (!wanted.includes(child)) child.remove();
    wanted.forEach((card, place) => { if (list.children[place] !== card) list.insertBefore(card, list.children[place] ?? null); });
  }

  function makeCard() {
    const parts = { title: el("h3"), facts: el("p", { class: "small quiet" }), bar: el("progress", { max: 1 }), note: el("p", { class: "small" }), plot: el("div"), sample: el("div", { class: "train-sample" }), actions: el("div", { class: "actions" }) };
    return { node: el("article", { class: "train-run" }, parts.title, parts.facts, parts.bar, parts.note, el("div", { class: "row" }, parts.plot, parts.sample), parts.actions), parts, shown: "" };
  }

  function draw() {
    $("train-no-runs").hidden = runs.size > 0;
    for (const run of runs.values()) drawRun(run);
    const all = [...runs.values()].map(({ told }) => told);
    $("train-compare").hidden = all.length < 2;
    selects.forEach((select, place) => {
      const value = select.value || all[place]?.id || "";
      select.replaceChildren(...all.map((one) => el("option", { value: one.id }, `${one.name} (${t(`train_state_${one.state}`)})`)));
      select.value = runs.has(value) ? value : all[place]?.id ?? "";
    });
    drawCompared();
  }

  function drawRun({ told, parts }) {
    const { progress } = told, state = t(`train_state_${told.state}`), isOn = !DONE.includes(told.state);
    parts.title.textContent = `${told.name} · ${state}`;
    const facts = [t("train_runFacts", told)];
    if (progress.images) facts.push(t(progress.total ? "train_of" : "train_images", { images: number(progress.images), total: number(progress.total ?? 0) }));
    if (isOn && progress.images_per_second) facts.push(t("train_speed", { n: number(progress.images_per_second, { maximumFractionDigits: 0 }) }));
    if (told.state === "running" && progress.seconds_left != null && progress.images) facts.push(t("train_left", { time: span(progress.seconds_left) }));
    parts.facts.textContent = facts.join(" · ");
    parts.bar.hidden = !isOn || !progress.total;
    parts.bar.setAttribute("aria-label", told.name);
    if (progress.total) parts.bar.value = Math.min(1, progress.images / progress.total);
    const warning = told.reason || (isOn && progress.plan?.warning) || progress.alarms[0] || "";
    parts.note.textContent = [told.model && t("train_served", told), progress.stage && isOn && t("train_first"), told.state === "running" && !progress.images && t("train_begins"), warning].filter(Boolean).join(" ");
    parts.plot.replaceChildren(curve([told]));
    parts.sample.replaceChildren(...latest(told));
    drawActions(told, parts.actions);
  }

  /* Buttons are made anew only if they change, so that one that has the focus keeps it. */
  function drawActions(told, place) {
    const wanted = [
      ["queued", "running"].includes(told.state) && ["stop", () => act(told, "POST", "stop")],
      ["stopped", "failed"].includes(told.state) && ["resume", () => act(told, "POST", "resume")],
      told.state === "finished" && !told.model && ["serve", () => act(told, "POST", "service", { name: told.name })],
      told.model && ["paint", () => location.assign(at("/#/paint"))],
      told.model && ["withdraw", () => act(told, "DELETE", "service")],
      ["delete", () => { if (confirm(t("train_sureRun"))) act(told, "DELETE", ""); }],
    ].filter(Boolean);
    const key = JSON.stringify([wanted.map(([word]) => t(`train_${word}`)), told.progress.report]);
    if (place.dataset.key === key) return;
    const had = place.contains(document.activeElement);
    place.dataset.key = key;
    place.replaceChildren(...wanted.map(([word, run]) => el("button", { class: "button small", type: "button", "aria-label": `${t(`train_${word}`)}: ${told.name}`, click: run }, t(`train_${word}`))));
    if (told.progress.report) place.append(el("a", { class: "button small", href: at(`/v1/runs/${told.id}/report`), target: "_blank", rel: "noopener", "aria-label": `${t("train_report")}: ${told.name}` }, t("train_report")));
    if (had) place.firstElementChild?.focus();
  }

  const act = (told, method, what, body) => attempt(async () => {
    await send(method, `/v1/runs/${told.id}${what && `/${what}`}`, body);
    if (what === "service") context.models = (await get("/v1/models")).data;
    await reload();
  });

  function curve(several) {
    const named = several.map((told) => [told, mainCurve(told.progress.curves)]);
    return plot(named.filter(([, name]) => name).map(([told, name]) => ({ name: several.length > 1 ? `${told.name}, ${name}` : name, points: told.progress.curves[name] })));
  }

  function latest(told) {
    const name = told.progress.samples.at(-1);
    if (!name) return [];
    const images = number(Number.parseInt(name, 10));
    return [el("img", { src: at(`/v1/runs/${told.id}/samples/${name}`), alt: t("train_samples", { name: told.name, images }), class: "crisp" })];
  }

  function drawCompared() {
    const two = selects.map((select) => runs.get(select.value)?.told).filter(Boolean);
    if ($("train-compare").hidden || two.length < 2) return;
    $("train-compared").replaceChildren(curve(two),
      el("div", { class: "row" }, ...two.map((told) => el("div", {}, el("h4", {}, told.name), ...latest(told),
        ...told.progress.scores.filter((one) => one.headline).map((one) => el("p", { class: "small" }, `${one.name}: ${number(one.value, { maximumSignificantDigits: 4 })}`))))));
  }

  return { node, reload, draw, open: () => { open = true; return reload(); }, close: () => { open = false; clearTimeout(timer); } };
}

function span(seconds) {
  const [value, unit] = seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  return number(Math.max(1, value), { style: "unit", unit, unitDisplay: "long", maximumFractionDigits: unit === "hour" ? 1 : 0 });
}
