// The state of the page: query, filters, view and open image. It is stored in the address, so that
// links and the back button work; uploads are stored in the browser's history only.

const OPERATOR = /^([^<>=!~]+)(>=|<=|!=|!~|=|~|<|>)(.*)$/s;
const listeners = [];

/** Limits of the server. */
export const MAX_PARTS = 15; // and the text of the search field
const MAX_FILTERS = 20;
const MAX_TEXT = 1000;

export const EMPTY = Object.freeze({
  text: "",
  parts: [],
  filters: [],
  find: "",
  view: "grid",
  image: null,
});

/** The current state. `find` is a modality, "" for the first; `parts` are {kind: "text" | "row" | "upload", value, weight}. */
export let state = EMPTY;

/**
 * Call a function with the new and the previous state after every change, and how it came about:
 * "push" or "replace" by the page, "history" by the user, "start".
 */
export function onChange(listener) {
  listeners.push(listener);
}

/** Change parts of the state; `replace` changes the entry of the history instead of adding one. */
export function update(changes, { replace = false } = {}) {
  const next = { ...state, ...changes };
  const hash = toHash(next) || location.pathname;
  if (replace) history.replaceState(next, "", hash);
  else history.pushState(next, "", hash);
  set(next, replace ? "replace" : "push");
}

/** Read the state from the address, now and when the user moves in the history. */
export function start() {
  window.addEventListener("popstate", (event) =>
    set(event.state ?? fromHash(location.hash), "history"),
  );
  set(history.state ?? fromHash(location.hash), "start");
}

/** Return whether the same images are searched for. */
export function isSameQuery(a, b) {
  const key = ({ text, parts, filters, find }) => JSON.stringify([text, parts, filters, find]);
  return key(a) === key(b);
}

/** Return whether there is something to search for. */
export const hasQuery = ({ text, parts }) => text !== "" || parts.length > 0;

/** Return the fragment of the address; empty for the empty state. */
export function toHash(next) {
  const values = new URLSearchParams();
  if (next.text) values.append("q", next.text);
  for (const { kind, value, weight } of next.parts) {
    if (kind !== "upload") values.append("part", `${weight}:${kind}:${value}`);
  }
  for (const { column, operator, value } of next.filters) {
    values.append("filter", `${escapeName(column)}${operator}${value}`);
  }
  if (next.find) values.append("find", next.find);
  if (next.view !== "grid") values.append("view", next.view);
  if (next.image !== null) values.append("image", next.image);
  const text = values.toString();
  return text && `#${text}`;
}

/** Return the state of a fragment; what cannot be read is left out. */
export function fromHash(hash) {
  const values = new URLSearchParams(hash.replace(/^#/, ""));
  const image = values.get("image");
  return {
    text: (values.get("q") ?? "").slice(0, MAX_TEXT),
    parts: values.getAll("part").map(readPart).filter(Boolean).slice(0, MAX_PARTS),
    filters: values.getAll("filter").map(readFilter).filter(Boolean).slice(0, MAX_FILTERS),
    find: (values.get("find") ?? "").slice(0, 100),
    view: values.get("view") === "map" ? "map" : "grid",
    image: image !== null && /^\d{1,15}$/.test(image) ? Number(image) : null,
  };
}

function readPart(text) {
  const [, amount, kind, value] = /^(-?[\d.]+):(text|row):(.+)$/s.exec(text) ?? [];
  const weight = Number(amount);
  if (!kind || !Number.isFinite(weight) || weight === 0) return null;
  if (kind === "text") return { kind, value: value.slice(0, MAX_TEXT), weight };
  return /^\d{1,15}$/.test(value) ? { kind, value: Number(value), weight } : null;
}

function readFilter(text) {
  const [, column, operator, value] = OPERATOR.exec(text) ?? [];
  if (!column || value === "") return null;
  try {
    return { column: decodeURIComponent(column), operator, value };
  } catch {
    return null;
  }
}

const escapeName = (name) =>
  encodeURIComponent(name).replace(/[!~]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);

function set(next, how) {
  const previous = how === "start" ? EMPTY : state;
  state = { ...EMPTY, ...next };
  for (const listener of listeners) listener(state, previous, how);
}
