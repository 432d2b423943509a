for (const stage of document.querySelectorAll(".stage")) {
  const slider = stage.querySelector("input");
  const show = () => {
    stage.style.setProperty("--at", slider.value + "%");
    slider.setAttribute("aria-valuetext", slider.value + "% before, " + (100 - slider.value) + "% after");
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    slider.value = (event.clientX - box.left) / box.width * 100;
    show();
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    stage.setPointerCapture(event.pointerId);
    slider.focus({ preventScroll: true });
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) follow(event); });
  slider.addEventListener("input", show);
  slider.hidden = false;
  stage.classList.add("live");
  show();
}
