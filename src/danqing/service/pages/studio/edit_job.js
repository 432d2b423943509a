/* What a model can do to a picture, and an edit as a job of the service. */
import { send } from "./api.js";

/* What a model can do to a picture, in the order of the page. */
export function tasksOf(model) {
  const { verb_options: verbs, tasks } = model;
  return [...("fill" in verbs ? ["fill", "expand"] : []), ...("vary" in verbs ? ["vary"] : []), ...tasks.filter((task) => task !== "fill")];
}

/* The name of the options of a task in `verb_options`. */
export function verbOf(task, model) {
  if (task === "fill" || task === "expand") return "fill";
  if (task in model.verb_options) return task;
  return task === "translate" && "relabel" in model.verb_options ? "relabel" : "translate";
}

export const fills = (task) => task === "fill" || task === "expand";

/* The request of settings, as POST /v1/jobs takes it. */
export function requestOf(settings, model) {
  const { task } = settings, verb = verbOf(task, model), options = settings.options[verb] ?? {};
  const body = { model: model.id, n: settings.n, seed: settings.seed, ...options };
  if (settings.format !== "png") body.output_format = settings.format;
  const labelled = model.reads === "label" || (model.labels.length > 0 && verb === "relabel");
  if (labelled && settings.label) body.label = settings.label;
  if (task === "vary") return { endpoint: "variations", body: { ...body, size: "input" } };
  body.prompt = model.reads === "text" ? settings.prompt.trim() : "";
  body.task = fills(task) ? "fill" : task;
  if (verb === "relabel") body.source_label = settings.source;
  if (fills(task) && settings.feather) body.feather = settings.feather;
  if (settings.fine && verb !== "stylize") body.input_fidelity = "high";
  if (task === "expand") body.expand = settings.expand;
  return { endpoint: "edits", body };
}

/* Send a job; the same key creates it once, however often it is sent. Returns its id. */
export async function submit({ key, request }, picture, mask) {
  const form = new FormData();
  form.append("request", JSON.stringify(request));
  form.append("image", picture, "picture");
  if (mask) form.append("mask", mask, "mask.png");
  return (await (await send("POST", "/v1/jobs", form, { headers: { "idempotency-key": key } })).json()).id;
}
