// Changes of the query that several parts of the page offer.
import { MAX_PARTS, state, update } from "./state.js";

/**
 * Add a part to the query. The text of the search field becomes a part as well if `keepText`, and
 * is removed otherwise; a part that is a text was that text.
 */
export function addPart(part, { keepText = true } = {}) {
  const plain =
    keepText && state.text && part.kind !== "text"
      ? [{ kind: "text", value: state.text, weight: 1 }]
      : [];
  const parts = [...state.parts, ...plain, part].slice(-MAX_PARTS);
  update({ text: "", parts, image: null });
}

/** Replace the query by one image of the collection; the filters stay. */
export function searchSimilar(row) {
  update({ text: "", parts: [{ kind: "row", value: row, weight: 1 }], image: null, view: "grid" });
  window.scrollTo(0, 0);
}
