// Keys of the page: the search field, the results, the views and the list of the keys.
import { all, one } from "./dom.js";
import { state, update } from "./state.js";

const FIELDS = "input, select, textarea, [contenteditable]";
const MOVES = new Set(["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"]);

export function startKeyboard() {
  const dialog = one("#shortcuts");
  one("#help").addEventListener("click", () => dialog.showModal());
  one("[data-close]", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || one("dialog[open]")) return;
    if (event.target.matches(FIELDS)) return leaveField(event);
    const card = event.target.closest(".cell")?.querySelector(".card");
    if (card && MOVES.has(event.key)) return moveFocus(event, card);
    const action = ACTIONS[event.key];
    if (!action) return undefined;
    event.preventDefault();
    return action();
  });
}

const ACTIONS = {
  "/": () => {
    one("#text").focus();
    one("#text").select();
  },
  "?": () => one("#shortcuts").showModal(),
  m: () => update({ view: state.view === "map" ? "grid" : "map" }),
};

function leaveField(event) {
  if (event.key !== "ArrowDown" || event.target !== one("#text")) return;
  const first = visibleCards()[0];
  if (!first) return;
  event.preventDefault();
  focusCard(first);
}

const visibleCards = () => all("#grid-view .card").filter((card) => card.offsetParent !== null);

/** Move by one card, or to the nearest card of the next line. */
function moveFocus(event, card) {
  event.preventDefault();
  const cards = visibleCards();
  const place = cards.indexOf(card);
  const { top } = card.getBoundingClientRect();
  const columns = cards.filter(
    (other) => Math.abs(other.getBoundingClientRect().top - top) < 2,
  ).length;
  const steps = {
    ArrowLeft: -1,
    ArrowRight: 1,
    ArrowUp: -columns,
    ArrowDown: columns,
    Home: -place,
    End: cards.length - 1 - place,
  };
  const next = cards[place + steps[event.key]] ?? (event.key === "ArrowDown" ? cards.at(-1) : null);
  if (next) focusCard(next);
  else if (event.key === "ArrowUp") one("#text").focus();
}

/** Make a card the one stop of the Tab key among the cards, and focus it. */
function focusCard(card) {
  for (const other of all(".card", card.closest("ul"))) other.tabIndex = -1;
  card.tabIndex = 0;
  card.focus();
  card.scrollIntoView({ block: "nearest" });
}
