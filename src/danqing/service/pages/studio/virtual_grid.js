/* A grid of any number of cells, of which only those near the window exist. */
import { el } from "./dom.js";

const GAP = 10, ROWS_AROUND = 2, PAGE = 60, MOST_PAGES = 12;

/* read(offset, limit): returns a promise of { data, total }. draw(node, item, index): fills a cell; item is null while it is read.
   narrowest: pixels of a cell. The grid moves with the window. */
export function virtualGrid({ read, draw, narrowest = 168 }) {
  const list = el("ul", { class: "cells", keydown: move, focusin: (event) => {
    const cell = event.target.closest("[data-index]");
    if (cell) activate(Number(cell.dataset.index));
  } });
  const cells = new Map(), pages = new Map();
  let total = 0, columns = 1, side = narrowest, version = 0, active = 0, isShown = false;

  /* Forget everything, and show it from the start again; resolves when the first cells are there. */
  async function reload() {
    version += 1;
    pages.clear();
    for (const node of cells.values()) node.remove();
    cells.clear();
    active = 0;
    const asked = version, first = await page(0);
    if (asked !== version) return null;
    total = first.total;
    layout();
    return first;
  }

  function page(number) {
    if (!pages.has(number)) {
      const asked = version;
      const entry = { items: null };
      entry.promise = read(number * PAGE, PAGE).then((told) => {
        entry.items = told.data;
        if (asked === version) render();
        return told;
      });
      entry.promise.catch(() => pages.delete(number));
      pages.set(number, entry);
      for (const old of pages.keys()) {
        if (pages.size <= MOST_PAGES) break;
        if (Math.abs(old - number) > 2) pages.delete(old); // the oldest first: a Map keeps their order
      }
    }
    return pages.get(number).promise;
  }

  const itemAt = (index) => pages.get(Math.floor(index / PAGE))?.items?.[index % PAGE] ?? null;

  function layout() {
    const width = list.clientWidth;
    if (!width) return;
    columns = Math.max(2, Math.floor((width + GAP) / (narrowest + GAP)));
    side = (width - GAP * (columns - 1)) / columns;
    list.style.height = `${Math.max(0, Math.ceil(total / columns) * (side + GAP) - GAP)}px`;
    for (const [index, node] of cells) place(index, node);
    render();
  }

  function place(index, node) {
    const row = Math.floor(index / columns), column = index % columns;
    node.style.width = node.style.height = `${side}px`;
    node.style.transform = `translate(${column * (side + GAP)}px, ${row * (side + GAP)}px)`;
  }

  function render() {
    if (!isShown) return;
    const top = -list.getBoundingClientRect().top, height = side + GAP;
    const first = Math.max(0, (Math.floor(top / height) - ROWS_AROUND) * columns);
    const last = Math.min(total, (Math.ceil((top + innerHeight) / height) + ROWS_AROUND) * columns);
    for (const [index, node] of cells) {
      if ((index >= first && index < last) || node.contains(document.activeElement)) continue;
      node.remove();
      cells.delete(index);
    }
    for (let index = first; index < last; index += 1) {
      let node = cells.get(index);
      if (!node) {
        node = el("li", { class: "cell", "data-index": index, "aria-posinset": index + 1, "aria-setsize": total });
        place(index, node);
        cells.set(index, node);
        list.append(node);
      }
      const item = itemAt(index);
      if (!item) page(Math.floor(index / PAGE)).catch(() => {});
      if (node.item === undefined || node.item !== item) {
        node.item = item;
        draw(node, item, index);
        entry(node, index);
      }
    }
    if (!cells.has(active) && cells.size) activate(Math.min(...cells.keys()));
  }

  /* Only one cell is reached by Tab; arrows lead to the others. */
  function entry(node, index) {
    for (const one of node.querySelectorAll("button, input")) one.tabIndex = index === active ? 0 : -1;
  }

  function activate(index) {
    if (cells.has(active)) entry(cells.get(active), -1);
    active = index;
    if (cells.has(active)) entry(cells.get(active), index);
  }

  function move(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -total, End: total };
    if (!(event.key in steps) || !event.target.closest("[data-index]")) return;
    event.preventDefault();
    focus(Math.min(total - 1, Math.max(0, active + steps[event.key])));
  }

  async function focus(index) {
    const row = Math.floor(index / columns) * (side + GAP), top = list.getBoundingClientRect().top + row;
    if (top < 90 || top + side > innerHeight - 20) scrollBy(0, top - innerHeight / 3);
    activate(index);
    await page(Math.floor(index / PAGE)).catch(() => {});
    render();
    activate(index);
    cells.get(index)?.querySelector("button")?.focus({ preventScroll: true });
  }

  addEventListener("scroll", () => requestAnimationFrame(render), { passive: true });
  new ResizeObserver(() => { if (isShown) layout(); }).observe(list);

  return {
    node: list, reload, focus,
    redraw: () => {
      for (const [index, node] of cells) {
        draw(node, node.item, index);
        entry(node, index);
      }
    },
    show: (now) => {
      isShown = now;
      if (now) layout();
    },
    /* The item at a place, when it is read; null beyond the ends. */
    async item(index) {
      if (index < 0 || index >= total) return null;
      await page(Math.floor(index / PAGE));
      return itemAt(index);
    },
    get total() { return total; },
    get cells() { return cells.size; },
  };
}
