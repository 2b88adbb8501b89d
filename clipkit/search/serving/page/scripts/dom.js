// Nodes of the document. Values from data are always text or attributes, never markup.

export const one = (selector, within = document) => within.querySelector(selector);
export const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/** Create an element with a class, attributes and children; a child that is no node is a text. */
export function make(tag, { className = "", ...attributes } = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined)
      node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined).map(asNode));
  return node;
}

/** Create a text of the data, whose direction of writing changes the order of no text next to it. */
export const bdi = (text) => make("bdi", {}, text);

/** Return a text of the data for places without markup, such as options, enclosed in isolates. */
export const isolated = (text) => `\u2068${text}\u2069`;

const asNode = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));

/** Create an icon of strokes on a square of 20 units. */
export function icon(path) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "path");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

export const ICONS = {
  close: "m5 5 10 10M15 5 5 15",
  left: "m12 4-6 6 6 6",
  right: "m8 4 6 6-6 6",
  similar: "M4 4h8v8H4zM8 15.5v.5h8V8h-.5",
  copy: "M7 7h9v9H7zM4 13V4h9",
};

/** Create a button; `label` is its name where it shows an icon alone. */
export function button(
  { text = "", label = "", path = "", className = "quiet", ...attributes },
  onClick,
) {
  const node = make("button", {
    type: "button",
    className,
    "aria-label": label || null,
    title: label || null,
    ...attributes,
  });
  if (path) node.append(icon(path));
  if (text) node.append(make("span", { dir: "auto" }, text));
  node.addEventListener("click", onClick);
  return node;
}

const numbers = new Intl.NumberFormat("en");
export const formatNumber = (value) => numbers.format(value);

/** Announce a text to screen readers. */
export function announce(text) {
  one("#live").textContent = text;
}
