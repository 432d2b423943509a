/* The words of the page in two languages. Each page adds its own; the test of the studio finds what one language lacks. */
import { remembered, remember } from "./dom.js";

export const WORDS = { en: {}, zh: {} };
export let language = remembered("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");

/* words: { en: { name: text }, zh: { name: text } }; a name is used by one page only. */
export function addWords(words) {
  for (const one of Object.keys(WORDS)) Object.assign(WORDS[one], words[one]);
}

export function speak(one) {
  language = one;
  remember("language", one);
}

export const t = (name, values = {}) =>
  WORDS[language][name].replace(/\{(\w+)\}/g, (_, word) => String(values[word]));

export const isWord = (name) => name in WORDS[language];
export const locale = () => (language === "zh" ? "zh-CN" : "en");
export const number = (value, options = {}) => new Intl.NumberFormat(locale(), options).format(value);

/* Elements name their words: data-t for their text, data-label for their name, data-hint for their placeholder. */
export function translate(root) {
  const each = (attribute, set) => {
    for (const node of root.querySelectorAll(`[${attribute}]`)) set(node, t(node.getAttribute(attribute)));
  };
  each("data-t", (node, text) => { node.textContent = text; });
  each("data-label", (node, text) => { node.setAttribute("aria-label", text); });
  each("data-hint", (node, text) => { node.placeholder = text; });
}
