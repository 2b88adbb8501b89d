// Classes of the map's points: their colours, and the legend that shows one class alone.
import { all, bdi, make, one } from "./dom.js";

const NUM_COLOURS = 12;

const isClass = (label) => label !== null && label !== undefined && label >= 0;

/** Return the name of a class; empty for no class. */
export const nameOf = (label, names) => (isClass(label) ? names[label] || `class ${label}` : "");

/**
 * Give the most frequent classes a colour each, and one colour to all others. `points` are
 * {label, ...}; their `colour` is set to a number of the colours.
 */
export function colourPoints(points) {
  const counts = new Map();
  for (const { label } of points)
    if (isClass(label)) counts.set(label, (counts.get(label) ?? 0) + 1);
  const frequent = [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, NUM_COLOURS);
  const colourOf = new Map(frequent.map(([label], number) => [label, number]));
  for (const point of points) point.colour = colourOf.get(point.label) ?? frequent.length;
  const numOthers = points.filter(({ colour }) => colour === frequent.length).length;
  return { frequent, numOthers };
}

/** Show the classes; `onOnly` is called with the number of the one colour to show, or null. */
export function showLegend({ frequent, numOthers }, names, onOnly) {
  const entries = frequent.map(([label, count], number) =>
    entry(nameOf(label, names), count, `c${number}`),
  );
  if (numOthers && frequent.length) entries.push(entry("other", numOthers, "rest"));
  entries.forEach((button, number) => button.addEventListener("click", () => choose(number)));
  const choose = (number) => {
    const isOn = entries[number].getAttribute("aria-pressed") === "true";
    for (const button of entries) button.setAttribute("aria-pressed", "false");
    entries[number].setAttribute("aria-pressed", String(!isOn));
    onOnly(isOn ? null : number);
  };
  one("#legend").replaceChildren(...entries.map((button) => make("li", {}, button)));
}

function entry(name, count, swatch) {
  return make(
    "button",
    { type: "button", "aria-pressed": "false" },
    make("span", { className: `swatch ${swatch}`, "aria-hidden": "true" }),
    bdi(name),
    make("small", {}, count),
  );
}

/** Return the colours of the legend as the style sheet gives them, which knows light and dark. */
export const legendColours = () =>
  all("#legend .swatch").map((swatch) => getComputedStyle(swatch).backgroundColor);
