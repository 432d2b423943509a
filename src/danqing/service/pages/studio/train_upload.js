/* From files and folders that somebody chooses or drops to a data set of the service. */
import { send } from "./api.js";

const AT_ONCE = 12, MOST_BYTES = 40_000_000, IMAGE = /\.(png|jpe?g|webp)$/i;

/* The files of a drop, those in folders too, as { file, path }. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  return (await Promise.all(entries.map(walk))).flat();
}

export const chosen = (files) => [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));

async function walk(entry) {
  if (entry.isFile) return [{ file: await new Promise((done, failed) => entry.file(done, failed)), path: entry.fullPath.slice(1) }];
  const reader = entry.createReader(), found = [];
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(walk))).flat());
  }
}

/* Send files to a data set, a few at a time; returns { added, rejected }. Text files beside images are their captions. */
export async function upload(id, files, onProgress) {
  const texts = new Map(files.filter(({ path }) => /\.txt$/i.test(path)).map((one) => [one.path.replace(/\.\w+$/, ""), one.file]));
  const pictures = files.filter(({ path }) => IMAGE.test(path)), zips = files.filter(({ path }) => /\.zip$/i.test(path));
  const total = { added: 0, rejected: {} };
  for (const { file, path } of files) {
    if (!IMAGE.test(path) && !/\.(zip|txt)$/i.test(path) && !/(^|\/)\./.test(path)) total.rejected[path] = file.type || "?";
  }
  let done = 0;
  for (const group of [...zips.map((one) => [one]), ...grouped(pictures)]) {
    const form = new FormData(), told = [];
    for (const { file, path } of group) {
      form.append("image", file, "image");
      const text = texts.get(path.replace(/\.\w+$/, ""));
      told.push({ name: path, label: "", caption: text ? (await text.text()).slice(0, 4000) : "" });
    }
    form.append("request", JSON.stringify({ files: told }));
    const answer = await (await send("POST", `/v1/datasets/${id}/images`, form)).json();
    total.added += answer.added.length;
    Object.assign(total.rejected, answer.rejected);
    onProgress(done += group.length, zips.length + pictures.length);
  }
  return total;
}

function grouped(files) {
  const groups = [];
  let size = Infinity;
  for (const one of files) {
    if (size + one.file.size > MOST_BYTES || groups.at(-1)?.length >= AT_ONCE) {
      groups.push([]);
      size = 0;
    }
    groups.at(-1).push(one);
    size += one.file.size;
  }
  return groups;
}
