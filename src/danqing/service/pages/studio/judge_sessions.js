/* The sessions in which this key may judge, and for administrators what the votes say. */
import { at, get } from "./api.js";
import { $, el, show } from "./dom.js";
import { addWords, number, t } from "./words.js";
import words from "./words/judge.js";

addWords(words);

export function mount(container, context) {
  let sessions = [];
  const results = new Map();
  container.append(
    el("div", { class: "lead" }, el("h1", { "data-t": "judge_title" }), el("p", { "data-t": "judge_about" })),
    el("div", { class: "error", id: "judge-error", role: "alert", hidden: true }),
    el("div", { class: "easel", id: "judge-sessions" }));

  function draw() {
    if (!sessions.length) return $("judge-sessions").replaceChildren(el("p", { class: "quiet" }, t("judge_none"), " ", el("code", {}, "danqing judge")));
    $("judge-sessions").replaceChildren(...sessions.map((one) => el("section", { class: "panel" },
      el("h2", {}, one.question || t("judge_sessionTitle")),
      el("p", { class: "quiet" }, one.state === "open" ? t("judge_yours", one) : t("judge_closedState")),
      one.state === "open" && el("p", { class: "below" }, el("a", { class: "button", href: at(`/judge#session=${one.id}`) }, t("judge_start"))),
      results.has(one.id) && standings(results.get(one.id)))));
  }

  async function open() {
    show($("judge-error"), "");
    try {
      sessions = (await get("/v1/judging/sessions")).data;
      if (context.may("admin")) {
        for (const { id } of sessions.slice(0, 10)) results.set(id, await get(`/v1/judging/sessions/${id}/results`));
      }
    } catch (error) {
      show($("judge-error"), error.message);
    }
    draw();
  }

  return { open, draw };
}

const digits = (value) => number(value, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const percent = (value) => number(value, { style: "percent" });
const range = (low, high) => `${low} – ${high}`;

/* The ratings of a session, the best first. */
function standings(told) {
  if (!told.votes) return el("p", { class: "below quiet" }, t("judge_noVotes"));
  const heads = ["contestant", "rating", "interval", "place", "real"].map((name) => el("th", { scope: "col" }, t(`judge_${name}`)));
  const rows = told.standings.map((one) => el("tr", {},
    el("th", { scope: "row" }, one.name), el("td", {}, digits(one.rating)), el("td", {}, range(...one.interval.map(digits))),
    el("td", {}, one.ranks[0] === one.ranks[1] ? number(one.ranks[0]) : range(...one.ranks.map((place) => number(place)))),
    el("td", {}, one.preferred_to_real ? percent(one.preferred_to_real[0]) : "")));
  const facts = [t("judge_voters", { votes: number(told.votes), raters: number(told.raters) })];
  if (told.agreement.alpha !== null) facts.push(t("judge_alpha", { alpha: digits(told.agreement.alpha) }));
  if (told.left_out.length) facts.push(t("judge_leftOut", { keys: told.left_out.join(", ") }));
  return el("div", { class: "below" },
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("judge_rating") },
      el("table", { class: "grid" }, el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows))),
    el("p", { class: "below quiet small" }, facts.join(" · ")));
}
