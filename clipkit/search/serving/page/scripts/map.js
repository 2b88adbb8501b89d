// The map of the collection: similar images are near each other.
import { fetchMap, thumbnailUrl } from "./api.js";
import { Camera } from "./camera.js";
import { all, announce, one } from "./dom.js";
import { Drawing } from "./drawing.js";
import { watchGestures } from "./gestures.js";
import { colourPoints, legendColours, nameOf, showLegend } from "./legend.js";
import { nextPoint, pointAt } from "./near.js";
import { showNotice } from "./notice.js";
import { onResults, resultRows } from "./results.js";
import { onChange, update } from "./state.js";
import { whenReady } from "./status.js";
import { onThemeChange } from "./theme.js";

const NUM_POINTS = 5000;
const MAX_REPEATS = 20;
const PAUSE_MS = 2000;
const STEP = 1.4;
const PAN_PIXELS = 60;
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const scene = {
  points: [],
  colours: [],
  ink: "",
  ground: "",
  camera: null,
  only: null,
  marked: new Set(),
  selected: null,
};
let plane, drawing, names, loading;

export function startMap() {
  plane = one("#plane");
  drawing = new Drawing(one("#canvas"), redraw);
  watchGestures(plane, {
    move: (dx, dy) => {
      select(null);
      scene.camera?.move(dx, dy);
      redraw();
    },
    zoom: (factor, x, y) => {
      select(null);
      scene.camera?.zoomAt(factor, x, y);
      redraw();
    },
    point: (x, y) => select(nearest(x, y)),
    leave: () => {
      if (document.activeElement !== plane) select(null);
    },
    click: (x, y) => {
      const point = nearest(x, y);
      if (point) update({ image: point.row });
    },
  });
  plane.addEventListener("keydown", onKey);
  plane.addEventListener("blur", () => select(null));
  for (const button of all("[data-zoom]"))
    button.addEventListener("click", () => onZoomButton(button.dataset.zoom));
  new ResizeObserver(resize).observe(plane);
  onThemeChange(() => {
    readColours();
    redraw();
  });
  onResults(() => {
    scene.marked = new Set(resultRows());
    redraw();
  });
  onChange((next) => show(next.view === "map"));
}

function show(isMap) {
  if (!isMap) return select(null);
  loading ??= load();
  return resize();
}

async function load() {
  const text = one("#plane-text");
  try {
    const status = await whenReady();
    if (!status.modalities.includes("image")) {
      text.textContent = "The map shows images, of which the collection has no embeddings.";
      return;
    }
    text.textContent = "Placing the images; the first time this takes some seconds";
    const { points } = await placedPoints();
    names = status.class_names;
    setPoints(points);
    text.textContent = points.length ? "" : "No image of the collection has an embedding.";
    text.hidden = points.length > 0;
    if (points.length < status.num_images)
      announce(`${points.length} of ${status.num_images} images are on the map`);
  } catch (error) {
    text.textContent = "The map could not be loaded.";
    showNotice(error.message, () => {
      loading = load();
    });
  }
}

/** Return the points; the server computes them to their end, also beyond the limit of an answer. */
async function placedPoints() {
  for (let repeat = 1; ; repeat += 1) {
    try {
      return await fetchMap(NUM_POINTS);
    } catch (error) {
      if (error.status !== 503 || repeat === MAX_REPEATS) throw error;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
}

function setPoints(places) {
  scene.points = places.map(([x, y, row, label]) => ({ x, y, row, label, colour: 0 }));
  showLegend(colourPoints(scene.points), names, (only) => {
    scene.only = only;
    redraw();
  });
  readColours();
  scene.camera = null;
  resize();
}

/** Return the farthest x and y of the points. */
const reach = () =>
  ["x", "y"].map((axis) => Math.max(0.1, ...scene.points.map((point) => Math.abs(point[axis]))));

/** Read the colours again, which are others in the light and in the dark. */
function readColours() {
  const { color, backgroundColor, outlineColor } = getComputedStyle(plane);
  const colours = legendColours();
  scene.colours = colours.length ? colours : [outlineColor];
  [scene.ink, scene.ground] = [color, backgroundColor];
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

/** Points that are not hidden by the legend. */
const shownPoints = () =>
  scene.points.filter(({ colour }) => scene.only === null || colour === scene.only);

const nearest = (x, y) => (scene.camera ? pointAt(shownPoints(), scene.camera, x, y) : null);

function stepTo(way) {
  const { camera, selected } = scene;
  if (selected) return nextPoint(shownPoints(), selected, way);
  return pointAt(shownPoints(), camera, camera.width / 2, camera.height / 2, Infinity);
}

function onKey(event) {
  const { camera } = scene;
  if (!camera || event.altKey || event.ctrlKey || event.metaKey) return;
  const middle = [camera.width / 2, camera.height / 2];
  if (event.key in WAYS) {
    const [wayX, wayY] = WAYS[event.key];
    if (event.shiftKey) camera.move(-wayX * PAN_PIXELS, wayY * PAN_PIXELS);
    else choose(stepTo(WAYS[event.key]));
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
  announce([`Image ${point.row}`, nameOf(point.label, names)].filter(Boolean).join(", "));
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
  one("p", tip).textContent = nameOf(point.label, names);
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
