/* The gallery: all pictures of this key, searched, rated, put into albums, downloaded and deleted. */
import { at, call, get, post, seedOf, send } from "./api.js";
import { $, el, remember, remembered, show } from "./dom.js";
import { openPicture } from "./lightbox.js";
import { virtualGrid } from "./virtual_grid.js";
import { addWords, bytes, locale, number, t } from "./words.js";
import words from "./words/gallery.js";

addWords(words);

const MOST_SELECTED = 1000, STARS = [1, 2, 3, 4, 5];

export function mount(container, context) {
  const filter = { search: "", album: "", rating: "", like: null, ...remembered("gallery", {}) };
  const selected = new Set();
  let albums = [], use = null, newest = null, timer = null;

  const grid = virtualGrid({ read, draw: drawCell });
  const search = el("input", { id: "gallery-search", type: "search", maxlength: 200, "data-hint": "gallery_search", "data-label": "gallery_search", value: filter.search, input: () => {
    clearTimeout(timer);
    timer = setTimeout(() => set({ search: search.value, like: null }), 150);
  } });
  const album = el("select", { id: "gallery-album", change: () => set({ album: album.value, like: null }) });
  const rating = el("select", { id: "gallery-rating", change: () => set({ rating: rating.value, like: null }) });
  const name = el("input", { id: "gallery-new", type: "text", maxlength: 100, "data-hint": "gallery_albumName", "data-label": "gallery_albumName", keydown: (event) => { if (event.key === "Enter") createAlbum(); } });
  const into = el("select", { id: "gallery-into", "data-label": "gallery_into", change: () => fillAlbum() });
  const button = (word, run, more = {}) => el("button", { class: "button", type: "button", "data-t": word, click: run, ...more });

  container.append(
    el("div", { class: "lead" }, el("h1", { "data-t": "page_gallery" }), el("p", { id: "gallery-use" })),
    el("div", { class: "error", id: "gallery-error", role: "alert", hidden: true }),
    el("div", { class: "panel bar-panel", role: "search" },
      el("div", { class: "field grow" }, el("label", { for: "gallery-search", "data-t": "gallery_words" }), search),
      el("div", { class: "field" }, el("label", { for: "gallery-album", "data-t": "gallery_album" }), album),
      el("div", { class: "field" }, el("label", { for: "gallery-rating", "data-t": "gallery_rating" }), rating),
      el("details", { class: "more" }, el("summary", { "data-t": "gallery_albums" }), el("div", {},
        el("div", { class: "joined" }, name, button("gallery_create", () => createAlbum())),
        button("gallery_deleteAlbum", () => deleteAlbum(), { id: "gallery-drop", class: "button small" })))),
    el("div", { class: "selection", id: "gallery-selection", hidden: true },
      el("strong", { id: "gallery-count" }), into,
      button("gallery_takeOut", () => takeOut(), { id: "gallery-out" }), button("gallery_zip", () => zip()), button("gallery_delete", () => remove([...selected])),
      button("gallery_clear", () => select([], false))),
    el("p", { class: "like", id: "gallery-like", hidden: true }, el("span", { "data-t": "gallery_alike" }), " ", button("gallery_all", () => set({ like: null }), { class: "button small" })),
    grid.node,
    el("p", { class: "quiet", id: "gallery-none", hidden: true }));

  /* what is shown */

  async function read(offset, limit) {
    if (filter.like) return offset ? { data: [], total: 0 } : get(`/v1/gallery?like=${filter.like}&limit=${limit}&thumbnails=true`);
    const query = new URLSearchParams({ limit, offset, thumbnails: true });
    for (const part of ["search", "album", "rating"]) if (filter[part]) query.set(part, filter[part]);
    if (offset && newest) query.set("before", newest + 1); // what is added meanwhile moves nothing
    const told = await get(`/v1/gallery?${query}`);
    if (!offset) newest = told.data[0]?.number ?? null;
    return told;
  }

  async function set(change) {
    Object.assign(filter, change);
    remember("gallery", { ...filter, like: null });
    $("gallery-like").hidden = !filter.like;
    await reload();
  }

  async function reload() {
    show($("gallery-error"), "");
    try {
      const first = await grid.reload();
      if (!first) return;
      const isFiltered = filter.search || filter.album || filter.rating;
      show($("gallery-none"), first.total ? "" : t(isFiltered ? "gallery_notFound" : "gallery_empty"));
      context.announce(t("gallery_found", { n: number(first.total) }));
    } catch (error) {
      show($("gallery-error"), error.message);
    }
  }

  async function readAlbums() {
    use = await get("/v1/gallery/albums");
    albums = use.data;
    if (filter.album && !albums.some((one) => String(one.number) === String(filter.album))) filter.album = "";
    drawTools();
  }

  function drawTools() {
    if (!use) return;
    const facts = { n: number(use.pictures), bytes: bytes(use.bytes), days: number(use.keep) };
    $("gallery-use").textContent = t(use.pictures >= use.most_pictures || use.bytes >= use.most_bytes ? "gallery_full" : "gallery_use", facts);
    const named = albums.map((one) => el("option", { value: one.number }, `${one.name} (${number(one.pictures)})`));
    album.replaceChildren(el("option", { value: "" }, t("gallery_everything")), ...named);
    album.value = filter.album;
    into.replaceChildren(el("option", { value: "" }, t("gallery_into")), ...named.map((one) => one.cloneNode(true)));
    rating.replaceChildren(el("option", { value: "" }, t("gallery_any")), ...STARS.map((stars) => el("option", { value: stars }, `${"★".repeat(stars)}${stars < 5 ? "+" : ""}`)));
    rating.value = filter.rating;
    $("gallery-drop").hidden = !filter.album;
    drawSelection();
  }

  function drawCell(node, item, index) {
    if (!item) return node.replaceChildren();
    const what = item.title || t("gallery_untitled");
    const box = el("input", { type: "checkbox", "aria-label": t("gallery_select", { what }), change: () => select([item.number], box.checked) });
    box.checked = selected.has(item.number);
    node.classList.toggle("chosen", box.checked);
    node.replaceChildren(...[
      el("button", { class: "open", type: "button", "aria-label": t("gallery_open", { what }), click: () => enlarge(index) },
        el("img", { src: `data:image/webp;base64,${item.thumbnail}`, alt: "", class: Math.max(item.width, item.height) <= 160 && "crisp" })),
      el("span", { class: "pick" }, box), item.rating > 0 && el("span", { class: "stars", "aria-hidden": "true" }, "★".repeat(item.rating))].filter(Boolean));
  }

  /* one picture */

  async function enlarge(index) {
    let place = index;
    const about = (item) => ({
      src: at(`/v1/gallery/${item.number}/file`), alt: item.title || t("gallery_untitled"), title: item.title || t("gallery_untitled"), crisp: Math.max(item.width, item.height) <= 160,
      facts: `${item.model} · ${item.width} × ${item.height} · ${t("gallery_seed", { seed: seedOf(item.settings.request) })} · ${new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(item.created_at * 1000))}`,
      actions: [
        { node: stars(item) },
        { node: tags(item) },
        item.settings.endpoint === "generations" && { label: t("gallery_settings"), run: () => context.go("paint", { request: item.settings.request }) },
        { label: t("gallery_similar"), run: () => set({ like: item.number }) },
        context.has("edit") && { label: t("gallery_edit"), run: async () => context.go("edit", { image: await (await call(`/v1/gallery/${item.number}/file`)).blob(), name: item.title }) },
        { label: t("gallery_save"), href: at(`/v1/gallery/${item.number}/file`), download: `${item.model}-${item.number}.${item.media_type.split("/")[1]}` },
        { label: t("gallery_delete"), run: () => remove([item.number]) },
      ].filter(Boolean),
    });
    const dialog = openPicture(about(await grid.item(place)), async (way) => {
      const item = await grid.item(place + way);
      if (!item) return null;
      place += way;
      return about(item);
    });
    dialog.addEventListener("close", () => grid.focus(place));
  }

  async function change(item, body) {
    show($("gallery-error"), "");
    try {
      Object.assign(item, await (await send("PATCH", `/v1/gallery/${item.number}`, body)).json());
    } catch (error) {
      show($("gallery-error"), error.message);
    }
    grid.redraw();
  }

  function stars(item) {
    const group = el("fieldset", { class: "rate" }, el("legend", { class: "sr" }, t("gallery_rating")));
    const draw = () => group.replaceChildren(group.firstElementChild, ...STARS.map((one) => el("button", {
      class: "star", type: "button", "aria-pressed": String(one <= item.rating), "aria-label": t("gallery_stars", { n: one }),
      click: async () => {
        await change(item, { rating: one === item.rating ? 0 : one });
        draw();
        group.querySelectorAll("button")[one - 1].focus();
      } }, one <= item.rating ? "★" : "☆")));
    draw();
    return group;
  }

  function tags(item) {
    const field = el("input", { type: "text", id: "gallery-tags", maxlength: 400, value: item.tags.join(", "), change: () => change(item, {
      tags: field.value.split(/[,，、]/).map((one) => one.trim().slice(0, 40)).filter(Boolean).slice(0, 20),
    }) });
    return el("div", { class: "field wide-field" }, el("label", { for: "gallery-tags" }, t("gallery_tags")), field);
  }

  /* some pictures */

  function select(numbers, isSelected) {
    if (!numbers.length) selected.clear();
    for (const one of numbers) {
      if (!isSelected) selected.delete(one);
      else if (selected.size < MOST_SELECTED) selected.add(one);
    }
    drawSelection();
    if (!numbers.length) grid.redraw();
    else for (const node of grid.node.children) node.classList.toggle("chosen", selected.has(node.item?.number));
  }

  function drawSelection() {
    $("gallery-selection").hidden = !selected.size;
    $("gallery-count").textContent = t("gallery_selected", { n: number(selected.size) });
    $("gallery-out").hidden = !filter.album;
  }

  const attempt = async (work) => {
    show($("gallery-error"), "");
    try {
      await work();
    } catch (error) {
      show($("gallery-error"), error.message);
    }
  };

  const createAlbum = () => attempt(async () => {
    if (!name.value.trim()) return name.focus();
    await post("/v1/gallery/albums", { name: name.value.trim() });
    name.value = "";
    await readAlbums();
  });

  const deleteAlbum = () => attempt(async () => {
    await send("DELETE", `/v1/gallery/albums/${filter.album}`);
    await readAlbums();
    await set({ album: "" });
  });

  const fillAlbum = () => attempt(async () => {
    if (into.value) await post(`/v1/gallery/albums/${into.value}/pictures`, { add: [...selected] });
    await readAlbums();
    select([], false);
  });

  const takeOut = () => attempt(async () => {
    await post(`/v1/gallery/albums/${filter.album}/pictures`, { remove: [...selected] });
    select([], false);
    await readAlbums();
    await reload();
  });

  const zip = () => attempt(async () => {
    const url = URL.createObjectURL(await (await post("/v1/gallery/zip", { pictures: [...selected] })).blob());
    el("a", { href: url, download: "pictures.zip" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 30_000);
  });

  function remove(numbers) {
    const dialog = el("dialog", { class: "question", "aria-labelledby": "gallery-question" },
      el("h2", { id: "gallery-question" }, t("gallery_sure", { n: number(numbers.length) })), el("p", { class: "quiet" }, t("gallery_forGood")),
      el("div", { class: "actions" }, el("button", { class: "button", type: "button", click: () => attempt(async () => {
        dialog.close();
        await post("/v1/gallery/delete", { pictures: numbers });
        select([], false);
        await readAlbums();
        await reload();
      }) }, t("gallery_delete")), el("button", { class: "button", type: "button", autofocus: true, click: () => dialog.close() }, t("gallery_cancel"))));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  }

  return {
    open: () => {
      grid.show(true);
      return Promise.all([attempt(readAlbums), reload()]);
    },
    close: () => grid.show(false),
    draw: () => {
      drawTools();
      grid.redraw();
    },
  };
}
