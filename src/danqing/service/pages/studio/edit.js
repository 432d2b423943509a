/* The page that edits: a picture with its mask, what a model does to it, and the results beside the original. */
import { CanvasView } from "./canvas.js";
import { $, el, show } from "./dom.js";
import { Draft } from "./draft.js";
import { EditForm, NORMAL } from "./edit_form.js";
import { fills, requestOf, submit, tasksOf } from "./edit_job.js";
import { EditResults } from "./edit_results.js";
import { EditToolbar, KEYS } from "./edit_toolbar.js";
import { cancel, follow, newKey, picture as pictureOf } from "./jobs.js";
import { Mask } from "./mask.js";
import { Tools } from "./tools.js";
import { addWords, number, t, translate } from "./words.js";
import words from "./words/edit.js";
import optionWords from "./words/paint.js";

addWords(optionWords); // the names of options
addWords(words);
await new Promise((resolve) => {
  document.head.append(el("link", { rel: "stylesheet", href: new URL("edit.css", import.meta.url).href, load: resolve, error: resolve }));
});

const MOST_CELLS = 2 ** 23; // of a mask; larger pictures have a mask of a whole fraction of their size
const STEP = 64; // steps of the arrow keys along the longer side of a picture
const KINDS = "image/png,image/jpeg,image/webp";
const drawnSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];

