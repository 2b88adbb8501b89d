// The map of the collection: similar images are near each other.
import { fetchMap, thumbnailUrl } from "./api.js";
import { Camera } from "./camera.js";
import { all, announce, make, one } from "./dom.js";
import { Drawing } from "./drawing.js";
import { watchGestures } from "./gestures.js";
import { showNotice } from "./notice.js";
import { onResults, resultRows } from "./results.js";
import { onChange, update } from "./state.js";
import { whenReady } from "./status.js";
import { onThemeChange } from "./theme.js";

const NUM_POINTS = 5000;
const NUM_COLOURS = 12;
const NEAR_PIXELS = 18;
const STEP = 1.4;
const PAN_PIXELS = 60;
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const scene = { points: [], colours: [], ink: "", ground: "", camera: null, only: null, marked: new Set(), selected: null };
let plane, drawing, names, loading;

export function startMap() {
  plane = one("#plane");
  drawing = new Drawing(one("#canvas"), redraw);
  watchGestures(plane, {
    move: (dx, dy) => { hideTip(); scene.camera?.move(dx, dy); redraw(); },
    zoom: (factor, x, y) => { hideTip(); scene.camera?.zoomAt(factor, x, y); redraw(); },
    point: (x, y) => select(nearest(x, y)),
    leave: () => { if (document.activeElement !== plane) select(null); },
    click: (x, y) => { const point = nearest(x, y); if (point) update({ image: point.row }); },
  });
  plane.addEventListener("keydown", onKey);
  plane.addEventListener("blur", () => select(null));
  for (const button of all("[data-zoom]")) button.addEventListener("click", () => onZoomButton(button.dataset.zoom));
  new ResizeObserver(resize).observe(plane);
  onThemeChange(() => { readColours(); redraw(); });
  onResults(() => { scene.marked = new Set(resultRows()); redraw(); });
  onChange((next) => show(next.view === "map"));
}

function show(isMap) {
  if (!isMap) return hideTip();
  loading ??= load();
  return resize();
}

async function load() {
  const text = one("#plane-text");
  try {
    const status = await whenReady();
    text.textContent = "Placing the images; the first time this takes some seconds";
    const { points } = await fetchMap(NUM_POINTS);
    names = status.class_names;
    setPoints(points);
    text.textContent = points.length ? "" : "No image of the collection has an embedding.";
    text.hidden = points.length > 0;
    if (points.length < status.num_images) announce(`${points.length} of ${status.num_images} images are on the map`);
  } catch (error) {
    text.textContent = "The map could not be loaded.";
    showNotice(error.message, () => { loading = load(); });
  }
}

/** Give the most frequent classes a colour each, and one colour to all others. */
function setPoints(points) {
  const counts = new Map();
  for (const [, , , label] of points) if (isClass(label)) counts.set(label, (counts.get(label) ?? 0) + 1);
  const frequent = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, NUM_COLOURS).map(([label]) => label);
  const colourOf = new Map(frequent.map((label, number) => [label, number]));
  const rest = frequent.length;
  scene.points = points.map(([x, y, row, label]) => ({ x, y, row, label, colour: colourOf.get(label) ?? rest }));
  const hasRest = scene.points.some(({ colour }) => colour === rest);
  const entries = frequent.map((label) => [nameOf(label), counts.get(label)]);
  if (hasRest && frequent.length) entries.push(["other", scene.points.filter(({ colour }) => colour === rest).length]);
  one("#legend").replaceChildren(...entries.map(([name, count], number) => legendEntry(name, count, number, number === rest)));
  readColours();
  scene.camera = null;
  resize();
}

/** Return the farthest x and y of the points. */
const reach = () => ["x", "y"].map((axis) => Math.max(0.1, ...scene.points.map((point) => Math.abs(point[axis]))));

const isClass = (label) => label !== null && label !== undefined && label >= 0;
const nameOf = (label) => (isClass(label) ? names?.[label] || `class ${label}` : "");

function legendEntry(name, count, number, isRest) {
  const button = make("button", { type: "button", "aria-pressed": "false" },
    make("span", { className: `swatch ${isRest ? "rest" : `c${number}`}`, "aria-hidden": "true" }), name, make("small", {}, count));
  button.addEventListener("click", () => {
    const isOn = scene.only === number;
    for (const other of all("#legend button")) other.setAttribute("aria-pressed", "false");
    scene.only = isOn ? null : number;
    button.setAttribute("aria-pressed", String(!isOn));
    redraw();
  });
  return make("li", {}, button);
}

