/* The shell: which page is open, in which language and light, and who is signed in. */
import { at, get, signIn } from "./api.js";
import { $, el, remember, remembered, show } from "./dom.js";
import { PAGES } from "./pages.js";
import { addWords, language, locale, speak, t, translate } from "./words.js";
import words from "./words/shell.js";

addWords(words);
addWords({
  en: Object.fromEntries(PAGES.map((page) => [`page_${page.name}`, page.words.en])),
  zh: Object.fromEntries(PAGES.map((page) => [`page_${page.name}`, page.words.zh])),
});

const mounted = new Map();
let opened = null, theme = remembered("theme"), parameters = {};

const context = {
  models: [], account: null, features: {},
  may: (scope) => context.account?.scopes.some((one) => one === scope || one === "admin") ?? false,
  has: (name) => shown().some((page) => page.name === name),
  announce: (text) => { $("said").textContent = text; },
  go(name, given = {}) {
    parameters = given;
    if (location.hash === `#/${name}`) route();
    else location.hash = `#/${name}`;
  },
};

const shown = () => PAGES.filter((page) => page.when?.(context) ?? true);

/* who is signed in */

async function enter() {
  show($("trouble"), "");
  const answers = Promise.all([get("/v1/session"), get("/v1/models")]);
  preload(PAGES.find((page) => page.name === asked()) ?? PAGES[0]);
  try {
    [context.account, { data: context.models }] = await answers;
  } catch (error) {
    if (error.status !== 401) return show($("trouble"), error.message);
    $("door").hidden = false;
    return $("key").focus();
  }
  context.features = context.account.features;
  $("door").hidden = true;
  $("room").hidden = false;
  draw();
  await route();
}

/* Load a page with all of its modules at once: otherwise those that a module imports are known only when it has arrived. */
function preload(page) {
  for (const name of JSON.parse(document.body.dataset.modules)[page.name])
    document.head.append(el("link", { rel: "modulepreload", href: new URL(name, import.meta.url).href }));
  page.load().catch(() => {});
}

async function knock() {
  show($("door-error"), "");
  try {
    await signIn($("key").value.trim());
    $("key").value = "";
  } catch (error) {
    return show($("door-error"), error.status === 401 ? t("wrongKey") : error.message);
  }
  await enter();
}

/* which page is open */

const asked = () => /^#\/([a-z]+)/.exec(location.hash)?.[1];

const wanted = () => shown().find((one) => one.name === asked()) ?? shown()[0];

async function route() {
  const page = wanted();
  if (!mounted.has(page.name)) {
    const container = el("div", { id: `page-${page.name}`, hidden: true });
    $("room").append(container);
    mounted.set(page.name, page.load().then((module) => {
      const handle = { container, ...module.mount(container, context) };
      translate(container);
      handle.draw?.();
      return handle;
    }));
  }
  let handle;
  try {
    handle = await mounted.get(page.name);
  } catch (error) {
    mounted.delete(page.name);
    $(`page-${page.name}`)?.remove();
    console.error(error);
    return show($("trouble"), t("updated"));
  }
  if (page !== wanted()) return; // another page was chosen while this one was loading
  const given = parameters;
  parameters = {};
  if (opened !== handle) {
    if (opened) {
      opened.container.hidden = true;
      opened.close?.();
      scrollTo(0, 0);
    }
    handle.container.hidden = false;
    opened = handle;
  }
  handle.open?.(given);
  drawMenu(page.name);
}

function drawMenu(name) {
  const pages = shown();
  $("menu").hidden = pages.length < 2 || $("room").hidden;
  $("menu").replaceChildren(...pages.map((page) =>
    el("a", { href: `#/${page.name}`, "aria-current": page.name === name && "page" }, t(`page_${page.name}`))));
  $("menu").setAttribute("aria-label", t("menu"));
  document.title = name ? `${t(`page_${name}`)} · Danqing` : "Danqing";
}

/* language and light */

function draw() {
  document.documentElement.lang = locale();
  translate(document);
  $("language").textContent = t("other");
  $("language").lang = language === "zh" ? "en" : "zh-CN";
  drawMenu(opened?.container.id.slice(5));
  for (const page of mounted.values()) page.then((handle) => handle.draw?.(), () => {});
}

async function look() {
  const ready = await fetch(at("/readyz")).then((answer) => answer.ok, () => false);
  $("state").className = `state ${ready ? "ready" : "down"}`;
  $("state").textContent = t(ready ? "ready" : "down");
}

function applyTheme() {
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  knock();
});
$("skip").addEventListener("click", (event) => {
  event.preventDefault();
  $("main").focus();
});
$("language").addEventListener("click", () => {
  speak(language === "zh" ? "en" : "zh");
  draw();
  look();
});
$("theme").addEventListener("click", () => {
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember("theme", theme);
  applyTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
addEventListener("hashchange", () => { if (!$("room").hidden) route(); });
applyTheme();
draw();
enter();
look();
setInterval(look, 15000);
