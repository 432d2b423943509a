/* What the parts of the page share: elements, texts in two languages, and what the browser remembers. */

import { WORDS } from "./words.js";

export const $ = (id) => document.getElementById(id);

/** Return what the browser keeps under a name; null in a private window. */
function stored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Keep a text under a name, where the browser allows it. */
function store(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // A private window forgets it.
  }
}

let language = stored("danqing-language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
let theme = stored("danqing-theme");

export const isChinese = () => language === "zh";

/** Return a text in the language of the page, with values in its places. */
export const t = (name, values = {}) => WORDS[language][name].replace(/\{(\w+)\}/g, (_, word) => String(values[word]));

/** Return whether there is a text of this name. */
export const hasText = (name) => name in WORDS[language];

/** Return a number of bytes as people write it. */
export function size(bytes) {
  const [value, unit] = bytes < 1e6 ? [bytes / 1e3, "kB"] : [bytes / 1e6, "MB"];
  return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
}

/** Return a new element; values that are functions become its listeners. */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(attribute, value);
    else if (value !== false && value != null) node.setAttribute(attribute, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child != null && child !== false && child !== ""));
  return node;
}

export function show(place, message) {
  place.textContent = message;
  place.hidden = !message;
}

/** Write all fixed texts in the language of the page. */
export function translate() {
  document.documentElement.lang = isChinese() ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
  $("language").textContent = t("other");
  $("language").lang = isChinese() ? "en" : "zh-CN";
}

function applyTheme() {
  const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
}

/** Make the buttons for the language and the theme work. onLanguage: called when the language has changed. */
export function startHeader(onLanguage) {
  $("language").addEventListener("click", () => {
    language = isChinese() ? "en" : "zh";
    store("danqing-language", language);
    onLanguage();
  });
  $("theme").addEventListener("click", () => {
    theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    store("danqing-theme", theme);
    applyTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  applyTheme();
}
