// The search field and the parts of a combined query, each with its weight.
import { thumbnailUrl } from "./api.js";
import { openUpload } from "./detail.js";
import { button, ICONS, isolated, make, one } from "./dom.js";
import { addPart } from "./parts.js";
import { onChange, state, update } from "./state.js";
import { whenReady } from "./status.js";
import { isSound, previewOf } from "./upload.js";

const MAX_WEIGHT = 2;
const STEP = 0.1;
let described = "image";

export function startQuery() {
  const field = one("#text");
  one("#search").addEventListener("submit", (event) => {
    event.preventDefault();
    submit(field);
  });
  one("#combine").addEventListener("click", () => {
    addPart({ kind: "text", value: field.value.trim(), weight: 1 });
    field.focus();
  });
  field.addEventListener("input", () => showCombine(field));
  field.addEventListener("search", () => {
    if (field.value === "" && state.text) update({ text: "", image: null });
  });
  onChange((next, previous) => {
    if (next.text !== previous.text || next.parts !== previous.parts) field.value = next.text;
    if (next.parts !== previous.parts) showParts(next.parts);
    showCombine(field);
  });
  showModality();
}

function submit(field) {
  const text = field.value.trim();
  // A text next to other parts becomes one of them; alone it stays in the field.
  if (text && state.parts.length) addPart({ kind: "text", value: text, weight: 1 });
  else if (text !== state.text) update({ text, image: null });
}

function showCombine(field) {
  one("#combine").hidden = field.value.trim() === "" || state.parts.length > 0;
}

function showParts(parts) {
  const list = one("#parts");
  const focused = list.contains(document.activeElement)
    ? document.activeElement.dataset.control
    : null;
  list.hidden = parts.length === 0;
  list.replaceChildren(...parts.map(chip));
  showPlaceholder();
  // Chips are created anew; the keyboard stays where it was.
  if (focused) (one(`[data-control="${CSS.escape(focused)}"]`, list) ?? one("#text")).focus();
}

function showPlaceholder() {
  const article = described === "image" ? "an" : "a";
  one("#text").placeholder = state.parts.length
    ? "Add a text to the query"
    : `Describe ${article} ${described}`;
}

/** Name what the collection has, once that is known. */
async function showModality() {
  const { modalities } = await whenReady();
  described = modalities[0];
  showPlaceholder();
  one("#main h1").textContent = `Search in a collection of ${modalities.join("s and ")}s`;
  one("#pick").setAttribute("aria-label", `Search with ${modalities.map(fileOf).join(" or ")}`);
}

const fileOf = (name) => `${name === "image" ? "an" : "a"} ${name} file`;

function nameOf({ kind, value }) {
  if (kind === "text") return `“${isolated(value)}”`;
  if (kind === "row") return `${described} ${value}`;
  return isSound(value) ? "your sound" : "your image";
}

function chip(part, index) {
  const name = nameOf(part);
  const isWithout = part.weight < 0;
  const change = (weight) =>
    update({ parts: state.parts.map((other, n) => (n === index ? { ...other, weight } : other)) });
  const sign = button(
    {
      text: isWithout ? "without" : "with",
      className: "sign",
      "aria-pressed": String(isWithout),
      "aria-label": `Without ${name}`,
      "data-control": `sign-${index}`,
    },
    () => change(-part.weight),
  );
  const output = make("output", { className: "weight" }, Math.abs(part.weight).toFixed(1));
  const slider = make("input", {
    type: "range",
    min: STEP,
    max: MAX_WEIGHT,
    step: STEP,
    value: Math.abs(part.weight),
    "aria-label": `Weight of ${name}`,
    "data-control": `weight-${index}`,
  });
  slider.addEventListener("input", () => {
    output.textContent = Number(slider.value).toFixed(1);
  });
  slider.addEventListener("change", () => change((isWithout ? -1 : 1) * Number(slider.value)));
  const remove = button(
    {
      label: `Remove ${name}`,
      path: ICONS.close,
      className: "icon small",
      "data-control": `remove-${index}`,
    },
    () => update({ parts: state.parts.filter((_, n) => n !== index), image: null }),
  );
  return make(
    "li",
    { className: isWithout ? "chip without" : "chip" },
    sign,
    subject(part, name),
    slider,
    output,
    remove,
  );
}

function subject({ kind, value }, name) {
  if (kind === "text") return make("span", { className: "chip-text", title: value, dir: "auto" }, value);
  const source = kind === "row" ? thumbnailUrl(value, 64) : previewOf(value);
  const noun = kind === "row" ? described : isSound(value) ? "sound" : "image";
  const image =
    source && noun === "image"
      ? make("img", { src: source, alt: "", width: 36, height: 36 })
      : make("span", {}, noun);
  const open = () => (kind === "row" ? update({ image: value }) : openUpload(value));
  const node = make(
    "button",
    { type: "button", className: "chip-image", "aria-label": `Open ${name}` },
    image,
  );
  node.addEventListener("click", open);
  const labels = button(
    { text: "labels", className: "sign plain", "aria-label": `Labels of ${name}` },
    open,
  );
  return make("span", { className: "chip-subject" }, node, labels);
}
