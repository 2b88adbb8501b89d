// One row in a dialog: its image, large, or its sound; its captions, columns and labels.
import { fetchImage, fileUrl, soundUrl, thumbnailUrl } from "./api.js";
import { all, announce, bdi, button, ICONS, make, one } from "./dom.js";
import { columnName } from "./filters.js";
import { labelsPanel } from "./labels.js";
import { addPart, searchSimilar } from "./parts.js";
import { neighbourOf } from "./results.js";
import { player, playerOf } from "./sound.js";
import { onChange, state, update } from "./state.js";
import { capitalised, rowNoun, whenReady } from "./status.js";
import { isSound, previewOf } from "./upload.js";

let wasOpenedHere = false; // so that closing is a step back in the history
let request = null;

export function startDetail() {
  const dialog = one("#detail");
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    close();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) close();
  });
  dialog.addEventListener("keydown", (event) => {
    if (
      event.target.matches("input, select, textarea") ||
      event.altKey ||
      event.ctrlKey ||
      event.metaKey
    )
      return;
    if (event.key === "ArrowLeft") move(-1);
    if (event.key === "ArrowRight") move(1);
  });
  onChange((next, previous, how) => {
    if (next.image === previous.image) return;
    if (previous.image === null) wasOpenedHere = how === "push";
    if (next.image === null) hide(dialog, previous.image);
    else show(dialog, next.image);
  });
}

/** Open an uploaded image, to compare it with labels. */
export async function openUpload(id) {
  const { class_names: classNames } = await whenReady();
  const dialog = one("#detail");
  const preview = previewOf(id);
  const name = isSound(id) ? "Your sound" : "Your image";
  const side = make("div", { className: "side" }, header(name, null));
  side.append(labelsPanel({ upload: id }, classNames.length));
  const shown = isSound(id) && preview ? make("figure", {}, playerOf(preview, name)) : null;
  dialog.replaceChildren(shown ?? figure(preview, name), side);
  dialog.showModal();
}

async function show(dialog, row) {
  request?.abort();
  request = new AbortController();
  const title = `${capitalised(rowNoun())} ${row}`;
  const side = make(
    "div",
    { className: "side" },
    header(title, row),
    make("p", { className: "note" }, "Reading"),
  );
  const source = rowNoun() === "sound" ? null : fileUrl(row);
  dialog.replaceChildren(figure(source, title, thumbnailUrl(row)), side);
  if (!dialog.open) dialog.showModal();
  one(".side h2", dialog).focus();
  try {
    const [status, record] = await Promise.all([whenReady(), fetchImage(row, request.signal)]);
    if (state.image !== row) return;
    nameSteps(dialog);
    const name = nameOf(record);
    if (name === "Sound") one("figure", dialog).replaceChildren();
    one(".side h2", dialog).textContent = `${name} ${row}`;
    fill(side, row, record, status);
    one("figure img", dialog)?.setAttribute("alt", record.captions[0] ?? record.key);
    announce(`${name} ${row}: ${record.captions[0] ?? record.key}`);
  } catch (error) {
    if (error.name !== "AbortError")
      side.lastElementChild.replaceWith(make("p", { className: "failure" }, error.message));
  }
}

function nameOf(record) {
  if (record.has_image) return "Image";
  return record.has_sound ? "Sound" : capitalised(rowNoun());
}

const noCaption = (record) => `The ${nameOf(record).toLowerCase()} has no caption.`;

function hide(dialog, row) {
  request?.abort();
  if (dialog.open) dialog.close();
  one(`.card[data-row="${row}"]`)?.focus();
}

function close() {
  const dialog = one("#detail");
  if (state.image === null) dialog.close();
  else if (wasOpenedHere) history.back();
  else update({ image: null }, { replace: true });
}

