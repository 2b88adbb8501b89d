// What the page shows without results: examples at the start, advice where nothing was found.
import { fetchImage } from "./api.js";
import { announce, button, make, one } from "./dom.js";
import { card, frame } from "./results.js";
import { state, toHash, update } from "./state.js";
import { counted, nounOf } from "./status.js";

const NUM_SAMPLES = 24;
const NUM_EXAMPLES = 6;

/** Show what can be searched, and a sample of the collection; `isNeeded` says whether it still is. */
export function showStart(status, isNeeded) {
  if (!isNeeded()) return;
  const box = one("#start");
  const total = status.num_images;
  const kinds = status.modalities.length ? status.modalities : ["image"];
  const dropped = kinds.map((name) => `${name === "image" ? "an" : "a"} ${name}`).join(" or ");
  const combined = ["Texts", ...kinds.map((name) => `${name}s`)];
  box.replaceChildren(
    make("h2", {}, counted(total, nounOf(status))),
    make(
      "p",
      { className: "lead" },
      `Describe what you look for, or drop ${dropped} anywhere on this page. ` +
        `${combined.slice(0, -1).join(", ")} and ${combined.at(-1)} can be combined, ` +
        "each with a weight, and with things to leave out.",
    ),
  );
  const names = examples(status.class_names);
  if (names.length) {
    box.append(
      make(
        "ul",
        { className: "examples", "aria-label": "Examples of texts" },
        ...names.map((name) =>
          make(
            "li",
            {},
            button({ text: name, className: "secondary" }, () =>
              update({ text: name, image: null }),
            ),
          ),
        ),
      ),
    );
  }
  if (total) box.append(kinds.join() === "image" ? samples(total) : mixedSamples(total, isNeeded));
  if (!total)
    box.append(
      make(
        "p",
        {},
        "The collection is empty. Embed data with `clipkit embed`, then start the server again.",
      ),
    );
  box.hidden = false;
}

/** Show why there are no results, and what to change. */
export function showNoResults({ filters }) {
  const box = one("#start");
  const advice = filters.length
    ? "Nothing passes all filters. Remove one, or widen its limits."
    : "The query has no results. Change the text, or a weight.";
  box.replaceChildren(make("h2", {}, "No results"), make("p", { className: "lead" }, advice));
  if (filters.length) {
    box.append(
      button({ text: "Remove all filters", className: "secondary" }, () => update({ filters: [] })),
    );
  }
  box.hidden = false;
  announce(`No results. ${advice}`);
}

function examples(names) {
  const usable = names.filter((name) => name && name.length < 40);
  const step = Math.max(1, Math.floor(usable.length / NUM_EXAMPLES));
  return usable.filter((_, index) => index % step === 0).slice(0, NUM_EXAMPLES);
}

/** Return rows that are spread evenly over the collection. */
function spreadRows(total) {
  const count = Math.min(total, NUM_SAMPLES);
  return Array.from({ length: count }, (_, index) =>
    Math.floor(((2 * index + 1) * total) / (2 * count)),
  );
}

const listOf = (...items) =>
  make("ul", { className: "grid samples", "aria-label": "A sample of the collection" }, ...items);

/** Return a list that is filled with samples, of which some have no image, once they are known. */
function mixedSamples(total, isNeeded) {
  const list = listOf();
  Promise.all(spreadRows(total).map((row) => fetchImage(row)))
    .then((records) => {
      if (!isNeeded()) return;
      const shown = records.filter((record) => record.has_image || record.has_sound);
      list.append(
        ...shown.map((record) => card({ ...record, caption: record.captions[0] ?? null })),
      );
      if (list.firstElementChild) one(".card", list).tabIndex = 0;
    })
    .catch(() => list.remove()); // the page can be used without them
  return list;
}

function samples(total) {
  const rows = spreadRows(total);
  return listOf(
    ...rows.map((row) => {
      const link = make(
        "a",
        {
          className: "card",
          href: toHash({ ...state, image: row }),
          "data-row": row,
          tabindex: row === rows[0] ? 0 : -1,
        },
        frame(row, `Image ${row}`),
      );
      link.addEventListener("click", (event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey) return;
        event.preventDefault();
        link.focus();
        update({ image: row });
      });
      return make("li", { className: "cell" }, link);
    }),
  );
}
