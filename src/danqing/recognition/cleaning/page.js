const bar = document.getElementById("list");
if (bar) {
  const { columns, rows } = JSON.parse(bar.dataset.list), decisions = new Map(rows.map(([row, decision]) => [String(row), decision]));
  const said = bar.querySelector("span"), plural = (n) => n.toLocaleString("en") + (n === 1 ? " image" : " images");
  const show = () => {
    const count = (wanted) => [...decisions.values()].filter((decision) => decision === wanted).length;
    said.textContent = plural(count("drop")) + " dropped" + (count("relabel") ? ", " + count("relabel") + " relabelled" : "");
    for (const card of document.querySelectorAll("[data-row]")) {
      const decision = decisions.get(card.dataset.row);
      card.className = "card " + decision;
      for (const button of card.querySelectorAll("[data-set]")) button.setAttribute("aria-pressed", button.dataset.set === decision);
    }
  };
  for (const button of document.querySelectorAll("[data-set]"))
    button.addEventListener("click", () => { decisions.set(button.closest("[data-row]").dataset.row, button.dataset.set); show(); });
  for (const button of document.querySelectorAll("[data-all]"))
    button.addEventListener("click", () => {
      for (const card of button.closest("section").querySelectorAll("[data-row]")) decisions.set(card.dataset.row, button.dataset.all);
      show();
    });
  const cell = (value) => (/[",\n\r]/.test(value) ? '"' + value.replaceAll('"', '""') + '"' : value);
  bar.querySelector("button").addEventListener("click", () => {
    const lines = [columns, ...rows.map(([row, , ...rest]) => [decisions.get(String(row)), ...rest])];
    const text = lines.map((line) => line.map(cell).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = bar.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  show();
}
