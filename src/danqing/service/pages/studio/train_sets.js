/* The data sets of the page that trains: uploaded, looked through, edited. */
import { at, get, post, send } from "./api.js";
import { $, el, remember, remembered, show } from "./dom.js";
import { chosen, dropped, upload } from "./train_upload.js";
import { bytes, number, t } from "./words.js";

const PAGE = 60, LOOK = 1500;

/* onChange: called with the data set that is chosen, or null. */
export function dataSets(context, onChange) {
  let sets = [], limits = null, id = remembered("train-set"), told = null, images = [], total = 0, only = "all", timer = null, news = null;
  const select = el("select", { id: "train-set", change: () => choose(select.value) });
  const filter = el("select", { id: "train-only", change: () => { only = filter.value; readImages(0); } });
  const name = el("input", { id: "train-set-name", type: "text", maxlength: 60, "data-hint": "train_setName", "data-label": "train_setName" });
  const files = el("input", { id: "train-files", type: "file", multiple: true, accept: ".png,.jpg,.jpeg,.webp,.zip,.txt", change: () => add(chosen(files.files)) });
  const folder = el("input", { id: "train-folder", type: "file", webkitdirectory: true, multiple: true, change: () => add(chosen(folder.files)) });
  const node = el("section", { class: "panel train-sets", "aria-labelledby": "train-sets-title" },
    el("h2", { id: "train-sets-title", "data-t": "train_sets" }),
    el("div", { class: "error", id: "train-set-error", role: "alert", hidden: true }),
    el("div", { class: "row" },
      el("div", { class: "field" }, el("label", { for: "train-set", "data-t": "train_set" }), select),
      el("form", { class: "joined", submit: (event) => { event.preventDefault(); attempt(create); } }, name, el("button", { class: "button", "data-t": "train_create" }))),
    el("div", { id: "train-drop", class: "train-drop", dragover: (event) => event.preventDefault(), drop: async (event) => { event.preventDefault(); add(await dropped(event.dataTransfer)); } },
      el("strong", { "data-t": "train_drop" }),
      el("div", { class: "row" },
        el("div", { class: "field" }, el("label", { for: "train-files", "data-t": "train_files" }), files),
        el("div", { class: "field" }, el("label", { for: "train-folder", "data-t": "train_folder" }), folder)),
      el("p", { class: "small quiet", id: "train-limits" })),
    el("div", { id: "train-news", class: "small", role: "status" }),
    el("div", { id: "train-known", hidden: true },
      el("p", { id: "train-facts" }), el("p", { id: "train-findings", class: "small" }),
      el("div", { class: "actions" },
        el("button", { class: "button", type: "button", id: "train-check", "data-t": "train_check", click: () => attempt(check) }),
        el("button", { class: "button", type: "button", "data-t": "train_deleteSet", click: () => attempt(remove) })),
      el("div", { class: "field train-filter" }, el("label", { for: "train-only", "data-t": "train_show" }), filter),
      el("ul", { id: "train-images", class: "train-images" }),
      el("button", { class: "button", type: "button", id: "train-more", "data-t": "train_more", click: () => attempt(() => readImages(images.length)) })));

  async function attempt(action) {
    show($("train-set-error"), "");
    try {
      await action();
    } catch (error) {
      show($("train-set-error"), error.message);
    }
  }

  async function reload() {
    const answer = await get("/v1/datasets");
    sets = answer.data;
    limits = answer;
    if (!sets.some((one) => one.id === id)) id = sets[0]?.id ?? null;
    await choose(id);
  }

  async function choose(one) {
    id = one;
    remember("train-set", id);
    told = null;
    images = [];
    if (id) await attempt(async () => { await look(); await readImages(0); });
    draw();
  }

  /* Read what is known of the data set; again while it is checked. */
  async function look() {
    clearTimeout(timer);
    const asked = id, answer = await get(`/v1/datasets/${id}`);
    if (asked !== id) return;
    const was = told?.check.state;
    told = answer;
    if (["waiting", "running"].includes(told.check.state)) timer = setTimeout(() => attempt(look), LOOK);
    else if (was === "running" || was === "waiting") {
      if (told.check.found && Object.keys(told.check.found).length) only = "found";
      await readImages(0);
      context.announce(findings());
    }
    draw();
  }

  async function create() {
    const made = await (await post("/v1/datasets", { name: name.value.trim() })).json();
    name.value = "";
    id = made.id;
    await reload();
  }

  async function add(given) {
    await attempt(async () => {
      if (!given.length) return;
      if (!id) {
        const from = given[0].path.split("/")[0].replace(/\.\w+$/, "").replace(/[^\p{L}\p{N}_ .-]/gu, "").replace(/^[^\p{L}\p{N}_]+/u, "").slice(0, 60);
        id = (await (await post("/v1/datasets", { name: from || "images" })).json()).id;
      }
      const report = (done, all) => { $("train-news").textContent = t("train_uploading", { done: number(done), total: number(all) }); };
      report(0, given.length);
      news = await upload(id, given, report);
      files.value = folder.value = "";
      await reload();
    });
    draw();
  }

  async function check() {
    await post(`/v1/datasets/${id}/check`);
    await look();
  }

  async function remove() {
    if (!confirm(t("train_sureSet"))) return;
    await send("DELETE", `/v1/datasets/${id}`);
    news = null;
    await reload();
  }

  async function readImages(offset) {
    const asked = [id, only], answer = await get(`/v1/datasets/${id}/images?only=${only}&limit=${PAGE}&offset=${offset}`);
    if (asked[0] !== id || asked[1] !== only) return; // something else was chosen meanwhile
    images = offset ? [...images, ...answer.data] : answer.data;
    total = answer.total;
    drawImages();
  }

  const change = (image, values) => attempt(async () => {
    await send("PATCH", `/v1/datasets/${id}/images`, { changes: [{ image: image.image, ...values }] });
    Object.assign(image, values);
    await look();
  });

  function findings() {
    const { state, found, unreadable, reason } = told.check;
    if (state === "none") return "";
    if (state === "running") return t("train_checking");
    if (state === "waiting") return t("train_checkWaits");
    if (state === "failed") return t("train_checkFailed", { reason });
    const list = Object.entries(found).map(([kind, n]) => t(`train_kind_${kind}`, { n: number(n) })).join(", ");
    return [list ? t("train_found", { list }) : t("train_nothing"), unreadable.length && t("train_unread", { n: number(unreadable.length) })].filter(Boolean).join(" ");
  }

  function draw() {
    if (!limits) return;
    select.replaceChildren(...(sets.length ? sets.map((one) => el("option", { value: one.id }, one.name)) : [el("option", { value: "" }, t("train_noSet"))]));
    select.value = id ?? "";
    filter.replaceChildren(...[["all", "train_all"], ["found", "train_onlyFound"], ["dropped", "train_onlyDropped"]].map(([value, word]) => el("option", { value }, t(word))));
    filter.value = only;
    $("train-limits").textContent = t("train_limits", { images: number(limits.most_images) });
    $("train-known").hidden = !told;
    drawNews();
    if (told) {
      const labels = Object.keys(told.labels).filter(Boolean).length;
      $("train-facts").textContent = t("train_facts", { images: number(told.images), size: bytes(told.bytes), labels: number(labels), captions: number(told.captions), dropped: number(told.dropped) });
      $("train-findings").textContent = findings();
      $("train-check").disabled = !told.images || ["waiting", "running"].includes(told.check.state);
    }
    onChange(told);
  }

  function drawNews() {
    if (!news) return $("train-news").replaceChildren();
    const rejected = Object.entries(news.rejected);
    $("train-news").replaceChildren(el("p", {}, t("train_added", { n: number(news.added) })),
      ...(rejected.length ? [el("p", {}, t("train_rejected", { n: number(rejected.length) })), el("ul", {}, ...rejected.slice(0, 5).map(([path, why]) => el("li", {}, `${path}: ${why}`)))] : []));
  }

  function drawImages() {
    $("train-images").replaceChildren(...(images.length ? images.map(card) : [el("li", { class: "quiet" }, t("train_noImages"))]));
    $("train-more").hidden = images.length >= total;
  }

  function card(image) {
    const what = image.source.split("/").at(-1) || image.image;
    const text = (key, most, word) => {
      const field = el("input", { type: "text", maxlength: most, value: image[key], placeholder: t(`train_${word}Hint`), "aria-label": t(`train_${word}`, { image: what }), change: () => change(image, { [key]: field.value }) });
      return field;
    };
    const use = el("input", { type: "checkbox", "aria-label": t("train_use", { image: what }), change: async () => {
      await change(image, { decision: use.checked ? "keep" : "drop" });
      node.classList.toggle("out", !use.checked);
    } });
    use.checked = image.decision === "keep";
    const label = text("label", 100, "label");
    const node = el("li", { class: `train-image${use.checked ? "" : " out"}` },
      el("img", { src: at(`/v1/datasets/${id}/images/${image.image}/thumbnail`), alt: what, loading: "lazy" }),
      el("label", { class: "check small" }, use, t("train_used")),
      image.finding && el("p", { class: "small train-finding" }, image.finding),
      image.suggested && image.suggested !== image.label && el("button", { class: "button small", type: "button", click: () => { label.value = image.suggested; change(image, { label: image.suggested }); } }, t("train_suggest", { label: image.suggested })),
      label, text("caption", 4000, "caption"));
    return node;
  }

  return { node, reload: () => attempt(reload), close: () => clearTimeout(timer), draw: () => { draw(); if (limits) drawImages(); }, chosen: () => told };
}