export function mount(container, context) {
  const settings = structuredClone(NORMAL);
  let draft = null, mask = null, size = null, colours = null, url = "", cell = 1, saving = 0, failure = "";

  /* the parts of the page */

  const file = el("input", { type: "file", accept: KINDS, id: "edit-file", hidden: true, change: () => { take(file.files[0]); file.value = ""; } });
  const choose = (classes, name) => el("button", { class: classes, type: "button", "data-t": name, click: () => file.click() });
  const stage = el("div", { class: "viewport", tabindex: 0, role: "application", "data-label": "edit.stage", "aria-describedby": "edit-keys", keydown: onKey });
  const view = new CanvasView(stage, {
    down: (point) => { stage.focus({ preventScroll: true }); tools.down(point); }, move: (points) => tools.move(points), up: () => tools.up(), cancel: () => tools.cancel(), hover: (point) => tools.hover(point),
    divided: (share) => results.divide(share), changed: () => toolbar.state(mask, view.scale),
  });
  const tools = new Tools(view, settings, () => colours, (operation) => {
    store({ done: mask.done }, [operation], mask.done - 1);
    told("edit.changed");
  });
  const toolbar = new EditToolbar(settings, {
    undo: () => travel("undo"), redo: () => travel("redo"), zoom: (factor) => view.zoom(factor), fit: () => view.fit(), chosen: () => { view.hand = settings.tool === "hand"; stage.dataset.tool = settings.tool; },
    change: (kind, work) => tools.change(kind, work), changed: () => store({ settings: structuredClone(settings) }),
  });
  const results = new EditResults(view, { use, shown: (result) => { toolbar.top.hidden = toolbar.options.hidden = toolbar.whole.hidden = boxes.hidden = Boolean(result); } });
  const form = new EditForm(settings, {
    changed: (name) => {
      if (name === "feather") soften();
      if (name === "expand" || name === "task") view.size && view.expand(settings.task === "expand" ? settings.expand : [0, 0, 0, 0]);
      if (name === "task") soften();
      store({ settings: structuredClone(settings) });
    },
    started: start, stopped: stop,
  });
  const facts = el("span", {}), saved = el("span", { class: "saved" });
  const previous = el("button", { class: "button small", type: "button", "data-t": "edit.previous", hidden: true, click: back });
  const boxes = toolbar.boxFields;
  const board = el("div", { class: "panel board" }, toolbar.top, toolbar.options, results.bar, stage, toolbar.whole,
    el("div", { class: "below-stage small quiet" }, facts, saved, el("span", { class: "end" }, previous, choose("button small", "edit.other"))), boxes,
    el("details", { class: "more" }, el("summary", { "data-t": "edit.keys" }), el("p", { class: "small quiet", id: "edit-keys" })));
  const empty = el("div", { class: "empty drop" }, $("mountains").content.cloneNode(true),
    el("p", {}, el("span", { "data-t": "edit.drop" }), el("small", { "data-t": "edit.dropText" })), choose("button paint", "edit.choose"));
  const trouble = el("div", { class: "error", role: "alert", hidden: true });
  const desk = el("div", { class: "desk edit-desk" }, el("div", { class: "easel" }, empty, board, results.node), form.node);
  container.append(el("div", { class: "lead" }, el("h1", { "data-t": "edit.title" }), el("p", { "data-t": "edit.lead" })), trouble, file, desk);
  toolbar.draw();
  board.hidden = form.node.hidden = true;

  /* pictures */

  const editors = () => context.models.filter((one) => tasksOf(one).length > 0);

  async function take(picture, name = picture?.name ?? "picture", from = draft?.id ?? null) {
    if (!picture) return;
    show(trouble, "");
    try {
      (await createImageBitmap(picture)).close();
    } catch {
      return show(trouble, t("edit.unreadable"));
    }
    try {
      await open(await Draft.begin(picture, name, structuredClone({ ...settings, expand: [0, 0, 0, 0] }), from));
    } catch (error) {
      show(trouble, t("edit.unsaved", { reason: error.message }));
    }
  }

  async function open(one) {
    const bitmap = await createImageBitmap(one.picture);
    if (draft && draft.id !== one.id) draft.release();
    draft = one;
    Object.assign(settings, structuredClone(NORMAL), one.facts.settings, size && Math.max(...size) !== Math.max(bitmap.width, bitmap.height) && !one.operations.length ? { brush: 0 } : {});
    size = [bitmap.width, bitmap.height];
    cell = Math.ceil(Math.sqrt((size[0] * size[1]) / MOST_CELLS));
    mask = new Mask(Math.ceil(size[0] / cell), Math.ceil(size[1] / cell), one.operations, one.facts.done);
    colours = pixelsOf(bitmap, mask);
    bitmap.close();
    URL.revokeObjectURL(url);
    url = URL.createObjectURL(one.picture);
    empty.hidden = true;
    board.hidden = form.node.hidden = false;
    tools.place = null;
    view.isFitted = true;
    form.draw(editors());
    view.show(url, size, mask, cell);
    view.soften(feather());
    view.expand(settings.task === "expand" ? settings.expand : [0, 0, 0, 0]);
    view.hand = settings.tool === "hand";
    stage.dataset.tool = settings.tool;
    toolbar.prepare(size, cell);
    results.show(one.facts.name, one.facts.results, one.files);
    results.choose(null);
    previous.hidden = !one.facts.previous;
    form.complain("");
    view.fit();
    told();
    draw();
    if (one.facts.job) work(one);
    else form.busy(false);
  }

  function use(result, picture) {
    take(picture, draft.facts.name);
    stage.focus({ preventScroll: true });
  }

  async function back() {
    const before = await Draft.read(draft.facts.previous);
    if (!before) return show(trouble, t("edit.elsewhere"));
    await before.save();
    await open(before);
  }

  /* the mask */

  const feather = () => (fills(settings.task) ? Math.round(settings.feather / cell) : 0);

  function soften() {
    if (!mask || view.feather === feather()) return;
    view.soften(feather());
  }

  function travel(way) {
    tools.cancel();
    const rect = mask[way]();
    if (!rect) return;
    view.settle(rect);
    store({ done: mask.done });
    told(way === "undo" ? "edit.undone" : "edit.redone");
  }

  const share = () => number(mask.count / (mask.width * mask.height), { style: "percent", maximumFractionDigits: 1 });

  /* Show how large the mask is, and say what has happened to it. */
  function told(name) {
    facts.textContent = t("edit.facts", { width: size[0], height: size[1], share: share() });
    toolbar.state(mask, view.scale);
    if (name) context.announce(t(name, { share: share() }));
  }

  /* The mask as the service takes it: of the size of the picture, transparent where it fills. */
  function sheet() {
    const [small, whole] = [[mask.width, mask.height], size].map(([width, height]) => Object.assign(document.createElement("canvas"), { width, height }));
    const image = new ImageData(mask.width, mask.height), bytes = new Uint32Array(image.data.buffer);
    mask.pixels.forEach((one, i) => { bytes[i] = one ? 0 : 0xff000000; });
    small.getContext("2d").putImageData(image, 0, 0);
    const pen = whole.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, mask.width * cell, mask.height * cell);
    return new Promise((resolve) => whole.toBlob(resolve, "image/png"));
  }

  /* the draft */

  async function store(changes, operations, from) {
    if (!draft) return;
    saving++;
    drawSaved();
    try {
      await draft.save(changes, operations, from);
      failure = "";
    } catch (error) {
      failure = error.message;
    }
    saving--;
    drawSaved();
  }

  function drawSaved() {
    saved.textContent = failure ? t("edit.unsaved", { reason: failure }) : t(saving ? "edit.saving" : "edit.saved");
    saved.dataset.state = failure ? "failed" : saving ? "saving" : "saved";
  }

  /* the work */

  async function start() {
    if (draft.facts.job || form.isBusy) return;
    const one = draft;
    form.complain("");
    if (settings.task === "fill" && !mask.count) return form.complain(t("edit.noMask"), "task");
    if (settings.task === "expand" && !settings.expand.some(Boolean)) return form.complain(t("edit.noSides"), "expand");
    const asked = { ...settings, seed: settings.seed ?? drawnSeed() }, model = editors().find((one) => one.id === settings.model);
    const facts = { key: newKey(), id: null, request: requestOf(asked, model), task: settings.task, borders: settings.task === "expand" ? settings.expand : [0, 0, 0, 0], began: Date.now() };
    form.busy(true); // before anything is waited for: a second click must not send it again
    try {
      const masked = fills(settings.task) && mask.count > 0 ? await sheet() : null;
      await one.keep(masked ? { mask: masked } : {}, { job: facts });
    } catch (error) {
      if (draft !== one) return;
      form.busy(false);
      return form.complain(t("edit.unsaved", { reason: error.message }));
    }
    await work(one);
  }

  /* Send the job of a draft, unless it was sent, and follow it to its end. The draft may be left and opened again meanwhile. */
  async function work(one) {
    const { job } = one.facts, isShown = () => draft === one;
    if (isShown()) {
      form.busy(true);
      form.progress(0, 0);
    }
    let began = 0;
    try {
      if (!job.id) {
        const id = await submit(job, one.picture, fills(job.task) && one.files.get("mask"));
        job.id = id;
        await one.save({ job });
        if (job.unwanted) await withdraw(id);
      }
      const done = await follow(job.id, (event, data) => {
        if (!isShown()) return;
        if (event === "job.position") form.progress(0, 0, 0, data.jobs);
        if (event !== "job.progress") return;
        began ||= Date.now();
        form.progress(data.done, data.total, began);
      });
      if (done.status === "failed") throw Object.assign(new Error(done.error.message), { param: done.error.param });
      if (done.status === "cancelled") {
        await one.save({ job: null });
        context.announce(t("edit.stopped"));
      } else await finish(one, done);
    } catch (error) {
      await one.save({ job: null });
      if (isShown()) form.complain(error.status === 404 ? t("edit.lost") : error.message, error.param?.split(".")[0]);
    }
    if (isShown()) form.busy(false);
  }

  async function finish(one, done) {
    const files = await Promise.all(done.response.data.map((_, i) => pictureOf(done.id, i))), { job, results: earlier } = one.facts, sizes = await Promise.all(files.map(sizeOf));
    const made = files.map((picture, i) => ({ file: `result-${done.id}-${i}`, number: i, of: files.length, task: job.task, model: done.model, seed: job.request.body.seed, size: sizes[i], borders: job.borders }));
    await one.keep(Object.fromEntries(made.map((result, i) => [result.file, files[i]])), { job: null, results: [...made, ...earlier] });
    if (draft !== one) return;
    results.show(one.facts.name, one.facts.results, one.files);
    results.choose(made[0], middle(job));
    stage.scrollIntoView({ block: "nearest" });
    context.announce(t("edit.ready", { n: made.length }));
  }

  /* Where to divide a new result: through the middle of what was filled. */
  function middle({ task }) {
    const filled = task === "fill" && mask.bounds();
    return filled ? (filled.left + filled.right) / 2 / mask.width : 0.5;
  }

  /* A job that is still being sent is cancelled as soon as it has an id. */
  async function stop() {
    const { job } = draft.facts;
    if (!job) return;
    job.unwanted = true;
    if (job.id) await withdraw(job.id);
  }

  const withdraw = (id) => cancel(id).catch((error) => form.complain(error.message));

  /* keys, drops and pastes */

  function onKey(event) {
    const letter = event.key.toLowerCase(), command = event.ctrlKey || event.metaKey;
    const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(...size) / STEP));
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (command && (letter === "z" || letter === "y")) travel(letter === "y" || event.shiftKey ? "redo" : "undo");
    else if (command || event.altKey) return;
    else if (view.mode === "compare" && event.key === "Escape") results.choose(null);
    else if (view.mode === "compare" && ways[event.key]) results.divide(Math.min(1, Math.max(0, view.share + (ways[event.key][0] || ways[event.key][1]) * 0.02 / step)));
    else if (ways[event.key] && settings.tool === "hand") view.pan(...ways[event.key].map((one) => -one * view.scale));
    else if (ways[event.key]) say(tools.step(...ways[event.key]));
    else if (event.key === "Enter") {
      const isDown = tools.press();
      if (isDown) say(tools.place, "edit.down");
    } else if (event.key === "Escape") tools.cancel();
    else if (event.key === "[" || event.key === "]") context.announce(String(toolbar.resize(event.key === "[" ? 0.8 : 1.25)));
    else if (KEYS[letter]) toolbar.choose(KEYS[letter]);
    else if (event.key === "+" || event.key === "=") view.zoom(1.25);
    else if (event.key === "-") view.zoom(0.8);
    else if (event.key === "0") view.fit();
    else return;
    event.preventDefault();
  }

  const say = ({ x, y }, name = "edit.at") => context.announce(t(name, { x: Math.floor(x), y: Math.floor(y) }));

  container.addEventListener("dragover", (event) => {
    event.preventDefault();
    desk.classList.add("dragged");
  });
  container.addEventListener("dragleave", () => desk.classList.remove("dragged"));
  container.addEventListener("drop", (event) => {
    event.preventDefault();
    desk.classList.remove("dragged");
    take(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => {
    const picture = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!container.hidden && picture) take(picture);
  });
  addEventListener("pagehide", () => { if (tools.drawing) tools.up(); });

  /* what the studio asks for */

  function draw() {
    const able = editors();
    if (!draft) show(trouble, able.length ? "" : t("edit.none"));
    $("edit-keys").textContent = t("edit.keysText", { n: size ? Math.max(1, Math.round(Math.max(...size) / STEP)) : 1 });
    toolbar.draw();
    drawSaved();
    results.draw();
    results.divide(view.share ?? 0.5);
    if (!draft) return;
    form.draw(able);
    translate(container);
    told();
  }

  const restored = Draft.read().then((one) => (one && !draft ? open(one) : null))
    .catch((error) => show(trouble, t("edit.unsaved", { reason: error.message }))); // the page still works, without a draft
  return {
    draw,
    /* parameters: { image, name } opens a picture of another page, a Blob. */
    open: ({ image, name }) => { if (image) restored.then(() => take(image, name)); },
  };
}

/* The colours of a picture at the size of its mask, RGBA. */
function pixelsOf(bitmap, { width, height }) {
  const pen = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height).data;
}

async function sizeOf(picture) {
  const bitmap = await createImageBitmap(picture), size = [bitmap.width, bitmap.height];
  bitmap.close();
  return size;
}
