/* The worker: it loads the model and ONNX Runtime, and computes beside the page, which stays responsive. */

import { LOOPS } from "./loops.js";
import { imageSeeds } from "./seeds.js";

const MOST_THREADS = 4;
const MS_BETWEEN = 100;
const ORT = "./runtime/ort.wasm.min.mjs", WASM = "runtime/ort-wasm-simd-threaded.wasm";

let ort = null, model = null, graphs = null, isStopped = false;

class Unreachable extends Error {
  constructor(file, reason) {
    super(`${file}: ${reason}`);
    Object.assign(this, { file, reason });
  }
}

/** Fetch a file. onBytes: called with the number of each new bytes. */
async function fetched(file, onBytes) {
  const answer = await fetch(file).catch((error) => { throw new Unreachable(file, error.message); });
  if (!answer.ok) throw new Unreachable(file, answer.status);
  const parts = [], reader = answer.body.getReader();
  for (;;) {
    const { done, value } = await reader.read().catch((error) => { throw new Unreachable(file, error.message); });
    if (done) break;
    parts.push(value);
    onBytes(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

let loaded = 0, told = 0;

/** Count new bytes, and tell the page now and then: each time it paints. */
function onBytes(bytes) {
  loaded += bytes;
  if (performance.now() - told < MS_BETWEEN) return;
  told = performance.now();
  postMessage({ type: "loading", loaded });
}

// At once, beside export.json, which the page reads; a failure is reported where they are awaited.
const wasm = fetched(WASM, onBytes), runtime = import(ORT).catch((error) => { throw new Unreachable(ORT, error.message); });
for (const early of [wasm, runtime]) early.catch(() => {});

/** Load all graphs of the model, and the runtime. */
async function load() {
  const forms = Object.entries(model.graphs);
  const contents = await Promise.all(forms.map(([, form]) => fetched(form.file, onBytes)));
  ort = await runtime;
  ort.env.wasm.wasmBinary = (await wasm).buffer;
  postMessage({ type: "loading", loaded });
  ort.env.wasm.wasmPaths = new URL("runtime/", import.meta.url).href;
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
  graphs = {};
  for (const [i, [name, form]] of forms.entries()) graphs[name] = graph(await ort.InferenceSession.create(contents[i]), form);
  postMessage({ type: "ready", threads: ort.env.wasm.numThreads });
}

const ARRAYS = {
  float32: (data) => (data instanceof Float32Array ? data : Float32Array.from(data)),
  int64: (data) => BigInt64Array.from(data, BigInt),
  bool: (data) => Uint8Array.from(data),
};

/** Return a session as a function of its inputs by name, {data, dims}; it returns its outputs in their order. */
function graph(session, form) {
  const tensor = (dtype, input) => (input instanceof ort.Tensor ? input : new ort.Tensor(dtype, ARRAYS[dtype](input.data), input.dims));
  return async (inputs) => {
    const results = await session.run(Object.fromEntries(form.inputs.map(({ name, dtype }) => [name, tensor(dtype, inputs[name])])));
    return form.outputs.map(({ name }) => results[name]);
  };
}

/** Let messages in, and end the request where one has said so. */
async function turn() {
  await new Promise((resolve) => setTimeout(resolve));
  if (isStopped) throw new Stopped();
}

class Stopped extends Error {}

/** Sample one image after the other, so that each appears as early as it can. */
async function sample(request) {
  const seeds = imageSeeds(request.seed, request.n);
  for (const [i, seed] of seeds.entries()) {
    await turn();
    const onStep = async (done, total, preview) => {
      postMessage({ type: "step", i, share: done / total, preview });
      await turn();
    };
    const image = await LOOPS[model.loop.kind](model, graphs, seed, request, onStep);
    postMessage({ type: "image", i, image }, [image.pixels.buffer]);
  }
  postMessage({ type: "finished" });
}

const ORDERS = {
  load: (data) => {
    model = data.model;
    return load();
  },
  sample: (data) => sample(data.request),
  stop: () => {
    isStopped = true;
  },
};

addEventListener("message", async ({ data }) => {
  if (data.type !== "stop") isStopped = false;
  try {
    await ORDERS[data.type](data);
  } catch (error) {
    if (error instanceof Stopped) postMessage({ type: "stopped" });
    else if (data.type === "load") postMessage({ type: "broken", file: error.file, reason: error.reason ?? error.message });
    else postMessage({ type: "failed", reason: error.message ?? String(error), key: error.key, values: error.values, field: error.field });
  }
});
