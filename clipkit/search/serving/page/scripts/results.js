// The results as an even grid, page by page, and what is shown where there are none.
import { search, thumbnailUrl } from "./api.js";
import { announce, button, formatNumber, ICONS, make, one } from "./dom.js";
import { hideNotice, showNotice } from "./notice.js";
import { searchSimilar } from "./parts.js";
import { player } from "./sound.js";
import { hasQuery, isSameQuery, onChange, state, toHash, update } from "./state.js";
import { showNoResults, showStart } from "./start.js";
import { counted, whenReady } from "./status.js";

const PAGE_SIZE = 48;
const MAX_RESULTS = 96_000; // the server's largest offset is 99,000
const results = { hits: [], isComplete: true, request: null, page: null };
const listeners = [];

/** Rows of the results so far, in their order. */
export const resultRows = () => results.hits.map(({ row }) => row);

/** Call a function when the results change. */
export function onResults(listener) {
  listeners.push(listener);
}

export function startResults() {
  one("#more button").addEventListener("click", loadMore);
  // The next page is loaded before the end of this one comes into view.
  new IntersectionObserver(
    ([entry]) => {
      if (entry.isIntersecting) loadMore();
    },
    { rootMargin: "600px" },
  ).observe(one("#more"));
  onChange((next, previous) => {
    if (!isSameQuery(next, previous)) run();
  });
  run();
}

/**
 * Return the row before or after a row, or null: that of the results, of which another page is
 * loaded if needed, or of the collection if the row is no result.
 */
export async function neighbourOf(row, step) {
  const place = results.hits.findIndex((hit) => hit.row === row);
  if (place < 0) {
    const { num_images: numImages } = await whenReady();
    return row + step >= 0 && row + step < numImages ? row + step : null;
  }
  if (place + step >= results.hits.length && !results.isComplete) await loadMore();
  return results.hits[place + step]?.row ?? null;
}

/** Search anew for the query of the state. */
async function run() {
  results.request?.abort();
  results.request = null;
  hideNotice();
  one("#summary").textContent = "";
  one("#start").hidden = true;
  if (!hasQuery(state)) {
    showHits([], true);
    showStart(await whenReady(), () => !hasQuery(state));
    return;
  }
  const grid = one("#grid");
  grid.setAttribute("aria-busy", "true");
  if (!results.hits.length) showSkeleton(grid);
  one("#summary").textContent = "Searching";
  await whenReady();
  results.page = fetchPage(0);
  await results.page;
}

/** Load the next page; a second call waits for the first. */
async function loadMore() {
  if (results.isComplete) return;
  if (!results.request) results.page = fetchPage(results.hits.length);
  await results.page;
}

async function fetchPage(offset) {
  results.request?.abort();
  const controller = new AbortController();
  results.request = controller;
  try {
    const answer = await search(body(offset), controller.signal);
    if (results.request !== controller) return;
    results.request = null;
    const hits = offset ? [...results.hits, ...answer.results] : answer.results;
    const isComplete =
      answer.results.length < PAGE_SIZE ||
      hits.length >= Math.min(answer.num_candidates, MAX_RESULTS);
    showHits(hits, isComplete, offset);
    if (offset === 0) showSummary(answer);
    else announce(`${formatNumber(hits.length)} results are shown`);
  } catch (error) {
    if (error.name === "AbortError" || results.request !== controller) return;
    results.request = null;
    if (offset === 0) {
      showHits([], true);
      one("#summary").textContent = "";
    } else one("#more").hidden = true;
    showNotice(advice(error), () => fetchPage(offset));
  }
}

function body(offset) {
  const parts = state.parts.map(({ kind, value, weight }) => ({ weight, [kind]: value }));
  if (state.text) parts.unshift({ weight: 1, text: state.text });
  const wanted = state.find ? { modality: state.find } : {};
  return { parts, filters: state.filters, num_results: PAGE_SIZE, offset, ...wanted };
}

function advice(error) {
  const hasUpload = state.parts.some(({ kind }) => kind === "upload");
  if (error.status === 404 && hasUpload) {
    return "The server no longer has the uploaded file. Remove it from the query, then drop the file again.";
  }
  return error.message;
}

async function showSummary({ num_candidates: numCandidates, seconds }) {
  const { modalities } = await whenReady();
  const name = state.find || modalities[0];
  one("#summary").textContent = numCandidates
    ? `${counted(numCandidates, name)} compared in ${formatNumber(Math.max(1, Math.round(1000 * seconds)))} ms`
    : `No ${name} passes the filters`;
  if (results.hits.length === 0) showNoResults(state);
}

function showHits(hits, isComplete, offset = 0) {
  const grid = one("#grid");
  results.hits = hits;
  results.isComplete = isComplete;
  grid.removeAttribute("aria-busy");
  const cards = hits.slice(offset).map(card);
  if (offset) grid.append(...cards);
  else grid.replaceChildren(...cards);
  if (offset === 0 && grid.firstElementChild) one(".card", grid).tabIndex = 0;
  one("#more").hidden = isComplete;
  for (const listener of listeners) listener();
}

function showSkeleton(grid) {
  grid.replaceChildren(
    ...Array.from({ length: 12 }, () =>
      make(
        "li",
        { className: "cell skeleton", "aria-hidden": "true" },
        make("span", { className: "frame" }),
        make("span", { className: "caption" }),
      ),
    ),
  );
}

/** Create the item of a list for a row, with its score if it is a result. */
export function card(hit) {
  const caption = hit.caption || hit.class_name || hit.key;
  const link = make(
    "a",
    {
      className: "card",
      href: toHash({ ...state, image: hit.row }),
      "data-row": hit.row,
      tabindex: -1,
    },
    hit.has_image || !hit.has_sound
      ? frame(hit.row, "")
      : make("span", { className: "frame" }, make("span", { className: "broken" }, "Sound")),
    make("span", { className: "caption", title: caption, dir: "auto" }, caption),
  );
  if (hit.score !== undefined) {
    const unit = make("span", { className: "visually-hidden" }, " similarity");
    link.append(make("span", { className: "score" }, hit.score.toFixed(3), unit));
  }
  link.addEventListener("click", (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    link.focus();
    update({ image: hit.row });
  });
  const similar = button(
    {
      label: `More like this: ${caption}`,
      path: ICONS.similar,
      className: "icon similar",
      title: "More like this",
      tabindex: -1,
    },
    () => searchSimilar(hit.row),
  );
  const sound = hit.has_sound ? player(hit.row, caption) : null;
  return make("li", { className: "cell" }, link, similar, sound);
}

/** Create a square with the thumbnail of an image. */
export function frame(row, alt, sizePixels = 256) {
  const image = make("img", {
    src: thumbnailUrl(row, sizePixels),
    alt,
    width: sizePixels,
    height: sizePixels,
    loading: "lazy",
    decoding: "async",
  });
  const box = make("span", { className: "frame" }, image);
  image.addEventListener("load", () => {
    const ratio = image.naturalWidth / image.naturalHeight;
    // Photographs fill the square; long and small images are shown in full.
    box.classList.toggle("fill", ratio > 0.6 && ratio < 1.67);
    box.classList.add("loaded");
  });
  image.addEventListener("error", () =>
    box.replaceChildren(make("span", { className: "broken" }, "This image cannot be read.")),
  );
  return box;
}
