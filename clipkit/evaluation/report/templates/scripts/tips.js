// One tooltip for all elements.
const tip = one("#tip");
tip.style.left = tip.style.top = "0";
const place = (x, y) => {
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 14), root.clientWidth - width - 8);
  const top = y - height - 12 < 8 ? y + 16 : y - height - 12;
  tip.style.transform = `translate(${left}px, ${top}px)`;
};
const hide = () => { tip.hidden = true; };
for (const cell of all("[data-tip]")) {
  cell.addEventListener("pointermove", (event) => {
    tip.textContent = cell.dataset.tip;
    place(event.clientX, event.clientY);
  });
  cell.addEventListener("pointerleave", hide);
}

// A group of elements with tooltips is one stop of the Tab key; the arrow keys walk inside it.
for (const group of all("[data-walk]")) {
  const cells = all("[data-tip]", group);
  const columns = Number(group.dataset.walk) || cells.length;
  let at = 0;
  const leave = () => { cells[at]?.classList.remove("at"); hide(); };
  const show = (index) => {
    leave();
    at = Math.min(Math.max(index, 0), cells.length - 1);
    cells[at].classList.add("at");
    const box = cells[at].getBoundingClientRect();
    tip.textContent = cells[at].dataset.tip;
    place(box.left + box.width / 2, box.top);
  };
  if (!cells.length) continue;
  group.tabIndex = 0;
  group.addEventListener("focus", () => { if (group.matches(":focus-visible")) show(at); });
  group.addEventListener("blur", leave);
  group.addEventListener("keydown", (event) => {
    const moves = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
      Home: 0, End: cells.length - 1,
    };
    if (event.key === "Escape") leave();
    if (!(event.key in moves)) return;
    event.preventDefault();
    if (moves[event.key] >= 0 && moves[event.key] < cells.length) show(moves[event.key]);
  });
}
