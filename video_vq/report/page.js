"use strict";
// Films play while they are on the screen, unless paused or the reader prefers little motion.
const films = [...document.querySelectorAll("video")];
const button = document.getElementById("play");
const speed = document.getElementById("speed");
const visible = new Set();
const SHORTEST = 1; // minimum duration of a loop at speed 1, in seconds
const SLOWEST = 0.0625; // lowest playback rate that browsers support
let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

function pace(film) {
  if (!film.duration) return;
  const rate = Number(speed.value) * Math.min(1, film.duration / SHORTEST);
  film.defaultPlaybackRate = film.playbackRate = Math.max(SLOWEST, rate);
}

function apply() {
  for (const film of films) {
    if (playing && visible.has(film)) film.play().catch(() => {});
    else film.pause();
  }
  button.textContent = playing ? "Pause" : "Play";
}

if (films.length) {
  document.getElementById("player").hidden = false;
  button.addEventListener("click", () => { playing = !playing; apply(); });
  speed.addEventListener("change", () => films.forEach(pace));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) visible.add(entry.target);
      else visible.delete(entry.target);
    }
    apply();
  });
  for (const film of films) {
    pace(film);
    film.addEventListener("loadedmetadata", () => pace(film));
    watcher.observe(film);
  }
}

// Charts show the values at the pointer; the arrow keys move along the chart.
const values = document.getElementById("values");
const SHOWN = 8; // maximum number of lines whose values are shown

function nearest(points, x) {
  let best = 0;
  points.forEach((point, index) => {
    if (Math.abs(point[0] - x) < Math.abs(points[best][0] - x)) best = index;
  });
  return best;
}

function line(text, colour) {
  const row = document.createElement("div");
  row.textContent = text;
  if (colour !== undefined) row.className = `dot c${colour % 6}`;
  return row;
}

function watch(chart) {
  const data = JSON.parse(chart.dataset.chart);
  const drawn = [...chart.querySelectorAll(".line")].map((path) =>
    path.getAttribute("points").split(" ").map((point) => point.split(",").map(Number)));
  const here = document.createElementNS("http://www.w3.org/2000/svg", "line");
  here.setAttribute("class", "here");
  here.setAttribute("y1", "26");
  here.setAttribute("y2", "146");
  let place = null;

  function show(x) {
    const found = drawn.map((points) => nearest(points, x));
    const across = drawn[0][found[0]][0];
    place = found[0];
    here.setAttribute("x1", across);
    here.setAttribute("x2", across);
    chart.append(here);
    const rows = data.lines.slice(0, SHOWN).map((each, number) =>
      line(`${each.name ? `${each.name} ` : ""}${each.y[found[number]]}`,
        data.lines.length > 1 ? number : undefined));
    if (data.lines.length > SHOWN) rows.push(line(`and ${data.lines.length - SHOWN} more`));
    values.replaceChildren(line(`${data.x} ${data.lines[0].x[place]}`), ...rows);
    values.hidden = false;
    const box = chart.getBoundingClientRect();
    const right = box.left + (across / 320) * box.width + 12;
    const fits = right + values.offsetWidth < document.documentElement.clientWidth;
    const left = fits ? right : right - 24 - values.offsetWidth;
    values.style.left = `${Math.max(4, left) + scrollX}px`;
    values.style.top = `${box.top + scrollY + box.height * 0.2}px`;
  }

  function hide() {
    here.remove();
    values.hidden = true;
    place = null;
  }

  const follow = (event) => {
    const box = chart.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width) * 320);
  };
  chart.addEventListener("pointermove", follow);
  chart.addEventListener("pointerdown", follow);
  chart.addEventListener("pointerleave", hide);
  chart.addEventListener("blur", hide);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const last = drawn[0].length - 1;
    const next = place === null ? (step > 0 ? 0 : last) : place + step;
    show(drawn[0][Math.min(last, Math.max(0, next))][0]);
    event.preventDefault();
  });
}

document.querySelectorAll("svg.chart").forEach(watch);
