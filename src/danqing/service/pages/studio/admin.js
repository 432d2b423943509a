/* What administrators see: keys, the service, models, the audit log and what filters blocked. */
import { get } from "./api.js";
import { $, el, show } from "./dom.js";
import { bytes, locale, number, t } from "./words.js";

const TABS = ["keys", "service", "models", "audit", "moderation"];

const time = (seconds) => new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "short" }).format(new Date(seconds));

function table(heads, rows) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": heads[0] }, el("table", { class: "grid" },
    el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, ...rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((cell) => el("td", {}, cell)))))));
}

const facts = (rows) => el("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

export function mount(container, context) {
  let tab = "keys", known = {};
  container.append(el("h2", { "data-t": "admin_title" }),
    el("div", { class: "panel code" },
      el("div", { class: "tabs" }, el("div", { role: "tablist", id: "admin-tabs", "aria-label": t("admin_title"), keydown: move },
        ...TABS.map((name) => el("button", { type: "button", role: "tab", id: `admin-tab-${name}`, "aria-controls": "admin-panel", "data-t": `admin_${name}`, click: () => choose(name) }))),
        el("button", { class: "button small", type: "button", "data-t": "admin_refresh", click: () => choose(tab) })),
      el("div", { id: "admin-panel", class: "inner", role: "tabpanel", tabindex: 0 })));

  function move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    choose(TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length]);
    $(`admin-tab-${tab}`).focus();
  }

  /* What the service says at a path, unless another tab was chosen meanwhile or it does not answer. */
  async function read(path) {
    const asked = tab;
    show($("account-error"), "");
    try {
      const told = await get(`/v1/admin/${path}`);
      return asked === tab ? told : null;
    } catch (error) {
      show($("account-error"), error.message);
      return null;
    }
  }

  async function choose(name) {
    tab = name;
    const path = { keys: "keys", service: "state", models: "state", audit: "audit", moderation: "audit?event=blocked" }[name];
    drawTabs();
    const told = await read(path);
    if (!told) return;
    known = { name, told };
    draw();
  }

  function drawTabs() {
    for (const name of TABS) {
      $(`admin-tab-${name}`).setAttribute("aria-selected", String(name === tab));
      $(`admin-tab-${name}`).tabIndex = name === tab ? 0 : -1;
    }
    $("admin-panel").setAttribute("aria-labelledby", `admin-tab-${tab}`);
  }

  function draw() {
    for (const node of container.querySelectorAll("[data-t]")) node.textContent = t(node.dataset.t);
    drawTabs();
    if (known.told) $("admin-panel").replaceChildren(...PANELS[known.name](known.told));
  }

  async function more(told) {
    const after = await read(`audit?before=${told.data.at(-1).number}${tab === "moderation" ? "&event=blocked" : ""}`);
    if (!after) return;
    known.told = { ...after, data: [...told.data, ...after.data] };
    draw();
  }

  const PANELS = {
    keys: ({ data }) => (data.length ? [table(
      ["admin_name", "admin_state", "admin_scopes", "admin_limits", "admin_today", "admin_total", "admin_expires"].map((name) => t(name)),
      data.map((one) => [one.name, t(one.state), one.scopes.join(", "),
        [one.rate && t("admin_perMinute", { n: number(one.rate) }), one.quota && t("admin_perDay", { n: number(one.quota) }), one.models?.join(", ")].filter(Boolean).join(" · ") || t("account_none"),
        number(one.images_today), number(one.images), one.expires_at ? time(one.expires_at * 1000) : t("admin_never")]))] : [el("p", { class: "quiet" }, t("admin_nokeys"))]),
    service: ({ version, queue, workers, disk }) => [
      facts([[t("admin_version"), version], [t("admin_waiting"), number(queue.waiting)], [t("admin_computing"), number(queue.computing)],
        [t("admin_jobs"), Object.entries(queue.jobs).map(([name, count]) => `${t(name === "failed" ? "failed_jobs" : name)}: ${number(count)}`).join(" · ") || "0"],
        [t("admin_free"), `${bytes(disk.free)} / ${bytes(disk.total)}`],
        ...["database", "hosted", "gallery"].filter((name) => name in disk).map((name) => [t(`admin_${name}`), bytes(disk[name])])]),
      table(["admin_worker", "admin_device", "admin_state", "admin_restarts", "admin_memory", "admin_loaded"].map((name) => t(name)),
        workers.map((one) => [String(one.worker), one.device, t(one.ready ? "admin_ready" : "admin_down"), number(one.restarts), bytes(one.memory_bytes), one.loaded.join(", ")]))],
    models: ({ models }) => [table(["admin_model", "admin_state"].map((name) => t(name)),
      models.map((one) => [one.id, one.available ? t("admin_up") : `${t("admin_fault")}: ${one.fault}`]))],
    audit: (told) => [table(["admin_number", "admin_time", "admin_event", "admin_facts"].map((name) => t(name)),
      told.data.map((one) => [String(one.number), time(one.at), one.event, Object.entries(one.facts).map(([name, value]) => `${name}: ${value}`).join(" · ")])),
    told.has_more && el("p", { class: "below" }, el("button", { class: "button", type: "button", click: () => more(told) }, t("admin_more")))].filter(Boolean),
    moderation: (told) => (told.data.length ? PANELS.audit(told) : [el("p", { class: "quiet" }, t("admin_noBlocked"))]),
  };

  return { open: () => choose(tab), draw };
}