async function move(step) {
  const row = state.image;
  if (row === null) return;
  const next = await neighbourOf(row, step);
  if (next === null) announce(`This is the ${step > 0 ? "last" : "first"} ${rowNoun()}`);
  else if (state.image === row) update({ image: next }, { replace: true });
}

function figure(source, alt, thumbnail = null) {
  const box = make("figure", {});
  if (!source) return box;
  const image = make("img", { src: source, alt, decoding: "async" });
  if (thumbnail) {
    image.addEventListener("error", () => {
      if (image.getAttribute("src") !== thumbnail) image.src = thumbnail;
      else box.replaceChildren(make("p", { className: "failure" }, "This image cannot be read."));
    });
  }
  box.append(image);
  return box;
}

const stepLabel = (word) => `${word} ${rowNoun()}`;

/** Name the steps again, once it is known what a row is called. */
function nameSteps(dialog) {
  for (const node of all("[data-step]", dialog)) {
    node.title = stepLabel(node.dataset.step);
    node.setAttribute("aria-label", node.title);
  }
}

function header(title, row) {
  const step = (word, path, by) =>
    button({ label: stepLabel(word), path, className: "icon", "data-step": word }, () => move(by));
  const steps =
    row === null ? [] : [step("Previous", ICONS.left, -1), step("Next", ICONS.right, 1)];
  return make(
    "header",
    {},
    make("h2", { id: "detail-title", tabindex: -1 }, title),
    ...steps,
    button({ label: "Close", path: ICONS.close, className: "icon" }, close),
  );
}

function fill(side, row, record, status) {
  const captions = record.captions.map((caption) => make("li", { dir: "auto" }, caption));
  side.lastElementChild.remove();
  if (record.class_name) side.append(make("p", { className: "class-name", dir: "auto" }, record.class_name));
  if (captions.length)
    side.append(make("ul", { className: "captions", "aria-label": "Captions" }, ...captions));
  else side.append(make("p", { className: "note" }, noCaption(record)));
  if (record.has_sound) side.append(player(row, record.captions[0] ?? record.key));
  side.append(
    make(
      "div",
      { className: "actions" },
      button({ text: `Search with this ${nameOf(record).toLowerCase()}`, className: "primary" }, () =>
        searchSimilar(row),
      ),
      button({ text: "Add to the query", className: "secondary" }, () =>
        addPart({ kind: "row", value: row, weight: 1 }),
      ),
      make(
        "a",
        {
          className: "secondary",
          href: nameOf(record) === "Sound" ? soundUrl(row) : fileUrl(row),
          target: "_blank",
          rel: "noopener",
        },
        "Open the file",
      ),
    ),
    facts(row, record),
    labelsPanel({ row }, status.class_names.length),
  );
}

function facts(row, record) {
  const { width_pixels: width, height_pixels: height } = record;
  const list = make("dl", { className: "facts" });
  const add = (name, ...value) =>
    list.append(make("div", {}, make("dt", { dir: "auto" }, name), make("dd", {}, ...value)));
  add("Key", make("code", { dir: "auto" }, record.key), copyButton(record.key));
  if (record.label !== null && !record.class_name) add("Class", record.label);
  if (width && height) add("Size", `${width} × ${height} pixels`);
  for (const [name, value] of Object.entries(record.columns)) {
    if (value !== null) add(columnName(name), bdi(asText(value)));
  }
  if (record.error) add("Error", bdi(record.error));
  add("Shard", make("code", { dir: "auto" }, record.shard));
  add("Row", row);
  return list;
}

const asText = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));

function copyButton(key) {
  return button({ label: "Copy the key", path: ICONS.copy, className: "icon small" }, async () => {
    try {
      await navigator.clipboard.writeText(key);
      announce("The key is in the clipboard");
    } catch {
      // Without permission, or over plain HTTP: select the key, so that one key press copies it.
      getSelection().selectAllChildren(one(".facts code"));
      announce("The key is selected; copy it with the keyboard");
    }
  });
}
