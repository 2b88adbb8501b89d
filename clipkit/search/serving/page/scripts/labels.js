// Image to labels: how well each label fits an image, as a probability among them.
import { fetchLabels } from "./api.js";
import { announce, button, make } from "./dom.js";

const NUM_SHOWN = 10;
const percent = new Intl.NumberFormat("en", {
  style: "percent",
  minimumFractionDigits: 1,
  maximumFractionDigits: 1,
});

/** Create the panel that compares an image, {row} or {upload}, with labels. */
export function labelsPanel(image, numClasses = 0) {
  const field = make("input", {
    type: "text",
    dir: "auto",
    id: "labels",
    maxlength: 2000,
    spellcheck: "false",
    placeholder: numClasses ? `all ${numClasses} classes` : "a dog, a cat, a bird",
  });
  const list = make("ol", { className: "label-scores" });
  const note = make("p", { className: "note", role: "status" });
  const form = make(
    "form",
    {},
    make("label", { for: "labels" }, "Labels, separated by commas"),
    make(
      "div",
      { className: "row" },
      field,
      button({ text: "Compare", className: "secondary", type: "submit" }, () => {}),
    ),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const labels = field.value
      .split(",")
      .map((label) => label.trim())
      .filter(Boolean);
    compare(image, labels, list, note);
  });
  return make(
    "section",
    { className: "labels", "aria-label": "Labels" },
    make("h3", {}, "Labels"),
    form,
    note,
    list,
  );
}

async function compare(image, labels, list, note) {
  note.textContent = "Comparing";
  list.replaceChildren();
  try {
    const answer = await fetchLabels(image, labels.length ? [...new Set(labels)] : null);
    const best = [...answer.labels].sort((a, b) => b.score - a.score);
    list.replaceChildren(...best.slice(0, NUM_SHOWN).map(line));
    note.textContent =
      best.length > NUM_SHOWN ? `The ${NUM_SHOWN} best of ${best.length} labels` : "";
    if (best.length) announce(`Best label: ${best[0].name}, ${percent.format(best[0].score)}`);
  } catch (error) {
    note.textContent = error.message;
  }
}

function line({ name, score }) {
  const bar = make("span", { className: "fill-bar", "aria-hidden": "true" });
  bar.style.inlineSize = `${100 * score}%`;
  return make(
    "li",
    {},
    make("span", { className: "label-name", dir: "auto" }, name),
    make("span", { className: "label-score" }, percent.format(score)),
    make("span", { className: "track", "aria-hidden": "true" }, bar),
  );
}
