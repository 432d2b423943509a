for (const figure of document.querySelectorAll(".frames")) {
  const images = [...figure.querySelectorAll("img")], slider = figure.querySelector("input");
  if (!slider) continue;
  const caption = figure.querySelector("output"), play = figure.querySelector("button");
  let timer = null;
  const show = () => {
    images.forEach((image, i) => image.classList.toggle("shown", i === +slider.value));
    caption.textContent = images[+slider.value].alt;
    slider.setAttribute("aria-valuetext", caption.textContent);
  };
  const stop = () => { clearInterval(timer); timer = null; play.textContent = "Play"; };
  const forward = () => { slider.value = +slider.value + 1; show(); if (+slider.value === images.length - 1) stop(); };
  slider.addEventListener("input", () => { stop(); show(); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (+slider.value === images.length - 1) { slider.value = 0; show(); }
    play.textContent = "Pause";
    timer = setInterval(forward, 500);
  });
  figure.querySelector(".steps").hidden = false;
}
