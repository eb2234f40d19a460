"use strict";
// Films play while they are on the screen, unless paused or the reader prefers little motion.
const films = [...document.querySelectorAll("video")];
const button = document.getElementById("play");
const visible = new Set();
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function apply() {
  for (const film of films) {
    if (playing && visible.has(film)) film.play().catch(() => {});
    else film.pause();
  }
  button.textContent = playing ? "Pause" : "Play";
}

if (films.length) {
  button.hidden = false;
  button.addEventListener("click", () => { playing = !playing; apply(); });
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) visible.add(entry.target);
      else visible.delete(entry.target);
    }
    apply();
  });
  for (const film of films) watcher.observe(film);
}
