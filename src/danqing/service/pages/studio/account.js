/* Who is signed in, what their key has used, and what administrators see. */
import { get, send } from "./api.js";
import { $, el, show } from "./dom.js";
import { addWords, locale, number, t } from "./words.js";
import words from "./words/account.js";

addWords(words);

export function mount(container, context) {
  let used = null, admin = null;
  const { account } = context;
  container.append(
    el("div", { class: "lead" }, el("h1", { "data-t": "account_title" }), account.local && el("p", { "data-t": "account_local" })),
    el("div", { class: "error", id: "account-error", role: "alert", hidden: true }),
    !account.local && el("section", { class: "panel", id: "account-who" }),
    !account.local && el("section", { class: "wide", "aria-labelledby": "account-used" },
      el("h2", { id: "account-used", "data-t": "account_used" }), el("div", { class: "panel", id: "account-days" })),
    context.may("admin") && el("section", { class: "wide", id: "account-admin" }));

  function draw() {
    if (account.local || !used) return;
    const today = used.data.find((one) => one.day === new Date().toISOString().slice(0, 10))?.images ?? 0;
    const facts = [
      [t("account_scopes"), account.scopes.join(", ")],
      [t("account_models"), account.models?.join(", ") ?? t("account_all")],
      [t("account_rate"), account.rate === null ? t("account_none") : number(account.rate)],
      [t("account_quota"), account.quota === null ? `${number(today)} (${t("account_none")})`
        : el("span", {}, t("account_of", { used: number(today), quota: number(account.quota) }), " ",
          el("meter", { min: 0, max: account.quota, value: today, "aria-label": t("account_quota") }))],
    ];
    $("account-who").replaceChildren(el("h2", {}, t("account_who", { name: account.name })),
      el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
      el("p", { class: "below" }, el("button", { class: "button", type: "button", click: signOut }, t("account_out"))));
    $("account-days").replaceChildren(used.data.length ? chart(used.data) : el("p", { class: "quiet" }, t("account_nothing")));
  }

  async function signOut() {
    await send("DELETE", "/v1/session");
    location.reload();
  }

  async function open() {
    show($("account-error"), "");
    try {
      if (!account.local) used = await get("/v1/usage?days=30");
      draw();
      if (context.may("admin")) {
        admin ??= (await import("./admin.js")).mount($("account-admin"), context);
        await admin.open();
      }
    } catch (error) {
      show($("account-error"), error.message);
    }
  }

  return { open, draw: () => { draw(); admin?.draw(); } };
}

/* A table of days, with the pictures of each as a bar. */
function chart(days) {
  const most = Math.max(1, ...days.map((one) => one.images));
  const date = new Intl.DateTimeFormat(locale(), { month: "short", day: "numeric", timeZone: "UTC" });
  return el("div", { class: "scroll" }, el("table", { class: "grid" },
    el("thead", {}, el("tr", {}, ...["account_day", "account_images", "account_requests"].map((name) => el("th", { scope: "col" }, t(name))))),
    el("tbody", {}, ...days.map((one) => {
      const bar = el("span", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${Math.round((160 * one.images) / most)}px`;
      return el("tr", {}, el("th", { scope: "row" }, date.format(new Date(`${one.day}T00:00:00Z`))),
        el("td", {}, bar, number(one.images)), el("td", {}, number(one.requests)));
    }))));
}
