/* The page: it draws the form for the model in this folder, and shows what the worker computes. */

import { drawCard, drawCode, redrawCode } from "./about.js";
import { describe } from "./description.js";
import { $, isChinese, show, size, startHeader, t, translate } from "./dom.js";
import { Mistake, complain, drawForm, forget, requested, restore } from "./form.js";
import { Round } from "./round.js";
import { FAMILIES } from "./words.js";

const MOST_ROUNDS = 12;

const worker = new Worker("worker.js", { type: "module" }); // at once: it loads the runtime beside all else
let model = null, threads = 1, state = "loading", loaded = 0, working = null;
const rounds = [];

async function json(file) {
  const answer = await fetch(file).catch((error) => { throw new Error(t("unreachable", { file, reason: error.message })); });
  if (!answer.ok) throw new Error(t("unreachable", { file, reason: answer.status }));
  return answer.json();
}

async function start() {
  $("asleep").remove();
  startHeader(draw);
  draw();
  try {
    model = describe(...await Promise.all(["export.json", "page.json"].map(json)));
  } catch (error) {
    return fail(error.message);
  }
  document.title = `${model.name} · Danqing`;
  $("title").textContent = model.name;
  $("room").hidden = false;
  readAddress();
  draw();
  worker.postMessage({ type: "load", model });
}

/** Say what keeps the page from working. */
function fail(message) {
  state = "broken";
  show($("trouble"), message);
  $("go").disabled = true;
  drawState();
}

/* What the worker says. */
const HEARD = {
  loading(data) {
    loaded = data.loaded;
    drawState();
  },
  ready(data) {
    threads = data.threads;
    state = "ready";
    draw();
    paint();
  },
  step({ i, share, preview }) {
    working?.step(i, share, preview);
  },
  image({ i, image }) {
    working?.put(i, image);
  },
  async finished() {
    const round = working;
    if (!round) return;
    await round.settled;
    round.finish();
    $("said").textContent = t("done", { n: round.request.n, what: round.what });
    while (rounds.length > MOST_ROUNDS) rounds.pop().remove();
    free();
  },
  stopped() {
    drop();
    $("said").textContent = t("stopped");
  },
  failed({ reason, key, values, field }) {
    drop();
    complain(new Mistake(key ? t(key, values) : t("failedRun", { reason }), field));
  },
  broken({ file, reason }) {
    fail(file ? t("unreachable", { file, reason }) : t("failedRun", { reason }));
  },
};

function free() {
  working = null;
  busy(false);
}

/** Take away a request that did not end. */
function drop() {
  rounds.shift()?.remove();
  rounds[0]?.node.classList.remove("past");
  $("empty").hidden = rounds.length > 0;
  free();
}

function busy(isBusy) {
  state = isBusy ? "working" : "ready";
  $("go").disabled = isBusy;
  $("go").firstElementChild.textContent = t(isBusy ? "painting" : "paint");
  $("shortcut").hidden = isBusy;
  $("stop").hidden = !isBusy;
  drawState();
}

/** Begin what the worker computes, as the newest on the page. */
function begin(round, message) {
  working = round;
  forget();
  busy(true);
  $("empty").hidden = true;
  rounds[0]?.node.classList.add("past");
  rounds.unshift(round);
  $("rounds").prepend(round.node);
  worker.postMessage(message);
}

function paint() {
  if (working || state !== "ready") return;
  let request;
  try {
    request = requested(model);
  } catch (error) {
    if (!(error instanceof Mistake)) throw error;
    forget();
    return complain(error);
  }
  request.seed ??= BigInt(crypto.getRandomValues(new Uint32Array(1))[0]);
  begin(new Round(model, request, (old) => {
    restore(model, old);
    $("go").focus();
  }), { type: "sample", request });
  writeAddress(request);
  drawCode(model, request);
}

/* The request is part of the address, so that a link shows the same images. */

function writeAddress({ n, seed, label, prompt }) {
  const query = new URLSearchParams({ seed, n, ...(label && { label }), ...(prompt && { prompt }) });
  history.replaceState(null, "", `#${query}`);
}

function readAddress() {
  const query = new URLSearchParams(location.hash.slice(1));
  if (/^\d+$/.test(query.get("seed") ?? "")) $("seed").value = query.get("seed");
  const n = Math.round(Number(query.get("n"))) || model.firstCount;
  $("n").value = Math.min(Math.max(n, 1), Number($("n").max));
  if (model.labels.includes(query.get("label"))) $("label").value = query.get("label");
  $("prompt").value = query.get("prompt") ?? model.captions[0] ?? "";
  $("n-out").value = $("n").value;
}

/* The page in its language. */

function draw() {
  translate();
  drawState();
  $("shortcut").textContent = /Mac|iPhone|iPad/.test(navigator.platform) ? "⌘↵" : "Ctrl ↵";
  if (!model) return;
  const facts = { family: FAMILIES[model.family] ?? model.family, size: model.sizes[0].replace("x", " × "), weights: size(model.bytes) };
  $("about").textContent = t("about", facts);
  drawForm(model);
  drawCard(model, threads);
  redrawCode();
  rounds.forEach((round) => round.draw());
}

function drawState() {
  $("state").className = `state ${{ ready: "ready", working: "ready", broken: "down" }[state] ?? ""}`;
  $("state").textContent = t(state);
  const total = model?.bytesToLoad ?? 0, done = Math.min(loaded, total), isComplete = done === total, isLoading = state === "loading";
  $("loading").hidden = !isLoading;
  $("loading").max = total || 1;
  $("loading").value = done;
  const facts = { done: size(done), total: size(total) };
  $("empty-title").textContent = t(isLoading ? (isComplete ? "starting" : "fetching") : "emptyTitle");
  $("empty-text").textContent = isLoading ? (isComplete ? t("startingText") : t("fetched", facts)) : t("emptyText");
}

worker.addEventListener("message", ({ data }) => HEARD[data.type](data));
worker.addEventListener("error", (event) => fail(t("failedRun", { reason: event.message ?? "" })));
$("paint").addEventListener("submit", (event) => {
  event.preventDefault();
  paint();
});
$("n").addEventListener("input", () => { $("n-out").value = $("n").value; });
$("stop").addEventListener("click", () => worker.postMessage({ type: "stop" }));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && model) paint();
  else if (event.key === "Escape" && working) worker.postMessage({ type: "stop" });
});
start();
