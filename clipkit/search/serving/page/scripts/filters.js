// Filters on columns: ranges of numbers, classes, and texts that contain something.
import { fetchColumn } from "./api.js";
import { bdi, button, formatNumber, ICONS, isolated, make, one } from "./dom.js";
import { onChange, state, update } from "./state.js";
import { whenReady } from "./status.js";

const NAMES = {
  captions: "Captions",
  image_size_bytes: "File size (bytes)",
  image_type: "File type",
  key: "Key",
  label: "Class",
  width_pixels: "Width (pixels)",
  height_pixels: "Height (pixels)",
};
const HIDDEN = /^(image_sha256|image_signature|error)$|_offset_bytes$|_error$/;
const SIGNS = {
  ">=": "≥",
  "<=": "≤",
  "=": "is",
  "~": "contains",
  "!=": "is not",
  "<": "<",
  ">": ">",
};
const isNumber = (type) => /^(u?int|float|double|half|decimal)/.test(type);

let status = null;
let isBuilt = false;

/** Name of a column that people read. */
export const columnName = (name) => NAMES[name] ?? name.replace(/^json:/, "");

export async function startFilters() {
  const [toggle, panel] = [one("#filters-button"), one("#filters")];
  toggle.addEventListener("click", async () => {
    const isOpen = toggle.getAttribute("aria-expanded") === "true";
    toggle.setAttribute("aria-expanded", String(!isOpen));
    panel.hidden = isOpen;
    if (!isOpen) await build(panel);
  });
  panel.addEventListener("submit", (event) => event.preventDefault());
  panel.addEventListener("change", () => update({ filters: read(panel), image: null }));
  onChange((next, previous) => {
    if (next.filters === previous.filters) return;
    showActive(next.filters);
    if (isBuilt) write(panel, next.filters);
  });
  status = await whenReady();
  showActive(state.filters);
}

async function build(panel) {
  if (isBuilt) return;
  status = await whenReady();
  if (isBuilt) return;
  isBuilt = true;
  const columns = status.columns.filter(({ name }) => !HIDDEN.test(name));
  panel.replaceChildren(...columns.map((column) => fieldOf(column)));
  panel.append(
    button({ text: "Remove all filters", className: "quiet" }, () =>
      update({ filters: [], image: null }),
    ),
  );
  write(panel, state.filters);
}

function fieldOf({ name, type }) {
  if (name === "label" && status.num_classes > 0) return choiceOf(name);
  if (isNumber(type)) return rangeOf(name);
  if (type === "bool") return choiceOf(name);
  return textOf(name);
}

const control = (tag, name, operator, attributes) =>
  make(tag, { "data-column": name, "data-operator": operator, ...attributes });

function rangeOf(name) {
  const title = columnName(name);
  const low = control("input", name, ">=", {
    type: "number",
    step: "any",
    "aria-label": `${title}, at least`,
    placeholder: "least",
  });
  const high = control("input", name, "<=", {
    type: "number",
    step: "any",
    "aria-label": `${title}, at most`,
    placeholder: "most",
  });
  fetchColumn(name)
    .then((column) => {
      if (typeof column.minimum === "number") low.placeholder = String(column.minimum);
      if (typeof column.maximum === "number") high.placeholder = String(column.maximum);
    })
    .catch(() => {}); // without limits the fields still work
  return make(
    "fieldset",
    {},
    make("legend", { dir: "auto" }, title),
    make("div", { className: "range" }, low, make("span", {}, "to"), high),
  );
}

function choiceOf(name) {
  const select = control("select", name, "=", {});
  const fill = (values) => {
    const counts = new Map(
      values
        .filter(({ value }) => value !== null)
        .map(({ value, count }) => [String(value), count]),
    );
    const names = name === "label" ? status.class_names.map((_, number) => String(number)) : [];
    const options = [...new Set([...names, ...counts.keys()])].map((value) => {
      const text = isolated(name === "label" ? className(value) : value);
      return make(
        "option",
        { value },
        counts.has(value) ? `${text} (${formatNumber(counts.get(value))})` : text,
      );
    });
    select.replaceChildren(make("option", { value: "" }, "all"), ...options);
    write(one("#filters"), state.filters);
  };
  fill([]);
  fetchColumn(name)
    .then(({ values }) => fill(values ?? []))
    .catch(() => {}); // without counts
  return make("label", {}, make("span", { dir: "auto" }, columnName(name)), select);
}

const className = (number) => status?.class_names[number] || `class ${number}`;

function textOf(name) {
  const input = control("input", name, "~", {
    type: "text",
    dir: "auto",
    placeholder: "contains",
    maxlength: 200,
    spellcheck: "false",
  });
  return make("label", {}, make("span", { dir: "auto" }, columnName(name)), input);
}

const controls = (panel) => [...panel.querySelectorAll("[data-column]")];

/** Return the filters of the controls, and those of the address that no control shows. */
function read(panel) {
  const shown = controls(panel);
  const has = ({ column, operator }) =>
    shown.some(({ dataset }) => dataset.column === column && dataset.operator === operator);
  const values = shown.filter((node) => node.value.trim() !== "");
  return [
    ...state.filters.filter((filter) => !has(filter)),
    ...values.map(({ dataset, value }) => ({
      column: dataset.column,
      operator: dataset.operator,
      value: value.trim(),
    })),
  ];
}

function write(panel, filters) {
  for (const node of controls(panel)) {
    const { column, operator } = node.dataset;
    const filter = filters.find((other) => other.column === column && other.operator === operator);
    const value = filter ? String(filter.value) : "";
    if (node.value !== value && node !== document.activeElement) node.value = value;
    else if (!filter) node.value = "";
  }
}

function showActive(filters) {
  const list = one("#active-filters");
  list.hidden = filters.length === 0;
  list.replaceChildren(
    ...filters.map((filter, index) => {
      const text = describe(filter);
      const remove = button(
        { label: `Remove the filter ${text}`, path: ICONS.close, className: "icon small" },
        () => {
          update({ filters: state.filters.filter((_, n) => n !== index), image: null });
          one("#filters-button").focus();
        },
      );
      return make(
        "li",
        { className: "chip" },
        make("span", { className: "chip-text", title: text }, ...describedBy(filter)),
        remove,
      );
    }),
  );
}

const valueOf = ({ column, value }) =>
  column === "label" && /^\d+$/.test(value) ? className(value) : value;
const signOf = ({ operator }) => ` ${SIGNS[operator] ?? operator} `;

const describedBy = (filter) => [bdi(columnName(filter.column)), signOf(filter), bdi(valueOf(filter))];
const describe = (filter) =>
  isolated(columnName(filter.column)) + signOf(filter) + isolated(valueOf(filter));
