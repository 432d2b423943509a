/* Drafts in IndexedDB: a picture, the operations on its mask and the settings survive a reload and a killed tab.

   A draft is { id, name, previous, settings, done, job, results, changed }. Its picture, its results and each operation are records of
   their own, so that a stroke writes only itself. A draft is deleted when MOST_DRAFTS newer ones exist. */

const STORES = ["drafts", "files", "operations"], MOST_DRAFTS = 20, PATIENCE = 500; // milliseconds

/* Turn a request of IndexedDB into a promise. */
const answer = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

const opened = new Promise((resolve, reject) => {
  const request = indexedDB.open("danqing-edit", 1);
  request.onupgradeneeded = () => STORES.forEach((name) => request.result.createObjectStore(name));
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
opened.catch(() => {}); // each use reports it

/* Run work on the stores in one transaction, which is on the disk when the promise ends. */
async function within(mode, work) {
  const transaction = (await opened).transaction(STORES, mode, { durability: "strict" });
  const ended = new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
  const result = work(Object.fromEntries(STORES.map((name) => [name, transaction.objectStore(name)])));
  await ended;
  return result;
}

const held = new Map();

/* Whether this tab alone has a draft from now on: two tabs that draw on one mask would spoil it. A reload waits for its own lock. */
async function lock(id) {
  if (held.has(id) || !navigator.locks) return true; // plain http from another machine has no locks
  return new Promise((resolve) => {
    navigator.locks.request(`danqing-draft-${id}`, { signal: AbortSignal.timeout(PATIENCE) }, () => new Promise((release) => {
      held.set(id, release);
      resolve(true);
    })).catch(() => resolve(false));
  });
}

const every = (id) => IDBKeyRange.bound([id], [id, []]);

export class Draft {
  constructor(facts, picture, operations, files) {
    Object.assign(this, { facts, picture, operations, files });
  }

  get id() { return this.facts.id; }

  /* Begin a draft with a picture; previous: the id of the draft that it came from. */
  static async begin(picture, name, settings, previous = null) {
    const id = [...crypto.getRandomValues(new Uint32Array(4))].map((one) => one.toString(16)).join("-");
    const facts = { id, name, previous, settings, done: 0, job: null, results: [], changed: Date.now() };
    await within("readwrite", ({ drafts, files }) => {
      drafts.put(facts, facts.id);
      files.put(picture, [facts.id, "picture"]);
    });
    await lock(id);
    prune().catch(() => {});
    return new Draft(facts, picture, [], new Map());
  }

  /* Read the draft that was changed last, or the one with an id; null if there is none that no other tab has. */
  static async read(id = null) {
    const drafts = (await answer((await opened).transaction("drafts").objectStore("drafts").getAll())).sort((a, b) => b.changed - a.changed);
    let facts = null;
    for (const one of id ? drafts.filter((one) => one.id === id) : drafts) {
      if (!facts && (await lock(one.id))) facts = one;
    }
    if (!facts) return null;
    const transaction = (await opened).transaction(["files", "operations"]), files = transaction.objectStore("files");
    const [operations, names, contents] = await Promise.all([
      answer(transaction.objectStore("operations").getAll(every(facts.id))),
      answer(files.getAllKeys(every(facts.id))), answer(files.getAll(every(facts.id))),
    ]);
    const byName = new Map(names.map(([, name], i) => [name, contents[i]])), picture = byName.get("picture");
    byName.delete("picture");
    return new Draft(facts, picture, operations, byName);
  }

  /* Store facts that have changed, and the operations of a mask from number `from` on; what followed them is deleted. */
  save(changes = {}, operations = [], from = null) {
    Object.assign(this.facts, changes, { changed: Date.now() });
    return within("readwrite", (stores) => {
      stores.drafts.put(this.facts, this.id);
      if (from === null) return;
      stores.operations.delete(IDBKeyRange.bound([this.id, from], [this.id, []]));
      operations.forEach((one, i) => stores.operations.put(one, [this.id, from + i]));
    });
  }

  /* Store the files of results: { name: Blob }. */
  keep(files, changes = {}) {
    Object.assign(this.facts, changes, { changed: Date.now() });
    for (const [name, file] of Object.entries(files)) this.files.set(name, file);
    return within("readwrite", (stores) => {
      stores.drafts.put(this.facts, this.id);
      for (const [name, file] of Object.entries(files)) stores.files.put(file, [this.id, name]);
    });
  }

  /* Let other tabs have it. */
  release() {
    held.get(this.id)?.();
    held.delete(this.id);
  }
}

async function prune() {
  const drafts = await answer((await opened).transaction("drafts").objectStore("drafts").getAll());
  const old = drafts.sort((a, b) => b.changed - a.changed).slice(MOST_DRAFTS);
  if (!old.length) return;
  await within("readwrite", (stores) => {
    for (const { id } of old) {
      stores.drafts.delete(id);
      stores.files.delete(every(id));
      stores.operations.delete(every(id));
    }
  });
}
