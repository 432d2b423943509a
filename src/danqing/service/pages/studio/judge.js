/* People judge pictures: pairs, or the best and the worst of four. All state is on the server, so that a reload shows the same ballot. */
import { call, get, post, signIn } from "./api.js";
import { $, el, remember, remembered } from "./dom.js";
import { addWords, language, locale, speak, t, translate } from "./words.js";
import words from "./words/judge.js";
import shell from "./words/shell.js";

addWords(shell);
addWords(words);

const CRISP = 160, LETTERS = "ABCD";
let theme = remembered("theme");
let sessions = [], session = "", given = "", ballot = null, best = null, ready = false, end = "", again = null;
let urls = [];

/* Do something that can be repeated if it fails; votes can, since each is counted once. */
async function attempt(action) {
  again = null;
  trouble("");
  try {
    await action();
  } catch (error) {
    if (error.status === 401) return askForKey(given && t("wrongKey"));
    if (error.status === 403) return askForKey(t("judge_noScope"));
    again = action;
    trouble(error.status ? error.message : t("judge_unreachable"));
  }
}

function trouble(message) {
  $("trouble").textContent = message;
  $("trouble").hidden = !message;
  $("retry").hidden = !again;
}

function askForKey(message) {
  show("door");
  trouble(message);
  $("key").focus();
}

/* One of the parts of the page. */
function show(part) {
  for (const id of ["door", "choice", "ballot", "end"]) $(id).hidden = id !== part;
}

async function enter() {
  await attempt(async () => {
    if (given) await signIn(given);
    sessions = (await get("/v1/judging/sessions")).data;
    given = $("key").value = "";
    const wanted = sessions.find((one) => one.id === session) ?? (sessions.length === 1 ? sessions[0] : null);
    if (wanted) return join(wanted.id);
    session = "";
    show("choice");
    draw();
    if (!sessions.length) trouble(t("judge_none"));
  });
}

async function join(id) {
  session = id;
  history.replaceState(null, "", `#session=${id}`);
  await next();
}

async function next() {
  await attempt(async () => {
    ballot = await (await call(`/v1/judging/sessions/${session}/ballot`, { method: "POST" })).json();
    best = null;
    ready = false;
    end = ballot.end;
    for (const url of urls.splice(0)) URL.revokeObjectURL(url);
    if (end) {
      show("end");
      draw();
      return $("end-text").focus();
    }
    show("ballot");
    drawPictures();
    draw();
    const blobs = await Promise.all(ballot.pictures.map((path) => call(path).then((answer) => answer.blob())));
    urls = blobs.map((blob) => URL.createObjectURL(blob));
    await Promise.all(urls.map((url, place) => showPicture(place, url)));
    ready = true; // no picture can be chosen before all are there
    draw();
  });
}

async function showPicture(place, url) {
  const button = $("pictures").children[place], image = el("img", { src: url, alt: "" });
  await image.decode();
  button.classList.toggle("crisp", Math.max(image.naturalWidth, image.naturalHeight) <= CRISP);
  button.firstElementChild.replaceChildren(image);
}

async function vote(answer) {
  if (!ready) return;
  ready = false;
  draw();
  $("step").textContent = t("judge_saving");
  await attempt(async () => {
    await post(`/v1/judging/ballots/${ballot.id}`, answer).catch((error) => {
      if (error.code !== "already_voted") throw error; // in another tab
    });
    await next();
  });
}

function choose(place) {
  if (!ready || place >= ballot.pictures.length) return;
  if (ballot.pictures.length === 2) vote({ best: place, worst: 1 - place });
  else if (best === null) {
    best = place;
    draw();
  } else if (place !== best) vote({ best, worst: place });
}

function undo() {
  if (!ready || best === null) return;
  best = null;
  draw();
}

/* the page in a language */

function drawPictures() {
  $("pictures").dataset.count = ballot.pictures.length;
  $("pictures").replaceChildren(...ballot.pictures.map((_, place) =>
    el("button", { class: "picture", type: "button", click: () => choose(place) },
      el("span", { class: "frame" }),
      el("span", { class: "name" }, LETTERS[place], " ", el("kbd", { "aria-hidden": "true" },
        ballot.pictures.length === 2 ? "←→"[place] : String(place + 1))))));
}

function draw() {
  document.documentElement.lang = locale();
  document.title = t("judge_page");
  translate(document);
  $("language").textContent = t("other");
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  $("sessions").replaceChildren(...sessions.map((one) => el("li", {}, el("button", { class: "button", type: "button", click: () => join(one.id) },
    el("span", {}, one.question || t("judge_sessionTitle")),
    el("span", { class: "quiet small" }, one.state === "open" ? t("judge_sessionState", one) : t("judge_closedState"))))));
  if (end) $("end-text").textContent = t(`judge_${end}`);
  if (!ballot || end) return;
  const pair = ballot.pictures.length === 2;
  $("question").textContent = ballot.question || t(pair ? "judge_sessionTitle" : "judge_title");
  $("caption").textContent = ballot.caption ? t("judge_asked", { caption: ballot.caption }) : t("judge_lead");
  $("step").classList.toggle("sr", pair); // the question says it
  $("step").textContent = !ready ? t("judge_wait") : pair ? t("judge_pairStep") : t(best === null ? "judge_bestStep" : "judge_worstStep");
  [...$("pictures").children].forEach((button, place) => {
    const name = LETTERS[place], chosen = best === place;
    button.disabled = !ready;
    button.setAttribute("aria-label", t(!ready ? "judge_picture" : pair ? "judge_prefer" : chosen ? "judge_isBest" : best === null ? "judge_best" : "judge_worst", { name }));
    if (pair) button.removeAttribute("aria-pressed");
    else button.setAttribute("aria-pressed", String(chosen));
  });
  $("tie").hidden = !pair;
  $("tie").disabled = !ready;
  $("undo").hidden = pair || best === null;
  $("bar").max = ballot.wanted;
  $("bar").value = ballot.answered;
  $("bar").setAttribute("aria-label", t("judge_count", ballot));
  $("count").textContent = t("judge_count", ballot);
  $("keys").textContent = t(pair ? "judge_pairKeys" : "judge_fourKeys");
}

function applyTheme() {
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

/* what a visitor does */

function readAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  session = told.get("session") ?? "";
  if (!told.get("key")) return;
  given = told.get("key");
  history.replaceState(null, "", session ? `#session=${session}` : location.pathname); // a key is not for others to read
}

document.addEventListener("keydown", (event) => {
  if ($("ballot").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (ballot.pictures.length === 2) {
    const place = { ArrowLeft: 0, ArrowRight: 1, a: 0, b: 1, 1: 0, 2: 1 }[event.key];
    if (place !== undefined) choose(place);
    else if (event.key === "ArrowDown" || event.key === "t" || event.key === "0") vote({ best: null, worst: null });
    else return;
    event.preventDefault();
  } else if (/^[1-4]$/.test(event.key)) choose(Number(event.key) - 1);
  else if (event.key === "Escape") undo();
});
$("tie").addEventListener("click", () => vote({ best: null, worst: null }));
$("undo").addEventListener("click", undo);
$("retry").addEventListener("click", () => attempt(again));
$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  given = $("key").value.trim();
  enter();
});
$("language").addEventListener("click", () => {
  speak(language === "zh" ? "en" : "zh");
  draw();
});
$("theme").addEventListener("click", () => {
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("theme", theme);
  applyTheme();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("desk").focus();
});
addEventListener("hashchange", () => {
  readAddress();
  enter();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
readAddress();
applyTheme();
draw();
enter();
