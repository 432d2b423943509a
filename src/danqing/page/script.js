const text = (value) => {
  const size = Math.abs(value);
  if (size && size < 1e-3) return value.toExponential(1);
  for (const [limit, unit, over] of [[1e9, "G", 1e9], [1e6, "M", 1e6], [1e4, "k", 1e3]])
    if (size >= limit) return +(value / over).toPrecision(3) + unit;
  return size < 1000 ? String(+value.toPrecision(3)) : value.toFixed(0);
};
for (const chart of document.querySelectorAll(".chart[data-points]")) {
  const data = JSON.parse(chart.dataset.points), svg = chart.querySelector(":scope > svg"), cursor = chart.querySelector(".cursor");
  const keys = [...chart.querySelectorAll(".keys b")], last = keys.map((key) => key.textContent);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), spot = (event.clientX - box.left) / box.width * 360;
    const at = data.left + (spot - 46) / 304 * (data.right - data.left);
    data.series.forEach((series, i) => {
      let best = 0;
      series.x.forEach((x, j) => { if (Math.abs(x - at) < Math.abs(series.x[best] - at)) best = j; });
      keys[i].textContent = text(series.y[best]) + " at " + text(series.x[best]);
      if (!i) { const x = 46 + (series.x[best] - data.left) / (data.right - data.left) * 304; cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); }
    });
    cursor.style.visibility = "visible";
  });
  svg.addEventListener("pointerleave", () => { keys.forEach((key, i) => { key.textContent = last[i]; }); cursor.style.visibility = "hidden"; });
}
for (const button of document.querySelectorAll("[data-copy]"))
  button.addEventListener("click", () => {
    getSelection().selectAllChildren(document.getElementById(button.dataset.copy));
    document.execCommand("copy");
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
