/* The request in the form as code in three languages. */
import { at } from "./api.js";
import { $, el } from "./dom.js";
import { t } from "./words.js";

const quoted = (text) => JSON.stringify(text);
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const pythonic = (value) => (value === true ? "True" : value === false ? "False" : quoted(value));
const STANDARD = ["model", "prompt", "n", "size", "output_format"];

const CODE = {
  curl(body, base, key) {
    const door = key ? `  -H "Authorization: Bearer $DANQING_KEY" \\\n` : "";
    return `curl ${base}/images/generations \\\n${door}  -H "Content-Type: application/json" \\\n  -d ${shell(JSON.stringify(body, null, 2))} \\\n  | jq -r '.data[0].b64_json' | base64 -d > picture.${body.output_format ?? "png"}`;
  },
  Python(body, base, key) {
    const own = Object.entries(body).filter(([name]) => !STANDARD.includes(name));
    const lines = STANDARD.filter((name) => name in body).map((name) => `    ${name}=${pythonic(body[name])},`);
    if (own.length) lines.push(`    extra_body={${own.map(([name, value]) => `${quoted(name)}: ${pythonic(value)}`).join(", ")}},`);
    const door = key ? `os.environ["DANQING_KEY"]` : `"none"`;
    return `import base64\n${key ? "import os\n" : ""}from pathlib import Path\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${quoted(base)}, api_key=${door})\nanswer = client.images.generate(\n${lines.join("\n")}\n)\nfor i, picture in enumerate(answer.data):\n    Path(f"picture-{i}.${body.output_format ?? "png"}").write_bytes(base64.b64decode(picture.b64_json))`;
  },
  JavaScript(body, base, key) {
    const door = key ? "process.env.DANQING_KEY" : `"none"`;
    const lines = Object.entries(body).map(([name, value]) => `  ${name}: ${quoted(value)},`);
    return `import { writeFile } from "node:fs/promises";\nimport OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: ${quoted(base)}, apiKey: ${door} });\nconst answer = await client.images.generate({\n${lines.join("\n")}\n});\nfor (const [i, picture] of answer.data.entries()) {\n  await writeFile(\`picture-\${i}.${body.output_format ?? "png"}\`, Buffer.from(picture.b64_json, "base64"));\n}`;
  },
};
const NAMES = Object.keys(CODE);

/* A section with tabs. draw(body, key): shows the code for a request; key: whether the service needs one. */
export function codeSection() {
  let tab = NAMES[0], shown = null;
  const code = el("pre", { id: "code", role: "tabpanel", tabindex: 0 });
  const tabs = NAMES.map((name) => el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "code", click: () => choose(name) }, name));
  const copy = el("button", { class: "button small", id: "copy", type: "button", "data-t": "copy", click: async () => {
    await navigator.clipboard.writeText(code.textContent).then(() => {
      copy.textContent = t("copied");
      setTimeout(() => { copy.textContent = t("copy"); }, 1500);
    }, () => getSelection().selectAllChildren(code));
  } });
  const node = el("section", { class: "wide", "aria-labelledby": "code-title" },
    el("h2", { id: "code-title", "data-t": "codeTitle" }), el("p", { class: "quiet", "data-t": "codeText" }),
    el("div", { class: "panel code" }, el("div", { class: "tabs" },
      el("div", { role: "tablist", id: "tabs", "aria-labelledby": "code-title", keydown: (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        choose(NAMES[(NAMES.indexOf(tab) + step + NAMES.length) % NAMES.length]);
        $(`tab-${tab}`).focus();
      } }, ...tabs), copy), code));

  function choose(name) {
    tab = name;
    draw(...shown);
  }

  function draw(body, key) {
    shown = [body, key];
    for (const button of tabs) {
      button.setAttribute("aria-selected", String(button.textContent === tab));
      button.tabIndex = button.textContent === tab ? 0 : -1;
    }
    code.setAttribute("aria-labelledby", `tab-${tab}`);
    code.textContent = CODE[tab](body, at("/v1"), key);
  }

  return { node, draw };
}