/** The colours are those of the style sheet, which knows light and dark. */
function readColours() {
  const colourOf = (node, property = "backgroundColor") => getComputedStyle(node)[property];
  scene.colours = all("#legend .swatch").map((swatch) => colourOf(swatch));
  scene.ink = colourOf(plane, "color");
  scene.ground = colourOf(plane);
  if (!scene.colours.length) scene.colours = [colourOf(plane, "outlineColor")];
}

function resize() {
  const { width, height } = plane.getBoundingClientRect();
  if (!width || !height) return;
  if (scene.camera) scene.camera.resize(width, height);
  else scene.camera = new Camera(width, height, reach());
  drawing.resize(width, height);
  redraw();
}

let isWaiting = false;
function redraw() {
  if (isWaiting || !scene.camera || one("#map-view").hidden) return;
  isWaiting = true;
  requestAnimationFrame(() => {
    isWaiting = false;
    drawing.draw(scene);
  });
}

const isShown = (point) => scene.only === null || point.colour === scene.only;

function nearest(x, y) {
  let [best, least] = [null, NEAR_PIXELS ** 2];
  for (const point of scene.points) {
    if (!isShown(point)) continue;
    const [left, top] = scene.camera.toScreen(point.x, point.y);
    const distance = (left - x) ** 2 + (top - y) ** 2;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

/** Return the next point inside a quarter of the plane that opens in a direction. */
function nextPoint(wayX, wayY) {
  const from = scene.selected;
  if (!from) return nearestToMiddle();
  let [best, least] = [from, Infinity];
  for (const point of scene.points) {
    const [dx, dy] = [point.x - from.x, point.y - from.y];
    const along = dx * wayX + dy * wayY;
    if (point === from || !isShown(point) || along <= 0 || along < Math.abs(dx * wayY - dy * wayX)) continue;
    const distance = dx * dx + dy * dy;
    if (distance < least) [best, least] = [point, distance];
  }
  return best;
}

function nearestToMiddle() {
  const { camera, points } = scene;
  const distance = (point) => {
    const [x, y] = camera.toScreen(point.x, point.y);
    return Math.hypot(x - camera.width / 2, y - camera.height / 2);
  };
  return points.filter(isShown).reduce((best, point) => (!best || distance(point) < distance(best) ? point : best), null);
}

function onKey(event) {
  const { camera } = scene;
  if (!camera || event.altKey || event.ctrlKey || event.metaKey) return;
  const middle = [camera.width / 2, camera.height / 2];
  if (event.key in WAYS) {
    const [wayX, wayY] = WAYS[event.key];
    if (event.shiftKey) camera.move(-wayX * PAN_PIXELS, wayY * PAN_PIXELS);
    else choose(nextPoint(wayX, wayY));
  } else if (event.key === "+" || event.key === "=") camera.zoomAt(STEP, ...middle);
  else if (event.key === "-") camera.zoomAt(1 / STEP, ...middle);
  else if (event.key === "0") camera.showAll();
  else if (event.key === "Enter" && scene.selected) update({ image: scene.selected.row });
  else if (event.key === "Escape") select(null);
  else return;
  event.preventDefault();
  redraw();
}

function onZoomButton(kind) {
  const { camera } = scene;
  if (!camera) return;
  if (kind === "all") camera.showAll();
  else camera.zoomAt(kind === "in" ? STEP : 1 / STEP, camera.width / 2, camera.height / 2);
  redraw();
}

/** Select a point with the keyboard: it is moved into sight and announced. */
function choose(point) {
  if (!point) return;
  scene.camera.reveal(point.x, point.y);
  select(point);
  announce([`Image ${point.row}`, nameOf(point.label)].filter(Boolean).join(", "));
}

function select(point) {
  plane.classList.toggle("at-point", point !== null);
  if (point === scene.selected) return;
  scene.selected = point;
  redraw();
  if (point) showTip(point);
  else hideTip();
}

function showTip(point) {
  const tip = one("#tip");
  one("img", tip).src = thumbnailUrl(point.row, 160);
  one("p", tip).textContent = nameOf(point.label);
  tip.hidden = false;
  const [x, y] = scene.camera.toScreen(point.x, point.y);
  const box = plane.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const limit = (value, most) => Math.max(8, Math.min(value, most));
  const left = limit(box.left + x + 16, document.documentElement.clientWidth - width - 8);
  const top = limit(box.top + y - height - 12, window.innerHeight - height - 8);
  tip.style.transform = `translate(${left}px, ${top}px)`;
}

function hideTip() {
  one("#tip").hidden = true;
}
